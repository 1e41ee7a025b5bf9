/* theta to and from safetensors files: eight bytes with the length of a header (little-endian), the
 * header (JSON: for each array its dtype, shape and range of bytes), the arrays one after the other
 * without gaps (little-endian). Files come from anywhere: nothing in the header is believed before
 * it is checked against the file's length and the model. */
#include "nn/base/file.h"
#include "nn/base/tensor.h"
#include "nn/model/model.h"
#include "nn/model/safetensors.h"
#include "autodiff/extension.h"
#include <float.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    PREFIX = 8,
    HEADER_MAX = 100000000
}; /* the limit of the format's reference implementation */

#define METADATA "__metadata__" /* not an array: texts beside them */

/* The format's names of the element types. */
enum { TYPES = NN_BF16 + 1 };
static const char *const dtypes[TYPES] = {
    [NN_F32] = "F32",   [NN_F64] = "F64", [NN_I8] = "I8",     [NN_U8] = "U8",   [NN_I16] = "I16",
    [NN_U16] = "U16",   [NN_I32] = "I32", [NN_U32] = "U32",   [NN_I64] = "I64", [NN_U64] = "U64",
    [NN_BOOL] = "BOOL", [NN_F16] = "F16", [NN_BF16] = "BF16",
};

/* The reason why a theta cannot be saved or loaded, if there is one. */
static int check_arguments(const char *what, const char *path, const nn_theta *theta, char *error,
                           size_t size)
{
    if (!path || !*path) return nn_error(error, size, "%s: a file name is missing", what);
    return nn_theta_check(what, theta, error, size);
}

/* ---- saving ---------------------------------------------------------------------------------- */

static json_t *describe_array(const nn_tensor *t, int64_t start)
{
    json_t *shape = json_array();
    for (int i = 0; shape && i < t->shape.rank; i++) {
        if (json_array_append_new(shape, json_integer(t->shape.dim[i])) == 0) continue;
        json_decref(shape);
        shape = NULL;
    }
    if (!shape) return NULL;
    int64_t stop = start + nn_shape_bytes(t->shape, t->type);
    return json_pack("{s:s, s:o, s:[I,I]}", "dtype", dtypes[t->type], "shape", shape,
                     "data_offsets", (json_int_t)start, (json_int_t)stop);
}

/* The text of json, or NULL; caller frees. (json_dumps of Jansson 2.14 leaves out a key for which
 * memory is short, in silence; into memory that is there already nothing fails.) */
static char *dump(const json_t *json)
{
    size_t length = json_dumpb(json, NULL, 0, JSON_COMPACT);
    char *text = length ? malloc(length + 1) : NULL;
    if (!text) return NULL;
    if (json_dumpb(json, text, length, JSON_COMPACT) == length) {
        text[length] = 0;
        return text;
    }
    free(text);
    return NULL;
}

/* Data lie in the order of their elements' widths, so that each array is aligned to its own: what
 * is at another place, PyTorch does not read. */
enum { WIDEST = 8 };

/* The header's text, or NULL; caller frees. */
static char *make_header(int64_t n, const nn_tensor *tensors, json_t *metadata)
{
    json_t *header = json_object();
    char *text = NULL;
    int64_t start = 0;
    bool fine = header && (!metadata || json_object_set(header, METADATA, metadata) == 0);
    for (size_t width = WIDEST; fine && width > 0; width /= 2) {
        for (int64_t i = 0; fine && i < n; i++) {
            const nn_tensor *t = &tensors[i];
            if (nn_type_bytes(t->type) != width) continue;
            fine = json_object_set_new(header, t->name, describe_array(t, start)) == 0;
            start += nn_shape_bytes(t->shape, t->type);
        }
    }
    if (fine) text = dump(header);
    json_decref(header);
    return text;
}

