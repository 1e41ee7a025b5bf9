/* theta: the numbers of all parameters of a model, in one array that knows what it is. */
#include "nn/model/model.h"
#include "autodiff/extension.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int nn_theta_fail(nn_theta *theta, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    if (!theta->error[0]) vsnprintf(theta->error, sizeof theta->error, format, list);
    va_end(list);
    return -1;
}

/* ---- making ---------------------------------------------------------------------------------- */

/* Every parameter array from its own generator. -1 when memory is short. */
static int fill(nn_theta *theta, ad_rng *rng)
{
    const nn_model *model = theta->model;
    int64_t longest = 0;
    for (int64_t i = 0; i < model->count; i++)
        if (model->parameter[i].size > longest) longest = model->parameter[i].size;
    double *values = malloc((size_t)longest * sizeof *values);
    if (!values) return -1;
    for (int64_t i = 0; i < model->count; i++) {
        const nn_parameter *p = &model->parameter[i];
        ad_rng own = ad_rng_split(rng);
        p->init(&own, p->fan_in, p->fan_out, p->size, values);
        for (int64_t k = 0; k < p->size; k++)
            nn_put(theta->dtype, theta->data, p->offset + k, values[k]);
    }
    free(values);
    return 0;
}

/* Memory for all numbers of the model, zero. -1 when it is short. */
static int allocate(nn_theta *theta, const nn_model *model)
{
    theta->data = nn_zeros(theta->dtype, model->size);
    if (!theta->data) return -1;
    theta->model = nn_model_retain(model);
    theta->size = model->size;
    return 0;
}

nn_theta *nn_theta_new(const nn_model *model, ad_dtype dtype, ad_rng *rng)
{
    nn_theta *theta = calloc(1, sizeof *theta);
    if (!theta) return NULL;
    theta->dtype = dtype;
    const char *wrong = nn_model_error(model);
    if (!wrong && !nn_is_dtype(dtype)) wrong = "dtype is neither AD_F32 nor AD_F64";
    if (!wrong && model->count == 0) wrong = "the model has no parameters";
    if (wrong) {
        nn_theta_fail(theta, "nn_theta_new: %s", wrong);
        return theta;
    }
    if (allocate(theta, model) == 0 && (!rng || fill(theta, rng) == 0)) return theta;
    nn_theta_free(theta);
    return NULL;
}

nn_theta *nn_theta_copy(const nn_theta *theta)
{
    nn_theta *copy = calloc(1, sizeof *copy);
    if (!copy) return NULL;
    copy->dtype = theta ? theta->dtype : AD_F32;
    if (nn_theta_check("nn_theta_copy", theta, copy->error, sizeof copy->error)) return copy;
    if (allocate(copy, theta->model)) {
        free(copy);
        return NULL;
    }
    memcpy(copy->data, theta->data, (size_t)theta->size * nn_bytes(theta->dtype));
    return copy;
}

void nn_theta_free(nn_theta *theta)
{
    if (!theta) return;
    nn_model_free(theta->model);
    free(theta->data);
    free(theta);
}

/* ---- what it is ------------------------------------------------------------------------------ */

const char *nn_theta_error(const nn_theta *theta)
{
    if (!theta) return "nn_theta: theta is NULL (nn_theta_new returns NULL when memory is short)";
    return theta->error[0] ? theta->error : NULL;
}

const nn_model *nn_theta_model(const nn_theta *theta) { return theta ? theta->model : NULL; }
ad_dtype nn_theta_dtype(const nn_theta *theta) { return theta ? theta->dtype : AD_F32; }
int64_t nn_theta_size(const nn_theta *theta) { return nn_theta_error(theta) ? 0 : theta->size; }

int nn_theta_check(const char *what, const nn_theta *theta, char *error, size_t size)
{
    if (!theta) return nn_error(error, size, "%s: theta is NULL", what);
    if (theta->error[0]) return nn_error(error, size, "%s: %s", what, theta->error);
    if (nn_model_error(theta->model))
        return nn_error(error, size, "%s: %s", what, nn_model_error(theta->model));
    if (theta->size == theta->model->size) return 0;
    return nn_error(
        error, size,
        "%s: theta has %lld elements, but its model needs %lld: parameters were added after "
        "nn_theta_new",
        what, (long long)theta->size, (long long)theta->model->size);
}

/* ---- its numbers ----------------------------------------------------------------------------- */

/* Where the numbers of one array (name NULL: all) begin, and how many there are; -1 with theta's
 * error. */
static int find(nn_theta *theta, const char *what, const char *name, int64_t *offset, int64_t *size)
{
    if (!theta || theta->error[0]) return -1;
    if (nn_theta_check(what, theta, theta->error, sizeof theta->error)) return -1;
    const nn_parameter *p = nn_parameter_find(theta->model, name);
    if (name && !p)
        return nn_theta_fail(theta, "%s: the model has no parameter '%.60s'", what, name);
    *offset = p ? p->offset : 0;
    *size = p ? p->size : theta->size;
    return 0;
}

