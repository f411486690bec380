/* instructions ROUNDS: one labelled instruction (site_NAME) per case, each run from known
 * registers, flags, stack and data, red zone included. Prints everything that it changed, with
 * addresses relative to what they point into, so that two runs compare as text. */
#include "target.h"

enum { RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8, R9, R10, R11, R12, R13, R14, R15, RSP, FLAGS, COUNT };
static const char *const names[COUNT] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi",
                                         "rbp", "r8", "r9", "r10", "r11", "r12",
                                         "r13", "r14", "r15", "rsp", "flags"};

uint64_t in[COUNT], out[COUNT], saved_rsp;
#define WORDS 64
uint64_t stack[WORDS] __attribute__((aligned(64)));
uint64_t data[WORDS] __attribute__((aligned(64)));
typedef float vector[4];
vector out_xmm;

#define CASE(name, body) \
    __asm__(".text\n.globl case_" #name ", site_" #name "\n.type case_" #name ", @function\n" \
            "case_" #name ":\n1:\n" \
            " push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n" \
            " mov %rsp, saved_rsp(%rip)\n movups data(%rip), %xmm0\n" \
            " lea stack+512(%rip), %rsp\n pushq in+128(%rip)\n popfq\n mov in+120(%rip), %rsp\n" \
            " mov in(%rip), %rax\n mov in+8(%rip), %rbx\n mov in+16(%rip), %rcx\n" \
            " mov in+24(%rip), %rdx\n mov in+32(%rip), %rsi\n mov in+40(%rip), %rdi\n" \
            " mov in+48(%rip), %rbp\n mov in+56(%rip), %r8\n mov in+64(%rip), %r9\n" \
            " mov in+72(%rip), %r10\n mov in+80(%rip), %r11\n mov in+88(%rip), %r12\n" \
            " mov in+96(%rip), %r13\n mov in+104(%rip), %r14\n mov in+112(%rip), %r15\n" \
            "site_" #name ": " body "\n" \
            " mov %rax, out(%rip)\n mov %rbx, out+8(%rip)\n mov %rcx, out+16(%rip)\n" \
            " mov %rdx, out+24(%rip)\n mov %rsi, out+32(%rip)\n mov %rdi, out+40(%rip)\n" \
            " mov %rbp, out+48(%rip)\n mov %r8, out+56(%rip)\n mov %r9, out+64(%rip)\n" \
            " mov %r10, out+72(%rip)\n mov %r11, out+80(%rip)\n mov %r12, out+88(%rip)\n" \
            " mov %r13, out+96(%rip)\n mov %r14, out+104(%rip)\n mov %r15, out+112(%rip)\n" \
            " mov %rsp, out+120(%rip)\n mov saved_rsp(%rip), %rsp\n pushfq\n" \
            " popq out+128(%rip)\n cld\n movups %xmm0, out_xmm(%rip)\n" \
            " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n" \
            ".size case_" #name ", . - case_" #name "\n" \
            /* where the body's last label 1 is, if it has one */ \
            ".pushsection .data.targets, \"aw\"\n.globl target_" #name "\n" \
            "target_" #name ": .quad 1b\n.popsection\n"); \
    extern void case_##name(void); \
    extern char site_##name[], *target_##name;

/* Where a branch went is told by r15. */
#define BRANCH(name, instruction) \
    CASE(name, instruction " 1f\n mov $1, %r15d\n jmp 2f\n 1: mov $2, %r15d\n 2:")
/* A call's return address is told by r14; r15 tells that it came to its target. */
#define CALLED " jmp 2f\n 1: mov (%rsp), %r14\n mov $3, %r15d\n 2:"

#define ALL(X) \
    X(nop, "nop") X(long_nop, "nopw 0(%rax,%rax,1)") X(endbr64, "endbr64") \
    X(push_reg, "push %rbp") X(push_rsp, "push %rsp") X(push_imm8, "pushq $-5") \
    X(push_imm32, "pushq $0x12345678") X(push_mem, "pushq 8(%rdi)") \
    X(push_relative, "pushq data+16(%rip)") X(push_stack, "pushq 8(%rsp)") \
    X(pop_reg, "pop %r12") X(pop_rsp, "pop %rsp") X(pop_mem, "popq 16(%rdi)") \
    X(pop_stack, "popq (%rsp)") X(leave, "leave") X(enter, "enter $32, $0") \
    X(pushf, "pushfq") X(popf, "popfq") X(lahf, "lahf") X(sahf, "sahf") X(std, "std") \
    X(mov_reg, "mov %rax, %r13") X(mov_load, "mov 24(%rdi), %rax") \
    X(mov_relative, "mov data+8(%rip), %rax") X(mov_relative_imm, "movl $7, data+40(%rip)") \
    X(mov_store_relative, "mov %r9, data+48(%rip)") X(lea_relative, "lea site_nop(%rip), %r10") \
    X(lea_relative32, "lea data(%rip), %r10d\n lea data(%rip), %r11\n sub %r10d, %r11d") \
    X(cmp_relative, "cmpl $9, data+4(%rip)") X(add_relative, "addq $77, data+56(%rip)") \
    X(lock_xadd, "lock xadd %rax, data+32(%rip)") X(xchg, "xchg %rax, (%rdi)") \
    X(cmpxchg, "lock cmpxchg %r8, 8(%rdi)") X(mul, "mulq data(%rip)") X(imul, "imul $55, data(%rip), %eax") \
    X(div, "xor %edx, %edx\n or $1, %ecx\n div %rcx") X(bsf, "bsf %rax, %rbx") \
    X(cmov, "cmovbe data(%rip), %rax") X(setcc, "setg %al") X(shld, "shld $3, %rax, %rbx") \
    X(bt, "btc $5, %rax") X(adc, "adc %rax, %rbx") X(bswap, "bswap %rdx") X(cqo, "cqo") \
    X(movs, "movsb") X(rep_stos, "rep stosb") X(rep_movs, "rep movsq") X(repe_cmps, "repe cmpsb") \
    X(xlat, "and $15, %eax\n mov %rdi, %rbx\n xlatb") X(movss, "movss data(%rip), %xmm0") \
    X(pshufd, "pshufd $0x1b, data(%rip), %xmm0") X(addps, "addps data+16(%rip), %xmm0") \
    X(mov_ss, "mov %ss, %eax\n mov %eax, %ss") X(load_ss, "mov stack_selector(%rip), %ss") \
    X(fs_load, "mov %fs:0, %rax\n cmp %rax, %fs:0\n mov $0, %eax") \
    X(syscall, "mov $-1, %rax\n jmp 1f\n 1: syscall") X(syscall_first, "syscall") \
    X(int_80, "int $0x80") \
    X(call_near, "call 1f\n" CALLED) X(call_register, "call *%r9\n" CALLED) \
    X(call_relative, "call *data_target(%rip)\n" CALLED) X(call_data, "call *(%rsi)\n" CALLED) \
    X(call_indexed, "call *-8(%rsi,%rdx,8)\n" CALLED) X(call_stack, "call *(%rsp)\n" CALLED) \
    X(call_stack8, "call *8(%rsp)\n" CALLED) X(jmp_near, "jmp 1f\n ud2\n 1: mov $4, %r15d") \
    X(jmp_register, "jmp *%r9\n ud2\n 1: mov $4, %r15d") \
    X(jmp_relative, "jmp *data_target(%rip)\n ud2\n 1: mov $4, %r15d") \
    X(jmp_stack, "jmp *(%rsp)\n ud2\n 1: mov $4, %r15d") X(ret, "ret\n ud2\n 1: mov $5, %r15d") \
    X(ret_imm, "ret $24\n ud2\n 1: mov $5, %r15d") X(repz_ret, "repz ret\n ud2\n 1: mov $5, %r15d") \
    X(fld, "fldl data+8(%rip)\n fstpl data+64(%rip)") X(fst, "fninit\n fldpi\n fstpl data+72(%rip)") \
    X(fnstenv, "fnstcw data+80(%rip)") X(crc32, "crc32q data(%rip), %rax")
#define BRANCHES(X) \
    X(jo, "jo") X(jno, "jno") X(jb, "jb") X(jae, "jae") X(jz, "jz") X(jnz, "jnz") X(jbe, "jbe") \
    X(ja, "ja") X(js, "js") X(jns, "jns") X(jp, "jp") X(jnp, "jnp") X(jl, "jl") X(jge, "jge") \
    X(jle, "jle") X(jg, "jg") X(loop, "loop") X(loope, "loope") X(loopne, "loopne") \
    X(jrcxz, "jrcxz") X(jecxz, "jecxz") X(loop32, "addr32 loop")

uint64_t data_target;
uint16_t stack_selector;
ALL(CASE)
BRANCHES(BRANCH)

struct test {
    const char *name;
    void (*run)(void);
    char *site;
    char **target; /* where a transfer of control shall arrive */
};
#define ROW(name, body) {#name, case_##name, site_##name, &target_##name},
static const struct test tests[] = {ALL(ROW) BRANCHES(ROW)};

static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state ^ (random_state >> 29);
}

