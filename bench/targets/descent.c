/* descent stack|return DEPTH COUNT REPORT
 *
 *   stack    calls bottom() COUNT times, DEPTH functions below main(), eight different ones in
 *            turn; and 20 times before that
 *   return   calls climb() COUNT times, which calls itself until DEPTH calls are open; and
 *            1 + 20 / DEPTH times before that
 *
 * and writes into the file REPORT
 *
 *   nanoseconds N       that the COUNT times took
 *
 * Built without frame pointers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WARM_UP = 20 };

#define NOINLINE __attribute__((noinline, noclone, noipa))

static volatile long sink;
static long count;
static long long started;

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

NOINLINE long bottom(long value) { return value + sink; }

NOINLINE long climb(long depth)
{
    if (depth > 1)
        return climb(depth - 1) + sink;
    return sink;
}

static long all_at_the_bottom(void)
{
    for (long i = -WARM_UP; i < count; i++) {
        if (!i)
            started = now();
        sink = bottom(0);
    }
    return 0;
}

/* Frames of different sizes, with registers to save, as real functions have. */
#define LAYER(name, below, size)                                                                   \
    NOINLINE long below(long);                                                                     \
    NOINLINE long name(long depth)                                                                 \
    {                                                                                              \
        volatile char room[size];                                                                  \
        room[depth & 7] = 1;                                                                       \
        long result = depth > 1 ? below(depth - 1) : all_at_the_bottom();                          \
        return result + room[depth & 7];                                                           \
    }

LAYER(layer1, layer2, 16)
LAYER(layer2, layer3, 200)
LAYER(layer3, layer4, 40)
LAYER(layer4, layer5, 24)
LAYER(layer5, layer6, 64)
LAYER(layer6, layer7, 300)
LAYER(layer7, layer8, 96)
LAYER(layer8, layer1, 128)

int main(int argc, char **argv)
{
    FILE *report = argc == 5 ? fopen(argv[4], "w") : NULL;
    if (!report) {
        fprintf(stderr, "usage: descent stack|return DEPTH COUNT REPORT\n");
        return 2;
    }
    long depth = atol(argv[2]);
    count = atol(argv[3]);
    if (!strcmp(argv[1], "stack"))
        sink = layer1(depth);
    else
        for (long i = -1 - WARM_UP / depth; i < count; i++) {
            if (!i)
                started = now();
            sink = climb(depth);
        }
    fprintf(report, "nanoseconds %lld\n", now() - started);
    return fclose(report) ? 1 : 0;
}
