/* How good a gradient is: beside the one with all steps halved. The gradient of a solve is exact
 * for the steps it has taken; nothing in it says whether these steps suit it, since only the error
 * of the solution has chosen them. Where halving the steps changes the gradient by no more than a
 * method of some order allows, they do. */
#include "autodiff/kernels/kernel.h"
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const double default_threshold = 0.1;
/* Elements are compared relative to at least this part of the largest one. */
static const double smallest_part = 0.1;
/* Gradients are sums of many rounded terms that may cancel, and some are nothing beside others:
 * changes of the loss by so many epsilons of its size, or of the largest change that some gradient
 * stands for, are no difference. */
static const double rounding_allowance = 100;

/* ---- two gradients ---- */

static double element(ad_dtype dtype, const void *x, int64_t i)
{
    return dtype == AD_F32 ? (double)((const float *)x)[i] : ((const double *)x)[i];
}

/* The largest magnitude; infinite when an element is not finite, whose number is then in *bad. */
static double largest(ad_dtype dtype, int64_t n, const void *x, int64_t *bad)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        double size = fabs(element(dtype, x, i));
        if (!isfinite(size)) {
            *bad = i;
            return INFINITY;
        }
        most = fmax(most, size);
    }
    return most;
}

/* Euclidean norm of x - y (y NULL: of x) / scale, which keeps the squares in range. */
static double scaled_norm(ad_dtype dtype, int64_t n, const void *x, const void *y, double scale)
{
    double sum = 0;
    for (int64_t i = 0; i < n && scale > 0; i++) {
        double part = element(dtype, x, i) / scale - (y ? element(dtype, y, i) / scale : 0);
        sum += part * part;
    }
    return sqrt(sum);
}

double ad_array_norm(ad_dtype dtype, int64_t n, const void *x)
{
    int64_t bad;
    if (n < 1 || !x) return 0;
    double size = largest(dtype, n, x, &bad);
    return isfinite(size) ? size * scaled_norm(dtype, n, x, NULL, size) : size;
}

/* The size of a variable, to turn its gradient into a change of the loss. One that is nearly zero
 * hides nothing by that: it counts as 1. */
static double size_of(ad_dtype dtype, int64_t n, const void *x)
{
    double norm = ad_array_norm(dtype, n, x);
    return isfinite(norm) ? fmax(norm, 1) : 1;
}

double ad_gradient_rounding(ad_dtype dtype, int64_t n, const void *x, double scale)
{
    double epsilon = dtype == AD_F32 ? (double)FLT_EPSILON : DBL_EPSILON;
    return isfinite(scale) ? rounding_allowance * epsilon * fabs(scale) / size_of(dtype, n, x) : 0;
}

static void find_worst(ad_gradient_difference *d, ad_dtype dtype, int64_t n, const void *g,
                       const void *r, double most, double allowed)
{
    for (int64_t i = 0; i < n; i++) {
        double a = element(dtype, g, i), b = element(dtype, r, i);
        double size = fmax(fmax(fabs(a), fabs(b)), smallest_part * most);
        double off = size > 0 && fabs(a - b) > allowed ? fabs(a / size - b / size) : 0;
        if (off <= d->worst) continue;
        d->worst = off;
        d->worst_element = i;
    }
}

ad_gradient_difference ad_compare_gradients(ad_dtype dtype, int64_t n, const void *g, const void *r,
                                            double allowed, double least_size)
{
    ad_gradient_difference d = { 0 };
    if (n < 1 || !g || !r) return d;
    double most_g = largest(dtype, n, g, &d.worst_element),
           most_r = largest(dtype, n, r, &d.worst_element);
    d.norm = ad_array_norm(dtype, n, g);
    d.refined_norm = ad_array_norm(dtype, n, r);
    double most = fmax(most_g, most_r);
    if (!isfinite(most)) {
        d.difference = d.worst = INFINITY;
        return d;
    }
    if (most == 0) return d;
    double off = scaled_norm(dtype, n, g, r, most);
    double size = fmax(scaled_norm(dtype, n, g, NULL, most), scaled_norm(dtype, n, r, NULL, most));
    d.difference = off > allowed / most ? off / fmax(size, least_size / most) : 0;
    find_worst(&d, dtype, n, g, r, most, allowed);
    return d;
}

