/* dlopen_loop LIBRARY ROUNDS: loads LIBRARY, calls its plugin_work() thrice, unloads it,
 * ROUNDS times over; prints how often plugin_work() ran. */
#include "target.h"
#include <dlfcn.h>

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    unsigned long total = 0;
    int failed = 0;
    say_ready();
    wait_go();
    for (int round = 0; round < atoi(argv[2]); round++) {
        void *library = dlopen(argv[1], RTLD_NOW);
        if (!library) {
            fprintf(stderr, "%s\n", dlerror());
            return 3;
        }
        long (*work)(long) = (long (*)(long))dlsym(library, "plugin_work");
        for (int i = 0; i < 3; i++) {
            if (work(i) != 2 * i + 1)
                failed++;
            total++;
        }
        dlclose(library);
    }
    printf("plugin_work %lu\nfailed %d\n", total, failed);
    return 0;
}
