/* markers: USDT markers whose arguments are operands of every kind, and what each of them is,
 * printed. Written out, since <sys/sdt.h> is not on every machine. */
#include "target.h"
#include <string.h>

#ifdef __x86_64__
#define WORD ".8byte "
#else
#define WORD ".4byte "
#endif

/* As STAP_PROBE of <sys/sdt.h>: a nop, and a note. */
#define MARKER(provider, name, semaphore, arguments, ...)                                          \
    __asm__ __volatile__(                                                                          \
        "990: nop\n"                                                                               \
        ".pushsection .note.stapsdt,\"?\",\"note\"\n"                                              \
        ".balign 4\n"                                                                              \
        ".4byte 992f-991f, 994f-993f, 3\n"                                                         \
        "991: .asciz \"stapsdt\"\n"                                                                \
        "992: .balign 4\n"                                                                         \
        "993: " WORD "990b\n" WORD "_.stapsdt.base\n" WORD semaphore "\n"                          \
        ".asciz \"" provider "\"\n.asciz \"" name "\"\n.asciz \"" arguments "\"\n"                 \
        "994: .balign 4\n"                                                                         \
        ".popsection\n"                                                                            \
        ".ifndef _.stapsdt.base\n"                                                                 \
        ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"                    \
        ".weak _.stapsdt.base\n.hidden _.stapsdt.base\n"                                           \
        "_.stapsdt.base: .space 1\n.size _.stapsdt.base, 1\n"                                      \
        ".popsection\n"                                                                            \
        ".endif\n" __VA_ARGS__)

unsigned short marker_semaphore __attribute__((section(".probes"), visibility("hidden")));
static struct {
    long before;
    int counter;
} shared = {7, 0};
static volatile int prepared;

__attribute__((noinline)) static void each(int n, const long *table, unsigned char letter,
                                           const char *text)
{
    MARKER("tests", "each", "0",
           "-4@%[n] -%c[word]@%[element] 1@%[letter] -2@$-7 -4@%[counter] %c[word]@%[text] 1@%%ah 4@nowhere",
           : : [n] "r"(n), [element] "m"(table[n]), [letter] "q"(letter),
             [counter] "m"(shared.counter), [text] "r"(text), "a"(0x1200 + n),
             [word] "n"(sizeof(long)));
    shared.counter -= n + 1;
}

__attribute__((always_inline)) static inline void twice(long value)
{
    MARKER("tests", "twice", "0", "-%c[word]@%[value]", : : [value] "nor"(value), [word] "n"(sizeof(long)));
}

int main(void)
{
    long table[6];
    for (int n = 0; n < 6; n++)
        table[n] = -1000 * n;
    for (int n = 0; n < 6; n++) {
        char text[16];
        snprintf(text, sizeof text, "number %d", n);
        printf("each %d %ld %d %d %d %s %d\n", n, table[n], 'a' + n, -7, shared.counter, text, 0x12);
        each(n, table, 'a' + n, text);
        if (marker_semaphore) {
            MARKER("guarded", "each", "marker_semaphore", "4@%[n]", : : [n] "r"(n));
            prepared++;
        }
    }
    twice(5);
    twice(table[1]);
    printf("prepared %d\n", prepared);
    return 0;
}