static void write_tensors(FILE *stream, int64_t n, const nn_tensor *tensors, const char *header)
{
    size_t length = strlen(header),
           padded = (length + 7) / 8 *
                    8; /* blanks behind the header put the numbers at a multiple of 8 */
    unsigned char prefix[PREFIX];
    for (int i = 0; i < PREFIX; i++) prefix[i] = (unsigned char)((uint64_t)padded >> (8 * i));
    fwrite(prefix, 1, PREFIX, stream);
    fprintf(stream, "%-*s", (int)padded, header);
    for (size_t width = WIDEST; width > 0; width /= 2) {
        for (int64_t i = 0; i < n && !ferror(stream); i++) {
            const nn_tensor *t = &tensors[i];
            if (nn_type_bytes(t->type) == width)
                fwrite(t->data, 1, (size_t)nn_shape_bytes(t->shape, t->type), stream);
        }
    }
}

int nn_safetensors_save(const char *path, int64_t n, const nn_tensor *tensors, json_t *metadata,
                        char *error, size_t error_size)
{
    char *header = make_header(n, tensors, metadata);
    if (!header || strlen(header) > HEADER_MAX) {
        const char *why = header ? "the names are longer than the format's limit of 100 MB"
                                 : "out of memory, or a name is not UTF-8";
        nn_error(error, error_size, "%s: cannot be written: %s", path, why);
        free(header);
        return -1;
    }
    nn_file file;
    int result = nn_file_open(&file, path, error, error_size);
    if (result == 0) {
        write_tensors(file.stream, n, tensors, header);
        result = nn_file_commit(&file, error, error_size);
    }
    free(header);
    return result;
}

int nn_save(const char *path, const nn_theta *theta, char *error, size_t error_size)
{
    if (check_arguments("nn_save", path, theta, error, error_size)) return -1;
    int64_t bad = nn_find_nonfinite(theta->dtype, theta->data, theta->size);
    if (bad >= 0) {
        const nn_parameter *p = nn_parameter_at(theta->model, bad);
        return nn_error(error, error_size,
                        "nn_save: '%s' holds %g (element %" PRId64
                        " of theta); %s is left as it was",
                        p ? p->name : "padding",
                        nn_shown(nn_element(theta->dtype, theta->data, bad)), bad, path);
    }
    const nn_model *model = theta->model;
    nn_tensor *tensors = calloc((size_t)model->count, sizeof *tensors);
    if (!tensors) return nn_error(error, error_size, "nn_save: out of memory");
    for (int64_t i = 0; i < model->count; i++) {
        const nn_parameter *p = &model->parameter[i];
        tensors[i] =
            (nn_tensor){ (char *)p->name, (nn_type)theta->dtype, p->shape,
                         (char *)theta->data + (size_t)p->offset * nn_bytes(theta->dtype) };
    }
    int result = nn_safetensors_save(path, model->count, tensors, NULL, error, error_size);
    free(tensors);
    return result;
}

/* ---- loading --------------------------------------------------------------------------------- */

/* One array as the header describes it, once that is known to agree with itself: bytes start..stop
 * of the data hold `size` elements. */
typedef struct {
    const char *name;
    nn_type type;
    ad_shape shape;
    int64_t start, stop;
} tensor;

typedef struct {
    const char *path;
    char *error;
    size_t error_size;
    char *file; /* all of it */
    json_t *header;
    char *data; /* behind the header */
    int64_t data_size;
    tensor *tensors; /* in the order of their data */
    int64_t count;
    const tensor **match; /* for each parameter of the model */
} content;

#define FAIL(c, format, ...)                                                                       \
    nn_error((c)->error, (c)->error_size, "%s: " format, (c)->path, __VA_ARGS__)

/* An integer >= 0; -1 for anything else. */
static int64_t size_of(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= 0
               ? (int64_t)json_integer_value(value)
               : -1;
}

/* A value of the header for messages, cut to the room there is. */
static void show(const json_t *value, char *text, size_t size)
{
    size_t n = value ? json_dumpb(value, text, size - 1, JSON_COMPACT | JSON_ENCODE_ANY) : 0;
    if (n == 0) n = (size_t)snprintf(text, size, "missing");
    text[n < size ? n : size - 1] = 0;
}

/* The number of bytes of an array of this shape, or -1 where it is no shape. */
static int64_t read_shape(const json_t *json, nn_type type, ad_shape *shape)
{
    if (!json_is_array(json) || json_array_size(json) > AD_MAX_RANK) return -1;
    shape->rank = (int)json_array_size(json);
    for (int i = 0; i < shape->rank; i++) shape->dim[i] = size_of(json_array_get(json, (size_t)i));
    return nn_shape_bytes(*shape, type);
}

