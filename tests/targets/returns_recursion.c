/* returns_recursion DEPTH ROUNDS: probed() calls itself DEPTH times, then returns as often. It looks
 * where it will return to, as profilers and sanitizers do. */
#include "returns.h"

static struct tally tally;
static unsigned long strangers;

NOINLINE NO_TAIL_CALLS long probed(long depth)
{
    entered(&tally);
    strangers += !in_own_code((uintptr_t)__builtin_return_address(0));
    long below = depth > 1 ? probed(depth - 1) : 0;
    return leaving(&tally, below * 3 + depth);
}

int main(int argc, char **argv)
{
    learn_own_code();
    say_ready();
    wait_go();
    for (int i = 0; i < number(argc, argv, 2, 2); i++)
        probed(number(argc, argv, 1, 10000));
    report("probed", &tally);
    printf("strange_return_addresses %lu\n", strangers);
    return 0;
}
