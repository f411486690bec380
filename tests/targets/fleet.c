/* fleet KIND FILE [HELD]: one member of the soak's fleet. It does what its kind does, again and
 * again, in the phase that FILE's first word says: silent, noise (the same, but no function that
 * may be probed is called) or open. Each probed function counts its own executions in FILE, which
 * children, and what is execed, share. HELD: this image replaces one that had begun a round. */
#include "target.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>

extern char **environ;

enum { SILENT, NOISE, OPEN };

/* tests/soak/member.py has the same order. */
static struct {
    atomic_ulong phase, stop, moving, calling, unexpected, strange_rips, wrong, random;
    atomic_ulong work, own_work, on_signal, faulting, plugin_work, announced, doomed;
    atomic_ulong forks, execs, threads, signals, crashes, kills, loads;
    atomic_ulong unexpected_status;
} *shared;

static char *self, *kind, *file;
static int open_round, check_rips;

NOINLINE long work(long a)
{
    atomic_fetch_add(&shared->work, 1);
    return 3 * a + 5;
}

/* Only the member itself comes here, never a child of it. */
NOINLINE long own_work(long a)
{
    atomic_fetch_add(&shared->own_work, 1);
    return a - 7;
}

/* Its callers may be killed at any instruction: `announced` is what it can be at most. */
NOINLINE long doomed(long a)
{
    atomic_fetch_add(&shared->doomed, 1);
    return a + 1;
}

NOINLINE void faulting(int how)
{
    atomic_fetch_add(&shared->faulting, 1);
    if (how == 0)
        __asm__ volatile("movl $1, 8" ::: "memory");
    else if (how == 1)
        __asm__ volatile("ud2");
    else if (how == 2)
        __asm__ volatile("xorl %%edx, %%edx; xorl %%ecx, %%ecx; divl %%ecx" ::: "eax", "ecx", "edx");
    else if (how == 3)
        __asm__ volatile("int3");
    else
        abort();
}
static const int deaths[5] = {SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGABRT};

static void check_rip(void *context)
{
    if (check_rips && !in_own_code(((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP]))
        atomic_fetch_add(&shared->strange_rips, 1);
}

static atomic_ulong handled[65];

NOINLINE void on_signal(int signal, siginfo_t *info, void *context)
{
    (void)info;
    atomic_fetch_add(&shared->on_signal, 1);
    atomic_fetch_add(&handled[signal], 1);
    check_rip(context);
}

static void on_noise(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    atomic_fetch_add(&shared->signals, 1);
    check_rip(context);
}

static unsigned long pick(unsigned long below)
{
    unsigned long x = atomic_load(&shared->random);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    atomic_store(&shared->random, x);
    return x % below;
}

static void call(long count)
{
    for (long i = 0; i < count; i++) {
        if (!open_round)
            sched_yield();
        else if (work(i) != 3 * i + 5)
            atomic_fetch_add(&shared->wrong, 1);
    }
}

static void call_own(long count)
{
    for (long i = 0; open_round && i < count; i++)
        if (own_work(i) != i - 7)
            atomic_fetch_add(&shared->wrong, 1);
}

static void expect(pid_t child, int code)
{
    int status = -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    int seen = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (seen != code) {
        atomic_fetch_add(&shared->unexpected, 1);
        atomic_store(&shared->unexpected_status, seen * 1000 + code);
    }
}

static void *brief(void *count)
{
    call((intptr_t)count);
    return NULL;
}

static void *with_child_threads(void *count)
{
    pthread_t thread;
    call((intptr_t)count);
    if (pthread_create(&thread, NULL, brief, count) == 0)
        pthread_join(thread, NULL);
    call_own(2);
    atomic_fetch_add(&shared->threads, 2);
    return NULL;
}

static void threads(void)
{
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&thread[i], NULL, with_child_threads, (void *)(intptr_t)(5 + pick(20)));
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
}

