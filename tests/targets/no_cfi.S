/* main() -> framed() -> frameless() -> inner(): none has call frame information, and frameless()
   has no frame pointer either. late() sets up its own, but not by its first instructions. */

.macro function name
    .globl \name
    .type \name, @function
\name:
.endm

    .text

function inner
    ret
    .size inner, .-inner

function frameless
    push %rbx
    sub $24, %rsp
    call inner
    add $24, %rsp
    pop %rbx
    ret
    .size frameless, .-frameless

function framed
    push %rbp
    mov %rsp, %rbp
    sub $32, %rsp
    call frameless
    leave
    ret
    .size framed, .-framed

function in_late
    ret
    .size in_late, .-in_late

function late
    test %rdi, %rdi
    je 1f
    push %rbp
    mov %rsp, %rbp
    sub $32, %rsp
    call in_late
    leave
1:  ret
    .size late, .-late

/* Its frame pointer is where its stack pointer is: no symbol is needed to know it. */
unnamed:
    push %rbp
    mov %rsp, %rbp
    call in_unnamed
    pop %rbp
    ret

/* So is not this one's. */
unnamed_too:
    push %rbp
    mov %rsp, %rbp
    sub $16, %rsp
    call in_unnamed
    leave
    ret

function in_unnamed
    ret
    .size in_unnamed, .-in_unnamed

function main
    push %rbp
    mov %rsp, %rbp
    call framed
    mov $1, %edi
    call late
    call unnamed
    call unnamed_too
    xor %eax, %eax
    pop %rbp
    ret
    .size main, .-main

    .section .note.GNU-stack, "", @progbits
