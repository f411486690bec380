/* faults [fatal NAME]: instructions that fault, each labelled site_NAME. The handler prints
 * what it is shown of each fault (signal, code, si_addr, RIP, RSP), mends the cause or steps
 * over the instruction, and goes on. `fatal NAME` commits one fault with no handler. */
#include "target.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#define PAGE 4096

/* %rdi is the page that faults; the body may use rax, rcx, rdx, rsi, r8-r11, and rbx, which
 * holds the stack pointer to come back to. */
#define FAULT(name, body) \
    __asm__(".text\n.globl fault_" #name ", site_" #name ", after_" #name "\n" \
            ".type fault_" #name ", @function\n" \
            "fault_" #name ":\n push %rbx\n mov %rsp, %rbx\n" body "\n" \
            "after_" #name ":\n mov %rbx, %rsp\n pop %rbx\n cld\n ret\n" \
            ".size fault_" #name ", . - fault_" #name "\n"); \
    extern long fault_##name(void *); \
    extern char site_##name[], after_##name[];

FAULT(load, "site_load: mov (%rdi), %rax")
FAULT(store, "site_store: mov %rax, 8(%rdi)")
FAULT(lock_add, "site_lock_add: lock addq $1, 16(%rdi)")
FAULT(relative, "site_relative: mov quiet_page(%rip), %rax")
FAULT(relative_store, "site_relative_store: movl $7, quiet_page+4(%rip)")
FAULT(push, "lea 4096(%rdi), %rsp\n site_push: push %rax")
FAULT(pop, "mov %rdi, %rsp\n site_pop: pop %rax")
FAULT(call, "lea 4096(%rdi), %rsp\n site_call: call 1f\n 1:")
FAULT(call_memory, "lea 1f(%rip), %rax\n site_call_memory: call *(%rdi)\n 1:")
FAULT(ret, "mov %rdi, %rsp\n site_ret: ret")
FAULT(leave, "mov %rbp, %r11\n mov %rdi, %rbp\n site_leave: leave")
FAULT(jump, "site_jump: jmp *%rdi")
FAULT(divide, "xor %ecx, %ecx\n mov $1, %eax\n xor %edx, %edx\n site_divide: div %ecx")
FAULT(overflow, "mov $1, %ecx\n mov $-1, %edx\n mov $1, %eax\n site_overflow: div %ecx")
FAULT(ud2, "site_ud2: ud2")
FAULT(hlt, "site_hlt: hlt")
FAULT(in, "site_in: in (%dx), %al")
FAULT(aligned, "lea 1(%rsp), %rax\n site_aligned: movaps (%rax), %xmm0")
FAULT(canonical, "movabs $0x8000000000000000, %rax\n site_canonical: mov (%rax), %rax")
FAULT(movs, "lea data_before(%rip), %rsi\n sub $5, %rdi\n mov $9, %ecx\n"
            " site_movs: rep movsb")
FAULT(x87, "fninit\n sub $16, %rsp\n movw $0x37b, (%rsp)\n fldcw (%rsp)\n fld1\n fldz\n"
           " site_x87: fdivrp %st, %st(1)\n"
           " site_fwait: fwait\n")
extern char site_fwait[];

char data_before[64] = "moved by rep movsb";
char quiet_page[PAGE] __attribute__((aligned(PAGE)));

struct fault {
    const char *name;
    long (*run)(void *);
    char *site, *after;
    int retries; /* the handler mends the cause and the instruction runs again */
    void *page;
};

static struct fault *current;
static char *bad_page;

static void show(const char *label, uintptr_t value)
{
    uintptr_t page = (uintptr_t)current->page, site = (uintptr_t)current->site;
    if (value + 64 >= page && value < page + 2 * PAGE)
        printf(" %s=page%+ld", label, (long)(value - page));
    else if (value + 64 >= site && value < site + 64)
        printf(" %s=site%+ld", label, (long)(value - site));
    else
        printf(" %s=%#lx", label, value);
}

NOINLINE void on_fault(int signal, siginfo_t *info, void *context)
{
    static int calls;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (++calls > 40) /* it faults again and again: what was mended was not the cause */
        _exit(66);
    printf("%s signal=%d code=%d", current->name, signal, info->si_code);
    show("addr", (uintptr_t)info->si_addr);
    show("rip", registers[REG_RIP]);
    printf(" rsp=%s", (uintptr_t)registers[REG_RSP] == (uintptr_t)registers[REG_RBX] ? "same" : "moved");
    if (!strcmp(current->name, "movs"))
        printf(" left=%lld", registers[REG_RCX]);
    if (!strcmp(current->name, "push") || !strcmp(current->name, "call"))
        show("rsp", registers[REG_RSP]);
    if (!strcmp(current->name, "x87"))
        show("fip", ((ucontext_t *)context)->uc_mcontext.fpregs->rip);
    printf(" tf=%d\n", !!(registers[REG_EFL] & 0x100));
    if (current->retries)
        mprotect(current->page, PAGE, PROT_READ | PROT_WRITE);
    else
        registers[REG_RIP] = (greg_t)current->after;
    if (!strcmp(current->name, "leave"))
        registers[REG_RBP] = registers[REG_R11];
    if (!strcmp(current->name, "call_memory"))
        *(void **)current->page = (void *)current->after;
    if (!strcmp(current->name, "x87"))
        ((ucontext_t *)context)->uc_mcontext.fpregs->swd &= ~0x80ff;
}

#define ROW(name, retries, page) {#name, fault_##name, site_##name, after_##name, retries, page}

int main(int argc, char **argv)
{
    static char alternate[65536];
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    bad_page = (char *)mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + PAGE;
    struct fault faults[] = {
        ROW(load, 1, bad_page), ROW(store, 1, bad_page), ROW(lock_add, 1, bad_page),
        ROW(relative, 1, quiet_page), ROW(relative_store, 1, quiet_page), ROW(push, 1, bad_page),
        ROW(pop, 1, bad_page), ROW(call, 1, bad_page), ROW(call_memory, 1, bad_page),
        ROW(ret, 0, bad_page), ROW(leave, 0, bad_page), ROW(jump, 0, bad_page),
        ROW(divide, 0, bad_page), ROW(overflow, 0, bad_page), ROW(ud2, 0, bad_page),
        ROW(hlt, 0, bad_page), ROW(in, 0, bad_page), ROW(aligned, 0, bad_page),
        ROW(canonical, 0, bad_page), ROW(movs, 1, bad_page), ROW(x87, 0, bad_page),
    };
    int fatal = argc > 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigaltstack(&stack, NULL);
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (int i = 0; i < 4 && !fatal; i++)
        sigaction(signals[i], &action, NULL);
    say_ready();
    wait_go();
    for (unsigned i = 0; i < sizeof faults / sizeof *faults; i++) {
        if (fatal && strcmp(argv[2], faults[i].name))
            continue;
        current = &faults[i];
        mprotect(current->page, PAGE, PROT_NONE);
        current->run(current->page);
        printf("site_%s %d\n", current->name, 1 + current->retries);
        mprotect(current->page, PAGE, PROT_READ | PROT_WRITE);
    }
    return 0;
}
