"""The proposal's usage 1.2: a handler for foo() in an application that is yet to be started.

    python examples/utrace_foo_handler.py

The proposal forks, calls `utrace(0, 0x08048fa0, UTRACE_KHANDLER, utrace_foo_khandler)` in the
child, and execs there. utrace_launch does the three in one: the breakpoint is in place
before the application's first instruction.
"""

from __future__ import annotations

from appln import address_of, built

import ptrace_uprobes as pu
from ptrace_uprobes.utrace import UTRACE_HANDLER, register_handler, utrace_launch, utrace_read


def utrace_foo_handler(hit: pu.Hit) -> None:
    word = hit.read_string(hit.argument(0)).decode()
    print(f"  foo({word!r}, {hit.argument(1)}) in process {hit.pid}", flush=True)


def main() -> None:
    register_handler("utrace_foo_handler", utrace_foo_handler)
    with built() as program:
        foo = address_of("foo", program)
        pid = utrace_launch([program], [(foo, UTRACE_HANDLER, "utrace_foo_handler")])
        # A handler of one's own logs nothing: there is only the end to wait for.
        end = utrace_read(pid)
        for _ in end:
            pass
        print(f"process {pid} has ended with status {end.exit_status}")


if __name__ == "__main__":
    main()
