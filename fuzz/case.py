"""One case: an instruction and the state that it starts in, both made of a number."""

from __future__ import annotations

import random
from dataclasses import KW_ONLY, dataclass
from typing import Final

from fuzz.harness import ARENA, DATA, MEMORIES, PAGE, SITE, SLOT, STACK, XSTATES
from fuzz.mode import WIDE, Mode
from fuzz.states import HARDWARE_ORDER, code_address, some_value
from ptrace_uprobes.arch.x86_encoding import Encoding, Family, Prefix, measure
from ptrace_uprobes.decoder import is_relative_branch

__all__ = ["Case", "make_case"]

_SITE_OFFSETS: Final = (0x100, 0x101, 0x13C, 0x1FF3, 0x1FF9, 0x3FFF)
_SLOT_OFFSETS: Final = (0x40, 0x1FF1, 0x4FFA, 0x9001)
_STATUS_FLAGS: Final = 0x8D5
_TF, _DF, _AC, _RF, _ID = 0x100, 0x400, 0x40000, 0x10000, 0x200000
_RAX, _RCX, _RBX, _RSP, _RBP, _RSI, _RDI = 0, 1, 3, 4, 5, 6, 7
_RIP, _EFLAGS = 16, 17


@dataclass(frozen=True, slots=True)
class Case:
    """Where and from what to run it."""

    seed: int
    mode: Mode
    code: bytes
    """The instruction's bytes if its length is known, else all fifteen."""
    general: tuple[int, ...]
    base: int
    """Number of the base."""
    site: int
    slot_offset: int
    """From a base, near or far."""
    fs_base: int
    gs_base: int
    xstate: int
    memory: int

    @property
    def steps_itself(self) -> bool:
        """The program has set TF."""
        return self.general[_EFLAGS] & _TF != 0


def make_case(seed: int, window: bytes, mode: Mode = WIDE, *, exact: bool = False) -> Case:
    """`exact`: the bytes are run as they are; else operands and targets are aimed at places
    where something is."""
    source = random.Random(seed)
    number = source.randrange(len(mode.bases))
    base = mode.bases[number]
    site = base + SITE + source.choice(_SITE_OFFSETS)
    general = [some_value(source, base, mode) for _ in range(18)]
    general[_RIP] = site
    general[HARDWARE_ORDER[_RSP]] = base + STACK + _stack_offset(source)
    if source.random() < 0.5:
        general[HARDWARE_ORDER[_RBP]] = base + STACK + 2048 + source.randrange(0, 1024, 8)
    counts = (source.randrange(6), 1 << 32, 1 << 32 | 1, source.getrandbits(64))
    if source.random() < 0.8:
        general[HARDWARE_ORDER[_RCX]] = source.choice(counts) & mode.mask
    general[_EFLAGS] = _flags(source)
    if mode.bits == 32:
        general[:8] = [0] * 8
    encoding = measure(window, mode.bits)
    code = window if encoding is None else window[: encoding.size]
    aim_source = random.Random(source.getrandbits(64))
    slot_offset = SLOT + source.choice(_SLOT_OFFSETS)
    fs_base = base + DATA + source.choice((0, 8, 64))
    gs_base = source.choice((base + DATA, base + DATA + 512, 0, 0x7FFF_FFFF_E000)) & mode.mask
    if encoding is not None:
        aim = _Aim(mode, site, base, fs_base, gs_base, aim_source, change_code=not exact)
        code = aim.aimed(code, encoding, general)
    return Case(
        seed=seed,
        mode=mode,
        code=code,
        general=tuple(general),
        base=number,
        site=site,
        slot_offset=slot_offset,
        fs_base=fs_base,
        gs_base=gs_base,
        xstate=source.randrange(XSTATES),
        memory=source.randrange(MEMORIES),
    )


def _stack_offset(source: random.Random) -> int:
    if source.random() < 0.12:
        return source.choice((0, 4, 8, 16, PAGE - 8, PAGE - 4, PAGE, PAGE + 8))
    return source.choice((1024, 2048, 2048 + 8, 2048 + 1, 3072))


