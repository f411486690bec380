/* restarts MODE COUNT: a thread blocks in read(2), whose `syscall` instruction, `int $0x80` in a 32-bit
 * build, is labelled read_site, and is interrupted COUNT times. MODE `restart`: by a handler with SA_RESTART;
 * `eintr`: by one without. The handler checks the registers that the system call left. */
#include "target.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <ucontext.h>

static char byte;
#ifdef __x86_64__
#define RCX_AFTER ((greg_t)read_after)
__asm__(".text\n.globl raw_read, read_site, read_after\n.type raw_read, @function\n"
        "raw_read: xor %eax, %eax\n"
        "read_site: syscall\n"
        "read_after: mov %rcx, seen_rcx(%rip)\n ret\n.size raw_read, . - raw_read\n");
#else
#define REG_RCX REG_ECX
#define REG_RAX REG_EAX
#define RCX_AFTER ((greg_t)&byte)
__asm__(".text\n.globl raw_read, read_site, read_after\n.type raw_read, @function\n"
        "raw_read: push %ebx\n mov 8(%esp), %ebx\n mov 12(%esp), %ecx\n mov 16(%esp), %edx\n"
        " mov $3, %eax\n"
        "read_site: int $0x80\n"
        "read_after: mov %ecx, seen_rcx\n pop %ebx\n ret\n.size raw_read, . - raw_read\n");
#endif
extern long raw_read(int fd, void *buffer, size_t size);
extern char read_site[], read_after[];
uintptr_t seen_rcx;

static atomic_int handled, bad_rip, bad_rcx, bad_rax;
static int restarting, ends[2], count;
static pid_t reader;

NOINLINE void on_signal(int signal, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)signal;
    (void)info;
    if (registers[REG_RIP] != (greg_t)(restarting ? read_site : read_after))
        atomic_fetch_add(&bad_rip, 1);
    if (registers[REG_RCX] != RCX_AFTER)
        atomic_fetch_add(&bad_rcx, 1);
    if (registers[REG_RAX] != (restarting ? SYS_read : -EINTR))
        atomic_fetch_add(&bad_rax, 1);
    atomic_fetch_add(&handled, 1);
}

/* Until the reader sleeps in a system call and not in a tracer's hands. */
static void wait_asleep(void)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", reader);
    for (;;) {
        int fd = open(path, O_RDONLY);
        ssize_t size = read(fd, text, sizeof text - 1);
        close(fd);
        text[size > 0 ? size : 0] = 0;
        char *end = strrchr(text, ')');
        if (end && end[2] == 'S')
            return;
        sched_yield();
    }
}

static void *interrupter(void *unused)
{
    for (int i = 0; i < count; i++) {
        wait_asleep();
        syscall(SYS_tgkill, getpid(), reader, SIGUSR1);
        while (atomic_load(&handled) <= i)
            sched_yield();
    }
    wait_asleep();
    if (write(ends[1], "x", 1) != 1)
        _exit(3);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    long got, interrupted = 0;
    restarting = argc > 1 && !strcmp(argv[1], "restart");
    count = argc > 2 ? atoi(argv[2]) : 20;
    struct sigaction action = {.sa_sigaction = on_signal,
                               .sa_flags = SA_SIGINFO | (restarting ? SA_RESTART : 0)};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaction(SIGUSR1, &action, NULL);
    if (pipe(ends) != 0)
        return 3;
    reader = getpid();
    say_ready();
    wait_go();
    pthread_create(&thread, NULL, interrupter, NULL);
    while ((got = raw_read(ends[0], &byte, 1)) == -EINTR)
        interrupted++;
    pthread_join(thread, NULL);
    printf("got %ld\nbyte %d\ninterrupted %ld\nhandled %d\nbad_rip %d\nbad_rcx %d\nbad_rax %d\n"
           "strange_rcx %d\n",
           got, byte, interrupted, handled, bad_rip, bad_rcx, bad_rax,
           seen_rcx != (uintptr_t)RCX_AFTER);
    return 0;
}
