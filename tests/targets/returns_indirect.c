/* returns_indirect COUNT: outer() COUNT times, which is a jump to a function that a resolver
 * chooses (IFUNC), by a stub of the linkage table that has no name. Prints how often each ran. */
#include "target.h"

static unsigned long inner_calls, outer_calls;

NOINLINE long inner(long a)
{
    inner_calls++;
    return a + 1;
}

static long (*choose(void))(long)
{
    return inner;
}

__attribute__((visibility("hidden"), ifunc("choose"))) long chosen(long a);

NOINLINE long outer(long a)
{
    outer_calls++;
    return chosen(a);
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 10, value = 0;
    for (long i = 0; i < count; i++)
        value = outer(value);
    printf("inner %lu\nouter %lu\nwrong_value %d\n", inner_calls, outer_calls, value != count);
    return 0;
}
