/* patchable SITE COUNT REPORT CPU: as sites.c, with one function in C that is built to be patched
 * at its start, for tracers that need it. SITE is not looked at. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { WARM_UP = 200 };

__attribute__((noinline, noclone, noipa)) long hot_patchable(long value, const char *name, long turn)
{
    return value + turn + (name != NULL);
}

int main(int argc, char **argv)
{
    cpu_set_t set;
    FILE *report = argc == 5 ? fopen(argv[3], "w") : NULL;
    if (!report)
        return 2;
    long count = atol(argv[2]), sum = 0;
    CPU_ZERO(&set);
    CPU_SET(atoi(argv[4]), &set);
    if (atoi(argv[4]) >= 0 && sched_setaffinity(0, sizeof set, &set))
        return 70;
    fprintf(report, "pid %d\n", getpid());
    fflush(report);
    struct timespec start, end;
    for (long i = 0; i < WARM_UP; i++, sum += i)
        hot_patchable(i + 1, "/usr/share/dict/words", i);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (long i = 0; i < count; i++)
        hot_patchable(i + 1, "/usr/share/dict/words", i);
    clock_gettime(CLOCK_MONOTONIC, &end);
    sum += count * (count + 1) / 2;
    fprintf(report, "calls %ld\nsum %ld\nnanoseconds %lld\n", count + WARM_UP, sum,
            (end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec);
    return fclose(report) ? 1 : 0;
}
