"""Return probes that never touch the stack: a trap at the return address.

At a function's entry the return address is read from the stack and gets a trap of its own;
the call is noted by its thread and by the stack pointer that its return will leave. An arrival
at the trap with that stack pointer is the return; any other arrival is none.

What is on the stack stays what the program put there, so unwinders, longjmp, coroutines and
collectors that move stacks see nothing of us (the kernel's uretprobes replace the return
address, arch/x86/kernel/uprobes.c). The price: a call that is left without returning leaves
its note behind. It is told by what happens to the stack since:
- the C++ runtime's unwinder goes to a landing pad, or longjmp to its setjmp: the frames below
  are gone (`nonlocal_exits.py` watches both);
- another call's return address stands where this one's was;
- a call stands where this one's was with the same return address, to which no jump leads from
  this one (`flow.py`).

Go gives a goroutine another stack and another thread as it likes: there, calls are noted by
the goroutine and the distance to its stack's top, which stays the same when it is moved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.engine.flow import Reach, reach_by_jumps
from ptrace_uprobes.engine.go_runtime import goroutine_frame
from ptrace_uprobes.engine.landings import Landings
from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.engine.planting import Planter
from ptrace_uprobes.fetching.fetcher import Fetcher
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import fast_ptrace
from ptrace_uprobes.probe import Probe, SiteCount
from ptrace_uprobes.tracee import AddressSpace, Thread

__all__ = ["STILL_ACTIVE", "ActiveCall", "Returns"]

_PEEKUSER: Final = ptrace_calls.PEEKUSER
_RSP: Final = ptrace_calls.USER_OFFSETS["rsp"]
_LEFT: Final = "left by a jump out of it"
_AGAIN: Final = "entered again: its goroutine got a larger stack, or panicked"
_ENDED: Final = "its thread ended"
STILL_ACTIVE: Final = "still running when the probes were taken out"
_TIDY_AT: Final = 1 << 16
"""Noted calls of one thread that make a look for dead ones worth its while."""


@dataclass(slots=True)
class ActiveCall:
    """A probed function that has been entered and has not returned."""

    counts: tuple[SiteCount, ...]
    function: VirtAddr
    """Where it begins."""
    return_address: int
    slot: int
    """Where on the stack the return address stands; in a goroutine, where it stood."""
    fetchers: dict[SiteCount, Fetcher]
    """What is recorded at its return."""
    suspect: bool = False
    """A jump has gone past it that may have ended it."""
    inherited: bool = False
    """It was entered before a fork, by the parent."""

    def left(self, why: str) -> None:
        """It will not return. What became of one that a parent entered is counted there."""
        if self.inherited:
            return
        for count in self.counts:
            count.lose_return(why)


class Returns:
    """Knows the active calls of every thread, and tells which of them end."""

    __slots__ = ("_landings", "_planter", "_tidy_at")

    def __init__(self, planter: Planter) -> None:
        self._planter = planter
        self._landings = Landings(planter)
        self._tidy_at = _TIDY_AT

    # -- HOT PATH: each of these two is called once per call of a probed function

    def on_entry(self, thread: Thread, placed: PlacedSite) -> None:
        """A thread stands at the first instruction of a function with return probes."""
        # Two system calls: read RSP, read the word that it points to.
        rsp = fast_ptrace(_PEEKUSER, thread.tid, _RSP, 0)
        word = thread.word
        data = thread.process.space.memory.read_some(rsp, word)
        if len(data) != word:
            self._miss(placed, "its return address cannot be read")
            return
        return_address = int.from_bytes(data, "little")
        landing = thread.placed.get(return_address + 1)
        if landing is None or not landing.returns_of.issuperset(placed.entering_probes):
            problem = self._watch(thread.process.space, return_address, placed)
            if problem is not None:
                self._miss(placed, problem)
                return
        call = ActiveCall(placed.entering, placed.address, return_address, rsp, placed.fetchers)
        calls: dict[object, list[ActiveCall]] = thread.active_calls
        key: object = rsp + word + placed.popped
        if placed.in_go:
            frame = goroutine_frame(thread, rsp + word)
            if frame is not None:
                calls, key = thread.process.space.extra.goroutine_calls, frame
        before = calls.get(key)
        if before is None:
            calls[key] = [call]
            if len(calls) > self._tidy_at:
                self._tidy(thread, calls)
        elif self._is_tail_call(thread.process.space.extra, before[-1], call, placed):
            before.append(call)
        else:
            again = placed.in_go and before[-1].return_address == return_address
            self._lose(before, _AGAIN if again else _LEFT)
            del calls[key]  # the order is that of the entries: see `unwound`
            calls[key] = [call]

    def on_arrival(self, thread: Thread, placed: PlacedSite) -> list[ActiveCall] | None:
        """A thread stands at a watched return address: the calls that end there, inner first."""
        rsp = fast_ptrace(_PEEKUSER, thread.tid, _RSP, 0)
        table, key = thread.active_calls, rsp
        calls: list[ActiveCall] | None = table.get(rsp)
        if calls is None:
            table, key = self._elsewhere(thread, rsp)
            calls = table.get(key)
            if calls is None:
                return None
        if calls[-1].return_address != placed.address:
            # The program jumped here, or it is another call's frame: not this one's end.
            return None
        del table[key]
        calls.reverse()
        return calls

    # -- seldom

    @staticmethod
    def _elsewhere(thread: Thread, rsp: int) -> tuple[dict[Any, list[ActiveCall]], Any]:
        """Where a call is noted that this thread did not enter itself: the table, and the key."""
        space = thread.process.space
        by_goroutine = space.extra.goroutine_calls
        if by_goroutine:
            return by_goroutine, goroutine_frame(thread, rsp)
        # A coroutine that another thread goes on with: stacks of one address space are distinct.
        for sister in space.threads():
            if rsp in sister.active_calls:
                return sister.active_calls, rsp
        return by_goroutine, None

    @staticmethod
    def _is_tail_call(
        record: SpaceRecord, outer: ActiveCall, inner: ActiveCall, placed: PlacedSite
    ) -> bool:
        """Whether `inner` was jumped to from `outer`, whose return address it has.

        Else a new call stands where `outer` did, which was left without a return.
        """
        if outer.return_address != inner.return_address or outer.suspect:
            return False
        if placed.in_go and outer.function == inner.function:
            return False
        return reach_by_jumps(record, outer.function, inner.function) is not Reach.NEVER

    def _watch(self, space: AddressSpace, address: int, placed: PlacedSite) -> str | None:
        """Put a trap at a return address; what is in the way, if it cannot be."""
        record: SpaceRecord = space.extra
        landing = self._landings.at(record, VirtAddr(address))
        if isinstance(landing, str):
            return landing
        landing.returns_of |= placed.entering_probes
        landing.update()
        self._planter.arm(record, [landing])
        if address not in record.traps:
            return "the trap at its return address cannot be written"
        return None

    def _miss(self, placed: PlacedSite, cause: str) -> None:
        for count in placed.entering:
            count.missed += 1
            count.probe.miss(cause)

    def _tidy(self, thread: Thread, calls: dict[object, list[ActiveCall]]) -> None:
        """Drop calls whose return address stands no more where it stood."""
        memory = thread.process.space.memory
        for key in list(calls):
            call = calls[key][-1]
            word = memory.read_some(call.slot, thread.word)
            if int.from_bytes(word, "little") != call.return_address:
                self._lose(calls.pop(key), _LEFT)
        self._tidy_at = max(_TIDY_AT, 2 * len(calls))

    @staticmethod
    def _lose(calls: list[ActiveCall], why: str) -> None:
        for call in calls:
            call.left(why)

    def unwound(self, thread: Thread, low: int, high: int, top: int) -> None:
        """The frames with low <= SP < high have been left for good; their stack ends at `top`."""
        calls = thread.active_calls
        for key in self._newest_below(calls, low, high, top):
            self._lose(calls.pop(key), _LEFT)

    def frames_left(self, thread: Thread, ends: Iterable[int]) -> None:
        """The frames that end there have been left for good."""
        gone = set(ends)
        calls = thread.active_calls
        for key in [k for k, c in calls.items() if c[-1].slot + thread.word in gone]:
            self._lose(calls.pop(key), _LEFT)

    def jumped_to(self, thread: Thread, low: int, high: int, top: int) -> None:
        """longjmp goes to a frame with SP `high`, on a stack that is not the thread's own.

        What lies below may be gone, or be of coroutines whose stacks were carved from the same
        memory: nothing is dropped yet, but a new call in such a frame's place will not be taken
        for a tail call.
        """
        for key in self._newest_below(thread.active_calls, low, high, top):
            for call in thread.active_calls[key]:
                call.suspect = True

    @staticmethod
    def _newest_below(
        calls: dict[int, list[ActiveCall]], low: int, high: int, top: int
    ) -> list[int]:
        """The keys of those with low <= slot < high.

        On one stack newer calls lie below older ones: behind the first that was found above
        there are none, and what a jump costs does not grow with the calls that it leaves alone.
        """
        found = []
        for key in reversed(calls):
            slot = calls[key][-1].slot
            if low <= slot < high:
                found.append(key)
            elif high <= slot < top:
                break
        return found

    def thread_ended(self, thread: Thread) -> None:
        for calls in thread.active_calls.values():
            self._lose(calls, _ENDED)
        thread.active_calls.clear()

    def space_ended(self, record: SpaceRecord, why: str = _ENDED) -> None:
        """Nobody has this memory any more: its goroutines end."""
        for calls in record.goroutine_calls.values():
            self._lose(calls, why)
        record.goroutine_calls.clear()

    def probes_out(self, thread: Thread) -> None:
        """The probes are taken out with calls still active."""
        for calls in thread.active_calls.values():
            self._lose(calls, STILL_ACTIVE)
        thread.active_calls.clear()
        record: SpaceRecord | None = thread.process.space.extra
        if record is not None:
            self.space_ended(record, STILL_ACTIVE)

    def probe_out(self, probe: Probe, threads: Collection[Thread]) -> None:
        """One probe is taken out, or disabled, with calls still active."""
        tables = [thread.active_calls for thread in threads]
        records = {id(t.process.space): t.process.space.extra for t in threads}
        tables += [record.goroutine_calls for record in records.values() if record is not None]
        for calls in (calls for table in tables for calls in table.values()):
            for call in calls:
                lost = [count for count in call.counts if count.probe is probe]
                if lost:
                    call.counts = tuple(c for c in call.counts if c.probe is not probe)
                    if not call.inherited:
                        lost[0].lose_return(STILL_ACTIVE)

    @staticmethod
    def inherit(child: Thread, parent: Thread) -> None:
        """A forked child is inside of the same calls as its parent."""
        child.active_calls = {
            key: [
                ActiveCall(
                    c.counts, c.function, c.return_address, c.slot, c.fetchers, c.suspect, True
                )
                for c in calls
            ]
            for key, calls in parent.active_calls.items()
        }
