/* drops_text: calls hot() thrice; at a line of its input drops the pages of its own code, calls it thrice
 * more, and waits for a second line. */
#include "target.h"
#include <sys/mman.h>

static unsigned long calls;

NOINLINE long hot(long a)
{
    calls++;
    return a * 3 + 1;
}

int main(void)
{
    long value = 0;
    say_ready();
    for (int i = 0; i < 3; i++)
        value += hot(i);
    wait_go();
    uintptr_t page = (uintptr_t)hot & ~4095ul;
    if (madvise((void *)page, 4096, MADV_DONTNEED) != 0)
        return 2;
    for (int i = 0; i < 3; i++)
        value += hot(i);
    say_ready();
    wait_go();
    printf("hot %lu\nvalue %ld\n", calls, value);
    return 0;
}
