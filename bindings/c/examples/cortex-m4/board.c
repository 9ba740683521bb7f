/* Start-up of a Cortex-M4F, and its console through the debugger (semihosting). */
#include "board.h"

/* Operations of Arm semihosting. */
enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_EXIT = 0x18 };
/* Its reasons for an exit. */
enum { RUN_TIME_ERROR = 0x20023, APPLICATION_EXIT = 0x20026 };

/* From the linker script. */
extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];

int main(void);
void reset(void);

static uint32_t ask_debugger(uint32_t operation, uint32_t argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register uint32_t r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void print(const char *text, size_t len)
{
    static uint32_t console; /* 0: not opened; the debugger gives no such handle */
    if (console == 0) {
        const uint32_t open[] = {(uint32_t)":tt", 4 /* to write */, 3 /* length of the name */};
        console = ask_debugger(SYS_OPEN, (uint32_t)open);
    }
    const uint32_t write[] = {console, (uint32_t)text, len};
    ask_debugger(SYS_WRITE, (uint32_t)write);
}

static void print_text(const char *text)
{
    size_t len = 0;
    while (text[len] != 0) {
        len++;
    }
    print(text, len);
}

void print_line(const char *text)
{
    print_text(text);
    print_text("\n");
}

void print_hash(const char *name, uint32_t hash)
{
    char digits[8];
    for (int i = 0; i < 8; i++) {
        digits[i] = "0123456789abcdef"[hash >> (28 - 4 * i) & 15];
    }
    print_text(name);
    print(digits, sizeof digits);
    print_text("\n");
}

static void end(uint32_t reason)
{
    ask_debugger(SYS_EXIT, reason);
    for (;;) {
        __asm__ volatile("wfi"); /* a debugger may decline to stop us */
    }
}

void fail(const char *what)
{
    print_text("failed: ");
    print_line(what);
    end(RUN_TIME_ERROR);
}

static void fault(void)
{
    fail("a fault or an unexpected interrupt");
}

void reset(void)
{
    volatile uint32_t *const coprocessors = (uint32_t *)0xE000ED88;
    *coprocessors |= 0xFu << 20; /* the FPU is off after a reset */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    for (uint32_t *from = data_load, *to = data_start; to < data_end;) {
        *to++ = *from++;
    }
    for (uint32_t *to = bss_start; to < bss_end;) {
        *to++ = 0;
    }
    end(main() == 0 ? APPLICATION_EXIT : RUN_TIME_ERROR);
}

/* The stack, the entry, and the 14 exceptions of the architecture. */
__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} vectors = {
    stack_top,
    {reset, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault},
};
