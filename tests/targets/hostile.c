/* hostile MODE N: calls hot() N times in surroundings that are hard on a tracer, counts those
 * calls, and prints what else it checks. */
#include "target.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>

static atomic_long calls;
static volatile long traps, others, hits_in_handler;

NOINLINE long hot(long a)
{
    atomic_fetch_add(&calls, 1);
    return a + 1;
}

static void call_all(long n)
{
    for (long i = 0; i < n; i++)
        hot(i);
}

static void on_trap(int number, siginfo_t *info, void *context)
{
    (void)number;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    /* si_code of an int3 is SI_KERNEL, and RIP is behind it. */
    if (info->si_code == SI_KERNEL && ((unsigned char *)registers[REG_RIP])[-1] == 0xcc)
        traps++;
    else
        others++;
    if (hits_in_handler)
        hot(0);
}

static void handle(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    sigaction(number, &action, NULL);
}

/* Its own breakpoints, beside ours. */
static void own_int3(long n)
{
    handle(SIGTRAP, on_trap, 0);
    for (long i = 0; i < n; i++) {
        hot(i);
        __asm__ volatile("int3");
        raise(SIGTRAP);
    }
}

static void on_usr1(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    (void)context;
    char here;
    stack_t stack;
    sigaltstack(NULL, &stack);
    if (&here >= (char *)stack.ss_sp && &here < (char *)stack.ss_sp + stack.ss_size)
        traps++;
    hot(1);
}

static void alternate_stack(long n)
{
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    sigaltstack(&stack, NULL);
    handle(SIGUSR1, on_usr1, SA_ONSTACK);
    for (long i = 0; i < n; i++) {
        hot(i);
        raise(SIGUSR1);
    }
}

static ucontext_t contexts[3];

static void coroutine(int other)
{
    for (;;) {
        hot(other);
        swapcontext(&contexts[3 - other], &contexts[0]);
    }
}

static void make_contexts(long n)
{
    for (int i = 1; i < 3; i++) {
        getcontext(&contexts[i]);
        contexts[i].uc_stack.ss_sp = malloc(1 << 16);
        contexts[i].uc_stack.ss_size = 1 << 16;
        makecontext(&contexts[i], (void (*)(void))coroutine, 1, 3 - i);
    }
    for (long i = 0; i < n; i++)
        swapcontext(&contexts[0], &contexts[1 + i % 2]);
}

static void *brief(void *argument)
{
    hot((long)argument);
    return NULL;
}

static void threads(long n)
{
    for (long i = 0; i < n; i += 8) {
        pthread_t some[8];
        for (long k = 0; k < 8; k++)
            pthread_create(&some[k], NULL, brief, (void *)k);
        for (long k = 0; k < 8; k++)
            pthread_join(some[k], NULL);
    }
}

static void vfork_and_exec(void)
{
    int status = -1;
    pid_t child = vfork();
    if (child == 0) {
        execl("/bin/true", "true", NULL);
        _exit(1);
    }
    if (waitpid(child, &status, 0) != child || status != 0)
        others++;
}

static void vforks(long n)
{
    for (long i = 0; i < n; i++) {
        vfork_and_exec();
        hot(i);
    }
}

/* A tracer itself: its child stops for it. */
static void own_ptrace(long n)
{
    for (long i = 0; i < n; i++) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0)
                _exit(9);
            raise(SIGSTOP);
            hot(7);
            _exit(4);
        }
        hot(i);
        if (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
            traps++;
            ptrace(PTRACE_CONT, child, 0, 0);
            waitpid(child, &status, 0);
        }
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 4)
            others++;
    }
}

/* Code that it writes and rewrites, beside its own that is made writable. */
static void rewritten(long n)
{
    unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *page = (char *)((uintptr_t)hot & -4096);
    mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC);
    for (long i = 0; i < n; i++) {
        memcpy(code, "\xb8\0\0\0\0\xc3", 6); /* mov $.., %eax; ret */
        code[1] = i & 127;
        if (((int (*)(void))code)() != (i & 127))
            others++;
        hot(i);
    }
    mprotect(page, 8192, PROT_READ | PROT_EXEC);
}

/* Its text copied to memory of huge pages, as some programs do. */
static void moved_text(long n)
{
    size_t size = 4096;
    char *page = (char *)((uintptr_t)hot & -4096), *copy;
    hot(0);
    copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(copy, size, MADV_HUGEPAGE);
    memcpy(copy, page, size);
    mprotect(copy, size, PROT_READ | PROT_EXEC);
    if (mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, page) != page)
        others++;
    call_all(n);
}

static void huge_data(long n)
{
    size_t size = 8 << 20;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, size, MADV_HUGEPAGE);
    memset(memory, 1, size);
    call_all(n);
}

static void filter(int action, int nr)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void on_sys(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    if (info->si_syscall == SYS_getppid)
        traps++;
}

static void forbidden_calls(long n)
{
    handle(SIGSYS, on_sys, 0);
    for (long i = 0; i < n; i++) {
        hot(i);
        syscall(SYS_getppid);
    }
}

static void finish(void)
{
    char line[128];
    int length = snprintf(line, sizeof line, "hot %ld\ntraps %ld\nothers %ld\n", calls, traps,
                          others);
    /* The last three calls that seccomp's strict mode allows. */
    if (write(1, line, length) != length)
        syscall(SYS_exit, 3);
    syscall(SYS_exit, 6);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "plain";
    long n = argc > 2 ? atol(argv[2]) : 20;
    if (!strcmp(mode, "undumpable"))
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (!strcmp(mode, "no-new-privs"))
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (!strcmp(mode, "trap"))
        filter(SECCOMP_RET_TRAP, SYS_getppid);
    if (!strcmp(mode, "jit"))
        memset(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                    0),
               0x90, 4096);
    if (!strcmp(mode, "no-mmap"))
        filter(SECCOMP_RET_KILL_PROCESS, SYS_mmap);
    say_ready();
    if (!strcmp(mode, "strict"))
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0);
    wait_go();
    hits_in_handler = !strcmp(mode, "int3-handler");
    if (!strcmp(mode, "int3") || hits_in_handler)
        own_int3(n);
    else if (!strcmp(mode, "sigaltstack"))
        alternate_stack(n);
    else if (!strcmp(mode, "makecontext"))
        make_contexts(n);
    else if (!strcmp(mode, "threads"))
        threads(n);
    else if (!strcmp(mode, "vforks"))
        vforks(n);
    else if (!strcmp(mode, "ptrace"))
        own_ptrace(n);
    else if (!strcmp(mode, "rewritten"))
        rewritten(n);
    else if (!strcmp(mode, "moved-text"))
        moved_text(n);
    else if (!strcmp(mode, "huge-data"))
        huge_data(n);
    else if (!strcmp(mode, "trap"))
        forbidden_calls(n);
    else
        call_all(n);
    finish();
}
