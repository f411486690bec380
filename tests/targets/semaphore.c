/* semaphore: prints its semaphore, and calls probed() only while that is not 0, as code with USDT
 * probes does; then again in a child, and after it was told to go on. */
#include "target.h"
#include <sys/wait.h>

volatile unsigned short semaphore __attribute__((section(".probes"))) = 0; /* in the file */

__attribute__((noinline)) void probed(void)
{
    __asm__ volatile("");
}

int main(void)
{
    printf("before %d\n", semaphore);
    if (semaphore)
        probed();
    fflush(stdout);
    if (fork() == 0) {
        printf("child %d\n", semaphore);
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    say_ready();
    wait_go();
    printf("after %d\n", semaphore);
    return 0;
}
