"""Code that is not what its file says, or that comes and goes while we look: it is probed right, or
refused in words; and the program lives."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

import ptrace_uprobes as pu
from ptrace_uprobes import errors
from ptrace_uprobes.linux.maps import read_maps
from ptrace_uprobes.symbols.resolve import resolve
from tests.support.build import build_target
from tests.support.elf_tools import functions
from tests.support.probed import run_plain
from tests.support.procfs import altered_text, status_fields
from tests.support.target import Target, start_target


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    built = build_target("plugin.c", "-shared", "-fPIC", name="libplugin.so")
    return Path(shutil.copy(built, tmp_path))


def _assert_let_go(target: Target, but: str) -> None:
    """As `assert_let_go`, with a module left out that may be gone before it can be compared."""
    assert status_fields(target.pid)["TracerPid"] == "0"
    altered = altered_text(target.pid, but=but)
    assert [where for where in altered if "/libc.so" not in where[0]] == []


def _cycles(plugin: Path, rounds: int) -> None:
    # GIVEN a program whose threads load and unload, map and unmap, and change protections
    with start_target(build_target("map_storm.c", "-ldl"), str(plugin), "300") as target:
        for _ in range(rounds):
            # WHEN it is probed, probes go and come again, and it is let go of
            warnings: list[str] = []
            with pu.attach(target.pid, on_warning=warnings.append) as engine:
                probes = [
                    engine.probe(spec) for spec in ("hot", "libplugin:plugin_work", "libplugin:*")
                ]
                engine.start()
                probes[1].enabled = False
                probes[1].enabled = True
                probes[2].remove()
                engine.probe("libc:dlopen")
                assert engine.run(timeout=0.02).ended == "timeout"
            # THEN it is as it was, and all that was said is that the library was not there
            _assert_let_go(target, plugin.name)
            assert [text for text in warnings if "waits for it" not in text] == []
        # AND what is counted is what it counts
        engine = pu.attach(target.pid, on_warning=lambda _: None)
        hot = engine.probe("hot")
        engine.probe("libplugin:plugin_work")
        engine.start()
        target.go()
        ended = target.finish()
        engine.stop()
    assert (ended.status, ended.stdout) == (6, "hot 300\nworked 1\nwrong 0\n")
    assert hot.hits == 300


def test_a_program_whose_mappings_change_all_the_time_lives_and_is_counted(plugin: Path) -> None:
    _cycles(plugin, 5)


@pytest.mark.soak
def test_a_program_whose_mappings_change_all_the_time_lives_for_long(plugin: Path) -> None:
    """Before threads were held while traps are written, it died in one cycle of about 60."""
    _cycles(plugin, int(os.environ.get("CYCLES", "500")))


def test_code_that_the_program_has_changed_is_probed_as_it_stands_and_that_is_said() -> None:
    program = build_target("patched.c")
    plain = run_plain([program, "patched", "30"], stdin=b"\n\n")
    warnings: list[str] = []
    with start_target(program, "patched", "30") as target:
        # GIVEN a function whose first instruction is not the file's any more
        engine = pu.attach(target.pid, on_warning=warnings.append)
        first, second = engine.probe("first"), engine.probe("second")
        (said,) = warnings
        assert "changed its code" in said
        assert "b8 05 00 00 00" in said  # the file's
        assert "b8 07 00 00 00" in said  # its own
        engine.start()
        target.go()
        target.wait_ready()
        engine.stop()

        # THEN what was counted is what ran, and it ran as the program would have it
        assert (first.hits, second.hits) == (30, 30)
        target.go()
        ended = target.finish()
    assert (ended.status, ended.stdout) == (plain.status, plain.stdout.decode())


def test_somebody_elses_breakpoint_is_no_instruction() -> None:
    program = build_target("patched.c")
    warnings: list[str] = []
    with start_target(program, "trap", "30") as target:
        with pu.attach(target.pid, on_warning=warnings.append) as engine:
            with pytest.raises(errors.BadAddress, match="a breakpoint of somebody else's"):
                engine.probe("second")
            # AND of a glob it is left out, with that said
            glob = engine.probe("[fs]*[td]")
            assert {site.label for site in glob.sites} & {"first", "second"} == {"first"}
            assert any("[fs]*[td]" in text and "breakpoint" in text for text in warnings)
            with pytest.raises(errors.BadAddress, match="a breakpoint of somebody else's"):
                engine.probe("secon?")
            engine.run(timeout=0.01)
        target.go()
        target.wait_ready()
        target.go()
        ended = target.finish()
    assert (ended.status, ended.stdout) == (6, f"total {30 + 30 + 30 * 5}\n")


def test_a_probe_that_is_enabled_again_where_the_code_has_changed_says_so() -> None:
    """Its slot has a copy of what stood there before, which would have run in its place."""
    program = build_target("patched.c")
    plain = run_plain([program, "patched", "30"], stdin=b"\n\n")
    warnings: list[str] = []
    with start_target(program, "patched", "30") as target:
        engine = pu.attach(target.pid, on_warning=warnings.append)
        probe = engine.probe("second")
        engine.start()
        # GIVEN a probe that is out while the program changes the code
        probe.enabled = False
        target.go()
        target.wait_ready()
        warnings.clear()
        # WHEN it is to be put in again
        probe.enabled = True
        (said,) = warnings
        assert "has changed, from b8 07 00 00 00 to b8 05 00 00 00" in said
        # THEN a new one counts
        again = engine.probe("second")
        target.go()
        ended = target.finish()
        engine.stop()
    assert (ended.status, ended.stdout) == (plain.status, plain.stdout.decode())
    assert (probe.hits, again.hits) in ((0, 30), (30, 30))


_REFUSALS = {
    "rewritten": (errors.BadAddress, "was written to, or replaced"),
    "truncated": (errors.UnreadableElf, "it is not an ELF file"),
}


def _refused(how: str) -> AbstractContextManager[object]:
    kind, text = _REFUSALS[how]
    return pytest.raises(kind, match=text)


@pytest.mark.parametrize("how", _REFUSALS)
def test_a_library_whose_file_is_written_to_is_refused_or_probed_right(
    how: str, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file changes after its symbols were read, and before a trap is written."""
    other = build_target("plugin.c", "-shared", "-fPIC", "-O0", name="libplugin.so").read_bytes()
    loader = build_target("holds_library.c", "-ldl")

    def meddle(*arguments: object) -> object:
        places = resolve(*arguments)  # type: ignore[arg-type]
        with plugin.open("r+b") as file:
            if how == "truncated":
                file.truncate(0)
            else:
                file.write(other)
        return places

    with start_target(loader, str(plugin)) as target:
        with pu.attach(target.pid) as engine:
            with monkeypatch.context() as patch:
                patch.setattr("ptrace_uprobes.engine.preparing.resolve", meddle)
                with _refused(how):
                    engine.probe("libplugin:plugin_work")
            with nullcontext() if how == "rewritten" else _refused(how):
                engine.probe("libplugin:plugin_work")
            engine.run(timeout=0.01)
        assert status_fields(target.pid)["TracerPid"] == "0"
        target.go()
        assert target.finish().status == 6


def test_code_that_other_programs_share_is_not_written_to(plugin: Path) -> None:
    # GIVEN a program that has a library's file mapped shared, and may write to it
    before = plugin.read_bytes()
    work = functions(plugin)["plugin_work"]
    with start_target(build_target("shares_text.c"), str(plugin)) as target:
        (text,) = [
            one for one in read_maps(target.pid) if one.path == str(plugin) and not one.is_private
        ]
        with pu.attach(target.pid) as engine:
            # WHEN a function in it is to be probed
            for spec in (f"{text.start + work.address:#x}", "libplugin:plugin_work"):
                with pytest.raises(errors.BadAddress, match=r"shared \(MAP_SHARED\)"):
                    engine.probe(spec)
            engine.start()
            assert plugin.read_bytes() == before
        target.go()
        ended = target.finish()
    # THEN it is refused, and the file is as it was
    assert ended.status == 7
    assert plugin.read_bytes() == before
