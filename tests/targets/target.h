/* What all targets share: saying "ready", waiting to be let on, knowing their own code. */
#ifndef TARGET_H
#define TARGET_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone, used))

/* Tells whoever started us that the set-up is done; nobody listens when launched by a tracer. */
static inline void say_ready(void)
{
    const char *number = getenv("READY_FD");
    if (number && write(atoi(number), "ready\n", 6) != 6)
        _exit(99);
}

/* Waits for a line, or the end, of standard input. */
static inline void wait_go(void)
{
    char c = 0;
    while (c != '\n' && read(0, &c, 1) == 1) {
    }
}

static struct {
    uintptr_t start, end;
} target_code[64];
static int target_code_count;

static int target_add_code(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size;
    (void)unused;
    for (int i = 0; i < info->dlpi_phnum && target_code_count < 64; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
            continue;
        target_code[target_code_count].start = info->dlpi_addr + p->p_vaddr;
        target_code[target_code_count].end = info->dlpi_addr + p->p_vaddr + p->p_memsz;
        target_code_count++;
    }
    return 0;
}

/* Call once, after the last library is loaded. */
static inline void learn_own_code(void)
{
    dl_iterate_phdr(target_add_code, NULL);
}

/* Whether an address lies in the code of the program, its libraries or the vDSO: a signal
 * handler that is shown any other RIP has been shown a tracer's slot. */
static inline int in_own_code(uintptr_t rip)
{
    for (int i = 0; i < target_code_count; i++)
        if (rip >= target_code[i].start && rip < target_code[i].end)
            return 1;
    return 0;
}

#endif
