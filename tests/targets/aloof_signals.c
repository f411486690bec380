/* aloof_signals COUNT: calls hot(), now and then with SIGTRAP blocked, while a child of it sends it COUNT
 * signals, each of which is to arrive. */
#include "target.h"
#include <signal.h>
#include <sys/wait.h>

static volatile long got;

static void on_signal(int signal)
{
    (void)signal;
    got++;
}

NOINLINE long hot(long a, long b)
{
    __asm__ volatile("" ::: "memory");
    return a * 31 + b;
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 100, value = 1;
    pid_t self = getpid();
    sigset_t trap;
    int status;
    sigemptyset(&trap);
    sigaddset(&trap, SIGTRAP);
    signal(SIGRTMIN, on_signal);
    pid_t child = fork();
    if (child == 0) {
        for (long i = 0; i < count; i++) {
            while (sigqueue(self, SIGRTMIN, (union sigval){0}) != 0)
                usleep(100);
            usleep(50);
        }
        _exit(0);
    }
    while (waitpid(child, &status, WNOHANG) == 0) {
        sigprocmask(SIG_BLOCK, &trap, NULL);
        value = hot(value, 1);
        sigprocmask(SIG_UNBLOCK, &trap, NULL);
        for (int i = 0; i < 20; i++)
            value = hot(value, i);
    }
    for (int i = 0; i < 50; i++)
        usleep(1000);
    printf("got %ld\n", got);
    return 0;
}
