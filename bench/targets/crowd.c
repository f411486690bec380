/* crowd threads|processes N CALLS REPORT: N threads, or N processes that it forks, call hot()
 * CALLS times each, all at once, and 20 times before that, and it writes into the file REPORT
 *
 *   nanoseconds N       from the first one's start until the last one's end
 *
 * The main thread hits nothing. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WARM_UP = 20, MOST = 1024 };

static struct {
    pthread_barrier_t together;
    long calls;
    long long start[MOST], end[MOST];
} *shared;

extern void hot(void);
__asm__(".text\n.globl hot\n.type hot, @function\nhot: endbr64\n ret\n.size hot, . - hot\n");

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void *work(void *number)
{
    long self = (long)number;
    for (int i = 0; i < WARM_UP; i++)
        hot();
    pthread_barrier_wait(&shared->together);
    shared->start[self] = now();
    for (long i = 0; i < shared->calls; i++)
        hot();
    shared->end[self] = now();
    return NULL;
}

int main(int argc, char **argv)
{
    long count = argc == 5 ? atol(argv[2]) : 0;
    FILE *report = count > 0 && count <= MOST ? fopen(argv[4], "w") : NULL;
    if (!report) {
        fprintf(stderr, "usage: crowd threads|processes N CALLS REPORT\n");
        return 2;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 2;
    shared->calls = atol(argv[3]);
    pthread_barrierattr_t between_processes;
    pthread_barrierattr_init(&between_processes);
    pthread_barrierattr_setpshared(&between_processes, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&shared->together, &between_processes, count);
    int failed = 0;
    if (!strcmp(argv[1], "threads")) {
        static pthread_t threads[MOST];
        for (long i = 0; i < count; i++)
            if (pthread_create(&threads[i], NULL, work, (void *)i))
                return 3;
        for (long i = 0; i < count; i++)
            pthread_join(threads[i], NULL);
    } else {
        for (long i = 0; i < count; i++) {
            pid_t child = fork();
            if (child < 0)
                return 3;
            if (!child) {
                work((void *)i);
                _exit(0);
            }
        }
        int status;
        while (wait(&status) > 0)
            failed |= status;
    }
    long long start = shared->start[0], end = 0;
    for (long i = 0; i < count; i++) {
        start = shared->start[i] < start ? shared->start[i] : start;
        end = shared->end[i] > end ? shared->end[i] : end;
    }
    fprintf(report, "nanoseconds %lld\n", end - start);
    return fclose(report) || failed ? 1 : 0;
}
