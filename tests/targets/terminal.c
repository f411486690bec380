/* terminal TTY: a job-control shell's part. Makes TTY its controlling terminal, puts a child
 * that calls hot() for ever in the foreground, prints on the terminal what becomes of it, and
 * resumes it in the foreground whenever it has been suspended. */
#include "target.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

static volatile long calls; /* a call without effect could be optimised away */

NOINLINE long hot(long a)
{
    calls++;
    return a + 1;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    /* setsid() fails in a process group's leader. */
    pid_t shell = fork();
    if (shell != 0) {
        int status;
        waitpid(shell, &status, 0);
        return WEXITSTATUS(status);
    }
    setsid();
    int terminal = open(argv[1], O_RDWR);
    ioctl(terminal, TIOCSCTTY, 0);
    signal(SIGTTOU, SIG_IGN);
    pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        tcsetpgrp(terminal, getpid());
        signal(SIGTTOU, SIG_DFL);
        for (long i = 0;;)
            i = hot(i);
    }
    setpgid(child, child);
    tcsetpgrp(terminal, child);
    say_ready();
    dprintf(terminal, "pid %d\n", child);
    for (;;) {
        int status;
        if (waitpid(child, &status, WUNTRACED | WCONTINUED) < 0)
            return 3;
        if (WIFSTOPPED(status)) {
            dprintf(terminal, "stopped %d\n", WSTOPSIG(status));
            tcsetpgrp(terminal, child);
            kill(-child, SIGCONT);
        } else if (WIFCONTINUED(status)) {
            dprintf(terminal, "continued\n");
        } else {
            dprintf(terminal, "killed %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
            return 0;
        }
    }
}
