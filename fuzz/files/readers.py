"""Everything that reads an ELF file, made to read one; the answers do not matter, only that
there are some, or one of the project's errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace

from ptrace_uprobes.addresses import ElfAddr, FileOffset, VirtAddr
from ptrace_uprobes.definition.spec import parse_spec
from ptrace_uprobes.errors import UprobesError
from ptrace_uprobes.linux.maps import Mapping
from ptrace_uprobes.symbols.demangle import demangle
from ptrace_uprobes.symbols.image import Image
from ptrace_uprobes.symbols.marker_operands import operands_of
from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.symbols.resolve import explain_missing, resolve
from ptrace_uprobes.symbols.source import BytesSource, FileSource, MemorySource, Source
from ptrace_uprobes.unwind import Unwinder
from ptrace_uprobes.unwind.tables import tables_of

__all__ = ["read_everything", "words"]

_BIAS = 0x7F00_0000_0000
_STACK = 0x7FFF_0000_0000
_MOST_ADDRESSES = 40
_MOST_DEMANGLED = 200


def words(rng: Random, low: int, high: int) -> Callable[[int, int], bytes]:
    """A stack of words that may be return addresses, frame pointers, or anything."""
    numbers = []
    for index in range(1024):
        choice = rng.random()
        if choice < 0.5:
            numbers.append(rng.randrange(low, max(high, low + 1)))
        elif choice < 0.9:
            numbers.append(_STACK + rng.randrange(index, 1024) * 8)
        else:
            numbers.append(rng.getrandbits(64))
    data = b"".join((number & (1 << 64) - 1).to_bytes(8, "little") for number in numbers)

    def read(address: int, size: int) -> bytes:
        offset = address - _STACK
        return data[offset : offset + size] if 0 <= offset < len(data) else b""

    return read


def read_everything(
    path: Path, seed: int, names: tuple[str, ...], loads: tuple[Mapping, ...]
) -> str:
    """Read the file at `path` in every way; gives what became of it, in a word.

    `names` are some that the undamaged file has; `loads`, how the undamaged file is mapped.
    """
    rng = Random(seed)
    outcome = "read"
    data = path.read_bytes() if path.stat().st_size < 1 << 26 else b""
    for make in _sources(path, data, loads):
        try:
            source, bias = make()
            _ask(Image(source, str(path), bias_in_memory=bias), rng, names)
        except UprobesError as error:
            outcome = type(error).__name__
    return outcome


def _sources(
    path: Path, data: bytes, loads: tuple[Mapping, ...]
) -> Iterator[Callable[[], tuple[Source, int | None]]]:
    yield lambda: (FileSource(str(path), str(path)), None)
    if data:
        yield lambda: (BytesSource(data, "bytes"), None)
    if data and loads:

        def memory(address: int, size: int) -> bytes:
            for mapping in loads:
                if mapping.contains(address):
                    at = mapping.offset + address - mapping.start
                    return data[at : at + size].ljust(size, b"\0")
            raise AssertionError("read where nothing is mapped")

        yield lambda: (MemorySource(memory, loads, "memory"), loads[0].start)


def _ask(image: Image, rng: Random, names: tuple[str, ...]) -> None:
    places = _addresses(image, rng)
    for name in names:
        image.lookup(name)
        image.lookup(name, "GLIBC_2.2.5")
        image.glob(f"{name[:4]}*{name[-1:]}", "*")
    for number in range(12):  # enough for an index to be made
        image.lookup(f"no_such_name_{number}")
    symbols = image.glob_best("*")
    for symbol in symbols[:_MOST_DEMANGLED]:
        demangle(symbol.label)
    image.close_names("mallco")
    for address in places:
        image.symbol_at(address)
        image.next_function(address)
        image.stub_at(address)
        image.is_instructions(address)
        image.offset_of(address)
        image.address_of(FileOffset(address))
        tables_of(image).row_at(address)
        tables_of(image).extent_of(address)
    _ = image.is_go, image.identity, image.build_id, image.soname, image.separate_call_frames
    for marker in image.markers:
        operands_of(image, marker)
    if image.line_table is not None:
        for name in sorted(image.line_table.names())[:8]:
            image.line_table.find(name, 8)
    segments = image.segments
    low = min((s.address for s in segments), default=0)
    high = max((s.address + s.memory_size for s in segments), default=0)
    module = Module(
        "/hostile", image, _BIAS, VirtAddr(_BIAS + low), VirtAddr(_BIAS + high), is_main=True
    )
    for text in (*names[:3], "no_such_name", "mem*", "0x1234", f"{names[0]}+0x4", "memcpy@V1"):
        spec = parse_spec(text)
        try:
            resolve(spec, [module])
        except UprobesError:
            pass
        str(explain_missing(spec, [module]))
    _walk(module, rng, _BIAS + low, min(_BIAS + high, (1 << 64) - 1), places)


def _addresses(image: Image, rng: Random) -> list[ElfAddr]:
    places = [ElfAddr(0), image.entry, ElfAddr((1 << 64) - 1)]
    for segment in image.segments[:8]:
        end = segment.address + segment.memory_size
        places += [segment.address, ElfAddr(end - 1), ElfAddr(end)]
        places += [ElfAddr(segment.address + rng.randrange(max(1, segment.memory_size)))
                   for _ in range(6)]  # fmt: skip
    return places[:_MOST_ADDRESSES]


def _walk(module: Module, rng: Random, low: int, high: int, places: list[ElfAddr]) -> None:
    read = words(rng, low, high)
    unwinder = Unwinder(lambda address: module if module.contains(address) else None, read)
    for place in rng.sample(places, min(6, len(places))):
        registers = SimpleNamespace(
            **{name: rng.getrandbits(64) for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi")},
            **{f"r{number}": rng.getrandbits(64) for number in range(8, 16)},
            rip=_BIAS + place & (1 << 64) - 1,
            rsp=_STACK + rng.randrange(64) * 8,
            rbp=_STACK + rng.randrange(128) * 8,
        )
        stack = unwinder.walk(registers, 64)
        assert 1 <= len(stack) <= 64
        for frame in stack:
            assert 0 <= frame.address < 1 << 64, frame
        unwinder.frame_ends(registers, 64)
