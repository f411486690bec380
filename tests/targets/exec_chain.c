/* exec_chain N: a thread with six sisters executes the program anew with N - 1; at 0 it ends. */
#include "target.h"
#include <pthread.h>

static char **arguments;

static void *sleep_on(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void *exec_next(void *unused)
{
    char number[16];
    snprintf(number, sizeof number, "%d", atoi(arguments[1]) - 1);
    execl(arguments[0], arguments[0], number, NULL);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    arguments = argv;
    if (argc < 2 || atoi(argv[1]) == 0)
        return 21;
    for (int i = 0; i < 6; i++)
        pthread_create(&thread, NULL, sleep_on, NULL);
    pthread_create(&thread, NULL, exec_next, NULL);
    pthread_join(thread, NULL);
    return 1;
}