static int read_tensor(content *c, const char *name, json_t *json, tensor *t)
{
    const char *dtype = json_string_value(json_object_get(json, "dtype"));
    json_t *offsets = json_object_get(json, "data_offsets");
    *t = (tensor){ .name = name,
                   .start = size_of(json_array_get(offsets, 0)),
                   .stop = size_of(json_array_get(offsets, 1)) };
    if (!dtype) return FAIL(c, "'%.60s' has no dtype", name);
    int type = 0;
    while (type < TYPES && strcmp(dtype, dtypes[type]) != 0) type++;
    if (type == TYPES)
        return FAIL(c,
                    "'%.60s' has dtype %.20s; F16, BF16, F32, F64, BOOL, and I and U of 8, 16, 32, "
                    "64 are read",
                    name, dtype);
    t->type = (nn_type)type;
    char text[80];
    if (json_array_size(offsets) != 2 || t->start < 0 || t->stop < t->start ||
        t->stop > c->data_size) {
        show(offsets, text, sizeof text);
        return FAIL(c,
                    "the data_offsets of '%.60s' are not two places, in order, in the %" PRId64
                    " bytes of data: %s",
                    name, c->data_size, text);
    }
    int64_t bytes = read_shape(json_object_get(json, "shape"), t->type, &t->shape);
    if (bytes < 0 || bytes > c->data_size) {
        show(json_object_get(json, "shape"), text, sizeof text);
        return FAIL(c,
                    "the shape of '%.60s' is not a list of at most %d sizes >= 0 that fit into the "
                    "file: %s",
                    name, AD_MAX_RANK, text);
    }
    if (bytes != t->stop - t->start) {
        return FAIL(c,
                    "'%.60s' needs %" PRId64
                    " bytes for its shape and dtype, but its data_offsets span %" PRId64,
                    name, bytes, t->stop - t->start);
    }
    return 0;
}

static int by_start(const void *a, const void *b)
{
    const tensor *x = a, *y = b;
    if (x->start != y->start) return x->start < y->start ? -1 : 1;
    return (x->stop > y->stop) - (x->stop < y->stop); /* arrays without elements first */
}

/* All arrays of the header. The format wants every byte of the data to belong to exactly one. */
static int read_tensors(content *c)
{
    c->tensors = calloc(json_object_size(c->header) + 1, sizeof *c->tensors);
    if (!c->tensors) return FAIL(c, "%s", "out of memory");
    const char *name;
    json_t *json;
    json_object_foreach(c->header, name, json)
    {
        if (strcmp(name, METADATA) == 0) continue;
        if (read_tensor(c, name, json, &c->tensors[c->count])) return -1;
        c->count++;
    }
    qsort(c->tensors, (size_t)c->count, sizeof *c->tensors, by_start);
    int64_t end = 0;
    for (int64_t i = 0; i < c->count; i++) {
        const tensor *t = &c->tensors[i];
        if (t->start < end)
            return FAIL(c,
                        "the data of '%.60s' overlap another array's: they begin at byte %" PRId64
                        ", those end at %" PRId64,
                        t->name, t->start, end);
        if (t->start > end)
            return FAIL(c, "the data of '%.60s' follow a gap of %" PRId64 " bytes", t->name,
                        t->start - end);
        end = t->stop;
    }
    if (end != c->data_size)
        return FAIL(c, "%" PRId64 " bytes at the end belong to no array", c->data_size - end);
    return 0;
}

/* Jansson reports some failed allocations as bad tokens. Parsing again, and asking for as much
 * memory, tells them apart. */
static int parse_header(content *c, const char *text, size_t length)
{
    json_error_t why = { .text = "" };
    for (int attempt = 0; attempt < 2 && !c->header; attempt++) {
        c->header = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);
    }
    if (c->header) return 0;
    void *probe = malloc(length + 1);
    bool memory = probe && why.text[0];
    free(probe);
    if (!memory) return FAIL(c, "%s", "out of memory");
    return FAIL(c, "the header is not JSON, or repeats a name: %s (byte %d)", why.text,
                why.position + PREFIX);
}

