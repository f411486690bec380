/* layout: prints where the kernel puts the heap, the stack and mappings of several sizes. */
#include "target.h"
#include <sys/mman.h>

int main(void)
{
    static const size_t sizes[] = {4096, 65536, 1 << 20, 1 << 24, 8192};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
        printf("mapping %p\n", mmap(NULL, sizes[i], PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    printf("heap %p\nlarge %p\nbreak %p\nstack %p\ncode %p\n", malloc(100), malloc(1 << 20), sbrk(0),
           (void *)sizes, (void *)main);
    char here;
    printf("local %p\n", (void *)&here);
    return 0;
}
