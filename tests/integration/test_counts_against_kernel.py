"""Real programs behave as if unprobed, and we count exactly what the kernel's uprobes count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.copies import PrivateCopy, private_copy, real_program
from tests.support.elf_tools import file_offset, functions
from tests.support.oracle import kernel_uprobes, require_tracefs
from tests.support.probed import run_plain, run_probed

_SQL = """
create table t(a integer primary key, b text, c real);
with recursive n(i) as (select 1 union all select i+1 from n where i < 300)
  insert into t select i, 'row ' || (i * 7919 % 1000), i / 3.0 from n;
create index i on t(b);
select b, count(*), round(avg(c), 3) from t where b like '%7%' group by b order by b desc;
select group_concat(a, ',') from (select a from t order by c desc limit 50);
pragma integrity_check;
"""
_PYTHON = """
import json, re, textwrap
words = [str(i * i) for i in range(300)]
print(json.dumps({w: len(w) for w in words}, sort_keys=True)[:200])
print(re.sub('[0-4]', 'x', ' '.join(words))[:200])
raise SystemExit(3)
"""
_PERL = r"""
my %h; $h{$_ % 17} .= "$_," for 1..400;
print join("\n", map { "$_=$h{$_}" } sort { $a <=> $b } keys %h), "\n";
my $t = "abc" x 50; $t =~ s/b(c)/$1$1/g; print $t, "\n"; exit 4;
"""
_BASH = """
for i in $(seq 1 40); do echo "$((i * 37 % 11)) line $i"; done |
    sort -n | uniq -c | gzip -c | gzip -dc
