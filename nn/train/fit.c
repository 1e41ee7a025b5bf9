/* Fits: arguments, recording, evaluations, ends. */
#include "nn/train/fit.h"
#include "autodiff/extension.h"
#include <stdlib.h>
#include <string.h>

const char *nn_fit_end_text(nn_fit_end end)
{
    static const char *const texts[] = {
        [NN_FIT_GRADIENT] = "the gradient is small",
        [NN_FIT_LOSS] = "the loss hardly falls any more",
        [NN_FIT_STEP] = "theta hardly moves any more",
        [NN_FIT_ITERATIONS] = "as many iterations as were asked for",
        [NN_FIT_STUCK] = "no smaller loss can be found",
        [NN_FIT_STOPPED] = "stopped by on_iteration",
        [NN_FIT_FAILED] = "an error",
    };
    return end >= NN_FIT_GRADIENT && end <= NN_FIT_FAILED ? texts[end] : "unknown";
}

/* ---- arguments ------------------------------------------------------------------------------- */

static bool is_tolerance(double x) { return x >= 0 && x < 1; }

static int check_options(nn_fit *f)
{
    const nn_fit_options *o = &f->options;
    if (!o->loss) return FIT_FAIL(f, "%s", "options.loss is NULL");
    if (o->iterations < 0 || o->memory < 0 || o->threads < 0)
        return FIT_FAIL(f, "%s", "iterations, memory and threads must not be negative");
    if (!is_tolerance(o->gradient_tolerance) || !is_tolerance(o->loss_tolerance) ||
        !is_tolerance(o->step_tolerance))
        return FIT_FAIL(f, "%s", "tolerances must be in [0,1)");
    if (o->narray < 0 || (o->narray > 0 && !o->arrays))
        return FIT_FAIL(f, "options.arrays is NULL, options.narray is %d", o->narray);
    return 0;
}

static int check_array(nn_fit *f, int i)
{
    const nn_array *a = &f->options.arrays[i];
    bool rows = a->shape.rank > 0 && a->shape.dim[0] == AD_ROWS;
    if (!a->data) return FIT_FAIL(f, "array %d has no data, and a fit draws none", i);
    if (!nn_is_dtype(a->dtype))
        return FIT_FAIL(f, "array %d: dtype is neither AD_F32 nor AD_F64", i);
    bool good = a->shape.rank >= 0 && a->shape.rank <= AD_MAX_RANK;
    for (int k = rows; good && k < a->shape.rank; k++) good = a->shape.dim[k] >= 1;
    if (!good)
        return FIT_FAIL(f, "array %d: the shape must be [AD_ROWS, ...] or [...] with sizes >= 1",
                        i);
    if (rows && f->options.examples < 1)
        return FIT_FAIL(f, "there are no examples (options.examples is %lld)",
                        (long long)f->options.examples);
    int64_t n = ad_count(a->shape, f->options.examples);
    int64_t bad = nn_find_unfit(a->dtype, a->data, n, f->theta->dtype);
    if (bad < 0) return 0;
    return FIT_FAIL(f, "array %d: element %lld is %g", i, (long long)bad,
                    nn_shown(nn_element(a->dtype, a->data, bad)));
}

/* A theta laid out like the one that is fitted, or nothing. */
static int check_like(nn_fit *f, const char *name, const nn_theta *other)
{
    const nn_theta *t = f->theta;
    if (!other) return 0;
    char what[60];
    snprintf(what, sizeof what, "%s: options.%s", f->what, name);
    if (nn_theta_check(what, other, f->error, f->error_size)) return -1;
    if (other == t) return FIT_FAIL(f, "options.%s is theta itself", name);
    if (other->model == t->model && other->dtype == t->dtype) return 0;
    return FIT_FAIL(f, "options.%s is of another model or dtype than theta", name);
}

static void set_default(double *value, ad_dtype dtype, double f64, double f32)
{
    if (*value == 0) *value = dtype == AD_F64 ? f64 : f32;
}

