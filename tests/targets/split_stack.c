/* recurse() needs more than a thread's first stack segment: each call goes on to another one.
 *
 * Built with -fsplit-stack. The segments lie wherever mmap(2) puts them, above or below. */
#include <pthread.h>
#include <stddef.h>

#define NOINLINE __attribute__((noinline, noclone))

NOINLINE long stop_here(long value)
{
    __asm__ volatile("" : "+r"(value));
    return value;
}

NOINLINE long recurse(long depth)
{
    volatile char room[20000];
    room[0] = 0;
    long result = depth ? recurse(depth - 1) : stop_here(3);
    return result + room[0];
}

static void *body(void *argument) { return (void *)recurse((long)argument); }

int main(void)
{
    pthread_t thread;
    void *result;
    if (pthread_create(&thread, NULL, body, (void *)20L) != 0)
        return 1;
    pthread_join(thread, &result);
    return (long)result != 3;
}
