"""Stacks are gdb's, frame by frame: addresses and functions, on real programs.

gdb holds the program while we unwind it from the same registers and the same memory.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes.unwind import Frame, Stack, Unwinder
from tests.support.build import BuildFailed, build_target
from tests.support.gdb_frames import GdbFrame, StoppedProgram, gdb_at, stopped_by_gdb
from tests.support.other_compilers import build_go

pytestmark = pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")

_NO_FRAME_POINTER = ("-O2", "-fomit-frame-pointer")
_PASS_SIGNALS = (
    "handle SIGUSR1 nostop noprint pass",
    "handle SIGSEGV nostop noprint pass",
)


def _stacks(*flags: str) -> Path:
    return build_target("stacks.c", *_NO_FRAME_POINTER, *flags)


def _walk(program: StoppedProgram, limit: int = 1000) -> Stack:
    return Unwinder(program.module_at, program.read).walk(program.registers, limit)


def _plain(name: str) -> str:
    """Without arguments, and without the marks of a function's parts."""
    depth, kept = 0, []
    for letter in name.replace("(anonymous namespace)", "{anonymous}").replace(
        "operator()", "operator{}"
    ):
        depth += letter in "(<"
        if depth == 0:
            kept.append(letter)
        depth -= letter in ")>"
    text = re.sub(r" const$| *\[clone .*?\]|\.(part|constprop|isra|cold)\b.*", "", "".join(kept))
    return text.rpartition(" ")[2]


def _is_same_function(program: StoppedProgram, ours: Frame, theirs: GdbFrame, exact: bool) -> bool:
    if theirs.is_signal:
        return ours.is_signal
    if ours.is_signal or ours.symbol is None:
        return (
            not ours.is_signal and theirs.name is None and program.module_at(ours.address) is None
        )
    if theirs.name is None:
        return ours.symbol.startswith(f"{ours.module}+0x")
    name = re.sub(r"\+0x[0-9a-f]+$", "", ours.symbol)
    if _plain(name) == _plain(theirs.name):
        return True
    # One function may have many names: gdb's is one if it is where ours is.
    module = program.module_at(ours.address)
    assert module is not None
    found = module.image.symbol_at(module.to_elf(ours.address - (not exact)))  # type: ignore[arg-type]
    aliases = module.image.lookup(theirs.name)
    return found is not None and found[0].address in {alias.address for alias in aliases}


def _assert_as_gdb(program: StoppedProgram, stack: Stack | None = None) -> Stack:
    stack = _walk(program) if stack is None else stack
    assert [hex(f.address) for f in stack] == [hex(f.address) for f in program.frames]
    exact = True
    for ours, theirs in zip(stack, program.frames, strict=True):
        assert _is_same_function(program, ours, theirs, exact), (str(ours), theirs)
        exact = ours.is_signal
    assert stack.cut is None
    return stack


@pytest.mark.parametrize(
    ("what", "depth"),
    [
        ("recursion", 56),
        ("pushes", 6),
        ("realigned", 6),
        ("signal", 9),
        ("altstack", 9),
        ("fault", 8),
        ("null", 9),
        ("thread", 10),
        ("sorting", 10),
    ],
)
def test_every_kind_of_stack_is_gdb_s(what: str, depth: int) -> None:
    commands = (*_PASS_SIGNALS, "break stop_here", "run")
    with stopped_by_gdb([_stacks(), what], *commands) as program:
        stack = _assert_as_gdb(program)
        assert len(stack) == depth


def test_a_recursion_of_ten_thousand() -> None:
    with stopped_by_gdb([_stacks(), "recursion", "10000"], "break stop_here", "run") as program:
        stack = _walk(program, 20_000)
        assert [f.address for f in stack][:1000] == [f.address for f in program.frames]
        assert len(stack) == 10_000 + 6
        assert stack.cut is None


def test_no_more_frames_than_the_limit_and_says_so() -> None:
    with stopped_by_gdb([_stacks(), "recursion"], "break stop_here", "run") as program:
        stack = _walk(program, 7)
        assert len(stack) == 7
        assert stack.cut == "limit of 7 frames"


