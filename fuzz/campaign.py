"""Tries cases: each in place and through each of its plans, and counts what came of it."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from fuzz.case import Case, make_case
from fuzz.generate import code_number
from fuzz.harness import PAGE, XSTATES, Code, Harness, HarnessLost, Result, Run
from fuzz.judge import (
    Shown,
    differences,
    is_other_of_two_faults,
    shown_emulated,
    shown_in_place,
    shown_in_slot,
    without_the_next_fetch,
)
from fuzz.second_decoder import SecondDecoder
from fuzz.states import Pools, Thread
from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.errors import MemoryFault, OutOfReach
from ptrace_uprobes.ssol.mode_guard import assemble_guarded, guard_size
from ptrace_uprobes.ssol.plan import Mechanism, Plan, SlotCode, plan, plan_far

__all__ = ["Campaign", "Disagreement", "Tally"]

_TF: Final = 0x100
_EFLAGS: Final = 17
_RIP: Final = 16
_AT_ONCE: Final = 250
_REPEATS: Final = 4


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A plan that showed the program something else than the processor in place."""

    seed: int
    code: bytes
    text: str
    way: str
    what: str

    def __str__(self) -> str:
        return f"{self.seed} {self.code.hex()} {self.text}: {self.way}: {self.what}"


@dataclass(slots=True)
class Tally:
    """What was tried."""

    instructions: set[bytes] = field(default_factory=set)
    states: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    refused_but_executed: Counter[str] = field(default_factory=Counter)
    """By name, of what this processor executes all the same."""
    known: set[str] = field(default_factory=set)
    executed: set[str] = field(default_factory=set)
    """Forms of instructions that the second decoder names; those that were no SIGILL."""
    not_the_same_twice: Counter[str] = field(default_factory=Counter)
    tolerated: Counter[str] = field(default_factory=Counter)
    disagreements: list[Disagreement] = field(default_factory=list)


@dataclass(slots=True)
class _Way:
    """One plan's run, or the tracer's computation."""

    name: str
    made: Plan
    assembled: SlotCode | None
    slot: int
    run: Run | None
    thread: Thread | None = None
    stepped: bool = False
    result: Result | HarnessLost | None = None


@dataclass(slots=True)
class _Trial:
    case: Case
    name: str
    direct: Run
    made: Plan
    ways: list[_Way]
    result: Result | HarnessLost | None = None

    @property
    def text(self) -> str:
        instruction = self.made.instruction
        return instruction.text if instruction is not None else "(unknown)"


