"""A SPEC says where a probe belongs, or what is wrong with it and at which character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptrace_uprobes.definition.spec import Spec, parse_spec
from ptrace_uprobes.errors import BadSpec


def _parts(text: str) -> tuple[str | None, str | None, str | None, int, int | None]:
    spec = parse_spec(text)
    return spec.module, spec.name, spec.version, spec.offset, spec.address


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("malloc", (None, "malloc", None, 0, None)),
        ("malloc+0x4", (None, "malloc", None, 4, None)),
        ("malloc+12", (None, "malloc", None, 12, None)),
        ("libc:malloc", ("libc", "malloc", None, 0, None)),
        ("libc.so.6:malloc+0X1f", ("libc.so.6", "malloc", None, 0x1F, None)),
        ("/usr/bin/sort:main", ("/usr/bin/sort", "main", None, 0, None)),
        ("./a program:main", ("./a program", "main", None, 0, None)),
        ("/srv/a:b/prog:main", ("/srv/a:b/prog", "main", None, 0, None)),
        ("[vdso]:clock_gettime", ("[vdso]", "clock_gettime", None, 0, None)),
        ("0x401234", (None, None, None, 0, 0x401234)),
        ("prog:0X401234", ("prog", None, None, 0, 0x401234)),
        ("memcpy@GLIBC_2.2.5", (None, "memcpy", "GLIBC_2.2.5", 0, None)),
        ("libc:memcpy@@GLIBC_2.14+8", ("libc", "memcpy", "GLIBC_2.14", 8, None)),
        ("_ZN3foo3barEv", (None, "_ZN3foo3barEv", None, 0, None)),
        ("foo.constprop.0", (None, "foo.constprop.0", None, 0, None)),
        ("p:main", ("p", "main", None, 0, None)),
        ("usdt:main", ("usdt", "main", None, 0, None)),
        ("libc:malloc ", ("libc", "malloc", None, 0, None)),
    ],
)
def test_every_form_of_a_spec_is_taken_apart(
    text: str, parts: tuple[str | None, str | None, str | None, int, int | None]
) -> None:
    assert _parts(text) == parts
    assert parse_spec(text).text == text


@pytest.mark.parametrize(
    ("text", "module", "name", "offset"),
    [
        ("std::sort", None, "std::sort", 0),
        ("./prog:ns::W::get(int)+0x4", "./prog", "ns::W::get(int)", 4),
        ('libx:"ns::W::get(int, char*) const"+8', "libx", "ns::W::get(int, char*) const", 8),
        ('"malloc"', None, "malloc", 0),
        ("main.(*T).Add", None, "main.(*T).Add", 0),
        ("prog:main.(*T).Add", "prog", "main.(*T).Add", 0),
        ("ns::operator+", None, "ns::operator+", 0),
        ("prog:r::main::{{closure}}", "prog", "r::main::{{closure}}", 0),
    ],
)
def test_a_name_as_a_programmer_writes_it(
    text: str, module: str | None, name: str, offset: int
) -> None:
    spec = parse_spec(text)
    assert (spec.module, spec.name, spec.offset) == (module, name, offset)
    assert spec.is_full
    assert not spec.is_glob


@pytest.mark.parametrize("text", ["mem*", "libc:mem?py", "libc:[a-m]*", "*", "memcpy@GLIBC*"])
def test_a_pattern_in_the_name_or_its_version_is_a_glob(text: str) -> None:
    assert parse_spec(text).is_glob


@pytest.mark.parametrize("text", ["malloc", "/tmp/[x]*/prog:main", "[vdso]:time", "0x10"])
def test_a_pattern_elsewhere_is_no_glob(text: str) -> None:
    assert not parse_spec(text).is_glob


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [
        ("", 0, "empty"),
        ("  ", 0, "empty"),
        (":malloc", 0, "module's name"),
        ("libc:", 5, "missing"),
        ("libc:+4", 5, "symbol's name"),
        ("malloc+", 7, "offset"),
        ("malloc+x", 7, "offset"),
        ("malloc+0x", 7, "offset"),
        ("malloc+-4", 7, "offset"),
        ("0x", 2, "digits"),
        ("libc:0x12zz", 9, "hexadecimal"),
        ("0x10+4", 4, "nothing more"),
        ("0x10000000000000000", 0, "64 bits"),
        ("12345", 0, "hexadecimal"),
        ("file.c:0", 7, "a line is a number from 1 on"),
        ("file.c:1234567890", 7, "a line is a number from 1 on"),
        ("src/:42", 4, "a source file's name is missing"),
        (":42", 0, "module's name"),
        ("libc:mem*+4", 9, "one symbol"),
        ("malloc@", 6, "NAME@VERSION"),
        ("malloc@A@B", 6, "NAME@VERSION"),
        ("malloc%return", 6, "'%return' is not understood"),
        ("0x401234%return", 8, "nothing more"),
        ("malloc%foo", 6, "'%foo' is not understood"),
        ("malloc size", 6, "' ' cannot be part"),
        ('"ns::f', 6, "missing behind the name"),
        ('libc:"f"x', 8, "nothing but +OFFSET"),
        ('"ns::f"+x', 8, "an offset"),
        ("ns::f%x", 5, "'%' cannot be part of a name"),
        ('""', 0, "symbol's name is missing"),
        ("::", 0, "symbol's name is missing"),
        ("operator()", 8, "'(' cannot be part"),
        ("mal\0loc", 3, "NUL"),
        ("\ud800", 0, "not text"),
    ],
)
def test_what_is_wrong_is_said_with_its_position(text: str, position: int, why: str) -> None:
    with pytest.raises(BadSpec) as caught:
        parse_spec(text)
    assert caught.value.position == position
    assert why in str(caught.value)
    assert caught.value.exit_status == 2


@given(st.text())
def test_any_text_is_a_spec_or_a_bad_spec(text: str) -> None:
    spec = None
    position = 0
    try:
        spec = parse_spec(text)
    except BadSpec as error:
        position = error.position
    assert 0 <= position <= len(text)
    assert spec is None or (spec.name is None) != (spec.address is None)


_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.$]{0,20}", fullmatch=True)


@given(
    module=st.none() | _names,
    name=_names,
    version=st.none() | _names,
    offset=st.integers(0, 1 << 32),
)
def test_a_spec_that_is_put_together_is_taken_apart_again(
    module: str | None, name: str, version: str | None, offset: int
) -> None:
    place = Spec("", None, name, version, offset, None).place
    text = place if module is None else f"{module}:{place}"
    assert _parts(text) == (module, name, version, offset, None)
