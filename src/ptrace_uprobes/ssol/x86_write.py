"""Writes the machine code of a slot, noting what each instruction boundary means."""

from __future__ import annotations

from ptrace_uprobes.addresses import VirtAddr
from ptrace_uprobes.errors import OutOfReach
from ptrace_uprobes.ssol.slot import Fixup, SlotCode

__all__ = ["FAR_JUMP_SIZE", "MASK", "NEAR_JUMP_SIZE", "SlotWriter", "jump_size", "reaches"]

MASK = (1 << 64) - 1
NEAR_JUMP_SIZE = 5
FAR_JUMP_SIZE = 21
"""At most: its operand is aligned, since a program may have set AC (SDM volume 3, 6.15, #AC)."""


def reaches(source: int, target: int, mask: int = MASK) -> bool:
    """A signed 32-bit displacement leads from `source` (the next instruction) to `target`.

    Addresses wrap at `mask`: in 32-bit mode every target is in reach.
    """
    return -0x8000_0000 <= _distance(source, target, mask) < 0x8000_0000


def _distance(source: int, target: int, mask: int) -> int:
    distance = (target - source) & mask
    return distance - mask - 1 if distance > mask >> 1 else distance


def jump_size(here: int, target: int, mask: int = MASK) -> int:
    """How many bytes `SlotWriter.jump` puts at `here`."""
    if reaches(here + NEAR_JUMP_SIZE, target, mask):
        return NEAR_JUMP_SIZE
    return 6 + _padding(here) + 8


def _padding(here: int) -> int:
    return -(here + 6) & 7


class SlotWriter:
    """Appends instructions; each `put` and `jump` is one instruction and one fixup."""

    def __init__(self, slot: VirtAddr, site: VirtAddr, mask: int = MASK) -> None:
        self.slot = slot
        self.mask = mask
        """Addresses wrap there."""
        self._site = site
        self._code = bytearray()
        self._fixups: list[Fixup] = []

    @property
    def here(self) -> VirtAddr:
        return VirtAddr((self.slot + len(self._code)) & self.mask)

    def before(self, *, sp_delta: int = 0) -> None:
        """From here on the displaced instruction has not taken effect."""
        self._fixups.append(Fixup(len(self._code), self._site, False, sp_delta))

    def after(self, rip: VirtAddr, *, registers: tuple[tuple[str, int], ...] = ()) -> None:
        """At this boundary it has, and the program would be at `rip`."""
        self._fixups.append(Fixup(len(self._code), rip, True, 0, registers))

    def put(self, code: bytes) -> None:
        self._code += code

    def displacement_to(self, target: VirtAddr, size: int) -> bytes:
        """The rel32 or disp32 to `target` of an instruction of `size` bytes that starts here."""
        distance = _distance(self.here + size, target, self.mask)
        if not -0x8000_0000 <= distance < 0x8000_0000:
            raise OutOfReach(self.slot, target)
        return distance.to_bytes(4, "little", signed=True)

    def jump(self, target: VirtAddr) -> None:
        """One instruction that needs no register, flag or stack."""
        if reaches(self.here + NEAR_JUMP_SIZE, target, self.mask):
            # jmp target
            self._code += b"\xe9" + self.displacement_to(target, NEAR_JUMP_SIZE)
        else:
            # jmp *1f(%rip); .balign 8; 1: .quad target
            padding = _padding(self.here)
            self._code += b"\xff\x25" + padding.to_bytes(4, "little") + bytes(padding)
            self._code += target.to_bytes(8, "little")

    def finish(self) -> SlotCode:
        return SlotCode(bytes(self._code), tuple(self._fixups))
