/* What a field of a table means. */
#include "nn/data/csv.h"
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- numbers --------------------------------------------------------------------------------- */

/* Hexadecimal numbers are left to programmers. */
bool nn_csv_number(locale_t c_locale, const char *text, double *value)
{
    char *stop;
    if (strchr(text, 'x') || strchr(text, 'X')) return false;
    *value = strtod_l(text, &stop, c_locale);
    return stop > text && *stop == 0;
}

/* ---- dates and times ------------------------------------------------------------------------- */

/* Reads so many digits at *at; -1 when there are fewer. */
static int64_t digits(const char **at, int least, int most)
{
    int64_t value = 0;
    int n = 0;
    while (n < most && (*at)[n] >= '0' && (*at)[n] <= '9') value = 10 * value + ((*at)[n++] - '0');
    if (n < least) return -1;
    *at += n;
    return value;
}

static bool take(const char **at, char c)
{
    if (**at != c) return false;
    ++*at;
    return true;
}

/* Days of a date of the Gregorian calendar since 1970-01-01: the years begin in March, so that the
 * leap day comes last (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms"). */
static int64_t days_since_1970(int64_t year, int64_t month, int64_t day)
{
    if (month <= 2) year--;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year -
           719468;
}

static bool read_date(const char **at, int64_t *days)
{
    static const int length[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    int64_t year = digits(at, 4, 4);
    if (year < 0 || !take(at, '-')) return false;
    int64_t month = digits(at, 2, 2);
    if (month < 1 || month > 12 || !take(at, '-')) return false;
    int64_t day = digits(at, 2, 2);
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (day < 1 || day > length[month - 1] + (month == 2 && leap)) return false;
    *days = days_since_1970(year, month, day);
    return true;
}

/* 06:30, 06:30:59, 06:30:59.25; hours of at most `most` digits. */
static bool read_clock(const char **at, int most, int64_t last_hour, double *seconds)
{
    int64_t hours = digits(at, 1, most);
    if (hours < 0 || hours > last_hour || !take(at, ':')) return false;
    int64_t minutes = digits(at, 2, 2);
    if (minutes < 0 || minutes > 59) return false;
    *seconds = (double)(3600 * hours + 60 * minutes);
    if (!take(at, ':')) return true;
    int64_t whole = digits(at, 2, 2);
    if (whole < 0 || whole > 60) return false; /* 60: a leap second */
    *seconds += (double)whole;
    if (!take(at, '.') && !take(at, ',')) return true;
    double unit = 0.1;
    const char *first = *at;
    for (; **at >= '0' && **at <= '9'; ++*at) {
        *seconds += unit * (**at - '0');
        unit /= 10;
    }
    return *at > first;
}

/* Z, +02:00, -0530, +02; nothing is UTC. */
static bool read_zone(const char **at, double *seconds)
{
    *seconds = 0;
    if (take(at, 'Z') || **at == 0) return true;
    double sign = **at == '-' ? 1 : -1; /* east of Greenwich the clock is ahead */
    if (!take(at, '+') && !take(at, '-')) return false;
    int64_t hours = digits(at, 2, 2);
    if (hours < 0 || hours > 23) return false;
    take(at, ':');
    int64_t minutes = **at ? digits(at, 2, 2) : 0;
    if (minutes < 0 || minutes > 59) return false;
    *seconds = sign * (double)(3600 * hours + 60 * minutes);
    return true;
}

bool nn_csv_time(const char *text, double *seconds)
{
    const char *at = text;
    int64_t days = 0;
    double clock = 0, zone = 0;
    if (!read_date(&at, &days)) {
        at = text;
        return read_clock(&at, 9, INT64_MAX, seconds) && *at == 0;
    }
    if (*at && !take(&at, 'T') && !take(&at, ' ')) return false;
    else if (at[-1] == 'T' || at[-1] == ' ') {
        if (!read_clock(&at, 2, 24, &clock) || clock > 86400 || !read_zone(&at, &zone))
            return false;
    }
    *seconds = (double)days * 86400 + clock + zone;
    return *at == 0;
}

/* ---- fields ---------------------------------------------------------------------------------- */

static bool is_missing(const nn_csv_options *options, const char *text)
{
    static const char *const marks[] = { "",     "na",   "n/a", "#n/a", "nan",
                                         "null", "none", "?",   "-",    "." };
    size_t own = (size_t)options->nmark, n = own ? own : sizeof marks / sizeof marks[0];
    for (size_t i = 0; i < n; i++)
        if (strcasecmp(text, own ? options->marks[i] : marks[i]) == 0) return true;
    return false;
}

static csv_verdict class_of(csv_column *column, const char *text, double *value)
{
    int64_t known = column->listed ? nn_names_find(&column->classes, text)
                                   : nn_names_add(&column->classes, text);
    if (known < 0) return column->listed ? CSV_NO_CLASS : CSV_NO_MEMORY;
    *value = (double)known;
    return CSV_FINE;
}

/* A number with a comma in it where the point belongs. */
static bool has_decimal_comma(locale_t c_locale, const char *text)
{
    char copy[64];
    double value;
    if (!strchr(text, ',') || strlen(text) >= sizeof copy) return false;
    strcpy(copy, text);
    *strchr(copy, ',') = '.';
    return nn_csv_number(c_locale, copy, &value);
}

static csv_verdict number_of(const nn_csv_options *options, locale_t c_locale, const char *text,
                             double *value)
{
    double seconds;
    if (nn_csv_number(c_locale, text, value)) {
        if (isfinite(*value)) return CSV_FINE;
        return isnan(*value) ? CSV_MISSING : CSV_INFINITE;
    }
    if (!*text) return CSV_EMPTY;
    if (is_missing(options, text)) return CSV_MISSING;
    if (nn_csv_time(text, &seconds)) return CSV_TIME;
    return has_decimal_comma(c_locale, text) ? CSV_COMMA : CSV_TEXT;
}

/* The year that a time of UTC is in, with the share of it that has passed. */
static double year_of(double seconds)
{
    int64_t days = (int64_t)floor(seconds / 86400), year = 1970 + days / 366;
    while (days_since_1970(year + 1, 1, 1) <= days) year++;
    while (days_since_1970(year, 1, 1) > days) year--;
    int64_t start = days_since_1970(year, 1, 1), stop = days_since_1970(year + 1, 1, 1);
    return (double)year + (seconds / 86400 - (double)start) / (double)(stop - start);
}

csv_verdict nn_csv_field(csv_column *column, locale_t c_locale, const char *text, bool quoted,
                         const nn_csv_options *options, double *value)
{
    bool text_column = column->kind == NN_CLASS, missing = options->missing;
    if (missing && is_missing(options, text) && !(quoted && text_column)) {
        *value = NAN;
        return CSV_FINE;
    }
    if (text_column) return *text || quoted ? class_of(column, text, value) : CSV_EMPTY;
    if (column->kind == NN_NUMBER) {
        csv_verdict verdict = number_of(options, c_locale, text, value);
        return verdict == CSV_MISSING && missing ? CSV_FINE
                                                 : verdict; /* -nan, as printf writes it */
    }
    if (!nn_csv_time(text, value))
        return !*text ? CSV_EMPTY : is_missing(options, text) ? CSV_MISSING : CSV_NO_TIME;
    bool date = strlen(text) > 4 && text[4] == '-';
    if (column->kind == NN_YEARS && !date) return CSV_NO_TIME;
    if (column->kind == NN_YEARS) *value = year_of(*value);
    if (column->kind == NN_DAYS) *value /= 86400;
    return CSV_FINE;
}

/* ---- classes --------------------------------------------------------------------------------- */

typedef struct {
    char *name;
    double value; /* where all names are numbers */
    int64_t number;
} class_name;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const class_name *)a)->name, ((const class_name *)b)->name);
}

