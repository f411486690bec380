/* map_storm LIBRARY COUNT: threads load and unload LIBRARY, map and unmap its file and other memory,
 * and change the protection of this program's text, all the time; meanwhile, once told to go, it
 * calls hot() COUNT times. Prints how often, and how often the others' work went wrong. */
#include "target.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

static atomic_int stop;
static atomic_long calls, worked, wrong;
static const char *library;

NOINLINE long hot(long a)
{
    atomic_fetch_add(&calls, 1);
    return a + 1;
}

static void *loads(void *argument)
{
    (void)argument;
    while (!stop) {
        void *handle = dlopen(library, RTLD_NOW);
        long (*work)(long) = handle ? (long (*)(long))dlsym(handle, "plugin_work") : NULL;
        if (!work || work(3) != 7)
            atomic_fetch_add(&wrong, 1);
        atomic_fetch_add(&worked, 1);
        if (handle)
            dlclose(handle);
    }
    return NULL;
}

static void *maps(void *argument)
{
    (void)argument;
    int file = open(library, O_RDONLY | O_CLOEXEC);
    for (long i = 0; !stop; i++) {
        int protection = i & 1 ? PROT_READ | PROT_EXEC : PROT_READ | PROT_WRITE;
        void *some = mmap(NULL, 16384, protection, MAP_PRIVATE, file, 0);
        void *none = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (some == MAP_FAILED || none == MAP_FAILED)
            atomic_fetch_add(&wrong, 1);
        munmap(some, 16384);
        munmap(none, 65536);
    }
    return NULL;
}

static void *protects(void *argument)
{
    (void)argument;
    char *page = (char *)((uintptr_t)hot & -4096);
    while (!stop) {
        if (mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC) != 0 ||
            mprotect(page, 8192, PROT_READ | PROT_EXEC) != 0)
            atomic_fetch_add(&wrong, 1);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    library = argv[1];
    long count = atol(argv[2]);
    void *(*parts[])(void *) = {loads, maps, protects};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, parts[i], NULL);
    say_ready();
    wait_go();
    for (long i = 0; i < count; i++)
        hot(i);
    stop = 1;
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    printf("hot %ld\nworked %d\nwrong %ld\n", calls, worked > 0, wrong);
    return 6;
}
