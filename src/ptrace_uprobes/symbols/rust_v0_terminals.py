"""The terminals of Rust's v0 mangling: numbers, identifiers, constants."""

from __future__ import annotations

from typing import Final

__all__ = ["BASIC_TYPES", "Cursor", "NotRust", "character", "number"]

BASIC_TYPES: Final = {
    "a": "i8",
    "b": "bool",
    "c": "char",
    "d": "f64",
    "e": "str",
    "f": "f32",
    "h": "u8",
    "i": "isize",
    "j": "usize",
    "l": "i32",
    "m": "u32",
    "n": "i128",
    "o": "u128",
    "p": "_",
    "s": "i16",
    "t": "u16",
    "u": "()",
    "v": "...",
    "x": "i64",
    "y": "u64",
    "z": "!",
}
_BASE_62: Final = {
    digit: value
    for value, digit in enumerate("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
}
_DIGITS: Final = frozenset("0123456789")
_HEX_DIGITS: Final = frozenset("0123456789abcdef")
_CHAR_ESCAPES: Final = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}


class NotRust(Exception):
    """The name does not follow the grammar, or goes beyond a limit."""


class Cursor:
    """A place in a mangled name, and what can be read there."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def next(self) -> str:
        if self.at >= len(self.text):
            raise NotRust
        self.at += 1
        return self.text[self.at - 1]

    def eat(self, wanted: str) -> bool:
        if self.text.startswith(wanted, self.at):
            self.at += 1
            return True
        return False

    # base-62-number = {0-9a-zA-Z} "_"
    def base_62(self) -> int:
        if self.eat("_"):
            return 0
        value = 0
        while not self.eat("_"):
            digit = _BASE_62.get(self.next())
            if digit is None or value >> 64:
                raise NotRust
            value = value * 62 + digit
        return value + 1

    # disambiguator = "s" base-62-number
    def disambiguator(self) -> int:
        return self.base_62() + 1 if self.eat("s") else 0

    # undisambiguated-identifier = ["u"] decimal-number ["_"] bytes
    def identifier(self) -> str:
        is_punycode = self.eat("u")
        digits = self.next()
        if digits not in _DIGITS:
            raise NotRust
        if digits != "0":
            while self.at < len(self.text) and self.text[self.at] in _DIGITS:
                digits += self.next()
        if len(digits) > 5:
            raise NotRust
        self.eat("_")
        start = self.at
        self.at += int(digits)
        if self.at > len(self.text):
            raise NotRust
        text = self.text[start : self.at]
        return _from_punycode(text) if is_punycode else text

    def hex_digits(self) -> str:
        start = self.at
        while (digit := self.next()) != "_":
            if digit not in _HEX_DIGITS:
                raise NotRust
        return self.text[start : self.at - 1]


def number(digits: str) -> str:
    if not digits:
        raise NotRust
    return str(int(digits, 16)) if len(digits) <= 16 else f"0x{digits}"


def character(digits: str) -> str:
    if not 0 < len(digits) <= 8:
        raise NotRust
    code = int(digits, 16)
    # As c++filt has it: no space and no tilde.
    if code in _CHAR_ESCAPES:
        return f"'{_CHAR_ESCAPES[code]}'"
    return f"'{chr(code)}'" if 0x20 < code < 0x7E else f"'\\u{{{code:x}}}'"


def _from_punycode(text: str) -> str:
    ascii_part, _, rest = text.rpartition("_")
    try:
        decoded = (f"{ascii_part}-{rest}" if ascii_part else rest).encode().decode("punycode")
    except UnicodeError:
        raise NotRust from None
    if not decoded.isprintable():
        raise NotRust  # surrogates, and whatever would upset a terminal
    return decoded
