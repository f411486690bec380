/* What no compiler writes. main() prints "says hello world" and ends with 3.
 *   pushed       is jumped to with a pushed pointer to text on top of the stack
 *   falls        ends with a call: what it returns to is the first instruction of `below`
 *   below        is fallen into, and called by main()
 *   outer        jumps to, and falls into, `nested`, which is a part of it
 *   stepper      jumps through a variable, which then leads elsewhere */
    .globl main, pushed, falls, inner, below, outer, nested, stepper
    .text
    .type pushed, @function
pushed: nop
    mov $3, %eax
    pop %rdi
    jmp *%r12
    .size pushed, . - pushed

    .type inner, @function
inner: mov $1, %eax
    ret
    .size inner, . - inner

    .type falls, @function
falls: sub $0, %rsp
    call inner
    .size falls, . - falls

    .type below, @function
below: mov $5, %eax
    nop
    ret
    .size below, . - below

    .type outer, @function
    .type nested, @function
outer: .cfi_startproc
    test %rdi, %rdi
    je nested
    nop
nested: mov $2, %eax
    ret
    .cfi_endproc
    .size nested, . - nested
    .size outer, . - outer

    .type stepper, @function
stepper: .cfi_startproc
    jmp *state(%rip)
    .cfi_endproc
    .size stepper, . - stepper
first: .cfi_startproc
    lea final(%rip), %rax
    mov %rax, state(%rip)
    jmp stepper
final: mov $9, %eax
    ret
    .cfi_endproc

    .type main, @function
main: push %rbx
    lea 1f(%rip), %r12
    lea message(%rip), %rdi
    push %rdi
    jmp pushed
1:  call puts@plt
    mov $2, %ebx
2:  mov %rbx, %rdi
    call outer
    lea first(%rip), %rax
    mov %rax, state(%rip)
    call stepper
    dec %rbx
    jns 2b
    call falls
    call below
    sub $2, %eax
    pop %rbx
    ret
    .size main, . - main
message: .asciz "says hello world"
    .data
state: .quad first
    .section .note.GNU-stack, "", @progbits
