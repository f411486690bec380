/* returns_jumps ROUNDS: functions that jump to themselves as their last act (built with -O2), each in
 * a way of its own. Every call returns SEVEN; it is booked before the jump that returns on its behalf.
 *   itself   by a direct jump to its own first instruction
 *   chooses  the same, in a function with a switch, whose jump's target no code tells
 *   walks    through a pointer that happens to lead to itself */
#include "returns.h"

enum { SEVEN = 7 };
static struct tally of_itself, of_chooses, of_walks;
static volatile long sink;
/* To the compiler these are other functions: it makes jumps to them, and no loops. */
long itself_again(long) __asm__("itself");
long chooses_again(long) __asm__("chooses");
/* The kernel probes no instruction with a lock prefix. */
#define BEGIN __asm__ volatile("nop")

NOINLINE __attribute__((noipa)) long itself(long n)
{
    BEGIN;
    entered(&of_itself);
    leaving(&of_itself, SEVEN);
    return n > 0 ? itself_again(n - 1) : SEVEN;
}

NOINLINE __attribute__((noipa)) long chooses(long n)
{
    BEGIN;
    entered(&of_chooses);
    leaving(&of_chooses, SEVEN);
    switch (n % 8) {
    case 0: sink += 3; break;
    case 1: sink -= 7; break;
    case 2: sink *= 5; break;
    case 3: sink ^= 9; break;
    case 4: sink |= 1; break;
    case 5: sink = -sink; break;
    default: sink++;
    }
    return n > 0 ? chooses_again(n - 1) : SEVEN;
}

struct node {
    long (*visit)(struct node *);
    struct node *next;
};

NOINLINE __attribute__((noipa)) long walks(struct node *node)
{
    BEGIN;
    entered(&of_walks);
    leaving(&of_walks, SEVEN);
    return node->next ? node->visit(node->next) : SEVEN;
}

int main(int argc, char **argv)
{
    struct node nodes[3] = {{walks, nodes + 1}, {walks, nodes + 2}, {walks, NULL}};
    long sum = 0;
    say_ready();
    wait_go();
    for (int round = 0; round < number(argc, argv, 1, 5); round++)
        sum += itself(4) + chooses(9) + walks(nodes);
    report("itself", &of_itself);
    report("chooses", &of_chooses);
    report("walks", &of_walks);
    return sum == 0;
}
