/* standstill THREADS MICROSECONDS BOARD: threads that read CLOCK_MONOTONIC and sleep MICROSECONDS,
 * over and over. Each keeps the largest gap between two readings, in nanoseconds, on the board,
 * a file that is mapped:
 *
 *   u64 phase                   set by the reader of the board, 0 to 7
 *   u64 readings[1024]          that each thread has made
 *   u64 largest[8][1024]        by the phase in which the gap ended, and by thread
 *
 * The main thread is number 0 of them: what a tracer has it do for itself shows too. It says that it
 * is ready, calls marked() once when it is let on and says so again, and ends when it is let on a
 * second time. */
#include "../../tests/targets/target.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

enum { MOST = 1024, PHASES = 8 };

static struct {
    volatile uint64_t phase, readings[MOST], largest[PHASES][MOST];
} *board;
static long sleep_nanoseconds;

extern void marked(void);
__asm__(".text\n.globl marked\n.type marked, @function\nmarked: endbr64\n ret\n"
        ".size marked, . - marked\n");

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

static int is_let_on(void)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    return poll(&input, 1, 0) > 0;
}

static void *watch(void *number)
{
    long self = (long)number;
    const struct timespec sleep = {0, sleep_nanoseconds};
    prctl(PR_SET_TIMERSLACK, 1);
    for (uint64_t last = now(); self != 0 || !is_let_on();) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &sleep, NULL);
        uint64_t time = now(), phase = board->phase & (PHASES - 1);
        if (time - last > board->largest[phase][self])
            board->largest[phase][self] = time - last;
        board->readings[self]++;
        last = time;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    long threads = argc == 4 ? atol(argv[1]) : 0;
    int file = threads > 0 && threads <= MOST ? open(argv[3], O_RDWR) : -1;
    if (file < 0) {
        fprintf(stderr, "usage: standstill THREADS MICROSECONDS BOARD\n");
        return 2;
    }
    sleep_nanoseconds = atol(argv[2]) * 1000;
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (board == MAP_FAILED)
        return 2;
    for (long i = 1; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, watch, (void *)i))
            return 3;
    }
    say_ready();
    watch(NULL);
    wait_go();
    marked();
    say_ready();
    watch(NULL);
    wait_go();
    return 0;
}