def test_at_every_instruction_of_a_function_with_six_pushes() -> None:
    with gdb_at([_stacks(), "pushes"], "break *pushes", "run") as gdb:
        program = gdb.stopped()
        unwinder = Unwinder(program.module_at, program.read)
        while program.frames[0].name != "main":
            _assert_as_gdb(program, unwinder.walk(program.registers))
            program = gdb.execute("stepi")


@pytest.mark.parametrize("flags", [(), ("-Wl,-z,lazy",), ("-Wl,-z,now", "-fcf-protection")])
def test_at_every_instruction_through_the_plt_and_the_dynamic_linker(
    flags: tuple[str, ...],
) -> None:
    commands = ("break main", "run", "advance clock_gettime@plt")
    with gdb_at([_stacks(*flags), "clock"], *commands) as gdb:
        program = gdb.stopped()
        unwinder = Unwinder(program.module_at, program.read)
        assert str(unwinder.walk(program.registers)[0].symbol) == "clock_gettime@plt"
        for _ in range(60):
            stack = unwinder.walk(program.registers)
            assert [f.address for f in stack] == [f.address for f in program.frames]
            assert stack.cut is None
            program = gdb.execute("stepi")


def test_at_every_instruction_of_clock_gettime_in_the_vdso() -> None:
    commands = ("break main", "run", "break *__vdso_clock_gettime", "continue")
    with gdb_at([_stacks(), "clock"], *commands) as gdb:
        program = gdb.stopped()
        module = program.module_at(program.registers.rip)
        assert module is not None
        assert module.name == "[vdso]"
        unwinder = Unwinder(program.module_at, program.read)
        for _ in range(40):
            _assert_as_gdb(program, unwinder.walk(program.registers))
            program = gdb.execute("stepi")


@pytest.mark.parametrize(
    "place",
    ["shop::Shelf<int>::take", "__cxa_throw", "_Unwind_RaiseException", "__gxx_personality_v0"],
)
def test_a_c_plus_plus_program_while_it_throws(place: str) -> None:
    target = build_target("exceptions.cpp", *_NO_FRAME_POINTER, "-lstdc++")
    commands = ("break main", "run", f"break {place}", "continue")
    with stopped_by_gdb([target], *commands) as program:
        stack = _assert_as_gdb(program)
        names = [frame.symbol or "" for frame in stack]
        assert any(name.startswith("shop::serve(std::function<int (int)>") for name in names)


_IN_LIBC = ("set breakpoint pending on", "break __libc_start_main", "run")


