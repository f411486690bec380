/* fetchargs: calls `probed` with values that it first prints, one line a call, in the words of
 * the fetchargs in test_fetchargs.py. Bytes that are not ASCII and unmapped memory come too. */
#include "target.h"
#include <stddef.h>
#include <sys/mman.h>

struct record {
    unsigned long word;   /* 0 */
    int negative;         /* 8 */
    unsigned bits;        /* 12 */
    char letter;          /* 16 */
    char text[15];        /* 17 */
    const char *names[3]; /* 32 */
    struct record *next;  /* 56 */
    unsigned short halves[4]; /* 64 */
    float single;         /* 72 */
    double real;          /* 80 */
};
_Static_assert(offsetof(struct record, text) == 17 && offsetof(struct record, names) == 32, "");
_Static_assert(offsetof(struct record, halves) == 64 && offsetof(struct record, real) == 80, "");

const char constant[] = "read only";

NOINLINE long probed(struct record *r, const char *s, long n, long d, long e, long f, long seventh,
                     long eighth, double x)
{
    __asm__ volatile("" : : "r"(r), "r"(s), "x"(x) : "memory");
    return -n - (d + e + f + seventh + eighth == 1);
}

static void call(struct record *r, const char *s, long n, double x)
{
    long seventh = n * 1000, eighth = -n;
    printf("p=0x%lx word=0x%lx negative=%d bits=%u field=%u letter='%c' text=\"%s\" s=\"%s\" "
           "first=\"%s\" names={\"%s\",\"%s\",\"%s\"} next=%ld halves={0x%x,0x%x,0x%x,0x%x} "
           "low=%d n=%ld\n",
           (unsigned long)r, r->word, r->negative, r->bits, r->bits >> 3 & 31, r->letter, r->text,
           s, r->names[0], r->names[0], r->names[1], r->names[2], (long)r->next->word,
           r->halves[0], r->halves[1], r->halves[2], r->halves[3], (signed char)n, n);
    printf("ours: x=%.17g single=%.9g real=%.17g seventh=%ld eighth=%ld\n", x, (double)r->single,
           r->real, seventh, eighth);
    probed(r, s, n, 0, 0, 0, seventh, eighth, x);
}

int main(void)
{
    char *big = malloc(8192);
    struct record other = {.word = -7UL};
    struct record r = {
        .word = 0xfedcba9876543210UL, .negative = -5, .bits = 0xdeadbeef, .letter = 'x',
        .text = "hi \"q\" \\ %d\t", .names = {"one", "", "three"}, .next = &other,
        .halves = {1, 0xffff, 0, 0x1234}, .single = -0.1f, .real = 1e300};
    setvbuf(stdout, NULL, _IONBF, 0);
    memset(big, 'B', 8191);
    big[8191] = 0;
    for (long n = 0; n < 12; n++) {
        static const char *const strings[] = {"", "hello", "caf\xc3\xa9", "\xff\xfe", "h", "tab\t"};
        r.word += n;
        r.negative += (int)n;
        r.bits ^= 0x55u << n;
        r.halves[n & 3] = (unsigned short)(n * 4099);
        other.word += 100 * n;
        call(&r, strings[n % 6], n * 37 - 100, n / 4.0);
    }
    /* What a reader of memory cannot have: nothing mapped, an end without a NUL, too long. */
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    memset(page + 4000, 'z', 96);
    const char *bad[] = {(const char *)16, page + 4000, big, big + 8191 - 4096, NULL,
                         (const char *)-8L};
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        probed((struct record *)16, bad[i], 1000 + (long)i, 0, 0, 0, 0, 0, 0.0);
    return 0;
}
