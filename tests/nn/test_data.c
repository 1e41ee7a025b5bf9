/* Tables as text, by the strict reader: what is read, what is refused, what is written. (test_csv.c
 * has the options.) */
#define _GNU_SOURCE
#include "nn/nn.h"
#include "tests/nn/one_file.h"
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- tables ---------------------------------------------------------------------------------- */

typedef struct {
    const char *text;
    int64_t rows, columns;
    const char *names; /* joined by | */
    double values[6];
} good_csv;

static const good_csv good[] = {
    { "Year,Hare\n1900,30.0\n1901,47.2\n", 2, 2, "Year|Hare", { 1900, 30, 1901, 47.2 } },
    { "# source\n#\n\nYear, Lynx\n1900, 4.0\n", 1, 2, "Year|Lynx", { 1900, 4 } },
    { "1,2\n3,4", 2, 2, "|", { 1, 2, 3, 4 } },
    { "\xEF\xBB\xBFx;y\r\n1;-2.5e-3\r\n\r\n\r\n", 1, 2, "x|y", { 1, -2.5e-3 } },
    { "x\ty z\n1\t2\n", 1, 2, "x|y z", { 1, 2 } },
    { "  1   2 \n\t3\t4\n 5 6\t\n", 3, 2, "|", { 1, 2, 3, 4, 5, 6 } },
    { "\"a, b\",\"say \"\"x\"\"\"\n\"1\" , 2\n", 1, 2, "a, b|say \"x\"", { 1, 2 } },
    { "\"a b\" c\n1 2\n", 1, 2, "a b|c", { 1, 2 } },
    { "t,\"1\",\"2\"\n0,5,6\n", 1, 3, "t|1|2", { 0, 5, 6 } },
    { "t,,\n0,5,6\n", 1, 3, "t||", { 0, 5, 6 } },
    { "population, thousands;year\n1;2\n", 1, 2, "population, thousands|year", { 1, 2 } },
    { "7\n8\n\n9\n   \n# end\n", 3, 1, "", { 7, 8, 9 } },
    { "+1,.5\n1.,1E2", 2, 2, "|", { 1, 0.5, 1, 100 } },
    { "1e-400,2\n", 1, 2, "|", { 0, 2 } },
};

