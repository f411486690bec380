/* hot_loop COUNT: calls hot() COUNT times and prints how often it ran. */
#include "target.h"

static unsigned long calls;

NOINLINE long hot(long a, long b)
{
    calls++;
    return a * 31 + b;
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 1000;
    long value = 1;
    say_ready();
    wait_go();
    for (long i = 0; i < count; i++)
        value = hot(value, i);
    printf("hot %lu\nvalue %ld\n", calls, value & 0xffff);
    return 0;
}
