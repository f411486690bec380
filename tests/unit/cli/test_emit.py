"""Each place becomes one line, under a name that no other line has."""

from __future__ import annotations

import pytest

from ptrace_uprobes.cli.emit import kernel_lines
from ptrace_uprobes.definition.emit import NotForTheKernel
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


def test_what_lies_in_no_file_is_refused_by_name() -> None:
    plan = a_plan(spec="[vdso]:f", module="[vdso]", file_offset=None)
    with pytest.raises(NotForTheKernel, match=r"'\[vdso\]:f': \[vdso\] is no file"):
        list(kernel_lines([plan]))
