"""How a displaced instruction is executed: bytes in, plan out; no process is touched.

Plans are made by the thousand and kept for as long as their site: about 15 µs and less
than half a kilobyte each. What does not depend on the address is shared by all sites.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.arch.base import Architecture
from ptrace_uprobes.arch.x86 import I386, X86_64
from ptrace_uprobes.decoder import Instruction, decode
from ptrace_uprobes.errors import EngineBug, OutOfReach
from ptrace_uprobes.ssol.mechanism import Mechanism, Refusal
from ptrace_uprobes.ssol.recipe import Recipe
from ptrace_uprobes.ssol.slot import Fixup, SlotCode
from ptrace_uprobes.ssol.state import Registers, TraceeMemory
from ptrace_uprobes.ssol.x86_classify import classify
from ptrace_uprobes.ssol.x86_emulate import Emulator, emulator_for
from ptrace_uprobes.ssol.x86_operand import REGISTER_NAMES
from ptrace_uprobes.ssol.x86_relocate import scratch_register, touch_stack

__all__ = [
    "Fixup",
    "Mechanism",
    "OutOfReach",
    "Plan",
    "Refusal",
    "Registers",
    "SlotCode",
    "TraceeMemory",
    "plan",
    "plan_far",
    "plan_without_slot",
]

_NO_EMULATION = "the tracer cannot compute the effect of this instruction"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do at each hit of one site."""

    instruction: Instruction | None
    """None if the bytes could not be decoded."""
    address: VirtAddr
    code: bytes
    """The instruction's bytes, or all that was given if they could not be decoded."""
    mechanism: Mechanism
    refusal: Refusal | None = None
    """Set if and only if the mechanism is REFUSE."""
    reason: str | None = None
    """Why it is refused, or why another mechanism than the preferred one was taken."""
    scratch: tuple[str, int] | None = None
    """STEP: a register that the tracer loads with this value before, and restores after."""
    _recipe: Recipe | None = field(default=None, repr=False)
    _emulator: Emulator | None = field(default=None, repr=False)

    @property
    def slot_size(self) -> int:
        """The most bytes that `assemble` can give; 0 if it cannot be called.

        With EMULATE the slot is for executing natively what the tracer could not: after a
        `MemoryFault`, so that the program meets its own fault.
        """
        if self._recipe is None or self._recipe.assemble is None:
            return 0
        return len(self.code) + self._recipe.extra_size

    @property
    def fix_fip(self) -> bool:
        """STEP: if the x87 instruction pointer is the slot's address afterwards, it has to
        become the site's (PTRACE_SETFPREGS). Some processors record it only with a pending
        exception: any other value is to be left alone."""
        return self._recipe is not None and self._recipe.fix_fip

    @property
    def fop(self) -> int:
        """What the x87 state records as the instruction's opcode; a far operand's copy has
        another ModRM byte (SDM volume 1, 8.1.9). With `fix_fip` only."""
        if self.instruction is None:
            raise EngineBug(f"no instruction, whose opcode was asked for: {self}")
        encoding = self.instruction.encoding
        return (encoding.opcode & 7) << 8 | encoding.modrm & 0xFF

    def assemble(self, slot: VirtAddr) -> SlotCode:
        """The code to put at `slot`; raises `OutOfReach`: then see `plan_far`."""
        if self._recipe is None or self._recipe.assemble is None or self.instruction is None:
            raise EngineBug(f"a plan without a slot was to be assembled: {self}")
        return self._recipe.assemble(self.instruction, slot)

    @property
    def slot_leads_back(self) -> bool:
        """EMULATE: the slot only has the memory made that the tracer did not find, and then the
        thread comes to the site again; else it executes the instruction."""
        return self._recipe is not None and self._recipe.assemble is touch_stack

    def slot_serves(self, registers: Registers) -> bool:
        """EMULATE: whether the slot, too, has the instruction's effect from these registers."""
        recipe = self._recipe
        if recipe is None or recipe.assemble is None or self.instruction is None:
            return False
        if recipe.serves is not None:
            return recipe.serves(self.instruction, registers)
        return recipe.why_not_boost is None

    def emulate(self, registers: Registers, memory: TraceeMemory) -> None:
        """Advance `registers` and `memory` as the instruction does.

        After a `MemoryFault` neither has changed.
        """
        if self._emulator is None:
            raise EngineBug(f"a plan without an emulator was to be emulated: {self}")
        self._emulator(self.address, registers, memory)


