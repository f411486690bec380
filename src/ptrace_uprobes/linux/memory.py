"""A process's memory through /proc/PID/mem, or word by word with ptrace where that is forbidden.

The kernel lets a tracer read pages without read permission and write pages without write
permission this way, breaking copy-on-write as it does (mm/memory.c, FOLL_FORCE); it brings
in pages that are not resident.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Callable

from ptrace_uprobes.errors import MemoryFault
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import TraceeGone

__all__ = ["ProcessMemory", "ProgramMemory"]

_RESERVED = 16
"""Descriptors that address spaces leave free."""
_WORD = 8
_PAGE = 4096


class ProcessMemory:
    """Reads and writes of one address space. Reads may come from any thread of ours.

    `tid` names a thread of the address space; the fallback needs it stopped.
    """

    __slots__ = ("_closing", "_fd", "tid", "users")

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self.users = 0
        """Handlers on other threads that may read now; `close` waits for them to end."""
        self._closing = False
        self._fd = -1
        try:
            self._fd = os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
            if self._fd >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVED:
                # The last ones are for reading /proc, which nothing replaces.
                self.close()
                self._closing = False
        except OSError:
            # Forbidden by an LSM, no /proc, no descriptor left, or the process is gone: PEEK and
            # POKE still work, or tell.
            pass

    @property
    def by_file(self) -> bool:
        """Whether /proc/PID/mem serves; otherwise the thread must be stopped for an access."""
        return self._fd >= 0

    @property
    def descriptor(self) -> int:
        """Of /proc/PID/mem; -1 if it does not serve."""
        return self._fd

    def release_user(self) -> None:
        """One of `users` is done."""
        self.users -= 1
        if self._closing:
            self.close()

    def close(self) -> None:
        self._closing = True
        if self._fd >= 0 and not self.users:
            os.close(self._fd)
            self._fd = -1

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes; raises `MemoryFault`."""
        data = self.read_some(address, size)
        if len(data) != size:
            raise MemoryFault(address + len(data), size - len(data))
        return data

    def read_some(self, address: int, size: int) -> bytes:
        """Up to `size` bytes: as many as are mapped from `address` on."""
        if size <= 0 or not 0 <= address < 1 << 63:
            return b""
        if self._fd < 0:
            return self._peek(address, size)
        # Hot: nearly every read is whole at once, or ends where the stack does. The kernel copies
        # page by page and stops at the first that it cannot read (fs/proc/base.c, mem_rw).
        try:
            part = os.pread(self._fd, size, address)
            if len(part) == size or (part and not (address + len(part)) % _PAGE):
                return part
        except OSError:
            pass  # looked at below
        return self._read_in_parts(address, size)

    def _read_in_parts(self, address: int, size: int) -> bytes:
        parts = []
        while size > 0:
            try:
                part = os.pread(self._fd, size, address)
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EFAULT, errno.ESRCH, errno.EINVAL):
                    raise
                break
            if not part:
                break
            parts.append(part)
            address += len(part)
            size -= len(part)
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """All of `data`; raises `MemoryFault`."""
        if not 0 <= address < 1 << 63:
            raise MemoryFault(address, len(data))
        if self._fd < 0:
            self._poke(address, data)
            return
        done = 0
        while done < len(data):
            try:
                count = os.pwrite(self._fd, data[done:], address + done)
            except PermissionError:
                # proc_mem.force_override=never, or an LSM: the mapping is not writable this way.
                self._poke(address + done, data[done:])
                return
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EFAULT, errno.ESRCH, errno.EINVAL):
                    raise
                count = 0
            if count <= 0:
                raise MemoryFault(address + done, len(data) - done)
            done += count

    def _peek_word(self, address: int) -> bytes | None:
        if self._closing:
            # The process has exec'ed: under its number there is other memory now, which ptrace
            # would read and write as if it were this.
            return None
        try:
            value = ptrace_calls.call(ptrace_calls.PEEKTEXT, self.tid, address)
        except (TraceeGone, OSError):
            # EIO: not mapped. ESRCH: the thread is gone, and its memory with it.
            return None
        return struct.pack("<q", value)

    def _peek(self, address: int, size: int) -> bytes:
        data = bytearray()
        word = address & -_WORD
        while word < address + size:
            part = self._peek_word(word)
            if part is None:
                break
            data += part
            word += _WORD
        skip = address & (_WORD - 1)
        return bytes(data[skip : skip + size])

    def _poke(self, address: int, data: bytes) -> None:
        word = address & -_WORD
        end = address + len(data)
        while word < end:
            part = self._peek_word(word)
            if part is None:
                raise MemoryFault(word, end - word)
            merged = bytearray(part)
            low, high = max(address, word), min(end, word + _WORD)
            merged[low - word : high - word] = data[low - address : high - address]
            try:
                ptrace_calls.call(
                    ptrace_calls.POKETEXT, self.tid, word, struct.unpack("<q", merged)[0]
                )
            except (TraceeGone, OSError) as error:
                raise MemoryFault(word, end - word) from error
            word += _WORD


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_libc = ctypes.PyDLL(None)
for _name in ("process_vm_readv", "process_vm_writev"):
    getattr(_libc, _name).restype = ctypes.c_ssize_t
    getattr(_libc, _name).argtypes = (
        ctypes.c_int,
        ctypes.POINTER(_IoVec),
        ctypes.c_ulong,
        ctypes.POINTER(_IoVec),
        ctypes.c_ulong,
        ctypes.c_ulong,
    )


class ProgramMemory:
    """Memory with the rights that the program itself has, for computing what it would do.

    process_vm_readv(2) and process_vm_writev(2) respect page protection, as ptrace does not.
    """

    __slots__ = ("_tid",)

    def __init__(self, tid: int) -> None:
        self._tid = tid

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes; raises `MemoryFault`."""
        buffer = (ctypes.c_char * size)()
        self._transfer(_libc.process_vm_readv, buffer, address, size)
        return buffer.raw

    def write(self, address: int, data: bytes) -> None:
        """All of `data`; raises `MemoryFault`, and has written nothing then."""
        # The kernel copies page by page: the far page is tried first, and put back if the
        # near one refuses.
        near = min(len(data), _PAGE - address % _PAGE)
        if near < len(data):
            before = self.read(address + near, len(data) - near)
            self._write_some(address + near, data[near:])
            try:
                self._write_some(address, data[:near])
            except MemoryFault:
                self._write_some(address + near, before)
                raise
        else:
            self._write_some(address, data)

    def _write_some(self, address: int, data: bytes) -> None:
        buffer = (ctypes.c_char * len(data)).from_buffer_copy(data)
        self._transfer(_libc.process_vm_writev, buffer, address, len(data))

    def _transfer(
        self,
        function: Callable[..., int],
        buffer: ctypes.Array[ctypes.c_char],
        address: int,
        size: int,
    ) -> None:
        local = _IoVec(ctypes.addressof(buffer), size)
        remote = _IoVec(address & 0xFFFFFFFFFFFFFFFF, size)
        if function(self._tid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) != size:
            raise MemoryFault(address, size)
