/* Tables of numbers, and writing them as text. */
#define _GNU_SOURCE /* newlocale, uselocale, strtod_l */
#include "nn/base/file.h"
#include "nn/base/support.h"
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

void nn_table_clear(nn_table *table)
{
    if (!table) return;
    for (int64_t j = 0; j < table->columns; j++) {
        if (table->names) free(table->names[j]);
        nn_classes *c = table->classes ? &table->classes[j] : NULL;
        for (int64_t k = 0; c && k < c->count; k++) free(c->name[k]);
        if (c) free(c->name);
    }
    free(table->names);
    free(table->classes);
    free(table->data);
    *table = (nn_table){ 0 };
}

int64_t nn_table_column(const nn_table *table, const char *name)
{
    for (int64_t j = 0; table && table->names && name && j < table->columns; j++)
        if (table->names[j] && strcmp(table->names[j], name) == 0) return j;
    return -1;
}

static const char *name_of(const nn_table *table, int64_t column)
{
    return table->names && table->names[column] ? table->names[column] : "";
}

/* The classes of a column, or NULL for one of numbers. */
static const nn_classes *classes_of(const nn_table *table, int64_t column)
{
    return table->classes && table->classes[column].count > 0 ? &table->classes[column] : NULL;
}

/* Whether there is a header; -1 with the error set for one that could not be read back. */
static int check_names(const nn_table *table, locale_t c_locale, char *error, size_t error_size)
{
    bool named = false, word = false;
    for (int64_t j = 0; j < table->columns; j++) {
        const char *name = name_of(table, j);
        char *stop;
        if (strpbrk(name, "\r\n"))
            return nn_error(error, error_size,
                            "nn_write_csv: the name of column %lld has a line break",
                            (long long)j + 1);
        (void)strtod_l(name, &stop, c_locale);
        named = named || *name;
        word = word || stop == name || *stop;
    }
    if (named && !word)
        return nn_error(error, error_size,
                        "nn_write_csv: all names are numbers; the header would be read as data");
    return named;
}

static int check_table(const nn_table *table, char *error, size_t error_size)
{
    if (!table || table->rows < 1 || table->columns < 1 || !table->data)
        return nn_error(error, error_size, "nn_write_csv: the table is empty");
    for (int64_t j = 0; j < table->columns; j++) {
        const nn_classes *c = classes_of(table, j);
        for (int64_t k = 0; c && c->name && k < c->count; k++) {
            if (!c->name[k] || !strpbrk(c->name[k], "\r\n")) continue;
            return nn_error(error, error_size,
                            "nn_write_csv: the class %lld of column %lld has a line break",
                            (long long)k, (long long)j + 1);
        }
    }
    for (int64_t i = 0; i < table->rows * table->columns; i++) {
        const nn_classes *c = classes_of(table, i % table->columns);
        double value = table->data[i];
        long long row = (long long)(i / table->columns) + 1,
                  column = (long long)(i % table->columns) + 1;
        if (!isfinite(value)) {
            return nn_error(error, error_size, "nn_write_csv: row %lld, column %lld is %g", row,
                            column, nn_shown(value));
        }
        if (c && !(value >= 0 && value < (double)c->count && value == floor(value) && c->name &&
                   c->name[(int64_t)value])) {
            return nn_error(error, error_size,
                            "nn_write_csv: row %lld, column %lld is %g, none of its %lld classes",
                            row, column, value, (long long)c->count);
        }
    }
    return 0;
}

/* Always in quotes: then a name may hold anything, also a number. */
static void write_text(FILE *stream, const char *text)
{
    fputc('"', stream);
    for (; *text; text++) {
        if (*text == '"') fputc('"', stream);
        fputc(*text, stream);
    }
    fputc('"', stream);
}

static void write_names(FILE *stream, const nn_table *table)
{
    for (int64_t j = 0; j < table->columns; j++) {
        if (j) fputc(',', stream);
        write_text(stream, name_of(table, j));
    }
    fputc('\n', stream);
}

/* The shortest of 15, 16, 17 digits that gives the same double again. */
static void write_number(FILE *stream, double value)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    fputs(text, stream);
}

static void write_table(FILE *stream, const nn_table *table, bool header)
{
    if (header) write_names(stream, table);
    for (int64_t i = 0; i < table->rows && !ferror(stream); i++) {
        for (int64_t j = 0; j < table->columns; j++) {
            if (j) fputc(',', stream);
            const nn_classes *c = classes_of(table, j);
            double value = table->data[i * table->columns + j];
            if (c) write_text(stream, c->name[(int64_t)value]);
            else write_number(stream, value);
        }
        fputc('\n', stream);
    }
}

int nn_write_csv(const char *path, const nn_table *table, char *error, size_t error_size)
{
    if (check_table(table, error, error_size)) return -1;
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c_locale) return nn_error(error, error_size, "nn_write_csv: out of memory");
    int header = check_names(table, c_locale, error, error_size), result = -1;
    nn_file file;
    if (header >= 0 && nn_file_open(&file, path, error, error_size) == 0) {
        locale_t before = uselocale(c_locale); /* of this thread only */
        write_table(file.stream, table, header);
        uselocale(before);
        result = nn_file_commit(&file, error, error_size);
    }
    freelocale(c_locale);
    return result;
}
