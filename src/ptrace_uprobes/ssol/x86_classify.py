"""The class of each x86 instruction, from its bytes, and the recipe for the class.

Nearly everything does not depend on its own address and is copied verbatim. The named
cases are what does: control transfers, RIP-relative operands, instructions that record
their address (x87, SYSCALL), and those that a single-step disturbs. The list was made from
the Intel SDM volume 2 and from can_boost/can_probe and riprel_analyze in
arch/x86/kernel/kprobes/core.c and arch/x86/kernel/uprobes.c.
"""

from __future__ import annotations

from ptrace_uprobes.arch.x86_encoding import Encoding, Family, Prefix
from ptrace_uprobes.decoder import Instruction
from ptrace_uprobes.ssol import x86_relocate as relocate
from ptrace_uprobes.ssol.mechanism import Mechanism, Refusal
from ptrace_uprobes.ssol.recipe import Recipe
from ptrace_uprobes.ssol.x86_operand import (
    is_absolute,
    is_clear_of_push,
    rm_register,
    uses_only_rsp,
)
from ptrace_uprobes.ssol.x86_write import FAR_JUMP_SIZE

__all__ = ["classify"]

_TRANSFER = "a control transfer is boosted: single-stepping it would gain nothing"
_PUSH_SIZE = 12  # push imm32; movl imm32, 4(%rsp) less the opcode byte that a call has too

_SCRATCH = Recipe(
    Mechanism.STEP,
    relocate.copy_scratch,
    extra_size=8 + FAR_JUMP_SIZE,
    why_not_boost="its operand is out of the slot's reach, and takes a register for the step",
)
COPY = Recipe(Mechanism.BOOST, relocate.copy, FAR_JUMP_SIZE, far=_SCRATCH)
NEVER_STEP = Recipe(
    Mechanism.BOOST,
    relocate.copy,
    FAR_JUMP_SIZE,
    why_not_step="it shows or changes the trap flag, or holds the step's own trap back",
)
LEA = Recipe(Mechanism.BOOST, relocate.lea, 3 + FAR_JUMP_SIZE)
X87 = Recipe(
    Mechanism.STEP,
    relocate.copy,
    FAR_JUMP_SIZE,
    why_not_boost="it records its address in the x87 state, which is set back after a step",
    fix_fip=True,
    far=Recipe(
        Mechanism.STEP,
        relocate.copy_scratch,
        extra_size=8 + FAR_JUMP_SIZE,
        why_not_boost="it records its address in the x87 state, and its operand is far",
        fix_fip=True,
    ),
)
_FAR_CALL_OPERAND = Recipe(
    Mechanism.EMULATE,
    relocate.touch_stack,
    extra_size=9 + FAR_JUMP_SIZE,
    why_not_boost="its operand is out of the slot's reach",
    why_not_step=_TRANSFER,
)
_FAR_JUMP_OPERAND = Recipe(
    Mechanism.EMULATE,
    why_not_boost="its operand is out of the slot's reach",
    why_not_step=_TRANSFER,
)
CALL_RELATIVE = Recipe(
    Mechanism.BOOST, relocate.call_relative, 8 + FAR_JUMP_SIZE, why_not_step=_TRANSFER
)
CALL_REGISTER = Recipe(
    Mechanism.BOOST, relocate.call_register, _PUSH_SIZE + 1, why_not_step=_TRANSFER
)
CALL_RIP_RELATIVE = Recipe(
    Mechanism.BOOST,
    relocate.call_memory,
    _PUSH_SIZE + 1,
    why_not_step=_TRANSFER,
    far=_FAR_CALL_OPERAND,
)
CALL_ABSOLUTE = Recipe(
    Mechanism.BOOST, relocate.call_memory, _PUSH_SIZE + 1, why_not_step=_TRANSFER
)
CALL_STACK = Recipe(Mechanism.BOOST, relocate.call_memory, _PUSH_SIZE + 5, why_not_step=_TRANSFER)
CALL_MEMORY = Recipe(
    Mechanism.EMULATE,
    relocate.call_memory,
    _PUSH_SIZE + 5,
    why_not_boost="its operand could lie where a slot's push writes, and is to be read before",
    why_not_step=_TRANSFER,
    serves=is_clear_of_push,
)
CALL_RSP = Recipe(
    Mechanism.EMULATE,
    relocate.touch_stack,
    9 + FAR_JUMP_SIZE,
    why_not_boost="a slot's push would change the register that holds its target",
    why_not_step=_TRANSFER,
)
JUMP_RELATIVE = Recipe(
    Mechanism.BOOST, relocate.jump_relative, FAR_JUMP_SIZE, why_not_step=_TRANSFER
)
JUMP_INDIRECT = Recipe(
    Mechanism.BOOST, relocate.copy_jump, 0, why_not_step=_TRANSFER, far=_FAR_JUMP_OPERAND
)
CONDITIONAL = Recipe(
    Mechanism.BOOST, relocate.conditional, 4 + 2 * FAR_JUMP_SIZE, why_not_step=_TRANSFER
)
LOOP = Recipe(Mechanism.BOOST, relocate.loop, 2 * FAR_JUMP_SIZE, why_not_step=_TRANSFER)
SYSCALL = Recipe(
    Mechanism.BOOST,
    relocate.syscall,
    10 + FAR_JUMP_SIZE,
    why_not_step="a system call is boosted, since a step's trap is lost in some of them",
)
# In 32-bit mode SYSENTER and SYSCALL have no return address of their own: the kernel returns to
# the landing pad in the vDSO, and restarts a call from there (do_fast_syscall_32 of
# arch/x86/entry/syscall_32.c).
FAST_SYSTEM_CALL = Recipe(
    Mechanism.BOOST,
    relocate.copy_jump,
    0,
    why_not_step="a system call is boosted, since a step's trap is lost in some of them",
)
SOFTWARE_INTERRUPT = Recipe(
    Mechanism.BOOST,
    relocate.copy,
    FAR_JUMP_SIZE,
    why_not_step="a software interrupt is boosted, since it clears the trap flag",
)
TRANSACTION = Recipe(
    Mechanism.BOOST,
    relocate.transaction,
    2 * FAR_JUMP_SIZE,
    why_not_step="a step's trap aborts the transaction",
)


