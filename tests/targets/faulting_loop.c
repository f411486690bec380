/* faulting_loop COUNT: executes an instruction that there is none of COUNT times, its handler steps over
 * it; prints how often that ran. */
#include "target.h"
#include <signal.h>
#include <ucontext.h>

static unsigned long faults;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
    faults++;
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 1000;
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGILL, &action, NULL);
    say_ready();
    wait_go();
    for (long i = 0; i < count; i++)
        __asm__ volatile("ud2");
    printf("faults %lu\n", faults);
    return 0;
}
