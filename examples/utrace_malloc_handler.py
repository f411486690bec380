"""The proposal's usage 1.1: a handler for malloc() in an application that runs already.

    python examples/utrace_malloc_handler.py

The proposal inserts a kernel module with uprobe_handler(), and then calls
`utrace(child, 0x8048320, UTRACE_KHANDLER, uprobe_handler)`. Here the handler is a function
that is registered by name. The address is that of the program's own entry for malloc() in its
procedure linkage table, which is what `objdump -D appln | grep malloc` finds; the SPEC
"libc:malloc" in its place would mean the function in the library.
"""

from __future__ import annotations

import subprocess
import threading

from appln import address_of, built

import ptrace_uprobes as pu
from ptrace_uprobes.utrace import UTRACE_HANDLER, register_handler, utrace_addbp, utrace_rmbp

SHOWN = 4

calls = 0
enough = threading.Event()


def uprobe_handler(hit: pu.Hit) -> None:
    """Runs while the thread that hit waits; it could sleep as well."""
    global calls
    calls += 1
    if calls <= SHOWN:
        caller = int.from_bytes(hit.read(hit.registers.rsp, 8), "little")
        print(f"  {hit.argument(0)} bytes for {hit.symbol(caller)}", flush=True)
    if calls == SHOWN:
        enough.set()


def main() -> None:
    register_handler("uprobe_handler", uprobe_handler)
    with built() as program:
        malloc = address_of("malloc@plt", program)
        child = subprocess.Popen([program, "1000000"])
        try:
            print(f"insert a probe on process {child.pid}: each call of malloc asks for")
            utrace_addbp(child.pid, malloc, UTRACE_HANDLER, "uprobe_handler")
            enough.wait(60)
            utrace_rmbp(child.pid, malloc)
            print(f"removed; process {child.pid} is", "running" if child.poll() is None else "over")
        finally:
            child.kill()
            child.wait()


if __name__ == "__main__":
    main()
