/* NumPy's arrays: "\x93NUMPY", two bytes of version, the length of the header, the header (a
 * literal of a Python dictionary with the keys descr, fortran_order and shape), the data. NumPy
 * Enhancement Proposal 1 is the description; version 2 has four bytes for the length instead of
 * two, version 3 is version 2 in UTF-8. */
#include "nn/data/npy.h"
#include "nn/base/file.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char magic[] = "\x93NUMPY";
enum { MAGIC = sizeof magic - 1, ALIGNMENT = 64 };

/* ---- the dictionary -------------------------------------------------------------------------- */

typedef struct {
    const char *what;
    char *error;
    size_t error_size;
    const char *start, *at, *end; /* of the dictionary's text */
    nn_npy_header *header;
    bool descr, order, shape; /* have been read */
} parser;

#define FAIL(p, format, ...)                                                                       \
    nn_error((p)->error, (p)->error_size, "%s: " format, (p)->what, __VA_ARGS__)

static int unexpected(parser *p, const char *expected)
{
    return FAIL(p,
                "the header has no %s at its character %td; this is no array of NumPy, or it is "
                "damaged",
                expected, p->at - p->start + 1);
}

static void skip_blanks(parser *p)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n')) p->at++;
}

static bool take(parser *p, char c)
{
    skip_blanks(p);
    if (p->at == p->end || *p->at != c) return false;
    p->at++;
    return true;
}

static bool take_word(parser *p, const char *word)
{
    size_t n = strlen(word);
    skip_blanks(p);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n) != 0) return false;
    p->at += n;
    return true;
}

/* A text in quotes, without escapes, cut to the room there is. */
static bool take_text(parser *p, char *text, size_t room)
{
    skip_blanks(p);
    if (p->at == p->end || (*p->at != '\'' && *p->at != '"')) return false;
    const char *first = p->at + 1, *last = memchr(first, *p->at, (size_t)(p->end - first));
    if (!last) return false;
    size_t n = (size_t)(last - first);
    if (n >= room) n = room - 1;
    memcpy(text, first, n);
    text[n] = 0;
    p->at = last + 1;
    return true;
}

static bool type_of(const char *code, nn_type *type)
{
    static const struct {
        const char *code;
        nn_type type;
    } codes[] = {
        { "f4", NN_F32 }, { "f8", NN_F64 }, { "i1", NN_I8 },   { "u1", NN_U8 },
        { "i2", NN_I16 }, { "u2", NN_U16 }, { "i4", NN_I32 },  { "u4", NN_U32 },
        { "i8", NN_I64 }, { "u8", NN_U64 }, { "b1", NN_BOOL }, { "f2", NN_F16 },
    };
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        if (strcmp(codes[i].code, code) != 0) continue;
        *type = codes[i].type;
        return true;
    }
    return false;
}

static const char *code_of(nn_type type)
{
    static const char *const codes[] = {
        [NN_F32] = "<f4", [NN_F64] = "<f8", [NN_I8] = "|i1",   [NN_U8] = "|u1",
        [NN_I16] = "<i2", [NN_U16] = "<u2", [NN_I32] = "<i4",  [NN_U32] = "<u4",
        [NN_I64] = "<i8", [NN_U64] = "<u8", [NN_BOOL] = "|b1",
    };
    return codes[type];
}

static int read_descr(parser *p)
{
    char text[40];
    if (take(p, '['))
        return FAIL(p, "%s", "its elements are records; save each field as an array of its own");
    if (!take_text(p, text, sizeof text)) return unexpected(p, "element type");
    const char order = text[0];
    if (order == '|' && text[1] == 'O')
        return FAIL(p, "%s",
                    "its elements are Python objects, which are not read (they are code); "
                    "save numbers");
    if (!order || !strchr("<>=|", order) || !type_of(text + 1, &p->header->type))
        return FAIL(
            p,
            "its elements are of type '%s'; f2, f4, f8, i1 to i8, u1 to u8 and b1 are read: "
            "convert it with astype",
            text);
    size_t bytes = nn_type_bytes(p->header->type);
    if (order == '|' && bytes > 1)
        return FAIL(p, "the element type '%s' does not say the order of its bytes", text);
    p->header->swapped = order == '>' && bytes > 1;
    p->descr = true;
    return 0;
}

static int read_order(parser *p)
{
    if (take_word(p, "True")) p->header->fortran = true;
    else if (!take_word(p, "False")) return unexpected(p, "True or False");
    p->order = true;
    return 0;
}

