"""One definition, three notations; whatever else is typed has a position and a reason."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ptrace_uprobes.definition.definition import Definition, Notation, parse_definition
from ptrace_uprobes.definition.fetcharg import FetchArg
from ptrace_uprobes.definition.fetcharg_format import format_fetcharg
from ptrace_uprobes.definition.spec import Spec
from ptrace_uprobes.errors import BadSpec
from tests.unit.definition.fetcharg_strategies import fetchargs, names


def _same(left: Definition, right: Definition) -> bool:
    """Equal but for how they were written."""

    def facts(one: Definition) -> tuple[object, ...]:
        place = one.place
        where = (place.module, place.name, place.version, place.offset, place.address)
        kernel = (place.file_offset, one.group, one.event, one.ref_ctr_offset)
        return (*where, *kernel, one.is_return, one.fetchargs)

    return facts(left) == facts(right)


def test_three_notations_say_the_same() -> None:
    ours = parse_definition("/lib/libc.so.6:malloc size=%di:u64")
    bpftrace = parse_definition("uprobe:/lib/libc.so.6:malloc size=%di:u64")
    kernel = parse_definition("p /lib/libc.so.6:malloc size=%di:u64")
    assert _same(ours, bpftrace)
    assert _same(ours, kernel)
    assert [one.notation for one in (ours, bpftrace, kernel)] == list(Notation)


def test_three_notations_say_that_it_is_about_the_return() -> None:
    texts = [
        "/bin/sort:main%return code=$retval:s32",
        "uretprobe:/bin/sort:main code=$retval:s32",
        "r /bin/sort:main code=$retval:s32",
        "p /bin/sort:main%return code=$retval:s32",
    ]
    first, *others = map(parse_definition, texts)
    assert first.is_return
    assert all(_same(first, other) for other in others)


@pytest.mark.parametrize(
    ("text", "module", "provider", "name"),
    [
        ("usdt:libc:setjmp", "libc", "", "setjmp"),
        ("usdt:libc::setjmp arg0", "libc", "", "setjmp"),
        ("U:/lib/libc.so.6:libc:set* a=arg1:u32", "/lib/libc.so.6", "libc", "set*"),
        ("usdt:/srv/a:b/prog:*:n", "/srv/a:b/prog", "*", "n"),
        ("usdt:/srv/a:b/prog:n", "/srv/a:b/prog", "", "n"),
    ],
)
def test_a_marker_has_a_module_a_provider_and_a_name(
    text: str, module: str, provider: str, name: str
) -> None:
    definition = parse_definition(text)
    place = definition.place
    assert (place.module, place.provider, place.name) == (module, provider, name)
    assert place.is_glob == ("*" in f"{provider}{name}")
    assert not place.is_symbol
    again = parse_definition(definition.canonical())
    assert (again.place.module, again.place.provider, again.place.name) == (module, provider, name)


@pytest.mark.parametrize(
    ("text", "module", "file", "line"),
    [
        ("sort.c:42", None, "sort.c", 42),
        ("sort.c:042 %di", None, "sort.c", 42),
        ("libc:src/sort.c:7", "libc", "src/sort.c", 7),
        ("./a b/prog:/usr/src/a.c:9 %di", "./a b/prog", "/usr/src/a.c", 9),
        ("uprobe:./prog:a.c:9", "./prog", "a.c", 9),
    ],
)
def test_a_line_of_a_source_file(text: str, module: str | None, file: str, line: int) -> None:
    definition = parse_definition(text)
    place = definition.place
    assert (place.module, place.name, place.line) == (module, file, line)
    assert not place.is_glob
    again = parse_definition(definition.canonical()).place
    assert (again.module, again.name, again.line) == (module, file, line)


def test_a_line_of_the_kernel_is_taken_apart() -> None:
    text = "p:grp-1/my_event /bin/sort:0x1234%return(0x20) a=$retval b=+0(%si):string # why"
    definition = parse_definition(text)
    assert definition.text == text
    assert (definition.group, definition.event) == ("grp-1", "my_event")
    assert definition.place == Spec(
        ["/bin/sort:0x1234", "return(0x20)"][0], "/bin/sort", None, None, 0, None, 0x1234
    )
    assert definition.is_file_offset
    assert definition.is_return
    assert definition.ref_ctr_offset == 0x20
    assert [one.name for one in definition.fetchargs] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "group", "event", "offset"),
    [
        ("p /bin/a:16", None, None, 16),
        ("r:e /bin/a:010", None, "e", 8),
        ("p:g/ /bin/a:0X1f", "g", None, 31),
        ("  p:g.e\t/bin/a:0  ", "g", "e", 0),
        ("p:g/e /srv/a:b/c:0x0000000000004000", "g", "e", 0x4000),
    ],
)
def test_names_and_offsets_of_the_kernel(
    text: str, group: str | None, event: str | None, offset: int
) -> None:
    definition = parse_definition(text)
    assert (definition.group, definition.event) == (group, event)
    assert definition.place.file_offset == offset


@pytest.mark.parametrize(
    ("text", "module", "count"),
    [
        ("./a program:main %di", "./a program", 1),
        ("./a program:main", "./a program", 0),
        ("/srv/a:b/c d/prog:main %di:u8 %si", "/srv/a:b/c d/prog", 2),
        ("uprobe:/x y/z:main %di", "/x y/z", 1),
        ("u:libc:main %di", "libc", 1),
        ("p:main %di:", "p", None),
        ("p:main a=%di:b3@5/32", "p", 1),
        ("r:main arg0", "r", 1),
        ("u:main", "u", 0),
        ("t:main", "t", 0),
        ("./profile:main", "./profile", 0),
        ("uprobe:uprobe:main", "uprobe", 0),
        ("uprobe:kprobe:main", "kprobe", 0),
        ("  libc:main\t%di  ", "libc", 1),
    ],
)
def test_where_the_module_ends_and_the_fetchargs_begin(
    text: str, module: str, count: int | None
) -> None:
    if count is None:
        with pytest.raises(BadSpec):
            parse_definition(text)
        return
    definition = parse_definition(text)
    assert (definition.place.module, definition.place.name) == (module, "main")
    assert len(definition.fetchargs) == count


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [
        ("", 0, "empty"),
        (" \t", 0, "empty"),
        ("# nothing", 0, "comment"),
        ("-:g/e", 0, "removes"),
        ("malloc size", 7, "is no fetcharg"),
        ("libc:malloc a=%foo", 15, "no register"),
        ("libc:malloc %return", 12, "without a blank"),
        ("libc:malloc%ret", 11, "is not understood"),
        ("malloc+4%return", 6, "first instruction"),
        ("uretprobe:libc:malloc+4", 21, "first instruction"),
        ("uprobe:libc:malloc%return", 18, "uretprobe:"),
        ("malloc%return%return", 6, "is not understood"),
        ("libc:mem*+4 %di", 9, "one symbol"),
        ("usdt:main", 5, "a module is missing: usdt:MODULE:NAME"),
        ("usdt:libc:", 10, "a marker's name is missing"),
        ("usdt:libc:p:", 12, "a marker's name is missing"),
        ("usdt:libc:n%return", 11, "a marker does not return"),
        ("usdt:libc:n+4", 11, "'+' cannot be part of a marker's name"),
        ("usdt:libc:p(:n", 11, "'(' cannot be part of a marker's name"),
        ("usdt:libc:n $retval", 12, "PLACE%return"),
        ("a.c:42%return", 6, "a line does not return"),
        ("uprobe:./a:42", 11, "hexadecimal"),
        ("uprobe:malloc", 7, "a module is missing: uprobe:MODULE:PLACE"),
        (" uretprobe:malloc $retval", 11, "a module is missing: uretprobe:MODULE:PLACE"),
        ("uprobe::malloc", 7, "a module is missing"),
        (
            "tracepoint:sched:sched_switch",
            0,
            "only uprobe:, uretprobe: and usdt: are probes of programs",
        ),
        ("kprobe:vfs_read", 0, "only uprobe:, uretprobe: and usdt:"),
        ("kretprobe:vfs_read", 0, "only uprobe:, uretprobe: and usdt:"),
        (" fentry:vmlinux:vfs_read", 1, "only uprobe:, uretprobe: and usdt:"),
        ("profile:hz:99", 0, "a program so called is ./profile"),
        ("interval:s:1", 0, "only uprobe:, uretprobe: and usdt:"),
        ("t:sched:sched_switch", 0, "only uprobe:, uretprobe: and usdt:"),
        ("p1:g/e /bin/a:1", 1, "for probes in the kernel"),
        ("p:/e /bin/a:1", 2, "group's name is missing"),
        ("p: /bin/a:1", 2, "event's name is missing"),
        ("p:g/1e /bin/a:1", 4, "begins with a letter"),
        ("p:g/e-f /bin/a:1", 5, "'-' cannot be part"),
        ("p:" + "g" * 64 + "/e /bin/a:1", 2, "at most 63"),
        ("p:g/e a:1", 6, "a path with a '/'"),
        ("p:g/e /bin/a", 12, "':OFFSET' is missing"),
        ("p:g/e /bin/a:", 13, "an offset in the file is missing"),
        ("p:g/e /bin/a:08", 13, "64 bits"),
        ("p:g/e /bin/a:-8", 13, "no sign"),
        ("p:g/e /bin/a:1(", 15, "')' is missing"),
        ("p:g/e /bin/a:1(x)", 15, "is a number"),
        ("p:g/e /bin/a:1(1)%return", 17, "%return comes before"),
        ("p:g/e /bin/a:1%ret", 14, "%return"),
        ("p:g/e /bin/a:1 $retval", 15, "PLACE%return"),
        ("p:g/e /bin/a#b:1", 12, "':OFFSET' is missing"),
        ("mal\0loc", 3, "NUL"),
        ("libc:\ud800", 5, "not text"),
        ("a" * 20000, 60, "at most 16384"),
    ],
)
def test_what_is_wrong_is_said_with_its_position(text: str, position: int, why: str) -> None:
    with pytest.raises(BadSpec) as caught:
        parse_definition(text)
    assert (caught.value.position, why in str(caught.value)) == (position, True), caught.value
    assert caught.value.exit_status == 2


_WORDS = ("uprobe", "u", "usdt", "kprobe", "kprobe:x", "t", "t:sched", "profile")
"""What the notations begin with may be a module's name."""
_symbols = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.$]{0,20}", fullmatch=True)
# A part of a path that has a blank somewhere behind a colon cannot be told from a place and its
# fetchargs.
_paths = st.from_regex(r"(/[a-z][a-z .:]{0,5}[a-z]){1,3}", fullmatch=True).filter(
    lambda path: re.search(":[^/]* ", path) is None
)
_kernel_paths = st.from_regex(r"(/[a-z0-9:._-]{1,8}){1,3}", fullmatch=True)


