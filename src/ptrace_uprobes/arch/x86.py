"""x86-64 and i386, as a 64-bit Linux runs them.

Registers have the names of the kernel's 64-bit `user_regs_struct` for both: a 64-bit tracer sees
a 32-bit tracee through that too, with the upper halves zero (arch/x86/kernel/ptrace.c,
task_user_regset_view is chosen by the tracer's own kind for PTRACE_GETREGS).
"""

from __future__ import annotations

from ptrace_uprobes.arch.base import Architecture

__all__ = ["BY_ELF_MACHINE", "I386", "X86_64"]

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

I386 = Architecture(
    name="i386",
    elf_machine=3,
    elf_class=32,
    word_size=4,
    breakpoint=b"\xcc",  # int3
    breakpoint_pc_offset=1,
    max_instruction_size=15,
    pc_register="rip",
    sp_register="rsp",
    result_register="rax",
    argument_registers=(),  # all on the stack
    syscall_instruction=b"\xcd\x80",  # int 0x80
    syscall_number_register="rax",
    syscall_argument_registers=("rbx", "rcx", "rdx", "rsi", "rdi", "rbp"),
    red_zone=0,
)

BY_ELF_MACHINE = {(X86_64.elf_machine, X86_64.elf_class): X86_64}
"""Architectures by (`e_machine`, class in bits), as the target's ELF header states them."""
