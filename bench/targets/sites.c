/* sites SITE COUNT REPORT CPU: calls hot_SITE() COUNT times, and 200 times before that, on that
 * CPU (-1: wherever), and writes into the file REPORT
 *
 *   pid N               before the first call
 *   calls N             COUNT and the 200, which nobody times
 *   sum N               of the first arguments of them all
 *   nanoseconds N       that the COUNT calls took, by its own clock
 *
 * Each function has one instruction for a probe, at its label site_SITE. Where that is also its
 * first one, tools that probe functions only can take part. Built non-PIE, so that addresses are
 * known without asking. What a probe may read: (number, "/usr/share/dict/words", number). */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WARM_UP = 200 };

/* SITE(name, what stands before, the instruction, what stands behind) */
#define SITES(SITE)                                                                                \
    SITE(endbr, "", "endbr64", "lea 1(%rdi), %rax; ret")                                           \
    SITE(nop, "", "nop", "lea 1(%rdi), %rax; ret")                                                 \
    SITE(nop5, "", ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00", "lea 1(%rdi), %rax; ret")                 \
    SITE(push, "", "push %rbx", "lea 1(%rdi), %rax; pop %rbx; ret")                                \
    SITE(ret, "", "ret", "")                                                                       \
    SITE(load, "", "mov (%rsi), %rax", "ret")                                                      \
    SITE(load_rip, "", "mov counter(%rip), %rax", "ret")                                           \
    SITE(call, "", "call leaf", "ret")                                                             \
    SITE(jcc, "test %edi, %edi;", "jne 1f", "nop; 1: lea 1(%rdi), %rax; ret")                      \
    SITE(syscall, "mov $39, %eax;", "syscall", "ret")                                              \
    SITE(lock, "", "lock incq counter(%rip)", "ret")                                               \
    SITE(avx, "", "vmovdqu (%rsi), %xmm0", "ret")

#define DEFINE(name, before, instruction, after)                                                   \
    __asm__(".text\n.balign 64\n.globl hot_" #name ", site_" #name "\n.type hot_" #name            \
            ", @function\nhot_" #name ": .cfi_startproc\n" before "\nsite_" #name ": "             \
            instruction "\n" after "\n.cfi_endproc"                                               \
            "\n.size hot_" #name ", . - hot_" #name "\n");                                         \
    extern long hot_##name(long, const char *, long);
#define ROW(name, before, instruction, after) {#name, hot_##name},

/* `slot_area` is room for tracers that execute a copy. */
__asm__(".text\n.globl slot_area\n.balign 64\nslot_area: .fill 64, 1, 0x90\n"
        ".type leaf, @function\nleaf: lea 1(%rdi), %rax\n ret\n.size leaf, . - leaf\n"
        ".data\n.balign 64\ncounter: .quad 0\n.text\n");
SITES(DEFINE)

static const struct {
    const char *name;
    long (*call)(long, const char *, long);
} sites[] = {SITES(ROW)};

static void bind_to(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (cpu >= 0 && sched_setaffinity(0, sizeof set, &set)) {
        perror("sched_setaffinity");
        exit(70);
    }
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: sites SITE COUNT REPORT CPU\n");
        return 2;
    }
    long (*call)(long, const char *, long) = NULL;
    for (size_t i = 0; i < sizeof sites / sizeof *sites; i++)
        if (!strcmp(sites[i].name, argv[1]))
            call = sites[i].call;
    FILE *report = fopen(argv[3], "w");
    long count = atol(argv[2]), sum = 0;
    if (!call || !report) {
        fprintf(stderr, "sites: no site %s, or %s cannot be written\n", argv[1], argv[3]);
        return 2;
    }
    bind_to(atoi(argv[4]));
    fprintf(report, "pid %d\n", getpid());
    fflush(report);
    struct timespec start, end;
    for (long i = 0; i < WARM_UP; i++, sum += i)
        call(i + 1, "/usr/share/dict/words", i);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (long i = 0; i < count; i++)
        call(i + 1, "/usr/share/dict/words", i);
    clock_gettime(CLOCK_MONOTONIC, &end);
    sum += count * (count + 1) / 2;
    fprintf(report, "calls %ld\nsum %ld\nnanoseconds %lld\n", count + WARM_UP, sum,
            (end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec);
    return fclose(report) ? 1 : 0;
}