static int check_arguments(nn_fit *f, bool residuals)
{
    nn_fit_options *o = &f->options;
    if (nn_theta_check(f->what, f->theta, f->error, f->error_size)) return -1;
    if (check_options(f)) return -1;
    for (int i = 0; i < o->narray; i++)
        if (check_array(f, i)) return -1;
    if (check_like(f, "lower", o->lower) || check_like(f, "upper", o->upper) ||
        check_like(f, "deviations", o->deviations))
        return -1;
    if (o->deviations && !residuals)
        return FIT_FAIL(f, "%s", "options.deviations are nn_levenberg_marquardt's alone");
    if (o->memory && residuals) return FIT_FAIL(f, "%s", "options.memory is nn_lbfgs's alone");
    if (o->iterations == 0) o->iterations = 200;
    if (o->memory == 0) o->memory = 10;
    ad_dtype dtype = f->theta->dtype;
    if (residuals) set_default(&o->gradient_tolerance, dtype, 1e-10, 1e-5);
    else set_default(&o->gradient_tolerance, dtype, 1e-8, 1e-4);
    set_default(&o->loss_tolerance, dtype, 1e-14, 1e-7);
    set_default(&o->step_tolerance, dtype, 1e-12, 1e-7);
    return 0;
}

/* ---- parameters ------------------------------------------------------------------------------ */

static int find_places(nn_fit *f)
{
    const nn_model *model = f->theta->model;
    for (int64_t i = 0; i < model->count; i++) f->n += model->parameter[i].size;
    f->place = calloc((size_t)f->n, sizeof *f->place);
    f->x = calloc((size_t)f->n, sizeof *f->x);
    f->lower = calloc((size_t)f->n, sizeof *f->lower);
    f->upper = calloc((size_t)f->n, sizeof *f->upper);
    if (!f->place || !f->x || !f->lower || !f->upper) return FIT_FAIL(f, "%s", "out of memory");
    int64_t next = 0;
    for (int64_t i = 0; i < model->count; i++)
        for (int64_t k = 0; k < model->parameter[i].size; k++)
            f->place[next++] = model->parameter[i].offset + k;
    return 0;
}

/* Where the fit begins, and between which bounds. */
static int read_start(nn_fit *f)
{
    const nn_fit_options *o = &f->options;
    ad_dtype dtype = f->theta->dtype;
    for (int64_t i = 0; i < f->n; i++) {
        int64_t at = f->place[i];
        f->x[i] = nn_element(dtype, f->theta->data, at);
        f->lower[i] = o->lower ? nn_element(dtype, o->lower->data, at) : -INFINITY;
        f->upper[i] = o->upper ? nn_element(dtype, o->upper->data, at) : INFINITY;
        const char *name = nn_parameter_at(f->theta->model, at)->name;
        if (!isfinite(f->x[i]))
            return FIT_FAIL(f, "element %lld of theta (in '%.60s') is %g", (long long)at, name,
                            nn_shown(f->x[i]));
        if (f->x[i] >= f->lower[i] && f->x[i] <= f->upper[i]) continue;
        return FIT_FAIL(f,
                        "element %lld of theta (in '%.60s') is %g, which is not between its bounds "
                        "%g and %g",
                        (long long)at, name, f->x[i], nn_shown(f->lower[i]), nn_shown(f->upper[i]));
    }
    return 0;
}

/* ---- recording ------------------------------------------------------------------------------- */

static ad_program *compile(nn_fit *f, ad_tape *tape, int nin, const ad_var *in, int nout,
                           const ad_var *out)
{
    ad_program *program = ad_compile(nin, in, nout, out);
    if (!program)
        FIT_FAIL(f, "compiling: %s", ad_tape_error(tape) ? ad_tape_error(tape) : "out of memory");
    return program;
}

