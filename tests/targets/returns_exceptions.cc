/* returns_exceptions MODE ROUNDS: C++ exceptions and frames of probed().
 *   through  thrown from a depth, caught by main; then the same call returns
 *   inside   caught in the probed() above the one that throws, which then returns
 *   rethrow  caught, thrown again and caught further out, with destructors on the way
 *   thread   a thread ends by pthread_exit, which runs the destructors on its way out
 *   never    thrown and caught above it, while it only is on the stack below main */
#include "returns.h"
#include <pthread.h>

static struct tally tally;
static unsigned long caught, destroyed;

struct Guard {
    ~Guard() { destroyed++; }
};

NOINLINE static void thrower(long value)
{
    throw value;
}

NOINLINE static long catcher(long value)
{
    try {
        thrower(value);
    } catch (long what) {
        caught++;
        return what;
    }
    return 0;
}

extern "C" NOINLINE NO_TAIL_CALLS long probed(long depth, int mode)
{
    Guard guard;
    long below = 0;
    entered(&tally);
    if (depth > 0 && mode == 2) {
        try {
            below = probed(depth - 1, mode);
        } catch (long what) {
            below = what;
            caught++;
        }
    } else if (depth > 0 && mode == 3) {
        try {
            below = probed(depth - 1, mode);
        } catch (long) {
            caught++;
            throw;
        }
    } else if (depth > 0)
        below = probed(depth - 1, mode);
    else if (mode == 4)
        below = catcher(7);
    else if (mode == 5)
        pthread_exit(nullptr);
    else if (mode != 0)
        thrower(depth + 42);
    return leaving(&tally, below + depth * 2 + 1);
}

static void *in_thread(void *depth)
{
    probed(reinterpret_cast<long>(depth), 5);
    return nullptr;
}

int main(int argc, char **argv)
{
    const char *word_ = word(argc, argv, 1, "through");
    int mode = !strcmp(word_, "inside") ? 2 : !strcmp(word_, "rethrow") ? 3
        : !strcmp(word_, "never") ? 4 : !strcmp(word_, "thread") ? 5 : 1;
    say_ready();
    wait_go();
    for (int i = 0; i < number(argc, argv, 2, 20); i++) {
        pthread_t thread;
        if (mode == 5 && pthread_create(&thread, nullptr, in_thread, (void *)(long)(i % 6)) == 0)
            pthread_join(thread, nullptr);
        for (int again = 0; again < 2; again++) {
            try {
                probed(mode == 2 ? 1 + i % 6 : i % 6, again == 0 && mode != 5 ? mode : 0);
            } catch (long) {
                caught++;
            }
        }
    }
    report("probed", &tally);
    printf("caught %lu\ndestroyed %lu\n", caught, destroyed);
    return 0;
}
