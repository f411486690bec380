/* returns_longjmp MODE ROUNDS: probed() is left by longjmp.
 *   depths   from several depths, to main; the same call site is used again, and returns
 *   frames   to a frame of probed() in the middle of the recursion, which then returns
 *   handler  by siglongjmp from a signal handler that runs on probed()'s stack
 *   stack    as handler, on a stack of its own (sigaltstack) */
#include "returns.h"
#include <setjmp.h>
#include <signal.h>

static struct tally tally;
static sigjmp_buf outer, middle;
static volatile sig_atomic_t want_signal;

static void on_signal(int number)
{
    (void)number;
    siglongjmp(outer, 1);
}

/* Goes down `depth` calls; the innermost jumps, if it is to. */
NOINLINE NO_TAIL_CALLS long probed(long depth, jmp_buf *target)
{
    entered(&tally);
    long below = 0;
    if (depth > 0)
        below = probed(depth - 1, target);
    else if (target != NULL && want_signal)
        raise(SIGUSR1);
    else if (target != NULL)
        siglongjmp(*target, 1);
    return leaving(&tally, below + 2 * depth + 1);
}

/* Jumped to from below, it returns. */
NOINLINE NO_TAIL_CALLS long catching(long depth)
{
    long below;
    if (sigsetjmp(middle, 0) == 0)
        below = probed(depth, &middle);
    else
        below = probed(1, NULL);
    return below + 1;
}

int main(int argc, char **argv)
{
    const char *mode = word(argc, argv, 1, "depths");
    volatile unsigned long jumps = 0;
    struct sigaction action = {.sa_handler = on_signal};

    if (strcmp(mode, "stack") == 0) {
        stack_t alternate = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
        sigaltstack(&alternate, NULL);
        action.sa_flags = SA_ONSTACK;
    }
    sigaction(SIGUSR1, &action, NULL);
    want_signal = strcmp(mode, "handler") == 0 || strcmp(mode, "stack") == 0;
    say_ready();
    wait_go();
    for (volatile int i = 0; i < number(argc, argv, 2, 20); i++) {
        if (strcmp(mode, "frames") == 0) {
            catching(i % 7);
            jumps++;
            continue;
        }
        /* Once it jumps, once it returns: the same call site and the same place on the stack. */
        for (volatile int again = 0; again < 2; again++) {
            if (sigsetjmp(outer, 1) == 0)
                probed(i % 7, again == 0 ? &outer : NULL);
            else
                jumps++;
        }
    }
    report("probed", &tally);
    printf("jumps %lu\n", jumps);
    return 0;
}
