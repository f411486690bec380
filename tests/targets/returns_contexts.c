/* returns_contexts MODE ROUNDS: probed() is left in ways that no library function's name tells.
 *   setcontext  by setcontext() to its caller
 *   builtin     by __builtin_longjmp, which is a jump in its own code
 *   altstack    by siglongjmp from a signal handler's stack to the thread's own
 *   abandoned   in a coroutine that is never gone on with, its stack used for the next
 *   migrated    not at all: in a coroutine that another thread goes on with
 * Once, at the end, it returns. */
#include "returns.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

static struct tally tally;
static ucontext_t here, coroutine, *volatile back;
static void *outside[5];
static sigjmp_buf resume;
static volatile int round_number, rounds;
static enum { SETCONTEXT, BUILTIN, ALTSTACK, ABANDONED, MIGRATED } mode;
static char stack[65536];

/* In a function of its own: probed() shall have no jump that its code does not tell. */
NOINLINE static void leave(void)
{
    switch (mode) {
    case SETCONTEXT:
        setcontext(&here);
        break;
    case ALTSTACK:
        siglongjmp(resume, 1);
    default:
        swapcontext(&coroutine, back);
    }
}

NOINLINE NO_TAIL_CALLS long probed(long last)
{
    entered(&tally);
    if (!last)
        leave();
    return leaving(&tally, 7 + round_number);
}

NOINLINE long jumps(long last)
{
    static struct tally own;
    entered(&own);
    if (!last)
        __builtin_longjmp(outside, 1);
    leaving(&own, 9);
    if (last)
        report("jumps", &own);
    return 9;
}

static void handler(int number) { probed(round_number >= rounds); (void)number; }
static void body(void) { probed(mode == ABANDONED && round_number >= rounds); setcontext(back); }

static void start_coroutine(ucontext_t *from)
{
    getcontext(&coroutine);
    coroutine.uc_stack.ss_sp = stack;
    coroutine.uc_stack.ss_size = sizeof stack;
    makecontext(&coroutine, body, 0);
    back = from;
    swapcontext(from, &coroutine);
}

static void *go_on(void *unused)
{
    static ucontext_t there;
    back = &there;
    swapcontext(&there, &coroutine);
    return unused;
}

int main(int argc, char **argv)
{
    const char *name = word(argc, argv, 1, "setcontext");
    static const char *names[] = {"setcontext", "builtin", "altstack", "abandoned", "migrated"};
    while (strcmp(names[mode], name))
        mode++;
    rounds = number(argc, argv, 2, 10);
    say_ready();
    wait_go();

    static char handlers_stack[65536];
    stack_t alternate = {.ss_sp = handlers_stack, .ss_size = sizeof handlers_stack};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaltstack(&alternate, NULL);
    sigaction(SIGUSR1, &action, NULL);

    switch (mode) {
    case SETCONTEXT:
        getcontext(&here);
        round_number++;
        probed(round_number >= rounds);
        break;
    case BUILTIN:
        __builtin_setjmp(outside);
        round_number++;
        jumps(round_number >= rounds);
        return 0;
    case ALTSTACK:
        sigsetjmp(resume, 1);
        if (++round_number <= rounds)
            raise(SIGUSR1);
        break;
    default:
        while (++round_number <= rounds) {
            start_coroutine(&here);
            pthread_t thread;
            if (mode == MIGRATED && pthread_create(&thread, NULL, go_on, NULL) == 0)
                pthread_join(thread, NULL);
        }
    }
    report("probed", &tally);
    return 0;
}