def _flags(source: random.Random) -> int:
    flags = 0x202 | source.getrandbits(12) & _STATUS_FLAGS
    for flag, chance in ((_DF, 0.3), (_AC, 0.1), (_RF, 0.1), (_ID, 0.2), (_TF, 0.03)):
        if source.random() < chance:
            flags |= flag
    return flags


@dataclass(frozen=True, slots=True)
class _Aim:
    """Directs operands and targets to where something is, or just is not."""

    mode: Mode
    site: int
    base: int
    fs_base: int
    gs_base: int
    source: random.Random
    _: KW_ONLY
    change_code: bool
    """Not only registers."""

    def data_address(self) -> int:
        source, base, mode = self.source, self.base, self.mode
        kind = source.randrange(12)
        if kind == 0:
            return base + DATA + source.choice((PAGE, 2 * PAGE)) + source.randrange(-66, 2)
        if kind == 1:
            return base + STACK + source.randrange(0, PAGE, 8)
        if kind == 2:
            return source.choice((*mode.nowhere, base + SITE + 0x4000, mode.mask - 3))
        if kind == 3:
            return base + DATA + PAGE + source.randrange(0, PAGE - 64, 8)
        step = source.choice((1, 8, 64))
        return base + DATA + 512 + source.randrange(0, PAGE - 1024, step)

    def aimed(self, code: bytes, encoding: Encoding, general: list[int]) -> bytes:
        """The code, and `general` with it."""
        source, change_code = self.source, self.change_code
        legacy = encoding.family is Family.LEGACY
        if encoding.has_memory_operand and source.random() < 0.85:
            target = self.data_address()
            if encoding.is_rip_relative:
                if change_code:
                    code = _with_displacement(code, encoding, target - self.site - len(code))
            elif self.mode.bits == 32 and _is_bare(encoding, code):
                if change_code:
                    code = _with_displacement(code, encoding, target)
            elif encoding.has_short_addresses:
                _point_short(code, encoding, target - self._segment_base(encoding), general)
            else:
                _point(code, encoding, target, general, self.mode.mask)
        if not legacy or encoding.opcode_map > 1:
            return code
        opcode = encoding.opcode
        if encoding.opcode_map == 1:
            if 0x80 <= opcode <= 0x8F and change_code:
                return self._with_branch(code, encoding)
            if opcode in (0xF7, 0x01):  # maskmovq; clzero and the like
                general[HARDWARE_ORDER[_RDI]] = self.data_address()
                general[HARDWARE_ORDER[_RAX]] = self.data_address()
            return code
        if 0x6C <= opcode <= 0x6F or 0xA4 <= opcode <= 0xAF:
            # Not more than can be stepped, a signal for each.
            general[HARDWARE_ORDER[_RCX]] = source.randrange(200)
            general[HARDWARE_ORDER[_RSI]] = self.data_address()
            general[HARDWARE_ORDER[_RDI]] = self.data_address()
        elif 0xA0 <= opcode <= 0xA3 and change_code:
            size = encoding.immediate_size
            target = self.data_address() & (1 << 8 * size) - 1
            return code[: encoding.immediate_offset] + target.to_bytes(size, "little")
        elif opcode == 0xD7:  # xlat
            general[HARDWARE_ORDER[_RBX]] = self.data_address()
        elif opcode == 0xFF and encoding.mode == 3 and encoding.reg in (2, 4):
            number = encoding.rm | (encoding.rex & 1) << 3
            if number != _RSP and source.random() < 0.7:
                general[HARDWARE_ORDER[number]] = code_address(source, self.base)
        elif change_code and is_relative_branch(encoding):
            return self._with_branch(code, encoding)
        return code

    def _segment_base(self, encoding: Encoding) -> int:
        if encoding.prefixes & Prefix.FS:
            return self.fs_base
        return self.gs_base if encoding.prefixes & Prefix.GS else 0

    def _with_branch(self, code: bytes, encoding: Encoding) -> bytes:
        """A relative branch to an int3, or where no code is; not into itself, which would loop."""
        source, base = self.source, self.base
        start, size = encoding.immediate_offset, encoding.immediate_size
        following = self.site + len(code)
        if size == 1:
            distance = source.choice((source.randrange(0, 128), source.randrange(-128, -16)))
        else:
            places = (code_address(source, base), base - 0x1000, base + SITE + ARENA, base + DATA)
            distance = source.choice((places[0], *places)) - following
        return code[:start] + (distance & (1 << 8 * size) - 1).to_bytes(size, "little")


