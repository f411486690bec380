/* A 32-bit process: gcc -m32 -nostdlib -static -ffreestanding, for machines without a 32-bit
 * libc. Waits for standard input to end, then exits with status 6. */
static int call(int number, int a, int b, int c)
{
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

int hot(int a)
{
    return a + 1;
}

/* READY_FD is found in the environment, which follows the arguments on the first stack. */
__attribute__((used)) void begin(char **stack)
{
    char **word = stack + 1;
    while (*word)
        word++;
    for (word++; *word; word++) {
        const char *name = "READY_FD=", *at = *word;
        while (*name && *name == *at)
            name++, at++;
        if (*name)
            continue;
        int descriptor = 0;
        while (*at)
            descriptor = descriptor * 10 + (*at++ - '0');
        call(4, descriptor, (int)"ready\n", 6);
    }
    char byte;
    while (call(3, 0, (int)&byte, 1) == 1) {
    }
    call(1, 6, 0, 0);
}

__asm__(".globl _start\n_start: mov %esp, %eax\n push %eax\n call begin\n");
