/* returns_forks MODE ROUNDS: fork and vfork inside of probed(); the counts are those of parent and
 * children together.
 *   fork   the child returns from the calls that it was born in, and makes some of its own
 *   vfork  the child, in its parent's memory, calls probed() and returns from those calls */
#include "returns.h"
#include <sys/mman.h>
#include <sys/wait.h>

static struct tally *tally;
static const char *mode;
static volatile pid_t child;

NOINLINE NO_TAIL_CALLS long probed(long depth, int forks)
{
    entered(tally);
    long below = 0;
    if (depth > 0)
        below = probed(depth - 1, forks);
    else if (forks && strcmp(mode, "fork") == 0)
        child = fork();
    else if (forks) {
        pid_t made = vfork();
        if (made == 0) {
            probed(2, 0);
            _exit(5);
        }
        child = made;
    }
    return leaving(tally, below + depth * 13 + 1);
}

int main(int argc, char **argv)
{
    mode = word(argc, argv, 1, "fork");
    unsigned long good_ends = 0;
    tally = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    say_ready();
    wait_go();
    for (int i = 0; i < number(argc, argv, 2, 10); i++) {
        int status = 0;
        probed(i % 4, 1);
        if (child == 0) {
            probed(1, 0);
            _exit(5);
        }
        waitpid(child, &status, 0);
        good_ends += WIFEXITED(status) && WEXITSTATUS(status) == 5;
    }
    report("probed", tally);
    printf("good_ends %lu\n", good_ends);
    return 0;
}
