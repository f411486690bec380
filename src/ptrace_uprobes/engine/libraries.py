"""Libraries that are loaded while we watch: at the program's start, and by dlopen.

The dynamic linker calls a function of its own, `_dl_debug_state`, before and after it changes
what is loaded (the debugger rendezvous, glibc elf/link.h, struct r_debug). From the call
before to the one after, the linking thread's system calls are traced as well, so that a
library's traps are there as soon as its code is mapped, before any of it has run: as early
as the kernel's uprobes.
"""

from __future__ import annotations

import signal
import struct
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.engine.placed import PlacedSite, SpaceRecord
from ptrace_uprobes.engine.planting import Planter
from ptrace_uprobes.engine.standstill import stoppable
from ptrace_uprobes.engine.state import EngineState, record_of
from ptrace_uprobes.errors import MemoryFault, NoThreadToUse, UprobesError
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.child import kill_quietly
from ptrace_uprobes.probe import Probe
from ptrace_uprobes.symbols.modules import Module
from ptrace_uprobes.symbols.resolve import explain_missing
from ptrace_uprobes.tracee import Thread

__all__ = ["ENTRY", "MAIN", "RENDEZVOUS", "Libraries"]

RENDEZVOUS: Final = "dynamic linker"
MAIN: Final = "main function"
ENTRY: Final = "entry point"
_NOTIFIER: Final = "_dl_debug_state"
_DT_DEBUG: Final = 21
_DYNAMIC_ENTRY: Final = {4: struct.Struct("<iI"), 8: struct.Struct("<qQ")}
_MOST_DYNAMIC_ENTRIES: Final = 256
_R_STATE: Final = 3  # in words: struct r_debug: int version, pointer map, pointer brk, enum state
_RT_CONSISTENT: Final = 0
_PROT_EXEC: Final = 4
_EVENTMSG_SYSCALL_ENTRY: Final = 1
_EVENTMSG_SYSCALL_EXIT: Final = 2