bool ad_gradients_agree(const ad_gradient_difference *d, double threshold)
{
    return d && d->difference <= (threshold > 0 ? threshold : default_threshold);
}

/* ---- the text ---- */

static void say(ad_gradient_report *report, const char *format, ...)
{
    size_t used = strlen(report->text);
    va_list args;
    va_start(args, format);
    vsnprintf(report->text + used, sizeof report->text - used, format, args);
    va_end(args);
}

enum { MAX_LINES = 12 };

static void describe(ad_gradient_report *report, int nx, const ad_var *x, double threshold,
                     const ad_gradient_difference *d)
{
    char shape[64];
    say(report, "loss %.10g, with all steps halved %.10g\n", report->loss, report->refined_loss);
    for (int i = 0; i < nx && i < MAX_LINES; i++) {
        ad_format_shape(ad_shape_of(x[i]), shape, sizeof shape);
        say(report,
            "gradient by x[%d] %s: norm %.6g, halved %.6g, relative difference %.2g; worst element "
            "%lld: %.2g\n",
            i, shape, d[i].norm, d[i].refined_norm, d[i].difference, (long long)d[i].worst_element,
            d[i].worst);
    }
    if (nx > MAX_LINES) say(report, "(%d more variables)\n", nx - MAX_LINES);
    if (report->agrees) {
        say(report, "The gradients agree within %.2g.\n", threshold);
        return;
    }
    say(report,
        "The gradient by x[%d] changes by more than %.2g: the steps are too large for it, whatever "
        "the error of the solution. Limit them "
        "(a largest step, fixed steps), or use an implicit method or another adjoint; tighter "
        "tolerances help only where the solution "
        "itself is not accurate.\n",
        report->worst_variable, threshold);
}

/* ---- the check ---- */

/* Whether the loss depends on an operation that discretises. */
static bool is_discretised(ad_var loss)
{
    ad_reach needed;
    if (!ad_reach_find(&needed, loss.tape, 1, &loss, &(ad_reach_limits){ 0 })) return false;
    bool found = false;
    for (int32_t i = 0; i < needed.n && !found; i++) {
        const ad_node *n = ad_node_at(loss.tape, needed.node[i]);
        found = n->op == AD_OP_opaque && n->class_->discretises;
    }
    ad_reach_clear(&needed);
    return found;
}

typedef struct {
    ad_tape *tape;
    ad_var loss, *gradient; /* [nx] */
    int nx;
    const ad_var *x;
    void **refined; /* [nx] copies of the refined gradients */
} check;

/* Evaluates loss and gradients; copies the latter when copies is not NULL. false with the tape's
 * error set. */
static bool evaluate(const check *c, double *loss, void **copies)
{
    *loss = ad_item(c->loss);
    for (int i = 0; i < c->nx && !ad_tape_error(c->tape); i++) {
        const void *value = ad_value(c->gradient[i]);
        if (!value || !copies) continue;
        size_t bytes = (size_t)ad_size(c->gradient[i]) * ad_dtype_size(ad_tape_dtype(c->tape));
        if (!copies[i]) copies[i] = malloc(bytes + 1);
        if (copies[i]) memcpy(copies[i], value, bytes);
        else ad_fail(c->tape, "ad_check_gradient: out of memory");
    }
    return !ad_tape_error(c->tape);
}

/* What rounding is relative to: the loss, and the gradients, each times its variable's size. 0 with
 * the tape's error set. */
