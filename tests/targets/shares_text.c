/* shares_text FILE: has FILE mapped to be executed and written to, shared with every other program
 * that maps it. Waits, and ends with 7. */
#include "target.h"
#include <fcntl.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
    int file = argc > 1 ? open(argv[1], O_RDWR) : -1;
    void *text = mmap(NULL, 16384, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, file, 0);
    if (text == MAP_FAILED)
        return 2;
    say_ready();
    wait_go();
    return 7;
}
