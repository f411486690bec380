/* returns_signals MODE ROUNDS: signal handlers run while frames of probed() are active, and call
 * probed() themselves.
 *   same     on the same stack          stack   on a stack of their own (sigaltstack)
 *   above    on a stack of their own that lies above the thread's
 *   nested   and a handler interrupts a handler, both calling probed()
 *   timer    at moments that nobody chose (a timer), until 50 signals have come */
#include "returns.h"
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

static struct tally tally;
static volatile sig_atomic_t handled, want_signal;

NOINLINE NO_TAIL_CALLS long probed(long depth)
{
    entered(&tally);
    long below = 0;
    if (depth > 0)
        below = probed(depth - 1);
    else if (want_signal) {
        want_signal = 0;
        raise(SIGUSR1);
    }
    return leaving(&tally, below + 3 * depth + 1);
}

static void on_second(int number)
{
    (void)number;
    handled++;
    probed(2);
}

static void on_first(int number)
{
    handled++;
    probed(3);
    if (number == SIGUSR1)
        raise(SIGUSR2);
    probed(1);
}

static const char *mode;
static int rounds;
static char stacks[2][1 << 17] __attribute__((aligned(4096)));

static void *run(void *unused)
{
    (void)unused;
    stack_t alternate = {.ss_sp = stacks[1], .ss_size = sizeof stacks[1]};
    if (strcmp(mode, "stack") == 0 || strcmp(mode, "above") == 0)
        sigaltstack(&alternate, NULL);
    if (strcmp(mode, "timer") == 0) {
        struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
        setitimer(ITIMER_REAL, &often, NULL);
        while (handled < 50)
            probed(20);
        setitimer(ITIMER_REAL, &never, NULL);
    } else {
        for (int i = 0; i < rounds; i++) {
            want_signal = 1;
            probed(i % 5);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct sigaction first = {.sa_handler = on_first, .sa_flags = SA_ONSTACK};
    struct sigaction second = {.sa_handler = on_second};
    pthread_attr_t attributes;
    pthread_t thread;

    mode = word(argc, argv, 1, "same");
    rounds = number(argc, argv, 2, 20);
    if (strcmp(mode, "nested") != 0)
        second.sa_handler = SIG_IGN;
    sigaction(SIGUSR1, &first, NULL);
    sigaction(SIGUSR2, &second, NULL);
    sigaction(SIGALRM, &first, NULL);
    say_ready();
    wait_go();
    if (strcmp(mode, "above") == 0) {
        pthread_attr_init(&attributes);
        if (pthread_attr_setstack(&attributes, stacks[0], sizeof stacks[0]) != 0
            || pthread_create(&thread, &attributes, run, NULL) != 0)
            return 3;
        pthread_join(thread, NULL);
    } else
        run(NULL);
    report("probed", &tally);
    printf("handled %d\n", (int)handled);
    return 0;
}
