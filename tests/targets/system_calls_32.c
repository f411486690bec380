/* A 32-bit process that enters the kernel from code of the test's choice: gcc -m32 -nostdlib
 * -static -ffreestanding. Standard input has 32 bytes for SITE and 32 for SLOT, and the address
 * to begin at; standard output gets EAX, ECX, EDX and EBP from after a getpid by that way, and
 * the process's true number. */
enum { SITE = 0x20000000, SIZE = 32, READ = 3, WRITE = 4, GETPID = 20, EXIT = 1, MMAP2 = 192 };

static int call(int number, int a, int b, int c)
{
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

static int map(int at, int size)
{
    int result;
    /* mmap2(at, size, READ|WRITE|EXEC, PRIVATE|FIXED|ANONYMOUS, ...): a file of 0 is ignored. */
    __asm__ volatile("push %%ebp; xor %%ebp, %%ebp; int $0x80; pop %%ebp"
                     : "=a"(result)
                     : "a"(MMAP2), "b"(at), "c"(size), "d"(7), "S"(0x32), "D"(-1)
                     : "memory");
    return result;
}

/* As __kernel_vsyscall of the vDSO does: what is pushed is popped at the kernel's landing pad, or
 * by the code at SITE. SYSENTER has its stack in EBP, SYSCALL its second argument. */
void enter(int number, int begin, int syscall_way, int *results);
__asm__("enter: push %ebp; push %ebx; push %esi; push %edi\n"
        " mov 20(%esp), %eax; mov 24(%esp), %esi; mov 28(%esp), %edx\n"
        " mov $0x1111, %ecx; mov $0x3333, %ebp\n"
        " call 1f\n"
        " mov 32(%esp), %esi\n"
        " mov %eax, (%esi); mov %ecx, 4(%esi); mov %edx, 8(%esi); mov %ebp, 12(%esi)\n"
        " pop %edi; pop %esi; pop %ebx; pop %ebp; ret\n"
        "1: push %ecx; push %edx; push %ebp\n"
        " test %edx, %edx; mov %esp, %ebp; jz 2f; mov %ecx, %ebp\n"
        "2: jmp *%esi\n");

__attribute__((used)) void begin(void)
{
    int results[5], chosen[2];
    if (map(SITE, 4096) != SITE || call(READ, 0, SITE, 2 * SIZE) != 2 * SIZE
        || call(READ, 0, (int)chosen, sizeof chosen) != sizeof chosen)
        call(EXIT, 3, 0, 0);
    enter(GETPID, chosen[0], chosen[1], results);
    results[4] = call(GETPID, 0, 0, 0);
    call(WRITE, 1, (int)results, sizeof results);
    call(EXIT, 0, 0, 0);
}

__asm__(".globl _start\n_start: call begin\n");
