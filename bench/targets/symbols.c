/* symbols: says that it is ready, waits to be let on, calls function_0() once, and once more says
 * that it is ready and waits. Built with -DSYMBOLS=N: it has N functions, function_0 and so on. */
#include "../../tests/targets/target.h"

#define TEXT(value) #value
#define TEXT_OF(value) TEXT(value)

__asm__(".text\n.altmacro\n"
        ".macro one n\n.globl function_\\n\n.type function_\\n, @function\n"
        "function_\\n: endbr64\nret\n.size function_\\n, . - function_\\n\n.endm\n"
        ".set i, 0\n.rept " TEXT_OF(SYMBOLS) "\none %i\n.set i, i + 1\n.endr\n.noaltmacro\n");
extern void function_0(void);

int main(void)
{
    say_ready();
    wait_go();
    function_0();
    say_ready();
    wait_go();
    return 0;
}
