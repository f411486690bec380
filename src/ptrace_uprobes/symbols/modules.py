"""The ELF images that are loaded in a process, and where."""

from __future__ import annotations

import functools
import os
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ptrace_uprobes.addresses import ElfAddr, VirtAddr
from ptrace_uprobes.errors import MemoryFault, UnreadableElf
from ptrace_uprobes.linux.maps import Mapping
from ptrace_uprobes.symbols.headers import PT_LOAD, read_headers
from ptrace_uprobes.symbols.image import Image, Segment, image_from_bytes, open_image
from ptrace_uprobes.symbols.source import MemorySource

__all__ = ["Module", "ModuleList", "is_name_of", "modules_of"]

ReadMemory = Callable[[int, int], bytes]
_FileKey = tuple[str, int, str]
"""Device, inode and path: what the maps file tells one file from another by."""

_VDSO: Final = "[vdso]"
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_HEAD: Final = 1024
"""Bytes of a file that hold its headers and build ID: enough to tell it from another."""


@dataclass(frozen=True, slots=True)
class Module:
    """An image at a place in an address space."""

    path: str
    """As /proc/PID/maps has it."""
    image: Image
    bias: int
    """What is added to an address in the file to have the virtual one."""
    start: VirtAddr
    end: VirtAddr
    is_main: bool
    """The program itself, not a library."""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return posixpath.basename(self.path)

    @property
    def key(self) -> tuple[object, ...]:
        """What tells a module from all others that are, or have been, in an address space.

        Not the state that its file is in: traps stay where they are when that is written to.
        """
        identity = self.image.identity
        return self.path, self.bias, identity and identity[:2]

    def contains(self, address: int) -> bool:
        return self.start <= address < self.end

    def to_virtual(self, address: ElfAddr) -> VirtAddr:
        return VirtAddr(address + self.bias)

    def to_elf(self, address: VirtAddr) -> ElfAddr:
        return ElfAddr(address - self.bias)

    def file_to_virtual(self, offset: int) -> VirtAddr | None:
        """Where the file's byte `offset` is mapped; None if no segment has it."""
        address = self.image.address_of(offset)
        return None if address is None else self.to_virtual(address)

    @functools.lru_cache(maxsize=1024)  # noqa: B019  # keeps small values, not processes
    def matches(self, name: str) -> bool:
        """Whether a user who says `name` means this module.

        A path, through links too; or a file's name, `libc.so.6`; or, as of libraries, that
        name without what comes after it: `libc` of `libc.so.6` and `libc-2.31.so`; or, as of
        the program, `python3` of `python3.11`, or a command that the shell would find.
        """
        if "/" in name:
            return name == self.path or self._is_same_file(name)
        if name in (self.name, self.name.strip("[]"), self.image.soname):
            return True
        names = (self.name,) if self.image.soname is None else (self.name, self.image.soname)
        if any(_is_stem(name, full) for full in names):
            return True
        if self.is_main and re.fullmatch(r"[-.][0-9][0-9.]*", self.name.removeprefix(name)):
            return True
        return (
            self.is_main
            and bool(name)
            and any(self._is_same_file(f"{place}/{name}") for place in os.get_exec_path())
        )

    def _is_same_file(self, path: str) -> bool:
        identity = self.image.identity
        if identity is None:
            return False
        paths = (path, self.image.root + path) if path.startswith("/") else (path,)
        for candidate in paths:
            try:
                status = os.stat(candidate)
            except (OSError, ValueError):
                continue
            if (status.st_dev, status.st_ino) == (identity.device, identity.inode):
                return True
        return False


class ModuleList(list[Module]):
    """Modules, the main program first, and what could not be read."""

    def __init__(self, modules: Sequence[Module], skipped: Sequence[UnreadableElf]) -> None:
        super().__init__(modules)
        self.skipped = tuple(skipped)


def modules_of(pid: int, mappings: Sequence[Mapping], read_memory: ReadMemory) -> ModuleList:
    """The modules of process `pid` that have code mapped: the main program, then by address.

    Cheap to call again whenever a library may have been loaded: images are kept by their
    file's identity, and a known one costs a look at its path.
    """
    finder = _ImageFinder(pid, mappings, read_memory)
    modules: dict[tuple[int, str, int], Module] = {}
    skipped: dict[str, UnreadableElf] = {}
    main = _identity_of_program(pid)
    for mapping in mappings:
        if not mapping.is_executable or not (mapping.is_file or mapping.path == _VDSO):
            continue
        try:
            image = finder.image_of(mapping)
            bias = _bias(image, mapping)
        except UnreadableElf as error:
            skipped.setdefault(mapping.path, error)
            continue
        key = (mapping.inode, mapping.path, bias)
        if key in modules:
            continue
        identity = image.identity
        is_main = main is not None and main == (
            (identity.device, identity.inode) if identity else (main[0], mapping.inode)
        )
        if is_main:
            main = None  # mapped once more, it is not the program any more
        low = min(segment.address for segment in image.segments)
        high = max(segment.address + segment.memory_size for segment in image.segments)
        modules[key] = Module(
            path=mapping.path,
            image=image,
            bias=bias,
            start=VirtAddr(bias + low - low % _PAGE),
            end=VirtAddr(bias + high + -high % _PAGE),
            is_main=is_main,
        )
    ordered = sorted(modules.values(), key=lambda module: (not module.is_main, module.start))
    return ModuleList(ordered, list(skipped.values()))


