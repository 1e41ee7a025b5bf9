/* Part of nn.h: tables of data and their files. */
#ifndef COSTATE_DATA_H
#define COSTATE_DATA_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* The texts of a column of classes, in order: class k of the column is name[k]. */
typedef struct {
    int64_t count;
    char **name;
} nn_classes;

/* A table of numbers [rows, columns], row-major double, and column names ("" where there is no
 * header; NULL allowed when writing). */
typedef struct {
    int64_t rows, columns;
    double *data;
    char **names;
    /* [columns], count 0 for a column of numbers; or NULL: there is no column of classes */
    nn_classes *classes;
} nn_table;

/* How a column is read. Numbers: finite, with a decimal point, whatever the locale. Classes: texts,
 * which become 0..K-1 in their order (that of numbers where all of them are numbers, else of
 * bytes), or that of a given list. Days and seconds: dates 2024-01-31, with a time 2024-01-31T06:30
 * (or a blank, seconds, fractions, Z, +02:00), counted from 1970-01-01 UTC; times alone, 06:30 or
 * 47:59:59, from 0. Years: dates as a year and the share of it that has passed, 2024-07-02 as
 * 2024.5. */
typedef enum { NN_NUMBER, NN_CLASS, NN_DAYS, NN_SECONDS, NN_YEARS, NN_SKIP } nn_column_kind;
typedef struct {
    const char *name; /* in the header; NULL: by number */
    int64_t number;   /* from 1 */
    nn_column_kind kind;
    /* of NN_CLASS: the list, so that several files agree; another text is an error. 0: whatever
     * comes */
    int nclass;
    const char *const *classes;
} nn_csv_column;

/* Zeros are the strict reader: all columns, numbers, none missing. */
typedef struct {
    int ncolumn;
    const nn_csv_column *columns; /* how these columns are read; the others are numbers */
    bool only;                    /* read these columns only, in this order */
    /* empty fields, NA, N/A, NaN, null, none, ?, - and . become NaN; a separator may end the lines
     */
    bool missing;
    /* texts that are missing values instead of those (the case of letters does not count; "" for an
     * empty field). 0: those. A number that is not one, as printf writes it, always is one. */
    int nmark;
    const char *const *marks;
    bool no_header; /* the first line is data, whatever it looks like */
} nn_csv_options;

/* Reads fields separated by semicolons, tabs, commas or blanks (the first of these that the first
 * line has, outside quotes). Lines end by LF, CR LF, or CR alone; those starting with #, blank
 * lines and a byte order mark are skipped. The first line is a header when it has a field that is
 * neither number nor date and every number in it is quoted. Every line has as many fields. options
 * NULL: the strict reader. Errors name file and line, the column and what would read it
 * ("pelts.csv:17: column 3 of 3 ('lynx') is a missing value: 'n/a' (options.missing reads it as
 * NaN)"). 0, or -1 with the message in error (of error_size bytes) and an empty table. */
int nn_read_csv(const char *path, const nn_csv_options *options, nn_table *table, char *error,
                size_t error_size);
/* Commas, a header where any column has a name, classes by their names, numbers in as many digits
 * as give the same double again. Written whole or not at all. */
int nn_write_csv(const char *path, const nn_table *table, char *error, size_t error_size);
void nn_table_clear(nn_table *table); /* frees what nn_read_csv made; the table is then empty */
int64_t nn_table_column(const nn_table *table, const char *name); /* index, or -1 */

#ifdef __cplusplus
}
#endif
#endif
