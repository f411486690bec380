"""Runs with python-ptrace in its own environment: ADDRESS READS PROGRAM [ARGUMENT...].

Its Breakpoint removes itself when it is hit; stepping on and planting it again is written out.
"""

import sys
from signal import SIGTRAP

from ptrace.debugger import ProcessExit, ProcessSignal, PtraceDebugger
from ptrace.debugger.child import createChild

address, reads, *argv = sys.argv[1:]
hits = total = 0
tracer = PtraceDebugger()
tracee = tracer.addProcess(createChild(argv, False), True)
probe = tracee.createBreakpoint(int(address, 0))
tracee.cont()
while True:
    try:
        tracee.waitSignals(SIGTRAP)
    except ProcessExit:
        break
    except ProcessSignal as event:
        tracee.cont(event.signum)
        continue
    hits += 1
    if reads == "1":
        total += tracee.getreg("rdi")
    probe.desinstall(set_ip=True)
    tracee.singleStep()
    tracee.waitSignals(SIGTRAP)
    probe = tracee.createBreakpoint(int(address, 0))
    tracee.cont()
print("hits", hits)
print("sum", total)