def _identity_of_program(pid: int) -> tuple[int, int] | None:
    try:
        status = os.stat(f"/proc/{pid}/exe")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _bias(image: Image, mapping: Mapping) -> int:
    def covers(segment: Segment) -> bool:
        first = segment.offset - segment.offset % _PAGE
        return first <= mapping.offset < segment.offset + max(segment.file_size, 1)

    covering = [segment for segment in image.segments if covers(segment)]
    if not covering:
        raise UnreadableElf(
            mapping.path, f"no segment of it can be what is mapped at {mapping.start:#x}"
        )
    # Segments can share a page; code is mapped for the one that is executable.
    segment = next((s for s in covering if s.is_executable), covering[0])
    return mapping.start - mapping.offset + segment.offset - segment.address


def is_name_of(name: str, path: str) -> bool:
    """Whether `name` may mean the file at `path`, as far as the path tells."""
    return name in (path, posixpath.basename(path)) or _is_stem(name, posixpath.basename(path))


def _is_stem(stem: str, name: str) -> bool:
    """NAME of NAME.so*, NAME-VERSION.so*, and NAME.so of NAME.so.*"""
    if not stem or not name.startswith(stem):
        return False
    rest = name[len(stem) :]
    return re.match(r"(-[0-9.]+)?\.so(\.|$)", rest) is not None or (
        stem.endswith(".so") and rest.startswith(".")
    )


class _ImageFinder:
    """Finds the image of a mapping: of the very file that is mapped, not of its successor."""

    def __init__(self, pid: int, mappings: Sequence[Mapping], read_memory: ReadMemory) -> None:
        self._pid = pid
        self._mappings = mappings
        self._read_memory = read_memory
        self._root = _root_of(pid)
        self._known: dict[_FileKey, Image | UnreadableElf] = {}
        self._loads = _loads_of(mappings)

    def image_of(self, mapping: Mapping) -> Image:
        if mapping.path == _VDSO:
            try:
                data = self._read_memory(mapping.start, mapping.size)
            except MemoryFault as error:
                raise UnreadableElf(_VDSO, str(error)) from error
            return image_from_bytes(data, _VDSO)
        key = _key_of(mapping)
        known = self._known.get(key)
        if known is None:
            # What cannot be read is kept as well: a program may have mapped it many times.
            try:
                known = self._find(mapping)
            except UnreadableElf as error:
                known = error
            self._known[key] = known
        if isinstance(known, UnreadableElf):
            raise known
        return known

    def _find(self, mapping: Mapping) -> Image:
        why: UnreadableElf | None = None
        if not mapping.deleted:
            try:
                image = open_image(self._root + mapping.path, name=mapping.path, root=self._root)
                if self._is_mapped(image, mapping):
                    return image
            except UnreadableElf as error:
                why = error
        # The links in map_files lead to the mapped file whatever became of its name, but need
        # CAP_CHECKPOINT_RESTORE (fs/proc/base.c); exe does not.
        for link in (f"map_files/{mapping.start:x}-{mapping.end:x}", "exe"):
            try:
                image = open_image(f"/proc/{self._pid}/{link}", name=mapping.path, root=self._root)
            except UnreadableElf:
                continue
            if self._is_mapped(image, mapping):
                return image
        try:
            return self._from_memory(mapping)
        except UnreadableElf as error:
            raise (why or error) from error

    def _is_mapped(self, image: Image, mapping: Mapping) -> bool:
        identity = image.identity
        if identity is None:
            return False
        device = f"{os.major(identity.device):02x}:{os.minor(identity.device):02x}"
        if (identity.inode, device) == (mapping.inode, mapping.device):
            return True
        # stat(2) and the maps file disagree on btrfs and, before Linux 6.8, on overlayfs:
        # there the content decides.
        first = self._load_of(mapping)
        try:
            size = min(_HEAD, first[0].size) if first else 0
            head = self._read_memory(first[0].start, size) if first else b""
        except MemoryFault:
            return False
        return bool(head) and image.begins_with(head)

    def _load_of(self, mapping: Mapping) -> list[Mapping]:
        """All mappings of one load of the same file, its first page's first; empty if that is
        not mapped."""
        return self._loads.get(_key_of(mapping), [])

    def _from_memory(self, mapping: Mapping) -> Image:
        load = self._load_of(mapping)
        source = MemorySource(self._read_memory, load, mapping.path)
        headers = read_headers(source, in_memory=True)
        first = next((s for s in headers.segments if s.kind == PT_LOAD and s.offset == 0), None)
        if first is None:
            raise UnreadableElf(mapping.path, "its first page is not mapped")
        bias = load[0].start - first.address
        return Image(source, mapping.path, root=self._root, bias_in_memory=bias)


def _key_of(mapping: Mapping) -> _FileKey:
    return mapping.device, mapping.inode, mapping.path


def _loads_of(mappings: Sequence[Mapping]) -> dict[_FileKey, list[Mapping]]:
    """Of each file, the mappings of its first load that has code: from its first page up to where
    that is mapped again. In one pass: programs have tens of thousands of mappings."""
    current: dict[_FileKey, list[Mapping]] = {}
    with_code: dict[_FileKey, list[Mapping]] = {}
    for mapping in mappings:
        if not mapping.is_file:
            continue
        key = _key_of(mapping)
        if mapping.offset == 0:
            current[key] = [mapping]
        elif key in current:
            current[key].append(mapping)
        else:
            continue
        if mapping.is_executable:
            with_code.setdefault(key, current[key])
    return with_code


def _root_of(pid: int) -> str:
    """What to put before a path of its maps file to have the same file; empty if nothing.

    The kernel prints a path as it is seen from the reader's root directory, whatever that of
    the process is; only a path in another mount namespace is printed from there.
    """
    try:
        theirs, ours = (os.readlink(f"/proc/{who}/ns/mnt") for who in (pid, "self"))
    except OSError:
        return ""
    return "" if theirs == ours else f"/proc/{pid}/root"