class Libraries:
    """Follows the dynamic linker on behalf of probes that are not planted yet."""

    __slots__ = ("_hold", "_planter", "_state", "entry_reached")

    def __init__(
        self, state: EngineState, planter: Planter, hold: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """In `hold()` no thread runs."""
        self._state = state
        self._planter = planter
        self._hold = hold
        self.entry_reached = threading.Event()
        """Set at the trap that `watch_entry` planted."""

    def begin_program(self, thread: Thread) -> None:
        """A program stands before its first instruction: plant what is there, watch the rest."""
        record = record_of(thread.process.space)
        self._planter.look_again(record.space)
        main = self._main(record)
        record.starting = main is not None and main.image.interpreter is not None
        record.relocated = main is None
        self._planter.plant(record.space, self._state.probes, strict=False)
        self.follow(record)

    def follow(self, record: SpaceRecord) -> None:
        """Have the engine told of what may give a probe its place, if any probe waits.

        The program stands still, or its libraries are being watched already.
        """
        if not any(self.may_appear_later(record, probe) for probe in self._state.probes):
            return
        watched_before = record.rendezvous is not None
        if self.watch(record):
            if not (watched_before or record.starting):
                self._planter.write_again(record)
            if record.starting:
                for thread in record.space.threads():
                    if not thread.syscall_mode:
                        thread.syscall_mode = True
                        thread.syscall_entry = False
        elif not record.relocated:
            self._watch_main(record)

    def is_watched(self, record: SpaceRecord) -> bool:
        """Whether the engine is told of all libraries that come and go, or there can be none."""
        return record.rendezvous is not None or not self.can_load_more(record)

    def _watch_main(self, record: SpaceRecord) -> None:
        """A static program relocates itself before main; its IFUNCs are known from then on."""
        main = self._main(record)
        found = main.image.lookup("main") if main is not None else []
        if main is None or not found:
            record.relocated = True
            return
        address = main.to_virtual(found[0].address)
        if not self._planter.plant_internal(record, address, MAIN):
            record.relocated = True

    def watch_entry(self, record: SpaceRecord) -> bool:
        """Have the program held at its entry point, its libraries loaded; False if it is there."""
        main = self._main(record)
        thread = record.space.any_thread()
        if main is None or thread is None:
            return False
        entry = main.to_virtual(main.image.entry)
        if ptrace_calls.peek_user(thread.tid, "rip") == entry:
            return False
        return self._planter.plant_internal(record, entry, ENTRY)

    @staticmethod
    def _main(record: SpaceRecord) -> Module | None:
        return next((module for module in record.modules if module.is_main), None)

    def can_load_more(self, record: SpaceRecord) -> bool:
        """Whether the program has a dynamic linker, and may load libraries yet."""
        main = self._main(record)
        if main is None:
            return record.starting  # not looked at yet
        return main.image.interpreter is not None

    def watch(self, record: SpaceRecord) -> bool:
        """Set the trap that tells of loading; False if this dynamic linker cannot be watched."""
        if record.rendezvous is not None:
            return True
        for module in record.modules:
            if module.is_main or "ld" not in module.path.rpartition("/")[2]:
                continue
            notifiers = module.image.lookup(_NOTIFIER)
            if not notifiers:
                continue
            address = module.to_virtual(notifiers[0].address)
            if self._planter.plant_internal(record, address, RENDEZVOUS):
                record.rendezvous = address
                return True
        return False

    def may_appear_later(self, record: SpaceRecord, probe: Probe) -> bool:
        """Whether loading a library could give the probe a place."""
        return not probe.removed and (
            probe not in record.planted
            or probe.definition.place.is_glob
            or probe in record.unloadable
        )

    def on_internal(self, thread: Thread, placed: PlacedSite) -> None:
        """A thread has reached a trap that `watch` or `begin_program` set."""
        record = record_of(thread.process.space)
        if placed.internal in (MAIN, ENTRY):
            record.relocated = True
            if placed.internal == ENTRY:
                self._state.frozen = True
                self.entry_reached.set()
            placed.internal = None
            self.replant(record)
            placed.update()
            self._planter.disarm_unwanted(record)
            return
        changing = self._state_of_linker(record) != _RT_CONSISTENT
        thread.syscall_mode = changing
        thread.syscall_entry = False
        if not changing:
            started, record.starting = record.starting, False
            record.relocated = True
            self.replant(record)
            # What dlopen relocates comes after this; its text is then made executable again.
            thread.syscall_mode = record.deferred
            process = thread.process
            if started and process.pid == self._state.launched and process.exec_count == 1:
                self._tell_what_is_missing(record)
                if self._state.failure is not None:
                    # Unknown names end a launched program before it has run anything.
                    kill_quietly(process.pid, signal.SIGKILL)

    def _tell_what_is_missing(self, record: SpaceRecord) -> None:
        """The program's own libraries are loaded: what is not found now is waited for if its
        module may yet be loaded, and else unknown."""
        for probe in self._state.probes:
            if not probe.pending or probe.removed or probe.hidden or probe in self._state.adding:
                continue
            wanted = probe.definition.place.module
            here = wanted is None or any(module.matches(wanted) for module in record.modules)
            if here and self._state.failure is not None:
                continue  # one is told, and what names are close takes a while to find
            reason = self._planter.problems.get(probe) or explain_missing(
                probe.definition.place, record.modules
            )
            if here:
                self._state.failure = reason
            else:
                self._state.warn_once(f"{reason}; {probe.spec} waits for it to be loaded")

    def on_syscall_stop(self, thread: Thread) -> None:
        """The linking thread enters or leaves a system call."""
        tid = thread.tid
        # Tracing may have begun in the middle of a call, so that taking turns would be one off.
        # Since Linux 5.3 the event message says which it is (include/uapi/linux/ptrace.h).
        side = ptrace_calls.get_event_message(tid)
        if side in (_EVENTMSG_SYSCALL_ENTRY, _EVENTMSG_SYSCALL_EXIT):
            thread.syscall_entry = side == _EVENTMSG_SYSCALL_ENTRY
        else:
            thread.syscall_entry = not thread.syscall_entry
        if thread.syscall_entry:
            number = ptrace_calls.peek_user(tid, "orig_rax")
            calls = thread.process.space.architecture.system_calls
            thread.in_mmap = number == calls.munmap or (
                number in (calls.mmap, calls.mprotect)
                and bool(ptrace_calls.peek_user(tid, "rdx") & _PROT_EXEC)
            )
        elif thread.in_mmap:
            thread.in_mmap = False
            record = record_of(thread.process.space)
            self.replant(record)
            if not record.deferred and self._state_of_linker(record) == _RT_CONSISTENT:
                thread.syscall_mode = record.starting

    def adopt(self, record: SpaceRecord) -> None:
        """A followed child's memory: have it hold the traps that its parent's does."""
        record.slots.complete()
        sites = record.sites()
        for key in [
            key
            for key, placed in sites.items()
            if placed.slot is not None and placed.address not in record.slots.by_site
        ]:
            placed = sites.pop(key)
            self._state.warn_once(
                f"no trap at {placed.address:#x} in a child: its slot is not there"
            )
        # Those that the parent lost while it forked: nobody would know of a hit there.
        stray = [a for a in record.traps.addresses() if record.key(a) not in sites]
        record.traps.disarm(stray, joined=False)
        self._planter.arm(record, [placed for placed in sites.values() if placed.wanted])

    def replant(self, record: SpaceRecord) -> None:
        """Look at what is mapped now and plant what has appeared, while nobody can unmap it.

        A thread that is at a trap of ours in the dynamic linker keeps others from loading and
        unloading, but not from mapping a library's file, or unmapping it, by themselves.
        """
        if not self._is_moving(record):
            self._plant_new(record, self._planter.look_again(record.space))
            return
        if self._state.frozen:
            record.look_due = True  # it is being stopped: then that is done
            return
        fresh = self._planter.look_again(record.space)
        if not fresh and not record.deferred:
            return
        with self._hold():
            keys = {module.key for module in (*fresh, *self._planter.look_again(record.space))}
            fresh = [module for module in record.modules if module.key in keys]
            self._plant_new(record, fresh)

    def _is_moving(self, record: SpaceRecord) -> bool:
        return any(thread.process.space is record.space for thread in stoppable(self._state))

    def _plant_new(self, record: SpaceRecord, appeared: list[Module]) -> None:
        record.look_due = False
        fresh: list[Module] | None = appeared
        if record.relocated and record.deferred:
            record.deferred = False
            fresh = None  # IFUNCs of modules that are not new can be resolved now
        try:
            self._planter.plant(record.space, self._state.probes, strict=False, only=fresh)
        except ptrace_calls.TraceeGone:
            raise
        except NoThreadToUse as error:
            record.deferred = True  # the end of the wait for a vfork child has it tried again
            if not any(thread.in_vfork for thread in record.space.threads()):
                self._state.warn_once(str(error))
        except UprobesError as error:
            self._state.warn_once(str(error))

    def _state_of_linker(self, record: SpaceRecord) -> int:
        try:
            if record.r_debug is None:
                record.r_debug = self._find_r_debug(record)
            if record.r_debug is None:
                return _RT_CONSISTENT
            word = record.space.architecture.word_size
            data = record.space.memory.read(record.r_debug + _R_STATE * word, 4)
        except MemoryFault:
            return _RT_CONSISTENT
        return int.from_bytes(data, "little")

    @staticmethod
    def _find_r_debug(record: SpaceRecord) -> VirtAddr | None:
        """Where the dynamic linker keeps its state: it says so in the program's DT_DEBUG."""
        main = Libraries._main(record)
        if main is None or main.image.dynamic_address is None:
            return None
        at = main.to_virtual(main.image.dynamic_address)
        entry = _DYNAMIC_ENTRY[record.space.architecture.word_size]
        data = record.space.memory.read_some(at, entry.size * _MOST_DYNAMIC_ENTRIES)
        for tag, value in entry.iter_unpack(data[: len(data) // entry.size * entry.size]):
            if tag == 0:
                break
            if tag == _DT_DEBUG and value:
                return VirtAddr(value)
        return None
