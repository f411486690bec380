"""The facts of x86-64 agree with the kernel's, the ABI's and the decoder's."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.x86 import BY_ELF_MACHINE, I386, X86_64
from ptrace_uprobes.decoder import decode
from ptrace_uprobes.linux.ptrace_calls import USER_OFFSETS
from ptrace_uprobes.ssol.mechanism import Refusal
from ptrace_uprobes.ssol.plan import plan


def test_every_register_that_is_named_is_one_of_user_regs_struct() -> None:
    named = {
        X86_64.pc_register,
        X86_64.sp_register,
        X86_64.result_register,
        X86_64.syscall_number_register,
        *X86_64.argument_registers,
        *X86_64.syscall_argument_registers,
    }
    assert named <= USER_OFFSETS.keys()


def test_arguments_are_in_the_order_of_the_abi() -> None:
    # SysV ABI 3.2.3; A.2.1: system calls use r10 where functions use rcx.
    assert X86_64.argument_registers == ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
    assert X86_64.syscall_argument_registers == ("rdi", "rsi", "rdx", "r10", "r8", "r9")


def test_the_trap_and_the_system_call_are_the_instructions_that_they_are_said_to_be() -> None:
    trap = decode(X86_64.breakpoint, VirtAddr(0x1000), X86_64)
    call = decode(X86_64.syscall_instruction, VirtAddr(0x1000), X86_64)
    assert trap is not None
    assert call is not None
    assert (trap.mnemonic, call.mnemonic) == ("int3", "syscall")
    assert X86_64.breakpoint_pc_offset == len(X86_64.breakpoint)


def test_an_architecture_is_looked_up_by_what_the_targets_file_says() -> None:
    assert BY_ELF_MACHINE == {
        (62, 64): X86_64,  # EM_X86_64, ELFCLASS64
        (3, 32): I386,  # EM_386, ELFCLASS32
    }
    with open(sys.executable, "rb") as file:
        header = file.read(20)
    assert BY_ELF_MACHINE[int.from_bytes(header[18:20], "little"), header[4] * 32] is X86_64


def test_an_architecture_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        X86_64.word_size = 4  # type: ignore[misc]  # that is the point


def test_instructions_of_another_architecture_are_refused_by_name() -> None:
    other = dataclasses.replace(X86_64, name="aarch64", elf_machine=183)
    assert plan(b"\x90", VirtAddr(0x1000), other).refusal is Refusal.ARCHITECTURE
