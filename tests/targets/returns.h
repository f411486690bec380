/* What the targets of return probes share: their own count of a function's calls, of its returns
 * and the sum of what it returned, for comparison with a tracer's. */
#ifndef RETURNS_H
#define RETURNS_H

#include "target.h"

#define NO_TAIL_CALLS __attribute__((optimize("no-optimize-sibling-calls")))

struct tally {
    unsigned long calls, returns, sum;
};

static inline void entered(struct tally *t)
{
    __atomic_fetch_add(&t->calls, 1, __ATOMIC_RELAXED);
}

/* For the function's last statement: return leaving(&tally, value). */
static inline long leaving(struct tally *t, long value)
{
    __atomic_fetch_add(&t->returns, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&t->sum, (unsigned long)value, __ATOMIC_RELAXED);
    return value;
}

static inline void report(const char *function, const struct tally *t)
{
    printf("%s_calls %lu\n%s_returns %lu\n%s_sum %lu\n", function, t->calls, function, t->returns,
           function, t->sum);
    fflush(stdout);
}

static inline int number(int argc, char **argv, int index, int otherwise)
{
    return argc > index ? atoi(argv[index]) : otherwise;
}

static inline const char *word(int argc, char **argv, int index, const char *otherwise)
{
    return argc > index ? argv[index] : otherwise;
}

#endif
