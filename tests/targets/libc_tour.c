/* libc_tour: uses much of libc a little, and prints what came of it. */
#define _GNU_SOURCE
#include <ctype.h>
#include <fnmatch.h>
#include <glob.h>
#include <iconv.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <regex.h>
#include <search.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>
#include <wordexp.h>

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void memory(void)
{
    static unsigned char from[5000], to[5000];
    unsigned sum = 0;
    for (size_t size = 0; size < 5000; size = size * 2 + 1) {
        memset(from, (int)size, size);
        memcpy(to, from, size);
        memmove(to + 1, to, size ? size - 1 : 0);
        mempcpy(to, from, size / 2);
        sum = sum * 31 + to[size / 2] + (memcmp(from, to, size) == 0);
        sum += memchr(to, 7, size) != NULL;
        sum += memrchr(to, 9, size) != NULL;
        sum += memmem(to, size, "\1\1", 2) != NULL;
    }
    printf("memory %u\n", sum);
}

static void text(void)
{
    char buffer[300], copy[300];
    const char *words = "the quick,brown fox;jumps over the lazy dog";
    strcpy(buffer, words);
    strcat(buffer, " again");
    strncat(buffer, " and again", 4);
    strncpy(copy, buffer, sizeof copy);
    char *save = NULL;
    for (char *word = strtok_r(copy, " ,;", &save); word; word = strtok_r(NULL, " ,;", &save))
        printf("%s/%zu ", word, strlen(word));
    printf("\n%s %s %zu %zu\n", strstr(buffer, "fox"), strrchr(buffer, 'o'), strspn(buffer, "the "),
           strcspn(buffer, ",;"));
    printf("%d %d %d %d\n", strcasecmp("ABC", "abd") < 0, strncasecmp("ABC", "abd", 2),
           strverscmp("a9", "a10") < 0, strcoll("a", "b") < 0);
    printf("%s %s\n", strpbrk(buffer, ";,"), strcasestr(buffer, "LAZY"));
    char *copied = strdup(buffer), *part = strndup(buffer, 5);
    printf("%s %s %s\n", copied, part, part + 3);
    free(copied);
    free(part);
    strxfrm(copy, buffer, sizeof copy);
    wchar_t wide[100];
    mbstowcs(wide, "wide text", 100);
    printf("%ls %zu %d\n", wide, wcslen(wide), wcscmp(wide, L"wide") > 0);
    printf("%ld %s\n", wcstol(L"-42", NULL, 10), wcsstr(wide, L"text") ? "found" : "");
}

static void numbers(void)
{
    static const char *shown[] = {"1.5", "-2.25e10", "0x1.8p3", "inf", "nan", "1e-320", "3.14159265358979"};
    for (int i = 0; i < 7; i++) {
        double value = strtod(shown[i], NULL);
        printf("%g %.17g %a %10.3f %e\n", value, value, value, value, value);
        printf("%.3Lf %g\n", strtold(shown[i], NULL), strtof(shown[i], NULL));
    }
    printf("%ld %lu %lld %jd\n", strtol("-0x7f", NULL, 0), strtoul("777", NULL, 8), atoll("99"),
           strtoimax("zz", NULL, 36));
    printf("%5d|%-5d|%05d|%+d|%x|%o|%#X|%'d|%c|%%|%5s|%.2s\n", 42, 42, 42, 42, 255, 8, 255, 1234567,
           'c', "ab", "abcdef");
    int a, b;
    char word[20];
    double d;
    printf("%d ", sscanf("12 0x1f word 2.5", "%d %i %19s %lf", &a, &b, word, &d));
    printf("%d %d %s %g\n", a, b, word, d);
    srand(5);
    srandom(5);
    srand48(5);
    printf("%d %ld %ld %.6f\n", rand(), random(), lrand48(), drand48());
    div_t parts = div(17, 5);
    printf("%d %d %d %ld\n", parts.quot, parts.rem, abs(-3), labs(-4L));
}

static int visited;
static void visit(const void *node, VISIT when, int depth)
{
    (void)node;
    visited += when == postorder || when == leaf ? depth + 1 : 0;
}