static void forks(void)
{
    int count = pick(8), ends[2];
    char c;
    pid_t child = fork();
    if (child == 0) {
        call(count);
        pid_t grandchild = fork();
        if (grandchild == 0) {
            call(1);
            _exit(3);
        }
        expect(grandchild, 3);
        _exit(40 + count);
    }
    call_own(3);
    expect(child, 40 + count);
    /* A daemon, whose end only a pipe tells of. */
    if (pipe(ends) != 0)
        _exit(96);
    child = fork();
    if (child == 0) {
        setsid();
        if (fork() == 0) {
            call(2);
            _exit(0);
        }
        _exit(9);
    }
    close(ends[1]);
    expect(child, 9);
    while (read(ends[0], &c, 1) != 0) {
    }
    close(ends[0]);
    atomic_fetch_add(&shared->forks, 4);
}

static char clone_stack[65536] __attribute__((aligned(16)));

static int cloned(void *unused)
{
    (void)unused;
    call(2);
    return 21;
}

static void vforks(void)
{
    pid_t child = vfork();
    if (child == 0) {
        call(3);
        _exit(17);
    }
    call_own(1);
    expect(child, 17);
    child = clone(cloned, clone_stack + sizeof clone_stack, CLONE_VM | SIGCHLD, NULL);
    call_own(2);
    expect(child, 21);
    char *arguments[] = {self, open_round ? "leaf" : "quiet-leaf", file, NULL};
    if (posix_spawn(&child, self, NULL, NULL, arguments, environ) != 0)
        atomic_fetch_add(&shared->unexpected, 1);
    else
        expect(child, 5);
    atomic_fetch_add(&shared->forks, 3);
    atomic_fetch_add(&shared->execs, 1);
}

static void run_self(void)
{
    sigset_t all;
    /* The next image has no handler yet. */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    execl(self, self, kind, file, open_round ? "2" : "1", NULL);
    _exit(97);
}

static void execs(void)
{
    call(1 + pick(10));
    call_own(1);
    run_self();
}

static void *spin(void *unused)
{
    for (;;)
        sched_yield();
    return unused;
}

static void *exec_here(void *unused)
{
    call(2);
    run_self();
    return unused;
}

/* Not in the noise: attaching just while a thread execs is what docs/limits.md says of it. */
static void thread_execs(void)
{
    pthread_t thread[3];
    call_own(2);
    if (!open_round) {
        usleep(500);
        return;
    }
    pthread_create(&thread[0], NULL, spin, NULL);
    pthread_create(&thread[1], NULL, spin, NULL);
    pthread_create(&thread[2], NULL, exec_here, NULL);
    pthread_join(thread[2], NULL);
}

static pthread_t victim;
static int to_the_thread;
static atomic_int done;

static void *bombard(void *argument)
{
    int signal = (int)(intptr_t)argument;
    while (!atomic_load(&done)) {
        unsigned long before = atomic_load(&handled[signal]);
        if (signal != SIGTRAP || to_the_thread)
            pthread_kill(victim, signal);
        else
            kill(getpid(), signal);
        /* One at a time: handlers must not nest faster than they end. */
        while (atomic_load(&handled[signal]) == before && !atomic_load(&done))
            sched_yield();
    }
    return NULL;
}

static void signals(void)
{
    static const int numbers[3] = {SIGUSR1, SIGUSR2, SIGTRAP};
    pthread_t sender[3];
    if (!open_round) {
        raise(SIGRTMIN);
        usleep(500);
        return;
    }
    victim = pthread_self();
    atomic_store(&done, 0);
    for (int i = 0; i < 3; i++)
        pthread_create(&sender[i], NULL, bombard, (void *)(intptr_t)numbers[i]);
    call(40);
    call_own(5);
    atomic_store(&done, 1);
    for (int i = 0; i < 3; i++)
        pthread_join(sender[i], NULL);
}

/* The kernel drops a SIGTRAP of a thread that has one pending already: a trap's, if it runs into one
 * just then. Where counts are to be exact SIGTRAPs are sent to the process, which has a queue of its
 * own (kernel/signal.c, legacy_queue). */
static void traps(void)
{
    to_the_thread = 1;
    signals();
}

