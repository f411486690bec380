"""ptrace(2): the only module that touches the binding.

Two ways in. `call` is for the cold path: it raises. `fast_ptrace` is for the hot path: the
bare C function, called without giving up the interpreter lock (no ptrace request blocks),
which reports a failure as -1 and leaves it to the caller to find out why.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import threading
from collections.abc import Callable
from typing import Final

from ptrace.binding import func as _binding
from ptrace.binding.linux_struct import user_regs_struct as UserRegs  # noqa: N812  # a class

from ptrace_uprobes.errors import EngineBug, UprobesError

__all__ = [
    "EVENT_CLONE",
    "EVENT_EXEC",
    "EVENT_EXIT",
    "EVENT_FORK",
    "EVENT_STOP",
    "EVENT_VFORK",
    "EVENT_VFORK_DONE",
    "FAULTS",
    "POKEUSER",
    "SeizeOptions",
    "TraceeGone",
    "UserRegs",
    "call",
    "fast_ptrace",
    "get_event_message",
    "get_fp_instruction_pointer",
    "get_registers",
    "get_signal_info",
    "get_signal_mask",
    "has_queued_fault",
    "has_queued_step",
    "is_int3",
    "peek_user",
    "set_fp_instruction",
    "set_registers",
    "set_signal_info",
    "set_signal_mask",
    "signal_code",
]

PEEKTEXT: Final[int] = _binding.PTRACE_PEEKTEXT
POKETEXT: Final[int] = _binding.PTRACE_POKETEXT
PEEKUSER: Final[int] = _binding.PTRACE_PEEKUSER
POKEUSER: Final[int] = _binding.PTRACE_POKEUSER
CONT: Final[int] = _binding.PTRACE_CONT
SINGLESTEP: Final[int] = _binding.PTRACE_SINGLESTEP
GETREGS: Final[int] = _binding.PTRACE_GETREGS
SETREGS: Final[int] = _binding.PTRACE_SETREGS
GETFPREGS: Final[int] = _binding.PTRACE_GETFPREGS
SETFPREGS: Final[int] = _binding.PTRACE_SETFPREGS
DETACH: Final[int] = _binding.PTRACE_DETACH
SYSCALL: Final[int] = _binding.PTRACE_SYSCALL
GETEVENTMSG: Final[int] = _binding.PTRACE_GETEVENTMSG
GETSIGINFO: Final[int] = _binding.PTRACE_GETSIGINFO
SETSIGINFO: Final[int] = _binding.PTRACE_SETSIGINFO
SETOPTIONS: Final[int] = _binding.PTRACE_SETOPTIONS
# Newer than the binding (include/uapi/linux/ptrace.h).
SEIZE: Final = 0x4206
INTERRUPT: Final = 0x4207
LISTEN: Final = 0x4208
PEEKSIGINFO: Final = 0x4209
GETSIGMASK: Final = 0x420A
SETSIGMASK: Final = 0x420B

EVENT_FORK: Final[int] = _binding.PTRACE_EVENT_FORK
EVENT_VFORK: Final[int] = _binding.PTRACE_EVENT_VFORK
EVENT_CLONE: Final[int] = _binding.PTRACE_EVENT_CLONE
EVENT_EXEC: Final[int] = _binding.PTRACE_EVENT_EXEC
EVENT_VFORK_DONE: Final[int] = _binding.PTRACE_EVENT_VFORK_DONE
EVENT_EXIT: Final[int] = _binding.PTRACE_EVENT_EXIT
EVENT_STOP: Final = 128

SIGINFO_SIZE: Final = 128
SIGSET_SIZE: Final = 8


class SeizeOptions:
    """The PTRACE_O_ bits that the engine traces with (ptrace(2))."""

    ALL: Final[int] = (
        _binding.PTRACE_O_TRACESYSGOOD
        | _binding.PTRACE_O_TRACEFORK
        | _binding.PTRACE_O_TRACEVFORK
        | _binding.PTRACE_O_TRACECLONE
        | _binding.PTRACE_O_TRACEEXEC
        | _binding.PTRACE_O_TRACEVFORKDONE
        | _binding.PTRACE_O_TRACEEXIT
    )


class TraceeGone(UprobesError, ProcessLookupError):
    """ESRCH: the thread died, or is not in a ptrace-stop any more. May come from any call."""

    def __init__(self, tid: int) -> None:
        self.tid = tid
        super().__init__(f"thread {tid} is gone")


_libc = ctypes.PyDLL(None, use_errno=True)
_checked = _libc.ptrace
_checked.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_checked.restype = ctypes.c_long

_bare = ctypes.PyDLL(None).ptrace
_bare.restype = ctypes.c_long
fast_ptrace: Callable[..., int] = _bare
"""ptrace(request, tid, address, data) with C longs or prebuilt ctypes objects; -1 on failure."""


def call(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    """One ptrace request; raises `TraceeGone` on ESRCH, OSError on anything else."""
    ctypes.set_errno(0)
    result: int = _checked(request, tid, address, data)
    if result == -1:
        code = ctypes.get_errno()
        if code == errno.ESRCH:
            raise TraceeGone(tid)
        if code:
            raise OSError(code, f"ptrace request {request:#x} on {tid}: {os.strerror(code)}")
    return result


USER_OFFSETS: Final[dict[str, int]] = {
    name: getattr(UserRegs, name).offset for name, _ in UserRegs._fields_
}
"""Where PEEKUSER and POKEUSER find each register (struct user, sys/user.h)."""


def peek_user(tid: int, register: str) -> int:
    """One register's value, unsigned."""
    return call(PEEKUSER, tid, USER_OFFSETS[register]) & 0xFFFFFFFFFFFFFFFF


