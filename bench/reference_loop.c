/* The plain-C loops that a ptrace tracer can be measured against.
 *
 * reference_loop MODE SITE SIZE SLOT TRACER_CPU TRACEE_CPU PROGRAM [ARGUMENT...]
 *
 * Runs PROGRAM (non-PIE) with a trap at SITE, whose instruction has SIZE bytes and does not
 * depend on its address. MODE says how each hit goes on:
 *   skip      GETREGS, SETREGS(rip past the instruction), CONT: one stop. The reference.
 *   peek      the same by PEEKUSER and POKEUSER of RIP alone
 *   bare      CONT alone: for an instruction of one byte, which the trap's own byte has stepped over
 *   step      a copy at SLOT, executed by hardware single-step: two stops
 *   reinsert  original byte back, single-step, trap back: two stops, as most debuggers do
 * Addresses are hexadecimal; a CPU of -1 leaves the placement to the kernel. */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RIP = offsetof(struct user, regs.rip) };

static pid_t child;

static void check(long result, const char *what)
{
    if (result == -1) {
        perror(what);
        exit(70);
    }
}

static void bind_to(int cpu)
{
    cpu_set_t set;
    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    check(sched_setaffinity(0, sizeof set, &set), "sched_setaffinity");
}

static int wait_stop(void)
{
    int status;
    if (waitpid(child, &status, __WALL) != child)
        check(-1, "waitpid");
    return status;
}

static void write_bytes(unsigned long address, const unsigned char *bytes, int size)
{
    for (int i = 0; i < size; i++) {
        unsigned long at = address + i;
        errno = 0;
        unsigned long word = ptrace(PTRACE_PEEKTEXT, child, at & ~7UL, 0);
        if (errno)
            check(-1, "PEEKTEXT");
        ((unsigned char *)&word)[at & 7] = bytes[i];
        check(ptrace(PTRACE_POKETEXT, child, at & ~7UL, word), "POKETEXT");
    }
}

static void get(struct user_regs_struct *registers)
{
    check(ptrace(PTRACE_GETREGS, child, 0, registers), "GETREGS");
}

static void set(struct user_regs_struct *registers)
{
    check(ptrace(PTRACE_SETREGS, child, 0, registers), "SETREGS");
}

static void single_step(void)
{
    check(ptrace(PTRACE_SINGLESTEP, child, 0, 0), "SINGLESTEP");
    int status = wait_stop();
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
        exit(71);
}

int main(int argc, char **argv)
{
    if (argc < 8) {
        fprintf(stderr, "usage: reference_loop MODE SITE SIZE SLOT CPU CPU PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    const char *mode = argv[1];
    unsigned long site = strtoul(argv[2], NULL, 16), slot = strtoul(argv[4], NULL, 16);
    int size = atoi(argv[3]);
    child = fork();
    if (child == 0) {
        bind_to(atoi(argv[6]));
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execv(argv[7], argv + 7);
        _exit(127);
    }
    bind_to(atoi(argv[5]));
    wait_stop();
    check(ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_EXITKILL), "SETOPTIONS");

    static const unsigned char trap = 0xcc;
    unsigned char original[16];
    for (int i = 0; i < size; i++)
        original[i] = (unsigned char)ptrace(PTRACE_PEEKTEXT, child, site + i, 0);
    write_bytes(slot, original, size);
    write_bytes(site, &trap, 1);

    unsigned long hits = 0;
    struct user_regs_struct registers;
    int pass = 0;
    for (;;) {
        check(ptrace(PTRACE_CONT, child, 0, pass), "CONT");
        int status = wait_stop();
        if (!WIFSTOPPED(status)) {
            fprintf(stderr, "hits %lu\n", hits);
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        pass = WSTOPSIG(status);
        if (pass != SIGTRAP)
            continue;
        if (!strcmp(mode, "bare")) {
            pass = 0;
            hits++;
            continue;
        }
        if (!strcmp(mode, "peek")) {
            if ((unsigned long)ptrace(PTRACE_PEEKUSER, child, RIP, 0) != site + 1)
                continue;
            pass = 0;
            hits++;
            check(ptrace(PTRACE_POKEUSER, child, RIP, site + size), "POKEUSER");
            continue;
        }
        get(&registers);
        if (registers.rip != site + 1)
            continue;
        pass = 0;
        hits++;
        if (!strcmp(mode, "skip")) {
            registers.rip = site + size;
            set(&registers);
        } else if (!strcmp(mode, "step")) {
            registers.rip = slot;
            set(&registers);
            single_step();
            get(&registers);
            registers.rip = registers.rip - slot + site;
            set(&registers);
        } else {
            write_bytes(site, original, 1);
            registers.rip = site;
            set(&registers);
            single_step();
            write_bytes(site, &trap, 1);
        }
    }
}
