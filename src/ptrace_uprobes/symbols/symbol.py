"""A name for code."""

from __future__ import annotations

from dataclasses import dataclass

from ptrace_uprobes.addresses import ElfAddr
from ptrace_uprobes.symbols.tables import STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, Entry
from ptrace_uprobes.symbols.versions import VersionTable

__all__ = ["FUNCTION_KINDS", "Symbol", "rank_of", "symbol_of"]

FUNCTION_KINDS = frozenset((STT_FUNC, STT_GNU_IFUNC))


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name for code, as an ELF file states it."""

    name: str
    """Without its version."""
    address: ElfAddr
    size: int
    """In bytes; 0 if not known, as of functions written in assembly."""
    is_function: bool
    """False for an untyped symbol, such as an assembler's label."""
    is_ifunc: bool
    """Its address is of a resolver, which returns the address of the function."""
    version: str | None = None
    is_default_version: bool = True
    """False for `NAME@VERSION`, kept for programs linked long ago; true for `NAME@@VERSION`."""
    is_local: bool = False

    @property
    def label(self) -> str:
        """The name, with its version where it is not the one that the bare name means."""
        return self.name if self.is_default_version else f"{self.name}@{self.version}"


def symbol_of(entry: Entry, versions: VersionTable | None) -> Symbol:
    """The symbol that a table's entry is; `versions` are those of its table."""
    name, at, version = entry.name.decode("utf-8", "surrogateescape").partition("@")
    is_default = not at or version.startswith("@")
    named = version.removeprefix("@") if at else None
    if versions is not None and (stated := versions.of(entry.number)) is not None:
        named, is_default = stated.name, stated.is_default
    return Symbol(
        name=name,
        address=ElfAddr(entry.value),
        size=entry.size,
        is_function=entry.kind in FUNCTION_KINDS,
        is_ifunc=entry.kind == STT_GNU_IFUNC,
        version=named,
        is_default_version=is_default,
        is_local=entry.binding == STB_LOCAL,
    )


def rank_of(entry: Entry, versions: VersionTable | None) -> tuple[bool, bool, int, int, bytes]:
    """Orders the symbols of one address: the likeliest that a user knows is first."""
    name, at, version = entry.name.partition(b"@")
    is_old = bool(at) and not version.startswith(b"@")
    if versions is not None and (stated := versions.of(entry.number)) is not None:
        is_old = not stated.is_default
    underscores = len(name) - len(name.lstrip(b"_"))
    return entry.binding == STB_LOCAL, is_old, underscores, len(name), name