def get_registers(tid: int, into: UserRegs | None = None) -> UserRegs:
    """All general registers of a stopped thread."""
    registers = UserRegs() if into is None else into
    # HOT PATH for handlers that look at them: `call`, which tells why, only if this fails.
    if fast_ptrace(GETREGS, tid, 0, ctypes.byref(registers)) == -1:
        call(GETREGS, tid, 0, ctypes.addressof(registers))
    return registers


def set_registers(tid: int, registers: UserRegs) -> None:
    call(SETREGS, tid, 0, ctypes.addressof(registers))


def get_event_message(tid: int) -> int:
    message = ctypes.c_ulong()
    call(GETEVENTMSG, tid, 0, ctypes.addressof(message))
    return message.value


def get_signal_info(tid: int) -> bytearray:
    """The raw siginfo_t of a signal-delivery-stop."""
    info = (ctypes.c_char * SIGINFO_SIZE)()
    call(GETSIGINFO, tid, 0, ctypes.addressof(info))
    return bytearray(info.raw)


class _SignalInfo(threading.local):
    def __init__(self) -> None:
        self.fields = (ctypes.c_int * (SIGINFO_SIZE // 4))()
        self.pointer = ctypes.byref(self.fields)


_signal_info = _SignalInfo()


def signal_code(tid: int) -> int | None:
    """`si_code` of a signal-delivery-stop; None if the thread is gone."""
    # HOT PATH: one buffer for all calls of a thread of ours.
    if fast_ptrace(GETSIGINFO, tid, 0, _signal_info.pointer) == -1:
        return None
    return _signal_info.fields[2]


def is_int3(tid: int) -> bool:
    """Whether the SIGTRAP that the thread stopped for is an int3's; not if it is gone.

    Needed where RIP alone does not tell: behind an instruction of one byte, where any other
    SIGTRAP may find the thread as well.
    """
    return signal_code(tid) == SI_KERNEL


def set_signal_info(tid: int, info: bytes | bytearray) -> None:
    buffer = (ctypes.c_char * SIGINFO_SIZE).from_buffer_copy(info)
    call(SETSIGINFO, tid, 0, ctypes.addressof(buffer))


def get_signal_mask(tid: int) -> int:
    mask = ctypes.c_uint64()
    call(GETSIGMASK, tid, SIGSET_SIZE, ctypes.addressof(mask))
    return mask.value


def set_signal_mask(tid: int, mask: int) -> None:
    value = ctypes.c_uint64(mask)
    call(SETSIGMASK, tid, SIGSET_SIZE, ctypes.addressof(value))


class _PeekSigInfoArgs(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("nr", ctypes.c_int32))


_QUEUE_LOOK = 16
_SIGTRAP = 5
SI_KERNEL: Final = 0x80
_TRAP_TRACE: Final = 2
FAULTS: Final = frozenset(
    (
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGSEGV,
        signal.SIGSYS,
    )
)
"""What an instruction raises, where the kernel says so: then si_code is positive (sigaction(2))."""


def has_queued_step(tid: int) -> bool:
    """Whether the stopped thread was single-stepped, and that is not yet reported."""
    return (_SIGTRAP, _TRAP_TRACE) in _queued(tid)


def has_queued_fault(tid: int) -> bool:
    """Whether the stopped thread has run into a trap, or a fault, whose signal is not yet reported.

    An interrupt is reported before a queued signal (kernel/signal.c, get_signal), so a thread
    can stand in PTRACE_EVENT_STOP just past a trap.
    """
    found = [number for number, origin in _queued(tid) if number in FAULTS and origin > 0]
    # One that is blocked is of the program's own making: a fault's unblocks itself.
    mask = get_signal_mask(tid) if found else 0
    return any(not mask >> (number - 1) & 1 for number in found)


def _queued(tid: int) -> list[tuple[int, int]]:
    """`si_signo` and `si_code` of the signals that are queued for the thread alone."""
    buffer = (ctypes.c_char * (SIGINFO_SIZE * _QUEUE_LOOK))()
    arguments = _PeekSigInfoArgs(0, 0, _QUEUE_LOOK)
    count = call(PEEKSIGINFO, tid, ctypes.addressof(arguments), ctypes.addressof(buffer))
    found = []
    for index in range(max(count, 0)):
        number, _, origin = struct.unpack_from("iii", buffer.raw, index * SIGINFO_SIZE)
        found.append((number, origin))
    return found


# struct user_fpregs_struct (the FXSAVE image): the 64-bit FIP is at byte 8, XMM0 at 160.
_FXSAVE_SIZE = 512
_FXSAVE_FOP = 6
_FXSAVE_RIP = 8
_FXSAVE_XMM = 160


def get_fp_instruction_pointer(tid: int) -> int:
    """The x87 instruction pointer as FXSAVE64 would store it."""
    image = (ctypes.c_char * _FXSAVE_SIZE)()
    call(GETFPREGS, tid, 0, ctypes.addressof(image))
    value: int = struct.unpack_from("<Q", image.raw, _FXSAVE_RIP)[0]
    return value


def get_vector_register(tid: int, number: int) -> bytes:
    """The 16 bytes of XMM`number`."""
    image = (ctypes.c_char * _FXSAVE_SIZE)()
    call(GETFPREGS, tid, 0, ctypes.addressof(image))
    start = _FXSAVE_XMM + 16 * number
    return image.raw[start : start + 16]


def set_fp_instruction(tid: int, address: int, opcode: int) -> None:
    """The x87 instruction pointer, and the opcode where the processor has recorded one: not all
    do always (SDM volume 1, 8.1.9)."""
    image = (ctypes.c_char * _FXSAVE_SIZE)()
    call(GETFPREGS, tid, 0, ctypes.addressof(image))
    struct.pack_into("<Q", image, _FXSAVE_RIP, address)
    if any(image.raw[_FXSAVE_FOP : _FXSAVE_FOP + 2]):
        struct.pack_into("<H", image, _FXSAVE_FOP, opcode)
    call(SETFPREGS, tid, 0, ctypes.addressof(image))


if ctypes.sizeof(UserRegs) != 27 * 8:
    raise EngineBug("python-ptrace's user_regs_struct is not the x86-64 one")