static void tables(void)
{
    int values[60];
    char *words[] = {"pear", "fig", "apple", "plum", "date"};
    for (int i = 0; i < 60; i++)
        values[i] = i * 7919 % 101;
    qsort(values, 60, sizeof *values, by_number);
    qsort(words, 5, sizeof *words, by_text);
    int key = values[30], *hit = bsearch(&key, values, 60, sizeof key, by_number);
    printf("%d %s %s %d\n", values[7], words[0], words[4], hit && *hit == key);
    void *root = NULL;
    for (int i = 0; i < 30; i++)
        tsearch(&values[i * 2], &root, by_number);
    twalk(root, visit);
    for (int i = 0; i < 30; i += 3)
        tdelete(&values[i * 2], &root, by_number);
    printf("%d %d\n", visited, tfind(&values[2], &root, by_number) != NULL);
    hcreate(40);
    for (int i = 0; i < 5; i++)
        hsearch((ENTRY){words[i], &values[i]}, ENTER);
    printf("%d\n", *(int *)hsearch((ENTRY){"fig", NULL}, FIND)->data);
    hdestroy();
}

static void patterns(void)
{
    static const char *expressions[] = {"^a+b*(c|d)$", "[[:alpha:]]+[0-9]{2,3}", "(foo|bar)+\\.", "x.*y"};
    static const char *subjects[] = {"aaabbc", "code42 x123", "foobar.", "axbyc", "nothing"};
    for (int i = 0; i < 4; i++) {
        regex_t regex;
        regmatch_t match[3];
        if (regcomp(&regex, expressions[i], REG_EXTENDED | (i & 1 ? REG_ICASE : 0)) != 0)
            continue;
        for (int k = 0; k < 5; k++)
            if (regexec(&regex, subjects[k], 3, match, 0) == 0)
                printf("%d:%d %d-%d\n", i, k, match[0].rm_so, match[0].rm_eo);
        regfree(&regex);
    }
    glob_t files;
    wordexp_t expanded;
    printf("%d %d\n", fnmatch("*.[ch]", "a.c", 0), fnmatch("a?c", "abd", 0));
    if (glob("/etc/host[s]", 0, NULL, &files) == 0) {
        printf("%zu\n", files.gl_pathc);
        globfree(&files);
    }
    setenv("TOUR", "one two", 1);
    if (wordexp("$TOUR 'three four'", &expanded, WRDE_NOCMD) == 0) {
        printf("%zu %s\n", expanded.we_wordc, expanded.we_wordv[2]);
        wordfree(&expanded);
    }
}

static void times(void)
{
    struct tm broken;
    char buffer[100];
    time_t then = 1234567890;
    setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
    tzset();
    localtime_r(&then, &broken);
    strftime(buffer, sizeof buffer, "%A %d %B %Y %H:%M:%S %j %U %z %Z %c", &broken);
    printf("%s %ld\n", buffer, (long)mktime(&broken));
    memset(&broken, 0, sizeof broken);
    strptime("2001-02-03 04:05:06", "%Y-%m-%d %H:%M:%S", &broken);
    printf("%s", asctime_r(&broken, buffer));
    printf("%ld %s", (long)timegm(&broken), ctime_r(&then, buffer));
}

static void files(void)
{
    FILE *file = tmpfile();
    char *line = NULL, *kept = NULL;
    size_t room = 0, size = 0;
    for (int i = 0; i < 50; i++)
        fprintf(file, "line %d of fifty\n", i);
    fseek(file, 100, SEEK_SET);
    while (getline(&line, &room, file) > 0)
        size += strlen(line);
    rewind(file);
    printf("%zu %d %ld\n", size, fgetc(file), ftell(file));
    ungetc('z', file);
    printf("%s", fgets(line, (int)room, file));
    fclose(file);
    file = open_memstream(&kept, &size);
    fputs("kept in memory", file);
    fwrite("!!", 1, 2, file);
    fclose(file);
    printf("%s %zu\n", kept, size);
    free(kept);
    free(line);
    iconv_t to = iconv_open("UTF-16LE", "UTF-8");
    char in[] = "gr\xc3\xbc\xc3\x9f", out[40], *from = in, *into = out;
    size_t left = strlen(in), space = sizeof out;
    if (to != (iconv_t)-1) {
        iconv(to, &from, &left, &into, &space);
        iconv_close(to);
        printf("%zu %zu\n", left, space);
    }
}

static jmp_buf back;
static volatile sig_atomic_t signalled;

static void on_signal(int number)
{
    signalled = number;
}

int main(void)
{
    setlocale(LC_ALL, "C.UTF-8");
    memory();
    text();
    numbers();
    tables();
    patterns();
    times();
    files();
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    if (setjmp(back) == 0)
        longjmp(back, 1);
    printf("%d %s %s\n", signalled, strsignal(9), strerror(2));
    char *big = malloc(200000);
    big = realloc(big, 400000);
    free(big);
    for (int i = 1; i < 40; i++)
        free(calloc(i, i * 3));
    free(aligned_alloc(64, 640));
    printf("%d %d\n", isalpha('a') != 0, toupper('b'));
    return 3;
}
