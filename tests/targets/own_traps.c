/* own_traps WAY [COUNT]: SIGTRAPs of the program's own. At a line of its input it calls hot(), and
 *     int3     runs into a breakpoint of its own, and dies
 *     sends    sends itself the signal, and dies
 *     waits    waits for more input, to be sent the signal
 *     spins    executes one instruction for ever, to be sent the signal
 *     handled  gets COUNT of each of the first two in a handler, which calls inside() with the signal
 *              blocked, and prints what it saw
 * Otherwise it prints what hot() gave. */
#include "target.h"
#include <signal.h>
#include <sys/syscall.h>

static volatile int handled, calls, blocked, of_kernel, sent;

NOINLINE int hot(int a)
{
    return a * 3 + 1;
}

NOINLINE int inside(int a)
{
    calls++;
    return a + 1;
}

static int traps_are_blocked(void)
{
    sigset_t now;
    sigprocmask(SIG_SETMASK, NULL, &now);
    return sigismember(&now, SIGTRAP);
}

static void on_trap(int signal, siginfo_t *info, void *context)
{
    (void)context;
    handled += signal == SIGTRAP;
    for (int i = 0; i < 3; i++)
        inside(i);
    blocked += traps_are_blocked();
    of_kernel += info->si_code == SI_KERNEL;
    sent += info->si_code == SI_TKILL && info->si_pid == getpid();
}

static void send_trap(void)
{
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGTRAP);
}

int main(int argc, char **argv)
{
    const char *way = argc > 1 ? argv[1] : "int3";
    int count = argc > 2 ? atoi(argv[2]) : 1;
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO}, now;
    if (!strcmp(way, "handled"))
        sigaction(SIGTRAP, &action, NULL);
    say_ready();
    wait_go();
    printf("hot %d\n", hot(5));
    fflush(stdout);
    if (!strcmp(way, "int3"))
        __asm__ volatile("int3");
    if (!strcmp(way, "sends"))
        send_trap();
    if (!strcmp(way, "spins"))
        __asm__ volatile("1: jmp 1b");
    if (!strcmp(way, "waits"))
        wait_go();
    if (strcmp(way, "handled"))
        return 0;
    for (int i = 0; i < count; i++) {
        __asm__ volatile("int3");
        send_trap();
    }
    sigaction(SIGTRAP, NULL, &now);
    printf("handled %d\ncalls %d\nblocked %d\nof_kernel %d\nsent %d\nkept %d\nleft %d\n", handled, calls,
           blocked, of_kernel, sent, now.sa_sigaction == on_trap, traps_are_blocked());
    return 0;
}
