"""A kernel trace and the hits of a run become one file in the order of time."""

from __future__ import annotations

import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptrace_uprobes.output.timeline import _NO_TRACE, MergeReport, NotATrace, merge

HEADER = "# tracer: nop\n#\n#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n"


def event(time: str, name: str = "sys_enter_write", comm: str = "sort") -> str:
    return f"{comm:>16}-77      [001] d..2.  {time}: {name}: fd: 1\n"


def hit(time: str, comm: str = "sort") -> str:
    return f"{comm:>16}-77      [001] {time}: write: (0x7f00)\n"


def json_hit(time_ns: int) -> str:
    return f'{{"type":"hit","time_ns":{time_ns},"pid":77,"tid":77}}\n'


def merged(trace: str | bytes, hits: str | bytes) -> tuple[str, MergeReport]:
    def encoded(text: str | bytes) -> io.BytesIO:
        return io.BytesIO(text if isinstance(text, bytes) else text.encode())

    output = io.BytesIO()
    report = merge(encoded(trace), encoded(hits), output.write)
    return output.getvalue().decode("utf-8", "surrogateescape"), report


def test_records_stand_in_the_order_of_time_headers_first_and_the_summary_last() -> None:
    # GIVEN a trace with a header, and hits with a summary, of the same seconds
    trace = HEADER + event("10.000002") + event("12.000000")
    summary = "2 hits, 0 missed; exit status 0\n  write  2 hits\n"
    text, report = merged(trace, hit("10.000001") + hit("11.999999") + summary)
    # THEN
    assert text == HEADER + hit("10.000001") + event("10.000002") + hit("11.999999") + (
        event("12.000000") + summary
    )
    assert report.doubts() == []


def test_a_stack_stays_with_its_hit_and_the_kernels_with_its_event() -> None:
    stack = " => write+0x0 [libc.so.6]\n => main+0x10 [sort]\n"
    kernel_stack = " => do_syscall_64\n => entry_SYSCALL_64_after_hwframe\n"
    text, _ = merged(
        event("1.000000") + kernel_stack + event("3.000000"),
        hit("2.000000") + stack + hit("4.000000") + stack,
    )
    assert text == event("1.000000") + kernel_stack + hit("2.000000") + stack + (
        event("3.000000") + hit("4.000000") + stack
    )


def test_of_equal_times_the_kernels_goes_first() -> None:
    text, _ = merged(event("1.000000"), hit("1.000000"))
    assert text == event("1.000000") + hit("1.000000")


@pytest.mark.parametrize(
    "line",
    [
        "            sort-77      [001] d..2.  5.000000: sched_switch: prev_comm=sort\n",
        "            sort-77      [001]  5.000000: sched_switch: prev_comm=sort\n",
        "            sort-77      (     77) [001] d..2.  5.000000: sched_switch: x\n",
        "            sort-77      (-------) [001] d..2.  5.000000: sched_switch: x\n",
        "           <...>-77      [001] ...1.  5.000000: tracing_mark_write: hello\n",
        "          <idle>-0       [1234] d..2.  5.000000: sched_switch: prev_comm=swapper\n",
        "  a-9 [000] 9.00-77      [001] d..2.  5.000000: sys_enter: the name is a trap\n",
        "            sort-77    [001]   5.000000000: sched_switch: of trace-cmd report -t\n",
        "            sort    77 [001]     5.000000:  sched:sched_switch: of perf script\n",
        "            sort 77/77 [001]     5.000000: raw_syscalls:sys_enter: of perf script\n",
    ],
)
def test_lines_of_every_option_of_the_trace_have_their_time(line: str) -> None:
    text, report = merged(line, hit("4.999999") + hit("5.000001"))
    assert text == hit("4.999999") + line + hit("5.000001")
    assert report.trace.records == 1


def test_a_marker_of_ours_in_the_trace_has_the_kernels_time() -> None:
    line = event("5.000000", f"tracing_mark_write: {hit('4.999990').strip()}")
    assert merged(line, hit("4.999995"))[0] == hit("4.999995") + line


def test_into_json_lines_kernel_events_go_as_records() -> None:
    summary = '{"type":"summary","probes":{}}\n'
    text, _ = merged(
        HEADER + event("1.000002", comm='"\udcff').encode("utf-8", "replace").decode(),
        json_hit(1_000_001_999) + json_hit(1_000_002_001) + summary,
    )
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["type"] for record in records] == [
        *("kernel", "kernel", "kernel", "hit", "kernel", "hit", "summary")
    ]
    assert records[4] == {
        "type": "kernel",
        "time_ns": 1_000_002_000,
        "tid": 77,
        "comm": '"?',
        "cpu": 1,
        "event": "sys_enter_write",
        "text": "fd: 1",
    }


def test_lines_that_are_no_records_stay_behind_the_line_before_them() -> None:
    lost = "CPU:1 [LOST 5 EVENTS]\n"
    warning = "ptrace-uprobes: warning: something\n"
    text, _ = merged(
        event("1.000000") + lost + event("3.000000"), hit("2.000000") + warning + hit("4.000000")
    )
    assert text == event("1.000000") + lost + hit("2.000000") + warning + (
        event("3.000000") + hit("4.000000")
    )


