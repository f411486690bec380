/* What harness.c needs to know of 32-bit programs. */
static const uint64_t bases[BASES] = {0x10000000, 0x90000000, 0xd0000000, 0x50000000};

enum { MAP = SYS_mmap2, ARCHITECTURE = AUDIT_ARCH_I386 };

#pragma GCC visibility push(hidden)
long call6(long number, long a, long b, long c, long d, long e, long f);
#pragma GCC visibility pop
__asm__(".text\n"
        "call6:\n"
        "    push %ebp; push %ebx; push %esi; push %edi\n"
        "    mov 20(%esp), %eax\n"
        "    mov 24(%esp), %ebx; mov 28(%esp), %ecx; mov 32(%esp), %edx\n"
        "    mov 36(%esp), %esi; mov 40(%esp), %edi; mov 44(%esp), %ebp\n"
        "    int $0x80\n"
        "    pop %edi; pop %esi; pop %ebx; pop %ebp\n"
        "    ret\n");

enum { FSAVE = 112 }; /* struct _fpstate_32 of asm/sigcontext.h: FSAVE's image comes first */

static uint8_t *xstate_of(ucontext_t *uc) { return (uint8_t *)uc->uc_mcontext.fpregs + FSAVE; }

static uint64_t where(const ucontext_t *uc) { return (uint32_t)uc->uc_mcontext.gregs[REG_EIP]; }

/* FS and GS have a selector each, whose bases are set as a run wants them. */
static struct user_desc segments[2];

static void set_base(int number, uint64_t base)
{
    struct user_desc *segment = &segments[number];
    if (segment->base_addr == base && segment->useable)
        return;
    segment->base_addr = (unsigned)base;
    segment->limit = 0xfffff;
    segment->seg_32bit = segment->limit_in_pages = segment->useable = 1;
    call6(SYS_set_thread_area, (long)segment, 0, 0, 0, 0, 0);
}

static void prepare_segments(void)
{
    for (int number = 0; number < 2; number++) {
        segments[number].entry_number = -1; /* any that is free */
        set_base(number, 0);
    }
}

/* Where `general` of a run, in the order of 64 bits, stands in a 32-bit frame. */
static const uint8_t order[GENERAL - 8]
    = {REG_EDI, REG_ESI, REG_EBP, REG_EBX, REG_EDX, REG_EAX, REG_ECX, REG_ESP, REG_EIP, REG_EFL};

/* The kernel takes the x87 state from FSAVE's image (arch/x86/kernel/fpu/signal.c). */
static void put_x87(uint8_t *image, const uint8_t *state)
{
    uint16_t control, status, opcode;
    uint32_t words[7];
    __builtin_memcpy(&control, state, 2);
    __builtin_memcpy(&status, state + 2, 2);
    __builtin_memcpy(&opcode, state + 6, 2);
    words[0] = control | 0xffff0000;
    words[1] = status | 0xffff0000;
    words[2] = 0xffff0000;
    for (int number = 0; number < 8; number++)
        if (!(state[4] >> number & 1))
            words[2] |= 3u << 2 * number; /* empty */
    __builtin_memcpy(&words[3], state + 8, 4);
    words[4] = (uint32_t)opcode << 16;
    __builtin_memcpy(&words[5], state + 16, 4);
    words[6] = 0;
    __builtin_memcpy(image, words, sizeof words);
    for (int number = 0; number < 8; number++)
        __builtin_memcpy(image + sizeof words + 10 * number, state + 32 + 16 * number, 10);
}

/* The kernel's own image lacks the opcode (__convert_from_fxsr of arch/x86/kernel/fpu/regset.c). */
static void keep_frame(ucontext_t *uc)
{
    put_x87((uint8_t *)uc->uc_mcontext.fpregs, xstate_of(uc));
}

static void load_frame(ucontext_t *uc, const struct one_case *now)
{
    greg_t *general = uc->uc_mcontext.gregs;
    for (int number = 0; number < GENERAL - 8; number++)
        general[order[number]] = (greg_t)now->general[8 + number];
    keep_frame(uc);
    set_base(0, now->fs_base);
    set_base(1, now->gs_base);
    general[REG_CS] = 0x23; /* __USER32_CS */
    general[REG_SS] = general[REG_DS] = general[REG_ES] = 0x2b; /* __USER_DS */
    general[REG_FS] = (greg_t)(segments[0].entry_number << 3 | 3);
    general[REG_GS] = (greg_t)(segments[1].entry_number << 3 | 3);
}

static void set_own_flags(long wanted, long among)
{
    __asm__ volatile("pushfl; andl %1, (%%esp); orl %0, (%%esp); popfl"
                     : : "r"(wanted), "r"(~among) : "cc", "memory");
}

static void save_frame(const ucontext_t *uc, struct result *result)
{
    const greg_t *general = uc->uc_mcontext.gregs;
    for (int number = 0; number < GENERAL; number++)
        result->general[number] = number < 8 ? 0 : (uint32_t)general[order[number - 8]];
    result->trap = (uint32_t)general[REG_TRAPNO];
    result->error = (uint32_t)general[REG_ERR];
    result->cr2 = uc->uc_mcontext.cr2;
    result->cs = (uint16_t)general[REG_CS];
    result->ss = (uint16_t)general[REG_SS];
    result->ds = (uint16_t)general[REG_DS];
    result->es = (uint16_t)general[REG_ES];
    result->fs = (uint16_t)general[REG_FS];
    result->gs = (uint16_t)general[REG_GS];
    result->fs_base = segments[0].base_addr; /* if the selectors are still those */
    result->gs_base = segments[1].base_addr;
}

#define ENTRY \
    ".text\n" \
    "entry:\n" \
    "    pushfl\n" \
    "    andl $~0x40000, (%esp)\n" \
    "    popfl\n" \
    "    jmp handle\n" \
    "restorer:\n" \
    "    movl $173, %eax\n" /* rt_sigreturn */ \
    "    int $0x80\n" \
    ".globl _start\n" \
    "_start:\n" \
    "    movl %esp, %eax\n" \
    "    andl $-16, %esp\n" \
    "    subl $12, %esp\n" \
    "    pushl %eax\n" \
    "    call begin\n"
