/* Functions of many instructions, each of which falls into the next. */
#include "target.h"

extern unsigned long many_a(unsigned long);
__asm__(".text\n"
        ".irp which, a, b, c, d, e, f, g, h, i, j\n"
        ".globl many_\\which\n.type many_\\which, @function\n"
        "many_\\which:\n"
        ".rept 50\n    lea 1(%rdi), %rdi\n.endr\n"
        ".size many_\\which, . - many_\\which\n"
        ".endr\n"
        "    mov %rdi, %rax\n    ret\n");

int main(void)
{
    printf("%lu\n", many_a(7));
    return 0;
}
