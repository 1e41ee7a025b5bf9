/* The tape's error. The first one stays until it is cleared; it is told at once where somebody
 * asked for that (report.c). */
#include "autodiff/tape/store.h"
#include <stdarg.h>

const char *ad_tape_error(const ad_tape *t)
{
    return !t ? "no tape (out of memory?)" : t->failed ? t->error : NULL;
}

void ad_tape_clear_error(ad_tape *t)
{
    if (t) t->failed = false;
}

void ad_fail(ad_tape *t, const char *format, ...)
{
    if (!t || t->failed) return;
    va_list args;
    va_start(args, format);
    vsnprintf(t->error, sizeof t->error, format ? format : "ad_fail: the format is NULL", args);
    va_end(args);
    t->failed = true;
    ad_report(t, t->error, t->nabout, t->about, t->on_error, t->on_error_user);
}

void ad_tape_on_error(ad_tape *t, void (*report)(const char *text, void *user), void *user)
{
    if (!t) return;
    t->on_error = report;
    t->on_error_user = user;
}

void ad_tape_about(ad_tape *t, int n, const ad_var *x)
{
    t->nabout = 0;
    for (int i = 0; i < n && t->nabout < AD_ABOUT_MOST; i++)
        if (ad_valid(x[i])) t->about[t->nabout++] = x[i].node;
}

ad_var ad_fail_shapes(ad_tape *t, const char *op, const char *reason, int n, const ad_var *x)
{
    char text[AD_ERROR_SIZE];
    size_t used = (size_t)snprintf(text, sizeof text, "ad_%s: %s", op, reason);
    for (int i = 0; i < n && used < sizeof text; i++) {
        char shape[128];
        ad_format_shape(ad_shape_of(x[i]), shape, sizeof shape);
        if (n == 1)
            used += (size_t)snprintf(text + used, sizeof text - used, ": the operand is %s", shape);
        else
            used += (size_t)snprintf(text + used, sizeof text - used, "%s %c is %s", i ? "," : ":",
                                     'a' + i % 26, shape);
    }
    ad_tape_about(t, n, x);
    ad_fail(t, "%s", text);
    ad_tape_about(t, 0, NULL);
    return ad_none(t);
}

void ad_fail_null(ad_tape *t, const char *what, const char *argument)
{
    ad_fail(t, "ad_%s: %s is NULL", what, argument);
}
