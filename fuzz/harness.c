/* Runs batches of machine code from given states, thousands a second, and reports each end.
 *
 * The program is a loop inside of a signal handler. Each run begins with the handler's return,
 * which loads the general registers and the whole XSAVE area, and ends with the next signal, whose
 * frame has them: one signal a run, and nothing is written below the run's RSP.
 * It has no C library: a run may change FS and GS as it likes. A seccomp filter answers ENOSYS to
 * every system call that is not made by this program's own text. Layouts: fuzz/harness.py.
 *
 * Built with -m32 it is a 32-bit program and runs 32-bit code: harness_64.h and harness_32.h have
 * what differs. The layouts do not: every field is aligned by itself.
 */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#if defined __x86_64__
#include <asm/prctl.h>
#else
#include <asm/ldt.h>
#endif

enum { PAGE = 4096, ARENA = 0x10000, MAX_CODE = 96, GENERAL = 18, BASES = 4 };
enum { SITE, SLOT, DATA, STACK, KINDS };
enum { XSTATES = 64, MEMORIES = 16, CASES = 1024 };
enum { TF = 0x100, NT = 0x4000, ID = 0x200000, XSTATE = PAGE, SW_RESERVED = 464, HEADER = 512 };

static const uint64_t distances[KINDS] = {0, 0x1000000, 0x2000000, 0x3000000};
/* DATA: a page to write and one to read only. STACK: one page. Nothing is mapped beside them. */
static const uint64_t sizes[KINDS] = {ARENA, ARENA, 2 * PAGE, PAGE};

struct code {
    uint64_t at, size;
    uint8_t bytes[MAX_CODE];
};

struct one_case {
    uint64_t general[GENERAL]; /* the order of REG_R8 ... REG_EFL in ucontext_t of 64 bits */
    uint64_t fs_base, gs_base;
    uint32_t base, xstate, memory, padding;
    /* A trap of TF at one of the offsets in this mask from step_start is passed over. */
    uint64_t step_start, step_over;
    struct code code[2];
};

struct result {
    int32_t signal, code;
    uint64_t fault_address;
    uint64_t general[GENERAL];
    uint64_t trap, error, cr2, fs_base, gs_base;
    uint16_t cs, ss, ds, es, fs, gs, padding[2];
    uint64_t steps;
    uint8_t xstate[XSTATE];
    uint8_t data[PAGE], stack[PAGE];
};

struct memory {
    uint8_t data[2 * PAGE], stack[PAGE];
};

struct shared {
    /* What this processor has, told once. */
    uint64_t xstate_size, features, components[64][2]; /* offset and size of each */
    uint64_t count; /* asked for in this batch */
    volatile uint64_t current; /* the run that is under way */
    uint8_t template[XSTATE];
    uint8_t xstates[XSTATES][XSTATE];
    struct memory memories[MEMORIES][BASES];
    struct one_case cases[CASES];
    struct result results[CASES];
};

static struct shared *shared;
static uint8_t *writable[BASES][KINDS]; /* second mappings of the arenas */
static uint64_t total, last_tick;
static int started;
static uint8_t handler_stack[1 << 16] __attribute__((aligned(64)));

#if defined __x86_64__
#include "harness_64.h"
#else
#include "harness_32.h"
#endif

#pragma GCC visibility push(hidden)
extern const char text_start[] __asm__("__executable_start");
extern const char text_end[] __asm__("etext");
#pragma GCC visibility pop

