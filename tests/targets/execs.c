/* execs COUNT OTHER...: calls hot() COUNT times, then becomes OTHER, which gets the arguments behind
 * it. Prints its own word size with each count, so that chains of 32-bit and 64-bit ones can be
 * told. */
#include "target.h"

static unsigned long calls;

NOINLINE long hot(long a)
{
    calls++;
    return a + 1;
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 1, value = 0;
    say_ready();
    wait_go();
    for (long i = 0; i < count; i++)
        value = hot(value);
    printf("bits %d hot %lu value %ld\n", (int)(8 * sizeof(long)), calls, value);
    fflush(stdout);
    if (argc > 2)
        execv(argv[2], argv + 2);
    return 0;
}
