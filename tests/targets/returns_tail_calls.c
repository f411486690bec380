/* returns_tail_calls ROUNDS DEPTH, built with -O2: forward() jumps to goal(), is_even() and
 * is_odd() to each other, DEPTH times; they share one frame and return together. locked() begins
 * with a lock prefix, which the kernel's uprobes do not take. */
#include "returns.h"

static struct tally forwards, goals, evens, odds, lockeds;
static unsigned long jumps;
static void *forward_returns_to;

NOINLINE long goal(long a)
{
    entered(&goals);
    if (__builtin_return_address(0) == forward_returns_to)
        jumps++;
    forward_returns_to = NULL;
    return leaving(&goals, a * 5 + 1);
}

NOINLINE long forward(long a)
{
    entered(&forwards);
    forward_returns_to = __builtin_return_address(0);
    return goal(a + 100);
}

__attribute__((naked, used)) static long locked(long a)
{
    (void)a;
    __asm__("lock addq $1, %0\n\tmov %%rdi, %%rax\n\tret" : "+m"(lockeds.calls));
}

NOINLINE long is_odd(long n);

NOINLINE long is_even(long n)
{
    evens.calls++;
    return n == 0 ? 77 : is_odd(n - 1);
}

NOINLINE long is_odd(long n)
{
    odds.calls++;
    return n == 0 ? 33 : is_even(n - 1);
}

static void all_returned(struct tally *t, long value)
{
    t->sum += (t->calls - t->returns) * (unsigned long)value;
    t->returns = t->calls;
}

int main(int argc, char **argv)
{
    long depth = number(argc, argv, 2, 10);

    say_ready();
    wait_go();
    for (int i = 0; i < number(argc, argv, 1, 10); i++) {
        leaving(&forwards, forward(i));
        goal(i);
        leaving(&lockeds, locked(i));
        long value = is_even(depth + i % 2);
        all_returned(&evens, value);
        all_returned(&odds, value);
    }
    report("forward", &forwards);
    report("goal", &goals);
    report("is_even", &evens);
    report("is_odd", &odds);
    report("locked", &lockeds);
    printf("jumps %lu\n", jumps);
    return 0;
}
