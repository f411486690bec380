/* What no compiler writes. main() prints "says hello world" and ends with 3.
 *   pushed       is jumped to with a pushed pointer to text on top of the stack
 *   falls        ends with a call: what it returns to is the first instruction of `below`
 *   below        is fallen into, and called by main() */
    .globl main, pushed, falls, inner, below
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

    .type main, @function
main: sub $8, %rsp
    lea 1f(%rip), %r12
    lea message(%rip), %rdi
    push %rdi
    jmp pushed
1:  call puts@plt
    call falls
    call below
    sub $2, %eax
    add $8, %rsp
    ret
    .size main, . - main
message: .asciz "says hello world"
    .section .note.GNU-stack, "", @progbits
