/* functions FIRST SPREAD TURNS REPORT: calls f<FIRST>() to f<FIRST + SPREAD - 1>() one after the
 * other, TURNS times over and before that as often as makes 200 calls or more, and writes into the
 * file REPORT
 *
 *   nanoseconds N       that the TURNS took, by its own clock
 *
 * functions FIRST 0 0 -: says that it is ready, waits to be let on, calls f<FIRST>() once, and
 * once more says that it is ready and waits.
 *
 * The 10,000 functions are called f00000 to f09999, so that wildcards pick 1, 10, 100 and so on,
 * and stand 16 bytes apart. Built non-PIE. */
#include "../../tests/targets/target.h"

#include <time.h>

enum { WARM_UP = 200 };

#define DIGITS "0,1,2,3,4,5,6,7,8,9\n"

__asm__(".text\n.balign 16\n"
        ".irp a," DIGITS ".irp b," DIGITS ".irp c," DIGITS ".irp d," DIGITS
        ".balign 16\n.globl f0\\a\\b\\c\\d\n.type f0\\a\\b\\c\\d, @function\n"
        "f0\\a\\b\\c\\d: endbr64\nlea 1(%rdi), %rax\nret\n"
        ".size f0\\a\\b\\c\\d, . - f0\\a\\b\\c\\d\n"
        ".endr\n.endr\n.endr\n.endr\n");
extern long f00000(long);

static long call(long number)
{
    long (*function)(long) = (long (*)(long))((uintptr_t)f00000 + 16 * (uintptr_t)number);
    return function(number);
}

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: functions FIRST SPREAD TURNS REPORT\n");
        return 2;
    }
    long first = atol(argv[1]), spread = atol(argv[2]), turns = atol(argv[3]);
    if (!spread) {
        say_ready();
        wait_go();
        call(first);
        say_ready();
        wait_go();
        return 0;
    }
    FILE *report = fopen(argv[4], "w");
    if (!report) {
        perror(argv[4]);
        return 2;
    }
    long warm_up = (WARM_UP + spread - 1) / spread;
    long long start = 0;
    for (long turn = -warm_up; turn < turns; turn++) {
        if (!turn)
            start = now();
        for (long i = 0; i < spread; i++)
            if (call(first + i) != first + i + 1)
                return 3;
    }
    fprintf(report, "nanoseconds %lld\n", now() - start);
    return fclose(report) ? 1 : 0;
}
