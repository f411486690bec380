/* leader_exits THREADS COUNT: the first thread ends at once and stays a zombie while the others
 * call hot(); the last of them prints the count and ends the process with status 7. */
#include "target.h"
#include <pthread.h>
#include <stdatomic.h>

static atomic_ulong calls;
static atomic_int left;
static long count;

NOINLINE long hot(long a)
{
    atomic_fetch_add(&calls, 1);
    return a + 1;
}

static void *worker(void *unused)
{
    if (unused == NULL) {
        say_ready();
        wait_go();
    }
    for (long i = 0; i < count; i++)
        hot(i);
    if (atomic_fetch_sub(&left, 1) == 1) {
        printf("hot %lu\n", calls);
        exit(7);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 3;
    pthread_t thread;
    count = argc > 2 ? atol(argv[2]) : 100;
    atomic_store(&left, threads);
    for (long i = 0; i < threads; i++)
        pthread_create(&thread, NULL, worker, (void *)i);
    pthread_exit(NULL);
}
