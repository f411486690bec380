/* server THREADS: threads under load until standard input ends. Each round computes a
 * checksum through work(), whose answer is known, with a timer signal every millisecond. */
#include "target.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <ucontext.h>

static atomic_ulong rounds, wrong, ticks, strange_rips;
static atomic_int stopping;

NOINLINE uint32_t work(uint32_t a, uint32_t b)
{
    return (a ^ b) * 16777619u;
}

NOINLINE uint32_t more_work(uint32_t a)
{
    return (a << 5) | (a >> 27);
}

static uint32_t checksum(void)
{
    uint32_t sum = 2166136261u;
    for (uint32_t i = 0; i < 64; i++)
        sum = more_work(work(sum, i));
    return sum;
}

static uint32_t expected(void)
{
    uint32_t sum = 2166136261u;
    for (uint32_t i = 0; i < 64; i++) {
        sum = (sum ^ i) * 16777619u;
        sum = (sum << 5) | (sum >> 27);
    }
    return sum;
}

static void on_tick(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    atomic_fetch_add(&ticks, 1);
    if (!in_own_code(((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP]))
        atomic_fetch_add(&strange_rips, 1);
}

static void *worker(void *unused)
{
    uint32_t right = expected();
    while (!atomic_load(&stopping)) {
        if (checksum() != right)
            atomic_fetch_add(&wrong, 1);
        atomic_fetch_add(&rounds, 1);
    }
    return unused;
}

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 3;
    pthread_t threads[16];
    learn_own_code();
    struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct itimerval every = {{0, 1000}, {0, 1000}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, worker, NULL);
    say_ready();
    wait_go();
    atomic_store(&stopping, 1);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    printf("did_work %d\nticked %d\nwrong %lu\nstrange_rips %lu\n", rounds > 0, ticks > 0, wrong,
           strange_rips);
    return 0;
}
