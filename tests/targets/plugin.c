/* The library that dlopen_loop.c loads. */
long plugin_work(long a);
long plugin_start(long a);
static long offset;

__attribute__((noinline)) long plugin_start(long a)
{
    return a + 1;
}

/* Runs inside dlopen, before it returns. */
__attribute__((constructor)) static void start(void)
{
    offset = plugin_start(0);
}

__attribute__((noinline)) long plugin_work(long a)
{
    return 2 * a + offset;
}
