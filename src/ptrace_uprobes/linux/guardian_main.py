"""The guardian: waits for the end of a tracer, and puts right what that has left behind.

A program of its own, run by path with Python's own modules only, so that it starts quickly and
shares nothing with the process that it outlives. Descriptor 3 is a socket on which the tracer
sends the numbers of address spaces and their /proc/PID/mem (opened by the tracer: writing through
it needs no permission any more, and no stop), 4 the ledger (see `ledger`), 5 a pidfd of the
tracer, if the kernel has such.

It works while the program runs: a byte is put back where a trap stands, and nowhere else. What
had run into a trap before goes on by the program's last resort (see `arch.last_resort`).
"""

import _signal  # type: ignore[import-not-found]  # known by its public name, which loads slowly
import _socket
import array
import os
import select
import time

_SOCKET, _LEDGER, _TRACER = 3, 4, 5
_BLOCK = 512
_GUARDIAN, _CLOSED, _NONCE, _WATCHING = 1, 2, 3, 4
_TRAP_KIND, _AREA_KIND = 0, 1
_LOW = (1 << 56) - 1
_INT3 = b"\xcc"
_PAGE = 4096
_NONCE_OFFSET = 8
"""Of the nonce in an area of ours (`ssol.scratch`)."""
_PARKED, _PARKED_BEFORE, _PARKED_STATE = _BLOCK, _BLOCK + 5, _BLOCK + 128
_LENT = _BLOCK + 127
_JUMP_DISPLACEMENTS = 3, 6
"""Of the displacements of the jumps to themselves, in a gadget (`ssol.scratch`): where a system
call ends, and a function."""
_WAY_OUT = 16
"""Of the bytes behind a gadget that are for us."""
_REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8"),
    *("rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp"),
)
"""As user_regs_struct of sys/user.h has them, up to those that nobody changes."""
_NUMBERS = {
    name: number
    for number, name in enumerate(
        ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
    )
}
_TF = 1 << 8
_RESTARTS = (512, 513, 514)
"""ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND (include/linux/errno.h)."""
_RESTART_BLOCK = 516
_SYS_RESTART = {8: 219, 4: 0}
"""restart_syscall(2), by the bytes in a word."""
_CODE_64, _CODE_32 = 0x33, 0x23
"""CS of 64-bit code and of 32-bit code (arch/x86/include/asm/segment.h)."""
_LOW_HALF = (1 << 32) - 1
_LATE = 0.05
"""Seconds after which a fork that was in the making can be seen."""


def watch(memories: dict[int, tuple[int, int]]) -> None:
    """Learn of address spaces until the tracer is dead; `memories` are (pid, descriptor)."""
    socket = _socket.socket(fileno=_SOCKET)
    socket.setblocking(False)
    poll = select.poll()
    poll.register(_SOCKET, select.POLLIN)
    try:
        poll.register(_TRACER, select.POLLIN)
        os.fstat(_TRACER)
    except OSError:
        poll.unregister(_TRACER)
    dead = False
    while not dead:
        dead = any(number == _TRACER for number, _ in poll.poll())
        dead = not receive(socket, memories) or dead


def receive(socket: _socket.socket, memories: dict[int, tuple[int, int]]) -> bool:
    """Take what has been sent; False if nobody is left to send more."""
    while True:
        try:
            text, extra, _, _ = socket.recvmsg(64, _socket.CMSG_SPACE(4))
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not text:
            return False
        owner, pid = map(int, text.split())
        if not owner:
            return False  # the tracing thread is at its end, and its process lives on
        old = memories.pop(owner, None)
        if old is not None:
            os.close(old[1])
        for _, _, data in extra:
            memories[owner] = (pid, array.array("i", data)[0])


def read_entries(
    words: memoryview,
) -> tuple[bytes, dict[int, dict[int, int]], dict[int, list[int]]]:
    """The nonce; the bytes under traps, by owner and address; the areas, by owner."""
    traps: dict[int, dict[int, int]] = {}
    areas: dict[int, list[int]] = {}
    for first in range(2 * _BLOCK, len(words), _BLOCK):
        owner = words[first]
        for word in words[first + 1 : first + _BLOCK] if owner else ():
            if not word:
                continue
            if word >> 56 == _AREA_KIND:
                areas.setdefault(owner, []).append(word & _LOW)
            elif word >> 56 == _TRAP_KIND:
                traps.setdefault(owner, {})[word >> 8] = word & 0xFF
    return words[_NONCE].to_bytes(8, "little"), traps, areas