@st.composite
def _definitions(draw: st.DrawFn) -> Definition:
    is_return = draw(st.booleans())
    chosen = draw(st.lists(names, max_size=6, unique=True))
    fetched = tuple(draw(fetchargs(is_return=is_return, name=name)) for name in chosen)
    group = event = reference = None
    if draw(st.booleans()):
        module: str | None = draw(_kernel_paths)
        where = draw(st.integers(0, (1 << 64) - 1))
        place = Spec("", module, None, None, 0, None, where)
        group = draw(st.none() | names)
        event = draw(names if group is None else st.none() | names)
        reference = draw(st.none() | st.integers(0, (1 << 64) - 1))
        notation = Notation.KERNEL
    else:
        module = draw(st.none() | _symbols | _paths | st.sampled_from(_WORDS))
        notation = draw(st.sampled_from((Notation.OURS, Notation.BPFTRACE)))
        if draw(st.booleans()):
            place = Spec("", module, None, None, 0, draw(st.integers(0, (1 << 64) - 1)))
        else:
            offset = 0 if is_return else draw(st.integers(0, 1 << 40))
            place = Spec("", module, draw(_symbols), draw(st.none() | _symbols), offset, None)
    return Definition("", place, is_return, fetched, group, event, reference, notation)


@settings(max_examples=300)
@given(_definitions())
def test_a_definition_that_is_written_is_read_again(definition: Definition) -> None:
    assume(all(_is_short(fetcharg) for fetcharg in definition.fetchargs))
    text = definition.canonical()
    again = parse_definition(text)
    assert _same(again, definition)
    assert again.canonical() == text


