/* primitives CPU: what the pieces of a stop cost, in nanoseconds, on that CPU.
 *
 *   system_call N     the shortest there is
 *   switch N          from one process to another on the same CPU (half of a ping-pong by pipes,
 *                     with the read and the write that belong to it)
 *   trap N            an int3 that the program's own handler serves, with its sigreturn */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static void handler(int number) { (void)number; }

int main(int argc, char **argv)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(argc > 1 ? atoi(argv[1]) : 0, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        return 70;
    enum { ROUNDS = 20000 };
    double start = now();
    for (int i = 0; i < ROUNDS; i++)
        syscall(SYS_getppid);
    printf("system_call %.0f\n", (now() - start) / ROUNDS);

    signal(SIGTRAP, handler);
    start = now();
    for (int i = 0; i < ROUNDS; i++)
        __asm__ volatile("int3" ::: "memory");
    printf("trap %.0f\n", (now() - start) / ROUNDS);
    fflush(stdout);

    int there[2], back[2];
    char byte = 0;
    if (pipe(there) || pipe(back))
        return 71;
    if (fork() == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1) {
        }
        _exit(0);
    }
    start = now();
    for (int i = 0; i < ROUNDS; i++)
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
            return 72;
    printf("switch %.0f\n", (now() - start) / ROUNDS / 2);
    return 0;
}
