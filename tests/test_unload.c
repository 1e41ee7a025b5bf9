/* The shared library as a plugin has it, loaded and unloaded while the program goes on: nothing of
 * it stays behind, no thread, no generated code, nothing in the environment, which would point to
 * where the library was. */
#include "costate.h"
#include "tests/support.h"
#include <dirent.h>
#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;
static const char *path;

static int threads(void)
{
    int n = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; tasks && (task = readdir(tasks));) n += task->d_name[0] != '.';
    if (tasks) closedir(tasks);
    return n;
}

/* Stretches of executable memory that are no file's. */
static int generated(void)
{
    int n = 0;
    char line[4096], access[8], inode[24];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        if (sscanf(line, "%*s %7s %*s %*s %23s", access, inode) == 2)
            n += access[2] == 'x' && !strcmp(inode, "0") && !strchr(line, '[');
    if (maps) fclose(maps);
    return n;
}

static int settings(void)
{
    int n = 0;
    while (environ[n]) n++;
    return n;
}

#define FUNCTION(name)                                                                             \
    __typeof__(name) *name##_;                                                                     \
    memcpy(&name##_, &(void *){ dlsym(library, #name) }, sizeof name##_)

/* A product that is worth two threads. */
static void use(void *library)
{
    enum { SIZE = 64, ROWS = 1000 };
    static float weights[SIZE * SIZE], rows[ROWS * SIZE], result[ROWS * SIZE];
    FUNCTION(ad_tape_new);
    FUNCTION(ad_input_data);
    FUNCTION(ad_input_rows_data);
    FUNCTION(ad_matmul);
    FUNCTION(ad_compile);
    FUNCTION(ad_workspace_new);
    FUNCTION(ad_run);
    FUNCTION(ad_workspace_free);
    FUNCTION(ad_program_free);
    FUNCTION(ad_tape_free);
    ad_tape *t = ad_tape_new_(AD_F32);
    ad_var w = ad_input_data_(t, AD_SHAPE(SIZE, SIZE), AD_F32, NULL),
           x = ad_input_rows_data_(t, AD_SHAPE(AD_ROWS, SIZE), 1, AD_F32, NULL),
           y = ad_matmul_(x, w);
    ad_program *p = ad_compile_(2, (ad_var[]){ w, x }, 1, &y);
    ad_workspace *s = ad_workspace_new_(p, 2);
    ck_assert_int_eq(ad_run_(p, s, ROWS, (const void *[]){ weights, rows }, (void *[]){ result }),
                     0);
    ad_workspace_free_(s);
    ad_program_free_(p);
    ad_tape_free_(t);
}

START_TEST(test_unload)
{
    int variables = settings(), own = threads(), pieces = generated();
    for (int k = 0; k < 3; k++) {
        void *library = dlopen(path, RTLD_NOW);
        ck_assert_msg(library != NULL, "%s", dlerror());
        use(library);
        ck_assert_int_gt(threads(), own);
        ck_assert_int_eq(settings(), variables);
        ck_assert_int_eq(dlclose(library), 0);
        ck_assert_ptr_null(dlopen(path, RTLD_NOW | RTLD_NOLOAD));
        while (threads() > own)
            sched_yield(); /* they have been joined, but are listed a little longer */
        ck_assert_int_eq(generated(), pieces);
        ck_assert_int_eq(settings(), variables);
        ck_assert_ptr_null(getenv("COSTATE_NO_SUCH_THING"));
    }
}
END_TEST

int main(int argc, char **argv)
{
    if (argc < 2) return 1;
    path = argv[1];
    TCase *tc = suite_case("unload", "unload");
    tcase_add_test(tc, test_unload);
    return suite_run();
}
