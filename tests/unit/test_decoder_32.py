"""32-bit mode's encodings: what differs from 64-bit mode, and lengths as objdump sees them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86 import I386
from ptrace_uprobes.arch.x86_encoding import Family, measure
from ptrace_uprobes.decoder import decode
from tests.support.opcodes_32 import every_legacy_opcode_32, some_vector_opcodes_32

AT = VirtAddr(0x0804_9000)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("48", "dec eax"),
        ("55", "push ebp"),
        ("e8fbffffff", "call 0x8049000"),
        ("66e8fcff", "call 0x8049000"),
        ("e3f0", "jecxz 0x8048ff2"),
        ("67e3f0", "jcxz 0x8048ff3"),
        ("c508", "lds ecx, ptr [eax]"),
        ("63c8", "arpl ax, cx"),
    ],
)
def test_text_is_that_of_32_bit_mode(code: str, text: str) -> None:
    instruction = decode(bytes.fromhex(code), AT, I386)
    assert instruction is not None
    assert instruction.text == text


def test_addresses_wrap_at_four_gigabytes() -> None:
    instruction = decode(bytes.fromhex("e900000010"), VirtAddr(0xF800_0000), I386)
    assert instruction is not None
    assert instruction.branch_target == 0x0800_0005
    last = decode(b"\x90", VirtAddr(0xFFFF_FFFF), I386)
    assert last is not None
    assert last.next_address == 0


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("c5f877", Family.VEX),
        ("c508", Family.LEGACY),  # lds (%eax), %ecx
        ("c4e279f7c1", Family.VEX),
        ("c40b", Family.LEGACY),  # les (%ebx), %ecx
        ("62f17c4858c1", Family.EVEX),
        ("620b", Family.LEGACY),  # bound %ecx, (%ebx)
        ("c5847f00000090", Family.LEGACY),
    ],
)
def test_vector_prefixes_are_the_register_forms_of_les_lds_and_bound(
    code: str, family: Family
) -> None:
    encoding = measure(bytes.fromhex(code).ljust(15, b"\0"), 32)
    assert encoding is not None
    assert encoding.family is family


@pytest.mark.parametrize(
    ("code", "size"),
    [
        ("8b05", 6),  # mov 0x.., %eax: absolute
        ("678b06", 5),  # mov 0x.., %eax: 16 bits of address
        ("678b04", 3),  # mov (%si), %eax: no SIB byte
        ("678b44", 4),
        ("678b84", 5),
        ("a1", 5),
        ("67a1", 4),
        ("9a", 7),
        ("669a", 6),
        ("c8", 4),
        ("66e8", 4),
        ("660f84", 5),
        ("82c0", 3),
    ],
)
def test_operands_have_the_widths_of_32_bit_mode(code: str, size: int) -> None:
    encoding = measure(bytes.fromhex(code).ljust(15, b"\0"), 32)
    assert encoding is not None
    assert encoding.size == size
    assert not encoding.is_rip_relative


_LINE = re.compile(r"^ *([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *\t(\S.*)$", re.MULTILINE)
_APART = 32


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump (binutils) is not installed")
def test_lengths_are_those_that_objdump_sees(tmp_path: Path) -> None:
    prefixes = (b"", b"\x66", b"\x67", b"\xf3", b"\x66\x67")
    windows = sorted(
        {
            *every_legacy_opcode_32((0x05, 0x44, 0x86, 0xD1), prefixes),
            *some_vector_opcodes_32((0x44, 0xD1)),
        }
    )
    path = tmp_path / "code"
    path.write_bytes(b"".join(window.ljust(_APART, b"\x90") for window in windows))
    listing = subprocess.run(
        ["objdump", "-D", "-w", "-b", "binary", "-m", "i386", "-M", "i386", path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    compared = 0
    for at, raw, text in _LINE.findall(listing):
        index, rest = divmod(int(at, 16), _APART)
        if rest or "(bad)" in text or ".byte" in text:
            continue
        instruction = decode(windows[index], AT, I386)
        if instruction is None:
            continue
        assert instruction.disputed or instruction.code == bytes.fromhex(raw), (raw, text)
        compared += 1
    assert compared > 5000
