"""x86-64, as Linux runs it."""

from __future__ import annotations

from ptrace_uprobes.arch.base import Architecture

__all__ = ["BY_ELF_MACHINE", "X86_64"]

X86_64 = Architecture(
    name="x86_64",
    elf_machine=62,
    elf_class=64,
    word_size=8,
    breakpoint=b"\xcc",  # int3
    breakpoint_pc_offset=1,
    max_instruction_size=15,
    pc_register="rip",
    sp_register="rsp",
    result_register="rax",
    argument_registers=("rdi", "rsi", "rdx", "rcx", "r8", "r9"),
    syscall_instruction=b"\x0f\x05",  # syscall
    syscall_number_register="rax",
    syscall_argument_registers=("rdi", "rsi", "rdx", "r10", "r8", "r9"),
    red_zone=128,
)

BY_ELF_MACHINE = {(X86_64.elf_machine, X86_64.elf_class): X86_64}
"""Architectures by (`e_machine`, class in bits), as the target's ELF header states them."""
