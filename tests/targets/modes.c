/* modes COUNT: calls both() COUNT times in its own mode and COUNT times in the other one: 32-bit code
 * in a 64-bit process, or the other way round. both() gives what is in a cell of memory, which the
 * same bytes name otherwise in the two modes:
 *     8b 05 00 01 00 30     64-bit: mov 0x30000100(%rip), %eax
 *                           32-bit: mov 0x30000100, %eax
 * Prints how often it ran, and how often it gave what is not in its mode's cell. */
#include "target.h"
#include <sys/mman.h>

#define CELL 0x30000100
#define ROOM (160 << 20)

/* EDX says how it was called, and how it is to return. */
__asm__(".text\n.globl both, behind\n.type both, @function\n"
        "both: .byte 0x8b, 0x05\n .long 0x30000100\n"
        "behind: test %edx, %edx\n jnz 1f\n ret\n"
        "1: .byte 0xcb\n" /* a far return with 32-bit operands, in either mode */
        ".size both, . - both\n");
#ifdef __x86_64__
/* 32-bit code has to have a stack that it can reach, and a data segment. */
__asm__(".globl call_other, call_own\n.type call_other, @function\n"
        "call_other: push %rbp\n mov %rsp, %rbp\n mov %rdi, %rsp\n mov $0x2b, %eax\n mov %eax, %ds\n"
        " mov $1, %edx\n"
        " lcall *far_pointer\n mov %rbp, %rsp\n pop %rbp\n ret\n"
        "call_own: xor %edx, %edx\n jmp both\n"
        ".data\nfar_pointer: .long both\n .short 0x23\n.text\n");
#else
__asm__(".globl call_other, call_own\n.type call_other, @function\n"
        "call_other: mov $1, %edx\n lcall *far_pointer\n ret\n"
        "call_own: xor %edx, %edx\n jmp both\n"
        ".data\nfar_pointer: .long both\n .short 0x33\n.text\n");
#endif
extern int call_other(void *stack), call_own(void);
extern char behind[];

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 10, wrong = 0;
    char *room = mmap((void *)0x30000000, ROOM, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (room == MAP_FAILED)
        return 2;
    int *narrow = (int *)CELL, *wide = (int *)(CELL + (uintptr_t)behind);
    int is_wide = sizeof(void *) == 8;
    say_ready();
    wait_go();
    for (int i = 0; i < count; i++) {
        *narrow = 2 * i;
        *wide = 2 * i + 1;
        wrong += call_own() != 2 * i + is_wide;
        wrong += call_other(room + 65536) != 2 * i + !is_wide;
    }
    printf("both %ld\nwrong %ld\n", 2 * count, wrong);
    return 0;
}
