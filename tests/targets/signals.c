/* signals ROUNDS [masked]: a program that leans on signals in every way, and checks what its handlers
 * see. With `masked`, probed() is also called while SIGTRAP is blocked, and while it is ignored.
 * `probed()` and the handlers are what tests put probes on. Prints one count per line;
 * every line beginning with "bad_" must be 0. */
#include "target.h"
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <ucontext.h>

static volatile unsigned long probed_calls, plain_calls, nested_calls, inner_calls, jump_calls,
    alternate_calls, trap_calls, own_trap_calls, queued_calls, bad_rip, bad_code, bad_order,
    bad_stack, bad_mask, bad_action, bad_wait, bad_signalfd;

NOINLINE long probed(long a)
{
    probed_calls++;
    return a * 3;
}

static void check_rip(void *context)
{
    if (!in_own_code(((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP]))
        bad_rip++;
}

NOINLINE void on_plain(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    plain_calls++;
    check_rip(context);
    if (info->si_code != SI_TKILL && info->si_code != SI_USER)
        bad_code++;
    probed(1);
}

NOINLINE void on_inner(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    inner_calls++;
    check_rip(context);
    probed(2);
}

NOINLINE void on_outer(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    nested_calls++;
    check_rip(context);
    raise(SIGUSR2);
    probed(3);
}

static sigjmp_buf escape;

NOINLINE void on_jump(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    jump_calls++;
    check_rip(context);
    siglongjmp(escape, 1);
}

static char alternate[65536];

NOINLINE void on_alternate(int signal, siginfo_t *info, void *context)
{
    char here;
    (void)signal;
    (void)info;
    alternate_calls++;
    check_rip(context);
    if (&here < alternate || &here >= alternate + sizeof alternate)
        bad_stack++;
    probed(4);
}

static volatile uintptr_t own_trap_rip;

NOINLINE void on_trap(int signal, siginfo_t *info, void *context)
{
    uintptr_t rip = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    (void)signal;
    check_rip(context);
    if (info->si_code == SI_USER || info->si_code == SI_TKILL) {
        trap_calls++;
        if (info->si_pid != getpid())
            bad_code++;
    } else {
        own_trap_calls++;
        own_trap_rip = rip;
        if (info->si_code != SI_KERNEL)
            bad_code++;
    }
    probed(5);
}

static volatile int last_value;

NOINLINE void on_queued(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    queued_calls++;
    check_rip(context);
    if (info->si_value.sival_int != last_value + 1)
        bad_order++;
    last_value = info->si_value.sival_int;
    probed(6);
}

static void handle(int signal, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    sigaction(signal, &action, NULL);
}

static int is_blocked(int signal)
{
    sigset_t set;
    sigprocmask(SIG_BLOCK, NULL, &set);
    return sigismember(&set, signal);
}

/* The kernel unblocks SIGTRAP and drops its handler when a trap comes while it is blocked
 * (force_sig_info_to_task in kernel/signal.c); natively probed() leaves both as they were. */
static void trap_while_blocked(void)
{
    sigset_t set, old;
    struct sigaction action;
    sigemptyset(&set);
    sigaddset(&set, SIGTRAP);
    sigprocmask(SIG_BLOCK, &set, &old);
    probed(7);
    if (!is_blocked(SIGTRAP))
        bad_mask++;
    sigaction(SIGTRAP, NULL, &action);
    if (action.sa_sigaction != on_trap)
        bad_action++;
    sigprocmask(SIG_SETMASK, &old, NULL);
}

static void trap_while_ignored(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN}, old, now;
    sigaction(SIGTRAP, &ignore, &old);
    probed(8);
    sigaction(SIGTRAP, NULL, &now);
    if (now.sa_handler != SIG_IGN)
        bad_action++;
    kill(getpid(), SIGTRAP);
    sigaction(SIGTRAP, &old, NULL);
}

static void waited_for(void)
{
    sigset_t set, old;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 2);
    sigprocmask(SIG_BLOCK, &set, &old);
    sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 77});
    probed(9);
    if (sigwaitinfo(&set, &info) != SIGRTMIN + 2 || info.si_value.sival_int != 77)
        bad_wait++;
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    struct signalfd_siginfo record = {0};
    sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 78});
    probed(10);
    if (read(fd, &record, sizeof record) != sizeof record || record.ssi_int != 78)
        bad_signalfd++;
    close(fd);
    sigprocmask(SIG_SETMASK, &old, NULL);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 10, masked = argc > 2;
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    learn_own_code();
    sigaltstack(&stack, NULL);
    handle(SIGUSR1, on_outer, 0);
    handle(SIGUSR2, on_inner, 0);
    handle(SIGHUP, on_jump, 0);
    handle(SIGQUIT, on_alternate, SA_ONSTACK);
    handle(SIGTRAP, on_trap, masked ? 0 : SA_NODEFER);
    handle(SIGRTMIN + 1, on_queued, 0);
    static const int plain[] = {SIGINT, SIGTERM, SIGPIPE, SIGCHLD, SIGURG, SIGWINCH, SIGIO, SIGALRM};
    for (unsigned i = 0; i < sizeof plain / sizeof *plain; i++)
        handle(plain[i], on_plain, i & 1 ? SA_NODEFER : 0);
    say_ready();
    wait_go();
    for (int round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < sizeof plain / sizeof *plain; i++)
            i & 2 ? raise(plain[i]) : kill(getpid(), plain[i]);
        raise(SIGUSR1);
        raise(SIGQUIT);
        kill(getpid(), SIGTRAP);
        raise(SIGTRAP);
        uintptr_t after;
#ifdef __x86_64__
        __asm__ volatile("lea 1f(%%rip), %0\n\tint3\n1:" : "=r"(after));
#else
        __asm__ volatile("call 2f\n2: pop %0\n\tadd $(1f-2b), %0\n\tint3\n1:" : "=r"(after));
#endif
        if (own_trap_rip != after)
            bad_rip++;
        sigset_t set, old;
        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN + 1);
        sigprocmask(SIG_BLOCK, &set, &old);
        last_value = 0;
        for (int i = 1; i <= 5; i++)
            sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = i});
        sigprocmask(SIG_SETMASK, &old, NULL);
        if (sigsetjmp(escape, 1) == 0) {
            raise(SIGHUP);
            bad_stack++;
        }
        waited_for();
        if (masked) {
            trap_while_blocked();
            trap_while_ignored();
        }
    }
    printf("probed %lu\non_plain %lu\non_outer %lu\non_inner %lu\non_jump %lu\non_alternate %lu\n"
           "on_trap %lu\non_queued %lu\n",
           probed_calls, plain_calls, nested_calls, inner_calls, jump_calls, alternate_calls,
           trap_calls + own_trap_calls, queued_calls);
    printf("bad_rip %lu\nbad_code %lu\nbad_order %lu\nbad_stack %lu\nbad_mask %lu\nbad_action %lu\n"
           "bad_wait %lu\nbad_signalfd %lu\n",
           bad_rip, bad_code, bad_order, bad_stack, bad_mask, bad_action, bad_wait, bad_signalfd);
    return 0;
}