static void *numbers(nn_theta *theta, const char *what, ad_dtype dtype, const char *name)
{
    int64_t offset = 0, size = 0;
    if (find(theta, what, name, &offset, &size)) return NULL;
    if (theta->dtype != dtype) {
        const char *own = nn_dtype_name(theta->dtype);
        nn_theta_fail(
            theta,
            "%s: theta is %s; nn_theta_%s has its numbers, nn_theta_get copies them as double",
            what, own, own);
        return NULL;
    }
    return (char *)theta->data + (size_t)offset * nn_bytes(dtype);
}

float *nn_theta_f32(nn_theta *theta, const char *name)
{
    return numbers(theta, "nn_theta_f32", AD_F32, name);
}
double *nn_theta_f64(nn_theta *theta, const char *name)
{
    return numbers(theta, "nn_theta_f64", AD_F64, name);
}
void *nn_theta_data(nn_theta *theta) { return nn_theta_error(theta) ? NULL : theta->data; }

/* As find, for n numbers at the caller's. */
static int find_for(nn_theta *theta, const char *what, const char *name, int64_t n,
                    const void *values, int64_t *offset)
{
    int64_t size = 0;
    if (find(theta, what, name, offset, &size)) return -1;
    if (!values) return nn_theta_fail(theta, "%s: the array of numbers is NULL", what);
    if (n == size) return 0;
    return nn_theta_fail(theta, "%s: '%.60s' has %lld elements, not %lld", what,
                         name ? name : "theta", (long long)size, (long long)n);
}

int nn_theta_get(nn_theta *theta, const char *name, int64_t n, double *out)
{
    int64_t offset = 0;
    if (find_for(theta, "nn_theta_get", name, n, out, &offset)) return -1;
    for (int64_t i = 0; i < n; i++) out[i] = nn_element(theta->dtype, theta->data, offset + i);
    return 0;
}

int nn_theta_set(nn_theta *theta, const char *name, int64_t n, const double *values)
{
    int64_t offset = 0;
    if (find_for(theta, "nn_theta_set", name, n, values, &offset)) return -1;
    int64_t bad = nn_find_unfit(AD_F64, values, n, theta->dtype);
    if (bad >= 0) {
        return nn_theta_fail(
            theta,
            "nn_theta_set: element %lld of '%.60s' would be %g, which is no finite number in %s",
            (long long)bad, name ? name : "theta", nn_shown(values[bad]),
            nn_dtype_name(theta->dtype));
    }
    for (int64_t i = 0; i < n; i++) nn_put(theta->dtype, theta->data, offset + i, values[i]);
    return 0;
}

int nn_theta_init(nn_theta *theta, const char *name, nn_init init, double scale, double shift,
                  ad_rng *rng)
{
    static const char what[] = "nn_theta_init";
    int64_t offset = 0, size = 0;
    if (find(theta, what, name, &offset, &size)) return -1;
    if (!name) return nn_theta_fail(theta, "%s: it needs the name of a parameter array", what);
    if (!init) return nn_theta_fail(theta, "%s: '%.60s' needs an initialiser", what, name);
    if (!rng) return nn_theta_fail(theta, "%s: '%.60s' needs a generator", what, name);
    const nn_parameter *p = nn_parameter_find(theta->model, name);
    double *values = malloc((size_t)size * sizeof *values);
    if (!values) return nn_theta_fail(theta, "%s: out of memory", what);
    ad_rng own = ad_rng_split(rng);
    init(&own, p->fan_in, p->fan_out, size, values);
    for (int64_t i = 0; i < size; i++) values[i] = shift + scale * values[i];
    int result = nn_theta_set(theta, name, size, values);
    free(values);
    return result;
}

int nn_theta_average(nn_theta *average, const nn_theta *theta, double share)
{
    char error[320];
    if (!average || average->error[0]) return -1;
    if (nn_theta_check("nn_theta_average", theta, error, sizeof error))
        return nn_theta_fail(average, "%s", error);
    if (theta->model != average->model || theta->size != average->size ||
        theta->dtype != average->dtype) {
        return nn_theta_fail(
            average,
            "nn_theta_average: the average (%s, %lld numbers) and theta (%s, %lld "
            "numbers) are not of one model and dtype; nn_theta_copy makes an average",
            nn_dtype_name(average->dtype), (long long)average->size, nn_dtype_name(theta->dtype),
            (long long)theta->size);
    }
    if (!(share >= 0 && share <= 1)) {
        return nn_theta_fail(average, "nn_theta_average: the share is %g; it must be in 0 .. 1",
                             nn_shown(share));
    }
    /* Halves, whose differences do not overflow. */
    if (average->dtype == AD_F32) {
        float *a = average->data, part = (float)share;
        const float *x = theta->data;
        for (int64_t i = 0; i < average->size; i++)
            a[i] = 2 * (a[i] / 2 + part * (x[i] / 2 - a[i] / 2));
    } else {
        double *a = average->data;
        const double *x = theta->data;
        for (int64_t i = 0; i < average->size; i++)
            a[i] = 2 * (a[i] / 2 + share * (x[i] / 2 - a[i] / 2));
    }
    return 0;
}

ad_var nn_theta_param(ad_tape *tape, const nn_theta *theta)
{
    char error[320];
    if (!tape) return (ad_var){ 0 };
    if (nn_theta_check("nn_theta_param", theta, error, sizeof error)) {
        ad_fail(tape, "%s", error);
        return ad_none(tape);
    }
    return ad_param_data(tape, AD_SHAPE(theta->size), theta->dtype, theta->data);
}
