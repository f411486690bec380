/* Functions that are left in every way there is. The program keeps its own account of each:
 * "NAME entered N returned N sum N" is printed for all of them at the end, so that what a
 * return probe counts can be held against it. Built with -O2, so that tail calls are jumps. */
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <pthread.h>
#include <stdexcept>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define PROBED extern "C" __attribute__((noinline, noclone))

struct Account {
    const char *name;
    long entered, returned, sum;
};
enum { RECURSE, TAIL, LEAF, JUMPER, INNER_JUMPER, THROWER, MIDDLE, CATCHER, COROUTINE, DIES,
       CANCELLED, HANDLED, INTERRUPTED, FORKS, ACCOUNTS };
static Account accounts[ACCOUNTS] = {
    {"recurse", 0, 0, 0}, {"tail", 0, 0, 0}, {"leaf", 0, 0, 0}, {"jumper", 0, 0, 0},
    {"inner_jumper", 0, 0, 0}, {"thrower", 0, 0, 0}, {"middle", 0, 0, 0}, {"catcher", 0, 0, 0},
    {"coroutine", 0, 0, 0}, {"dies", 0, 0, 0}, {"cancelled", 0, 0, 0}, {"handled", 0, 0, 0},
    {"interrupted", 0, 0, 0}, {"forks", 0, 0, 0},
};
static void entered(int which) { __atomic_fetch_add(&accounts[which].entered, 1, 5); }
static long returned(int which, long value)
{
    __atomic_fetch_add(&accounts[which].returned, 1, 5);
    __atomic_fetch_add(&accounts[which].sum, value, 5);
    return value;
}

PROBED long recurse(long n)
{
    entered(RECURSE);
    long value = n ? recurse(n - 1) : 0;
    asm volatile("" ::: "memory");
    return returned(RECURSE, value + 1);
}

PROBED long leaf(long n)
{
    entered(LEAF);
    return returned(LEAF, n + 1);
}

PROBED long tail(long n)
{
    entered(TAIL);
    returned(TAIL, 2 * n + 1); /* what leaf() will return on its behalf */
    return leaf(2 * n);
}

static jmp_buf outside;
PROBED long inner_jumper(long n)
{
    entered(INNER_JUMPER);
    if (n % 3 == 1)
        longjmp(outside, 1);
    return returned(INNER_JUMPER, n);
}
PROBED long jumper(long n)
{
    entered(JUMPER);
    if (n % 3 == 2)
        longjmp(outside, 1);
    long value = inner_jumper(n);
    asm volatile("" ::: "memory");
    return returned(JUMPER, value + 5);
}

PROBED long thrower(long n)
{
    entered(THROWER);
    if (n % 3 == 0)
        throw std::runtime_error("out");
    return returned(THROWER, 2 * n);
}
struct Cleanup {
    ~Cleanup() { asm volatile("" ::: "memory"); }
};
PROBED long middle(long n)
{
    entered(MIDDLE);
    Cleanup cleanup;
    long value = thrower(n);
    asm volatile("" ::: "memory");
    return returned(MIDDLE, value + 1);
}
PROBED long catcher(long n)
{
    entered(CATCHER);
    long value;
    try {
        value = middle(n);
    } catch (std::exception &) {
        value = -1;
    }
    return returned(CATCHER, value);
}

enum { COROUTINES = 8, STACK = 1 << 16 };
static ucontext_t scheduler, contexts[COROUTINES];
static bool done[COROUTINES];
PROBED long coroutine(long n)
{
    entered(COROUTINE);
    for (int i = 0; i < 3 + (COROUTINES - n); i++)
        swapcontext(&contexts[n], &scheduler);
    return returned(COROUTINE, 10 * n);
}
static void coroutine_main(int n)
{
    coroutine(n);
    done[n] = true;
    swapcontext(&contexts[n], &scheduler);
}

PROBED long dies(long n)
{
    entered(DIES);
    if (n == 7)
        pthread_exit(nullptr);
    return returned(DIES, n);
}
static void *dying_thread(void *)
{
    for (long n = 0;; n++)
        if (dies(n) < 0)
            return nullptr;
}
static int ready[2];
PROBED long cancelled(long n)
{
    entered(CANCELLED);
    if (write(ready[1], "x", 1) != 1)
        abort();
    for (;;)
        pause();
    return returned(CANCELLED, n);
}
static void *cancelled_thread(void *) { return reinterpret_cast<void *>(cancelled(3)); }

static sigjmp_buf before_signal;
static long handled_value;
PROBED long handled(long n)
{
    entered(HANDLED);
    return returned(HANDLED, n + 5);
}
static void on_signal(int number)
{
    handled_value = handled(number);
    if (number == SIGUSR2)
        siglongjmp(before_signal, 1);
}
PROBED long interrupted(long n)
{
    entered(INTERRUPTED);
    raise(n % 2 ? SIGUSR2 : SIGUSR1);
    return returned(INTERRUPTED, n);
}

PROBED long forks(long n)
{
    entered(FORKS);
    fflush(stdout);
    if (fork() == 0)
        return -1;
    int status;
    wait(&status);
    return returned(FORKS, n);
}

int main()
{
    for (volatile int i = 0; i < 30; i++) {
        recurse(3);
        tail(i);
        if (setjmp(outside) == 0)
            jumper(i);
        catcher(i);
        try {
            middle(i);
        } catch (...) {
            handled_value++;
        }
    }
    recurse(10000);

    char *stacks = static_cast<char *>(malloc(COROUTINES * STACK)); /* side by side */
    for (int n = 0; n < COROUTINES; n++) {
        getcontext(&contexts[n]);
        contexts[n].uc_stack.ss_sp = stacks + n * STACK;
        contexts[n].uc_stack.ss_size = STACK;
        contexts[n].uc_link = &scheduler;
        makecontext(&contexts[n], reinterpret_cast<void (*)()>(coroutine_main), 1, n);
    }
    for (int left = COROUTINES; left;) {
        left = 0;
        for (int n = 0; n < COROUTINES; n++)
            if (!done[n]) {
                swapcontext(&scheduler, &contexts[n]);
                left++;
            }
    }

    pthread_t threads[4];
    for (pthread_t &thread : threads)
        pthread_create(&thread, nullptr, dying_thread, nullptr);
    for (pthread_t &thread : threads)
        pthread_join(thread, nullptr);
    char byte;
    if (pipe(ready))
        abort();
    pthread_create(&threads[0], nullptr, cancelled_thread, nullptr);
    if (read(ready[0], &byte, 1) != 1)
        abort();
    pthread_cancel(threads[0]);
    pthread_join(threads[0], nullptr);

    static char alternate[1 << 16];
    stack_t other = {};
    other.ss_sp = alternate;
    other.ss_size = sizeof alternate;
    sigaltstack(&other, nullptr);
    struct sigaction action = {};
    action.sa_handler = on_signal;
    sigaction(SIGUSR1, &action, nullptr);
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR2, &action, nullptr);
    for (volatile int i = 0; i < 10; i++)
        if (sigsetjmp(before_signal, 1) == 0)
            interrupted(i);

    if (forks(4) < 0)
        _exit(0);
    for (const Account &account : accounts)
        printf("%s entered %ld returned %ld sum %ld\n", account.name, account.entered,
               account.returned, account.sum);
    return 0;
}
