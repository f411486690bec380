/* returns_coroutines COUNT ROUNDS: COUNT coroutines (makecontext), their stacks one after the
 * other in one block, are all inside probed() at once; they leave it in another order. */
#include "returns.h"
#include <ucontext.h>

#define STACK 65536
#define MOST 64

static struct tally tally;
static ucontext_t coroutines[MOST], scheduler;
static int finished[MOST];

NOINLINE NO_TAIL_CALLS long probed(long depth, int me)
{
    entered(&tally);
    long below = depth > 0 ? probed(depth - 1, me) : 0;
    swapcontext(&coroutines[me], &scheduler);
    return leaving(&tally, below + depth * 11 + me);
}

static void body(int me)
{
    probed(me % 4, me);
    probed(1, me);
    finished[me] = 1;
}

int main(int argc, char **argv)
{
    /* static: getcontext() returns twice, and its registers may be old ones */
    static int count, round, left;
    static unsigned long switches;
    static unsigned random = 1;
    char *stacks = malloc((size_t)MOST * STACK);

    count = number(argc, argv, 1, 8);
    say_ready();
    wait_go();
    for (round = 0; round < number(argc, argv, 2, 5); round++) {
        for (int i = 0; i < count; i++) {
            getcontext(&coroutines[i]);
            coroutines[i].uc_stack.ss_sp = stacks + (size_t)i * STACK;
            coroutines[i].uc_stack.ss_size = STACK;
            coroutines[i].uc_link = &scheduler;
            finished[i] = 0;
            makecontext(&coroutines[i], (void (*)(void))body, 1, i);
        }
        for (left = count; left > 0;) {
            random = random * 1103515245 + 12345;
            int me = (int)(random >> 16) % count;
            if (finished[me])
                continue;
            swapcontext(&scheduler, &coroutines[me]);
            switches++;
            left -= finished[me];
        }
    }
    report("probed", &tally);
    printf("switches %lu\n", switches);
    return 0;
}
