"""What happens at a hit: count, handlers, the displaced instruction, on.

HOT PATH: everything here runs at each hit. A count costs four system calls (wait, read RIP,
write RIP, continue); a handler that looks at the registers costs one more.
"""

from __future__ import annotations

import ctypes
import signal
import traceback
from collections.abc import Callable
from typing import Final

from ptrace_uprobes.arch.x86 import is_wide_code
from ptrace_uprobes.engine import emulation
from ptrace_uprobes.engine.counting import go_on
from ptrace_uprobes.engine.hit_context import HitContext
from ptrace_uprobes.engine.lost_traps import stands_behind_a_lost_trap
from ptrace_uprobes.engine.nonlocal_exits import NonlocalExits
from ptrace_uprobes.engine.other_mode import CAUSE as OTHER_MODE
from ptrace_uprobes.engine.other_mode import OtherMode
from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.engine.returns import STILL_ACTIVE, ActiveCall, Returns
from ptrace_uprobes.engine.signals import (
    deliver,
    fingerprint,
    is_fault,
    leave_slot,
)
from ptrace_uprobes.engine.state import EngineState
from ptrace_uprobes.engine.stepping import Stepper, registers_at
from ptrace_uprobes.engine.trap_handlers import TrapHandlers
from ptrace_uprobes.engine.workers import Workers
from ptrace_uprobes.errors import EngineBug, MemoryFault
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import TraceeGone, UserRegs, fast_ptrace, is_int3
from ptrace_uprobes.probe import Hit, Registers, SiteCount
from ptrace_uprobes.ssol.plan import Mechanism
from ptrace_uprobes.ssol.scratch import NARROW_TOP
from ptrace_uprobes.tracee import RunState, Thread

__all__ = ["HitRunner"]

_RIP: Final = ptrace_calls.USER_OFFSETS["rip"]
_POKEUSER: Final = ptrace_calls.POKEUSER
_GETREGS: Final = ptrace_calls.GETREGS
_SETREGS: Final = ptrace_calls.SETREGS
_CONT: Final = ptrace_calls.CONT

Internal = Callable[[Thread, PlacedSite], None]


