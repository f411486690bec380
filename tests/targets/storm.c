/* storm COUNT: calls hot() COUNT times while other threads bombard the calling one with
 * signals, SIGTRAP among them; the handler checks the RIP it interrupted. Prints its counts.
 * A call is given a bounded number of signals: where senders have processors of their own, a
 * traced thread would otherwise be in its handler for good, and hot() never be called. */
#include "target.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <ucontext.h>

enum { SIGNALS_PER_CALL = 8, LONGEST_DELAY = 4096 };

static volatile unsigned long hot_calls;
static atomic_ulong handled[65], strange_rips;
static atomic_int done;
static pthread_t victim;

NOINLINE long hot(long a)
{
    hot_calls++;
    return a + 1;
}

NOINLINE void on_signal(int signal, siginfo_t *info, void *context)
{
    (void)info;
    atomic_fetch_add(&handled[signal], 1);
    if (!in_own_code(((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP]))
        atomic_fetch_add(&strange_rips, 1);
}

static void *bombard(void *argument)
{
    int signal = (int)(intptr_t)argument;
    unsigned long call = 0;
    unsigned sent = 0, delay = (unsigned)signal;
    while (!atomic_load(&done)) {
        unsigned long before = atomic_load(&handled[signal]);
        while (sent == SIGNALS_PER_CALL && hot_calls == call && !atomic_load(&done))
            sched_yield();
        if (hot_calls != call) {
            call = hot_calls;
            sent = 0;
        }
        sent++;
        /* What is sent as soon as the last was handled would always find the handler's end. */
        delay = delay * 1103515245u + 12345u;
        for (volatile unsigned i = (delay >> 16) % LONGEST_DELAY; i > 0; i--)
            ;
        pthread_kill(victim, signal);
        /* One at a time: handlers must not nest faster than they end. */
        while (atomic_load(&handled[signal]) == before && !atomic_load(&done))
            sched_yield();
    }
    return NULL;
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 1000, value = 0;
    pthread_t senders[3];
    static const int signals[3] = {SIGUSR1, SIGUSR2, SIGTRAP};
    learn_own_code();
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    for (int i = 0; i < 3; i++) {
        /* A trap that comes while SIGTRAP is blocked is another test's matter. */
        action.sa_flags = SA_SIGINFO | SA_RESTART | (signals[i] == SIGTRAP ? SA_NODEFER : 0);
        sigaction(signals[i], &action, NULL);
    }
    victim = pthread_self();
    say_ready();
    wait_go();
    sigset_t set;
    sigemptyset(&set);
    for (int i = 0; i < 3; i++)
        sigaddset(&set, signals[i]);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < 3; i++)
        pthread_create(&senders[i], NULL, bombard, (void *)(intptr_t)signals[i]);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    for (long i = 0; i < count; i++)
        value = hot(value);
    atomic_store(&done, 1);
    for (int i = 0; i < 3; i++)
        pthread_join(senders[i], NULL);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    printf("hot %lu\non_signal %lu\nstrange_rips %lu\nwrong_value %d\n", hot_calls,
           handled[SIGUSR1] + handled[SIGUSR2] + handled[SIGTRAP], strange_rips, value != count);
    return 0;
}