def _refused(refusal: Refusal) -> Recipe:
    return Recipe(Mechanism.REFUSE, refusal=refusal)


_BREAKPOINT = _refused(Refusal.BREAKPOINT)
_ENCLAVE = _refused(Refusal.ENCLAVE)
_FAR_TRANSFER = _refused(Refusal.FAR_TRANSFER)
_LOCKED = _refused(Refusal.LOCKED)
_OPERAND_SIZE_BRANCH = _refused(Refusal.OPERAND_SIZE_BRANCH)
_SHORT_BRANCH = _refused(Refusal.SHORT_BRANCH)
_PROFILING = _refused(Refusal.PROFILING)
_SYSENTER = _refused(Refusal.SYSENTER)


def classify(instruction: Instruction) -> Recipe:
    encoding = instruction.encoding
    if encoding.family is Family.LEGACY:
        if encoding.opcode_map == 0:
            return _one_byte(instruction, encoding)
        if encoding.opcode_map == 1:
            return _two_byte(encoding)
    elif encoding.family is Family.XOP and (encoding.opcode_map, encoding.opcode) in (
        (9, 0x12),  # llwpcb, slwpcb
        (10, 0x12),  # lwpins
        (10, 0x13),  # lwpval
    ):
        return _PROFILING
    return COPY


def _remade(encoding: Encoding, recipe: Recipe) -> Recipe:
    """`recipe` for an instruction whose prefixes do not all appear in the slot."""
    return _LOCKED if encoding.prefixes & Prefix.LOCK else recipe


def _near_branch(encoding: Encoding, recipe: Recipe) -> Recipe:
    # SDM volume 2, "CALL": in 64-bit mode the operand size of near branches is forced to 64
    # bits; AMD (APM volume 3, 1.2.2) cuts RIP to 16 bits. REX.W outweighs the prefix on both.
    # In 32-bit mode it is cut by both, and no program could go on there.
    if encoding.prefixes & Prefix.OPERAND_SIZE and not encoding.wide:
        return _OPERAND_SIZE_BRANCH if encoding.bits == 64 else _SHORT_BRANCH
    return _remade(encoding, recipe)