def test_a_file_that_ends_in_the_middle_of_a_line_does_not_join_two_lines() -> None:
    assert merged(event("1.000000")[:-1], hit("2.000000"))[0] == event("1.000000") + hit("2.000000")


def test_times_that_do_not_overlap_are_doubted_once() -> None:
    report = merged(event("1.000000") + event("2.000000"), hit("900.000000"))[1]
    (doubt,) = report.doubts()
    assert "(1.000000 to 2.000000)" in doubt
    assert "was its trace_clock mono?" in doubt


@pytest.mark.parametrize(
    "trace",
    [
        "",
        "hello\n",
        # trace_clock x86-tsc and counter count something else than seconds
        "            bash-12149   [000] d..2. 17584210965462: sched_switch: prev_comm=bash\n",
        "            bash-12149   [001] ...1.           14: tracing_mark_write: hello counter\n",
    ],
)
def test_a_trace_without_times_in_seconds_is_doubted_and_loses_nothing(trace: str) -> None:
    text, report = merged(trace, hit("1.000000"))
    assert text == trace + hit("1.000000")
    (doubt,) = report.doubts()
    assert "no times in seconds" in doubt


def test_no_hits_are_doubted() -> None:
    text, report = merged(event("1.000000"), "0 hits, 0 missed; exit status 0\n")
    assert text == event("1.000000") + "0 hits, 0 missed; exit status 0\n"
    assert "there are no hits" in report.doubts()[0]


def test_a_trace_that_goes_back_in_time_keeps_its_order_and_is_doubted() -> None:
    trace = event("3.000000") + event("1.000000") + event("4.000000")
    text, report = merged(trace, hit("2.000000"))
    assert text == hit("2.000000") + trace
    assert "goes back in time at 1 of its lines" in report.doubts()[0]


SUMMARY = "2 hits, 0 missed; exit status 0\n  write  2 hits\n"


@pytest.mark.parametrize(
    ("trace", "hits"),
    [
        (hit("1.000000") + hit("2.000000") + SUMMARY, hit("7.000000")),  # another run's
        (hit("1.000000") + hit("2.000000"), hit("1.000000") + hit("2.000000")),  # cut short
        (HEADER + event("0.500000") + hit("1.000000"), hit("1.000000") + SUMMARY),  # merged
        (json_hit(1), json_hit(1)),
        (json_hit(1), hit("1.000000")),
    ],
)
def test_hits_in_place_of_the_trace_are_refused(trace: str, hits: str) -> None:
    with pytest.raises(NotATrace, match="a file of hits"):
        merged(trace, hits)


def test_a_trace_that_was_merged_takes_the_hits_of_another_run_too() -> None:
    trace = HEADER + event("1.000000") + hit("2.000000") + SUMMARY
    text, _ = merged(trace, hit("3.000000"))
    assert text == trace + hit("3.000000")


@pytest.mark.parametrize(
    ("magic", "words"),
    [(b"\x17\x08\x44tracing6", "trace-cmd report"), (b"PERFILE2", "perf script")],
)
def test_a_binary_trace_is_refused_with_what_to_do(magic: bytes, words: str) -> None:
    with pytest.raises(NotATrace, match=words):
        merged(magic, hit("1.000000"))


@pytest.mark.parametrize(
    "line",
    [
        b" " * 1_000_000,
        b"-" * 1_000_000,
        b" 1" * 500_000,
        b"a-1 [000] " * 100_000,
        b"\0" * 1_000_000,
    ],
)
def test_an_endless_line_takes_little_time_and_is_kept(line: bytes) -> None:
    text, _ = merged(line + b"\n", hit("1.000000"))
    assert text.encode("utf-8", "surrogateescape") == line + b"\n" + hit("1.000000").encode()


def test_memory_does_not_grow_with_the_files() -> None:
    # GIVEN ten megabytes of trace, without an end of line in half of it
    trace = io.BytesIO(event("1.000000").encode() * 70_000 + b"x" * 5_000_000)
    hits = io.BytesIO(hit("2.000000").encode())
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        # WHEN they are merged
        merge(trace, hits, lambda data: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # THEN a few pieces are held at a time
    assert peak - before < 1_000_000


@settings(max_examples=150)
@given(
    trace=st.lists(
        st.one_of(
            st.integers(0, 10**7).map(lambda n: event(f"{n // 10**6}.{n % 10**6:06d}").encode()),
            st.binary(max_size=80).filter(lambda data: not data.startswith(tuple(_NO_TRACE))),
        ),
        max_size=8,
    ),
    hits=st.lists(
        st.one_of(
            st.integers(0, 10**7).map(lambda n: hit(f"{n // 10**6}.{n % 10**6:06d}").encode()),
            st.binary(max_size=80).filter(lambda data: not data.startswith(b"{")),
        ),
        max_size=8,
    ),
)
def test_whatever_the_files_hold_no_byte_is_lost(trace: list[bytes], hits: list[bytes]) -> None:
    text, _ = merged(b"".join(trace), b"".join(hits))
    got = text.encode("utf-8", "surrogateescape")
    kept = sorted(b"".join(trace).split(b"\n") + b"".join(hits).split(b"\n"))
    assert sorted(line for line in got.split(b"\n") if line) == [line for line in kept if line]
