"""The few instructions that keep a program alive whose tracer was killed.

They are its handler of SIGTRAP then. While the tracer lives they do not run: ptrace takes the
signal first. Traps of ours are looked up in a list of nodes in the program's memory, and the
thread goes on in the displaced instruction's slot; with any other SIGTRAP the program dies as it
would have. They rely on nothing but the signal frame (arch/x86/kernel/signal.c), and lie in
memory that can be read and executed, not written.

To add an architecture: its `LastResort`, with the frame's and the system calls' numbers of its
own, and a row in `LAST_RESORTS`. Without one its programs are protected by the guardian alone.
The frame is of the kind of the rt_sigaction(2) that named the handler (SA_IA32_ABI,
arch/x86/kernel/signal_compat.c), whichever kind of code the thread ran.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import I386, X86_64

__all__ = ["LAST_RESORTS", "LastResort"]

_SA_SIGINFO: Final = 0x4
_SA_RESTORER: Final = 0x04000000
_SA_ONSTACK: Final = 0x08000000  # goroutines, for one, have no room for a frame
_SA_RESTART: Final = 0x10000000


@dataclass(frozen=True, slots=True)
class LastResort:
    """Position-independent code, followed by what it reads; offsets are from its start.

    The list's nodes are `next, low, high, count` in words, and `count` pairs `reported, resume`
    in ascending order: a thread whose program counter is in `[low, high)` is in an area of ours
    and goes on where it is; one that has run into a trap, and so stands at `reported`, goes on at
    `resume`. No node is ever changed once it is in the list.
    """

    architecture: Architecture
    code: bytes
    restorer: int
    """Of the call of rt_sigreturn(2)."""

    @property
    def head(self) -> int:
        """Of the word that holds the first node's address."""
        return len(self.code)

    @property
    def default(self) -> int:
        """Of SIG_DFL."""
        return self.head + self.architecture.word_size

    @property
    def action(self) -> int:
        """Of the action that names this code as a handler."""
        return self.default + self.architecture.sigaction_size

    @property
    def size(self) -> int:
        return self.action + self.architecture.sigaction_size

    @property
    def default_action(self) -> bytes:
        """SIG_DFL, as struct sigaction of rt_sigaction(2)."""
        return bytes(self.architecture.sigaction_size)

    def handler_of(self, action: bytes) -> int:
        """Which handler a struct sigaction names."""
        return int.from_bytes(action[: self.architecture.word_size], "little")

    def assemble(self, address: int, first_node: int) -> bytes:
        """The bytes for `address`."""
        flags = _SA_SIGINFO | _SA_RESTORER | _SA_ONSTACK | _SA_RESTART
        return (
            self.code
            + self._words(first_node)
            + self.default_action
            # SIGTRAP stays blocked inside: one that is sent again waits for the return.
            + self._words(address, flags, address + self.restorer)
            + bytes(8)
        )

    def area_node(self, following: int, low: int, high: int) -> bytes:
        return self._words(following, low, high, 0)

    def table_node(self, following: int, pairs: Iterable[tuple[int, int]]) -> bytes:
        """`pairs` of (reported, resume)."""
        ordered = sorted(pairs)
        words = [word for pair in ordered for word in pair]
        return self._words(following, 0, 0, len(ordered), *words)

    @staticmethod
    def table_size(count: int) -> int:
        """Bytes that a table of so many pairs has at most."""
        return 32 + 16 * count

    def _words(self, *values: int) -> bytes:
        size = self.architecture.word_size
        return b"".join(value.to_bytes(size, "little") for value in values)


# rdi: the signal, rsi: siginfo_t, rdx: ucontext_t. No register has to be kept: the return restores
# all of them from the frame.
_X86_64: Final = LastResort(
    X86_64,
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
        "85 c0"  #                test %eax, %eax
        "74 01"  #                je 1f
        "cc"  #                   int3                         refused; this kills it as well
        "c3"  #                1: ret
        # restorer: these very bytes are how unwinders know a signal frame.
        "48 c7 c0 0f 00 00 00"  # mov $15, %rax                rt_sigreturn
        "0f 05"  #                syscall
        "cc cc cc cc cc cc"
    ),
    restorer=0xB1,
)

