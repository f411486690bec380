/* Runs given machine code from given registers and memory, and reports where it ended.
 *
 * Requests on standard input, replies on standard output, both fixed in size; the layouts are
 * repeated in tests/support/native.py. Around the code everything is int3, so that each way out
 * ends in a trap; faults end there too. Registers are loaded by a signal handler's return and
 * saved by the next signal's frame, on another stack: nothing below RSP is touched. With the
 * selector of 32-bit code in that frame, the code runs in 32-bit mode.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

enum { ARENA = 0x10000, WINDOW = 4096, MAX_CODE = 64, MAX_STEPS = 4, GENERAL = 18 };
/* arch/x86/include/asm/segment.h: __USER32_CS, and __USER_DS. */
enum { CODE32 = 0x23, FLAT_DATA = 0x2b, SET_THREAD_AREA_32 = 243 };
enum { SITE, SLOT, DATA, STACK, KINDS };

/* Each base has its arenas at these distances: all within reach of a 32-bit displacement.
 * DATA and STACK are one page each, and nothing is mapped beside them. */
static const uint64_t distances[KINDS] = {0, 0x1000000, 0x2000000, 0x3000000};
/* The last is out of reach of the others. */
static const uint64_t bases[] = {0x10000000, 0x90000000, 0x200000000000, 0x700000000000};
enum { BASES = sizeof bases / sizeof bases[0] };

struct code {
    uint64_t at;
    uint64_t size;
    uint8_t bytes[MAX_CODE];
};

struct request {
    uint64_t general[GENERAL]; /* the order of REG_R8 ... REG_EFL in ucontext_t */
    uint64_t gs_base;
    uint64_t code_selector; /* CODE32: run in 32-bit mode, with flat segments but for GS */
    struct code code[2]; /* what is put where before the run; size 0: nothing */
    uint64_t base; /* whose DATA and STACK get the contents below */
    uint64_t step_from, step_to; /* single-step there; empty: run freely */
    uint8_t x87[128], xmm[256];
    uint8_t data[WINDOW], stack[WINDOW];
};

struct reply {
    int32_t signal, code;
    uint64_t fault_address;
    uint64_t general[GENERAL];
    uint64_t steps;
    uint64_t stepped[MAX_STEPS][GENERAL];
    uint16_t selectors[8]; /* DS, ES, FS, GS, CS, SS */
    uint8_t fxsave[512];
    uint8_t ymm_high[256];
    uint8_t data[WINDOW], stack[WINDOW];
};

static struct request request;
static struct reply reply;
static sigjmp_buf home;
static struct user_desc *thread_area; /* below 4 GiB */
static uint8_t *writable[BASES][2]; /* second mappings of the SITE and SLOT arenas */

static void begin(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    ucontext_t *uc = context;
    for (int i = 0; i < GENERAL; i++)
        uc->uc_mcontext.gregs[i] = (greg_t)request.general[i];
    if (request.code_selector == CODE32) {
        uint16_t thread_selector = (uint16_t)(thread_area->entry_number << 3 | 3);
        __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %1, %%gs"
                         : : "r"(FLAT_DATA), "r"((unsigned)thread_selector));
        /* The lowest of its four words is CS. */
        uc->uc_mcontext.gregs[REG_CSGSFS] &= ~0xffffLL;
        uc->uc_mcontext.gregs[REG_CSGSFS] |= CODE32;
    }
    if (request.step_from != request.step_to)
        uc->uc_mcontext.gregs[REG_EFL] |= 0x100; /* TF */
    memcpy(uc->uc_mcontext.fpregs->_st, request.x87, sizeof request.x87);
    memcpy(uc->uc_mcontext.fpregs->_xmm, request.xmm, sizeof request.xmm);
}

static void end(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    if (number == SIGTRAP && info->si_code == TRAP_TRACE && rip >= request.step_from
        && rip < request.step_to && reply.steps < MAX_STEPS) {
        memcpy(reply.stepped[reply.steps++], uc->uc_mcontext.gregs, sizeof reply.stepped[0]);
        return;
    }
    __asm__ volatile("mov %%ds, %0; mov %%es, %1; mov %%fs, %2; mov %%gs, %3"
                     : "=m"(reply.selectors[0]), "=m"(reply.selectors[1]),
                       "=m"(reply.selectors[2]), "=m"(reply.selectors[3]));
    reply.selectors[4] = (uint16_t)uc->uc_mcontext.gregs[REG_CSGSFS];
    reply.selectors[5] = (uint16_t)(uc->uc_mcontext.gregs[REG_CSGSFS] >> 48);
    reply.signal = number;
    reply.code = info->si_code;
    reply.fault_address = (uint64_t)info->si_addr;
    memcpy(reply.general, uc->uc_mcontext.gregs, sizeof reply.general);
    uint8_t *state = (uint8_t *)uc->uc_mcontext.fpregs;
    memcpy(reply.fxsave, state, sizeof reply.fxsave);
    /* struct _fpx_sw_bytes at 464: magic1, extended_size, xfeatures; AVX state at 576. */
    uint32_t magic;
    uint64_t features;
    memcpy(&magic, state + 464, sizeof magic);
    memcpy(&features, state + 512, sizeof features);
    if (magic == 0x46505853 && features & 4)
        memcpy(reply.ymm_high, state + 576, sizeof reply.ymm_high);
    siglongjmp(home, 1);
}