static double scale_of(const check *c, double loss)
{
    ad_dtype dtype = ad_tape_dtype(c->tape);
    double scale = fabs(loss);
    for (int i = 0; i < c->nx; i++) {
        const void *x = ad_value(c->x[i]);
        if (!x) return 0;
        int64_t n = ad_size(c->gradient[i]);
        double change = ad_array_norm(dtype, n, ad_value(c->gradient[i])) * size_of(dtype, n, x);
        if (isfinite(change)) scale = fmax(scale, change);
    }
    return scale;
}

static bool measure(check *c, double threshold, ad_gradient_report *report,
                    ad_gradient_difference *difference)
{
    bool discretised = is_discretised(c->loss);
    if (discretised) {
        ad_tape_set_refine(c->tape, 1);
        bool fine = evaluate(c, &report->refined_loss, c->refined);
        ad_tape_set_refine(c->tape, 0); /* also after a failure: the tape is as it was */
        if (!fine) return false;
    }
    if (!evaluate(c, &report->loss, discretised ? NULL : c->refined)) return false;
    if (!discretised) report->refined_loss = report->loss;
    report->agrees = true;
    double worst = -1, scale = scale_of(c, report->loss);
    for (int i = 0; i < c->nx && !ad_tape_error(c->tape); i++) {
        const void *x = ad_value(c->x[i]), *g = ad_value(c->gradient[i]);
        ad_dtype dtype = ad_tape_dtype(c->tape);
        int64_t n = ad_size(c->gradient[i]);
        difference[i] = ad_compare_gradients(dtype, n, g, c->refined[i],
                                             ad_gradient_rounding(dtype, n, x, scale), 0);
        if (!ad_gradients_agree(&difference[i], threshold)) report->agrees = false;
        if (!(difference[i].difference > worst)) continue;
        worst = difference[i].difference;
        report->worst_variable = i;
    }
    if (!discretised) say(report, "Nothing on the way to the loss is solved in steps.\n");
    describe(report, c->nx, c->x, threshold, difference);
    return !ad_tape_error(c->tape);
}

int ad_check_gradient(ad_var loss, int nx, const ad_var *x, double threshold,
                      ad_gradient_report *report, ad_gradient_difference *difference)
{
    ad_tape *tape = ad_lists_tape(
        "check_gradient", 2, (ad_list[]){ { "the loss", 1, &loss, true }, { "x", nx, x, false } });
    ad_gradient_report unused;
    if (!report) report = &unused;
    *report = (ad_gradient_report){ 0 };
    if (!tape) return -1;
    if (nx < 1 || !x || !(threshold >= 0)) {
        ad_fail(tape, "ad_check_gradient: %s",
                nx < 1 ? "no variables (nx < 1)"
                : !x   ? "x is NULL"
                       : "the threshold must not be negative");
        return -1;
    }
    if (ad_tape_is_held(tape, "ad_check_gradient")) return -1;
    if (ad_size(loss) != 1) {
        ad_fail_shapes(tape, "check_gradient", "the loss must be one number", 1, &loss);
        return -1;
    }
    int32_t mark = ad_tape_mark(tape);
    check c = { .tape = tape, .loss = loss, .nx = nx, .x = x };
    c.gradient = calloc((size_t)nx, sizeof *c.gradient);
    c.refined = calloc((size_t)nx, sizeof *c.refined);
    ad_gradient_difference *own = calloc((size_t)nx, sizeof *own);
    bool fine = false;
    if (c.gradient && c.refined && own) {
        ad_grad(loss, nx, x, c.gradient);
        fine = !ad_tape_error(tape) &&
               measure(&c, threshold > 0 ? threshold : default_threshold, report, own);
    } else {
        ad_fail(tape, "ad_check_gradient: out of memory");
    }
    if (fine && difference) memcpy(difference, own, (size_t)nx * sizeof *own);
    for (int i = 0; c.refined && i < nx; i++) free(c.refined[i]);
    free(c.refined);
    free(c.gradient);
    free(own);
    ad_tape_rewind(tape, mark);
    return fine ? 0 : -1;
}
