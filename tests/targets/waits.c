/* waits MILLISECONDS: threads that wait in each way that the kernel restarts, or fails, differently
 * when a stop interrupts it. Prints each call's result and errno, and whether it ended early. */
#include "target.h"
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>

static long milliseconds;
static int ends[2], word;

static struct timespec span(void)
{
    return (struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000};
}
static int in_nanosleep(void)
{
    struct timespec time = span();
    return nanosleep(&time, NULL);
}
static int in_absolute_sleep(void)
{
    struct timespec time, more = span();
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += more.tv_sec + (time.tv_nsec + more.tv_nsec) / 1000000000;
    time.tv_nsec = (time.tv_nsec + more.tv_nsec) % 1000000000;
    return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}
static int in_poll(void) { return poll(NULL, 0, (int)milliseconds); }
static int in_select(void)
{
    struct timeval time = {milliseconds / 1000, milliseconds % 1000 * 1000};
    return select(0, NULL, NULL, NULL, &time);
}
static int in_epoll(void)
{
    struct epoll_event event;
    int queue = epoll_create1(0);
    return epoll_wait(queue, &event, 1, (int)milliseconds);
}
static int in_futex(void)
{
    struct timespec time = span();
    return (int)syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);
}
static int in_sigtimedwait(void)
{
    struct timespec time = span();
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return sigtimedwait(&set, NULL, &time);
}
static int in_read(void)
{
    char byte;
    return (int)read(ends[0], &byte, 1);
}

static struct {
    const char *name;
    int (*wait)(void);
    int result, error, early;
} waits[] = {{"nanosleep", in_nanosleep, 0, 0, 0}, {"absolute", in_absolute_sleep, 0, 0, 0},
             {"poll", in_poll, 0, 0, 0},           {"select", in_select, 0, 0, 0},
             {"epoll", in_epoll, 0, 0, 0},         {"futex", in_futex, 0, 0, 0},
             {"sigtimedwait", in_sigtimedwait, 0, 0, 0}, {"read", in_read, 0, 0, 0}};
#define WAITS (sizeof waits / sizeof *waits)

NOINLINE void *waiter(void *argument)
{
    unsigned number = (unsigned)(uintptr_t)argument;
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    errno = 0;
    waits[number].result = waits[number].wait();
    waits[number].error = errno;
    clock_gettime(CLOCK_MONOTONIC, &after);
    long passed = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
    waits[number].early = passed + 5 < milliseconds;
    return argument;
}

int main(int argc, char **argv)
{
    pthread_t threads[WAITS];
    milliseconds = argc > 1 ? atol(argv[1]) : 300;
    if (pipe(ends) != 0)
        return 3;
    for (unsigned i = 0; i < WAITS; i++)
        pthread_create(&threads[i], NULL, waiter, (void *)(uintptr_t)i);
    say_ready();
    for (unsigned i = 0; i + 1 < WAITS; i++)
        pthread_join(threads[i], NULL);
    if (write(ends[1], "x", 1) != 1)
        return 4;
    pthread_join(threads[WAITS - 1], NULL);
    for (unsigned i = 0; i < WAITS; i++)
        printf("%s %d %d %d\n", waits[i].name, waits[i].result, waits[i].error, waits[i].early);
    return 0;
}