/* 1 and 1.0 are two classes of one value. */
static int by_value(const void *a, const void *b)
{
    double x = ((const class_name *)a)->value, y = ((const class_name *)b)->value;
    return x < y ? -1 : x > y ? 1 : by_name(a, b);
}

/* The classes in order, and rank[k], the place of what was number k; -1 when memory is short. */
static int sort_classes(nn_names *names, locale_t c_locale, double *rank)
{
    class_name *sorted = malloc(((size_t)names->count + 1) * sizeof *sorted);
    if (!sorted) return -1;
    bool numbers = true;
    for (int64_t i = 0; i < names->count; i++) {
        sorted[i] = (class_name){ names->name[i], 0, i };
        numbers = numbers && nn_csv_number(c_locale, names->name[i], &sorted[i].value) &&
                  isfinite(sorted[i].value);
    }
    qsort(sorted, (size_t)names->count, sizeof *sorted, numbers ? by_value : by_name);
    for (int64_t i = 0; i < names->count; i++) {
        names->name[i] = sorted[i].name;
        rank[sorted[i].number] = (double)i;
    }
    free(sorted);
    return 0;
}

int nn_csv_order(csv_column *column, locale_t c_locale, nn_table *table)
{
    nn_names *names = &column->classes;
    double *rank = malloc(((size_t)names->count + 1) * sizeof *rank);
    if (!rank || (!column->listed && sort_classes(names, c_locale, rank))) {
        free(rank);
        return -1;
    }
    for (int64_t i = 0; !column->listed && i < table->rows; i++) {
        double *cell = &table->data[i * table->columns + column->target];
        if (!isnan(*cell)) *cell = rank[(int64_t)*cell];
    }
    table->classes[column->target] = (nn_classes){ names->count, names->name };
    free(names->place);
    *names = (nn_names){ 0 };
    free(rank);
    return 0;
}
