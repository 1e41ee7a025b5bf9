/* What a training says, once, and goes on. */
#include "nn/train/train.h"
#include <stdarg.h>

void nn_warn(nn_trainer *t, int64_t step, const char *format, ...)
{
    char *text = t->report.warning;
    if (text[0]) return;
    size_t size = sizeof t->report.warning;
    int used = snprintf(text, size, "step %lld of %lld: ", (long long)step, (long long)t->steps);
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, size - (size_t)used, format, args);
    va_end(args);
    nn_progress_line(t->progress, text);
}