static int read_header(content *c)
{
    size_t size;
    c->file = nn_read_file(c->path, &size, c->error, c->error_size);
    if (!c->file) return -1;
    uint64_t length = 0;
    if (size < PREFIX) return FAIL(c, "%zu bytes are too short for a safetensors file", size);
    for (int i = 0; i < PREFIX; i++) length |= (uint64_t)(unsigned char)c->file[i] << (8 * i);
    if (length > size - PREFIX) {
        return FAIL(c,
                    "the header's length is %" PRIu64
                    " bytes, the file's %zu; truncated, or not a safetensors file",
                    length, size);
    }
    if (length > HEADER_MAX) {
        return FAIL(
            c, "the header's length is %" PRIu64 " bytes; the format allows at most %d (100 MB)",
            length, HEADER_MAX);
    }
    const char *text = c->file + PREFIX;
    const char *nul = memchr(text, 0, (size_t)length);
    if (nul) {
        return FAIL(
            c, "there is a zero byte in the header (byte %zu); the format pads headers with blanks",
            (size_t)(nul - text) + PREFIX);
    }
    if (parse_header(c, text, (size_t)length)) return -1;
    if (!json_is_object(c->header)) return FAIL(c, "%s", "the header is not a JSON object");
    c->data = c->file + PREFIX + length;
    c->data_size = (int64_t)(size - PREFIX - (size_t)length);
    return read_tensors(c);
}

/* Whether the file has exactly the model's arrays; match[i] is the tensor of parameter i. */
static int match_tensors(content *c, const nn_model *model)
{
    c->match = calloc((size_t)model->count, sizeof *c->match);
    if (!c->match) return FAIL(c, "%s", "out of memory");
    const tensor *stranger = NULL;
    for (int64_t i = 0; i < c->count; i++) {
        const nn_parameter *p = nn_parameter_find(model, c->tensors[i].name);
        if (p) c->match[p - model->parameter] = &c->tensors[i];
        else if (!stranger) stranger = &c->tensors[i];
    }
    for (int64_t i = 0; i < model->count; i++) {
        const nn_parameter *p = &model->parameter[i];
        const tensor *t = c->match[i];
        if (!t) return FAIL(c, "the model's parameter '%.60s' is not in the file", p->name);
        if (ad_same_shape(t->shape, p->shape)) continue;
        char in_file[128], in_model[128];
        ad_format_shape(t->shape, in_file, sizeof in_file);
        ad_format_shape(p->shape, in_model, sizeof in_model);
        return FAIL(c, "'%.60s' is %s in the file, but %s in the model", p->name, in_file,
                    in_model);
    }
    return stranger ? FAIL(c, "'%.60s' is in the file, but not in the model", stranger->name) : 0;
}

/* Name and data are lent by the file. */
static nn_tensor tensor_of(const content *c, const tensor *t)
{
    return (nn_tensor){ (char *)t->name, t->type, t->shape, c->data + t->start };
}

static int copy_tensor(content *c, const nn_parameter *p, const tensor *t, ad_dtype dtype,
                       void *data)
{
    double largest = dtype == AD_F32 ? FLT_MAX : DBL_MAX;
    nn_tensor from = tensor_of(c, t);
    bool real = t->type == NN_F32 || t->type == NN_F64 || t->type == NN_F16 || t->type == NN_BF16;
    if (!real)
        return FAIL(c, "'%.60s' has dtype %s; parameters are read from F16, BF16, F32 and F64",
                    p->name, dtypes[t->type]);
    for (int64_t i = 0; i < p->size; i++) {
        double value = nn_tensor_element(&from, i);
        if (!(fabs(value) <= largest)) {
            return FAIL(c,
                        "element %" PRId64
                        " of '%.60s' is %g, which is no finite number of theta's type",
                        i, p->name, nn_shown(value));
        }
        nn_put(dtype, data, p->offset + i, value);
    }
    return 0;
}

/* Into a copy first: theta changes only when all is right. */
static int copy_tensors(content *c, nn_theta *theta)
{
    const nn_model *model = theta->model;
    void *copy = calloc((size_t)theta->size, nn_bytes(theta->dtype));
    if (!copy) return FAIL(c, "%s", "out of memory");
    int result = 0;
    for (int64_t i = 0; result == 0 && i < model->count; i++) {
        result = copy_tensor(c, &model->parameter[i], c->match[i], theta->dtype, copy);
    }
    if (result == 0) memcpy(theta->data, copy, (size_t)theta->size * nn_bytes(theta->dtype));
    free(copy);
    return result;
}

