"""A 32-bit process enters the kernel from a slot as from its own code, by each of three ways."""

from __future__ import annotations

import struct
import subprocess

import pytest

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86 import I386
from ptrace_uprobes.ssol.plan import Mechanism, plan
from tests.support.build import BuildFailed, build_target

_SITE, _SIZE = VirtAddr(0x2000_0000), 32
_SLOT = VirtAddr(_SITE + _SIZE)
_RETURN = bytes.fromhex("5d5a59c3")  # pop %ebp; pop %edx; pop %ecx; ret: the vDSO's own end


def _run(site: bytes, slot: bytes, begin: int, by_syscall: bool) -> tuple[int, tuple[int, ...]]:
    """The exit status; EAX less the process's number, ECX, EDX, EBP."""
    try:
        program = build_target(
            *("system_calls_32.c", "-m32", "-nostdlib", "-static", "-ffreestanding"),
            *("-fno-stack-protector", "-fno-pie", "-no-pie", "-fcf-protection=none"),
        )
    except BuildFailed:
        pytest.skip("the compiler makes no 32-bit programs (gcc-multilib)")
    request = b"".join(code.ljust(_SIZE, b"\xf4") for code in (site, slot))  # hlt: a fault
    request += struct.pack("<II", begin, by_syscall)
    done = subprocess.run([program], input=request, stdout=subprocess.PIPE, check=False, timeout=10)
    if done.returncode != 0:
        return done.returncode, ()
    eax, ecx, edx, ebp, pid = struct.unpack("<5I", done.stdout)
    return 0, (eax - pid, ecx, edx, ebp)


@pytest.mark.parametrize(
    ("code", "name"), [("cd80", "int $0x80"), ("0f34", "sysenter"), ("0f05", "syscall")]
)
def test_a_slot_enters_the_kernel_as_the_original_does(code: str, name: str) -> None:
    instruction = bytes.fromhex(code)
    by_syscall = name == "syscall"
    planned = plan(instruction, _SITE, I386)
    assert planned.mechanism is Mechanism.BOOST
    site = instruction + _RETURN
    direct = _run(site, b"", _SITE, by_syscall)
    slot = _run(site, planned.assemble(_SLOT).code, _SLOT, by_syscall)
    assert slot == direct
    # A processor has one of the two fast ways at most; SIGILL tells of the other.
    assert direct[0] == 0 or name != "int $0x80"
    if direct[0] == 0:
        assert direct[1] == (0, 0x1111, int(by_syscall), 0x3333)


def test_one_of_the_fast_ways_works_on_this_processor() -> None:
    """Else the test above would have compared two faults only."""
    worked = []
    for code in ("0f34", "0f05"):
        status, _ = _run(bytes.fromhex(code), b"", _SITE, code == "0f05")
        worked.append(status == 0)
    assert any(worked)