class HitRunner:
    """Runs hits for the engine."""

    __slots__ = (
        "_buffer",
        "_buffer_pointer",
        "_context",
        "_internal",
        "_other_mode",
        "_post",
        "_state",
        "_stop_counting",
        "_workers",
        "exits",
        "returns",
        "stepper",
        "trap_handlers",
    )

    def __init__(
        self,
        state: EngineState,
        internal: Internal,
        post: Callable[[Callable[[], None]], None],
        limit_reached: Callable[[], None],
        returns: Returns,
        trap_handlers: TrapHandlers,
        other_mode: OtherMode,
    ) -> None:
        """`internal` serves the engine's own traps; `post` has a function called on the
        tracer's thread; `limit_reached` is called when --max-hits is."""
        self._state = state
        self._internal = internal
        self._post = post
        self._stop_counting = limit_reached
        self._other_mode = other_mode
        self._workers = Workers()
        self.stepper = Stepper(state, trap_handlers)
        self.returns = returns
        self.trap_handlers = trap_handlers
        self.exits = NonlocalExits(returns)
        self._buffer = UserRegs()
        self._buffer_pointer = ctypes.byref(self._buffer)
        self._context = HitContext()

    def close(self) -> None:
        self._workers.close()

    def on_trap(self, thread: Thread) -> None:
        """A SIGTRAP signal-delivery-stop: one of ours, or the program's own."""
        rip = ptrace_calls.peek_user(thread.tid, "rip")
        if thread.stepping is not None:
            if self.stepper.finish(thread, rip):
                return
            info = ptrace_calls.get_signal_info(thread.tid)
            self.stepper.cancel(thread)
            if not is_fault(signal.SIGTRAP, info):
                leave_slot(thread)
                self.trap_handlers.entering(thread)
                deliver(self._state, thread, signal.SIGTRAP)
                return
        placed: PlacedSite | None = thread.placed.get(rip)
        if placed is not None and placed.has_trapped(thread.tid):
            self.hit(thread, placed)
            return
        record: SpaceRecord | None = thread.process.space.extra
        if record is not None and rip in record.retired and is_int3(thread.tid):
            # Ran into the trap just before it was taken out: the instruction is whole again.
            address = record.retired[rip].address
            if record.traps.read_some(address, 1) != thread.process.space.architecture.breakpoint:
                self._set_rip(thread.tid, address)
                self._state.resume(thread)
                return
        slot = record.slots.at(rip) if record is not None else None
        if slot is not None and slot.other_mode == rip and is_int3(thread.tid):
            other = self._other_mode.site_of(thread, slot)
            if other is not None:
                self._execute(thread, other, None)
            else:
                self._state.resume(thread)
            return
        if placed is None and record is not None:
            retired = record.retired.get(rip)
            placed = retired if retired is not None and retired.certain else None
        if placed is not None and stands_behind_a_lost_trap(thread, placed):
            # It has hit, and was sent SIGTRAP at once: one after the other, then.
            self._set_rip(thread.tid, placed.address)
        self.trap_handlers.entering(thread)
        deliver(self._state, thread, signal.SIGTRAP)

    def on_caught(self, thread: Thread, placed: PlacedSite) -> None:
        """A thread has run into the trap of `placed`, and stands where it can go on."""
        key = placed.address + thread.process.space.architecture.breakpoint_pc_offset
        if thread.placed.get(key) is placed:
            self.hit(thread, placed)
            return
        # Taken out meanwhile: the instruction is whole again.
        self._set_rip(thread.tid, placed.address)
        self._state.resume(thread)

    def hit(self, thread: Thread, placed: PlacedSite) -> None:
        """A thread has reached a site."""
        thread.state = RunState.STOPPED
        thread.at_hit = placed
        if thread.trap_action is not None:
            self.trap_handlers.mend(thread)
        reentries = thread.reentries
        if placed.in_go:
            reentries = thread.process.space.extra.goroutine_reentries
        if reentries and self._is_reentry(thread, placed):
            self._execute(thread, placed, None)
            return
        if placed.internal is not None:
            self._internal(thread, placed)
        if placed.watchers:
            self.exits.on_watched(thread, placed)
        ended = None
        if placed.returns_of:
            ended = self.returns.on_arrival(thread, placed)
        state = self._state
        if placed.entering and not (state.max_hits and state.total_hits >= state.max_hits):
            # Also where something has returned to: a call may be a function's last instruction.
            self.returns.on_entry(thread, placed)
        if ended is None:
            self._serve(thread, placed, placed.counts, None)
        else:
            self._serve_returns(thread, placed, ended)

    def _serve_returns(self, thread: Thread, placed: PlacedSite, ended: list[ActiveCall]) -> None:
        """The return of one call, or of several that ended each other by tail calls."""
        counts = []
        functions = []
        for call in ended:
            for count in call.counts:
                if count.probe in placed.returns_of:
                    counts.append(count)
                    functions.append(call)
        counts += placed.counts
        self._serve(thread, placed, tuple(counts), None, tuple(functions))

    def _serve(
        self,
        thread: Thread,
        placed: PlacedSite,
        counts: tuple[SiteCount, ...],
        registers: Registers | None,
        calls: tuple[ActiveCall, ...] = (),
    ) -> None:
        """`calls` are those whose returns the first of `counts` are to be told of."""
        state = self._state
        for index, count in enumerate(counts):
            probe = count.probe
            handler = probe.handler
            call = calls[index] if index < len(calls) else None
            values = None
            fetcher = None
            if probe.fetches:
                fetcher = call.fetchers[count] if call is not None else placed.fetchers[count]
                if handler is not None or probe.condition is not None:
                    function = placed.address if call is None else call.function
                    self._context.look_at(thread, placed, function, fetcher.needs_registers)
                    if fetcher.needs_registers and self._context.is_wide() != placed.is_wide:
                        count.missed += 1
                        probe.miss(OTHER_MODE)
                        continue
                    values = fetcher.fetch(self._context)
                    if values is None:
                        probe.filtered += 1
                        continue
            if state.max_hits:
                if state.total_hits >= state.max_hits:
                    for lost in counts[index : len(calls)]:
                        lost.lose_return(STILL_ACTIVE)
                    break
                state.total_hits += 1
            count.hits += 1
            if handler is None:
                continue
            hit = Hit(count, thread, placed.address)
            if values is not None:
                hit.fetcher = fetcher
                hit.values = values
            if call is not None:
                hit.function = call.function
                hit.is_return = True
            if registers is not None:
                hit._registers = registers
            if probe.blocking:
                rest = counts[index + 1 :]
                self._serve_elsewhere(hit, thread, placed, rest, calls[index + 1 :])
                return
            state.current = thread
            try:
                handler(hit)
            except BaseException as error:  # noqa: BLE001  # whatever it is, the target lives
                if isinstance(error, (TraceeGone, MemoryFault)):
                    ptrace_calls.peek_user(thread.tid, "rip")  # no fault of the handler's if gone
                self._handler_raised(count, error)
            finally:
                state.current = None
            hit._over = True
            registers = hit._registers
        self._execute(thread, placed, registers)
        if state.max_hits and state.total_hits >= state.max_hits:
            self._stop_counting()

    def _serve_elsewhere(
        self,
        hit: Hit,
        thread: Thread,
        placed: PlacedSite,
        rest: tuple[SiteCount, ...],
        rest_of_calls: tuple[ActiveCall, ...],
    ) -> None:
        """A handler that may block: this thread waits for it, no other does."""
        registers = hit.registers  # read now: a worker thread may make no ptrace calls
        thread.busy = hit
        thread.state = RunState.STOPPED
        memory = thread.process.space.memory
        memory.users += 1
        handler = hit.probe.handler

        def finish() -> None:
            hit.close()
            memory.release_user()
            if thread.busy is not hit or thread.state is RunState.GONE:
                return  # abandoned, detached or killed meanwhile
            thread.busy = None
            try:
                self._serve(thread, placed, rest, registers, rest_of_calls)
            except TraceeGone:
                pass

        def work() -> None:
            try:
                if handler is not None:
                    handler(hit)
            except BaseException as error:  # noqa: BLE001  # as above
                self._handler_raised(hit._count, error)
            finally:
                self._post(finish)

        self._workers.submit(work)

    def abandon(self, thread: Thread) -> None:
        """Go on from a hit whose blocking handler has not returned, as if it had."""
        placed: PlacedSite = thread.at_hit
        thread.busy = None
        self._execute(thread, placed, None)

    def _handler_raised(self, count: SiteCount, error: BaseException) -> None:
        probe = count.probe
        probe.handler_errors += 1
        if not isinstance(error, Exception) and not probe.blocking:
            # sys.exit() and the like: the run ends as soon as this hit is done. On a worker's
            # thread they are errors like any other: it is not theirs to end the program.
            self._state.failure = error
            self._stop_counting()
            return
        if probe.handler_errors == 1:
            text = traceback.format_exc()
            self._state.warn(
                f"the handler of {probe.spec} raised (told once; the program goes on):\n{text}"
            )

    def _execute(self, thread: Thread, placed: PlacedSite, registers: Registers | None) -> None:
        """Have the displaced instruction executed, or what the handler asked for instead."""
        thread.at_hit = None
        tid = thread.tid
        dirty = registers is not None and registers.dirty
        if dirty and registers is not None and registers.rip != placed.address:
            ptrace_calls.set_registers(tid, registers)
        elif placed.resume_at:
            if dirty and registers is not None:
                registers.rip = placed.resume_at
                ptrace_calls.set_registers(tid, registers)
            elif not (self._state.frozen or thread.syscall_mode or thread.recheck_stop):
                # HOT PATH: nearly every hit that has a handler.
                thread.state = RunState.RUNNING
                if not go_on(tid, placed.resume_at):
                    raise TraceeGone(tid)
                return
            else:
                self._set_rip(tid, placed.resume_at)
        elif placed.plan.mechanism is Mechanism.EMULATE:
            if not self._emulate(thread, placed, registers):
                return
        elif placed.plan.mechanism is Mechanism.STEP:
            current = registers if registers is not None else registers_at(thread, placed)
            if not self._is_for_mode(thread, placed, current):
                return
            self.stepper.begin(thread, placed, current)
            return
        else:
            raise EngineBug(f"a hit at {placed.address:#x}, which has no way to go on")
        if self._state.frozen or thread.syscall_mode or thread.recheck_stop:
            self._state.resume(thread)
        else:
            thread.state = RunState.RUNNING
            fast_ptrace(_CONT, tid, 0, 0)

    def _is_for_mode(self, thread: Thread, placed: PlacedSite, registers: UserRegs) -> bool:
        """Whether the thread runs the kind of code that the site is planned for; if not, it has
        been taken care of."""
        if placed.address >= NARROW_TOP or is_wide_code(registers.cs) == placed.is_wide:
            return True
        other = self._other_mode.planned(thread, placed, registers)
        if other is None:
            self._state.resume(thread)
        else:
            self._execute(thread, other, registers if isinstance(registers, Registers) else None)
        return False

    def _emulate(self, thread: Thread, placed: PlacedSite, registers: Registers | None) -> bool:
        """False if there is nothing more to do for the hit."""
        tid = thread.tid
        current: UserRegs = registers
        if registers is None:
            # One buffer for all hits: nothing keeps it beyond this one.
            current = self._buffer
            if fast_ptrace(_GETREGS, tid, 0, self._buffer_pointer) == -1:
                raise TraceeGone(tid)
            current.rip = placed.address
        if not self._is_for_mode(thread, placed, current):
            return False
        traps = emulation.compute(thread, placed, current)
        if traps is None:
            self._other_mode.give_up(thread, placed, current, emulation.NO_SLOT_FOR_ITS_FAULT)
            self._state.resume(thread)
            return False
        if fast_ptrace(_SETREGS, tid, 0, ctypes.byref(current)) == -1:
            raise TraceeGone(tid)
        if traps:
            emulation.make_it_the_trap_of_a_step(thread, current.rip)
            self.trap_handlers.entering(thread)
            deliver(self._state, thread, signal.SIGTRAP)
        return not traps

    def _is_reentry(self, thread: Thread, placed: PlacedSite) -> bool:
        registers = registers_at(thread, placed)
        now = fingerprint(registers, any_thread=placed.in_go)
        if placed.in_go:
            return self._is_reentry_of_goroutine(thread, placed, now)
        for index, reentry in enumerate(thread.reentries):
            if reentry.placed is placed and reentry.registers == now:
                # Later ones belong to handlers that this execution was left through.
                del thread.reentries[index:]
                return True
        # A frame at or below the stack pointer of an outer execution has been left by longjmp.
        # One on another stack cannot be told from a live one, and is kept until pushed out.
        thread.reentries = [
            reentry
            for reentry in thread.reentries
            if not (reentry.placed is placed and reentry.rsp == registers.rsp)
        ]
        return False

    @staticmethod
    def _is_reentry_of_goroutine(thread: Thread, placed: PlacedSite, now: bytes) -> bool:
        """On whatever thread: the registers tell which goroutine it is."""
        record: SpaceRecord = thread.process.space.extra
        for index, reentry in enumerate(record.goroutine_reentries):
            if reentry.placed is placed and reentry.registers == now:
                del record.goroutine_reentries[index]
                return True
        return False

    @staticmethod
    def _set_rip(tid: int, address: int) -> None:
        if fast_ptrace(_POKEUSER, tid, _RIP, ctypes.c_ulong(address)) == -1:
            raise TraceeGone(tid)
