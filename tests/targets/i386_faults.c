/* i386_faults: instructions of 32-bit code that fault, in every place where a slot could show: prints
 * what the handler is told of each, and mends the cause. */
#include "target.h"
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

extern char read_site[], divide_site[], illegal_site[], call_site[], jump_site[], after_all[];
extern long read_bad(const void *), divide(long), illegal(void), call_bad(const void *),
    jump_bad(const void *);
__asm__(".text\n.globl read_site, divide_site, illegal_site, call_site, jump_site, after_all\n"
        "read_bad: mov 4(%esp), %ecx\nread_site: mov (%ecx), %eax\n ret\n"
        "divide: mov 4(%esp), %ecx\n mov $7, %eax\n cdq\ndivide_site: idiv %ecx\n ret\n"
        "illegal: mov $5, %eax\nillegal_site: ud2\n ret\n"
        "call_bad: mov 4(%esp), %ecx\n xor %eax, %eax\ncall_site: call *(%ecx)\n ret\n"
        "jump_bad: mov 4(%esp), %ecx\njump_site: jmp *%ecx\n"
        "after_all:\n");

static char *page;

static const char *place(uintptr_t address)
{
    static const struct {
        const char *at, *name;
    } places[] = {{read_site, "read"}, {divide_site, "divide"}, {illegal_site, "illegal"},
                  {call_site, "call"}, {jump_site, "jump"}};
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++)
        if ((uintptr_t)places[i].at == address)
            return places[i].name;
    return address == (uintptr_t)page ? "page" : address == 0x40 ? "nowhere" : "elsewhere";
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    printf("%d %d %s %s\n", number, info->si_code, place((uintptr_t)info->si_addr),
           place((uintptr_t)registers[REG_EIP]));
    if (number == SIGFPE)
        registers[REG_ECX] = 2;
    else if (number == SIGILL)
        registers[REG_EIP] += 2;
    else if (registers[REG_EIP] == 0x40)
        registers[REG_EIP] = *(uint32_t *)registers[REG_ESP], registers[REG_ESP] += 4;
    else
        mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

static long answer(void)
{
    return 42;
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    for (unsigned i = 0; i < 3; i++)
        sigaction((int[]){SIGSEGV, SIGFPE, SIGILL}[i], &action, NULL);
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *(long (**)(void))page = answer;
    for (int round = 0; round < 3; round++) {
        mprotect(page, 4096, PROT_NONE);
        printf("read %d\n", read_bad(page) == (long)answer);
        printf("divide %ld\n", divide(0));
        printf("illegal %ld\n", illegal());
        mprotect(page, 4096, PROT_NONE);
        printf("call %ld\n", call_bad(page));
        jump_bad((void *)0x40);
    }
    mprotect(page, 4096, PROT_NONE);
    signal(SIGSEGV, SIG_DFL);
    fflush(stdout);
    return (int)read_bad(page);
}
