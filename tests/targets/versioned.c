/* A library with two versions of one name, an IFUNC, an alias and a local function. */

int copy_old(int a) { return a + 1; }
static __attribute__((noinline)) int helper(int a) { return a * 3; }
int copy_new(int a) { return helper(a) + 2; }

__asm__(".symver copy_old, copy@V1");
__asm__(".symver copy_new, copy@@V2");

int plain(void) { return 3; }
int alias(void) __attribute__((alias("plain")));

static int implementation(void) { return 4; }
typedef int function(void);
static function *choose(void) { return implementation; }
int chosen(void) __attribute__((ifunc("choose")));
