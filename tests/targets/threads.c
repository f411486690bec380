/* threads WORKERS COUNT: each worker calls shared() and its own function COUNT times while a
 * timer signal fires each millisecond and short-lived threads come and go. Every function
 * counts its own executions; the counts are printed. */
#include "target.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <ucontext.h>

#define MAX 8

static atomic_ulong shared_calls, timer_calls, brief_calls, strange_rips;
static unsigned long own_calls[MAX];
static atomic_int running;

NOINLINE long shared(long a)
{
    atomic_fetch_add(&shared_calls, 1);
    return a + 1;
}

#define OWN(n) \
    NOINLINE long own_##n(long a) \
    { \
        own_calls[n]++; \
        return a ^ n; \
    }
OWN(0) OWN(1) OWN(2) OWN(3) OWN(4) OWN(5) OWN(6) OWN(7)

static long (*const own[MAX])(long) = {own_0, own_1, own_2, own_3, own_4, own_5, own_6, own_7};

NOINLINE void on_timer(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    atomic_fetch_add(&timer_calls, 1);
    if (!in_own_code(((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP]))
        atomic_fetch_add(&strange_rips, 1);
}

struct work {
    int number;
    long count;
};

static void *worker(void *argument)
{
    struct work *work = argument;
    long a = 0;
    for (long i = 0; i < work->count; i++)
        a = own[work->number](shared(a));
    atomic_fetch_sub(&running, 1);
    return (void *)a;
}

NOINLINE void *brief(void *argument)
{
    atomic_fetch_add(&brief_calls, 1);
    for (int i = 0; i < 3; i++)
        shared(i);
    return argument;
}

int main(int argc, char **argv)
{
    int workers = argc > 1 ? atoi(argv[1]) : MAX;
    long count = argc > 2 ? atol(argv[2]) : 1000;
    pthread_t threads[MAX];
    struct work work[MAX];

    learn_own_code();
    struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    say_ready();
    wait_go();

    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec every = {{0, 1000000}, {0, 1000000}};
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    timer_settime(timer, 0, &every, NULL);

    atomic_store(&running, workers);
    for (int i = 0; i < workers; i++) {
        work[i] = (struct work){i, count};
        pthread_create(&threads[i], NULL, worker, &work[i]);
    }
    while (atomic_load(&running) > 0) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, brief, NULL) == 0)
            pthread_join(thread, NULL);
    }
    for (int i = 0; i < workers; i++)
        pthread_join(threads[i], NULL);
    timer_delete(timer);

    printf("shared %lu\nbrief %lu\non_timer %lu\nstrange_rips %lu\n", shared_calls, brief_calls,
           timer_calls, strange_rips);
    for (int i = 0; i < workers; i++)
        printf("own_%d %lu\n", i, own_calls[i]);
    return 0;
}
