/* The layout of theta: which parameter array lies where, and under which name. */
#include "nn/model/model.h"
#include "autodiff/extension.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Sixteen elements are 64 bytes in f32 and 128 in f64: one layout serves both. */
enum { ALIGN = 16 };

nn_model *nn_model_new(void)
{
    nn_model *model = calloc(1, sizeof *model);
    if (model) atomic_init(&model->references, 1);
    return model;
}

nn_model *nn_model_retain(const nn_model *model)
{
    nn_model *shared = (nn_model *)model; /* counting does not change what a model is */
    atomic_fetch_add(&shared->references, 1);
    return shared;
}

void nn_model_free(nn_model *model)
{
    if (!model || atomic_fetch_sub(&model->references, 1) > 1) return;
    free(model->parameter);
    nn_names_clear(&model->names);
    free(model);
}

const char *nn_model_error(const nn_model *model)
{
    if (!model) return "nn_model: the model is NULL";
    return model->error[0] ? model->error : NULL;
}

int64_t nn_model_size(const nn_model *model) { return model ? model->size : 0; }

int64_t nn_model_parameters(const nn_model *model)
{
    int64_t n = 0;
    for (int64_t i = 0; model && i < model->count; i++)
        if (!model->parameter[i].fixed) n += model->parameter[i].size;
    return n;
}

const nn_parameter *nn_parameter_find(const nn_model *model, const char *name)
{
    int64_t index = model ? nn_names_find(&model->names, name) : -1;
    return index < 0 ? NULL : &model->parameter[index];
}

int64_t nn_model_find(const nn_model *model, const char *name, ad_shape *shape)
{
    const nn_parameter *p = nn_parameter_find(model, name);
    if (!p) return -1;
    if (shape) *shape = p->shape;
    return p->offset;
}

const nn_parameter *nn_parameter_at(const nn_model *model, int64_t element)
{
    for (int64_t i = 0; i < model->count; i++) {
        const nn_parameter *p = &model->parameter[i];
        if (element >= p->offset && element < p->offset + p->size) return p;
    }
    return NULL;
}

/* Elements of the shape, or -1 when a size is below 1 or there are more than memory could ever
 * hold. */
static int64_t count_elements(ad_shape shape)
{
    int64_t n = 1;
    if (shape.rank < 0 || shape.rank > AD_MAX_RANK) return -1;
    for (int i = 0; i < shape.rank; i++) {
        if (shape.dim[i] < 1 || n > (INT64_MAX >> 8) / shape.dim[i]) return -1;
        n *= shape.dim[i];
    }
    return n;
}

int nn_model_fail(nn_model *model, const char *format, ...)
{
    if (!model || model->error[0]) return -1;
    va_list list;
    va_start(list, format);
    vsnprintf(model->error, sizeof model->error, format, list);
    va_end(list);
    return -1;
}

static int parameter_fail(nn_model *model, const char *name, const char *format, ...)
{
    char reason[160];
    va_list list;
    va_start(list, format);
    vsnprintf(reason, sizeof reason, format, list);
    va_end(list);
    return nn_model_fail(model, "nn_model_add: parameter '%.60s': %s", name ? name : "", reason);
}

/* "[-1,3]": here -1 is a wrong size and does not stand for rows. */
static void format_sizes(ad_shape shape, char *text, size_t size)
{
    if (shape.rank < 0 || shape.rank > AD_MAX_RANK) {
        snprintf(text, size, "of rank %d (at most %d)", shape.rank, AD_MAX_RANK);
        return;
    }
    size_t used = 0;
    for (int i = 0; i < shape.rank; i++) {
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? "," : "[",
                                 (long long)shape.dim[i]);
    }
    snprintf(text + used, size - used, "%s", shape.rank ? "]" : "[]");
}

static int check_parameter(nn_model *model, const char *name, ad_shape shape, nn_init init,
                           int64_t fan_in, int64_t fan_out)
{
    if (!name || !*name) return parameter_fail(model, name, "it needs a name");
    if (strcmp(name, "__metadata__") == 0)
        return parameter_fail(model, name, "the name is reserved by the safetensors format");
    if (nn_parameter_find(model, name))
        return parameter_fail(model, name, "the model has one of this name already");
    int64_t n = count_elements(shape);
    if (n < 0 || n > (INT64_MAX >> 8) - model->size) {
        char text[256];
        format_sizes(shape, text, sizeof text);
        return parameter_fail(
            model, name,
            "every size must be at least 1, and theta fit into memory, but the shape is %s", text);
    }
    if (!init) return parameter_fail(model, name, "it needs an initialiser, e.g. nn_init_zeros");
    if (fan_in < 1 || fan_out < 1) {
        return parameter_fail(model, name,
                              "fan_in and fan_out must be at least 1, but are %lld and %lld",
                              (long long)fan_in, (long long)fan_out);
    }
    return 0;
}

static int reserve(nn_model *model)
{
    if (model->count < model->capacity) return 0;
    int64_t capacity = model->capacity ? 2 * model->capacity : 16;
    nn_parameter *grown = realloc(model->parameter, (size_t)capacity * sizeof *grown);
    if (!grown) return -1;
    model->parameter = grown;
    model->capacity = capacity;
    return 0;
}

int64_t nn_model_add(nn_model *model, const char *name, ad_shape shape, nn_init init,
                     int64_t fan_in, int64_t fan_out)
{
    if (!model || model->error[0] || check_parameter(model, name, shape, init, fan_in, fan_out))
        return -1;
    if (reserve(model) || nn_names_add(&model->names, name) < 0)
        return parameter_fail(model, name, "out of memory");
    int64_t n = count_elements(shape);
    int64_t offset = model->size;
    const char *kept = model->names.name[model->count];
    model->parameter[model->count++] =
        (nn_parameter){ kept, shape, offset, n, fan_in, fan_out, init, false };
    model->size = offset + (n + ALIGN - 1) / ALIGN * ALIGN;
    return offset;
}

int64_t nn_model_add_fixed(nn_model *model, const char *name, ad_shape shape, nn_init init,
                           int64_t fan_in, int64_t fan_out)
{
    int64_t offset = nn_model_add(model, name, shape, init, fan_in, fan_out);
    if (offset >= 0) model->parameter[model->count - 1].fixed = true;
    return offset;
}

bool nn_model_is_fixed(const nn_model *model, const char *name)
{
    const nn_parameter *p = nn_parameter_find(model, name);
    return p && p->fixed;
}

bool nn_theta_fits(const char *what, const nn_model *model, ad_var theta)
{
    ad_shape shape = ad_shape_of(theta);
    if (shape.rank == 1 && shape.dim[0] == nn_model_size(model)) return true;
    char text[128];
    ad_format_shape(shape, text, sizeof text);
    ad_fail(theta.tape, "%s: theta is %s; the model needs [%lld]", what, text,
            (long long)nn_model_size(model));
    return false;
}

ad_var nn_model_get(const nn_model *model, ad_var theta, const char *name)
{
    if (!ad_valid(theta)) {
        if (theta.tape) ad_fail(theta.tape, "nn_model_get: theta is not a valid variable");
        return theta;
    }
    const nn_parameter *p = nn_parameter_find(model, name);
    if (!p) {
        ad_fail(theta.tape, "nn_model_get: the model has no parameter '%s'",
                name ? name : "(NULL)");
        return ad_none(theta.tape);
    }
    if (!nn_theta_fits("nn_model_get", model, theta)) return ad_none(theta.tape);
    ad_var array = ad_reshape(ad_slice(theta, 0, p->offset, p->offset + p->size), p->shape);
    return p->fixed ? ad_stop_gradient(array) : array;
}