/* The shape of what the user recorded, which is a scalar unless it is residuals. */
static int check_result(nn_fit *f, ad_tape *tape, ad_var result, ad_var theta, bool residuals)
{
    if (ad_tape_error(tape)) return FIT_FAIL(f, "recording: %s", ad_tape_error(tape));
    if (!ad_valid(result) || result.tape != tape)
        return FIT_FAIL(f, "%s", "options.loss did not return a variable of its tape");
    ad_shape shape = ad_shape_of(result);
    f->m = ad_count(shape, f->rows);
    if (f->m != 1 && !residuals) {
        char text[128];
        ad_format_shape(shape, text, sizeof text);
        return FIT_FAIL(f, "the loss must be a scalar, but is %s; take its mean (ad_mean_all)",
                        text);
    }
    if (ad_has_rows(shape) && f->options.examples < 1)
        return FIT_FAIL(f, "%s",
                        "the residuals have rows, but options.examples does not say how "
                        "many");
    bool depends = ad_depends(result, theta);
    if (ad_tape_error(tape)) return FIT_FAIL(f, "recording: %s", ad_tape_error(tape));
    if (depends) return 0;
    return FIT_FAIL(f, "%s", "what options.loss returns does not depend on theta");
}

/* in: theta and the arrays. */
static ad_var call_loss(nn_fit *f, ad_tape *tape, ad_var *in)
{
    const nn_fit_options *o = &f->options;
    in[0] = ad_param(tape, AD_SHAPE(f->theta->size), NULL);
    for (int i = 0; i < o->narray; i++) {
        ad_shape shape = o->arrays[i].shape;
        in[1 + i] =
            ad_has_rows(shape) ? ad_input_rows(tape, shape, 0, NULL) : ad_input(tape, shape, NULL);
    }
    ad_tape_set_traced(
        tape,
        "what is fitted is recorded once and replayed; look at values in options.on_iteration");
    return o->loss(tape, in[0], in + 1, o->user);
}

static int record(nn_fit *f, bool residuals, ad_tape *tape, ad_var *in)
{
    ad_var result = call_loss(f, tape, in);
    if (check_result(f, tape, result, in[0], residuals)) return -1;
    int nin = 1 + f->options.narray;
    f->key = ad_function_key(nin, in, 1, &result, &f->key_length);
    if (!f->key) return FIT_FAIL(f, "recording: %s", ad_tape_error(tape));
    f->plain = compile(f, tape, nin, in, 1, &result);
    if (!f->plain) return -1;
    ad_var both[2] = { result, { 0 } };
    if (residuals) {
        in[nin] = ad_input(tape, AD_SHAPE(f->theta->size), NULL);
        ad_jvp(1, in, &in[nin], 1, &result, &both[1]);
        nin++;
    } else {
        both[0] = ad_reshape(result, AD_SCALAR);
        ad_grad(both[0], 1, in, &both[1]);
    }
    if (ad_tape_error(tape)) return FIT_FAIL(f, "derivatives: %s", ad_tape_error(tape));
    f->derived = compile(f, tape, nin, in, 2, both);
    return f->derived ? 0 : -1;
}

static int make_programs(nn_fit *f, bool residuals)
{
    ad_tape *tape = ad_tape_new(f->theta->dtype);
    ad_var *in = calloc((size_t)f->options.narray + 2, sizeof *in);
    int result = tape && in ? record(f, residuals, tape, in) : FIT_FAIL(f, "%s", "out of memory");
    free(in);
    ad_tape_free(tape);
    if (result) return -1;
    f->plain_work = ad_workspace_new(f->plain, f->options.threads);
    f->derived_work = ad_workspace_new(f->derived, f->options.threads);
    return f->plain_work && f->derived_work ? 0 : FIT_FAIL(f, "%s", "out of memory");
}

/* Data of theta's dtype are used where they are. */
static int make_inputs(nn_fit *f)
{
    int narray = f->options.narray;
    ad_dtype dtype = f->theta->dtype;
    f->inputs = calloc((size_t)narray + 2, sizeof *f->inputs);
    f->converted = calloc((size_t)narray + 1, sizeof *f->converted);
    if (!f->inputs || !f->converted) return FIT_FAIL(f, "%s", "out of memory");
    for (int i = 0; i < narray; i++) {
        const nn_array *a = &f->options.arrays[i];
        int64_t n = ad_count(a->shape, f->options.examples);
        f->inputs[1 + i] = a->data;
        if (a->dtype == dtype) continue;
        f->converted[i] = calloc((size_t)n, nn_bytes(dtype));
        if (!f->converted[i]) return FIT_FAIL(f, "%s", "out of memory");
        for (int64_t k = 0; k < n; k++)
            nn_put(dtype, f->converted[i], k, nn_element(a->dtype, a->data, k));
        f->inputs[1 + i] = f->converted[i];
    }
    return 0;
}