# 8(%esp): siginfo_t, 12(%esp): ucontext_t (arch/x86/include/asm/sigframe.h, rt_sigframe_ia32).
_I386: Final = LastResort(
    I386,
    code=bytes.fromhex(
        "8b 7c 24 08"  #          mov 8(%esp), %edi
        "8b 74 24 0c"  #          mov 12(%esp), %esi
        "e8 00 00 00 00"  #       call base
        # base:
        "5b"  #                   pop %ebx
        "83 7f 08 00"  #          cmpl $0, 8(%edi)             si_code
        "7e 46"  #                jle foreign                  someone sent it
        "8b 46 4c"  #             mov 0x4c(%esi), %eax         uc_mcontext.gregs[REG_EIP]
        "8b 8b a3 00 00 00"  #    mov head-base(%ebx), %ecx
        # node:
        "85 c9"  #                test %ecx, %ecx
        "74 39"  #                je foreign
        "3b 41 04"  #             cmp 4(%ecx), %eax
        "72 05"  #                jb table
        "3b 41 08"  #             cmp 8(%ecx), %eax
        "72 2e"  #                jb done                      already in a slot
        # table:
        "8b 51 0c"  #             mov 12(%ecx), %edx           how many pairs are left
        "8d 69 10"  #             lea 16(%ecx), %ebp           the first of them
        # search:
        "85 d2"  #                test %edx, %edx
        "74 19"  #                je miss
        "89 d7"  #                mov %edx, %edi
        "d1 ef"  #                shr %edi                     the middle
        "3b 44 fd 00"  #          cmp (%ebp,%edi,8), %eax
        "74 13"  #                je found
        "72 09"  #                jb lower
        "8d 6c fd 08"  #          lea 8(%ebp,%edi,8), %ebp
        "29 fa"  #                sub %edi, %edx
        "4a"  #                   dec %edx
        "eb e7"  #                jmp search
        # lower:
        "89 fa"  #                mov %edi, %edx
        "eb e3"  #                jmp search
        # miss:
        "8b 09"  #                mov (%ecx), %ecx
        "eb cb"  #                jmp node
        # found:
        "8b 44 fd 04"  #          mov 4(%ebp,%edi,8), %eax
        "89 46 4c"  #             mov %eax, 0x4c(%esi)
        # done:
        "c3"  #                   ret
        # foreign: as above
        "8d 8b a7 00 00 00"  #    lea default-base(%ebx), %ecx
        "bb 05 00 00 00"  #       mov $5, %ebx                 SIGTRAP
        "31 d2"  #                xor %edx, %edx
        "be 08 00 00 00"  #       mov $8, %esi                 sizeof(sigset_t)
        "b8 ae 00 00 00"  #       mov $174, %eax               rt_sigaction
        "cd 80"  #                int $0x80
        "b8 14 00 00 00"  #       mov $20, %eax                getpid
        "cd 80"  #                int $0x80
        "89 c3"  #                mov %eax, %ebx
        "b8 e0 00 00 00"  #       mov $224, %eax               gettid
        "cd 80"  #                int $0x80
        "89 c1"  #                mov %eax, %ecx
        "ba 05 00 00 00"  #       mov $5, %edx                 SIGTRAP
        "8b 74 24 08"  #          mov 8(%esp), %esi
        "b8 4f 01 00 00"  #       mov $335, %eax               rt_tgsigqueueinfo
        "cd 80"  #                int $0x80
        "85 c0"  #                test %eax, %eax
        "74 c0"  #                je done
        "cc"  #                   int3                         refused; this kills it as well
        # restorer: these very bytes, as above
        "b8 ad 00 00 00"  #       mov $173, %eax               rt_sigreturn
        "cd 80"  #                int $0x80
        "cc cc cc cc cc cc cc cc cc cc cc cc cc cc cc"
    ),
    restorer=0x9A,
)

LAST_RESORTS: Final = {
    (resort.architecture.elf_machine, resort.architecture.elf_class): resort
    for resort in (_X86_64, _I386)
}
"""By (`e_machine`, class in bits), as `x86.BY_ELF_MACHINE`."""