static void show(const char *what, uint64_t value, const struct test *test)
{
    uint64_t near_stack = value - (uint64_t)stack, near_data = value - (uint64_t)data;
    uint64_t near_site = value - (uint64_t)test->site;
    if (near_stack <= sizeof stack)
        printf(" %s=stack+%lu", what, near_stack);
    else if (near_data <= sizeof data)
        printf(" %s=data+%lu", what, near_data);
    else if (near_site + 4096 < 8192)
        printf(" %s=site%+ld", what, (long)near_site);
    else if (value - (uint64_t)site_nop < 65536)
        printf(" %s=text+%lu", what, value - (uint64_t)site_nop);
    else
        printf(" %s=%#lx", what, value);
}

static int transfers(const char *name)
{
    return !strncmp(name, "call_", 5) || !strncmp(name, "jmp_", 4) || !strcmp(name, "ret") ||
           !strcmp(name, "ret_imm") || !strcmp(name, "repz_ret");
}

static void run(const struct test *test, int round)
{
    uint64_t stack_before[WORDS], data_before[WORDS];
    for (int i = 0; i < WORDS; i++) {
        stack[i] = next_random();
        data[i] = next_random();
    }
    for (int i = 0; i < FLAGS; i++)
        in[i] = next_random();
    in[RDI] = (uint64_t)(data + 8);
    in[RSI] = (uint64_t)(data + 32);
    in[RBP] = (uint64_t)(stack + 40);
    in[RCX] = next_random() % 4;
    in[RDX] = 1;
    in[RSP] = (uint64_t)(stack + 32);
    in[FLAGS] = 0x202 | (next_random() & 0x8d5);
    if (!strncmp(test->name, "syscall", 7) || !strcmp(test->name, "int_80"))
        in[RAX] = (uint32_t)-2; /* no such call: -ENOSYS, and nothing else changes */
    if (!strcmp(test->name, "popf"))
        stack[32] = 0x202 | (next_random() & 0xcd5);
    if (!strcmp(test->name, "pop_rsp"))
        stack[32] = (uint64_t)(stack + 20);
    if (transfers(test->name)) {
        uint64_t target = (uint64_t)*test->target;
        in[R9] = data_target = data[32] = stack[32] = target;
        if (!strcmp(test->name, "call_stack8"))
            stack[33] = target;
    }
    __asm__("mov %%ss, %0" : "=r"(stack_selector));
    /* The red zone is in `stack` below rsp; the pushes of the set-up are far above it. */
    memcpy(stack_before, stack, sizeof stack);
    memcpy(data_before, data, sizeof data);
    test->run();
    printf("%s.%d", test->name, round);
    for (int i = 0; i < COUNT; i++)
        if (in[i] != out[i])
            show(names[i], out[i], test);
    for (int i = 0; i < WORDS - 1; i++) { /* the last word held the flags */
        char where[16];
        snprintf(where, sizeof where, "stack[%d]", i);
        if (stack[i] != stack_before[i])
            show(where, stack[i], test);
        snprintf(where, sizeof where, "data[%d]", i);
        if (data[i] != data_before[i])
            show(where, data[i], test);
    }
    printf(" xmm0=%a,%a,%a,%a\n", out_xmm[0], out_xmm[1], out_xmm[2], out_xmm[3]);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 4;
    random_state = 42;
    for (unsigned i = 0; i < sizeof tests / sizeof *tests; i++)
        for (int round = 0; round < rounds; round++)
            run(&tests[i], round);
    for (unsigned i = 0; i < sizeof tests / sizeof *tests; i++)
        printf("site_%s %d\n", tests[i].name, rounds);
    return 0;
}