def _is_bare(encoding: Encoding, code: bytes) -> bool:
    """The operand is a displacement of four bytes and nothing else; in 32-bit mode."""
    if encoding.mode != 0 or encoding.has_short_addresses:
        return False
    return encoding.rm == 5 or (
        encoding.rm == 4 and code[encoding.opcode_offset + 2] & 0x3F == 0x25
    )


def _with_displacement(code: bytes, encoding: Encoding, displacement: int) -> bytes:
    start = encoding.displacement_offset
    return code[:start] + (displacement & 0xFFFF_FFFF).to_bytes(4, "little") + code[start + 4 :]


_BX, _BP, _SI, _DI = 3, 5, 6, 7
_SHORT_FORMS: Final = ((_BX, _SI), (_BX, _DI), (_BP, _SI), (_BP, _DI))


def _point_short(code: bytes, encoding: Encoding, target: int, general: list[int]) -> None:
    """Make an address of 16 bits the target's lowest ones."""
    start, size = encoding.displacement_offset, encoding.displacement_size
    rest = target - int.from_bytes(code[start : start + size], "little", signed=True)
    if encoding.rm < 4:
        base, index = _SHORT_FORMS[encoding.rm]
        rest -= general[HARDWARE_ORDER[index]]
    elif encoding.rm == 6 and encoding.mode == 0:
        return
    else:
        base = (_SI, _DI, _BP, _BX)[encoding.rm - 4]
    general[HARDWARE_ORDER[base]] = general[HARDWARE_ORDER[base]] & ~0xFFFF | rest & 0xFFFF


def _point(
    code: bytes, encoding: Encoding, target: int, general: list[int], address_mask: int
) -> None:
    """Make the operand's address the target, if a register can do that."""
    rex_x = rex_b = 0
    if encoding.family is Family.LEGACY:
        rex_x, rex_b = (encoding.rex & 2) << 2, (encoding.rex & 1) << 3
    elif encoding.bits == 64 and code[encoding.vector_prefix_offset] != 0xC5:
        second = ~code[encoding.vector_prefix_offset + 1]
        rex_x, rex_b = second >> 3 & 8, second >> 2 & 8
    size = encoding.displacement_size
    start = encoding.displacement_offset
    displacement = int.from_bytes(code[start : start + size], "little", signed=True)
    if encoding.family is Family.EVEX and size == 1:
        displacement = 0  # scaled by the operand's size: near enough
    base = encoding.rm | rex_b
    shift = 0
    index = None
    if encoding.rm == 4:
        sib = code[encoding.opcode_offset + 2]
        index = sib >> 3 & 7 | rex_x
        shift = sib >> 6
        base = sib & 7 | rex_b
        if sib & 7 == 5 and encoding.mode == 0:
            return
    if index is not None and index not in (4, base):
        # Small, so that a gather that takes its indices elsewhere is not far off.
        general[HARDWARE_ORDER[index]] &= 0x3F
        displacement += general[HARDWARE_ORDER[index]] << shift
    if base == _RSP:
        return
    mask = 0xFFFF_FFFF if encoding.prefixes & Prefix.ADDRESS_SIZE else address_mask
    general[HARDWARE_ORDER[base]] = target - displacement & mask