int nn_load(const char *path, nn_theta *theta, char *error, size_t error_size)
{
    if (check_arguments("nn_load", path, theta, error, error_size)) return -1;
    content c = { .path = path, .error = error, .error_size = error_size };
    int result =
        read_header(&c) || match_tensors(&c, theta->model) || copy_tensors(&c, theta) ? -1 : 0;
    free(c.match);
    free(c.tensors);
    json_decref(c.header);
    free(c.file);
    return result;
}

/* ---- any arrays ------------------------------------------------------------------------------ */

struct nn_safetensors {
    content content;
};

nn_safetensors *nn_safetensors_load(const char *path, char *error, size_t error_size)
{
    nn_safetensors *file = calloc(1, sizeof *file);
    if (!file) {
        nn_error(error, error_size, "%s: out of memory", path);
        return NULL;
    }
    file->content = (content){ .path = path, .error = error, .error_size = error_size };
    if (read_header(&file->content) == 0) return file;
    nn_safetensors_free(file);
    return NULL;
}

void nn_safetensors_free(nn_safetensors *file)
{
    if (!file) return;
    free(file->content.tensors);
    json_decref(file->content.header);
    free(file->content.file);
    free(file);
}

bool nn_safetensors_get(const nn_safetensors *file, int64_t i, nn_tensor *out)
{
    if (i >= file->content.count) return false;
    const tensor *t = &file->content.tensors[i];
    *out = tensor_of(&file->content, t);
    return true;
}

const char *nn_safetensors_text(const nn_safetensors *file, const char *key)
{
    const json_t *metadata = json_object_get(file->content.header, METADATA);
    return json_string_value(json_object_get(metadata, key));
}

/* ---- files of arrays ------------------------------------------------------------------------- */

static int copy_array(content *c, const tensor *from, nn_tensor *to)
{
    size_t bytes = (size_t)(from->stop - from->start);
    *to = (nn_tensor){ strdup(from->name), from->type, from->shape, malloc(bytes + 1) };
    if (!to->name || !to->data) return FAIL(c, "%s", "out of memory");
    memcpy(to->data, c->data + from->start, bytes);
    int64_t bad = nn_find_no_bool(to->type, to->data, (int64_t)bytes);
    if (bad < 0) return 0;
    return FAIL(c, "element %" PRId64 " of '%.60s' is %d, which is no bool", bad, to->name,
                ((unsigned char *)to->data)[bad]);
}

int nn_read_safetensors(const char *path, nn_tensors *tensors, char *error, size_t error_size)
{
    if (!path || !tensors)
        return nn_error(error, error_size, "nn_read_safetensors: %s is NULL",
                        path ? "tensors" : "path");
    *tensors = (nn_tensors){ 0 };
    nn_safetensors *file = nn_safetensors_load(path, error, error_size);
    if (!file) return -1;
    content *c = &file->content;
    int result = 0;
    tensors->tensor = calloc((size_t)c->count + 1, sizeof *tensors->tensor);
    if (!tensors->tensor) result = FAIL(c, "%s", "out of memory");
    for (int64_t i = 0; result == 0 && i < c->count; i++)
        result = copy_array(c, &c->tensors[i], &tensors->tensor[tensors->count++]);
    nn_safetensors_free(file);
    if (result) nn_tensors_clear(tensors);
    return result;
}

int nn_write_safetensors(const char *path, const nn_tensors *tensors, char *error,
                         size_t error_size)
{
    if (!path || !*path)
        return nn_error(error, error_size, "nn_write_safetensors: a file name is missing");
    if (nn_tensors_check("nn_write_safetensors", tensors, error, error_size)) return -1;
    if (nn_tensors_find(tensors, METADATA))
        return nn_error(error, error_size,
                        "nn_write_safetensors: no array can be called " METADATA);
    return nn_safetensors_save(path, tensors->count, tensors->tensor, NULL, error, error_size);
}
