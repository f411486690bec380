from ptrace_uprobes.engine.placed import PlacedSite
from ptrace_uprobes.engine.state import EngineState
from ptrace_uprobes.tracee import Thread

INTERFACE: int

def go_on(tid: int, address: int, /) -> bool: ...
def serve(state: EngineState, /) -> tuple[int, int, Thread | None, PlacedSite | None]: ...
