/* Preloaded into programs whose runs under the kernel's uprobes and under ours are compared
 * address by address. The kernel maps a page of its own into the program, [uprobes], at the
 * first hit that needs it (xol_add_vma of kernel/events/uprobes.c), where the program's next
 * mapping would have been, and so moves all later ones. Here that page gets a place of its own
 * before main: a return probe on take_page makes the kernel map it at `place`; where nobody
 * has, we do. */
#define _GNU_SOURCE
#include <sys/mman.h>

enum { PAGE = 4096 };

__attribute__((noinline)) void take_page(void) { __asm__ volatile(""); }

__attribute__((constructor)) static void anchor(void)
{
    void *place = mmap(0, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    munmap(place, PAGE);
    take_page();
    mmap(place, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
}