_NEAR_BRANCHES = {
    **dict.fromkeys(range(0x70, 0x80), CONDITIONAL),
    0xC2: JUMP_INDIRECT,  # ret imm16
    0xC3: JUMP_INDIRECT,  # ret
    **dict.fromkeys(range(0xE0, 0xE4), LOOP),
    0xE8: CALL_RELATIVE,
    0xE9: JUMP_RELATIVE,
    0xEB: JUMP_RELATIVE,
}
_ONE_BYTE_CASES = {
    0x9C: NEVER_STEP,  # pushf
    0x9D: NEVER_STEP,  # popf
    0xCA: _FAR_TRANSFER,  # retf imm16
    0xCB: _FAR_TRANSFER,  # retf
    0xCC: _BREAKPOINT,  # int3
    0xCF: _FAR_TRANSFER,  # iret
    0xF1: _BREAKPOINT,  # int1
}
_ONE_BYTE_CASES_32 = {
    **_ONE_BYTE_CASES,
    0x17: NEVER_STEP,  # pop SS
    0x9A: _FAR_TRANSFER,  # lcall
    0xCE: SOFTWARE_INTERRUPT,  # into: its trap finds EIP behind it, as a copy's does in the slot
    0xEA: _FAR_TRANSFER,  # ljmp
}


def _one_byte(instruction: Instruction, encoding: Encoding) -> Recipe:
    opcode = encoding.opcode
    if opcode in _NEAR_BRANCHES:
        return _near_branch(encoding, _NEAR_BRANCHES[opcode])
    if 0xD8 <= opcode <= 0xDF:
        return COPY if _is_x87_control(encoding) else X87
    if opcode == 0xFF:
        return _group_five(instruction, encoding)
    if opcode == 0x8D and encoding.is_rip_relative:
        return _remade(encoding, LEA)
    if opcode == 0x8E and encoding.reg == 2:  # mov to SS
        return NEVER_STEP
    if opcode == 0xC7 and encoding.modrm == 0xF8:
        return _near_branch(encoding, TRANSACTION)
    if opcode == 0xCD:
        # Vectors 3 and 4 trap: their RIP is past the instruction. Linux lets user mode call
        # 0x80 besides (arch/x86/kernel/idt.c); all others are faults.
        return _BREAKPOINT if instruction.code[-1] in (3, 4) else SOFTWARE_INTERRUPT
    cases = _ONE_BYTE_CASES if encoding.bits == 64 else _ONE_BYTE_CASES_32
    return cases.get(opcode, COPY)


def _group_five(instruction: Instruction, encoding: Encoding) -> Recipe:
    """FF: inc, dec, call, lcall, jmp, ljmp, push."""
    if encoding.reg in (3, 5):
        return _FAR_TRANSFER
    if encoding.reg == 4:
        return _near_branch(encoding, JUMP_INDIRECT)
    if encoding.reg != 2:
        return COPY
    if encoding.mode == 3:
        is_rsp = rm_register(instruction) == 4
        return _near_branch(encoding, CALL_RSP if is_rsp else CALL_REGISTER)
    if encoding.is_rip_relative:
        return _near_branch(encoding, CALL_RIP_RELATIVE)
    if encoding.bits == 32 and is_absolute(instruction):
        return _near_branch(encoding, CALL_ABSOLUTE)
    if uses_only_rsp(instruction) and instruction.displacement >= 0:
        return _near_branch(encoding, CALL_STACK)
    return _near_branch(encoding, CALL_MEMORY)


def _is_x87_control(encoding: Encoding) -> bool:
    """Does not record its address (SDM volume 1, 8.1.8).

    FNOP, FFREE and the like are left out: processors differ, and a step costs only time.
    """
    if encoding.mode != 3:
        # D9: fldenv, fldcw, fnstenv, fnstcw; DD: frstor, fnsave, fnstsw
        return (encoding.opcode, encoding.reg) in (
            *((0xD9, reg) for reg in (4, 5, 6, 7)),
            *((0xDD, reg) for reg in (4, 6, 7)),
        )
    # fneni, fndisi, fnclex, fninit, fnsetpm; fnstsw %ax
    return (encoding.opcode, encoding.modrm) in (
        *((0xDB, modrm) for modrm in range(0xE0, 0xE5)),
        (0xDF, 0xE0),
    )


def _two_byte(encoding: Encoding) -> Recipe:
    opcode = encoding.opcode
    if 0x80 <= opcode <= 0x8F:
        return _near_branch(encoding, CONDITIONAL)
    if opcode == 0x05:
        return _remade(encoding, SYSCALL) if encoding.bits == 64 else FAST_SYSTEM_CALL
    if opcode == 0x34:
        return _SYSENTER if encoding.bits == 64 else FAST_SYSTEM_CALL
    if opcode == 0x01 and encoding.modrm == 0xD7:  # enclu
        return _ENCLAVE
    return COPY