/* A number of digits, perhaps with the L of Python 2. */
static int read_size(parser *p, int64_t *size)
{
    const char *first = p->at;
    *size = 0;
    for (; p->at < p->end && *p->at >= '0' && *p->at <= '9'; p->at++) {
        int digit = *p->at - '0';
        if (*size > (INT64_MAX - digit) / 10)
            return FAIL(p, "a size of its shape is larger than %" PRId64, INT64_MAX);
        *size = 10 * *size + digit;
    }
    if (p->at == first) return unexpected(p, "size");
    if (p->at < p->end && *p->at == 'L') p->at++;
    return 0;
}

static int read_shape(parser *p)
{
    ad_shape *shape = &p->header->shape;
    shape->rank = 0;
    if (!take(p, '(')) return unexpected(p, "shape in parentheses");
    bool comma = true;
    while (!take(p, ')')) {
        if (!comma) return unexpected(p, "comma or parenthesis");
        if (shape->rank == AD_MAX_RANK)
            return FAIL(p, "its shape has more than %d sizes", AD_MAX_RANK);
        if (read_size(p, &shape->dim[shape->rank])) return -1;
        shape->rank++;
        comma = take(p, ',');
    }
    if (shape->rank == 1 && !comma) return unexpected(p, "comma behind an only size");
    p->shape = true;
    return 0;
}

static int read_entry(parser *p)
{
    char key[40];
    if (!take_text(p, key, sizeof key)) return unexpected(p, "key in quotes");
    if (!take(p, ':')) return unexpected(p, "colon");
    bool descr = strcmp(key, "descr") == 0, order = strcmp(key, "fortran_order") == 0;
    if (!descr && !order && strcmp(key, "shape") != 0)
        return FAIL(p, "the header has the unknown key '%s'", key);
    if (descr ? p->descr : order ? p->order : p->shape)
        return FAIL(p, "the header has the key '%s' twice", key);
    return descr ? read_descr(p) : order ? read_order(p) : read_shape(p);
}

static int read_dictionary(parser *p)
{
    if (!take(p, '{')) return unexpected(p, "opening brace");
    bool comma = true;
    while (!take(p, '}')) {
        if (!comma) return unexpected(p, "comma or brace");
        if (read_entry(p)) return -1;
        comma = take(p, ',');
    }
    skip_blanks(p);
    if (p->at < p->end) return unexpected(p, "blank behind the closing brace");
    if (p->descr && p->order && p->shape) return 0;
    return FAIL(p, "the header has no '%s'",
                !p->descr   ? "descr"
                : !p->order ? "fortran_order"
                            : "shape");
}

/* ---- reading --------------------------------------------------------------------------------- */

int nn_npy_parse(const char *what, const char *file, size_t size, uint64_t total,
                 nn_npy_header *header, char *error, size_t error_size)
{
    const unsigned char *b = (const unsigned char *)file;
    parser p = { .what = what, .error = error, .error_size = error_size, .header = header };
    *header = (nn_npy_header){ 0 };
    enum { VERSION = MAGIC, LENGTH = MAGIC + 2 };
    if (size < LENGTH || memcmp(file, magic, MAGIC) != 0)
        return FAIL(&p, "%s", "not an array of NumPy, which begins with \\x93NUMPY");
    int version = b[VERSION];
    if (version < 1 || version > 3)
        return FAIL(&p, "version %d.%d of the format; 1 to 3 are read", version, b[VERSION + 1]);
    size_t bytes = version == 1 ? 2 : 4, length = 0;
    if (size < LENGTH + bytes)
        return FAIL(&p, "%zu bytes are too short for its header; truncated", size);
    for (size_t i = 0; i < bytes; i++) length |= (size_t)b[LENGTH + i] << (8 * i);
    header->start = LENGTH + bytes + length;
    if (header->start > size)
        return FAIL(&p, "the header's length is %zu bytes, but there are %zu; truncated", length,
                    size - LENGTH - bytes);
    p.start = file + LENGTH + bytes;
    p.at = p.start;
    p.end = p.start + length;
    if (read_dictionary(&p)) return -1;
    if (header->shape.rank < 2) header->fortran = false;
    char shape[128];
    ad_format_shape(header->shape, shape, sizeof shape);
    int64_t need = nn_shape_bytes(header->shape, header->type);
    uint64_t left = total - header->start;
    if (need < 0) return FAIL(&p, "there is no array as large as %s", shape);
    if ((uint64_t)need == left) return 0;
    return FAIL(
        &p, "an array %s of %s needs %" PRId64 " bytes, but %" PRIu64 " follow the header%s", shape,
        nn_type_name(header->type), need, left, (uint64_t)need > left ? "; truncated" : "");
}