x=$(printf '%s\\n' a b c | tr a-c x-z | wc -c); echo "$x"
(exit 5)
"""


@dataclass(frozen=True)
class Scenario:
    """A command, and the functions to count in the copies of its files."""

    program: str
    arguments: Callable[[Path], list[str]]
    functions: dict[str, list[str]]
    """By module: "" is the program itself."""
    stdin: bytes = b""
    follow_forks: bool = False


_LINES = "".join(f"{i * 7919 % 1009} some words {i}\n" for i in range(1500)).encode()

SCENARIOS = [
    Scenario(
        "sort",
        lambda _: ["--parallel=1", "-k2", "-r"],
        {"libc": ["malloc", "free", "realloc", "exit", "__libc_early_init", "setlocale", "getenv"]},
        stdin=_LINES,
    ),
    Scenario(
        "gzip",
        lambda _: ["-9", "-c", "-n"],
        {"libc": ["read", "write", "free", "malloc", "exit", "__libc_start_main", "sigaction"]},
        stdin=_LINES * 10,
    ),
    Scenario(
        "sqlite3",
        lambda _: [":memory:", _SQL],
        {
            "libsqlite3": [
                "sqlite3_step",
                "sqlite3_column_text",
                "sqlite3_prepare_v2",
                "sqlite3_malloc64",
                "sqlite3_free",
                "sqlite3_str_vappendf",
            ],
            "libc": ["malloc", "free", "exit"],
        },
    ),
    Scenario(
        "python3",
        lambda _: ["-S", "-c", _PYTHON],
        {
            "": ["PyDict_SetItem", "PyList_Append", "PyUnicode_New", "PyErr_SetString"],
            "libc": ["exit", "getenv", "read"],
        },
    ),
    Scenario(
        "openssl",
        lambda _: [
            "enc",
            "-aes-256-cbc",
            "-pbkdf2",
            "-iter",
            "40",
            "-S",
            "0011223344556677",
            "-k",
            "secret",
        ],
        {
            "libcrypto": [
                "CRYPTO_malloc",
                "CRYPTO_free",
                "EVP_CipherUpdate",
                "EVP_DigestUpdate",
                "BIO_write",
                "OPENSSL_cleanse",
            ],
            "libc": ["malloc", "exit"],
        },
        stdin=_LINES,
    ),
    Scenario(
        "perl",
        lambda _: ["-e", _PERL],
        {
            "": ["Perl_sv_setsv_flags", "Perl_newSVpvn", "Perl_hv_common", "Perl_sv_catpvn_flags"],
            "libc": ["malloc", "free", "write"],
        },
    ),
    Scenario(
        "bash",
        lambda _: ["--norc", "-c", _BASH],
        {"libc": ["fork", "execve", "malloc", "free", "write", "pipe", "dup2", "exit", "_exit"]},
        follow_forks=True,
    ),
]


def _copy(scenario: Scenario, folder: Path) -> PrivateCopy:
    program = real_program(scenario.program)
    stems = tuple(f"{module}." for module in scenario.functions if module)
    copy = private_copy(program, folder, *stems, copy_program="" in scenario.functions)
    if scenario.program == "python3":
        home = program.parent.parent
        return PrivateCopy(
            copy.program, copy.libraries, {**copy.environment, "PYTHONHOME": str(home)}
        )
    return copy


def _places(scenario: Scenario, copy: PrivateCopy) -> dict[str, tuple[Path, int]]:
    """SPEC to file and offset, of those functions that these builds have."""
    places = {}
    for module, names in scenario.functions.items():
        path = copy.program
        if module:
            path = next(
                p for soname, p in copy.libraries.items() if soname.startswith(f"{module}.")
            )
        known = functions(path)
        for name in names:
            if name in known and not known[name].is_ifunc:
                spec = f"{module or path}:{name}"
                places[spec] = (path, file_offset(path, known[name].address))
    return places


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.program))
def test_output_and_status_are_the_programs_own_and_counts_are_the_kernels(
    scenario: Scenario, tmp_path: Path
) -> None:
    # GIVEN private copies of a real program and its libraries
    copy = _copy(scenario, tmp_path / "copy")
    argv = [str(copy.program), *scenario.arguments(tmp_path)]
    places = _places(scenario, copy)
    assert len(places) >= 3

    # WHEN it runs by itself, and with our probes
    plain = run_plain(argv, env=copy.environment, stdin=scenario.stdin)
    probed = run_probed(
        argv,
        list(places),
        env=copy.environment,
        stdin=scenario.stdin,
        follow_forks=scenario.follow_forks,
    )

    # THEN nobody can tell the two apart, and nothing was missed
    assert probed.outcome == plain
    assert probed.ended == "exited"
    assert not any(probed.missed.values())

    # AND the kernel's own uprobes count the same, each and every one
    with kernel_uprobes(places) as kernel_hits:
        observed = run_plain(argv, env=copy.environment, stdin=scenario.stdin)
        expected = kernel_hits()
    assert observed == plain
    assert probed.hits == expected
    assert sum(expected.values()) > 0


@pytest.mark.soak
@pytest.mark.parametrize("mechanism", ["auto", "step"])
def test_every_function_of_libc_at_once_counts_as_the_kernel_does(
    mechanism: str, tmp_path: Path
) -> None:
    # GIVEN a copy of libc, and a probe on each function that it exports
    require_tracefs()
    copy = private_copy(real_program("sort"), tmp_path / "copy", "libc.", copy_program=False)
    libc = next(iter(copy.libraries.values()))
    by_address: dict[int, str] = {}
    for name, function in sorted(functions(libc).items()):
        if not function.is_ifunc and function.size > 0:
            by_address.setdefault(function.address, name)
    places = {f"libc:{name}": (libc, file_offset(libc, at)) for at, name in by_address.items()}
    argv = [str(copy.program), "--parallel=1", "-r"]

    # WHEN it runs under the kernel's probes, and under ours
    with kernel_uprobes(places) as kernel_hits:
        plain = run_plain(argv, env=copy.environment, stdin=_LINES)
        expected = kernel_hits()
    probed = run_probed(argv, list(places), env=copy.environment, stdin=_LINES, mechanism=mechanism)

    # THEN all counts are the same
    assert probed.outcome == plain
    assert {k: v for k, v in probed.hits.items() if v != expected[k]} == {}
