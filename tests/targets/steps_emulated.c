/* Sets TF around instructions that a tracer can compute, and tells where each trap found it. */
#include "target.h"
#include <signal.h>
#include <ucontext.h>

enum { MOST = 64 };
static unsigned long seen[MOST][3];
static volatile int count;
extern const char stretch_start[];

#if defined __x86_64__
#define AX "%rax"
#define CX "%rcx"
#define DX "%rdx"
#define SP "%rsp"
#define W "8"
#define FLAGS "pushfq\n"
#define SET_FLAGS "popfq\n"
#define LOAD_CALLEE "lea callee(%rip), %rax\n"
#else
#define REG_RIP REG_EIP
#define AX "%eax"
#define CX "%ecx"
#define DX "%edx"
#define SP "%esp"
#define W "4"
#define FLAGS "pushfl\n"
#define SET_FLAGS "popfl\n"
#define LOAD_CALLEE "call 1f\n1: pop %eax\nadd $(callee - 1b), %eax\n"
#endif

static void trapped(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    if (number != SIGTRAP || info->si_code != TRAP_TRACE || count == MOST)
        _exit(3);
    unsigned long *one = seen[count++];
    one[0] = (unsigned long)uc->uc_mcontext.gregs[REG_RIP] - (unsigned long)stretch_start;
    one[1] = (unsigned long)info->si_addr - (unsigned long)stretch_start;
    one[2] = (unsigned long)uc->uc_mcontext.gregs[REG_TRAPNO];
}

extern unsigned long stretch(void);
__asm__(".text\n"
        ".macro site name\n"
        ".globl site_\\name\n.type site_\\name, @function\nsite_\\name:\n"
        ".endm\n"
        ".globl stretch, stretch_start\n.type stretch, @function\n"
        "stretch:\n" LOAD_CALLEE
        "    push " AX "\n    mov " SP ", " DX "\n"
        "    " FLAGS "    or" "l $0x100, (" SP ")\n    " SET_FLAGS
        "stretch_start:\n"
        "site push\n    push $-2\n"
        "    pop " CX "\n"
        "site nop\n    nop\n"
        "site call\n    call callee\n"
        "site memory\n    call *(" DX ")\n"
        "    mov " AX ", -" W "(" SP ")\n"
        "site overlap\n    call *-" W "(" SP ")\n"
        "    cmp %eax, %eax\n"
        "site taken\n    je 2f\n    nop\n"
        "2:\n"
        "site straight\n    jne 2b\n"
        "site away\n    jmp 3f\n    nop\n"
        "3:  " FLAGS "    and" "l $~0x100, (" SP ")\n    " SET_FLAGS
        "    pop " AX "\n    mov " CX ", " AX "\n    ret\n"
        "callee:\n"
        "site ret\n    ret\n");

int main(void)
{
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    unsigned long sum = stretch();
    sum += stretch();
    for (int i = 0; i < count; i++)
        printf("trap at +%#lx address +%#lx vector %lu\n", seen[i][0], seen[i][1], seen[i][2]);
    printf("sum %#lx\n", sum);
    return 0;
}
