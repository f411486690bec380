/* appln [ROUNDS]: the application that the utrace examples probe. Each round asks malloc() for
 * memory, has foo() look at a word, and rests for 10 ms. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const words[] = {"pear", "apple", "quince", "fig"};

__attribute__((noinline)) size_t foo(const char *word, int round)
{
    return strlen(word) + (size_t)round;
}

int main(int argc, char **argv)
{
    const struct timespec rest = {0, 10000000};
    int rounds = argc > 1 ? atoi(argv[1]) : 4;
    size_t sum = 0;
    for (int round = 0; round < rounds; round++) {
        char *volatile memory = malloc(100 + (size_t)round);
        sum += foo(words[round % 4], round);
        free(memory);
        nanosleep(&rest, NULL);
    }
    printf("appln: the sum is %zu\n", sum);
    return 0;
}
