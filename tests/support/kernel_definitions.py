"""Deterministic runs of real programs, and definitions of what to record of them.

The definitions cover every form and type of fetcharg, at entries and at returns, and filters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.copies import PrivateCopy
from tests.support.elf_tools import file_offset, functions
from tests.support.kernel_events import Planted

__all__ = ["SCENARIOS", "Scenario", "offset_of"]


def offset_of(path: Path, function: str) -> int:
    """Where in the file the function begins; `entry` is the first instruction of a program."""
    if function == "entry":
        return file_offset(path, int.from_bytes(path.read_bytes()[24:32], "little"))
    return file_offset(path, functions(path)[function].address)


@dataclass(frozen=True)
class Scenario:
    """A program's run, and the definitions to plant in private copies of its files."""

    program: str
    arguments: Sequence[str]
    """INPUT in them is the path of a file of lines."""
    libraries: Sequence[str]
    text: str
    """A definition a line, in the kernel's notation, and ` if FILTER` where it has one. {M:F} is
    the place of function F of module M. Indented lines continue the one before."""

    @property
    def lines(self) -> list[str]:
        """The definitions, those with a filter first: a --filter belongs to each -e before it
        that has none yet."""
        joined = re.sub(r"\n +", " ", self.text.strip())
        lines = [line for line in joined.splitlines() if not line.startswith("#")]
        return sorted(lines, key=lambda line: " if " not in line)

    def probes(self, copy: PrivateCopy, group: str) -> list[Planted]:
        """The definitions with paths and offsets in them."""
        paths = {soname.split(".")[0]: path for soname, path in copy.libraries.items()}
        paths[self.program] = copy.program

        def place(match: re.Match[str]) -> str:
            path = paths[match[1]]
            return f"{path}:{offset_of(path, match[2]):#x}"

        planned = []
        for line in self.lines:
            definition, _, condition = line.partition(" if ")
            definition = definition.replace(":GROUP/", f":{group}/", 1)
            definition = re.sub(r"\{(\w+):(\w+)\}", place, definition)
            planned.append(Planted(definition, condition or None))
        return planned


# More than the kernel keeps of a string is in the last statement.
_SQL = (
    "create table t(a integer primary key, b text, c real);"
    " insert into t values(1, printf('%d rows', 30), 1.5), (2, 'two', -2.25), (300000, null, 0);"
    " select b, upper(b), length(b), abs(c) from t where b like '%o%' order by b desc;"
    " select group_concat(a, ',') from t;"
    f" select length('{'long ' * 1000}');"
)
_PYTHON_CODE = """
class Point:
    x = 2
print(repr([1, 'two', (3.5, {'four': -4})]))
print(str(300 * 300), getattr(Point, 'x'), int('123456789012345678901234567890') % 997)
try:
    {}['nothing']
except KeyError as error:
    print(repr(error))
"""