def _is_short(fetcharg: FetchArg) -> bool:
    return len(format_fetcharg(fetcharg).split("=", 1)[1]) <= 63


def _parse(text: str) -> tuple[Definition | None, BadSpec | None]:
    try:
        return parse_definition(text), None
    except BadSpec as error:
        return None, error


_pieces = st.sampled_from(
    [
        *("p", "r", "p:", "r:", "uprobe:", "uretprobe:", "usdt:", "libc", "malloc", "/bin/a"),
        *("kprobe:", "t:", "u:"),
        *("/bin/a:", "::", "%return", "0x10", "%di", "$retval", "size=%di:u64", "./x", "g/e"),
        *":%+()@=#*[]\\1 \t\n\0\xa0\u0663\ud800",
    ]
)


@settings(max_examples=400)
@given(st.text(max_size=80) | st.lists(_pieces, max_size=12).map("".join))
def test_any_text_is_a_definition_or_has_a_positioned_error(text: str) -> None:
    definition, error = _parse(text)
    if definition is not None:
        place = definition.place
        assert [place.name, place.address, place.file_offset].count(None) == 2
        assert _same(parse_definition(definition.canonical()), definition)
    if error is not None:
        assert 0 <= error.position <= len(text)
        assert "\n" not in str(error)


@pytest.mark.parametrize("piece", ["+0(", " ", "a ", "[", "*", ":", "%", "/a: ", "%di ", "[!", "0"])
@pytest.mark.parametrize("head", ["", "/", "p:g/e /a:", "libc:f "])
def test_long_nonsense_is_dealt_with_at_once(head: str, piece: str) -> None:
    text = head + piece * (16000 // len(piece))
    began = time.process_time()
    _, error = _parse(text)
    assert time.process_time() - began < 1
    assert error is None or len(str(error)) < 1000