int nn_fit_new(nn_fit *f, bool residuals)
{
    f->report->first_loss = f->report->last_loss = f->report->gradient = NAN;
    f->report->end = NN_FIT_FAILED;
    if (check_arguments(f, residuals) || find_places(f) || read_start(f)) return -1;
    f->rows = f->options.examples;
    if (make_inputs(f) || make_programs(f, residuals)) return -1;
    size_t bytes = nn_bytes(f->theta->dtype), size = (size_t)f->theta->size, m = (size_t)f->m;
    f->trial = calloc(size, bytes);
    f->direction = calloc(size, bytes);
    f->result = calloc(m, bytes);
    f->derivative = calloc(residuals ? m : size, bytes);
    if (!f->trial || !f->direction || !f->result || !f->derivative)
        return FIT_FAIL(f, "%s", "out of memory");
    f->inputs[0] = f->trial;
    f->inputs[1 + f->options.narray] = f->direction;
    if (f->options.label) f->progress = nn_progress_new(f->options.label, f->options.iterations);
    return 0;
}

void nn_fit_clear(nn_fit *f)
{
    nn_progress_free(f->progress);
    for (int i = 0; f->converted && i < f->options.narray; i++) free(f->converted[i]);
    ad_workspace_free(f->plain_work);
    ad_workspace_free(f->derived_work);
    ad_program_free(f->plain);
    ad_program_free(f->derived);
    free(f->key);
    free(f->place);
    free(f->x);
    free(f->lower);
    free(f->upper);
    free(f->inputs);
    free(f->converted);
    free(f->trial);
    free(f->direction);
    free(f->result);
    free(f->derivative);
}

/* ---- evaluations ----------------------------------------------------------------------------- */

/* Copies out n numbers, of which the i-th is element place[i] (NULL: i); whether all are finite. */
static bool copy_out(nn_fit *f, const void *from, int64_t n, const int64_t *place, double *out)
{
    bool fine = true;
    for (int64_t i = 0; i < n; i++) {
        out[i] = nn_element(f->theta->dtype, from, place ? place[i] : i);
        fine &= isfinite(out[i]) != 0;
    }
    if (!fine) snprintf(f->message, sizeof f->message, "the result is not finite");
    return fine;
}

bool nn_fit_evaluate(nn_fit *f, const double *x, int64_t k, double *result, double *derivative)
{
    ad_dtype dtype = f->theta->dtype;
    bool tangent = k >= 0;
    for (int64_t i = 0; i < f->n; i++) nn_put(dtype, f->trial, f->place[i], x[i]);
    if (tangent) nn_put(dtype, f->direction, f->place[k], 1);
    ad_workspace *work = derivative ? f->derived_work : f->plain_work;
    void *const out[] = { f->result, f->derivative };
    int failed = ad_run(derivative ? f->derived : f->plain, work, f->rows, f->inputs, out);
    if (tangent) nn_put(dtype, f->direction, f->place[k], 0);
    f->report->evaluations++;
    if (derivative) f->report->derivatives++;
    if (failed) {
        snprintf(f->message, sizeof f->message, "%s", ad_workspace_error(work));
        return false;
    }
    if (!copy_out(f, f->result, f->m, NULL, result)) return false;
    if (!derivative) return true;
    return tangent ? copy_out(f, f->derivative, f->m, NULL, derivative)
                   : copy_out(f, f->derivative, f->n, f->place, derivative);
}

void nn_fit_accept(nn_fit *f, const double *x)
{
    for (int64_t i = 0; i < f->n; i++) {
        f->x[i] = x[i];
        nn_put(f->theta->dtype, f->theta->data, f->place[i], x[i]);
    }
}

