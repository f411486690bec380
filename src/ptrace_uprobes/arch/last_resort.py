"""The few instructions that keep a program alive whose tracer was killed.

They are its handler of SIGTRAP then. While the tracer lives they do not run: ptrace takes the
signal first. Traps of ours are looked up in a list of nodes in the program's memory, and the
thread goes on in the displaced instruction's slot; with any other SIGTRAP the program dies as it
would have. They rely on nothing but the signal frame (arch/x86/kernel/signal.c), and lie in
memory that can be read and executed, not written.

To add an architecture: its `LastResort`, with the frame's and the system calls' numbers of its
own, and a row in `LAST_RESORTS`. Without one its programs are protected by the guardian alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.arch.x86 import X86_64

__all__ = ["DEFAULT_ACTION", "LAST_RESORTS", "LastResort"]

_SA_SIGINFO: Final = 0x4
_SA_RESTORER: Final = 0x04000000
_SA_ONSTACK: Final = 0x08000000  # goroutines, for one, have no room for a frame
_SA_RESTART: Final = 0x10000000

DEFAULT_ACTION: Final = bytes(32)
"""SIG_DFL, as struct sigaction of rt_sigaction(2)."""


@dataclass(frozen=True, slots=True)
class LastResort:
    """Position-independent code, followed by what it reads; offsets are from its start.

    The list's nodes are `next, low, high, count` in words, and `count` pairs `reported, resume`
    in ascending order: a thread whose program counter is in `[low, high)` is in an area of ours
    and goes on where it is; one that has run into a trap, and so stands at `reported`, goes on at
    `resume`. No node is ever changed once it is in the list.
    """

    code: bytes
    restorer: int
    """rt_sigreturn(2)."""
    sigaction_number: int
    """rt_sigaction(2)."""

    @property
    def head(self) -> int:
        """Of the word that holds the first node's address."""
        return len(self.code)

    @property
    def default(self) -> int:
        """Of SIG_DFL."""
        return self.head + 8

    @property
    def action(self) -> int:
        """Of the action that names this code as a handler."""
        return self.default + len(DEFAULT_ACTION)

    @property
    def size(self) -> int:
        return self.action + 32

    def assemble(self, address: int, first_node: int) -> bytes:
        """The bytes for `address`."""
        flags = _SA_SIGINFO | _SA_RESTORER | _SA_ONSTACK | _SA_RESTART
        return (
            self.code
            + first_node.to_bytes(8, "little")
            + DEFAULT_ACTION
            # SIGTRAP stays blocked inside: one that is sent again waits for the return.
            + struct.pack("<4Q", address, flags, address + self.restorer, 0)
        )

    @staticmethod
    def area_node(following: int, low: int, high: int) -> bytes:
        return struct.pack("<4Q", following, low, high, 0)

    @staticmethod
    def table_node(following: int, pairs: Iterable[tuple[int, int]]) -> bytes:
        """`pairs` of (reported, resume)."""
        ordered = sorted(pairs)
        entries = b"".join(struct.pack("<2Q", *pair) for pair in ordered)
        return struct.pack("<4Q", following, 0, 0, len(ordered)) + entries

    @staticmethod
    def table_size(count: int) -> int:
        return 32 + 16 * count


# rdi: the signal, rsi: siginfo_t, rdx: ucontext_t. No register has to be kept: the return restores
# all of them from the frame.
_X86_64: Final = LastResort(
    code=bytes.fromhex(
        "8b 46 08"  #             mov 8(%rsi), %eax            si_code
        "85 c0"  #                test %eax, %eax
        "7e 65"  #                jle foreign                  someone sent it
        "48 8b 82 a8 00 00 00"  # mov 0xa8(%rdx), %rax         uc_mcontext.gregs[REG_RIP]
        "48 8b 0d ab 00 00 00"  # mov head(%rip), %rcx
        # node:
        "48 85 c9"  #             test %rcx, %rcx
        "74 52"  #                je foreign
        "48 3b 41 08"  #          cmp 8(%rcx), %rax
        "72 06"  #                jb table
        "48 3b 41 10"  #          cmp 16(%rcx), %rax
        "72 45"  #                jb done                      already in a slot
        # table:
        "4c 8b 41 18"  #          mov 24(%rcx), %r8            how many pairs are left
        "4c 8d 49 20"  #          lea 32(%rcx), %r9            the first of them
        # search:
        "4d 85 c0"  #             test %r8, %r8
        "74 28"  #                je miss
        "4d 89 c2"  #             mov %r8, %r10
        "49 d1 ea"  #             shr %r10                     the middle
        "4d 89 d3"  #             mov %r10, %r11
        "49 c1 e3 04"  #          shl $4, %r11
        "4d 01 cb"  #             add %r9, %r11
        "49 3b 03"  #             cmp (%r11), %rax
        "74 18"  #                je found
        "72 0c"  #                jb lower
        "4d 8d 4b 10"  #          lea 16(%r11), %r9
        "4d 29 d0"  #             sub %r10, %r8
        "49 ff c8"  #             dec %r8
        "eb d8"  #                jmp search
        # lower:
        "4d 89 d0"  #             mov %r10, %r8
        "eb d3"  #                jmp search
        # miss:
        "48 8b 09"  #             mov (%rcx), %rcx
        "eb b5"  #                jmp node
        # found:
        "49 8b 43 08"  #          mov 8(%r11), %rax
        "48 89 82 a8 00 00 00"  # mov %rax, 0xa8(%rdx)
        # done:
        "c3"  #                   ret
        # foreign: as without us. SIG_DFL, and the same signal once more, for the return to meet.
        "48 89 f3"  #             mov %rsi, %rbx
        "48 8d 35 52 00 00 00"  # lea default(%rip), %rsi
        "bf 05 00 00 00"  #       mov $5, %edi                 SIGTRAP
        "31 d2"  #                xor %edx, %edx
        "41 ba 08 00 00 00"  #    mov $8, %r10d                sizeof(sigset_t)
        "b8 0d 00 00 00"  #       mov $13, %eax                rt_sigaction
        "0f 05"  #                syscall
        "b8 27 00 00 00"  #       mov $39, %eax                getpid
        "0f 05"  #                syscall
        "89 c7"  #                mov %eax, %edi
        "b8 ba 00 00 00"  #       mov $186, %eax               gettid
        "0f 05"  #                syscall
        "89 c6"  #                mov %eax, %esi
        "ba 05 00 00 00"  #       mov $5, %edx                 SIGTRAP
        "49 89 da"  #             mov %rbx, %r10
        "b8 29 01 00 00"  #       mov $297, %eax               rt_tgsigqueueinfo
        "0f 05"  #                syscall
        "c3"  #                   ret
        # restorer: these very bytes are how unwinders know a signal frame.
        "48 c7 c0 0f 00 00 00"  # mov $15, %rax                rt_sigreturn
        "0f 05"  #                syscall
        "cc cc cc cc cc cc cc cc cc cc cc"
    ),
    restorer=0xAC,
    sigaction_number=13,
)

LAST_RESORTS: Final = {(X86_64.elf_machine, X86_64.elf_class): _X86_64}
"""By (`e_machine`, class in bits), as `x86.BY_ELF_MACHINE`."""
