"""Runs with libdebug in its own environment: ADDRESS READS PROGRAM [ARGUMENT...]."""

import sys

from libdebug import debugger

address, reads, *argv = sys.argv[1:]
total = 0


def count(thread, probe):
    pass


def count_and_read(thread, probe):
    global total
    total += thread.regs.rdi


tracee = debugger(argv, aslr=False, follow_children=False)
tracee.run(redirect_pipes=True)
probe = tracee.breakpoint(
    int(address, 0), callback=count_and_read if reads == "1" else count, file="absolute"
)
tracee.cont()
tracee.wait()
print("hits", probe.hit_count)
print("sum", total, flush=True)
tracee.terminate()
