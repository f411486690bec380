"""The proposal's usage 2.2: the registers at foo() in an application that is yet to be started.

    python examples/utrace_foo_registers.py

The proposal calls `utrace(0, 0x08048fa0, UTRACE_GETREGS, NULL)` between fork and exec. Here
the user stack and the first five bytes of foo()'s string are logged as well: the requests
are a bitmap.
"""

from __future__ import annotations

from appln import address_of, built

from ptrace_uprobes.utrace import (
    UTRACE_GETDATA,
    UTRACE_GETREGS,
    UTRACE_STACKTRACE,
    utrace_launch,
    utrace_read,
)


def main() -> None:
    with built() as program:
        foo = address_of("foo", program)
        request = UTRACE_GETREGS | UTRACE_GETDATA | UTRACE_STACKTRACE
        pid = utrace_launch([program], [(foo, request, None, 5)])
        records = utrace_read(pid)
        for record in records:
            regs = record.regs or {}
            print(f"  rip={regs['rip']:#x} rdi={regs['rdi']:#x} rsi={regs['rsi']:#x}")
            print(f"    data at rdi: {record.data!r}")
            callers = (frame.symbol or f"{frame.address:#x}" for frame in record.stack or ())
            print(f"    stack: {' < '.join(callers)}")
        print(f"process {pid} has ended with status {records.exit_status}")


if __name__ == "__main__":
    main()