def plan(
    code: bytes,
    address: VirtAddr,
    arch: Architecture = X86_64,
    prefer: Mechanism | None = None,
) -> Plan:
    """The plan for the instruction that `code` starts with: up to 15 bytes at `address`."""
    if arch.elf_machine != X86_64.elf_machine and arch.elf_machine != I386.elf_machine:
        return _refused(None, address, code, Refusal.ARCHITECTURE)
    instruction = decode(code, address, arch)
    if instruction is None:
        return _refused(None, address, code, Refusal.UNDECODABLE)
    recipe = classify(instruction)
    if recipe.refusal is not None:
        return _refused(instruction, address, instruction.code, recipe.refusal)
    if instruction.disputed:
        return _refused(instruction, address, instruction.code, Refusal.LENGTH_DISPUTED)
    return _planned(instruction, recipe, prefer)


def _planned(instruction: Instruction, recipe: Recipe, prefer: Mechanism | None) -> Plan:
    mechanism, reason = _choose(instruction, recipe, prefer)
    emulator = emulator_for(instruction) if mechanism is Mechanism.EMULATE else None
    return Plan(
        instruction=instruction,
        address=instruction.address,
        code=instruction.code,
        mechanism=mechanism,
        reason=reason,
        _recipe=recipe,
        _emulator=emulator,
    )


def _choose(
    instruction: Instruction, recipe: Recipe, prefer: Mechanism | None
) -> tuple[Mechanism, str | None]:
    auto = recipe.mechanism
    if prefer is None:
        return auto, recipe.why_not_boost
    if prefer is auto:
        return auto, None
    if prefer is Mechanism.BOOST:
        why_not = recipe.why_not_boost
    elif prefer is Mechanism.STEP:
        why_not = recipe.why_not_step
    elif prefer is Mechanism.EMULATE:
        why_not = None if emulator_for(instruction) is not None else _NO_EMULATION
    else:
        return auto, recipe.why_not_boost
    return (prefer, None) if why_not is None else (auto, why_not)


def plan_far(near: Plan) -> Plan:
    """The plan for a site whose only slot is out of its operand's reach.

    For use when `near.assemble` raised `OutOfReach`.
    """
    instruction, recipe = near.instruction, near._recipe
    if instruction is None or recipe is None:
        return near
    far = recipe.far
    if far is None or not instruction.encoding.is_rip_relative:
        return _refused(instruction, near.address, near.code, Refusal.OUT_OF_REACH)
    made = _planned(instruction, far, None)
    if far.mechanism is not Mechanism.STEP:
        return made
    register = REGISTER_NAMES[scratch_register(instruction)]
    return replace(made, scratch=(register, int(instruction.next_address)))


def plan_without_slot(code: bytes, address: VirtAddr, arch: Architecture = X86_64) -> Plan:
    """The plan for a site for which no slot can be had: emulated, or refused."""
    preferred = plan(code, address, arch, Mechanism.EMULATE)
    if preferred.refusal is not None or preferred.instruction is None:
        return preferred
    if preferred.mechanism is not Mechanism.EMULATE:
        return _refused(preferred.instruction, address, preferred.code, Refusal.NO_SLOT)
    return replace(preferred, _recipe=None)


def _refused(
    instruction: Instruction | None, address: VirtAddr, code: bytes, refusal: Refusal
) -> Plan:
    code = bytes(code)
    reason = refusal.value
    if refusal in (Refusal.UNDECODABLE, Refusal.LENGTH_DISPUTED):
        reason = f"{reason} ({code.hex(' ') or 'none'})"
    return Plan(
        instruction=instruction,
        address=address,
        code=code,
        mechanism=Mechanism.REFUSE,
        refusal=refusal,
        reason=reason,
    )
