/* i386_calls ROUNDS: 32-bit functions that are called in every way that i386 has, and system calls
 * by int $0x80 and through the vDSO. Prints what each was given and how often it ran. */
#include "target.h"
#include <sys/syscall.h>

struct pair {
    long first, second;
};

static unsigned long looks, pairs, sums, fasts, floats, nested;

NOINLINE long look(const char *text, unsigned char byte, short number, long long wide,
                   const char **words)
{
    looks++;
    printf("look %s %d %d %lld %s %s\n", text, byte, number, wide, words[0], words[1]);
    return -(long)strlen(text);
}

/* Its caller passes where the structure is to go, and it pops that: ret $4. */
NOINLINE struct pair make_pair(long first, long second)
{
    pairs++;
    return (struct pair){first, second};
}

NOINLINE __attribute__((stdcall)) long standard(long a, long b, long c)
{
    sums += (unsigned long)(a + b + c);
    return a + b + c;
}

NOINLINE __attribute__((fastcall)) long fast(long a, long b)
{
    fasts++;
    return a - b;
}

NOINLINE double half(double x)
{
    floats++;
    return x / 2;
}

NOINLINE long recurse(long n)
{
    nested++;
    struct pair p = make_pair(n, -n);
    return n <= 0 ? p.first : recurse(n - 1) + p.first + p.second + 1;
}

/* A jump to the function that pops: its own code holds no return. */
NOINLINE struct pair jump_to_pair(long first, long second);
__asm__(".text\n.globl jump_to_pair\n.type jump_to_pair, @function\n"
        "jump_to_pair: jmp make_pair\n.size jump_to_pair, . - jump_to_pair\n");

extern long raw_getppid(void), vdso_getppid(void);
__asm__(".text\n.globl raw_getppid, raw_site, vdso_getppid, vdso_site\n"
        ".type raw_getppid, @function\n"
        "raw_getppid: mov $64, %eax\n"
        "raw_site: int $0x80\n ret\n.size raw_getppid, . - raw_getppid\n"
        ".type vdso_getppid, @function\n"
        "vdso_getppid: mov $64, %eax\n"
        "vdso_site: call *%gs:0x10\n ret\n.size vdso_getppid, . - vdso_getppid\n");

/* What -fPIC code does to know where it is. */
NOINLINE long where(void);
__asm__(".text\n.globl where, thunk\n.type where, @function\n"
        "where: call thunk\nbehind_thunk: sub $behind_thunk, %ecx\n mov %ecx, %eax\n ret\n"
        ".size where, . - where\n"
        ".type thunk, @function\n"
        "thunk: mov (%esp), %ecx\n ret\n.size thunk, . - thunk\n");

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 1;
    const char *words[] = {"alpha", "omega"};
    long wrong = 0, value = 0;
    say_ready();
    wait_go();
    for (int i = 0; i < rounds; i++) {
        value += look(i % 2 ? "odd one" : "even", (unsigned char)(i - 1), (short)-i, -5000000000LL * i,
                      words);
        struct pair p = make_pair(i, i * 2), q = jump_to_pair(i, 7);
        wrong += p.first != i || p.second != i * 2 || q.first != i || q.second != 7;
        wrong += standard(i, 1, 2) != i + 3;
        wrong += fast(i, 3) != i - 3;
        wrong += half(i) * 2 != i;
        wrong += recurse(3) != 3;
        wrong += raw_getppid() != getppid() || vdso_getppid() != getppid();
        wrong += where() != 0;
    }
    printf("look %lu\nmake_pair %lu\nsums %lu\nfast %lu\nhalf %lu\nrecurse %lu\n", looks, pairs, sums,
           fasts, floats, nested);
    printf("wrong %ld\nvalue %ld\n", wrong, value);
    return 0;
}
