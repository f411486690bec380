/* sleeper: says "ready" and waits for standard input to end; `idle()` is never called. */
#include "target.h"

NOINLINE int idle(void)
{
    return 0;
}

int main(void)
{
    say_ready();
    wait_go();
    return 5;
}