def test_sort_in_its_comparison(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("".join(f"{number * 7919 % 1009}\n" for number in range(1009)))
    sort = shutil.which("sort")
    assert sort is not None
    commands = (*_IN_LIBC, "break posix_fadvise64", "continue", "break memcmp", "continue")
    with stopped_by_gdb([sort, words], *commands) as program:
        assert len(_assert_as_gdb(program)) > 6


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs sqlite3")
def test_sqlite3_writing_a_page(tmp_path: Path) -> None:
    command = ["sqlite3", str(tmp_path / "a.db"), "create table t(a);"]
    commands = ("set breakpoint pending on", "break pwrite64", "run")
    with stopped_by_gdb(command, *commands) as program:
        assert len(_assert_as_gdb(program)) > 10


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs /usr/bin/python3")
def test_python3_opening_a_file() -> None:
    command = ["/usr/bin/python3", "-c", "import json; open('/dev/null')"]
    commands = (*_IN_LIBC, "break opendir", "ignore 2 2", "continue")
    with stopped_by_gdb(command, *commands) as program:
        assert len(_assert_as_gdb(program)) > 20


@pytest.mark.parametrize("separate", [False, True])
def test_debug_frames_serve_where_there_are_no_others(separate: bool, tmp_path: Path) -> None:
    built = _stacks("-fno-asynchronous-unwind-tables", "-fno-unwind-tables")
    if separate:
        debug, bare = tmp_path / "stacks.debug", tmp_path / "stacks"
        link = f"--add-gnu-debuglink={debug}"
        for command in (
            ["objcopy", "--only-keep-debug", built, debug],
            ["objcopy", "--strip-all", "-R", ".debug_frame", link, built, bare],
        ):
            subprocess.run([str(word) for word in command], check=True)
        built = bare
    with stopped_by_gdb([built, "pushes"], "break stop_here", "run") as program:
        _assert_as_gdb(program)


def _stack_at(function: str, target: Path) -> Stack:
    """The stack of the first hit of a function, its frames named without offsets."""
    stacks: list[Stack] = []
    with pu.launch([str(target)]) as engine:
        engine.probe(function, lambda hit: stacks.append(hit.stack()))
        assert engine.run(timeout=60).exit_status == 0
    return stacks[0]


def _functions(stack: Stack) -> list[str]:
    return [re.sub(r"\+0x.*", "", frame.symbol or "") for frame in stack]


@pytest.fixture(scope="module")
def without_cfi() -> Path:
    """Assembled without the flags that let the compiler write CFI of its own."""
    return build_target("no_cfi.S", "-fno-asynchronous-unwind-tables")


def test_no_frame_is_left_out_where_a_function_has_neither_cfi_nor_a_frame_pointer(
    without_cfi: Path,
) -> None:
    stack = _stack_at("inner", without_cfi)
    assert _functions(stack) == ["inner", "frameless"]
    where = hex(stack[-1].address)
    assert stack.cut == f"no CFI for {where}, and its function does not keep a frame pointer"


@pytest.mark.parametrize("function", ["frameless", "framed"])
def test_the_frame_pointer_of_a_function_that_sets_it_up_is_followed(
    function: str, without_cfi: Path
) -> None:
    stack = _stack_at(function, without_cfi)
    callers = {"frameless": ["framed"], "framed": []}[function]
    # What main() was called by uses RBP for something else.
    assert _functions(stack) == [function, *callers, "main"]


def test_a_frame_pointer_may_be_set_up_later_in_a_function(without_cfi: Path) -> None:
    stack = _stack_at("in_late", without_cfi)
    assert _functions(stack) == ["in_late", "late", "main"]


def test_a_function_without_a_symbol_is_not_believed_to_have_set_up_its_frame_pointer(
    tmp_path: Path, without_cfi: Path
) -> None:
    bare = tmp_path / "bare"
    hidden = ("--strip-symbol=frameless", "--strip-symbol=framed", "--strip-symbol=main")
    subprocess.run(["objcopy", *hidden, without_cfi, bare], check=True)
    stack = _stack_at("inner", bare)
    assert len(stack) == 2
    assert stack.cut == f"no CFI for {stack[1].address:#x}, and no symbol tells its function"


def test_a_frame_pointer_that_is_the_stack_pointer_needs_no_symbol(without_cfi: Path) -> None:
    stacks: list[Stack] = []
    with pu.launch([str(without_cfi)]) as engine:
        engine.probe("in_unnamed", lambda hit: stacks.append(hit.stack()))
        assert engine.run(timeout=60).exit_status == 0
    assert _functions(stacks[0])[2:] == ["main"]
    assert len(stacks[1]) == 2
    assert "no symbol tells its function" in (stacks[1].cut or "")


def test_a_stack_in_pieces_is_gdb_s() -> None:
    try:
        target = build_target("split_stack.c", "-fsplit-stack", "-fomit-frame-pointer")
    except BuildFailed as error:
        pytest.skip(f"no program with a split stack can be built here: {error}"[:200])
    with stopped_by_gdb([target], "break stop_here", "run") as program:
        stack = _assert_as_gdb(program)
    names = _functions(stack)
    assert names.count("recurse") == 21
    assert names.count("__morestack") > 3
    assert stack.cut is None


def test_in_the_dynamic_linker_before_the_program_nothing_is_made_up() -> None:
    """Its first function has no CFI: gdb goes on into argc and argv."""
    with stopped_by_gdb([_stacks(), "pushes"], "starti", "break *$pc", "stepi 2") as program:
        stack = _walk(program)
        assert stack.cut is None
        assert [f.address for f in stack] == [f.address for f in program.frames[: len(stack)]]
        assert len(stack) == 2


@pytest.mark.parametrize("stripped", [False, True])
def test_a_goroutine(stripped: bool, tmp_path: Path) -> None:
    """Stripped, it has neither CFI nor symbols: its frame pointers tell all but the outermost."""
    target = build_go("returns_goroutines.go")
    place = next(
        line.split()[0]
        for line in subprocess.run(
            ["nm", target], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        if line.endswith(" main.probed")
    )
    # By its argument, not by how often: a preempted function begins anew, and is hit again.
    deep = (f"break *0x{place} if $rax == 3", "run")
    with stopped_by_gdb([target, "grow", "1", "8"], *deep) as program:
        # Where the outermost function returns to is 0, which gdb shows as a frame.
        theirs = [frame.address for frame in program.frames if frame.address != 0]
        stack = _walk(program)
        assert [frame.address for frame in stack] == theirs
        assert stack.cut is None
        assert (stack[-1].symbol or "").startswith("runtime.goexit")
    if stripped:
        bare = tmp_path / "bare"
        subprocess.run(["strip", "-o", bare, target], check=True)
        command = [str(bare), "grow", "1", "8"]
        with stopped_by_gdb(command, *deep) as other:
            stack = _walk(other)
            assert [frame.address for frame in stack] == theirs[: len(stack)]
            assert len(stack) >= len(theirs) - 2
            assert stack.cut is not None


@pytest.mark.parametrize("mechanism", ["auto", "emulate", "boost", "step"])
def test_the_stacks_of_hits_at_every_instruction_with_return_probes_waiting(
    mechanism: str,
) -> None:
    """All of them, whatever has been pushed by then, are the same but for the first frame."""
    target = _stacks()
    stacks: list[Stack] = []

    def on_hit(hit: pu.Hit) -> None:
        assert hit.stack()[0].address == hit.address
        stacks.append(hit.stack())

    with pu.launch([str(target), "pushes"], mechanism=mechanism) as engine:
        returned = engine.probe("pushes%return")
        probes = [engine.probe(f"pushes+{at:#x}", on_hit) for at in _instructions(target)]
        engine.probe("stop_here", on_hit)
        assert engine.run(timeout=60).exit_status == 0
        assert [probe.handler_errors for probe in probes] == [0] * len(probes)
        assert returned.hits == 1
    assert len(stacks) == len(probes) + 2
    for stack in stacks:
        names = [re.sub(r"\+0x.*", "", frame.symbol or "") for frame in stack]
        inner = ["stop_here", "pushes"] if names[0] == "stop_here" else ["pushes"]
        assert names[: len(inner) + 1] == [*inner, "main"]
        assert names[-1] == "_start"
        assert stack.cut is None


def _instructions(target: Path) -> list[int]:
    """Where the instructions of pushes() begin, as objdump(1) has them."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "--disassemble=pushes", str(target)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = [int(match, 16) for match in re.findall(r"^ *([0-9a-f]+):\t(?!nop)", text, re.M)]
    assert len(found) > 20
    return [address - found[0] for address in found]


def test_a_corrupted_stack_is_cut_with_a_reason() -> None:
    commands = ("break stop_here", "run", "set $rsp = 16")
    with stopped_by_gdb([_stacks(), "pushes"], *commands) as program:
        stack = _walk(program)
        assert len(stack) == 1
        assert stack.cut == "the stack cannot be read at 0x10"


def test_what_was_walked_before_is_walked_the_same_again() -> None:
    with stopped_by_gdb(
        [_stacks(), "altstack"], *_PASS_SIGNALS, "break stop_here", "run"
    ) as program:
        unwinder = Unwinder(program.module_at, program.read)
        first = unwinder.walk(program.registers)
        assert unwinder.walk(program.registers) == first
        unwinder.forget()
        assert unwinder.walk(program.registers) == first
        assert unwinder.addresses(program.registers) == [frame.address for frame in first]
