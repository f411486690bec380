"""Bytes in, instructions out."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86 import X86_64
from ptrace_uprobes.arch.x86_encoding import Family, Prefix, measure
from ptrace_uprobes.decoder import Instruction, decode

AT = VirtAddr(0x40_0000)


def decoded(code: str) -> Instruction:
    instruction = decode(bytes.fromhex(code), AT)
    assert instruction is not None
    return instruction


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("f30f1efa", "endbr64"),
        ("55", "push rbp"),
        ("488d0510000000", "lea rax, [rip + 0x10]"),
        ("e8fbffffff", "call 0x400000"),
        ("7410", "je 0x400012"),
        ("0f8400010000", "je 0x400106"),
        ("67e3f0", "jecxz 0x3ffff3"),
        ("c7f800000000", "xbegin 0x400006"),
    ],
)
def test_text_is_intel_syntax_with_absolute_branch_targets(code: str, text: str) -> None:
    assert decoded(code).text == text


def test_only_the_bytes_of_the_first_instruction_are_taken() -> None:
    instruction = decoded("4889e5 c3 90 90")
    assert instruction.code == bytes.fromhex("4889e5")
    assert instruction.next_address == AT + 3


@pytest.mark.parametrize(
    "code", ["", "48", "e8", "e80000", "0f", "0f38", "c5f8", "62f17c48", "06", "d5"]
)
def test_what_is_cut_short_or_undefined_is_no_instruction(code: str) -> None:
    assert decode(bytes.fromhex(code), AT) is None


def test_more_than_fifteen_bytes_are_no_instruction() -> None:
    assert decode(b"\x66" * 14 + b"\x90", AT) is not None
    assert decode(b"\x66" * 15 + b"\x90", AT) is None


def test_another_architecture_is_not_decoded() -> None:
    assert decode(b"\x90", AT, replace(X86_64, elf_machine=183)) is None


@pytest.mark.parametrize(
    ("code", "target"),
    [
        ("488b0510000000", 0x40_0017),  # mov 0x10(%rip), %rax
        ("488b05f0ffffff", 0x3F_FFF7),
        ("c70510000000ffffffff", 0x40_001A),  # movl $-1, 0x10(%rip)
        ("c5f85805f8ffffff", 0x40_0000),  # vaddps -8(%rip), %xmm0, %xmm0
    ],
)
def test_rip_relative_operands_have_an_absolute_address(code: str, target: int) -> None:
    instruction = decoded(code)
    assert instruction.encoding.is_rip_relative
    assert instruction.memory_target == target


def test_an_eip_relative_operand_wraps_at_four_gigabytes() -> None:
    instruction = decode(bytes.fromhex("67488b0510000000"), VirtAddr(0x7FFF_FFFF_FFF0))
    assert instruction is not None
    assert instruction.memory_target == 0x0000_0008


def test_a_sib_byte_without_base_is_not_rip_relative() -> None:
    assert not decoded("488b042500100000").encoding.is_rip_relative  # mov 0x1000, %rax


def test_control_registers_have_no_memory_form() -> None:
    encoding = measure(bytes.fromhex("0f2005"))  # mov %cr0, %rbp, whatever mod says
    assert encoding is not None
    assert encoding.size == 3
    assert not encoding.is_rip_relative


def test_a_rex_prefix_counts_only_before_the_opcode() -> None:
    late = measure(bytes.fromhex("4866b81234"))  # mov $0x3412, %ax: REX.W is void
    early = measure(bytes.fromhex("6648b80102030405060708"))  # movabs: REX.W outweighs 66
    assert late is not None
    assert early is not None
    assert (late.rex, late.size) == (0, 5)
    assert (early.rex, early.size, early.prefixes) == (0x48, 11, Prefix.OPERAND_SIZE)


@pytest.mark.parametrize(
    ("code", "family", "opcode_map"),
    [
        ("0f0fc19e", Family.LEGACY, 1),  # pfadd %mm1, %mm0
        ("0f38f0c0", Family.LEGACY, 2),
        ("660f3a0fc108", Family.LEGACY, 3),  # palignr
        ("c5fc77", Family.VEX, 1),  # vzeroall
        ("c4e2f9f7c1", Family.VEX, 2),
        ("c4e37bf0c105", Family.VEX, 3),  # rorx
        ("62f17c4858c1", Family.EVEX, 1),  # vaddps zmm
        ("8fe97801c1", Family.XOP, 9),
        ("8fc0", Family.LEGACY, 0),  # pop %rax
    ],
)
def test_families_and_maps_are_told_apart(code: str, family: Family, opcode_map: int) -> None:
    encoding = measure(bytes.fromhex(code))
    assert encoding is not None
    assert (encoding.family, encoding.opcode_map) == (family, opcode_map)
    assert encoding.size == len(bytes.fromhex(code))


@pytest.mark.parametrize("code", ["0fff c0", "0fb9 c0", "0f0b"])
def test_undefined_instructions_are_never_disputed(code: str) -> None:
    assert not decoded(code).disputed


_LINE = re.compile(r"^ *([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *\t(\S.*)$", re.MULTILINE)
# What objdump prints for bytes that are no instruction, or for two at once.
_NOT_ONE = re.compile(r"\(bad\)|\.byte|^rex|rex\.[WRXB]+$")


def _libraries() -> list[Path]:
    folder = Path("/lib/x86_64-linux-gnu")
    found = [folder / name for name in ("libc.so.6", "libcrypto.so.3", "libstdc++.so.6")]
    return [
        path
        for path in (*found, Path(sys.executable).resolve(), Path("/usr/bin/python3"))
        if path.exists()
    ]


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump (binutils) is not installed")
@pytest.mark.parametrize("path", _libraries(), ids=lambda path: path.name)
def test_lengths_are_those_that_objdump_sees_in_real_libraries(path: Path) -> None:
    sections = subprocess.run(
        ["objdump", "-h", "-j", ".text", path], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"\.text +([0-9a-f]+) +([0-9a-f]+)", sections)
    assert found is not None
    size, start = (int(each, 16) for each in found.groups())
    checked = 0
    for part in range(4):
        first = start + size * part // 4
        listing = subprocess.run(
            [
                *("objdump", "-d", "-w", "-j", ".text", path),
                *(f"--start-address={first:#x}", f"--stop-address={first + 0x8000:#x}"),
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        rows = [(int(at, 16), bytes.fromhex(raw), text) for at, raw, text in _LINE.findall(listing)]
        for at, raw, text in rows[:-1]:
            if _NOT_ONE.search(text) or raw[0] == 0x9B:  # objdump joins fwait to its successor
                continue
            instruction = decode(raw.ljust(15, b"\x90"), VirtAddr(at))
            if instruction is None and path.name.startswith("libcrypto"):
                continue  # it has tables in .text
            assert instruction is not None, (hex(at), raw.hex(" "), text)
            assert instruction.code == raw, (hex(at), text)
            checked += 1
    assert checked > 100
