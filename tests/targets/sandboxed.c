/* sandboxed MODE COUNT: forbids itself, by seccomp, to change its address space, then calls
 * hot() COUNT times. MODE `kill`: a forbidden call ends the process; `errno`: it fails. */
#include "target.h"
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static unsigned long calls;

NOINLINE long hot(long a, long b)
{
    calls++;
    return a * 31 + b;
}

#define ALLOW(call) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

int main(int argc, char **argv)
{
    int strict = argc < 2 || !strcmp(argv[1], "kill");
    long count = argc > 2 ? atol(argv[2]) : 1000, value = 1;
    char line[64];
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(read),
        ALLOW(write),
        ALLOW(exit_group),
        BPF_STMT(BPF_RET | BPF_K,
                 strict ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | EPERM),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
    say_ready();
    wait_go();
    for (long i = 0; i < count; i++)
        value = hot(value, i);
    int length = snprintf(line, sizeof line, "hot %lu\nvalue %ld\n", calls, value & 0xffff);
    if (write(1, line, length) != length)
        _exit(3);
    _exit(0);
}
