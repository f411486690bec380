/* trap_owner handles|ignores|blocks|default: has its own way with SIGTRAP; at a line of its input it
 * calls hot(), prints what came of it, and ends by a breakpoint of its own if it is `default`. */
#include "target.h"
#include <signal.h>

NOINLINE long hot(long a)
{
    return a * 3 + 1;
}

static volatile int handled;

static void on_trap(int signal)
{
    handled += signal;
}

int main(int argc, char **argv)
{
    const char *way = argc > 1 ? argv[1] : "default";
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTRAP);
    if (!strcmp(way, "handles"))
        signal(SIGTRAP, on_trap);
    if (!strcmp(way, "ignores"))
        signal(SIGTRAP, SIG_IGN);
    if (!strcmp(way, "blocks"))
        sigprocmask(SIG_BLOCK, &set, NULL);
    say_ready();
    wait_go();
    printf("value %ld\nhandled %d\n", hot(5), handled);
    fflush(stdout);
    if (!strcmp(way, "default"))
        __asm__ volatile("int3");
    return 0;
}
