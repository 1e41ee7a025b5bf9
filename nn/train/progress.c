/* Progress of long work on stderr. */
#include "nn/train/train.h"
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

struct nn_progress {
    char label[64];
    int64_t total;
    bool terminal;
    int tenth;             /* last tenth for which there was a line */
    double started, shown; /* seconds */
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

nn_progress *nn_progress_new(const char *label, int64_t total)
{
    nn_progress *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    snprintf(p->label, sizeof p->label, "%s", label ? label : "");
    p->total = total > 0 ? total : 1;
    const char *kind = getenv("TERM");
    p->terminal = isatty(STDERR_FILENO) && kind && strcmp(kind, "dumb") != 0;
    p->started = p->shown = seconds();
    return p;
}

void nn_progress_free(nn_progress *progress)
{
    if (progress && progress->terminal) fputc('\n', stderr);
    free(progress);
}

/* On a terminal ten times a second; elsewhere for every tenth of the work, and every half minute
 * while a tenth takes long. */
static bool is_due(nn_progress *p, int64_t done, double now)
{
    int tenth = (int)(10 * fmin(fmax((double)done / (double)p->total, 0), 1));
    bool due = p->terminal ? now - p->shown > 0.1 || done >= p->total
                           : tenth > p->tenth || now - p->shown > 30;
    if (!due) return false;
    p->tenth = tenth;
    p->shown = now;
    return true;
}

/* "0:07", "1:02:03" */
static void format_time(double s, char *text, size_t size)
{
    long whole = s < 1e7 ? lrint(s) : 10000000L;
    if (whole < 3600) snprintf(text, size, "%ld:%02ld", whole / 60, whole % 60);
    else snprintf(text, size, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
}

static void draw_bar(const nn_progress *p, const char *text, double fraction)
{
    enum { WIDTH = 24 };
    char bar[WIDTH + 1], line[400];
    int full = (int)(WIDTH * fraction);
    for (int i = 0; i < WIDTH; i++) bar[i] = i < full ? '#' : '.';
    bar[WIDTH] = 0;
    struct winsize window;
    int columns =
        ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
    snprintf(line, sizeof line, "%s [%s] %s", p->label, bar, text);
    fprintf(stderr, "\r%.*s\033[K", columns - 1,
            line); /* a line that wraps could not be drawn over */
    fflush(stderr);
}

void nn_progress_update(nn_progress *progress, int64_t done, const char *format, ...)
{
    nn_progress *p = progress;
    if (!p) return;
    double now = seconds();
    if (!is_due(p, done, now)) return;
    double fraction = fmin(fmax((double)done / (double)p->total, 0), 1),
           passed = fmax(now - p->started, 1e-9);
    char left[32], note[128] = "", text[300];
    format_time(fraction > 0 ? passed / fraction - passed : 1e7, left, sizeof left);
    if (format) {
        va_list list;
        va_start(list, format);
        vsnprintf(note, sizeof note, format, list);
        va_end(list);
    }
    snprintf(text, sizeof text, "%lld/%lld (%.0f %%), %.3g/s, %s left%s%s", (long long)done,
             (long long)p->total, 100 * fraction, (double)done / passed, left, *note ? ", " : "",
             note);
    if (p->terminal) draw_bar(p, text, fraction);
    else fprintf(stderr, "%s: %s\n", p->label, text);
}

void nn_progress_line(nn_progress *progress, const char *text)
{
    if (progress)
        fprintf(stderr, "%s%s: %s\n", progress->terminal ? "\r\033[K" : "", progress->label, text);
}
