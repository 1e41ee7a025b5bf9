/* Element types of files, and arrays of them. */
#include "nn/base/tensor.h"
#include "nn/base/names.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} types[] = {
    [NN_F32] = { "f32", 4 },   [NN_F64] = { "f64", 8 },   [NN_I8] = { "i8", 1 },
    [NN_U8] = { "u8", 1 },     [NN_I16] = { "i16", 2 },   [NN_U16] = { "u16", 2 },
    [NN_I32] = { "i32", 4 },   [NN_U32] = { "u32", 4 },   [NN_I64] = { "i64", 8 },
    [NN_U64] = { "u64", 8 },   [NN_BOOL] = { "bool", 1 }, [NN_F16] = { "f16", 2 },
    [NN_BF16] = { "bf16", 2 },
};

static bool is_type(nn_type type) { return (size_t)type < sizeof types / sizeof types[0]; }

size_t nn_type_bytes(nn_type type) { return is_type(type) ? types[type].bytes : 0; }

const char *nn_type_name(nn_type type) { return is_type(type) ? types[type].name : "no type"; }

int64_t nn_shape_bytes(ad_shape shape, nn_type type)
{
    int64_t bytes = (int64_t)nn_type_bytes(type);
    bool empty = false;
    if (bytes == 0 || shape.rank < 0 || shape.rank > AD_MAX_RANK) return -1;
    for (int i = 0; i < shape.rank; i++) {
        if (shape.dim[i] < 0) return -1;
        if (shape.dim[i] == 0) {
            empty = true;
            continue;
        }
        if (bytes > INT64_MAX / shape.dim[i]) return -1;
        bytes *= shape.dim[i];
    }
    return empty ? 0 : bytes;
}

int64_t nn_tensor_count(const nn_tensor *tensor)
{
    if (!tensor) return -1;
    int64_t bytes = nn_shape_bytes(tensor->shape, tensor->type);
    int64_t width = (int64_t)nn_type_bytes(tensor->type);
    return bytes < 0 || width == 0 ? -1 : bytes / width;
}

void nn_tensor_clear(nn_tensor *tensor)
{
    if (!tensor) return;
    free(tensor->name);
    free(tensor->data);
    *tensor = (nn_tensor){ 0 };
}

void nn_tensors_clear(nn_tensors *tensors)
{
    if (!tensors) return;
    for (int64_t i = 0; i < tensors->count; i++) nn_tensor_clear(&tensors->tensor[i]);
    free(tensors->tensor);
    *tensors = (nn_tensors){ 0 };
}

const nn_tensor *nn_tensors_find(const nn_tensors *tensors, const char *name)
{
    for (int64_t i = 0; tensors && name && i < tensors->count; i++) {
        const nn_tensor *t = &tensors->tensor[i];
        if (t->name && strcmp(t->name, name) == 0) return t;
    }
    return NULL;
}

int nn_tensor_check(const char *what, const nn_tensor *tensor, char *error, size_t error_size)
{
    int64_t n = nn_tensor_count(tensor);
    bool written = tensor && tensor->type != NN_F16 && tensor->type != NN_BF16;
    if (written && n >= 0 && (n == 0 || tensor->data)) return 0;
    if (!tensor) return nn_error(error, error_size, "%s: the array is NULL", what);
    char shape[128];
    ad_format_shape(tensor->shape, shape, sizeof shape);
    const char *name = tensor->name ? tensor->name : "";
    if (nn_type_bytes(tensor->type) == 0)
        return nn_error(error, error_size, "%s: array '%.60s' has no element type", what, name);
    if (n < 0)
        return nn_error(error, error_size, "%s: array '%.60s': %s is no shape of an array", what,
                        name, shape);
    if (!written)
        return nn_error(error, error_size,
                        "%s: array '%.60s' is %s, which is read, not written; nn_tensor_numbers "
                        "makes f32 or f64 of it",
                        what, name, nn_type_name(tensor->type));
    return nn_error(error, error_size, "%s: array '%.60s' has no data", what, name);
}

int nn_tensors_check(const char *what, const nn_tensors *tensors, char *error, size_t error_size)
{
    if (!tensors || tensors->count < 1 || !tensors->tensor)
        return nn_error(error, error_size, "%s: there are no arrays", what);
    nn_names names = { 0 };
    int result = 0;
    for (int64_t i = 0; result == 0 && i < tensors->count; i++) {
        const char *name = tensors->tensor[i].name;
        result = nn_tensor_check(what, &tensors->tensor[i], error, error_size);
        if (result) break;
        if (!name || !*name) {
            result = nn_error(error, error_size, "%s: array %" PRId64 " has no name", what, i);
            break;
        }
        int64_t number = nn_names_add(&names, name);
        if (number < 0) result = nn_error(error, error_size, "%s: out of memory", what);
        else if (number != i)
            result = nn_error(error, error_size, "%s: two arrays are called '%.60s'", what, name);
    }
    nn_names_clear(&names);
    return result;
}

int64_t nn_find_no_bool(nn_type type, const void *data, int64_t n)
{
    for (int64_t i = 0; type == NN_BOOL && i < n; i++)
        if (((const unsigned char *)data)[i] > 1) return i;
    return -1;
}

