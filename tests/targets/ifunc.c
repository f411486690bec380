/* ifunc COUNT: calls chosen(), an indirect function, and strlen() COUNT times each. */
#include "target.h"

static unsigned long calls;

NOINLINE long first_implementation(long a)
{
    calls++;
    return a + 1;
}

NOINLINE long other_implementation(long a)
{
    return a - 1;
}

__attribute__((used)) static long (*resolve_chosen(void))(long)
{
    return first_implementation;
}

long chosen(long) __attribute__((ifunc("resolve_chosen")));

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 10, value = 0;
    size_t (*volatile measure)(const char *) = strlen;
    unsigned long measured = 0;
    say_ready();
    wait_go();
    for (long i = 0; i < count; i++) {
        value = chosen(value);
        measured += measure("abc") == 3;
    }
    printf("chosen %lu\nstrlen %lu\nvalue %ld\n", calls, measured, value);
    return 0;
}
