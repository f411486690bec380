"""A probe on every instruction of many functions at once changes nothing but the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.build import build_target
from tests.support.copies import libraries_of, private_copy, real_program
from tests.support.elf_tools import functions, instruction_addresses
from tests.support.probed import run_plain, run_probed
from tests.support.target import parse_report

_LARGEST = 500
"""Bytes in a function; larger ones cost time and bring no new kinds of instruction."""

MECHANISMS = ["auto", "boost", "step"]


@dataclass(frozen=True)
class Scenario:
    """A command and library functions that it uses, or could."""

    program: str
    arguments: Callable[[], list[str]]
    library: str
    functions: str
    stdin: bytes = b""


SCENARIOS = [
    Scenario(
        "sort",
        lambda: ["--parallel=1", "-k2n"],
        "libc",
        """malloc free realloc calloc setlocale getenv exit atexit __cxa_atexit fwrite_unlocked
        strtol strtoul qsort qsort_r bsearch bindtextdomain textdomain fclose fflush_unlocked
        fileno open read write close lseek posix_fadvise sigaction sigaddset sigemptyset
        sigismember sigprocmask nl_langinfo localeconv mbrtowc wcrtomb __overflow __uflow
        fflush setvbuf fputs_unlocked error getrlimit sysconf sched_getaffinity strerror
        strcoll strxfrm memrchr tolower toupper isalpha __ctype_b_loc __ctype_toupper_loc
        __errno_location raise abort mkstemp64 getopt_long pthread_mutex_lock
        pthread_mutex_unlock pthread_mutex_init pthread_cond_init pthread_cond_signal
        dcgettext fread_unlocked fopen64 fdopen hasmntopt strdup strndup asprintf vfprintf
        __fpending __freading clearerr_unlocked ferror_unlocked sbrk brk""",
        stdin=b"".join(b"x %d y\n" % (i * 7919 % 101) for i in range(60)),
    ),
    Scenario(
        "sqlite3",
        lambda: [
            ":memory:",
            """create table t(a,b); insert into t values(1,'x'),(2,'yy'),(3,null);
            select a*2, upper(b), typeof(b) from t where a > 1 order by b desc;""",
        ],
        "libsqlite3",
        """sqlite3_step sqlite3_reset sqlite3_finalize sqlite3_prepare_v2 sqlite3_column_text
        sqlite3_column_type sqlite3_column_count sqlite3_column_name sqlite3_column_int
        sqlite3_column_bytes sqlite3_value_text sqlite3_value_type sqlite3_value_int
        sqlite3_value_bytes sqlite3_value_int64 sqlite3_malloc sqlite3_malloc64 sqlite3_free
        sqlite3_realloc sqlite3_msize sqlite3_mprintf sqlite3_vmprintf sqlite3_snprintf
        sqlite3_str_vappendf sqlite3_str_append sqlite3_str_appendf sqlite3_str_new
        sqlite3_str_finish sqlite3_str_reset sqlite3_result_text sqlite3_result_int
        sqlite3_result_error sqlite3_result_null sqlite3_exec sqlite3_complete sqlite3_errmsg
        sqlite3_errcode sqlite3_extended_errcode sqlite3_open sqlite3_open_v2 sqlite3_close
        sqlite3_config sqlite3_initialize sqlite3_create_function sqlite3_create_collation
        sqlite3_db_config sqlite3_busy_timeout sqlite3_changes sqlite3_total_changes
        sqlite3_stmt_readonly sqlite3_stmt_isexplain sqlite3_sql sqlite3_stricmp
        sqlite3_strnicmp sqlite3_strglob sqlite3_strlike sqlite3_vfs_find sqlite3_vfs_register
        sqlite3_randomness sqlite3_get_autocommit sqlite3_bind_text sqlite3_bind_int
        sqlite3_mutex_enter sqlite3_mutex_leave sqlite3_status64 sqlite3_user_data
        sqlite3_context_db_handle sqlite3_aggregate_context sqlite3_uri_parameter""",
    ),
    Scenario(
        "openssl",
        lambda: ["enc", "-base64"],
        "libcrypto",
        """CRYPTO_malloc CRYPTO_zalloc CRYPTO_free CRYPTO_realloc CRYPTO_strdup CRYPTO_memdup
        OPENSSL_sk_new OPENSSL_sk_push OPENSSL_sk_num OPENSSL_sk_value OPENSSL_sk_free
        OPENSSL_sk_pop_free OPENSSL_sk_find OPENSSL_sk_insert OPENSSL_sk_sort
        OPENSSL_sk_new_null OPENSSL_sk_set_cmp_func OPENSSL_init_crypto OPENSSL_cleanup
        OPENSSL_cleanse ERR_set_mark ERR_pop_to_mark ERR_clear_error ERR_clear_last_mark
        ERR_new ERR_set_debug ERR_set_error ERR_peek_error BIO_new BIO_free BIO_free_all
        BIO_write BIO_read BIO_ctrl BIO_puts BIO_printf BIO_push BIO_pop BIO_next BIO_set_flags
        BIO_clear_flags BIO_test_flags BIO_copy_next_retry BIO_get_data BIO_set_data BIO_set_init
        BIO_f_base64 BIO_s_file EVP_EncodeInit EVP_EncodeUpdate EVP_EncodeFinal
        EVP_EncodeBlock EVP_ENCODE_CTX_new EVP_ENCODE_CTX_free OBJ_NAME_add OBJ_NAME_get
        OBJ_NAME_do_all CONF_modules_load_file CONF_get1_default_config_file NCONF_new
        NCONF_load NCONF_free NCONF_get_string ossl_safe_getenv CRYPTO_THREAD_run_once
        CRYPTO_THREAD_lock_new CRYPTO_THREAD_write_lock CRYPTO_THREAD_read_lock
        CRYPTO_THREAD_unlock CRYPTO_THREAD_lock_free CRYPTO_get_ex_new_index
        CRYPTO_new_ex_data CRYPTO_free_ex_data""",
        stdin=b"sixteen bytes, or thereabouts: forty-odd in all\n",
    ),
]


def _specs(library: Path, module: str, names: list[str]) -> tuple[list[str], int]:
    """A SPEC for each instruction of those functions that this build has, and their number."""
    known = functions(library)
    addresses: set[int] = set()
    chosen = [
        known[name]
        for name in names
        if name in known and not known[name].is_ifunc and known[name].size <= _LARGEST
    ]
    for function in chosen:
        addresses.update(instruction_addresses(library, function))
    return [f"{module}:{address:#x}" for address in sorted(addresses)], len(chosen)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.program))
def test_every_instruction_of_fifty_functions_probed_at_once_leaves_the_output_as_it_was(
    scenario: Scenario, mechanism: str, tmp_path: Path
) -> None:
    # GIVEN a program, and every instruction of at least fifty functions of a library of its
    program = real_program(scenario.program)
    copy = private_copy(program, tmp_path / "copy", f"{scenario.library}.", copy_program=False)
    library = next(
        path
        for soname, path in libraries_of(program).items()
        if soname.startswith(scenario.library)
    )
    specs, count = _specs(library, scenario.library, scenario.functions.split())
    assert count >= 50
    argv = [str(program), *scenario.arguments()]
    plain = run_plain(argv, env=copy.environment, stdin=scenario.stdin)

    # WHEN all are probed with one mechanism
    probed = run_probed(
        argv,
        specs,
        env=copy.environment,
        stdin=scenario.stdin,
        mechanism=mechanism,
        allow_refusals=True,
    )

    # THEN the program does what it does, and nearly nothing had to be refused
    assert probed.outcome == plain
    assert not any(probed.missed.values())
    assert sum(hits > 0 for hits in probed.hits.values()) > 300
    assert len(probed.refused) <= len(specs) // 200, probed.refused[:5]


@pytest.mark.parametrize("mechanism", ["auto", "emulate", "boost", "step"])
def test_each_kind_of_instruction_leaves_registers_flags_and_red_zone_as_if_unprobed(
    mechanism: str,
) -> None:
    # GIVEN a program that runs one instruction of each kind from known states
    program = build_target("instructions.c")
    plain = run_plain([program, "6"])
    assert plain.status == 0
    sites = [name for name in parse_report(plain.stdout.decode()) if name.startswith("site_")]

    # WHEN each of these instructions is probed
    probed = run_probed([program, "6"], sites, mechanism=mechanism)

    # THEN the states that follow are the same to the bit, and each execution was counted
    assert probed.outcome.stdout.decode().splitlines() == plain.stdout.decode().splitlines()
    assert probed.outcome == plain
    assert probed.hits == dict.fromkeys(sites, 6)


def test_a_trap_on_every_instruction_of_hand_written_code_changes_nothing() -> None:
    # GIVEN functions that set up, change and save all registers, and the stack pointer
    program = build_target("instructions.c")
    plain = run_plain([program, "2"])
    specs = [
        f"{program}:{address:#x}"
        for function in functions(program).values()
        if function.name.startswith("case_") or function.name == "transfers"
        for address in instruction_addresses(program, function)
    ]

    # WHEN all are probed
    probed = run_probed([program, "2"], specs, allow_refusals=True)

    # THEN its own account of its registers is the same
    assert probed.outcome == plain
    assert len(probed.refused) == 0, probed.refused[:5]
