/* stamp: prints CLOCK_MONOTONIC in nanoseconds as it stands when main() begins. */
#include <stdio.h>
#include <time.h>

int main(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("nanoseconds %lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
    return 0;
}
