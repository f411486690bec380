"""What the rest of the program asks of an architecture.

To port to a new one:
1. a module beside this one with an `Architecture`, and a row in `x86.BY_ELF_MACHINE`;
2. a module in `ssol/` that plans its instructions, and a row in `ssol/plan.py`;
3. the targets of `tests/integration/` that are written in assembly.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Architecture", "SystemCalls"]


@dataclass(frozen=True, slots=True)
class SystemCalls:
    """Numbers of the system calls that the engine makes in tracees or looks for."""

    mmap: int
    """With its arguments in registers: `mmap2` where `mmap` takes them in memory."""
    munmap: int
    mprotect: int
    clone: int
    clone3: int
    vfork: int
    rt_sigaction: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """Immutable facts; caches live with whoever computes them."""

    name: str
    elf_machine: int
    """`e_machine` of the ELF header."""
    elf_class: int
    """32 or 64."""
    word_size: int
    """Bytes in a pointer."""
    breakpoint: bytes
    """The trap instruction."""
    breakpoint_pc_offset: int
    """How far past the trap's address the program counter stands when the trap is reported."""
    max_instruction_size: int
    pc_register: str
    sp_register: str
    result_register: str
    argument_registers: tuple[str, ...]
    """Integer argument registers in the function-call ABI's order."""
    syscall_instruction: bytes
    syscall_number_register: str
    syscall_argument_registers: tuple[str, ...]
    red_zone: int
    """Bytes below the stack pointer that belong to the program (SysV ABI 3.2.2)."""
    system_calls: SystemCalls
    user_end: int
    """The first address past those that a program can map."""
    code_segment: int
    """CS while its code runs in user mode."""
    registers: tuple[tuple[str, str], ...]
    """The general registers as they are shown: their own names, and those of the kernel's
    `user_regs_struct`."""

    @property
    def mask(self) -> int:
        """Of the bits that a register has."""
        return (1 << 8 * self.word_size) - 1

    @property
    def sigaction_size(self) -> int:
        """Bytes in the kernel's struct sigaction: handler, flags, restorer, and 64 signals."""
        return 3 * self.word_size + 8
