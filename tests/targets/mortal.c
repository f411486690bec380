/* mortal ROUNDS PLUGIN: a whole life, to be ended anywhere in it. Each round computes, forks,
 * has a child exec, starts a thread, and loads and unloads a library. ROUNDS 0: until standard
 * input ends. A byte on TRIGGER_FD has another thread end it: 'x' by exit_group, 'e' by exec.
 * Its last words on WORDS_FD say that it is about to end by itself, with status 5. */
#include "target.h"
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>

static char *self;
static volatile long calls; /* or the compiler would leave them out */

NOINLINE long work(long a)
{
    calls++;
    return a * 3 + 1;
}

NOINLINE long more_work(long a)
{
    return work(a) ^ 5;
}

static void *ender(void *unused)
{
    char c = 0;
    while (read(atoi(getenv("TRIGGER_FD")), &c, 1) != 1) {
    }
    if (c == 'e')
        execl(self, self, "leaf", "9", NULL);
    _exit(7);
    return unused;
}

static void *brief(void *argument)
{
    more_work(1);
    return argument;
}

static void expect(pid_t child, int code)
{
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) ||
        WEXITSTATUS(status) != code) {
        fprintf(stderr, "child %d: status %#x, not %d\n", child, status, code);
        _exit(99);
    }
}

static int wants_more(int round, int rounds)
{
    struct pollfd input = {0, POLLIN, 0};
    return rounds ? round < rounds : poll(&input, 1, 0) == 0;
}

int main(int argc, char **argv)
{
    self = argv[0];
    if (argc == 3 && !strcmp(argv[1], "leaf")) {
        work(1);
        return atoi(argv[2]);
    }
    if (argc < 3)
        return 2;
    pthread_t thread;
    pthread_create(&thread, NULL, ender, NULL);
    say_ready();
    for (int round = 0; wants_more(round, atoi(argv[1])); round++) {
        for (int i = 0; i < 3; i++)
            more_work(i);
        pid_t child = fork();
        if (child == 0) {
            work(2);
            _exit(3);
        }
        expect(child, 3);
        child = vfork();
        if (child == 0) {
            execl(self, self, "leaf", "4", NULL);
            _exit(98);
        }
        expect(child, 4);
        pthread_create(&thread, NULL, brief, NULL);
        pthread_join(thread, NULL);
        void *library = dlopen(argv[2], RTLD_NOW);
        if (!library)
            return 97;
        long (*plugged)(long) = (long (*)(long))dlsym(library, "plugin_work");
        if (plugged(round) != 2 * round + 1)
            return 96;
        dlclose(library);
    }
    if (write(atoi(getenv("WORDS_FD")), "ending", 6) != 6)
        return 95;
    return 5;
}
