/* returns_threads MODE COUNT: threads end in the middle of probed(), at several depths.
 *   exit       by pthread_exit            cancel  cancelled, at a cancellation point
 *   async      cancelled, in a loop       process COUNT threads wait in it when one calls exit()
 *   none       nobody: all of them return, at the same time */
#include "returns.h"
#include <pthread.h>

static struct tally tally;
static const char *mode;
static int inside, cleaned;

static void clean(void *unused)
{
    (void)unused;
    __atomic_fetch_add(&cleaned, 1, __ATOMIC_RELAXED);
}

NOINLINE static void end_here(void)
{
    __atomic_fetch_add(&inside, 1, __ATOMIC_RELEASE);
    if (strcmp(mode, "exit") == 0)
        pthread_exit((void *)1);
    if (strcmp(mode, "async") == 0) {
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
        for (;;)
            __asm__ volatile("pause");
    }
    for (;;)
        pause();
}

NOINLINE NO_TAIL_CALLS long probed(long depth, int ends)
{
    entered(&tally);
    long below = 0;
    if (depth > 0)
        below = probed(depth - 1, ends);
    else if (ends)
        end_here();
    return leaving(&tally, below + depth * 5 + 2);
}

static void *body(void *argument)
{
    long number = (long)argument;
    pthread_cleanup_push(clean, NULL);
    probed(number % 3, 0);
    if (strcmp(mode, "none") == 0)
        for (int i = 0; i < 50; i++)
            probed(number % 5, 0);
    else
        probed(number % 5, 1);
    pthread_cleanup_pop(1);
    return NULL;
}

static void wait_until_inside(int count)
{
    while (__atomic_load_n(&inside, __ATOMIC_ACQUIRE) < count)
        sched_yield();
}

int main(int argc, char **argv)
{
    mode = word(argc, argv, 1, "exit");
    int count = number(argc, argv, 2, 8);
    pthread_t threads[64];

    say_ready();
    wait_go();
    for (long i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, body, (void *)i) != 0)
            return 3;
    if (strcmp(mode, "cancel") == 0 || strcmp(mode, "async") == 0) {
        wait_until_inside(count);
        for (int i = 0; i < count; i++)
            pthread_cancel(threads[i]);
    }
    if (strcmp(mode, "process") == 0) {
        wait_until_inside(count);
        report("probed", &tally);
        exit(7);
    }
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    report("probed", &tally);
    printf("cleaned %d\n", cleaned);
    return 0;
}
