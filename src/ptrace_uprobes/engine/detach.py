"""Letting go: every byte as it was, every thread out of its slot, no trap on its way."""

from __future__ import annotations

from ptrace_uprobes.engine.loop import Tracer
from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.engine.semaphores import sync_semaphores
from ptrace_uprobes.engine.signals import leave_slot
from ptrace_uprobes.errors import UprobesError
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import TraceeGone
from ptrace_uprobes.tracee import AddressSpace, RunState, Thread

__all__ = ["detach_all"]


def detach_all(tracer: Tracer) -> None:
    """Leave every traced process as if we had never been there."""
    state = tracer.state
    if state.detaching:
        return
    state.detaching = True
    tracer.freeze()
    for thread in list(state.threads.values()):
        try:
            _bring_home(tracer, thread)
        except TraceeGone:
            thread.state = RunState.GONE
    for space in state.spaces():
        _clean(tracer, space)
    state.stop_colocating()
    for thread in list(state.threads.values()):
        if thread.state is not RunState.GONE:
            thread.detach(thread.resume_signal)
        tracer.returns.probes_out(thread)
        state.forget_thread(thread)
    state.frozen = False
    tracer.done = True


def _bring_home(tracer: Tracer, thread: Thread) -> None:
    """Serve a trap, or a fault, that the thread has run into, and put it back into the program."""
    state = tracer.state
    if not _is_held(thread):
        return
    while (
        thread.at_hit is None
        and not thread.resume_signal
        and ptrace_calls.has_queued_fault(thread.tid)
    ):
        thread.resume()
        tracer.dispatch(thread.tid, state.wait_for(thread.tid))
        if not _is_held(thread):
            return
    if thread.at_hit is not None:
        # A blocking handler has not returned, or a fault of ours came between the hit and its
        # instruction: it is executed in its own place.
        placed: PlacedSite = thread.at_hit
        thread.at_hit = None
        thread.busy = None
        _set_rip(thread, placed.address)
    leave_slot(thread)


def _is_held(thread: Thread) -> bool:
    return thread.state is RunState.STOPPED


def _set_rip(thread: Thread, address: int) -> None:
    ptrace_calls.call(ptrace_calls.POKEUSER, thread.tid, ptrace_calls.USER_OFFSETS["rip"], address)


def _clean(tracer: Tracer, space: AddressSpace) -> None:
    record: SpaceRecord | None = space.extra
    if record is None:
        return
    try:
        # What the program has unmapped by itself may be other memory now.
        tracer.planter.look_again(space)
    except TraceeGone:
        pass
    except UprobesError as error:
        tracer.state.warn_once(str(error))
    sync_semaphores(record, wanted=False)
    for placed in record.sites().values():
        placed.abandon()
    tracer.planter.disarm_unwanted(record)
    choices = [t for t in space.threads() if tracer.usable(t)]
    choices.sort(key=lambda t: (t.resume_signal != 0, t.in_group_stop))
    if not choices:
        return
    try:
        tracer.regions.release(record, choices[0])
    except TraceeGone:
        pass
    except UprobesError as error:
        tracer.state.warn_once(f"scratch memory stays in the program: {error}")
