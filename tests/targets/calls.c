/* calls ROUNDS: functions for handlers to look at and to change; prints what they returned and
 * what their memory holds. */
#include "target.h"
#include <fcntl.h>
#include <sys/mman.h>

#define PAGE 4096

static unsigned long six_calls, skipped_calls;

NOINLINE long six(long a, long b, long c, long d, long e, long f)
{
    six_calls++;
    return a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f;
}

NOINLINE long length(const char *text)
{
    return (long)strlen(text);
}

/* Never looks at the memory itself, so that the page stays as it is. */
NOINLINE long look(const void *address, long size)
{
    return address != NULL && size > 0;
}

NOINLINE long skipped(long a)
{
    skipped_calls++;
    return a;
}

NOINLINE long fill(char *buffer, long size)
{
    return buffer[size - 1];
}

NOINLINE long tick(long a)
{
    return a + 1;
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 1;
    char buffer[16] = "untouched";
    long ticks = 0;

    /* Two pages of a file that have never been touched, then one that may not be. */
    int fd = memfd_create("lazy", 0);
    char page[PAGE];
    memset(page, 'f', sizeof page);
    for (int i = 0; i < 2; i++)
        if (write(fd, page, PAGE) != PAGE)
            return 3;
    char *lazy = mmap(NULL, 3 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mmap(lazy, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    mprotect(lazy + 2 * PAGE, PAGE, PROT_NONE);
    /* A string that ends exactly where the readable memory does. */
    char *edge = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(edge + PAGE - 6, "edges", 6);
    munmap(edge + PAGE, PAGE);
    /* Written, then closed to everybody. */
    char *hidden = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(hidden, "behind PROT_NONE");
    mprotect(hidden, PAGE, PROT_NONE);

    say_ready();
    wait_go();
    for (int i = 0; i < rounds; i++) {
        printf("six_returned %ld\n", six(1, 2, 3, 4, 5, 6));
        printf("length_returned %ld\n", length("twelve chars"));
        printf("edge_returned %ld\n", length(edge + PAGE - 6));
        printf("look_lazy %ld\n", look(lazy, 2 * PAGE));
        printf("look_hidden %ld\n", look(hidden, PAGE));
        printf("look_nothing %ld\n", look((void *)8, 8));
        printf("skipped_returned %ld\n", skipped(41));
        printf("fill_returned %ld\nbuffer %s\n", fill(buffer, sizeof buffer), buffer);
        for (int j = 0; j < 100; j++)
            ticks = tick(ticks);
        printf("ticks %ld\n", ticks);
        fflush(stdout);
    }
    printf("six_calls %lu\nskipped_calls %lu\n", six_calls, skipped_calls);
    return 0;
}