/* Row-major from column-major: walks through the result with the source's strides. */
static void reorder(ad_shape shape, size_t width, const char *from, char *to)
{
    int64_t index[AD_MAX_RANK] = { 0 }, stride[AD_MAX_RANK], n = 1, at = 0;
    for (int i = 0; i < shape.rank; i++) {
        stride[i] = n;
        n *= shape.dim[i];
    }
    for (int64_t k = 0; k < n; k++) {
        memcpy(to + (size_t)k * width, from + (size_t)at * width, width);
        for (int i = shape.rank - 1; i >= 0; i--) {
            at += stride[i];
            if (++index[i] < shape.dim[i]) break;
            at -= stride[i] * shape.dim[i];
            index[i] = 0;
        }
    }
}

int nn_npy_take(const char *what, char *file, size_t size, nn_tensor *tensor, char *error,
                size_t error_size)
{
    nn_npy_header h;
    char *data = NULL;
    if (nn_npy_parse(what, file, size, size, &h, error, error_size)) {
        free(file);
        return -1;
    }
    size_t bytes = size - h.start, width = nn_type_bytes(h.type);
    if (h.fortran) {
        data = malloc(bytes + 1);
        if (data) reorder(h.shape, width, file + h.start, data);
        free(file);
        if (!data) return nn_error(error, error_size, "%s: out of memory", what);
    } else {
        memmove(file, file + h.start, bytes);
        data = file; /* the file's memory becomes the array's */
    }
    int64_t n = (int64_t)(bytes / width);
    if (h.swapped) nn_swap_bytes(data, n, width);
    int64_t bad = nn_find_no_bool(h.type, data, n);
    if (bad >= 0) {
        nn_error(error, error_size, "%s: element %" PRId64 " is %d, which is no bool", what, bad,
                 (unsigned char)data[bad]);
        free(data);
        return -1;
    }
    *tensor = (nn_tensor){ .type = h.type, .shape = h.shape, .data = data };
    return 0;
}

int nn_read_npy(const char *path, nn_tensor *tensor, char *error, size_t error_size)
{
    if (!path || !tensor)
        return nn_error(error, error_size, "nn_read_npy: %s is NULL", path ? "tensor" : "path");
    *tensor = (nn_tensor){ 0 };
    size_t size;
    char *file = nn_read_file(path, &size, error, error_size);
    return file ? nn_npy_take(path, file, size, tensor, error, error_size) : -1;
}

/* ---- writing --------------------------------------------------------------------------------- */

size_t nn_npy_write_header(const nn_tensor *tensor, char header[NN_NPY_HEADER])
{
    enum { BEFORE = MAGIC + 4 }; /* version and length */
    char *text = header + BEFORE;
    size_t room = NN_NPY_HEADER - BEFORE;
    int n = snprintf(text, room, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                     code_of(tensor->type));
    for (int i = 0; i < tensor->shape.rank; i++)
        n +=
            snprintf(text + n, room - (size_t)n, "%s%" PRId64, i ? ", " : "", tensor->shape.dim[i]);
    n += snprintf(text + n, room - (size_t)n, "%s), }", tensor->shape.rank == 1 ? "," : "");
    /* Blanks and a line's end, so that the data begin at a multiple of 64. */
    size_t size = ((size_t)n + 1 + BEFORE + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT,
           length = size - BEFORE;
    memset(text + n, ' ', size - BEFORE - (size_t)n);
    header[size - 1] = '\n';
    memcpy(header, magic, MAGIC);
    memcpy(header + MAGIC, (char[]){ 1, 0, (char)(length & 255), (char)(length >> 8) }, 4);
    return size;
}

int nn_write_npy(const char *path, const nn_tensor *tensor, char *error, size_t error_size)
{
    char header[NN_NPY_HEADER];
    nn_file file;
    if (nn_tensor_check("nn_write_npy", tensor, error, error_size)) return -1;
    if (nn_file_open(&file, path, error, error_size)) return -1;
    fwrite(header, 1, nn_npy_write_header(tensor, header), file.stream);
    fwrite(tensor->data, nn_type_bytes(tensor->type), (size_t)nn_tensor_count(tensor), file.stream);
    return nn_file_commit(&file, error, error_size);
}
