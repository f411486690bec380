/* forker [exec]: has children all the time, each of which calls hot() and may exec this program again,
 * until standard input ends. Counts those that did not end as they should. */
#include "target.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>

NOINLINE long hot(long a)
{
    return a * 3 + 1;
}

static int many(void)
{
    long value = 0;
    for (int i = 0; i < 20; i++)
        value = hot(i);
    return value == 58 ? 7 : 1;
}

int main(int argc, char **argv)
{
    int execs = argc > 1 && !strcmp(argv[1], "exec");
    static unsigned long children, bad;
    if (argc > 1 && !strcmp(argv[1], "child"))
        return many();
    say_ready();
    struct pollfd input = {0, POLLIN, 0};
    while (poll(&input, 1, 0) == 0) {
        pid_t child = children % 3 == 2 ? vfork() : fork();
        if (child == 0) {
            if (execs && children % 2)
                execl("/proc/self/exe", "forker", "child", NULL);
            _exit(children % 3 == 2 ? 7 : many());
        }
        int status = 0;
        waitpid(child, &status, 0);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 7)
            bad++;
        if (many() != 7)
            bad++;
        children++;
    }
    printf("worked %d\nwrong %lu\n", children > 0, bad);
    return 0;
}
