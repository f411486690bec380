"""Watch sort(1) compare lines: registers, the two strings, and the top of the stack.

    python examples/watch_sort.py
    ptrace-uprobes -e libc:memcmp --handler examples/watch_sort.py:show --count -- sort FILE

In the C locale sort compares with memcmp(3). Its libc has a memcmp for each kind of processor;
the probe is on the one that the dynamic linker chose for this machine.
"""

from __future__ import annotations

import os
import tempfile

import ptrace_uprobes as pu

FRUIT = ("pear", "apple", "quince", "fig", "cherry", "plum", "banana", "medlar")
SHOWN = 3
STACK_WORDS = 6

shown = 0


def show(hit: pu.Hit) -> None:
    """Print one call of memcmp(left, right, length), with all that there is to see at it."""
    global shown
    shown += 1
    if shown > SHOWN:
        return
    left, right, length = (hit.argument(number) for number in range(3))
    registers = hit.registers
    print(f"\n{hit.comm}-{hit.tid} {hit.label} at {hit.address:#x}", flush=True)
    print(f"  data       {hit.read(left, length)!r} and {hit.read(right, length)!r}")
    for names in (("rdi", "rsi", "rdx"), ("rax", "rsp", "rip")):
        print(
            "  registers  " + "  ".join(f"{name}={getattr(registers, name):#x}" for name in names)
        )
    print("  stack words, from the return address up (raw: not every code address is a caller)")
    for index in range(STACK_WORDS):
        address = registers.rsp + 8 * index
        word = int.from_bytes(hit.read(address, 8), "little")
        name = hit.symbol(word)
        known = "" if name.startswith("0x") else name
        print(f"    [rsp+{8 * index:#04x}] {word:#018x} {known}".rstrip())


def main() -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as words:
        words.write("".join(f"{name}\n" for name in FRUIT))
        words.flush()
        command = ["sort", words.name, "-o", os.devnull]
        print(f"$ {' '.join(command)}   probed at libc:memcmp")
        with pu.launch(command, env={**os.environ, "LC_ALL": "C"}) as engine:
            probe = engine.probe("libc:memcmp", handler=show)
            result = engine.run(timeout=60)
    print(f"\n{probe.spec}: {result.hits[probe]} hits, {result.missed[probe]} missed", end="")
    print(f" ({SHOWN} shown); sort's exit status: {result.exit_status}")
    mechanisms = ", ".join(f"{name} {n}" for name, n in result.mechanisms.items())
    print(f"sites by mechanism: {mechanisms}")
    print("Next: README.md has five things to do with it.")


if __name__ == "__main__":
    main()
