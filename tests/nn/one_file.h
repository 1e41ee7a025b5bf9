/* A directory of its own for each test, and one file in it, which is put, got, read and written.
 * Include it once per program, after _GNU_SOURCE where the program wants that. */
#ifndef COSTATE_TESTS_ONE_FILE_H
#define COSTATE_TESTS_ONE_FILE_H
#include "tests/support.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BYTES(text) text, sizeof text - 1 /* of a literal that may have zeros in it */

static char directory[64], path[128], error[600];

static inline void make_directory(void)
{
    strcpy(directory, "/tmp/costate-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/file", directory);
    error[0] = 0;
}

static inline void remove_directory(void)
{
    unlink(path);
    ck_assert_int_eq(rmdir(directory), 0); /* fails when something was left behind */
}

static inline void put(const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, size, f), size);
    ck_assert_int_eq(fclose(f), 0);
}

static inline size_t get(void *data, size_t room)
{
    FILE *f = fopen(path, "rb");
    ck_assert_ptr_nonnull(f);
    size_t n = fread(data, 1, room, f);
    fclose(f);
    return n;
}

static inline int count_files(void)
{
    DIR *d = opendir(directory);
    int n = 0;
    while (readdir(d)) n++;
    closedir(d);
    return n - 2; /* . and .. */
}

/* The message is the file's path, and this behind it. */
static inline void expect_error(const char *behind_path)
{
    char expected[600];
    snprintf(expected, sizeof expected, "%s%s", path, behind_path);
    ck_assert_str_eq(error, expected);
}

#endif
