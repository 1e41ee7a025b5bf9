/* Reading tables as they are met: classes, dates, missing values, choices of columns, line ends;
 * and what is said where the options do not fit the file. (test_data.c has the strict reader.) */
#define TESTS_COUNT_ALLOCATIONS
#include "nn/nn.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[64], error[512];

static void make_path(void)
{
    strcpy(path, "/tmp/costate-csv-XXXXXX");
    int file = mkstemp(path);
    ck_assert_int_ge(file, 0);
    close(file);
}

static void remove_path(void) { unlink(path); }

static void put(const char *text)
{
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    ck_assert_int_eq(fclose(f), 0);
}

enum { MAX_COLUMNS = 4, MAX_VALUES = 12 };
#define M 1e99 /* a missing value, where NaN cannot be compared */

typedef struct {
    const char *text;
    nn_csv_column columns[MAX_COLUMNS]; /* ends with a kind of none and no name and number */
    bool only, missing, no_header;
    int64_t rows, ncolumn;
    const char *names;   /* joined by | */
    const char *classes; /* of all columns of classes, joined by |, a / behind each */
    double values[MAX_VALUES];
} good_csv;

static const char *const listed[] = { "versicolor", "setosa", "virginica" };

static const good_csv good[] = {
    /* classes: in order of bytes, or of numbers, or as listed */
    { "x,kind\n1,setosa\n2,virginica\n3,setosa\n4,Versicolor\n",
      { { .name = "kind", .kind = NN_CLASS } },
      .rows = 4,
      .ncolumn = 2,
      .names = "x|kind",
      .classes = "Versicolor|setosa|virginica/",
      .values = { 1, 1, 2, 2, 3, 1, 4, 0 } },
    { "1.5,10\n2.5,9\n3.5,10\n",
      { { .number = 2, .kind = NN_CLASS } },
      .rows = 3,
      .ncolumn = 2,
      .names = "|",
      .classes = "9|10/",
      .values = { 1.5, 1, 2.5, 0, 3.5, 1 } },
    { "28.8,16,g\n31.6,11.7,h\n",
      { { .number = 3, .kind = NN_CLASS } },
      .rows = 2,
      .ncolumn = 3,
      .names = "||",
      .classes = "g|h/",
      .values = { 28.8, 16, 0, 31.6, 11.7, 1 } },
    { "kind;x\nvirginica;1\nsetosa;2\n",
      { { .name = "kind", .kind = NN_CLASS, .nclass = 3, .classes = listed } },
      .rows = 2,
      .ncolumn = 2,
      .names = "kind|x",
      .classes = "versicolor|setosa|virginica/",
      .values = { 2, 1, 1, 2 } },
    { "a,b\nyes,no\nno,\"say \"\"no\"\"\"\n",
      { { .name = "a", .kind = NN_CLASS }, { .name = "b", .kind = NN_CLASS } },
      .rows = 2,
      .ncolumn = 2,
      .names = "a|b",
      .classes = "no|yes/no|say \"no\"/",
      .values = { 1, 0, 0, 1 } },
    { "yes\nno\nyes\n",
      { { .number = 1, .kind = NN_CLASS } },
      .no_header = true,
      .rows = 3,
      .ncolumn = 1,
      .names = "",
      .classes = "no|yes/",
      .values = { 1, 0, 1 } },
    /* dates and times */
    { "date,t\n1970-01-01,1\n2017-01-01,2\n1969-12-31,3\n2000-02-29,4\n",
      { { .name = "date", .kind = NN_DAYS } },
      .rows = 4,
      .ncolumn = 2,
      .names = "date|t",
      .classes = "",
      .values = { 0, 1, 17167, 2, -1, 3, 11016, 4 } },
    { "t\n2024-01-31T06:30\n2024-01-31T06:30:15.25Z\n2024-01-31T06:30:00+02:00\n2024-01-31T06:30:"
      "00-0530\n",
      { { .number = 1, .kind = NN_SECONDS } },
      .rows = 4,
      .ncolumn = 1,
      .names = "t",
      .classes = "",
      .values = { 1706682600, 1706682615.25, 1706675400, 1706702400 } },
    { "2024-01-31 06:30,5\n",
      { { .number = 1, .kind = NN_DAYS } },
      .rows = 1,
      .ncolumn = 2,
      .names = "|",
      .classes = "",
      .values = { 19753.270833333332, 5 } },
    { "Time,Parameter,Value\n00:07,HR,73\n47:59:30,GCS,15\n",
      { { .name = "Time", .kind = NN_SECONDS }, { .number = 2, .kind = NN_CLASS } },
      .rows = 2,
      .ncolumn = 3,
      .names = "Time|Parameter|Value",
      .classes = "GCS|HR/",
      .values = { 420, 1, 73, 172770, 0, 15 } },
    /* missing values */
    { "a,b,c\n1,,3\n,NA,n/a\nNaN,?,\"\"\n-,.,null\n",
      { { 0 } },
      .missing = true,
      .rows = 4,
      .ncolumn = 3,
      .names = "a|b|c",
      .classes = "",
      .values = { 1, M, 3, M, M, M, M, M, M, M, M, M } },
    { "d,k\n2000-01-01,x\n,\nNA,\"NA\"\n",
      { { .name = "d", .kind = NN_DAYS }, { .name = "k", .kind = NN_CLASS } },
      .missing = true,
      .rows = 3,
      .ncolumn = 2,
      .names = "d|k",
      .classes = "NA|x/",
      .values = { 10957, 1, M, M, M, 0 } },
    /* separators at the end of lines */
    { "a,b,\n1,2,\n3,4,\n",
      { { 0 } },
      .missing = true,
      .rows = 2,
      .ncolumn = 2,
      .names = "a|b",
      .classes = "",
      .values = { 1, 2, 3, 4 } },
    { "a,b\n1,2,\n3,4\n",
      { { 0 } },
      .missing = true,
      .rows = 2,
      .ncolumn = 2,
      .names = "a|b",
      .classes = "",
      .values = { 1, 2, 3, 4 } },
    { "1,2,\n3,4,\n",
      { { 0 } },
      .missing = true,
      .rows = 2,
      .ncolumn = 2,
      .names = "|",
      .classes = "",
      .values = { 1, 2, 3, 4 } },
    { "1,2,\n3,4,5\n",
      { { 0 } },
      .missing = true,
      .rows = 2,
      .ncolumn = 3,
      .names = "||",
      .classes = "",
      .values = { 1, 2, M, 3, 4, 5 } },
    { "1,2,\n3,4,\n",
      { { .number = 3, .kind = NN_CLASS, .nclass = 3, .classes = listed } },
      .missing = true,
      .rows = 2,
      .ncolumn = 3,
      .names = "||",
      .classes = "versicolor|setosa|virginica/",
      .values = { 1, 2, M, 3, 4, M } },
    /* choices */
    { "a,note,b\n1,hm,2\n3,,4\n",
      { { .name = "note", .kind = NN_SKIP } },
      .rows = 2,
      .ncolumn = 2,
      .names = "a|b",
      .classes = "",
      .values = { 1, 2, 3, 4 } },
    { "a,note,b\n1,hm,2\n3,,4\n",
      { { .name = "b" }, { .number = 1 } },
      .only = true,
      .rows = 2,
      .ncolumn = 2,
      .names = "b|a",
      .classes = "",
      .values = { 2, 1, 4, 3 } },
    { "k,a,l\nx,1,p\ny,2,p\n",
      { { .name = "l", .kind = NN_CLASS }, { .name = "k", .kind = NN_CLASS } },
      .only = true,
      .rows = 2,
      .ncolumn = 2,
      .names = "l|k",
      .classes = "p/x|y/",
      .values = { 0, 0, 0, 1 } },
    /* line ends of old Macs; a header of words that are no dates */
    { "a,b\r1,2\r3,4\r",
      { { 0 } },
      .rows = 2,
      .ncolumn = 2,
      .names = "a|b",
      .classes = "",
      .values = { 1, 2, 3, 4 } },
    { "a,b\r1,2\r\r3,4",
      { { 0 } },
      .rows = 2,
      .ncolumn = 2,
      .names = "a|b",
      .classes = "",
      .values = { 1, 2, 3, 4 } },
    /* line ends of every kind in one file */
    { "a,k\r\n1,x\r2,y\n\r\n3,x\r",
      { { .name = "k", .kind = NN_CLASS } },
      .rows = 3,
      .ncolumn = 2,
      .names = "a|k",
      .classes = "x|y/",
      .values = { 1, 0, 2, 1, 3, 0 } },
    /* as printf writes what is no number */
    { "a,b\n-nan,1\n2,+NaN\n",
      { { 0 } },
      .missing = true,
      .rows = 2,
      .ncolumn = 2,
      .names = "a|b",
      .classes = "",
      .values = { M, 1, 2, M } },
    { "2017-01-01,x\n",
      { { .number = 1, .kind = NN_DAYS }, { .number = 2, .kind = NN_CLASS } },
      .rows = 1,
      .ncolumn = 2,
      .names = "|",
      .classes = "x/",
      .values = { 17167, 0 } },
};