#define CALL(number, a, b, c, d) \
    call6(number, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

__attribute__((noreturn)) static void leave(int status)
{
    CALL(SYS_exit_group, status, 0, 0, 0);
    __builtin_unreachable();
}

static void copy(void *to, const void *from, size_t size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

static void fill(void *to, uint8_t byte, size_t size)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
}

void *memcpy(void *to, const void *from, size_t size)
{
    copy(to, from, size);
    return to;
}

void *memset(void *to, int byte, size_t size)
{
    fill(to, (uint8_t)byte, size);
    return to;
}

static void put_code(const struct code *code, int restore)
{
    for (int base = 0; base < BASES; base++)
        for (int kind = SITE; kind <= SLOT; kind++) {
            uint64_t offset = code->at - bases[base] - distances[kind];
            if (!code->size || offset >= ARENA)
                continue;
            uint64_t size = code->size < ARENA - offset ? code->size : ARENA - offset;
            if (restore)
                fill(writable[base][kind] + offset, 0xcc, size);
            else
                copy(writable[base][kind] + offset, code->bytes, size);
        }
}

static void learn_about_the_frame(const uint8_t *state)
{
    uint32_t magic, size;
    uint64_t features;
    copy(&magic, state + SW_RESERVED, 4);
    copy(&features, state + SW_RESERVED + 8, 8);
    copy(&size, state + SW_RESERVED + 16, 4);
    if (magic != 0x46505853)
        leave(4);
    shared->xstate_size = size < XSTATE ? size : XSTATE;
    shared->features = features;
    copy(shared->template, state, shared->xstate_size);
    for (uint32_t number = 2; number < 63; number++) {
        if (!(features >> number & 1))
            continue;
        uint32_t a = 0xd, b, c = number, d;
        __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        shared->components[number][0] = b;
        shared->components[number][1] = a;
    }
}

static void load(ucontext_t *uc)
{
    const struct one_case *now = &shared->cases[shared->current];
    const uint8_t *wanted = shared->xstates[now->xstate];
    uint8_t *state = xstate_of(uc);
    copy(state, wanted, SW_RESERVED);
    copy(state + HEADER, wanted + HEADER, shared->xstate_size - HEADER);
    const struct memory *memory = &shared->memories[now->memory][now->base];
    copy(writable[now->base][DATA], memory->data, sizeof memory->data);
    copy(writable[now->base][STACK], memory->stack, sizeof memory->stack);
    put_code(&now->code[0], 0);
    put_code(&now->code[1], 0);
    load_frame(uc, now);
    /* The return does not load ID (arch/x86/kernel/signal_64.c): it keeps the handler's. */
    set_own_flags((long)now->general[GENERAL - 1] & ID, ID | NT);
    total++;
}

static void save(int number, const siginfo_t *info, ucontext_t *uc)
{
    const struct one_case *now = &shared->cases[shared->current];
    struct result *result = &shared->results[shared->current];
    result->signal = number;
    result->code = info->si_code;
    result->fault_address = (uintptr_t)info->si_addr;
    save_frame(uc, result);
    copy(result->xstate, xstate_of(uc), shared->xstate_size);
    copy(result->data, writable[now->base][DATA], sizeof result->data);
    copy(result->stack, writable[now->base][STACK], sizeof result->stack);
    put_code(&now->code[0], 1);
    put_code(&now->code[1], 1);
}

static void next_batch(void)
{
    char byte = 'd';
    if (CALL(SYS_write, 1, &byte, 1, 0) != 1 || CALL(SYS_read, 0, &byte, 1, 0) != 1)
        leave(0);
    shared->current = 0;
    shared->results[0].steps = 0;
}

static int is_passed_over(int number, const siginfo_t *info, const ucontext_t *uc)
{
    const struct one_case *now = &shared->cases[shared->current];
    uint64_t offset = where(uc) - now->step_start;
    if (number != SIGTRAP || info->si_code != TRAP_TRACE || offset >= 64
        || !(now->step_over >> offset & 1))
        return 0;
    return ++shared->results[shared->current].steps < 10000;
}

__attribute__((used)) static void handle(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    if (started && number == SIGPROF) {
        /* Two ticks of processor time in one run: it does not end. */
        if (last_tick != total) {
            last_tick = total;
            keep_frame(uc);
            return;
        }
    } else if (started && is_passed_over(number, info, uc)) {
        keep_frame(uc);
        return;
    }
    if (!started) {
        started = 1;
        learn_about_the_frame(xstate_of(uc));
        next_batch();
    } else {
        save(number, info, uc);
        if (shared->current + 1 < shared->count) {
            shared->results[shared->current + 1].steps = 0;
            shared->current = shared->current + 1;
        } else {
            next_batch();
        }
    }
    load(uc);
}

#pragma GCC visibility push(hidden)
extern const char entry[], restorer[];
#pragma GCC visibility pop
/* AC of the run is still set there, under which this program's own accesses would fault. */
__asm__(ENTRY);

static void map_arenas(void)
{
    for (int base = 0; base < BASES; base++)
        for (int kind = 0; kind < KINDS; kind++) {
            long at = (long)(bases[base] + distances[kind]);
            long size = (long)sizes[kind];
            long file = CALL(SYS_memfd_create, "arena", 0, 0, 0);
            int rights = kind <= SLOT ? PROT_READ | PROT_EXEC : PROT_READ | PROT_WRITE;
            if (file < 0 || CALL(SYS_ftruncate, file, size, 0, 0)
                || call6(MAP, at, size, rights, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0)
                    != at)
                leave(3);
            long second
                = call6(MAP, 0, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            if (second < 0 && second > -PAGE)
                leave(3);
            writable[base][kind] = (uint8_t *)second;
            if (kind <= SLOT)
                fill(writable[base][kind], 0xcc, ARENA);
            if (kind == DATA && CALL(SYS_mprotect, at + PAGE, PAGE, PROT_READ, 0))
                leave(3);
            CALL(SYS_close, file, 0, 0, 0);
        }
}

static void set_handlers(void)
{
    struct {
        const void *handler;
        unsigned long flags;
        const void *restorer;
        uint64_t mask;
    } action = {entry, SA_SIGINFO | SA_ONSTACK | SA_RESTART | 0x04000000, restorer, ~0ull};
    stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    CALL(SYS_sigaltstack, &stack, 0, 0, 0);
    static const int signals[]
        = {SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGSYS, SIGPROF};
    for (unsigned i = 0; i < sizeof signals / sizeof signals[0]; i++)
        if (CALL(SYS_rt_sigaction, signals[i], &action, 0, 8))
            leave(3);
    struct itimerval tick = {{0, 40000}, {0, 40000}};
    CALL(SYS_setitimer, ITIMER_PROF, &tick, 0, 0);
}

#define IP_LOW offsetof(struct seccomp_data, instruction_pointer)

static void allow_only_own_calls(void)
{
    uint64_t start = (uintptr_t)text_start, end = (uintptr_t)text_end;
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, IP_LOW + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(start >> 32), 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, IP_LOW),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)start, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)end, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 38), /* ENOSYS */
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    if (start >> 32 != end >> 32 || CALL(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0)
        || CALL(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program, 0))
        leave(5);
}

/* The one argument is the number of the descriptor of the shared memory. */
__attribute__((used, noreturn)) static void begin(const long *stack)
{
    if (stack[0] != 2)
        leave(2);
    long file = 0;
    for (const char *digit = (const char *)stack[2]; *digit; digit++)
        file = file * 10 + (*digit - '0');
    long got = call6(
        MAP, 0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (got < 0 && got > -PAGE)
        leave(3);
    shared = (struct shared *)got;
    CALL(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0);
    prepare_segments();
    map_arenas();
    set_handlers();
    allow_only_own_calls();
    __asm__ volatile("int3");
    leave(6);
}