void nn_swap_bytes(void *data, int64_t n, size_t width)
{
    unsigned char *byte = data;
    for (int64_t i = 0; i < n; i++, byte += width) {
        for (size_t k = 0; k < width / 2; k++) {
            unsigned char kept = byte[k];
            byte[k] = byte[width - 1 - k];
            byte[width - 1 - k] = kept;
        }
    }
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Sign, 5 bits of exponent, 10 of fraction: exponent 0 is that of subnormal numbers, multiples of
 * 2^-24, and 31 that of infinity and NaN. */
static float decode_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, size = half & 0x7fffu;
    if (size < 0x0400u) return sign ? -0x1p-24f * (float)size : 0x1p-24f * (float)size;
    const uint32_t rebias = (size >= 0x7c00u ? 255 - 31 : 127 - 15) << 23;
    return float_of(sign | ((size << 13) + rebias));
}

static float decode_bf16(uint16_t half) { return float_of((uint32_t)half << 16); }

/* Converts in a loop for each pair of types; `exact` says whether the value is kept. */
#define CONVERT_AS(from_type, to_type, exact, decoded)                                             \
    for (int64_t i = 0; i < n; i++) {                                                              \
        from_type value;                                                                           \
        memcpy(&value, (const char *)from + (size_t)i * sizeof value, sizeof value);               \
        if (!(exact)) return i;                                                                    \
        ((to_type *)to)[i] = (to_type)(decoded);                                                   \
    }                                                                                              \
    return -1
#define CONVERT(from_type, to_type, exact) CONVERT_AS(from_type, to_type, exact, value)

/* All source types for one destination, which holds whole numbers up to `limit` exactly. */
#define CONVERT_TO(to_type, limit)                                                                 \
    switch (type) {                                                                                \
    case NN_F32: CONVERT(float, to_type, true);                                                    \
    case NN_F64: CONVERT(double, to_type, true);                                                   \
    case NN_I8: CONVERT(int8_t, to_type, true);                                                    \
    case NN_U8:                                                                                    \
    case NN_BOOL: CONVERT(uint8_t, to_type, true);                                                 \
    case NN_I16: CONVERT(int16_t, to_type, true);                                                  \
    case NN_U16: CONVERT(uint16_t, to_type, true);                                                 \
    case NN_I32: CONVERT(int32_t, to_type, value <= (limit) && value >= -(limit));                 \
    case NN_U32: CONVERT(uint32_t, to_type, value <= (limit));                                     \
    case NN_I64: CONVERT(int64_t, to_type, value <= (limit) && value >= -(limit));                 \
    case NN_U64: CONVERT(uint64_t, to_type, value <= (limit));                                     \
    case NN_F16: CONVERT_AS(uint16_t, to_type, true, decode_f16(value));                           \
    case NN_BF16: CONVERT_AS(uint16_t, to_type, true, decode_bf16(value));                         \
    }

static int64_t convert_to_float(nn_type type, const void *from, int64_t n, void *to)
{
    enum { LIMIT = 1 << 24 };
    CONVERT_TO(float, LIMIT)
    return -1;
}

static int64_t convert_to_double(nn_type type, const void *from, int64_t n, void *to)
{
    static const int64_t limit = INT64_C(1) << 53;
    CONVERT_TO(double, limit)
    return -1;
}

int64_t nn_convert(nn_type type, const void *from, int64_t n, ad_dtype dtype, void *to)
{
    return dtype == AD_F32 ? convert_to_float(type, from, n, to)
                           : convert_to_double(type, from, n, to);
}

double nn_tensor_element(const nn_tensor *tensor, int64_t i)
{
    double value = NAN;
    nn_convert(tensor->type, (const char *)tensor->data + (size_t)i * nn_type_bytes(tensor->type),
               1, AD_F64, &value);
    return value;
}

void nn_print_element(nn_type type, const void *data, int64_t i, char *text, size_t size)
{
    const char *from = (const char *)data + (size_t)i * nn_type_bytes(type);
    int64_t whole = 0;
    uint64_t natural = 0;
    double number = 0;
    memcpy(&whole, from, nn_type_bytes(type));
    memcpy(&natural, from, nn_type_bytes(type));
    if (type == NN_U64 || type == NN_U32) snprintf(text, size, "%" PRIu64, natural);
    else if (type == NN_I64) snprintf(text, size, "%" PRId64, whole);
    else if (nn_convert(type, from, 1, AD_F64, &number) < 0)
        snprintf(text, size, "%.9g", nn_shown(number));
}

int nn_tensor_numbers(const nn_tensor *tensor, ad_dtype dtype, void *out, char *error,
                      size_t error_size)
{
    int64_t n = nn_tensor_count(tensor);
    if (n < 0 || (n > 0 && (!tensor->data || !out)) || !nn_is_dtype(dtype))
        return nn_error(error, error_size, "nn_tensor_numbers: %s",
                        n < 0                 ? "this is no array"
                        : !nn_is_dtype(dtype) ? "dtype is neither AD_F32 nor AD_F64"
                                              : "data or out is NULL");
    int64_t bad = nn_convert(tensor->type, tensor->data, n, dtype, out);
    if (bad < 0) return 0;
    char text[40];
    nn_print_element(tensor->type, tensor->data, bad, text, sizeof text);
    return nn_error(error, error_size,
                    "nn_tensor_numbers: element %" PRId64 "%s%.60s%s is %s, which %s does not hold "
                    "exactly",
                    bad, tensor->name ? " of '" : "", tensor->name ? tensor->name : "",
                    tensor->name ? "'" : "", text, nn_dtype_name(dtype));
}
