/* Pushes onto stacks that cannot be written, and tells of each fault in all that a handler sees. */
#include "target.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { PAGE = 4096 };
static sigjmp_buf home;
static char handler_stack[1 << 16];
static const char *name;
static uintptr_t pages;

extern void try_push(uintptr_t stack), try_call(uintptr_t stack), try_memory(uintptr_t stack);
extern void try_pop(uintptr_t stack);
extern const char site_push[];

#if defined __x86_64__
#define AT "%rdi"
#define SP "%rsp"
#define W "8"
#define ENTER "mov %rsp, %rbp\nmov %rdi, %rsp\nlea target(%rip), %rax\nlea word(%rip), %rcx\n" \
              "mov %rax, (%rcx)\n"
#define CX "%rcx"
#else
#define REG_RIP REG_EIP
#define REG_RSP REG_ESP
#define SP "%esp"
#define W "4"
#define ENTER "mov 4(%esp), %edx\nmov %esp, %ebp\nmov %edx, %esp\n" \
              "lea target, %eax\nlea word, %ecx\nmov %eax, (%ecx)\n"
#define CX "%ecx"
#endif

/* Left only by the fault, or by `target`. */
__asm__(".text\n"
        ".macro site name\n"
        ".globl site_\\name\n.type site_\\name, @function\nsite_\\name:\n"
        ".endm\n"
        ".globl try_push, try_call, try_memory, try_pop\n"
        "try_push:\n" ENTER
        "site push\n    push $-2\n    jmp target\n"
        "try_call:\n" ENTER
        "site call\n    call target\n"
        "try_memory:\n" ENTER
        "site memory\n    call *(" CX ")\n"
        "try_pop:\n" ENTER
        "site pop\n    pop " CX "\n    jmp target\n"
        "target:\n    ud2\n"
        ".local word\n.comm word, 8, 8\n");

static void faulted(int number, siginfo_t *info, void *context)
{
    const greg_t *general = ((ucontext_t *)context)->uc_mcontext.gregs;
    printf("%s: signal %d code %d at %+ld, trap %ld error %ld, in code at %+ld, stack at %+ld\n", name,
           number, info->si_code,
           number == SIGILL ? 0L : (long)((uintptr_t)info->si_addr - pages),
           (long)general[REG_TRAPNO], (long)general[REG_ERR],
           (long)((uintptr_t)general[REG_RIP] - (uintptr_t)site_push),
           (long)((uintptr_t)general[REG_RSP] - pages));
    siglongjmp(home, 1);
}

static void try(const char *what, void (*how)(uintptr_t), long offset)
{
    char text[64];
    snprintf(text, sizeof text, "%s at %+ld", what, offset);
    name = text;
    if (!sigsetjmp(home, 1))
        how(pages + (uintptr_t)offset);
}

int main(void)
{
    stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    sigaltstack(&stack, NULL);
    struct sigaction action = {.sa_sigaction = faulted, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGILL, &action, NULL);
    char *area = mmap(NULL, 5 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED)
        return 3;
    /* To read only; to write; without access; to read only, of a file. */
    memset(area, 1, 3 * PAGE);
    mprotect(area, PAGE, PROT_READ);
    mprotect(area + 2 * PAGE, PAGE, PROT_NONE);
    if (mmap(area + 3 * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, open("/proc/self/exe", O_RDONLY), 0)
        == MAP_FAILED)
        return 3;
    munmap(area + 4 * PAGE, PAGE);
    pages = (uintptr_t)area;
    static const long offsets[] = {64, PAGE, PAGE + 2, 2 * PAGE, 2 * PAGE + 2, 3 * PAGE - 64,
                                   3 * PAGE + 2, 4 * PAGE, 5 * PAGE - 64};
    for (unsigned i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        try("push", try_push, offsets[i]);
        try("call", try_call, offsets[i]);
        try("memory", try_memory, offsets[i]);
        try("pop", try_pop, offsets[i]);
    }
    for (int i = 0; i < PAGE; i++)
        if (area[i] != 1 || area[i] != area[0])
            return 4;
    return 0;
}
