/* buffer COUNT REPORT: calls hot(1 MiB of bytes) COUNT times, and 20 times before that, and writes
 * into the file REPORT
 *
 *   nanoseconds N       that the COUNT calls took
 *
 * Byte i of the buffer is i % 251. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { WARM_UP = 20, SIZE = 1 << 20 };

extern void hot(const unsigned char *);
__asm__(".text\n.globl hot\n.type hot, @function\nhot: endbr64\n ret\n.size hot, . - hot\n");

static unsigned char buffer[SIZE] __attribute__((aligned(4096)));

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv)
{
    FILE *report = argc == 3 ? fopen(argv[2], "w") : NULL;
    if (!report) {
        fprintf(stderr, "usage: buffer COUNT REPORT\n");
        return 2;
    }
    for (int i = 0; i < SIZE; i++)
        buffer[i] = i % 251;
    long long start = 0;
    for (long i = -WARM_UP; i < atol(argv[1]); i++) {
        if (!i)
            start = now();
        hot(buffer);
    }
    fprintf(report, "nanoseconds %lld\n", now() - start);
    return fclose(report) ? 1 : 0;
}