static void maps(void)
{
    char *area = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(area, 1, 1 << 16);
    mprotect(area, 4096, PROT_READ | PROT_EXEC);
    void *library = dlopen(getenv("PLUGIN"), RTLD_NOW);
    if (!library)
        _exit(95);
    long (*plugin_work)(long) = (long (*)(long))dlsym(library, "plugin_work");
    for (int i = 0; open_round && i < 3; i++) {
        if (plugin_work(i) != 2 * i + 1)
            atomic_fetch_add(&shared->wrong, 1);
        atomic_fetch_add(&shared->plugin_work, 1);
    }
    call(5);
    call_own(5);
    dlclose(library);
    munmap(area, 1 << 20);
    atomic_fetch_add(&shared->loads, 1);
}

static void crashes(void)
{
    int how = pick(5);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGTRAP, SIG_DFL);
        if (open_round)
            faulting(how);
        _exit(8);
    }
    expect(child, open_round ? 128 + deaths[how] : 8);
    atomic_fetch_add(&shared->crashes, open_round);
    pid_t member = getpid();
    child = fork();
    if (child == 0) {
        /* The member may be killed before it kills this. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != member)
            _exit(0);
        for (long i = 0;; i++) {
            if (!open_round) {
                sched_yield();
                continue;
            }
            atomic_fetch_add(&shared->announced, 1);
            if (doomed(i) != i + 1)
                atomic_fetch_add(&shared->wrong, 1);
        }
    }
    usleep(pick(1500));
    kill(child, SIGKILL);
    expect(child, 128 + SIGKILL);
    call_own(2);
    atomic_fetch_add(&shared->kills, 1);
}

static const struct {
    const char *name;
    void (*round)(void);
} kinds[] = {
    {"threads", threads}, {"forks", forks},     {"vforks", vforks},
    {"execs", execs},     {"thread-execs", thread_execs}, {"signals", signals},
    {"traps", traps},     {"maps", maps},       {"crashes", crashes},
};

static void be_ready_for_signals(void)
{
    static const int numbers[4] = {SIGUSR1, SIGUSR2, SIGTRAP, 0};
    struct sigaction action = {.sa_sigaction = on_signal};
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    for (int i = 0; numbers[i]; i++) {
        /* A trap that comes while SIGTRAP is blocked is another test's matter. */
        action.sa_flags = SA_SIGINFO | SA_RESTART | (numbers[i] == SIGTRAP ? SA_NODEFER : 0);
        sigaction(numbers[i], &action, NULL);
    }
    action.sa_sigaction = on_noise;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaction(SIGRTMIN, &action, NULL);
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_UNBLOCK, &all, NULL);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    self = argv[0];
    kind = argv[1];
    file = argv[2];
    int held = argc > 3 ? atoi(argv[3]) : 0;
    int fd = open(file, O_RDWR | O_CLOEXEC);
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (!strcmp(kind, "leaf") || !strcmp(kind, "quiet-leaf")) {
        open_round = !strcmp(kind, "leaf");
        call(4);
        return 5;
    }
    void (*round)(void) = NULL;
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, kind))
            round = kinds[i].round;
    if (!round)
        return 2;
    /* What a plugin brings is not in the list of own code. */
    check_rips = round != maps;
    learn_own_code();
    be_ready_for_signals();
    if (held) {
        atomic_fetch_add(&shared->execs, 1);
        if (held == 2)
            atomic_fetch_sub(&shared->calling, 1);
        atomic_fetch_sub(&shared->moving, 1);
    } else {
        say_ready();
    }
    while (!atomic_load(&shared->stop)) {
        atomic_fetch_add(&shared->moving, 1);
        open_round = 0;
        if (atomic_load(&shared->phase) == OPEN) {
            /* Announced first, looked at again: whoever sees no call going on, and the phase
             * closed, sees none begin. */
            atomic_fetch_add(&shared->calling, 1);
            open_round = atomic_load(&shared->phase) == OPEN;
            if (!open_round)
                atomic_fetch_sub(&shared->calling, 1);
        }
        if (open_round || atomic_load(&shared->phase) != SILENT)
            round();
        if (open_round)
            atomic_fetch_sub(&shared->calling, 1);
        atomic_fetch_sub(&shared->moving, 1);
        /* The machine has other work too. */
        usleep(open_round ? 100 : 2000);
    }
    return 0;
}
