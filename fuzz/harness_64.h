/* What harness.c needs to know of 64-bit programs. */
static const uint64_t bases[BASES] = {0x10000000, 0x90000000, 0x200000000000, 0x700000000000};

enum { MAP = SYS_mmap, ARCHITECTURE = (int)AUDIT_ARCH_X86_64 };

static long call6(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static uint8_t *xstate_of(ucontext_t *uc) { return (uint8_t *)uc->uc_mcontext.fpregs; }

static uint64_t where(const ucontext_t *uc) { return (uint64_t)uc->uc_mcontext.gregs[REG_RIP]; }

static void prepare_segments(void) {}

/* For a return into the run that was interrupted. */
static void keep_frame(ucontext_t *uc) { (void)uc; }

static void load_frame(ucontext_t *uc, const struct one_case *now)
{
    __builtin_memcpy(uc->uc_mcontext.gregs, now->general, sizeof now->general);
    uc->uc_mcontext.gregs[REG_CSGSFS] = 0x002b000000000033; /* __USER_CS and __USER_DS */
    call6(SYS_arch_prctl, ARCH_SET_FS, (long)now->fs_base, 0, 0, 0, 0);
    call6(SYS_arch_prctl, ARCH_SET_GS, (long)now->gs_base, 0, 0, 0, 0);
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(0));
}

static void set_own_flags(long wanted, long among)
{
    __asm__ volatile("pushfq; andq %1, (%%rsp); orq %0, (%%rsp); popfq"
                     : : "r"(wanted), "r"(~among) : "cc", "memory");
}

static void save_frame(const ucontext_t *uc, struct result *result)
{
    const greg_t *general = uc->uc_mcontext.gregs;
    __builtin_memcpy(result->general, general, sizeof result->general);
    result->trap = (uint64_t)general[REG_TRAPNO];
    result->error = (uint64_t)general[REG_ERR];
    result->cr2 = (uint64_t)general[REG_CR2];
    result->cs = (uint16_t)general[REG_CSGSFS];
    result->ss = (uint16_t)((uint64_t)general[REG_CSGSFS] >> 48);
    __asm__ volatile("mov %%ds, %0" : "=r"(result->ds));
    __asm__ volatile("mov %%es, %0" : "=r"(result->es));
    __asm__ volatile("mov %%fs, %0" : "=r"(result->fs));
    __asm__ volatile("mov %%gs, %0" : "=r"(result->gs));
    call6(SYS_arch_prctl, ARCH_GET_FS, (long)&result->fs_base, 0, 0, 0, 0);
    call6(SYS_arch_prctl, ARCH_GET_GS, (long)&result->gs_base, 0, 0, 0, 0);
}

#define ENTRY \
    ".text\n" \
    "entry:\n" \
    "    pushfq\n" \
    "    andq $~0x40000, (%rsp)\n" \
    "    popfq\n" \
    "    jmp handle\n" \
    "restorer:\n" \
    "    movl $15, %eax\n" /* rt_sigreturn */ \
    "    syscall\n" \
    ".globl _start\n" \
    "_start:\n" \
    "    movq %rsp, %rdi\n" \
    "    andq $-16, %rsp\n" \
    "    call begin\n"
