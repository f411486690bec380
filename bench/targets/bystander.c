/* bystander HITTERS PHASES MILLISECONDS HIT_CPU OWN_CPU REPORT: threads on HIT_CPU that call hot()
 * without an end, and one on OWN_CPU that computes and hits nothing. In every second of PHASES,
 * each of MILLISECONDS, the hitting threads wait. It writes into the file REPORT
 *
 *   calls N             of hot(), by all threads together
 *   blocked N           femtoseconds per step of the computing thread while the others waited,
 *                       a line for each of these phases
 *   hitting N           the same while they called
 *
 * Time in which another program had OWN_CPU is left out: run_delay of /proc/PID/schedstat, which
 * counts a thread that is runnable and does not run. A stopped thread is not runnable. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1024, STEPS = 20000, SETTLE_NANOSECONDS = 2000000 };

extern void hot(void);
__asm__(".text\n.globl hot\n.type hot, @function\nhot: endbr64\n ret\n.size hot, . - hot\n");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int go, over; /* under the lock; `go` is also looked at without it */
static long waiting;
static long calls[MOST][8]; /* a cache line each */

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Nanoseconds so far that this thread waited for a CPU; 0 if the kernel does not tell. */
static long long run_delay(void)
{
    static int file = -2;
    if (file == -2)
        file = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    char text[128];
    ssize_t size = file < 0 ? 0 : pread(file, text, sizeof text - 1, 0);
    long long ran, waited = 0;
    text[size < 0 ? 0 : size] = 0;
    return sscanf(text, "%lld %lld", &ran, &waited) == 2 ? waited : 0;
}

static void bind_to(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) {
        perror("sched_setaffinity");
        exit(70);
    }
}

static void *hit(void *number)
{
    long *mine = calls[(long)number];
    for (;;) {
        pthread_mutex_lock(&lock);
        waiting++;
        pthread_cond_broadcast(&changed);
        while (!go && !over)
            pthread_cond_wait(&changed, &lock);
        waiting--;
        pthread_cond_broadcast(&changed);
        int leave = over;
        pthread_mutex_unlock(&lock);
        if (leave)
            return NULL;
        while (__atomic_load_n(&go, __ATOMIC_RELAXED)) {
            hot();
            ++*mine;
        }
    }
}

/* A chain of dependent multiplications: no memory, no system call, no vDSO. */
static unsigned long compute(unsigned long value)
{
    for (int i = 0; i < STEPS; i++)
        value = value * 6364136223846793005UL + 1442695040888963407UL;
    return value;
}

/* Returns when all of them have seen it: those that wait have begun, or all wait. */
static void set(int *what, int value, long hitters)
{
    pthread_mutex_lock(&lock);
    __atomic_store_n(what, value, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&changed);
    while (what == &go && waiting != (value ? 0 : hitters))
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

int main(int argc, char **argv)
{
    long hitters = argc == 7 ? atol(argv[1]) : 0;
    FILE *report = hitters > 0 && hitters <= MOST ? fopen(argv[6], "w") : NULL;
    if (!report) {
        fprintf(stderr, "usage: bystander HITTERS PHASES MS HIT_CPU OWN_CPU REPORT\n");
        return 2;
    }
    long long length = atoll(argv[3]) * 1000000;
    static pthread_t threads[MOST];
    bind_to(atoi(argv[4]));
    for (long i = 0; i < hitters; i++)
        if (pthread_create(&threads[i], NULL, hit, (void *)i))
            return 3;
    bind_to(atoi(argv[5]));
    unsigned long value = getpid();
    for (long phase = 0; phase < atol(argv[2]); phase++) {
        int hitting = phase & 1;
        set(&go, hitting, hitters);
        long long start = now(), end = start, steps = 0;
        while (end - start < SETTLE_NANOSECONDS) {
            value = compute(value);
            end = now();
        }
        /* The clock is read first and last, so that no wait outside of its readings is counted. */
        start = end = now();
        long long waited = run_delay();
        for (; end - start < length; steps += STEPS, end = now())
            value = compute(value);
        waited = run_delay() - waited;
        end = now();
        fprintf(report, "%s %lld\n", hitting ? "hitting" : "blocked",
                (end - start - waited) * 1000000 / steps);
    }
    set(&go, 0, hitters);
    set(&over, 1, hitters);
    long total = 0;
    for (long i = 0; i < hitters; i++) {
        pthread_join(threads[i], NULL);
        total += calls[i][0];
    }
    fprintf(report, "calls %ld\nvalue %lu\n", total, value >> 32);
    return fclose(report) ? 1 : 0;
}