class Campaign:
    """Runs cases and keeps the tally."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self._mode = harness.mode
        self._pools = Pools(harness)
        self._decoder = SecondDecoder(self._mode.bits)
        self.tally = Tally()
        self._resting = self._rest()

    def _rest(self) -> list[Shown]:
        """What a no-operation leaves of each state that the tracer never touches."""
        general = [0] * 18
        general[_RIP] = self._mode.bases[0] + 0x100
        general[_EFLAGS] = 0x202
        code = (Code(general[_RIP], b"\x90"),)
        runs = [Run(general, 0, 0, 0, number, 0, code) for number in range(XSTATES)]
        resting = []
        for result in self._harness.run(runs):
            if isinstance(result, HarnessLost):
                raise result
            resting.append(shown_in_place(result, self._mode))
        return resting

    def generated(self, seed: int) -> Iterator[Case]:
        """Cases without end."""
        source = random.Random(seed)
        offset = source.getrandbits(24) * 10
        number = 0
        while True:
            case_seed = source.getrandbits(40)
            code = code_number(offset + number, source, self._mode.bits)
            yield make_case(case_seed, code, self._mode)
            number += 1

    def run(
        self, cases: Iterable[Case], *, seconds: float | None = None, count: int | None = None
    ) -> None:
        """Until the time is over, or so many are done, or there are no more."""
        until = None if seconds is None else time.monotonic() + seconds
        rest = iter(cases) if count is None else islice(cases, count)
        while until is None or time.monotonic() < until:
            some = list(islice(rest, _AT_ONCE))
            if not some:
                return
            self._run_some(some)

    def _run_some(self, cases: list[Case]) -> None:
        trials = [self._prepare(case) for case in cases]
        runs: list[Run] = []
        for trial in trials:
            runs.append(trial.direct)
            runs += [way.run for way in trial.ways if way.run is not None]
        results = iter(self._harness.run(runs))
        for trial in trials:
            trial.result = next(results)
            for way in trial.ways:
                if way.run is not None:
                    way.result = next(results)
        for trial in trials:
            self._judge(trial)

    # -- before the runs

    def _prepare(self, case: Case) -> _Trial:
        tally = self.tally
        made = plan(case.code, VirtAddr(case.site), self._mode.architecture)
        name = self._decoder.name(case.code)
        tally.instructions.add(made.code)
        tally.states += 1
        tally.runs["in place"] += 1
        for complaint in self._decoder.complaints(case.code, case.site, made):
            self._report(case, made, "decoders", complaint)
        code = (Code(case.site, case.code),)
        trial = _Trial(case, name, self._a_run(case, case.general, code), made, [])
        if made.mechanism is Mechanism.REFUSE:
            tally.refused[made.reason.split(" (")[0] if made.reason else "?"] += 1
            return trial
        seen: set[tuple[str, bytes]] = set()
        for prefer in (None, Mechanism.BOOST, Mechanism.STEP, Mechanism.EMULATE):
            architecture = self._mode.architecture
            candidate = plan(case.code, VirtAddr(case.site), architecture, prefer)
            for far in (False, True):
                way = self._way(case, candidate, far=far)
                if way is None:
                    continue
                key = (way.name, way.assembled.code if way.assembled is not None else b"")
                if key not in seen:
                    seen.add(key)
                    trial.ways.append(way)
                    tally.runs[way.name] += 1
        return trial

    def _a_run(
        self,
        case: Case,
        general: tuple[int, ...] | list[int],
        code: tuple[Code, ...],
        start: int = 0,
        over: int = 0,
    ) -> Run:
        return Run(
            general,
            case.fs_base,
            case.gs_base,
            case.base,
            case.xstate,
            case.memory,
            code,
            start,
            over,
        )

    def _way(self, case: Case, candidate: Plan, *, far: bool) -> _Way | None:
        mode = self._mode
        slot = case.slot_offset + (mode.far_base if far else mode.bases[case.base])
        assembled = None
        if candidate.slot_size:
            try:
                assembled = self._assembled(case, candidate, slot)
            except OutOfReach:
                candidate = plan_far(candidate)
                if candidate.mechanism is Mechanism.REFUSE:
                    self.tally.refused[candidate.reason or "?"] += 1
                    return None
                if candidate.slot_size:
                    assembled = self._assembled(case, candidate, slot)
        place = " far" if far else ""
        if candidate.mechanism is Mechanism.EMULATE and case.steps_itself:
            # As `compute` of engine/emulation.py. What no slot serves is for tests/integration.
            if assembled is None or not candidate.slot_serves(self._thread(case)):
                return None
            place = f"{place}, in its slot for TF"
        elif candidate.mechanism is Mechanism.EMULATE:
            thread = self._thread(case)
            before = thread.general()
            try:
                candidate.emulate(thread, thread)
            except MemoryFault:
                if thread.general() != before:
                    self._report(case, candidate, "emulate", "changed registers before a fault")
                if assembled is None:
                    return None
                place = f"{place}, for its fault"
            else:
                return _Way("emulate", candidate, None, 0, None, thread)
        if assembled is None:
            return None
        if len(assembled.code) > candidate.slot_size + guard_size(candidate):
            self._report(case, candidate, "slot", "longer than it said")
        return self._slot_way(case, candidate, assembled, slot, place)

    def _assembled(self, case: Case, candidate: Plan, slot: int) -> SlotCode:
        """As the engine writes it; that a program's own TF traps behind the guard is shown in
        tests/integration."""
        if case.steps_itself:
            return candidate.assemble(VirtAddr(slot))
        return assemble_guarded(candidate, VirtAddr(slot), self._mode.architecture)

    def _slot_way(
        self, case: Case, candidate: Plan, assembled: SlotCode, slot: int, place: str
    ) -> _Way | None:
        general = list(case.general)
        general[_RIP] = slot
        stepped = candidate.mechanism is Mechanism.STEP
        over = 0
        if stepped:
            if case.steps_itself:
                return None
            general[_EFLAGS] |= _TF
            if candidate.scratch is not None:
                name, value = candidate.scratch
                general[_REGISTER_INDEX[name]] = value
            over = sum(1 << each.offset for each in assembled.fixups if not each.executed)
        elif case.steps_itself:
            over = sum(
                1 << each.offset for each in assembled.fixups if not each.executed and each.offset
            )
        code = (Code(case.site, case.code), Code(slot, assembled.code))
        run = self._a_run(case, general, code, slot, over)
        name = candidate.mechanism.value + place
        return _Way(name, candidate, assembled, slot, run, None, stepped)

    def _thread(self, case: Case) -> Thread:
        memory = self._pools.memories[case.memory][case.base]
        site = case.code
        return Thread(
            case.general,
            case.fs_base,
            case.gs_base,
            self._mode.bases[case.base],
            memory,
            site,
        )

    # -- after the runs

    def _judge(self, trial: _Trial) -> None:
        tally = self.tally
        result = trial.result
        if isinstance(result, HarnessLost) or result is None:
            tally.ended["the process with it"] += 1
            return
        if result.signal == signal.SIGPROF:
            tally.ended["never"] += 1
            return
        place = shown_in_place(result, self._mode)
        is_illegal = place.signal[0] == signal.SIGILL
        tally.ended[_end_name(place)] += 1
        if trial.name:
            tally.known.add(trial.name)
            if not is_illegal:
                tally.executed.add(trial.name)
        if trial.made.mechanism is Mechanism.REFUSE:
            if place.signal[0] == 0:
                tally.refused_but_executed[trial.name or trial.made.code.hex()] += 1
            return
        for way in trial.ways:
            self._compare(trial, way, place)

    def _show(self, trial: _Trial, way: _Way, result: Result | HarnessLost | None) -> Shown | str:
        if way.thread is not None:
            resting = self._resting[trial.case.xstate]
            return shown_emulated(way.thread, resting)
        if isinstance(result, HarnessLost) or result is None:
            return "the process ended"
        if result.signal == signal.SIGPROF:
            return "it does not end"
        assert way.assembled is not None
        return shown_in_slot(
            result, trial.case, way.made, way.assembled, way.slot, stepped=way.stepped
        )

    def _compare(self, trial: _Trial, way: _Way, place: Shown) -> None:
        if way.thread is not None:
            place = without_the_next_fetch(place, trial.case)
        shown = self._show(trial, way, way.result)
        found = _difference(place, shown, trial.case)
        if not found:
            return
        only_which = found <= {"signal", "cr2"}
        if (
            not isinstance(shown, str)
            and only_which
            and is_other_of_two_faults(place, shown, trial.case)
        ):
            if way.made.instruction is not None and way.made.instruction.mnemonic.endswith("call"):
                self.tally.tolerated["a call found the other of its two faults"] += 1
                return
        if _is_early_trap(trial, shown):
            self.tally.tolerated["a program that steps itself was stopped one jump early"] += 1
            return
        places, shows = self._again(trial, way)
        volatile: set[str] = set()
        for other in places:
            volatile |= differences(places[0], other, trial.case)
        for other_place, other_shown in zip(places, shows, strict=False):
            found &= _difference(other_place, other_shown, trial.case)
        if not found - volatile:
            self.tally.not_the_same_twice[trial.name or trial.text] += 1
            return
        told = _told(places[0], shows[0], found - volatile) if places else str(shown)
        self._report(trial.case, trial.made, way.name, told)

    def _again(self, trial: _Trial, way: _Way) -> tuple[list[Shown], list[Shown | str]]:
        """What another few runs show: some instructions do not do the same twice."""
        runs = [trial.direct, way.run or trial.direct] * _REPEATS
        results = self._harness.run(runs)
        places = [
            shown_in_place(each, self._mode) for each in results[::2] if isinstance(each, Result)
        ]
        if way.thread is not None:
            places = [without_the_next_fetch(place, trial.case) for place in places]
        return places, [self._show(trial, way, each) for each in results[1::2]]

    def _report(self, case: Case, made: Plan, way: str, what: str) -> None:
        text = made.instruction.text if made.instruction is not None else "(unknown)"
        self.tally.disagreements.append(Disagreement(case.seed, case.code, text, way, what))


_REGISTER_INDEX: Final = {
    name: index
    for index, name in enumerate(
        (
            *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
            *("rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip", "eflags"),
        )
    )
}


def _is_early_trap(trial: _Trial, shown: Shown | str) -> bool:
    """After POPF, SYSCALL, and what the kernel computes in the processor's place (UMIP), the trap
    of TF comes only behind the next instruction, and that is the slot's jump back: a program that
    sets TF itself gets its trap before its next one."""
    name = trial.made.instruction.mnemonic if trial.made.instruction is not None else ""
    return (
        not isinstance(shown, str)
        and name.startswith(("popf", "syscall", "sgdt", "sidt", "sldt", "smsw", "str"))
        and shown.general[_EFLAGS] & _TF != 0
        and shown.signal[:2] == (signal.SIGTRAP, 2)
    )


def _difference(place: Shown, shown: Shown | str, case: Case) -> frozenset[str]:
    return frozenset(("the run",)) if isinstance(shown, str) else differences(place, shown, case)


def _end_name(place: Shown) -> str:
    number = place.signal[0]
    return signal.Signals(number).name if number else "went on"


def _told(place: Shown, shown: Shown | str, found: frozenset[str]) -> str:
    if isinstance(shown, str):
        return shown
    parts = []
    for name in sorted(found):
        if name in _REGISTER_INDEX:
            index = _REGISTER_INDEX[name]
            here, there = place.general[index], shown.general[index]
            parts.append(f"{name} {there:#x} instead of {here:#x}")
        elif name in ("xstate", "data", "stack"):
            a, b = getattr(place, name), getattr(shown, name)
            at = next((i for i in range(min(len(a), len(b))) if a[i] != b[i]), PAGE)
            parts.append(f"{name}+{at:#x} {b[at : at + 8].hex()} instead of {a[at : at + 8].hex()}")
        else:
            parts.append(f"{name} {getattr(shown, name)} instead of {getattr(place, name)}")
    return ", ".join(parts)
