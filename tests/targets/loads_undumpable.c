/* loads_undumpable LIBRARY: makes itself undumpable, calls hot() thirty times, with LIBRARY loaded and
 * unloaded at each third. */
#include "target.h"
#include <dlfcn.h>
#include <sys/prctl.h>

NOINLINE long hot(long a)
{
    return a + 1;
}

int main(int argc, char **argv)
{
    long value = 0;
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    for (int i = 0; i < 30; i++) {
        value = hot(value);
        if (i % 3 == 0) {
            void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
            if (!library)
                return 3;
            dlclose(library);
        }
    }
    return value == 30 ? 6 : 4;
}
