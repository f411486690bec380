/* sends_itself_traps COUNT: each time round sends SIGTRAP to its own thread by a system call that
 * a step ends in, and then adds to a counter. Its handler tells where the signal found it. Prints
 * where, as an offset from `sending`, and how often; then the counters. */
#include "target.h"
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>

static volatile unsigned long handled, strange, wrong;
volatile unsigned long added;
extern const char sending[];
static long offset = -1;

static void on_trap(int number, siginfo_t *info, void *context)
{
    (void)number;
    long at = (long)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] - (long)sending;
    handled++;
    if (info->si_code != SI_TKILL || (offset >= 0 && at != offset))
        strange++;
    offset = at;
}

NOINLINE static void round_trip(long pid, long tid)
{
    long result = SYS_tgkill, b = 0x1111, c = SIGTRAP;
    __asm__ volatile(".globl sending, adding\n"
                     ".type sending, @function\n.type adding, @function\n"
                     "sending:\n"
                     "    syscall\n"
                     "adding:\n"
                     "    addq $1, added(%%rip)\n"
                     : "+a"(result), "+b"(b), "+d"(c)
                     : "D"(pid), "S"(tid)
                     : "rcx", "r11", "memory");
    if (result != 0 || b != 0x1111 || c != SIGTRAP)
        wrong++;
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 1;
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    long pid = getpid();
    for (long i = 0; i < count; i++)
        round_trip(pid, pid);
    printf("handled %lu\nstrange %lu\nwrong %lu\nadded %lu\noffset %ld\n", handled, strange, wrong,
           added, offset);
    return 0;
}
