/* Stacks of every kind, each with stop_here() innermost.
 *
 * stacks WHAT: recursion, pushes, realigned, signal, altstack, fault, null, thread, sorting, clock.
 * Built with -O2 -fomit-frame-pointer: nothing but call frame information tells the frames. */
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone, noipa))

static volatile long sink;

NOINLINE void stop_here(void) { sink++; }

NOINLINE long recurse(long depth)
{
    if (depth == 0) {
        stop_here();
        return 1;
    }
    long result = recurse(depth - 1);
    sink += result;
    return result + depth;
}

/* All registers that a function must keep are in use: six pushes. */
NOINLINE long pushes(long a, long b, long c, long d, long e, long f)
{
    long g = a * b, h = c * d, i = e * f, j = a + f;
    stop_here();
    g += h ^ i;
    stop_here();
    return a + b * c - d * e + f + g * h * i * j;
}

NOINLINE void use(void *memory, size_t size) { memset(memory, 1, size); stop_here(); }

/* An aligned frame of a size that is not known: the CFA is an expression. */
NOINLINE long realigned(size_t size)
{
    _Alignas(64) char aligned[64];
    char *more = alloca(size);
    use(aligned, sizeof aligned);
    use(more, size);
    return aligned[3] + more[size - 1];
}

static void on_signal(int number) { sink = number; stop_here(); }

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)info, (void)context;
    sink = number;
    stop_here();
    _exit(0);
}

static void handle(int number, int flags)
{
    struct sigaction action = {.sa_flags = flags};
    if (flags & SA_SIGINFO)
        action.sa_sigaction = on_fault;
    else
        action.sa_handler = on_signal;
    sigaction(number, &action, NULL);
}

NOINLINE long interrupted(long value)
{
    raise(SIGUSR1);
    return value + sink;
}

NOINLINE long read_at(long *address) { return *address + 1; }

NOINLINE long call_it(long (*function)(void)) { return function() + 1; }

static void *body(void *argument)
{
    recurse((long)argument);
    return NULL;
}

static int compare(const void *a, const void *b)
{
    stop_here();
    return *(const int *)a - *(const int *)b;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    static char alternate[65536];
    if (!strcmp(what, "recursion")) {
        sink = recurse(argc > 2 ? atol(argv[2]) : 50);
    } else if (!strcmp(what, "pushes")) {
        sink = pushes(1, 2, 3, 4, 5, 6);
    } else if (!strcmp(what, "realigned")) {
        sink = realigned(100 + argc);
    } else if (!strcmp(what, "signal")) {
        handle(SIGUSR1, 0);
        sink = interrupted(3);
    } else if (!strcmp(what, "altstack")) {
        stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
        sigaltstack(&stack, NULL);
        handle(SIGUSR1, SA_ONSTACK);
        sink = interrupted(3);
    } else if (!strcmp(what, "fault")) {
        handle(SIGSEGV, SA_SIGINFO);
        sink = read_at((long *)8);
    } else if (!strcmp(what, "null")) {
        handle(SIGSEGV, SA_SIGINFO);
        sink = call_it(NULL);
    } else if (!strcmp(what, "thread")) {
        pthread_t thread;
        pthread_create(&thread, NULL, body, (void *)5L);
        pthread_join(thread, NULL);
    } else if (!strcmp(what, "sorting")) {
        int numbers[] = {5, 3, 1, 4, 2, 9, 8, 7};
        qsort(numbers, 8, sizeof numbers[0], compare);
    } else if (!strcmp(what, "clock")) {
        struct timespec now;
        for (int i = 0; i < 3; i++)
            clock_gettime(CLOCK_MONOTONIC, &now);
        sink = now.tv_nsec + getppid();
    } else {
        return 2;
    }
    return 0;
}