START_TEST(reads)
{
    const good_csv *g = &good[_i];
    nn_table t;
    put(g->text, strlen(g->text));
    ck_assert_msg(nn_read_csv(path, NULL, &t, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(t.rows, g->rows);
    ck_assert_int_eq(t.columns, g->columns);
    for (int64_t i = 0; i < t.rows * t.columns; i++) ck_assert_double_eq(t.data[i], g->values[i]);
    char names[200] = "";
    for (int64_t j = 0; j < t.columns; j++) {
        if (j) strcat(names, "|");
        strcat(names, t.names[j]);
    }
    ck_assert_str_eq(names, g->names);
    nn_table_clear(&t);
    ck_assert_ptr_null(t.data);
}
END_TEST

typedef struct {
    const char *text, *message; /* the message behind the file's name */
} bad_csv;

static const bad_csv bad[] = {
    { "", ": the file is empty, or has only comments" },
    { "# nothing\n\n", ": the file is empty, or has only comments" },
    { "a,b\n", ": there is a header, but no data" },
    { "a,b\n1,2\n3\n", ":3: 1 columns, but line 1 has 2" },
    { "# c\n1,2\n\n3,4,5\n", ":4: 3 columns, but line 2 has 2" },
    { "a,b,c\n1,2,3\n4,5,n/a\n",
      ":3: column 3 of 3 ('c') is a missing value: 'n/a' (options.missing reads it as NaN)" },
    { "1,x\n", ":1: column 2 of 2 is not a number: 'x' (the kind NN_CLASS numbers texts, NN_SKIP "
               "leaves the column out)" },
    { "a,b\n1,\n", ":2: column 2 of 2 ('b') is empty (options.missing reads it as NaN)" },
    { "a,b\n1,NaN\n",
      ":2: column 2 of 2 ('b') is a missing value: 'NaN' (options.missing reads it as NaN)" },
    { "nan,1\n", ":1: column 1 of 2 is a missing value: 'nan' (options.missing reads it as NaN)" },
    { "a,b\n1,-inf\n", ":2: column 2 of 2 ('b') is infinite or too large: '-inf'" },
    { "a,b\n1,1e999\n", ":2: column 2 of 2 ('b') is infinite or too large: '1e999'" },
    { "a;b\n1,5;2\n",
      ":2: column 1 of 2 ('a') is not a number: '1,5' (a decimal comma? write a point)" },
    { "a,b\n0x10,2\n", ":2: column 1 of 2 ('a') is not a number: '0x10' (the kind NN_CLASS numbers "
                       "texts, NN_SKIP leaves the column out)" },
    { "a,b\n\"1,2\n", ":2: a quote in column 1 is not closed on the line" },
    { "a,b\n\"1\"\",2\n", ":2: a quote in column 1 is not closed on the line" },
    { "a,b\n\"1\"2,3\n", ":2: column 1 goes on after its closing quote" },
    { "a,b\n1,2 3\n", ":2: column 2 of 2 ('b') is not a number: '2 3' (the kind NN_CLASS numbers "
                      "texts, NN_SKIP leaves the column out)" },
    { "a,b\n1,2\n\r\n3,4,\r\n", ":4: 3 columns, but line 1 has 2 (the last one is empty: with "
                                "options.missing a separator may end the line)" },
    { "a,b\n1,2\n1,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
      ":3: column 2 of 2 ('b') is not a number: 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' (the "
      "kind NN_CLASS numbers texts, NN_SKIP "
      "leaves the column out)" },
};

START_TEST(refuses)
{
    nn_table t;
    char expected[300];
    put(bad[_i].text, strlen(bad[_i].text));
    ck_assert_int_eq(nn_read_csv(path, NULL, &t, error, sizeof error), -1);
    snprintf(expected, sizeof expected, "%s%s", path, bad[_i].message);
    ck_assert_str_eq(error, expected);
    ck_assert(!t.data && !t.names && t.rows == 0 && t.columns == 0);
}
END_TEST

START_TEST(refuses_files)
{
    nn_table t;
    char expected[300];
    ck_assert_int_eq(nn_read_csv(path, NULL, &t, error, sizeof error), -1);
    snprintf(expected, sizeof expected, "%s: No such file or directory", path);
    ck_assert_str_eq(error, expected);
    ck_assert_int_eq(nn_read_csv(directory, NULL, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "not a regular file"));
    ck_assert_int_eq(mkfifo(path, 0600), 0); /* must not wait for a writer */
    ck_assert_int_eq(nn_read_csv(path, NULL, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "not a regular file"));
    unlink(path);
    put("a\0b\n1\n", 6);
    ck_assert_int_eq(nn_read_csv(path, NULL, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, ":1: there is a zero byte"));
    ck_assert_int_eq(nn_read_csv(NULL, NULL, &t, error, sizeof error), -1);
    ck_assert_int_eq(nn_read_csv(path, NULL, NULL, error, sizeof error), -1);
    ck_assert_int_eq(nn_read_csv(path, NULL, &t, NULL, 0), -1); /* nobody wants the message */
}
END_TEST

/* Long files grow the table many times; wide ones the list of fields. */
START_TEST(reads_many)
{
    FILE *f = fopen(path, "w");
    enum { ROWS = 3000, COLUMNS = 70 };
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLUMNS; j++)
            fprintf(f, "%d%s", i * COLUMNS + j, j + 1 < COLUMNS ? "," : "\n");
    fclose(f);
    nn_table t;
    ck_assert_msg(nn_read_csv(path, NULL, &t, error, sizeof error) == 0, "%s", error);
    ck_assert(t.rows == ROWS && t.columns == COLUMNS);
    for (int i = 0; i < ROWS * COLUMNS; i++) ck_assert_double_eq(t.data[i], i);
    nn_table_clear(&t);
}
END_TEST

START_TEST(writes)
{
    double data[] = { 0.1, -1.0 / 3, 1e-300, 12345678901234567.0, 5e-324, -0.0 };
    char *names[] = { (char *)"t \"s\"", (char *)"2" }, text[300] = "";
    nn_table t = { .rows = 3, .columns = 2, .data = data, .names = names }, back;
    ck_assert_msg(nn_write_csv(path, &t, error, sizeof error) == 0, "%s", error);
    get(text, sizeof text - 1);
    ck_assert_str_eq(text, "\"t "
                           "\"\"s\"\"\",\"2\"\n0.1,-0.3333333333333333\n1e-300,"
                           "12345678901234568\n4.94065645841247e-324,-0\n");
    ck_assert_msg(nn_read_csv(path, NULL, &back, error, sizeof error) == 0, "%s", error);
    ck_assert(back.rows == 3 && back.columns == 2 && memcmp(back.data, data, sizeof data) == 0);
    ck_assert_str_eq(back.names[0], names[0]);
    ck_assert_int_eq(nn_table_column(&back, "2"), 1);
    ck_assert_int_eq(nn_table_column(&back, "3"), -1);
    nn_table_clear(&back);
    t.names = NULL;
    ck_assert_int_eq(nn_write_csv(path, &t, error, sizeof error), 0);
    ck_assert_int_eq(nn_read_csv(path, NULL, &back, error, sizeof error), 0);
    ck_assert_str_eq(back.names[1], "");
    nn_table_clear(&back);
}
END_TEST

START_TEST(writing_refuses)
{
    double data[] = { 1, NAN };
    char *numbers[] = { (char *)"1", (char *)"2" }, *broken[] = { (char *)"a\nb", (char *)"c" };
    nn_table t = { .rows = 1, .columns = 2, .data = data }, empty = { 0 };
    ck_assert_int_eq(nn_write_csv(path, &t, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_csv: row 1, column 2 is nan");
    data[1] = 2;
    t.names = numbers;
    ck_assert_int_eq(nn_write_csv(path, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "all names are numbers"));
    t.names = broken;
    ck_assert_int_eq(nn_write_csv(path, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "column 1 has a line break"));
    ck_assert_int_eq(nn_write_csv(path, &empty, error, sizeof error), -1);
    ck_assert_int_eq(nn_write_csv(directory, &t, error, sizeof error), -1);
    ck_assert_int_eq(count_files(), 0);
}
END_TEST

/* Decimal commas in the program's locale change nothing. Skipped by machines that have none of
 * these locales. */
START_TEST(any_locale)
{
    static const char *const commas[] = { "de_DE.UTF-8", "fr_FR.UTF-8", "nl_NL.UTF-8",
                                          "ru_RU.UTF-8" };
    bool found = false;
    for (size_t i = 0; !found && i < sizeof commas / sizeof commas[0]; i++)
        found = setlocale(LC_ALL, commas[i]) != NULL;
    if (!found) return;
    double data[] = { 1.5, 2.25 };
    nn_table t = { .rows = 1, .columns = 2, .data = data }, back;
    char text[100] = "";
    ck_assert_int_eq(nn_write_csv(path, &t, error, sizeof error), 0);
    get(text, sizeof text - 1);
    ck_assert_str_eq(text, "1.5,2.25\n");
    ck_assert_int_eq(nn_read_csv(path, NULL, &back, error, sizeof error), 0);
    ck_assert_double_eq(back.data[1], 2.25);
    nn_table_clear(&back);
}
END_TEST

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

int main(void)
{
    TCase *csv = suite_case("data", "csv");
    tcase_add_checked_fixture(csv, make_directory, remove_directory);
    tcase_add_loop_test(csv, reads, 0, COUNT(good));
    tcase_add_loop_test(csv, refuses, 0, COUNT(bad));
    tcase_add_test(csv, refuses_files);
    tcase_add_test(csv, reads_many);
    tcase_add_test(csv, writes);
    tcase_add_test(csv, writing_refuses);
    tcase_add_test(csv, any_locale);
    return suite_run();
}
