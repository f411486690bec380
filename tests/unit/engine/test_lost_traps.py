"""What a thread looks like right behind an instruction of one byte: has it been executed?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.engine.lost_traps import is_before_padding, stands_behind_a_lost_trap
from ptrace_uprobes.engine.placed import PlacedSite
from ptrace_uprobes.linux import ptrace_calls
from ptrace_uprobes.linux.ptrace_calls import UserRegs
from ptrace_uprobes.ssol.plan import Mechanism, plan
from tests.support.fake_tracee import PAGE, FakeMemory, a_record, a_thread

SITE = VirtAddr(0x40_1000)
STACK = 0x7000_0000
SI_TKILL, SI_KERNEL = -6, 0x80
NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
values = st.integers(0, (1 << 64) - 1)
some_registers = st.fixed_dictionaries(
    {name: values for name in NAMES if name != "rsp"}
    | {"rsp": st.integers(STACK + 256, STACK + PAGE - 256)}
)
PUSHES = [bytes([0x50 + number]) for number in range(8)]
POPS = [bytes([0x58 + number]) for number in range(8) if NAMES[number] != "rsp"]
LEAVE = b"\xc9"


def _is_lost(
    monkeypatch: pytest.MonkeyPatch,
    placed: PlacedSite,
    registers: UserRegs,
    memory: FakeMemory,
    code: int = SI_TKILL,
) -> bool:
    thread = a_thread(a_record(memory))
    monkeypatch.setattr(thread, "memory", memory)
    monkeypatch.setattr(ptrace_calls, "get_registers", lambda tid: registers)
    monkeypatch.setattr(ptrace_calls, "signal_code", lambda tid: code)
    return stands_behind_a_lost_trap(thread, placed)


def _registers(contents: dict[str, int]) -> UserRegs:
    registers = UserRegs(cs=0x33, rip=SITE)
    for name, value in contents.items():
        setattr(registers, name, value)
    return registers


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*PUSHES, *POPS, LEAVE]), some_registers, st.binary(min_size=64), values)
def test_what_a_stack_instruction_leaves_tells_whether_it_was_executed(
    monkeypatch: pytest.MonkeyPatch,
    code: bytes,
    contents: dict[str, int],
    around: bytes,
    pushed: int,
) -> None:
    # GIVEN a thread that has run into the trap of such an instruction, with a stack of its own
    made = plan(code, SITE, prefer=Mechanism.EMULATE)
    assert made.mechanism is Mechanism.EMULATE
    placed = PlacedSite(SITE, made)
    memory = FakeMemory(STACK, bytes(PAGE))
    memory.write(contents["rsp"] - 32, around[:64])
    memory.write(contents["rsp"], pushed.to_bytes(8, "little"))
    if code == LEAVE:
        contents = contents | {"rbp": contents["rsp"] + 64}
    before = _registers(contents)
    stale = int.from_bytes(memory.read(before.rsp - 8, 8), "little")

    # WHEN it has been executed, as the planner does, which is compared with the processor
    after = UserRegs.from_buffer_copy(before)
    executed = FakeMemory(STACK, memory.read(STACK, PAGE))
    made.emulate(after, executed)

    # THEN the one state is told from the other; what is on the stack by chance may not be equal
    before.rip = after.rip = SITE + 1
    assert not _is_lost(monkeypatch, placed, after, executed)
    by_chance = {"push": pushed, "pop": stale, "leave": stale}
    word = next(name for name in by_chance if made.instruction and name in made.instruction.text)
    own = before.rbp if code == LEAVE else getattr(before, NAMES[code[0] & 7])
    if by_chance[word] != own:
        assert _is_lost(monkeypatch, placed, before, memory)


def test_behind_a_return_only_a_function_that_was_called_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN a `ret` with a function right behind it
    placed = PlacedSite(SITE, plan(b"\xc3", SITE))
    memory = FakeMemory(STACK, bytes(PAGE))
    registers = _registers({"rsp": STACK + 256})
    registers.rip = SITE + 1
    back = SITE + 0x205
    memory.map(back - 5, bytes(PAGE))
    memory.write(STACK + 256, back.to_bytes(8, "little"))

    # WHEN the return address is behind a call of that function, or of another
    for called, lost in [(SITE + 1, False), (SITE - 0x20, True)]:
        memory.write(back - 5, b"\xe8" + (called - back).to_bytes(4, "little", signed=True))

        # THEN the thread has been called, or has run into the trap
        assert _is_lost(monkeypatch, placed, registers, memory) is lost


def test_a_trap_of_the_kernels_has_not_replaced_another(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = FakeMemory(STACK, bytes(PAGE))
    registers = _registers({"rsp": STACK + 256, "rbp": 7})
    placed = PlacedSite(SITE, plan(b"\x55", SITE))
    assert _is_lost(monkeypatch, placed, registers, memory)
    assert not _is_lost(monkeypatch, placed, registers, memory, SI_KERNEL)


def test_inside_of_a_longer_instruction_nothing_else_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = PlacedSite(SITE, plan(b"\x48\x89\xe5", SITE))
    assert _is_lost(monkeypatch, placed, _registers({"rsp": STACK + 8}), FakeMemory(STACK, b""))


@pytest.mark.parametrize("fill", [0, 1, 2, 7, 14, 15, 16, 17, 31, 46, 63])
def test_the_padding_of_the_assembler_is_known(fill: int, tmp_path: Path) -> None:
    # GIVEN a `ret` at each distance from the next multiple of 64, filled up by the assembler
    source, text = tmp_path / "a.s", tmp_path / "a.bin"
    source.write_text(f".skip {63 - fill}, 0xf4\nret\n.p2align 6\npush %rbp\n.skip 16\n")
    object_file = tmp_path / "a.o"
    subprocess.run(["as", "-o", object_file, source], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", object_file, text], check=True)
    code = text.read_bytes()[63 - fill :]
    address = SITE + 63 - fill

    # THEN that is seen, and what follows at once or is nothing like it is none
    assert is_before_padding(code[:15], address) is (fill % 16 > 0)
    assert not is_before_padding(b"\xc3" + code[1 + fill :], address)
    assert not is_before_padding(b"\x55" + code[1:], address)
    for count in range(min(fill % 16, 13)):
        assert not is_before_padding(b"\xc3" + b"\x90" * count + b"\x55" * 14, address)
