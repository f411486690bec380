"""The proposal's usage 2.1: the registers at malloc() in an application that runs already.

    python examples/utrace_malloc_registers.py

The proposal calls `utrace(child, 0x8048320, UTRACE_GETREGS, NULL)`: no handler of one's own,
the predefined one logs the registers. utrace_read gives what was logged.
"""

from __future__ import annotations

import subprocess
from itertools import islice

from appln import address_of, built

from ptrace_uprobes.utrace import UTRACE_GETREGS, utrace_addbp, utrace_read, utrace_rmbp

SHOWN = 4


def main() -> None:
    with built() as program:
        malloc = address_of("malloc@plt", program)
        child = subprocess.Popen([program, "1000000"])
        try:
            print(f"insert a probe on process {child.pid}")
            utrace_addbp(child.pid, malloc, UTRACE_GETREGS)
            for record in islice(utrace_read(child.pid, timeout=60), SHOWN):
                regs = record.regs or {}
                shown = "  ".join(f"{name}={regs[name]:#x}" for name in ("rip", "rdi", "rsp"))
                print(f"  [{record.time_ns / 1e9:.6f}] thread {record.tid}: {shown}")
            utrace_rmbp(child.pid, malloc)
            print(f"removed; process {child.pid} is", "running" if child.poll() is None else "over")
        finally:
            child.kill()
            child.wait()


if __name__ == "__main__":
    main()
