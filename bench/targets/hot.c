/* hot COUNT: calls hot() COUNT times and prints how long that took. Built non-PIE, so that
 * addresses are known without asking. hot() begins with a 4-byte endbr64, which a tracer can
 * execute by adding 4 to RIP; `slot_area` is room for those that execute a copy. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

__asm__(".text\n.globl hot, slot_area\n.type hot, @function\n"
        "hot: endbr64\n lea 1(%rdi), %rax\n ret\n.size hot, . - hot\n"
        ".balign 64\nslot_area: .fill 64, 1, 0x90\n");
extern long hot(long, const char *, long); /* the last two for probes to look at */

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 1000, value = 0;
    struct timespec start, end;
    for (int i = 0; i < 200; i++) /* caches, and the tracer's own first hits */
        value = hot(value, "/usr/share/dict/words", i);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (long i = 0; i < count; i++)
        value = hot(value, "/usr/share/dict/words", i);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("nanoseconds %lld\nvalue %ld\n",
           (end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec, value);
    return 0;
}