static void *map(uint64_t at, size_t size, int protection, int file)
{
    int flags = at ? MAP_FIXED_NOREPLACE : 0;
    flags |= file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *got = mmap((void *)at, size, protection, flags, file, 0);
    if (got == MAP_FAILED || (at && got != (void *)at)) {
        perror("mmap");
        exit(3);
    }
    return got;
}

static void set_up(void)
{
    for (int base = 0; base < BASES; base++)
        for (int kind = 0; kind < KINDS; kind++) {
            uint64_t at = bases[base] + distances[kind];
            if (kind == DATA || kind == STACK) {
                map(at, WINDOW, PROT_READ | PROT_WRITE, -1);
                continue;
            }
            int file = memfd_create("arena", 0);
            if (file < 0 || ftruncate(file, ARENA))
                exit(3);
            map(at, ARENA, PROT_READ | PROT_EXEC, file);
            writable[base][kind] = map(0, ARENA, PROT_READ | PROT_WRITE, file);
            memset(writable[base][kind], 0xcc, ARENA);
            close(file);
        }
    static uint8_t handler_stack[1 << 18];
    stack_t alternative = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    sigaltstack(&alternative, NULL);
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigfillset(&action.sa_mask);
    action.sa_sigaction = end;
    static const int ends[] = {SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGSYS, SIGPROF};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        sigaction(ends[i], &action, NULL);
    action.sa_sigaction = begin;
    sigaction(SIGUSR1, &action, NULL);
}

/* A segment for GS, as a 32-bit C library has one; false if the kernel runs no 32-bit code. */
static int set_thread_area(uint32_t base)
{
    if (!thread_area) {
        thread_area = mmap(NULL, sizeof *thread_area, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        if (thread_area == MAP_FAILED)
            exit(3);
        thread_area->entry_number = (unsigned)-1;
    }
    thread_area->base_addr = base;
    thread_area->limit = 0xfffff;
    thread_area->seg_32bit = thread_area->limit_in_pages = thread_area->useable = 1;
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"((long)SET_THREAD_AREA_32), "b"(thread_area)
                     : "memory", "r8", "r9", "r10", "r11");
    return result == 0;
}

static void put_code(const struct code *code, int restore)
{
    for (int base = 0; base < BASES; base++)
        for (int kind = SITE; kind <= SLOT; kind++) {
            uint64_t offset = code->at - bases[base] - distances[kind];
            if (code->size && offset <= ARENA - MAX_CODE) {
                if (restore)
                    memset(writable[base][kind] + offset, 0xcc, MAX_CODE);
                else
                    memcpy(writable[base][kind] + offset, code->bytes, code->size);
            }
        }
}

int main(void)
{
    set_up();
    while (fread(&request, sizeof request, 1, stdin) == 1) {
        memset(&reply, 0, sizeof reply);
        memcpy((void *)(request.base + distances[DATA]), request.data, WINDOW);
        memcpy((void *)(request.base + distances[STACK]), request.stack, WINDOW);
        put_code(&request.code[0], 0);
        put_code(&request.code[1], 0);
        if (request.code_selector != CODE32)
            syscall(SYS_arch_prctl, ARCH_SET_GS, request.gs_base);
        else if (!set_thread_area((uint32_t)request.gs_base))
            return 4;
        struct itimerval limit = {.it_value = {.tv_sec = 2}}, none = {0};
        if (sigsetjmp(home, 1) == 0) {
            setitimer(ITIMER_PROF, &limit, NULL);
            raise(SIGUSR1);
        }
        setitimer(ITIMER_PROF, &none, NULL);
        put_code(&request.code[0], 1);
        put_code(&request.code[1], 1);
        memcpy(reply.data, (void *)(request.base + distances[DATA]), WINDOW);
        memcpy(reply.stack, (void *)(request.base + distances[STACK]), WINDOW);
        if (fwrite(&reply, sizeof reply, 1, stdout) != 1 || fflush(stdout))
            return 1;
    }
    return 0;
}
