"""One ELF file, and the code that its symbols name."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import os
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from ptrace_uprobes.addresses import ElfAddr
from ptrace_uprobes.errors import UnreadableElf
from ptrace_uprobes.symbols import debug_files
from ptrace_uprobes.symbols.call_frames import CallFrames, call_frames_of
from ptrace_uprobes.symbols.close_names import close_names
from ptrace_uprobes.symbols.dynamic import read_dynamic
from ptrace_uprobes.symbols.find_tables import dynamic_table, static_table
from ptrace_uprobes.symbols.full_names import fits, parts_of
from ptrace_uprobes.symbols.functions import FunctionIndex
from ptrace_uprobes.symbols.headers import (
    PT_DYNAMIC,
    PT_LOAD,
    Segment,
    check_segments,
    read_headers,
    read_interpreter,
)
from ptrace_uprobes.symbols.linkage import global_offset_table, linkage_tables, stub_names
from ptrace_uprobes.symbols.markers import Marker, read_markers
from ptrace_uprobes.symbols.ranges import Ranges
from ptrace_uprobes.symbols.resolvers import resolvers_of
from ptrace_uprobes.symbols.source import BytesSource, FileIdentity, FileSource, Source
from ptrace_uprobes.symbols.source_lines import LineTable, has_lines
from ptrace_uprobes.symbols.symbol import FUNCTION_KINDS, Symbol, rank_of, symbol_of
from ptrace_uprobes.symbols.tables import (
    STT_GNU_IFUNC,
    STT_NOTYPE,
    STT_OBJECT,
    Entry,
    SymbolTable,
)
from ptrace_uprobes.symbols.text_relocations import text_relocations
from ptrace_uprobes.symbols.versions import VersionTable

__all__ = ["DEBUG_ROOT", "Image", "Segment", "Symbol", "image_from_bytes", "open_image"]

DEBUG_ROOT: Final = "/usr/lib/debug"

_CODE_KINDS = FUNCTION_KINDS | {STT_NOTYPE}
_MOST_NAME_BYTES: Final = 1 << 26
_MOST_IMAGES: Final = 128
_MOST_ANSWERS: Final = 1024


class Image:
    """What one ELF file says. Immutable; symbol tables are read when they are asked for."""

    def __init__(
        self,
        source: Source,
        path: str,
        *,
        root: str = "",
        debug_root: str = DEBUG_ROOT,
        bias_in_memory: int | None = None,
    ) -> None:
        """`root` is where the file system that `path` is in is seen from here.

        `bias_in_memory` is the load bias of a source that is a live process's memory.
        """
        self._source = source
        self._headers = headers = read_headers(source, in_memory=bias_in_memory is not None)
        self.root = root
        self._debug_root = debug_root
        self._dynamic = read_dynamic(source, headers, bias_in_memory or 0)
        self.path = path
        self.machine = headers.machine
        self.elf_class = headers.elf_class
        self.is_position_independent = headers.is_position_independent
        self.entry = headers.entry
        self.segments = tuple(s for s in headers.segments if s.kind == PT_LOAD)
        self._code = Ranges(
            (s.address, s.address + s.memory_size) for s in self.segments if s.is_executable
        )
        self.build_id = debug_files.read_build_id(source, headers)
        self.interpreter = read_interpreter(source, headers)
        self.soname = self._dynamic.soname if self._dynamic is not None else None
        self.dynamic_address = next(
            (s.address for s in headers.segments if s.kind == PT_DYNAMIC), None
        )
        self._answers: dict[tuple[str, str, str | None], tuple[Symbol, ...]] = {}
        check_segments(source, self.segments)

    def __repr__(self) -> str:
        return f"<Image {self.path}>"

    @property
    def identity(self) -> FileIdentity | None:
        """The file's, if it was read from a file."""
        return self._source.identity if isinstance(self._source, FileSource) else None

    def is_unchanged(self) -> bool:
        """Whether the file still is what it was when it was opened: written to, it has another
        time or size."""
        return not isinstance(self._source, FileSource) or self._source.is_unchanged()

    def begins_with(self, head: bytes) -> bool:
        """Whether the file's first bytes are these."""
        return len(head) <= self._source.size and self._source.read(0, len(head)) == head

    def is_code(self, address: int) -> bool:
        return address in self._code

    def is_instructions(self, address: int) -> bool:
        """As `is_code`, by the file's sections where it has them."""
        return self.is_code(address) and self._headers.is_instructions(address)

    def address_of(self, offset: int) -> ElfAddr | None:
        """Where the file's byte `offset` belongs in memory; None if no segment has it."""
        for segment in self.segments:
            delta = offset - segment.offset
            if 0 <= delta < segment.file_size:
                return ElfAddr(segment.address + delta)
        return None

    def offset_of(self, address: ElfAddr) -> int | None:
        """Where in the file the byte at `address` is; None if it is in no segment of it."""
        return self._headers.offset_of(address)

    @functools.cached_property
    def is_go(self) -> bool:
        """Made by the Go compiler: its runtime finds lines, and stack maps, by this section."""
        names = (".gopclntab", ".data.rel.ro.gopclntab")
        return any(self._headers.section(name) is not None for name in names)

    def lookup(self, name: str, version: str | None = None) -> list[Symbol]:
        """The code of exactly this name, in the order of addresses, one symbol an address.

        Without a version: the default one, as the linker and dlsym(3) choose, and every
        local function of the name; only where there is none of these, the old versions.
        """
        return self._answer(("lookup", name, version), lambda: self._lookup(name, version))

    def _lookup(self, name: str, version: str | None) -> list[Symbol]:
        if not name:
            return []
        encoded = name.encode("utf-8", "surrogateescape")
        found: dict[int, Symbol] = {}
        for table, versions in self._tables_with_versions:
            for entry in table.named(encoded):
                if entry.kind in _CODE_KINDS and self.is_code(entry.value):
                    symbol = symbol_of(entry, versions)
                    if version is None or version == symbol.version:
                        found.setdefault(symbol.address, symbol)
        symbols = [found[address] for address in sorted(found)]
        return [s for s in symbols if s.is_default_version] or symbols

    def named_in_full(self, name: str) -> list[Symbol]:
        """The functions that a programmer calls so, in C++, Rust or Go; one an address."""
        return self._answer(("full", name, None), lambda: self._named_in_full(name))

    def _named_in_full(self, name: str) -> list[Symbol]:
        parts = parts_of(name)
        regex = re.compile(b"".join(rb"(?=.*?%s)" % re.escape(part) for part in parts), re.DOTALL)
        found: dict[int, Symbol] = {}
        for table, versions in self._tables_with_versions:
            for entry in table.matching(regex, FUNCTION_KINDS):
                if self.is_code(entry.value) and entry.value not in found:
                    symbol = symbol_of(entry, versions)
                    if fits(symbol.name, name):
                        found[entry.value] = symbol
        return [found[address] for address in sorted(found)]

    def glob(self, pattern: str, version: str | None = None) -> list[Symbol]:
        """The functions whose names match, one symbol for each address and name.

        Old versions too; `version`, a pattern as well, narrows them.
        """
        found = self._matching(pattern, version)
        return [symbol_of(*found[key]) for key in sorted(found)]

    def glob_best(self, pattern: str, version: str | None = None) -> list[Symbol]:
        """As `glob`, but one symbol for each address: by the likeliest of its names.

        An IFUNC and its resolver have one address and are two functions.
        """
        return self._answer(("glob", pattern, version), lambda: self._glob_best(pattern, version))

    def _glob_best(self, pattern: str, version: str | None) -> list[Symbol]:
        best: dict[tuple[int, bool], tuple[Entry, VersionTable | None]] = {}
        for (address, _), match in self._matching(pattern, version).items():
            key = address, match[0].kind == STT_GNU_IFUNC
            known = best.setdefault(key, match)
            if known is not match and rank_of(*match) < rank_of(*known):
                best[key] = match
        return [symbol_of(*best[key]) for key in sorted(best)]

    def _matching(
        self, pattern: str, version: str | None
    ) -> dict[tuple[int, bytes], tuple[Entry, VersionTable | None]]:
        """Entries by address and name. Hot for `*`: no object of ours but the entry."""
        regex = re.compile(fnmatch.translate(pattern).encode("utf-8", "surrogateescape"), re.DOTALL)
        wanted = re.compile(fnmatch.translate(version)) if version is not None else None
        bounds = self._code.bounds
        found: dict[tuple[int, bytes], tuple[Entry, VersionTable | None]] = {}
        name_bytes = 0
        for table, versions in self._tables_with_versions:
            for entry in table.matching(regex, FUNCTION_KINDS):
                value = entry.value
                if not bisect_right(bounds, value) & 1:
                    continue
                if wanted is not None:
                    stated = symbol_of(entry, versions).version
                    if stated is None or not wanted.match(stated):
                        continue
                found.setdefault((value, entry.name.partition(b"@")[0]), (entry, versions))
                name_bytes += len(entry.name)
                if name_bytes > _MOST_NAME_BYTES:
                    raise UnreadableElf(self.path, f"too many of its names match {pattern!r}")
        return found

    def _answer(
        self, question: tuple[str, str, str | None], find: Callable[[], list[Symbol]]
    ) -> list[Symbol]:
        """What was answered before: all probes are resolved anew at each library's loading."""
        answer = self._answers.get(question)
        if answer is None:
            if len(self._answers) >= _MOST_ANSWERS:
                self._answers.clear()
            answer = self._answers[question] = tuple(find())
        return list(answer)

    def symbol_at(self, address: ElfAddr) -> tuple[Symbol, int] | None:
        """The innermost function that holds the address, and how far into it that is.

        A function whose size is not known (0) counts as reaching to the next one.
        """
        if not self.is_code(address):
            return None
        found = self._functions.at(address)
        if found is None:
            return None
        number, entry = found
        return symbol_of(entry, self._tables_with_versions[number][1]), address - entry.value

    def next_function(self, address: ElfAddr) -> ElfAddr | None:
        """Where the first function after the address begins."""
        start = self._functions.next_start(address)
        return None if start is None else ElfAddr(start)

    def close_names(self, name: str, count: int = 3) -> tuple[str, ...]:
        """Names of functions that the user may have meant, the closest first."""
        return close_names(name, self._function_names(), count)

    def _function_names(self) -> Iterator[str]:
        for table in self._tables:
            for name in table.names(FUNCTION_KINDS):
                yield name.partition(b"@")[0].decode("utf-8", "surrogateescape")

    @functools.cached_property
    def _tables(self) -> tuple[SymbolTable, ...]:
        """The dynamic table first: it has the public names, and their versions."""
        tables = [
            dynamic_table(self._source, self._headers, self._dynamic),
            static_table(self._source, self._headers),
            *self._separate_tables(),
        ]
        return tuple(table for table in tables if table is not None)

    @functools.cached_property
    def _tables_with_versions(self) -> tuple[tuple[SymbolTable, VersionTable | None], ...]:
        return tuple((table, table.versions()) for table in self._tables)

    @functools.cached_property
    def _functions(self) -> FunctionIndex:
        return FunctionIndex(self._tables, self.is_code)

    @functools.cached_property
    def _stub_names(self) -> dict[int, str]:
        return stub_names(self._source, self._headers)

    @functools.cached_property
    def markers(self) -> tuple[Marker, ...]:
        """Its USDT markers."""
        return read_markers(self._source, self._headers, self.is_code)

    @functools.cached_property
    def line_table(self) -> LineTable | None:
        """What it says of source lines, or its debug file; None if neither does."""
        if has_lines(self._headers):
            return LineTable(self._source, self._headers)
        if self._debug_file is None:
            return None
        try:
            headers = read_headers(self._debug_file)
            return LineTable(self._debug_file, headers) if has_lines(headers) else None
        except UnreadableElf:
            return None

    def variable(self, name: str) -> ElfAddr | None:
        """Where the variable of this name is."""
        encoded = name.encode("utf-8", "surrogateescape")
        for table in self._tables:
            for entry in table.named(encoded):
                if entry.kind in (STT_OBJECT, STT_NOTYPE):
                    return ElfAddr(entry.value)
        return None

    @functools.cached_property
    def global_offset_table(self) -> int | None:
        """What the stubs of i386's linkage table are given in EBX, as the file has it."""
        return global_offset_table(self._source, self._headers)

    @functools.cached_property
    def text_relocations(self) -> tuple[int, ...]:
        """Where the dynamic linker changes instructions, in the file's addresses."""
        return text_relocations(self._source, self._headers)

    def is_resolver(self, address: int) -> bool:
        """Whether the program itself would run the function there to find an indirect one's."""
        return address in self._resolvers

    @functools.cached_property
    def _resolvers(self) -> frozenset[int]:
        # As the dynamic linker finds it: section headers may say something else.
        bare = dataclasses.replace(self._headers, sections=())
        public = dynamic_table(self._source, bare, self._dynamic)
        return resolvers_of(self._source, self._headers, self._dynamic, public)

    @property
    def relocation_size(self) -> int:
        """Bytes that one of `text_relocations` changes at the most."""
        return self.elf_class // 8

    def bytes_at(self, address: ElfAddr, size: int) -> bytes:
        """What the file has for an address; nothing if it has not all of it."""
        offset = self.offset_of(address)
        try:
            return b"" if offset is None else self._source.read(offset, size)
        except UnreadableElf:
            return b""

    def stub_at(self, address: ElfAddr) -> tuple[str, int] | None:
        """The function that a stub of the linkage table leads to, and how far into the stub
        the address is."""
        names = self._stub_names
        at = address & ~7
        name = names.get(at)
        if name is None:
            return None
        if at & 15 and names.get(at - 8) == name:
            at -= 8
        return name, address - at

    def is_stub(self, address: ElfAddr) -> bool:
        """Whether a linkage table is there, whose stubs need not have names."""
        return any(address in table for table in self._linkage_tables)

    @functools.cached_property
    def _linkage_tables(self) -> tuple[range, ...]:
        return linkage_tables(self._headers)

    @functools.cached_property
    def call_frames(self) -> CallFrames:
        """How to unwind its stack frames: what the file itself says."""
        return call_frames_of(self._source, self._headers)

    @functools.cached_property
    def separate_call_frames(self) -> CallFrames | None:
        """What its debug file says of that, if there is one."""
        if self._debug_file is None:
            return None
        try:
            return call_frames_of(self._debug_file, read_headers(self._debug_file))
        except UnreadableElf:
            return None

    def _separate_tables(self) -> Iterator[SymbolTable | None]:
        compressed = debug_files.embedded(self._source, self._headers)
        if compressed is not None:
            yield self._static_table_of(compressed)
        if self._debug_file is not None:
            yield self._static_table_of(self._debug_file)

    @functools.cached_property
    def _debug_file(self) -> Source | None:
        """The separate file that is this build's."""
        link = debug_files.read_debug_link(self._source, self._headers)
        # Debug files lie where the file itself is, not where a link to it is.
        origin = self.path if self.root else os.path.realpath(self.path)
        for path, crc in debug_files.candidates(
            origin, self.root, self.build_id, link, self._debug_root
        ):
            try:
                source = FileSource(path, path)
            except UnreadableElf:
                continue  # most candidates do not exist
            if source.identity == self.identity:
                continue
            if crc is not None and not debug_files.crc_matches(source, crc):
                continue
            if self._static_table_of(source) is not None:
                return source
        return None

    def _static_table_of(self, source: Source) -> SymbolTable | None:
        """A debug file's table; a file that cannot be read, or of another build, is as none."""
        try:
            headers = read_headers(source)
            build_id = debug_files.read_build_id(source, headers)
            if self.build_id is not None and build_id not in (None, self.build_id):
                return None
            return static_table(source, headers)
        except UnreadableElf:
            return None


_images: OrderedDict[tuple[FileIdentity, str, str, str], Image] = OrderedDict()


def open_image(
    path: str, *, name: str | None = None, root: str = "", debug_root: str = DEBUG_ROOT
) -> Image:
    """The image of the file that is at `path` now; raises `UnreadableElf`.

    `name` is what the file is called by users and its own process, if not `path`; `root` is
    that process's root directory as seen from here. An unchanged file is read once.
    """
    name = path if name is None else name
    source = FileSource(path, name)
    key = (source.identity, name, root, debug_root)
    image = _images.get(key)
    if image is None:
        image = Image(source, name, root=root, debug_root=debug_root)
        _images[key] = image
        while len(_images) > _MOST_IMAGES:
            _images.popitem(last=False)
    else:
        source.close()
        _images.move_to_end(key)
    return image


@functools.lru_cache(maxsize=8)
def image_from_bytes(data: bytes, name: str) -> Image:
    """The image of a file's content, such as the vDSO's; raises `UnreadableElf`."""
    return Image(BytesSource(data, name), name)
