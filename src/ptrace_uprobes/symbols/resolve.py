"""Specs to places: which addresses of a process a user's words mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ptrace_uprobes.addresses import ElfAddr, VirtAddr
from ptrace_uprobes.definition.spec import Spec
from ptrace_uprobes.errors import (
    BadAddress,
    LineNotFound,
    MarkerNotFound,
    ModuleNotLoaded,
    SymbolNotFound,
    UnreadableElf,
    UprobesError,
)
from ptrace_uprobes.symbols.close_names import close_names
from ptrace_uprobes.symbols.demangle import demangle
from ptrace_uprobes.symbols.markers import Marker
from ptrace_uprobes.symbols.modules import Module, ModuleList, is_name_of
from ptrace_uprobes.symbols.symbol import Symbol

__all__ = ["Place", "explain_missing", "resolve"]


@dataclass(frozen=True, slots=True)
class Place:
    """An address to probe, and what it is called."""

    module: Module
    symbol: Symbol | None
    """What it was found by; for an address, the function that holds it."""
    address: VirtAddr
    """Where the probe belongs; for an IFUNC, where its resolver begins."""
    label: str
    """`malloc`, `malloc+0x4`, `0x401234`."""
    is_ifunc: bool
    """The probe belongs at what the resolver at `address` returns, plus `offset`."""
    offset: int = 0
    """Bytes past the symbol."""
    marker: Marker | None = None
    """The USDT marker that is here, if it was found by that."""


def resolve(spec: Spec, modules: Sequence[Module]) -> list[Place]:
    """The places that the spec names in these modules, one an address; none is no error.

    Raises `BadAddress` if the only such places hold no code, and `UnreadableElf` if the
    module that the spec names cannot be read any more.
    """
    if spec.file_offset is not None:
        return list(_resolve_file_offset(spec, spec.file_offset, modules))
    if spec.name is None:
        return _resolve_address(spec, modules)
    for group in _searched(spec, modules):
        places: dict[tuple[int, bool], Place] = {}
        refused: BadAddress | None = None
        for module in group:
            try:
                for place in _in_module(spec, module):
                    places.setdefault((place.address, place.is_ifunc), place)
            except BadAddress as error:
                refused = error
            except UnreadableElf:
                # Of a file that has been damaged since it was loaded: others may have the name.
                if spec.module is not None:
                    raise
        if places:
            return list(places.values())
        if refused is not None:
            raise refused
    return []


def _searched(spec: Spec, modules: Sequence[Module]) -> Iterator[Sequence[Module]]:
    """Groups of modules, each searched only if nothing is in those before."""
    if spec.module is not None:
        yield [module for module in modules if module.matches(spec.module)]
        return
    yield [module for module in modules if module.is_main]
    yield [module for module in modules if not module.is_main]


def _in_module(spec: Spec, module: Module) -> Iterator[Place]:
    assert spec.name is not None
    if spec.line is not None:
        yield from _lines(spec.name, spec.line, module)
        return
    if spec.provider is not None:
        yield from _markers(spec.name, spec.provider, module)
        return
    if spec.is_glob:
        for symbol in module.image.glob_best(spec.name, spec.version):
            yield _place(module, symbol, symbol.label, 0)
        return
    if spec.is_full:
        for symbol in module.image.named_in_full(spec.name):
            if spec.offset:
                _check_offset(spec, module, symbol)
            label = demangle(symbol.name) + (f"+{spec.offset:#x}" if spec.offset else "")
            yield _place(module, symbol, label, spec.offset)
        return
    for symbol in module.image.lookup(spec.name, spec.version):
        label = symbol.label if spec.version is None else f"{symbol.name}@{spec.version}"
        if spec.offset:
            _check_offset(spec, module, symbol)
            label += f"+{spec.offset:#x}"
        yield _place(module, symbol, label, spec.offset)


def _lines(file: str, line: int, module: Module) -> Iterator[Place]:
    table = module.image.line_table
    if table is None:
        return
    for address in map(ElfAddr, table.find(file, line).addresses):
        if module.image.is_instructions(address):
            found = module.image.symbol_at(address)
            symbol = found[0] if found is not None else None
            yield Place(module, symbol, module.to_virtual(address), f"{file}:{line}", False)


def _markers(name: str, provider: str, module: Module) -> Iterator[Place]:
    for marker in module.image.markers:
        if fnmatchcase(marker.name, name) and fnmatchcase(marker.provider, provider or "*"):
            address = module.to_virtual(marker.address)
            yield Place(module, None, address, marker.label, False, marker=marker)


def _place(module: Module, symbol: Symbol, label: str, offset: int) -> Place:
    start = module.to_virtual(symbol.address)
    address = start if symbol.is_ifunc else VirtAddr(start + offset)
    return Place(module, symbol, address, label, symbol.is_ifunc, offset)


def _check_offset(spec: Spec, module: Module, symbol: Symbol) -> None:
    if symbol.is_ifunc:
        return  # the size is the resolver's
    address = module.to_virtual(symbol.address) + spec.offset
    if symbol.size and spec.offset >= symbol.size:
        raise BadAddress(address, f"{symbol.name} in {module.name} has only {symbol.size} bytes")
    if not module.image.is_code(symbol.address + spec.offset):
        raise BadAddress(address, f"{module.name} has no code there")


def _resolve_address(spec: Spec, modules: Sequence[Module]) -> list[Place]:
    assert spec.address is not None
    label = f"{spec.address:#x}"
    places = []
    for module in modules:
        if spec.module is None:
            if not module.contains(spec.address):
                continue
            address = module.to_elf(VirtAddr(spec.address))
        elif module.matches(spec.module):
            address = ElfAddr(spec.address)
        else:
            continue
        if not module.image.is_code(address):
            raise BadAddress(spec.address, f"{module.name} has no code there")
        found = module.image.symbol_at(address)
        symbol = found[0] if found is not None else None
        places.append(Place(module, symbol, module.to_virtual(address), label, False))
    return places


def _resolve_file_offset(spec: Spec, offset: int, modules: Sequence[Module]) -> Iterator[Place]:
    for module in modules:
        if spec.module is None or not module.matches(spec.module):
            continue
        address = module.image.address_of(offset)
        if address is None or not module.image.is_code(address):
            raise BadAddress(offset, f"{module.name} has no code at that offset")
        found = module.image.symbol_at(address)
        symbol = found[0] if found is not None else None
        yield Place(module, symbol, module.to_virtual(address), f"{offset:#x}", False)


def explain_missing(spec: Spec, modules: Sequence[Module]) -> UprobesError:
    """Why `resolve` found nothing, as an error to raise once no more modules will come."""
    searched = modules
    if spec.module is not None:
        searched = [module for module in modules if module.matches(spec.module)]
        if not searched:
            for error in modules.skipped if isinstance(modules, ModuleList) else ():
                if is_name_of(spec.module, error.path):
                    return error
            return ModuleNotLoaded(spec.module, tuple(module.name for module in modules))
    if spec.name is None:
        return BadAddress(
            spec.address or 0,
            "no program or library is loaded there; code that belongs to no file, as that of a "
            "just-in-time compiler, cannot be probed",
        )
    where = _names(searched)
    if spec.line is not None:
        return _explain_line(spec.name, spec.line, searched)
    if spec.provider is not None:
        labels = sorted({marker.label for module in searched for marker in module.image.markers})
        close = tuple(label for label in labels if label.endswith(f":{spec.name}"))
        wanted = spec.place.removeprefix(":")
        close = close or close_names(wanted, labels) or tuple(labels)
        return MarkerNotFound(wanted, where, close[:3])
    if spec.is_glob:
        return SymbolNotFound(spec.place, where)
    if spec.is_full:
        return SymbolNotFound(spec.name, where)
    if spec.version is not None:
        versions = sorted(
            {
                f"{symbol.name}@{symbol.version}"
                for module in searched
                for symbol in module.image.glob(_escaped(spec.name))
                if symbol.version is not None
            }
        )
        if versions:
            return SymbolNotFound(spec.place, where, tuple(versions[:3]))
    if spec.module is not None:
        others = [module for module in modules if module not in searched]
        has_it = [m.name for m in others if _has(m, spec.name)]
        if has_it:
            return SymbolNotFound(
                spec.place, where, tuple(f"{module}:{spec.name}" for module in has_it[:3])
            )
    names = [name for module in searched for name in _close_names(module, spec.name)]
    return SymbolNotFound(spec.place, where, close_names(spec.name, names))


def _explain_line(file: str, line: int, modules: Sequence[Module]) -> LineNotFound:
    where = _names(modules)
    near: set[int] = set()
    known: set[str] = set()
    having: list[Module] = []
    has_any = False
    for module in modules:
        table = module.image.line_table
        if table is not None:
            answer = table.find(file, line)
            having += [module] if answer.files else []
            near.update(answer.near)
            known |= table.names()
            has_any = True
    if having:
        lines = sorted(near, key=lambda one: abs(one - line))[:2]
        shown = " and ".join(map(str, sorted(lines)))
        hint = f"the closest that has is {shown}" if len(lines) == 1 else f"{shown} have"
        return LineNotFound(
            file, line, f"line {line} of {file} has no code in {_names(having)}; {hint}"
        )
    if has_any:
        close = close_names(file.rpartition("/")[2], known)
        hint = f"; close names: {', '.join(close)}" if close else ""
        return LineNotFound(file, line, f"no source file {file!r} in {where}{hint}")
    why = "it was built without -g, or its debug file is not installed"
    return LineNotFound(file, line, f"{where} says nothing of source lines: {why}")


def _has(module: Module, name: str) -> bool:
    try:
        return bool(module.image.lookup(name))
    except UnreadableElf:
        return False


def _close_names(module: Module, name: str) -> tuple[str, ...]:
    try:
        return module.image.close_names(name)
    except UnreadableElf:
        return ()


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _names(modules: Sequence[Module]) -> str:
    names = [module.name for module in modules]
    if len(names) <= 4:
        return ", ".join(names) or "any loaded module"
    return f"{', '.join(names[:3])} and {len(names) - 3} more loaded modules"
