/* Internal to nn/: reading tables, in two files.
 *   csv_read.c    lines, fields, the header, rows
 *   csv_column.c  what a field of a column means: number, time, class; the classes of a column */
#ifndef COSTATE_NN_CSV_H
#define COSTATE_NN_CSV_H
#define _GNU_SOURCE /* newlocale, strtod_l */
#include "nn/base/names.h"
#include "nn/base/support.h"
#include <locale.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

/* A column of the file. */
typedef struct {
    nn_column_kind kind;
    int64_t target; /* the column of the table, or -1: not read */
    bool chosen;    /* the options name it */
    bool listed;    /* classes have been given, others are errors */
    nn_names classes;
} csv_column;

typedef enum {
    CSV_FINE,
    CSV_EMPTY,
    CSV_MISSING,  /* a missing value, which the options do not allow */
    CSV_TIME,     /* a date or a time where a number is due */
    CSV_TEXT,     /* no number */
    CSV_COMMA,    /* a number with a decimal comma */
    CSV_INFINITE, /* or too large */
    CSV_NO_TIME,  /* no date or time */
    CSV_NO_CLASS, /* none of the listed classes */
    CSV_NO_MEMORY
} csv_verdict;

/* Whether the text is a number that strtod knows (NaN and infinities too), and which. */
bool nn_csv_number(locale_t c_locale, const char *text, double *value);
/* Whether it is a date or a time, and its seconds. */
bool nn_csv_time(const char *text, double *seconds);
/* What a field of the column is worth. Quoted texts are never missing, nor empty, as classes. */
csv_verdict nn_csv_field(csv_column *column, locale_t c_locale, const char *text, bool quoted,
                         const nn_csv_options *options, double *value);
/* Puts the classes of a column in order and its numbers in the table likewise, and hands over the
 * names. -1 when memory is short. */
int nn_csv_order(csv_column *column, locale_t c_locale, nn_table *table);

#endif
