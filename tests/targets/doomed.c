/* doomed THREADS [aloof]: threads that call a thousand functions and some of the C library's all the
 * time, until standard input ends. Their sums are known. `aloof`: they leave all signals to main. */
#include "target.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

static atomic_ulong rounds, wrong;
static atomic_int stopping;

#define HOT(n)                                                                                     \
    NOINLINE uint32_t hot_##n(uint32_t a)                                                          \
    {                                                                                              \
        return a * 31u + 1##n##u;                                                                  \
    }
#define NAME(n) hot_##n,
#define TEN(m, n) m(n##0) m(n##1) m(n##2) m(n##3) m(n##4) m(n##5) m(n##6) m(n##7) m(n##8) m(n##9)
#define HUNDRED(m, n)                                                                              \
    TEN(m, n##0) TEN(m, n##1) TEN(m, n##2) TEN(m, n##3) TEN(m, n##4)                               \
    TEN(m, n##5) TEN(m, n##6) TEN(m, n##7) TEN(m, n##8) TEN(m, n##9)
#define THOUSAND(m)                                                                                \
    HUNDRED(m, 0) HUNDRED(m, 1) HUNDRED(m, 2) HUNDRED(m, 3) HUNDRED(m, 4)                          \
    HUNDRED(m, 5) HUNDRED(m, 6) HUNDRED(m, 7) HUNDRED(m, 8) HUNDRED(m, 9)

THOUSAND(HOT)

static uint32_t (*const functions[])(uint32_t) = {THOUSAND(NAME)};

static void *worker(void *unused)
{
    char text[64];
    while (!atomic_load(&stopping)) {
        for (uint32_t i = 0; i < 1000; i++) {
            if (functions[i](i) != i * 31u + 1000u + i)
                atomic_fetch_add(&wrong, 1);
            memset(text, 'a', sizeof text);
            text[i % 60 + 1] = 0;
            if (strlen(text) != i % 60 + 1 || strtoul("1234", NULL, 10) != 1234)
                atomic_fetch_add(&wrong, 1);
        }
        atomic_fetch_add(&rounds, 1);
    }
    return unused;
}

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 8;
    pthread_t threads[16];
    sigset_t all, own;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, NULL, &own);
    if (argc > 2 && !strcmp(argv[2], "aloof"))
        sigprocmask(SIG_SETMASK, &all, NULL);
    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, worker, NULL);
    sigprocmask(SIG_SETMASK, &own, NULL);
    say_ready();
    wait_go();
    atomic_store(&stopping, 1);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    printf("worked %d\nwrong %lu\n", rounds > 0, wrong);
    return 0;
}