/* Dates as years: 1970 has 365 days, 2000 and 2024 have 366, 1900 has not. */
START_TEST(years)
{
    static const double expected[] = {
        1970, 1970 + 364.5 / 365, 2024.5, 2000 + 365.0 / 366, 1969 + 364.0 / 365, 1900 + 59.0 / 365,
        1,    9999 + 364.0 / 365
    };
    nn_table t;
    nn_csv_options o = { .ncolumn = 1,
                         .columns = &(nn_csv_column){ .name = "d", .kind = NN_YEARS } };
    put("d\n1970-01-01\n1970-12-31T12:00\n2024-07-02\n2000-12-31\n1969-12-31\n1900-03-01\n"
        "0001-01-01\n9999-12-31\n");
    ck_assert_msg(nn_read_csv(path, &o, &t, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(t.rows, 8);
    for (int i = 0; i < 8; i++) ck_assert_double_eq_tol(t.data[i], expected[i], 1e-11);
    nn_table_clear(&t);
    put("d\n06:30\n");
    ck_assert_int_eq(nn_read_csv(path, &o, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "column 1 of 1 ('d') is no date or time: '06:30'"));
}
END_TEST

/* The caller's own texts for missing values. */
START_TEST(marks)
{
    static const char *const marks[] = { "-9999", "Unknown", "" };
    nn_table t;
    nn_csv_options o = { .missing = true,
                         .nmark = 3,
                         .marks = marks,
                         .ncolumn = 1,
                         .columns = &(nn_csv_column){ .name = "k", .kind = NN_CLASS } };
    put("a,k\n-9999,?\n1,UNKNOWN\nunknown,NA\n,\n-nan,?\n");
    ck_assert_msg(nn_read_csv(path, &o, &t, error, sizeof error) == 0, "%s", error);
    static const double expected[] = { M, 0, 1, M, M, 1, M, M, M, 0 };
    for (int i = 0; i < 10; i++) {
        if (expected[i] == M) ck_assert_double_nan(t.data[i]);
        else ck_assert_double_eq(t.data[i], expected[i]);
    }
    nn_table_clear(&t);
    put("a,k\nNA,x\n");
    ck_assert_int_eq(nn_read_csv(path, &o, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, ":2: column 1 of 2 ('a') is not a number: 'NA'"));
    o.nmark = 2; /* without "" */
    put("a,k\n,x\n");
    ck_assert_int_eq(nn_read_csv(path, &o, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, ":2: column 1 of 2 ('a') is empty"));
    o.missing = false;
    ck_assert_int_eq(nn_read_csv(path, &o, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "options.marks are given, but options.missing is not set"));
    o.missing = true;
    o.marks = NULL;
    ck_assert_int_eq(nn_read_csv(path, &o, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "options.marks is NULL"));
}
END_TEST

/* A wide table: the columns that there are, as many as fit. */
START_TEST(lists_columns)
{
    nn_table t;
    nn_csv_options o = { .ncolumn = 1, .columns = &(nn_csv_column){ .name = "none" } };
    char text[2000] = "";
    for (int j = 0; j < 100; j++) sprintf(text + strlen(text), "%scolumn%d", j ? "," : "", j);
    put(text);
    ck_assert_int_eq(nn_read_csv(path, &o, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, ":1: the header has no column 'none'; it has 'column0', "));
    ck_assert_str_eq(error + strlen(error) - strlen("', ..."), "', ...");
    ck_assert_ptr_null(strstr(error, "'column30'"));
}
END_TEST

static nn_csv_options options_of(const nn_csv_column *columns, bool only, bool missing,
                                 bool no_header)
{
    nn_csv_options o = {
        .columns = columns, .only = only, .missing = missing, .no_header = no_header
    };
    while (o.ncolumn < MAX_COLUMNS && (columns[o.ncolumn].name || columns[o.ncolumn].number))
        o.ncolumn++;
    return o;
}

START_TEST(reads)
{
    const good_csv *g = &good[_i];
    nn_csv_options o = options_of(g->columns, g->only, g->missing, g->no_header);
    nn_table t;
    put(g->text);
    ck_assert_msg(nn_read_csv(path, &o, &t, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(t.rows, g->rows);
    ck_assert_int_eq(t.columns, g->ncolumn);
    char names[200] = "", classes[200] = "";
    for (int64_t j = 0; j < t.columns; j++) {
        if (j) strcat(names, "|");
        strcat(names, t.names[j]);
        for (int64_t k = 0; t.classes && k < t.classes[j].count; k++) {
            if (k) strcat(classes, "|");
            strcat(classes, t.classes[j].name[k]);
        }
        if (t.classes && t.classes[j].count) strcat(classes, "/");
    }
    ck_assert_str_eq(names, g->names);
    ck_assert_str_eq(classes, g->classes);
    for (int64_t i = 0; i < t.rows * t.columns; i++) {
        if (g->values[i] == M) ck_assert_double_nan(t.data[i]);
        else ck_assert_double_eq(t.data[i], g->values[i]);
    }
    nn_table_clear(&t);
    ck_assert(!t.data && !t.names && !t.classes);
}
END_TEST

typedef struct {
    const char *text;
    nn_csv_column columns[MAX_COLUMNS];
    bool only, missing, no_header;
    const char *message; /* behind the file's name */
} bad_csv;

static const char *const twice[] = { "x", "x" };

static const bad_csv bad[] = {
    { "d,x\n2017-01-01,1\n",
      { { 0 } },
      .message = ":2: column 1 of 2 ('d') is a date or a time: '2017-01-01' (the kinds NN_DAYS and "
                 "NN_SECONDS read it)" },
    { "x,t\n1,06:30\n",
      { { 0 } },
      .message = ":2: column 2 of 2 ('t') is a date or a time: '06:30' (the kinds NN_DAYS and "
                 "NN_SECONDS read it)" },
    { "d\n2017-02-29\n",
      { { .name = "d", .kind = NN_DAYS } },
      .message = ":2: column 1 of 1 ('d') is no date or time: '2017-02-29' (2024-01-31, "
                 "2024-01-31T06:30, 06:30)" },
    { "d\n01/02/2017\n",
      { { .name = "d", .kind = NN_DAYS } },
      .message = ":2: column 1 of 1 ('d') is no date or time: '01/02/2017' (2024-01-31, "
                 "2024-01-31T06:30, 06:30)" },
    { "d\n2017-01-01T24:00\n2017-01-01T24:01\n",
      { { .name = "d", .kind = NN_DAYS } },
      .message = ":3: column 1 of 1 ('d') is no date or time: '2017-01-01T24:01' (2024-01-31, "
                 "2024-01-31T06:30, 06:30)" },
    { "x,y\r1,2\n\n\r\n3,z\n",
      { { 0 } },
      .message = ":5: column 2 of 2 ('y') is not a number: 'z' (the kind NN_CLASS numbers texts, "
                 "NN_SKIP leaves the column out)" },
    { "d\nNA\n",
      { { .name = "d", .kind = NN_DAYS } },
      .message =
          ":2: column 1 of 1 ('d') is a missing value: 'NA' (options.missing reads it as NaN)" },
    { "d,e\n,1\n",
      { { .name = "d", .kind = NN_SECONDS } },
      .message = ":2: column 1 of 2 ('d') is empty (options.missing reads it as NaN)" },
    { "k,e\n,1\n",
      { { .name = "k", .kind = NN_CLASS } },
      .message = ":2: column 1 of 2 ('k') is empty (options.missing reads it as NaN)" },
    { "k\nsetosa\noak\n",
      { { .name = "k", .kind = NN_CLASS, .nclass = 3, .classes = listed } },
      .message = ":3: column 1 of 1 ('k') is none of the 3 classes listed: 'oak'" },
    { "a,b\n1,2\n3,4,5\n",
      { { 0 } },
      .missing = true,
      .message = ":3: 3 columns, but line 1 has 2" },
    { "a,b\n1,2\n3\n", { { 0 } }, .missing = true, .message = ":3: 1 columns, but line 1 has 2" },
    { "a,b\n1,2\n",
      { { .name = "c" } },
      .message = ":1: the header has no column 'c'; it has 'a', 'b'" },
    { "a,a\n1,2\n",
      { { .name = "a" } },
      .message = ":1: two columns are called 'a'; give the column's number" },
    { "1,2\n",
      { { .name = "a" } },
      .message = ":1: there is no header with a column 'a'; give the column's number" },
    { "a,b\n1,2\n", { { .number = 3 } }, .message = ":1: there is no column 3, there are 2" },
    { "a,b\n1,2\n", { { .number = -1 } }, .message = ":1: there is no column -1, there are 2" },
    { "a,b\n1,2\n",
      { { .number = 1 }, { .name = "a" } },
      .message = ":1: options.columns: column 1 is listed twice" },
    { "a,b\n1,2\n",
      { { .number = 1, .kind = (nn_column_kind)9 } },
      .message = ":1: options.columns: column 1 is of no kind" },
    { "a\n1\n", { { .number = 1, .kind = NN_SKIP } }, .message = ":1: no column is to be read" },
    { "a\n1\n", { { 0 } }, .only = true, .message = ":1: no column is to be read" },
    { "a\n1\n",
      { { .number = 1, .kind = NN_CLASS, .nclass = 2 } },
      .message = ":1: options.columns: the list of classes is missing" },
    { "a\n1\n",
      { { .number = 1, .kind = NN_CLASS, .nclass = 2, .classes = twice } },
      .message = ":1: options.columns: class 'x' is listed twice" },
    { "a\n1\n",
      { { 0 } },
      .no_header = true,
      .message = ":1: column 1 of 1 is not a number: 'a' (the kind NN_CLASS numbers texts, NN_SKIP "
                 "leaves the column out)" },
};

START_TEST(refuses)
{
    const bad_csv *b = &bad[_i];
    nn_csv_options o = options_of(b->columns, b->only, b->missing, b->no_header);
    nn_table t;
    char expected[400];
    put(b->text);
    ck_assert_int_eq(nn_read_csv(path, &o, &t, error, sizeof error), -1);
    snprintf(expected, sizeof expected, "%s%s", path, b->message);
    ck_assert_str_eq(error, expected);
    ck_assert(!t.data && !t.names && !t.classes && t.rows == 0 && t.columns == 0);
}
END_TEST

/* Dates against an independent count of days: every day of 1600 to 2400, one after the other. */
START_TEST(calendar)
{
    static const int length[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    FILE *f = fopen(path, "w");
    fputs("d\n", f);
    for (int year = 1600; year < 2400; year++)
        for (int month = 1; month <= 12; month++) {
            bool leap = month == 2 && (year % 4 == 0) && (year % 100 != 0 || year % 400 == 0);
            for (int day = 1; day <= length[month - 1] + leap; day++)
                fprintf(f, "%04d-%02d-%02d\n", year, month, day);
        }
    fclose(f);
    nn_table t;
    nn_csv_column d = { .name = "d", .kind = NN_DAYS };
    nn_csv_options o = { .ncolumn = 1, .columns = &d };
    ck_assert_msg(nn_read_csv(path, &o, &t, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(t.rows, 292194); /* two cycles of 146097 days */
    for (int64_t i = 0; i < t.rows; i++)
        ck_assert_double_eq(t.data[i], (double)i - 135140); /* 1600-01-01 (Python's datetime) */
    nn_table_clear(&t);
}
END_TEST

/* Written by their names, classes come back. */
START_TEST(writes_classes)
{
    nn_csv_column columns[] = { { .number = 2, .kind = NN_CLASS } };
    nn_csv_options o = { .ncolumn = 1, .columns = columns };
    nn_table t, back;
    put("x,k\n1,\"a, b\"\n2,c\"c\n3,\"a, b\"\n");
    ck_assert_msg(nn_read_csv(path, &o, &t, error, sizeof error) == 0, "%s", error);
    ck_assert_msg(nn_write_csv(path, &t, error, sizeof error) == 0, "%s", error);
    ck_assert_msg(nn_read_csv(path, &o, &back, error, sizeof error) == 0, "%s", error);
    ck_assert_mem_eq(back.data, t.data, 6 * sizeof *t.data);
    ck_assert_str_eq(back.classes[1].name[0], "a, b");
    ck_assert_str_eq(back.classes[1].name[1], "c\"c");
    t.data[3] = 2;
    ck_assert_int_eq(nn_write_csv(path, &t, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_csv: row 2, column 2 is 2, none of its 2 classes");
    t.data[3] = 0;
    t.classes[1].name[0][1] = '\n';
    ck_assert_int_eq(nn_write_csv(path, &t, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_csv: the class 0 of column 2 has a line break");
    nn_table_clear(&t);
    nn_table_clear(&back);
}
END_TEST

#ifndef ALLOCATIONS_NOT_COUNTED
/* Wherever memory ends while a table with classes is read, that is what is said, and nothing is
 * lost. */
START_TEST(without_memory)
{
    nn_csv_column columns[] = { { .name = "k", .kind = NN_CLASS },
                                { .name = "d", .kind = NN_DAYS } };
    nn_csv_options o = { .ncolumn = 2, .columns = columns, .missing = true };
    nn_table t;
    char text[2000] = "x,k,d,\n";
    for (int i = 0; i < 60; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%d,c%d,2000-01-01,\n", i,
                 i % 40);
    put(text);
    ck_assert_int_eq(nn_read_csv(path, &o, &t, error, sizeof error), 0);
    nn_table_clear(&t);
    int result = -1;
    long k = 0;
    for (; result && k < 1000; k++) {
        long live = allocations_live();
        allocations_fail_at(k);
        result = nn_read_csv(path, &o, &t, error, sizeof error);
        allocations_fail_at(-1);
        if (result)
            ck_assert_msg(strstr(error, "out of memory") || strstr(error, "Cannot allocate memory"),
                          "%ld: %s", k, error);
        if (result) ck_assert_int_eq(allocations_live(), live);
    }
    ck_assert_int_eq(result, 0);
    ck_assert_int_gt(k, 40);
    nn_table_clear(&t);
}
END_TEST
#endif

int main(void)
{
    TCase *c = suite_case("csv", "csv");
    tcase_add_checked_fixture(c, make_path, remove_path);
    tcase_add_loop_test(c, reads, 0, sizeof good / sizeof good[0]);
    tcase_add_loop_test(c, refuses, 0, sizeof bad / sizeof bad[0]);
    tcase_add_test(c, calendar);
    tcase_add_test(c, writes_classes);
#ifndef ALLOCATIONS_NOT_COUNTED
    tcase_add_test(c, without_memory);
#endif
    tcase_add_test(c, years);
    tcase_add_test(c, marks);
    tcase_add_test(c, lists_columns);
    return suite_run();
}