_GZIP = Scenario(
    "gzip",
    ("-9", "-n", "-c", "INPUT"),
    ("libc",),
    r"""
# The program's first instruction: the stack is as the kernel made it.
p:GROUP/stack {gzip:entry} argc=$stack0:u32 argv0=+0($stack1):string third=$stack3
    option=+0($stack2):ustring word=+0x18($stack):x64 top=$stack comm=$comm
# Linux maps programs that may be anywhere at 0x555555554000 without randomisation.
p:GROUP/memory {gzip:entry} magic=@0x555555554000:x32 letters=@0x555555554001:char[3]
    file=@+1:char[3] bytes=@+0:x8[16] class=@+4:u8 nowhere=@0x10:x64
    not_ours=@0xffffffff81000000:x8
p:GROUP/constants {gzip:entry} number=\1 hex=\0x1f:x16 minus=\-5:s8 octal=\017:u32
p:GROUP/registers {gzip:entry} %ax %bx:u8 %cx:x16 %dx %si:s32 %di:x8 %bp %sp %ip %flags:x32
    %cs:u16 %ss:u16 %r8 %r9 %r10 %r11 %r12 %r13 %r14 %r15 %orig_ax:s64
p:GROUP/bare {gzip:entry}
p:GROUP/getopt {libc:getopt_long} argc=%di:s32 first=+0(+8(%si)):string argv=+0(%si):string[3]
    user_argv=+8(%si):ustring[2] options=+0(%dx):string long=+u0(+u0(%cx)):ustring
    has=+8(%cx):s32 next=+40(%cx):u32
r:GROUP/getopt_back {libc:getopt_long} option=$retval:char code=$retval:s32 $comm \7:u8
p:GROUP/open {libc:openat} dir=%di:s32 path=+0(%si):string flags=%dx:x32 pair=+0(%si):x16[2]
    head=+0(%si):char
p:GROUP/open_return {libc:openat}%return fd=$retval:s32 %ax:x64
p:GROUP/read {libc:read} fd=%di:u8 buffer=%si size=%dx:u64 size16=%dx:u16 size8=%dx:s8
r:GROUP/read_back {libc:read} $retval:s64
p:GROUP/write {libc:write} fd=%di:s64 magic=+0(%si):x8[10] le32=+0(%si):u32 le64=+2(%si):s64
    low=+0(%si):b4@0/8 flags=+3(%si):b3@1/8 wide=+0(%si):b13@7/32 big=+0(%si):b33@20/64
    before=-8(+8(%sp)):x8 low_size=%dx:b5@3/16 nibbles=+0(%si):b4@4/8[3]
r:GROUP/write_back {libc:write} written=$retval:u16 word=$stack0:x64 top=$stack
p:GROUP/close {libc:close} fd=%di
p:GROUP/sigaction {libc:sigaction} signal=%di:u32 handler=+0(%si) flags=+136(%si):x32
    mask=+8(%si):x64[2]
r:GROUP/sigaction_back {libc:sigaction} $retval:s32
p:GROUP/free {libc:free} %di
p:GROUP/sigaddset {libc:sigaddset} set=+0(%di):x64 signal=%si:s32
p:GROUP/getenv {libc:getenv} +0(%di):string
r:GROUP/getenv_back {libc:getenv} value=+0($retval):string
p:GROUP/exit {libc:exit} status=%di:s32 comm=$comm
""",
)
_SORT = Scenario(
    "sort",
    ("--parallel=1", "-k2", "-r", "-o", "INPUT.sorted", "INPUT"),
    ("libc",),
    r"""
p:GROUP/setlocale {libc:setlocale} category=%di:s32 locale=+0(%si):string
r:GROUP/setlocale_back {libc:setlocale} +0($retval):string
p:GROUP/domain {libc:textdomain} name=+0(%di):string letters=+0(%di):char[9]
p:GROUP/bind {libc:bindtextdomain} domain=+0(%di):string folder=+0(%si):ustring
r:GROUP/bind_back {libc:bindtextdomain} text=+0($retval):string first=+0($retval):char
p:GROUP/signals {libc:sigaction} signal=%di:u32 new=%si:x64 if signal > 13 && new == 0
p:GROUP/signals_or {libc:sigaction} s=%di:s32 if (s == 1 || s == 2) || !(s < 20)
p:GROUP/signals_mask {libc:sigaction} s=%di:u8 t=%di:x8 if s & 8 && t != 0xd
p:GROUP/negative {libc:sigaction} minus=\-3:s8 s=%di:u64 if minus < -2 && s >= 15
p:GROUP/fadvise {libc:posix_fadvise} fd=%di:s32 offset=%si:s64 size=%dx:s64 advice=%cx:u8
r:GROUP/fread_back {libc:fread_unlocked} bytes=$retval:u64
p:GROUP/fwrite {libc:fwrite_unlocked} start=+0(%di):char[6] size=%dx:u32 unit=%si:u16
    count=%dx:s16 words=+0(%di):x32[2] longs=+0(%di):u64[1] signed=+0(%di):s8[4]
p:GROUP/long_lines {libc:fwrite_unlocked} size=%dx:u32 if size > 17
p:GROUP/fclose {libc:fclose} flags=+0(%di):x32 number=+112(%di):s32
r:GROUP/malloc_back {libc:malloc} $retval
p:GROUP/exit {libc:exit} %di:u32 +0(%sp):x64
""",
)
_SQLITE3 = Scenario(
    "sqlite3",
    ("-batch", "-init", "/dev/null", ":memory:", _SQL),
    ("libsqlite3", "libc"),
    r"""
p:GROUP/prepare {libsqlite3:sqlite3_prepare_v2} sql=+0(%si):string size=%dx:s32
r:GROUP/prepare_back {libsqlite3:sqlite3_prepare_v2} rc=$retval:s32
r:GROUP/step {libsqlite3:sqlite3_step} rc=$retval:u32
p:GROUP/column {libsqlite3:sqlite3_column_text} statement=%di number=%si:s32
r:GROUP/column_back {libsqlite3:sqlite3_column_text} text=+0($retval):string
r:GROUP/column_like {libsqlite3:sqlite3_column_text} t=+0($retval):string if t ~ "*TW*"
p:GROUP/functions {libsqlite3:sqlite3_create_function} name=+0(%si):string n=%dx:s32
    encoding=%cx:x16 if name ~ "s*" && n > 0
p:GROUP/named {libsqlite3:sqlite3_create_function} name=+0(%si):string n=%dx:s32 if name ==
    "sha3" || name != "decimal_add" && n == 3
p:GROUP/commands {libsqlite3:sqlite3_create_function} name=+0(%si):ustring who=$comm if who ~
    "sql?te3" && name ~ "[a-e]*"
p:GROUP/format {libsqlite3:sqlite3_str_vappendf} format=+0(%si):string
p:GROUP/text {libsqlite3:sqlite3_result_text} text=+0(%si):string size=%dx:s32
p:GROUP/value {libsqlite3:sqlite3_value_text} value=+0(%di):x64 size=+16(%di):s32
    flags=+20(%di):x16 is_text=+20(%di):b1@1/16 kinds=+20(%di):b4@0/16
r:GROUP/value_back {libsqlite3:sqlite3_value_text} +0($retval):string[1] $retval:x64
r:GROUP/malloc_back {libsqlite3:sqlite3_malloc} $retval:x64
p:GROUP/free {libsqlite3:sqlite3_free} %di
p:GROUP/finalize {libsqlite3:sqlite3_finalize} %di:x64
# One event at two places.
p:GROUP/two_places {libsqlite3:sqlite3_result_int} value=%si:s32
p:GROUP/two_places {libsqlite3:sqlite3_result_int64} value=%si:s32
p:GROUP/exit {libc:exit} %di:s32
""",
)
_PYTHON = Scenario(
    "python3",
    ("-S", "-s", "-B", "-c", _PYTHON_CODE),
    ("libc",),
    r"""
p:GROUP/set_string {python3:PyDict_SetItemString} key=+0(%si):string
    type=+0(+24(+8(%dx))):string
p:GROUP/repr {python3:PyObject_Repr} type=+u0(+u24(+u8(%di))):ustring count=+0(%di):u32
r:GROUP/repr_back {python3:PyObject_Repr} text=+48($retval):string size=+16($retval):u64
    kind=+32($retval):b3@2/32 ascii=+32($retval):b1@6/32
p:GROUP/size {python3:PyLong_FromSsize_t} v=%di:s64 low=%di:u8 if v != 0 && low <= 0xf0
p:GROUP/long {python3:PyLong_FromLong} value=%di:s64 half=%di:x16 if value > 1000
p:GROUP/import {python3:PyImport_ImportModule} name=+0(%di):string if name != "os"
r:GROUP/import_back {python3:PyImport_ImportModule} type=+0(+24(+8($retval))):string
p:GROUP/error {python3:_PyErr_SetObject} type=+0(+24(%si)):string
p:GROUP/error_key {python3:_PyErr_SetKeyError} key=+48(%di):string
p:GROUP/from_string {python3:PyUnicode_FromString} +0(%di):char[4] s8=+0(%di):s8 %di
r:GROUP/unicode_back {python3:PyUnicode_FromString} object=$retval size=+16($retval):s64
p:GROUP/getattr {python3:PyObject_GetAttrString} name=+0(%si):string of=%di if name ~ "__*__"
p:GROUP/exit {libc:exit} %di:s32 comm=$comm
""",
)
SCENARIOS = (_GZIP, _SORT, _SQLITE3, _PYTHON)
