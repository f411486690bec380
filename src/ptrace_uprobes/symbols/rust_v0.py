"""Rust's v0 mangling, read and printed in one pass (rustc's book, "v0 Symbol Format").

One method for each rule of the grammar, which stands above it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar

from ptrace_uprobes.symbols.rust_v0_terminals import BASIC_TYPES, Cursor, NotRust, character, number

__all__ = ["demangle_v0"]

_SYMBOL: Final = re.compile(r"_R([A-Za-z][A-Za-z0-9_]*)(?:\..*)?\Z", re.DOTALL)

_DEEPEST: Final = 150
"""Four times the depth of any name in the compiler itself, and far from Python's own limit."""
_MOST_STEPS: Final = 20_000
_LONGEST_ANSWER: Final = 1 << 15


def demangle_v0(name: str) -> str | None:
    """What `name` stands for; None if it is no v0 name."""
    match = _SYMBOL.match(name)
    if match is None:
        return None
    try:
        return _Reader(match[1]).symbol()
    except (NotRust, RecursionError):
        return None


_T = TypeVar("_T")


class _Reader(Cursor):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._printed: list[str] = []
        self._length = 0
        self._is_silent = False
        self._depth = 0
        self._steps = 0
        self._bound_lifetimes = 0

    # symbol-name = "_R" path [instantiating-crate]
    def symbol(self) -> str:
        self._path(in_value=True)
        if self.at < len(self.text):
            self._is_silent = True
            self._path(in_value=False)
        if self.at != len(self.text):
            raise NotRust
        return "".join(self._printed)

    def _print(self, text: str) -> None:
        if not self._is_silent:
            self._length += len(text)
            if self._length > _LONGEST_ANSWER:
                raise NotRust
            self._printed.append(text)

    def _enter(self) -> None:
        self._depth += 1
        self._steps += 1
        if self._depth > _DEEPEST or self._steps > _MOST_STEPS:
            raise NotRust

    # backref = "B" base-62-number
    def _follow(self, read: Callable[[], _T]) -> _T | None:
        """Reads again from an earlier place; not where nothing is printed."""
        start = self.at - 1
        target = self.base_62()
        if target >= start:
            raise NotRust
        if self._is_silent:
            return None
        back, self.at = self.at, target
        answer = read()
        self.at = back
        return answer

    def _path(self, *, in_value: bool) -> None:
        self._enter()
        tag = self.next()
        if tag == "C":  # crate root
            self.disambiguator()
            self._print(self.identifier())
        elif tag == "N":  # namespace path identifier
            self._nested_path(in_value)
        elif tag in "MXY":  # [impl-path] type [path]
            self._impl_path(tag)
        elif tag == "I":  # path {generic-arg} "E"
            self._path(in_value=in_value)
            if in_value:
                self._print("::")
            self._print("<")
            self._generic_arguments()
            self._print(">")
        elif tag == "B":
            self._follow(lambda: self._path(in_value=in_value))
        else:
            raise NotRust
        self._depth -= 1

    def _nested_path(self, in_value: bool) -> None:
        namespace = self.next()
        if not namespace.isalpha():
            raise NotRust
        self._path(in_value=in_value)
        number = self.disambiguator()
        name = self.identifier()
        if namespace.isupper():
            kind = {"C": "closure", "S": "shim"}.get(namespace, namespace)
            self._print(f"::{{{kind}{':' if name else ''}{name}#{number}}}")
        elif name:
            self._print(f"::{name}")

    def _impl_path(self, tag: str) -> None:
        if tag != "Y":
            self.disambiguator()
            was_silent, self._is_silent = self._is_silent, True
            self._path(in_value=False)
            self._is_silent = was_silent
        self._print("<")
        self._type()
        if tag != "M":
            self._print(" as ")
            self._path(in_value=False)
        self._print(">")

    def _generic_arguments(self) -> None:
        first = True
        while not self.eat("E"):
            if not first:
                self._print(", ")
            first = False
            if self.eat("L"):
                self._print_lifetime(self.base_62())
            elif self.eat("K"):
                self._const()
            else:
                self._type()

    def _print_lifetime(self, number: int) -> None:
        """By de Bruijn: 0 is erased, 1 the innermost bound one."""
        if number == 0:
            self._print("'_")
            return
        depth = self._bound_lifetimes - number
        if depth < 0:
            raise NotRust
        self._print(f"'{chr(ord('a') + depth)}" if depth < 26 else f"'_{depth}")

    # binder = "G" base-62-number
    def _binder(self) -> int:
        """Binds lifetimes; the caller ends their scope. Gives how many."""
        if not self.eat("G"):
            return 0
        count = self.base_62() + 1
        if count > 64:
            raise NotRust
        self._print("for<")
        for already in range(count):
            if already:
                self._print(", ")
            self._bound_lifetimes += 1
            self._print_lifetime(1)
        self._print("> ")
        return count

    def _type(self) -> None:
        self._enter()
        tag = self.next()
        if tag in BASIC_TYPES:
            self._print(BASIC_TYPES[tag])
        elif tag in "RQ":
            self._print("&")
            if self.eat("L") and (lifetime := self.base_62()):
                self._print_lifetime(lifetime)
                self._print(" ")
            if tag == "Q":
                self._print("mut ")
            self._type()
        elif tag in "PO":
            self._print("*const " if tag == "P" else "*mut ")
            self._type()
        elif tag in "AS":
            self._print("[")
            self._type()
            if tag == "A":
                self._print("; ")
                self._const()
            self._print("]")
        elif tag == "T":
            self._print("(")
            count = self._types()
            self._print(",)" if count == 1 else ")")
        elif tag == "F":
            bound = self._binder()
            self._function_type()
            self._bound_lifetimes -= bound
        elif tag == "D":
            self._print("dyn ")
            bound = self._binder()
            self._dyn_bounds()
            self._bound_lifetimes -= bound
            if not self.eat("L"):
                raise NotRust
            if lifetime := self.base_62():
                self._print(" + ")
                self._print_lifetime(lifetime)
        elif tag == "B":
            self._follow(self._type)
        else:
            self.at -= 1
            self._path(in_value=False)
        self._depth -= 1

    def _types(self) -> int:
        count = 0
        while not self.eat("E"):
            if count:
                self._print(", ")
            self._type()
            count += 1
        return count

    # fn-sig = [binder] ["U"] ["K" abi] {type} "E" type
    def _function_type(self) -> None:
        if self.eat("U"):
            self._print("unsafe ")
        if self.eat("K"):
            abi = "C" if self.eat("C") else self.identifier()
            self._print(f'extern "{abi.replace("_", "-")}" ')
        self._print("fn(")
        self._types()
        self._print(")")
        if not self.eat("u"):
            self._print(" -> ")
            self._type()

    # dyn-bounds = [binder] {path {"p" undisambiguated-identifier type}} "E"
    def _dyn_bounds(self) -> None:
        first = True
        while not self.eat("E"):
            if not first:
                self._print(" + ")
            first = False
            is_open = self._open_path()
            while self.eat("p"):
                self._print(", " if is_open else "<")
                is_open = True
                self._print(f"{self.identifier()} = ")
                self._type()
            if is_open:
                self._print(">")

    def _open_path(self) -> bool:
        """A path whose list of arguments, if it has one, is not closed yet: whether it has."""
        self._enter()
        is_open = False
        if self.eat("B"):
            is_open = bool(self._follow(self._open_path))
        elif self.eat("I"):
            self._path(in_value=False)
            self._print("<")
            self._generic_arguments()
            is_open = True
        else:
            self._path(in_value=False)
        self._depth -= 1
        return is_open

    # const = type const-data | "p" | backref;  const-data = ["n"] {hex-digit} "_"
    def _const(self) -> None:
        self._enter()
        tag = self.next()
        if tag == "B":
            self._follow(self._const)
        elif tag == "p":
            self._print("_")
        elif tag in "htmyoj":
            self._print(number(self.hex_digits()))
        elif tag in "aslxni":
            sign = "-" if self.eat("n") else ""
            self._print(sign + number(self.hex_digits()))
        elif tag == "b":
            text = self.hex_digits()
            if text not in ("0", "1"):
                raise NotRust
            self._print("true" if text == "1" else "false")
        elif tag == "c":
            self._print(character(self.hex_digits()))
        else:
            raise NotRust
        self._depth -= 1
