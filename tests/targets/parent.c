/* parent STATUS_FD PROGRAM [ARGUMENT...]: runs PROGRAM as a shell would and reports on
 * STATUS_FD what a parent sees: "pid N", then "stopped N", "continued", and "exited N" or
 * "killed N" as the last line. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    int report = atoi(argv[1]);
    fcntl(report, F_SETFD, FD_CLOEXEC);
    pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        execv(argv[2], argv + 2);
        _exit(127);
    }
    /* A group of its own, with a parent outside it in the same session: no orphaned group, whose
     * members SIGTSTP and its like would not stop (setpgid(2)). */
    setpgid(child, child);
    dprintf(report, "pid %d\n", child);
    int ready = getenv("READY_FD") ? atoi(getenv("READY_FD")) : -1;
    if (ready >= 0)
        close(ready);
    for (;;) {
        int status;
        if (waitpid(child, &status, WUNTRACED | WCONTINUED) < 0)
            continue;
        if (WIFSTOPPED(status))
            dprintf(report, "stopped %d\n", WSTOPSIG(status));
        else if (WIFCONTINUED(status))
            dprintf(report, "continued\n");
        else if (WIFEXITED(status))
            return dprintf(report, "exited %d\n", WEXITSTATUS(status)), 0;
        else
            return dprintf(report, "killed %d\n", WTERMSIG(status)), 0;
    }
}
