/* holds_library LIBRARY: loads it, and waits. */
#include "target.h"
#include <dlfcn.h>

int main(int argc, char **argv)
{
    if (argc < 2 || !dlopen(argv[1], RTLD_NOW))
        return 2;
    say_ready();
    wait_go();
    _exit(6);
}
