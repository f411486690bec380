/* Sets TF, as a program does that watches for debuggers, and tells where each trap found it. */
#include "target.h"
#include <signal.h>
#include <ucontext.h>

enum { MOST = 64 };
static unsigned long seen[MOST];
static volatile int count;
extern const char stretch_start[];

static void trapped(int number, siginfo_t *info, void *context)
{
    (void)number;
    ucontext_t *uc = context;
    if (info->si_code != TRAP_TRACE || count == MOST)
        _exit(3);
    if ((unsigned long)info->si_addr != (unsigned long)uc->uc_mcontext.gregs[REG_RIP])
        _exit(4);
    seen[count++] = (unsigned long)uc->uc_mcontext.gregs[REG_RIP] - (unsigned long)stretch_start;
}

extern void stretch(void);
__asm__(".text\n"
        ".globl stretch, stretch_start, site_move, site_call, site_indirect, site_jump\n"
        ".globl site_string, site_away\n"
        ".type site_string, @function\n.type site_away, @function\n"
        ".type site_move, @function\n.type site_call, @function\n"
        ".type site_indirect, @function\n.type site_jump, @function\n"
        ".type stretch, @function\n"
        "stretch:\n"
        "    lea callee(%rip), %r11\n"
        "    pushfq\n    orq $0x100, (%rsp)\n    popfq\n"
        "stretch_start:\n"
        "    lea -256(%rsp), %rdi\n    mov $5, %ecx\n"
        "site_string:\n    rep stosb\n"
        "site_away:\n    jmp 2f\n    nop\n2:\n"
        "site_move:\n    mov %rsp, %rax\n"
        "site_call:\n    call callee\n"
        "site_indirect:\n    call *%r11\n"
        "    cmp %eax, %eax\n"
        "site_jump:\n    je 1f\n    nop\n"
        "1:  pushfq\n    andq $~0x100, (%rsp)\n    popfq\n"
        "    ret\n"
        "callee:\n    ret\n");

int main(void)
{
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    stretch();
    stretch();
    for (int i = 0; i < count; i++)
        printf("trap at +%#lx\n", seen[i]);
    return 0;
}
