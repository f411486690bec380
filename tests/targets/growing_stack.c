/* Pushes where the stack has yet to grow, again and again with the same registers. */
#include "target.h"

extern void grow(int *count);
__asm__(".text\n"
        ".globl grow, site_growing, site_growing_call\n"
        ".type grow, @function\n.type site_growing, @function\n.type site_growing_call, @function\n"
        "grow:\n"
#if defined __x86_64__
        "    mov %rsp, %rax\n    sub $0x80000, %rsp\n"
        "1:  test %rsp, %rsp\n"
        "site_growing:\n    push %rax\n    pop %rax\n"
        "    decl (%rdi)\n    jne 1b\n"
        "    movl $3, (%rdi)\n    sub $0x80000, %rsp\n    lea 3f(%rip), %rsi\n"
        "    push %rsi\n    mov %rsp, %rdx\n    sub $0x4000, %rsp\n"
        "2:  test %rsp, %rsp\n"
        "site_growing_call:\n    call *(%rdx)\n"
        "    decl (%rdi)\n    jne 2b\n"
        "    mov %rax, %rsp\n    ret\n"
#else
        "    mov 4(%esp), %ecx\n    mov %esp, %eax\n    sub $0x80000, %esp\n"
        "1:  test %esp, %esp\n"
        "site_growing:\n    push %eax\n    pop %eax\n"
        "    decl (%ecx)\n    jne 1b\n"
        "    movl $3, (%ecx)\n    sub $0x80000, %esp\n"
        "    push $3f\n    mov %esp, %edx\n    sub $0x4000, %esp\n"
        "2:  test %esp, %esp\n"
        "site_growing_call:\n    call *(%edx)\n"
        "    decl (%ecx)\n    jne 2b\n"
        "    mov %eax, %esp\n    ret\n"
#endif
        "3:  ret\n");

int main(void)
{
    int count = 3;
    grow(&count);
    return count;
}
