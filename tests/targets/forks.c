/* forks MODE [N]: families of processes. work() counts its executions in a page that all of
 * them share (by file across exec); the first process prints the total and each exit status
 * that it did not expect. */
#include "target.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern char **environ;

struct counts {
    atomic_ulong work, parent_work, unexpected;
};
static struct counts *counts;
static char *self;

NOINLINE long work(long a)
{
    atomic_fetch_add(&counts->work, 1);
    return a + 5;
}

/* For the case that children are not followed: only the first process comes here. */
NOINLINE long parent_work(long a)
{
    atomic_fetch_add(&counts->parent_work, 1);
    return a + 7;
}

static void map_counts(void)
{
    const char *path = getenv("COUNTS_FILE");
    char fresh[64] = "/tmp/forks-XXXXXX";
    int fd = path ? open(path, O_RDWR) : mkstemp(fresh);
    if (!path) {
        setenv("COUNTS_FILE", fresh, 1);
        if (ftruncate(fd, 4096) != 0)
            _exit(98);
    }
    counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
}

static void expect(pid_t child, int code)
{
    int status = -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != code)
        atomic_fetch_add(&counts->unexpected, 1);
}

static void tree(int depth)
{
    work(depth);
    if (depth == 0)
        return;
    for (int i = 0; i < 2; i++) {
        pid_t child = fork();
        if (child == 0) {
            tree(depth - 1);
            _exit(40 + depth);
        }
        work(i);
        expect(child, 40 + depth);
    }
}

static void vforks(int n)
{
    for (int i = 0; i < n; i++) {
        pid_t child = vfork();
        if (child == 0) {
            work(i); /* in the parent's address space */
            _exit(i & 63);
        }
        work(i);
        parent_work(i);
        expect(child, i & 63);
    }
}

static void spawns(int n)
{
    for (int i = 0; i < n; i++) {
        pid_t child;
        char *arguments[] = {self, "leaf", "3", NULL};
        if (posix_spawn(&child, self, NULL, NULL, arguments, environ) != 0)
            atomic_fetch_add(&counts->unexpected, 1);
        else
            expect(child, 3);
        parent_work(i);
    }
}

static void run_self(const char *mode, int n)
{
    char number[16];
    snprintf(number, sizeof number, "%d", n);
    execl(self, self, mode, number, NULL);
    _exit(97);
}

static void *exec_here(void *n)
{
    work(1);
    run_self("thread-chain", (int)(intptr_t)n);
    return NULL;
}

static void *spin(void *unused)
{
    for (;;)
        sched_yield();
    return unused;
}

static void thread_chain(int n)
{
    pthread_t threads[3];
    work(0);
    if (n == 0)
        return;
    pthread_create(&threads[0], NULL, spin, NULL);
    pthread_create(&threads[1], NULL, spin, NULL);
    pthread_create(&threads[2], NULL, exec_here, (void *)(intptr_t)(n - 1));
    pthread_join(threads[2], NULL);
}

/* A grandchild that outlives its parent and is not waited for; the pipe tells of its end. */
static void daemons(int n)
{
    for (int i = 0; i < n; i++) {
        int ends[2];
        char c;
        if (pipe(ends) != 0)
            _exit(96);
        pid_t child = fork();
        if (child == 0) {
            setsid();
            if (fork() == 0) {
                work(i);
                _exit(0);
            }
            _exit(9);
        }
        close(ends[1]);
        expect(child, 9);
        while (read(ends[0], &c, 1) > 0) {
        }
        close(ends[0]);
    }
}

static char clone_stack[65536] __attribute__((aligned(16)));

static int cloned(void *unused)
{
    (void)unused;
    work(2);
    return 21;
}

/* CLONE_VM without CLONE_THREAD or CLONE_VFORK: another process in the same address space. */
static void shared_spaces(int n)
{
    for (int i = 0; i < n; i++) {
        pid_t child = clone(cloned, clone_stack + sizeof clone_stack, CLONE_VM | SIGCHLD, NULL);
        work(i);
        expect(child, 21);
        parent_work(i);
    }
}

/* Children that are killed at any moment of their lives. */
static void killed(int n)
{
    for (int i = 0; i < n; i++) {
        int status;
        pid_t child = fork();
        if (child == 0)
            for (;;)
                getppid();
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
            atomic_fetch_add(&counts->unexpected, 1);
        work(i);
    }
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "tree";
    int n = argc > 2 ? atoi(argv[2]) : 3;
    self = argv[0];
    int is_first = getenv("COUNTS_FILE") == NULL;
    map_counts();
    if (is_first) {
        say_ready();
        wait_go();
    }
    if (!strcmp(mode, "tree"))
        tree(n);
    else if (!strcmp(mode, "vfork"))
        vforks(n);
    else if (!strcmp(mode, "spawn"))
        spawns(n);
    else if (!strcmp(mode, "leaf")) {
        work(n);
        return n;
    } else if (!strcmp(mode, "chain")) {
        work(n);
        if (n > 0)
            run_self("chain", n - 1);
    } else if (!strcmp(mode, "thread-chain"))
        thread_chain(n);
    else if (!strcmp(mode, "daemon"))
        daemons(n);
    else if (!strcmp(mode, "shared-space"))
        shared_spaces(n);
    else if (!strcmp(mode, "killed"))
        killed(n);
    else
        return 2;
    parent_work(0);
    printf("work %lu\nparent_work %lu\nunexpected %lu\n", counts->work, counts->parent_work,
           counts->unexpected);
    unlink(getenv("COUNTS_FILE"));
    return 11;
}
