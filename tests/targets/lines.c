/* lines: loops and inlined code; how often each marked line was reached, printed. */
#include "target.h"

static volatile int sink, bodies, heads, branches, inlined;

static inline __attribute__((always_inline)) void square(int x)
{
    sink = x * x; /* @inlined */
    inlined++;
}

static __attribute__((noinline)) void work(int n)
{
    heads++;
    for (int i = 0; i < n; i++) { /* @heads */
        square(i);
        sink += i; /* @bodies */
        bodies++;
        heads++;
    }
    if (n % 2) {
        sink = n; /* @branches */
        branches++;
    }
    square(n); /* a second copy of it in this function */
}

int main(void)
{
    for (int n = 0; n < 6; n++)
        work(n);
    square(7);
    printf("bodies %d\nheads %d\nbranches %d\ninlined %d\n", bodies, heads, branches, inlined);
    return 0;
}
