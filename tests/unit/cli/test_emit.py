"""Each place becomes one line, under a name that no other line has."""

from __future__ import annotations

import pytest

from ptrace_uprobes.addresses import FileOffset, VirtAddr
from ptrace_uprobes.cli.kernel_events import kernel_lines
from ptrace_uprobes.definition.emit import NotForTheKernel
from ptrace_uprobes.linux.maps import Mapping
from tests.unit.output.fakes import a_plan


def test_places_of_a_glob_have_names_of_their_own() -> None:
    plans = [
        a_plan(spec="libc:mem*", label="memcpy", file_offset=0x10),
        a_plan(spec="libc:mem*", label="memcpy@GLIBC_2.2.5", file_offset=0x20),
        a_plan(spec="libc:mem*", label="memcpy@GLIBC_2.2+5", file_offset=0x30),
    ]
    assert [line.split()[0] for line in kernel_lines(plans)] == [
        "p:ptrace_uprobes/memcpy",
        "p:ptrace_uprobes/memcpy_GLIBC_2_2_5",
        "p:ptrace_uprobes/memcpy_GLIBC_2_2_5_2",
    ]


def test_a_place_that_many_processes_have_is_one_line() -> None:
    assert len(list(kernel_lines([a_plan(), a_plan()]))) == 1


def test_entry_and_return_of_a_function_are_two_events() -> None:
    plans = [a_plan(spec="libc:malloc"), a_plan(spec="libc:malloc%return")]
    assert list(kernel_lines(plans)) == [
        "p:ptrace_uprobes/malloc /usr/lib/libc.so.6:0x1230",
        "r:ptrace_uprobes/malloc__return /usr/lib/libc.so.6:0x1230",
    ]


def test_the_kernels_own_names_are_kept() -> None:
    plan = a_plan(spec="p:mine/here /usr/lib/libc.so.6:0x1230 a=%di", label="0x1230")
    (line,) = kernel_lines([plan])
    assert line.startswith("p:mine/here /usr/lib/libc.so.6:0x1230 a=%di")


def test_a_filter_is_a_comment_that_a_shell_would_understand() -> None:
    _, comment = kernel_lines([a_plan(spec="f a=%di", filter_text="comm != 'x'", label="0x10")])
    assert comment == "# echo 'comm != '\"'\"'x'\"'\"'' > events/ptrace_uprobes/p_0x10/filter"


def _vdso() -> list[Mapping]:
    at = VirtAddr(0x7F00_0000_1000)
    nowhere = FileOffset(0)
    return [Mapping(at, VirtAddr(at + 0x2000), "r-xp", nowhere, "00:00", 0, "[vdso]", False)]


def test_what_lies_in_no_file_is_refused_by_name() -> None:
    plan = a_plan(spec="[vdso]:f", label="f", module="[vdso]", file_offset=None)
    with pytest.raises(
        NotForTheKernel, match=r"\[vdso\]:f is in \[vdso\], which the kernel cannot"
    ):
        list(kernel_lines([plan], _vdso()))
    plan = a_plan(spec="libc:time", label="time", file_offset=None)
    with pytest.raises(NotForTheKernel, match=r"libc:time resolves into \[vdso\], which"):
        list(kernel_lines([plan], _vdso()))


def test_what_lies_in_no_file_is_left_out_of_a_glob_and_said() -> None:
    # GIVEN a pattern of which one place is an IFUNC that leads into the vDSO
    plans = [
        a_plan(spec="libc:[mt]*", label="malloc"),
        a_plan(spec="libc:[mt]*", label="time", file_offset=None),
        a_plan(spec="libc:[mt]*", label="mmap", file_offset=0x20),
    ]
    # WHEN it is written for the kernel
    warnings: list[str] = []
    lines = list(kernel_lines(plans, _vdso(), warnings.append))
    # THEN the others are there
    why = "libc:time resolves into [vdso], which the kernel cannot probe"
    assert [line.split()[0] for line in lines] == [
        "p:ptrace_uprobes/malloc",
        "#",
        "p:ptrace_uprobes/mmap",
    ]
    assert lines[1] == f"# {why}"
    assert warnings == [why]


def test_a_name_of_ours_gives_way_to_the_users_wherever_that_comes() -> None:
    plans = [
        a_plan(spec="libc:malloc"),
        a_plan(spec="p:ptrace_uprobes/malloc /usr/lib/libc.so.6:0x20", label="0x20"),
        a_plan(spec="p:other/malloc_2 /usr/lib/libc.so.6:0x30", label="0x30"),
    ]
    assert [line.split()[0] for line in kernel_lines(plans)] == [
        "p:ptrace_uprobes/malloc_2",
        "p:ptrace_uprobes/malloc",
        "p:other/malloc_2",
    ]


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        (("a=%di", ""), ("b=%di", ""), "the event g/e has other fetchargs"),
        (("a=%di", ""), ("a=%di:u8", ""), "the event g/e has other fetchargs"),
        (("a=%di", ""), ("", ""), "the event g/e has other fetchargs"),
        (("a=%di", "a == 1"), ("a=%si", "a == 2"), "the event g/e has another filter"),
    ],
)
def test_an_event_is_one_thing(one: tuple[str, str], other: tuple[str, str], why: str) -> None:
    plans = [
        a_plan(spec=f"p:g/e /a:{number} {fetched}", filter_text=condition, file_offset=number)
        for number, (fetched, condition) in enumerate((one, other), 1)
    ]
    with pytest.raises(NotForTheKernel, match=why):
        list(kernel_lines(plans))


def test_a_place_has_one_semaphore() -> None:
    plans = [a_plan(spec=f"p:g/e{ref} /a:1({ref})") for ref in (1, 2)]
    with pytest.raises(NotForTheKernel, match="another semaphore"):
        list(kernel_lines(plans))


def test_one_event_at_two_places_has_one_comment() -> None:
    plans = [
        a_plan(spec=f"p:g/e /a:{number} a=%di", filter_text="a == 1", file_offset=number)
        for number in (1, 2)
    ]
    assert [line.split()[0] for line in kernel_lines(plans)] == ["p:g/e", "#", "p:g/e"]


def test_a_line_that_is_too_long_for_the_kernel_is_refused() -> None:
    fetched = " ".join(f"{'n' * 20}{number}=+0(+0(+0(%di)))" for number in range(120))
    with pytest.raises(NotForTheKernel, match="at most 4094 bytes"):
        list(kernel_lines([a_plan(spec=f"main {fetched}")]))
    condition = " || ".join([f"a == {10**18}"] * 100) + " " * 1800 + " || a == 1"
    with pytest.raises(NotForTheKernel, match="at most 4094 bytes"):
        list(kernel_lines([a_plan(spec="main a=%di", filter_text=condition[:4096])]))


def test_a_filter_names_fields_as_the_kernel_does() -> None:
    def comment(condition: str, spec: str = "main a=%di") -> str:
        _, line = kernel_lines([a_plan(spec=spec, filter_text=condition)])
        return line.split("'")[1]

    assert comment('tid == 1 || !(tid<2 && comm != "tid")') == (
        'common_pid == 1 || !(common_pid<2 && comm != "tid")'
    )
    assert comment("tid == 1", "main tid=%di") == "tid == 1"
    assert comment("pid == 1", "main pid=%di") == "pid == 1"
    assert comment("a == 1\n|| a == 2") == "a == 1 || a == 2"
    with pytest.raises(NotForTheKernel, match="its filters know no process: pid"):
        comment("a == 1 && pid == 2")
    with pytest.raises(NotForTheKernel, match="a string in its filter"):
        comment('comm == "a\nb"')
