"""x86-64 and i386, as a 64-bit Linux runs them.

Registers have the names of the kernel's 64-bit `user_regs_struct` for both: a 64-bit tracer sees
a 32-bit tracee through that too, with the upper halves zero (arch/x86/kernel/ptrace.c,
task_user_regset_view is chosen by the tracer's own kind for PTRACE_GETREGS).
"""

from __future__ import annotations

from ptrace_uprobes.arch.base import Architecture, SystemCalls

__all__ = ["BY_ELF_MACHINE", "I386", "X86_64", "is_wide_code", "of_code_segment"]

_REGISTERS_64 = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    *("rip", "eflags"),
)
_IN_LDT = 4
"""The table indicator of a segment selector (SDM volume 3, 3.4.2)."""
_REGISTERS_32 = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip")

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
    # arch/x86/entry/syscalls/syscall_64.tbl
    system_calls=SystemCalls(
        mmap=9, munmap=11, mprotect=10, clone=56, clone3=435, vfork=58, rt_sigaction=13
    ),
    user_end=(1 << 47) - 4096,  # TASK_SIZE, arch/x86/include/asm/page_64_types.h
    code_segment=0x33,  # __USER_CS, arch/x86/include/asm/segment.h
    registers=tuple((name, name) for name in _REGISTERS_64),
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
    # arch/x86/entry/syscalls/syscall_32.tbl
    system_calls=SystemCalls(
        mmap=192, munmap=91, mprotect=125, clone=120, clone3=435, vfork=190, rt_sigaction=174
    ),
    user_end=0xFFFF_E000,  # IA32_PAGE_OFFSET, arch/x86/include/asm/page_64_types.h
    code_segment=0x23,  # __USER32_CS
    registers=(*((f"e{name}", f"r{name}") for name in _REGISTERS_32), ("eflags", "eflags")),
)

BY_ELF_MACHINE = {(arch.elf_machine, arch.elf_class): arch for arch in (X86_64, I386)}
"""Architectures by (`e_machine`, class in bits), as the target's ELF header states them."""


def is_wide_code(selector: int) -> bool:
    """Whether code with this CS is 64-bit code.

    It is, but with Linux's selector for 32-bit code, which where Linux runs on Xen without hardware
    help has more bits above (arch/x86/include/asm/xen/interface_64.h), and in a segment that a
    program has made with modify_ldt(2): there bit 2 is set, and 64-bit code cannot be.
    """
    return not (selector & 0xFFF == I386.code_segment or selector & _IN_LDT)


def of_code_segment(selector: int) -> Architecture:
    """The architecture of code that runs with this CS."""
    return X86_64 if is_wide_code(selector) else I386
