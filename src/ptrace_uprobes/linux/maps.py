"""/proc/PID/maps as frozen values (proc_pid_maps(5))."""

from __future__ import annotations

from dataclasses import dataclass

from ptrace_uprobes.addresses import FileOffset, VirtAddr
from ptrace_uprobes.errors import NoSuchProcess, NotPermitted

__all__ = ["Mapping", "parse_maps", "read_maps"]

_ESCAPED_NEWLINE = "\\012"
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line: a range of an address space with one protection and one backing."""

    start: VirtAddr
    end: VirtAddr
    permissions: str
    """As printed: `r-xp`."""
    offset: FileOffset
    device: str
    inode: int
    path: str
    """A file's path as the process saw it, `[vdso]` and the like, or empty if anonymous."""
    deleted: bool
    """The file has been unlinked since it was mapped."""

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def is_executable(self) -> bool:
        return self.permissions[2] == "x"

    @property
    def is_writable(self) -> bool:
        return self.permissions[1] == "w"

    @property
    def is_private(self) -> bool:
        return self.permissions[3] == "p"

    @property
    def is_file(self) -> bool:
        return self.inode != 0 and self.path.startswith("/")

    def contains(self, address: int) -> bool:
        return self.start <= address < self.end


def parse_maps(text: str) -> list[Mapping]:
    """The mappings in a maps file's text, in address order as the kernel prints them."""
    mappings = []
    for line in text.split("\n"):
        if not line:
            continue
        fields = line.split(maxsplit=5)
        low, _, high = fields[0].partition("-")
        path = fields[5] if len(fields) == 6 else ""
        deleted = path.endswith(_DELETED) and fields[4] != "0"
        if deleted:
            path = path[: -len(_DELETED)]
        mappings.append(
            Mapping(
                start=VirtAddr(int(low, 16)),
                end=VirtAddr(int(high, 16)),
                permissions=fields[1],
                offset=FileOffset(int(fields[2], 16)),
                device=fields[3],
                inode=int(fields[4]),
                path=path.replace(_ESCAPED_NEWLINE, "\n"),
                deleted=deleted,
            )
        )
    return mappings


def read_maps(pid: int) -> list[Mapping]:
    """The mappings of the live process `pid` now; raises `NoSuchProcess`, and `NotPermitted`
    where the kernel does not show them (proc(5)): not even to a tracer that has been let in."""
    try:
        with open(
            f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape", newline="\n"
        ) as file:
            return parse_maps(file.read())
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NoSuchProcess(pid) from error
    except PermissionError as error:
        raise NotPermitted(
            pid, "its mappings may not be read; it has made itself undumpable, or is set-user-ID"
        ) from error