bool nn_fit_blocked(const nn_fit *f, const double *x, int64_t i, double d)
{
    return (d < 0 && x[i] <= f->lower[i]) || (d > 0 && x[i] >= f->upper[i]);
}

/* ---- comparing ------------------------------------------------------------------------------- */

/* Keys of what has solves in it differ from recording to recording: then the numbers at theta
 * decide, which differ by rounding at most. A run that fails decides nothing. */
static bool equal_numbers(nn_fit *f, const ad_program *now, ad_workspace *work, void *after)
{
    const ad_dtype dtype = f->theta->dtype;
    const double unit = dtype == AD_F32 ? 0x1p-23 : 0x1p-52;
    for (int64_t i = 0; i < f->n; i++) nn_put(dtype, f->trial, f->place[i], f->x[i]);
    if (ad_run(f->plain, f->plain_work, f->rows, f->inputs, (void *const[]){ f->result }) ||
        ad_run(now, work, f->rows, f->inputs, (void *const[]){ after }))
        return true;
    double largest = 0, apart = 0;
    for (int64_t i = 0; i < f->m; i++) {
        double a = nn_element(dtype, f->result, i), b = nn_element(dtype, after, i);
        largest = fmax(largest, fabs(a));
        apart = fmax(apart, fabs(a - b));
    }
    return apart <= 1000 * unit * largest;
}

static int compare_numbers(nn_fit *f, ad_tape *tape, const ad_var *in, ad_var result, bool *same)
{
    ad_program *now = compile(f, tape, 1 + f->options.narray, in, 1, &result);
    if (!now) return -1;
    ad_workspace *work = ad_workspace_new(now, f->options.threads);
    void *after = calloc((size_t)f->m, nn_bytes(f->theta->dtype));
    int failed = work && after ? 0 : FIT_FAIL(f, "%s", "out of memory");
    if (!failed) *same = equal_numbers(f, now, work, after);
    free(after);
    ad_workspace_free(work);
    ad_program_free(now);
    return failed;
}

static int compare(nn_fit *f, ad_tape *tape, ad_var *in, bool *same)
{
    ad_var result = call_loss(f, tape, in);
    const int64_t m = f->m;
    if (check_result(f, tape, result, in[0], true)) return -1;
    if (f->m != m) return 0;
    size_t length;
    void *key = ad_function_key(1 + f->options.narray, in, 1, &result, &length);
    if (!key) return FIT_FAIL(f, "recording: %s", ad_tape_error(tape));
    *same = length == f->key_length && memcmp(key, f->key, length) == 0;
    free(key);
    return *same ? 0 : compare_numbers(f, tape, in, result, same);
}

int nn_fit_compare(nn_fit *f)
{
    ad_tape *tape = ad_tape_new(f->theta->dtype);
    ad_var *in = calloc((size_t)f->options.narray + 1, sizeof *in);
    bool same = false;
    int failed = tape && in ? compare(f, tape, in, &same) : FIT_FAIL(f, "%s", "out of memory");
    free(in);
    ad_tape_free(tape);
    if (failed || same) return failed;
    return FIT_FAIL(f, "%s",
                    "options.loss records something else than at first: it reads a value that "
                    "changes (noise drawn in it, an annealed weight, a counter), but it is "
                    "recorded once and replayed, so that value stood still; theta is fitted with "
                    "it. Give it as an array");
}

/* ---- ends ------------------------------------------------------------------------------------ */

int nn_fit_end_with(nn_fit *f, nn_fit_end end)
{
    f->report->end = end;
    return 0;
}

bool nn_fit_iterated(nn_fit *f, double loss)
{
    const nn_fit_options *o = &f->options;
    f->report->iterations++;
    f->report->last_loss = loss;
    nn_progress_update(f->progress, f->report->iterations, "loss %.5g", loss);
    if (o->on_iteration && o->on_iteration(f->report->iterations, loss, f->theta, o->user)) {
        nn_fit_end_with(f, NN_FIT_STOPPED);
        return true;
    }
    if (f->report->iterations < o->iterations) return false;
    nn_fit_end_with(f, NN_FIT_ITERATIONS);
    return true;
}
