/* patched MODE COUNT: MODE `patched` has it write another first instruction into second(), as a
 * program does that switches a hook on, `trap` an int3 into it, and `plain` nothing. Says ready and,
 * when told to go, calls first() COUNT times, and second() unless that holds an int3; when told to
 * go again it restores second(). Prints what they added up to. */
#include "target.h"
#include <sys/mman.h>

static volatile long total;

NOINLINE void first(void)
{
    total += 1;
}

/* Padded, so that it is alone in its page. */
__asm__(".balign 4096\n"
        ".globl second\n"
        ".type second, @function\n"
        "second:\n"
        "    mov $5, %eax\n"
        "    ret\n"
        ".size second, . - second\n"
        ".balign 4096\n");
int second(void);

static void put(const char *code, size_t size)
{
    char *page = (char *)((uintptr_t)second & -4096);
    if (mprotect(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
        exit(3);
    memcpy((char *)second, code, size);
    if (mprotect(page, 4096, PROT_READ | PROT_EXEC) != 0)
        exit(3);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "plain";
    long count = argc > 2 ? atol(argv[2]) : 10;
    if (!strcmp(mode, "patched"))
        put("\xb8\7\0\0\0", 5); /* mov $7, %eax */
    else if (!strcmp(mode, "trap"))
        put("\xcc", 1);
    for (int round = 0; round < 2; round++) {
        say_ready();
        wait_go();
        for (long i = 0; i < count; i++) {
            first();
            if (strcmp(mode, "trap"))
                total += second();
        }
        if (strcmp(mode, "plain"))
            put("\xb8\5\0\0\0", 5);
        mode = "plain";
    }
    printf("total %ld\n", total);
    return 6;
}