def restore(memory: int, traps: dict[int, int]) -> None:
    """Put the original bytes back where traps stand."""
    by_page: dict[int, list[int]] = {}
    for address in traps:
        by_page.setdefault(address // _PAGE, []).append(address)
    for page, addresses in by_page.items():
        start = page * _PAGE
        try:
            data = os.pread(memory, _PAGE, start)
        except OSError:
            continue  # unmapped meanwhile
        for address in addresses:
            if data[address - start : address - start + 1] == _INT3:
                try:
                    os.pwrite(memory, bytes([traps[address]]), address)
                except OSError:
                    continue


def unpark(words: memoryview, memories: dict[int, tuple[int, int]]) -> None:
    """Give a thread that was borrowed its own state back: it waits in a jump to itself, or comes
    there, and is shown a way out."""
    word_size = words[_PARKED]
    if not (word_size or words[_LENT]) or words[_PARKED + 1] not in memories:
        return
    pid, memory = memories[words[_PARKED + 1]]
    tid, gadget, size = words[_PARKED + 2], words[_PARKED + 3], words[_PARKED + 4]
    before = bytes(words[_PARKED_BEFORE : _PARKED_BEFORE + (size + 7) // 8])[:size]
    if not word_size:
        put_back(memory, gadget, before)
        return
    mask = words[_PARKED_STATE]
    state = words[_PARKED_STATE + 1 : _PARKED_STATE + 1 + len(_REGISTERS)]
    registers = dict(zip(_REGISTERS, state, strict=True))
    restart(registers)
    start = gadget + _WAY_OUT
    try:
        os.pwrite(memory, way_out(start, mask, registers, word_size), start)
        for place in _JUMP_DISPLACEMENTS:
            displacement = start - (gadget + place + 1)
            os.pwrite(memory, bytes([displacement]), gadget + place)
        if size and has_left(pid, tid):
            os.pwrite(memory, before, gadget)
    except OSError:
        return  # it has ended


def put_back(memory: int, address: int, data: bytes) -> None:
    try:
        os.pwrite(memory, data, address)
    except OSError:
        return  # it has ended


def is_narrow(registers: dict[str, int]) -> bool:
    """Whether the thread ran 32-bit code."""
    return registers["cs"] & 0xFFF == _CODE_32


def restart(registers: dict[str, int]) -> None:
    """What the kernel does on the way to user mode to a system call that a stop interrupted
    (arch/x86/kernel/signal.c, arch_do_signal_or_restart)."""
    word_size = 4 if is_narrow(registers) else 8
    bits = 8 * word_size
    error = (1 << bits) - (registers["rax"] & (1 << bits) - 1)
    if registers["orig_rax"] >> bits - 1 & 1:
        return
    if error in _RESTARTS:
        registers["rax"] = registers["orig_rax"]
        registers["rip"] -= 2
    elif error == _RESTART_BLOCK:
        registers["rax"] = _SYS_RESTART[word_size]
        registers["rip"] -= 2


def way_out(start: int, mask: int, registers: dict[str, int], word_size: int) -> bytes:
    """Code for `start` that sets all registers and the signal mask. It uses no stack but its own
    bytes, which nobody can write: so signals wait as long as the stack pointer points there.

    It begins as code of a program with words of so many bytes, and ends in the thread's mode.
    """
    narrow = is_narrow(registers)
    data = start + _DATA
    if word_size == 4 and narrow:
        code = way_out_32(start, data, registers)
    else:
        # ljmp $0x33, $behind: from 32-bit code to what follows
        code = b"\xea" + (start + 7).to_bytes(4, "little") + b"\x33\0" if word_size == 4 else b""
        code += way_out_64(data, registers, far=narrow)
    flags = registers["eflags"] & ~_TF
    values = ((1 << 64) - 1, flags, mask)
    return code.ljust(_DATA, b"\xcc") + b"".join(v.to_bytes(8, "little") for v in values)


def way_out_64(data: int, registers: dict[str, int], *, far: bool) -> bytes:
    """`far`: to 32-bit code."""
    target = registers["rip"].to_bytes(8, "little")
    if far:
        target = target[:4] + _CODE_32.to_bytes(2, "little")
    return b"".join(
        (
            set_mask(data),
            load("rsp", data + 8),
            b"\x9d",  # popfq
            load("rsp", registers["rsp"]),
            set_mask(data + 16),
            *(load(name, registers[name]) for name in _NUMBERS if name != "rsp"),
            b"\xff\x2d" if far else b"\xff\x25",  # ljmp *0(%rip), jmp *0(%rip)
            b"\x00\x00\x00\x00",
            target,
        )
    )


def way_out_32(start: int, data: int, registers: dict[str, int]) -> bytes:
    code = b"".join(
        (
            set_mask_32(data),
            load_32("rsp", data + 8),
            b"\x9d",  # popf
            load_32("rsp", registers["rsp"]),
            set_mask_32(data + 16),
            *(load_32(name, registers[name]) for name in tuple(_NUMBERS)[:8] if name != "rsp"),
            b"\xe9",  # jmp
        )
    )
    distance = registers["rip"] - (start + len(code) + 4) & _LOW_HALF
    return code + distance.to_bytes(4, "little")


_DATA = 280


def load(register: str, value: int) -> bytes:
    """movabs $value, %register"""
    number = _NUMBERS[register]
    return bytes([0x48 | number >> 3, 0xB8 | number & 7]) + value.to_bytes(8, "little")


def load_32(register: str, value: int) -> bytes:
    """mov $value, %register"""
    return bytes([0xB8 | _NUMBERS[register]]) + (value & _LOW_HALF).to_bytes(4, "little")


def set_mask_32(address: int) -> bytes:
    """As below."""
    return b"".join(
        (
            b"\xbb\x02\x00\x00\x00",  # mov $2, %ebx
            load_32("rcx", address),
            b"\xba\x00\x00\x00\x00",  # mov $0, %edx
            b"\xbe\x08\x00\x00\x00",  # mov $8, %esi
            b"\xb8\xaf\x00\x00\x00",  # mov $175, %eax
            b"\xcd\x80",  # int $0x80
        )
    )


def set_mask(address: int) -> bytes:
    """rt_sigprocmask(SIG_SETMASK, address, NULL, 8), no flag changed"""
    return b"".join(
        (
            b"\xbf\x02\x00\x00\x00",  # mov $2, %edi
            load("rsi", address),
            b"\xba\x00\x00\x00\x00",  # mov $0, %edx
            b"\x41\xba\x08\x00\x00\x00",  # mov $8, %r10d
            b"\xb8\x0e\x00\x00\x00",  # mov $14, %eax
            b"\x0f\x05",  # syscall
        )
    )


def has_left(pid: int, tid: int) -> bool:
    """Whether a thread has run for so long, or sleeps, that it is out of what it was shown."""
    first = None
    for _ in range(_LOOKS):
        with open(f"/proc/{pid}/task/{tid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
        if state == b"S":
            return True
        with open(f"/proc/{pid}/task/{tid}/schedstat", "rb") as file:
            ran = int(file.read().split()[0])
        first = ran if first is None else first
        if ran - first > _LONG_ENOUGH:
            return True
        time.sleep(_LOOK_PAUSE)
    return False


_LOOKS, _LOOK_PAUSE = 2000, 0.001
_LONG_ENOUGH = 1_000_000
"""Nanoseconds on a processor, for thirty instructions."""


def restore_children(
    nonce: bytes,
    traps: dict[int, dict[int, int]],
    areas: dict[int, list[int]],
    seen: set[int],
) -> None:
    """Fork children that the tracer had not been told of: they have the same areas."""
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in seen:
            continue
        try:
            memory = os.open(f"/proc/{name}/mem", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # ended, or not ours to touch: its last resort is all that it has
        for owner, starts in areas.items():
            if any(holds(memory, start + _NONCE_OFFSET, nonce) for start in starts):
                restore(memory, traps.get(owner, {}))
                seen.add(int(name))
        os.close(memory)


def holds(memory: int, address: int, wanted: bytes) -> bool:
    try:
        return os.pread(memory, len(wanted), address) == wanted
    except OSError:
        return False


def main() -> None:
    for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM, _signal.SIGQUIT):
        _signal.signal(number, _signal.SIG_IGN)
    try:
        os.pwrite(_LEDGER, (1).to_bytes(8, "little"), 8 * _WATCHING)
    except OSError:
        os._exit(1)  # there were too few descriptors to give us ours
    memories: dict[int, tuple[int, int]] = {}
    watch(memories)
    words = memoryview(os.pread(_LEDGER, os.fstat(_LEDGER).st_size, 0)).cast("Q")
    if words[_CLOSED]:
        return
    nonce, traps, areas = read_entries(words)
    for owner, entries in traps.items():
        if owner in memories:
            restore(memories[owner][1], entries)
    unpark(words, memories)
    if areas:
        seen = {pid for pid, _ in memories.values()}
        restore_children(nonce, traps, areas, seen)
        time.sleep(_LATE)
        restore_children(nonce, traps, areas, seen)


if __name__ == "__main__":
    main()
    os._exit(0)
