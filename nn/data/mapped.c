/* Arrays that stay in their file: rows are read where they lie, through a mapping of the file, so
 * that it may be larger than memory. The system keeps what is read often.
 *
 * A file that gets shorter while it is mapped would end the process (SIGBUS) when what is gone is
 * read; its length is asked for before rows are. */
#include "nn/base/file.h"
#include "nn/data/npy.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct nn_mapped {
    char *path;
    FILE *stream; /* open, for its length */
    char *map;
    size_t size; /* of the file */
    const char *data;
    nn_type type;
    bool swapped;
    ad_shape shape; /* [AD_ROWS, ...] */
    int64_t rows, row_size;
    size_t row_bytes;
    char *row; /* of data in the other byte order: room to turn one around */
};

#define FAIL(m, format, ...) nn_error(error, error_size, "%s: " format, (m)->path, __VA_ARGS__)

/* Opens and maps the whole file; NULL with the message. */
static nn_mapped *map_file(const char *path, char *error, size_t error_size)
{
    nn_mapped *m = calloc(1, sizeof *m);
    char *name = strdup(path);
    if (!m || !name) {
        nn_error(error, error_size, "%s: out of memory", path);
        free(m);
        free(name);
        return NULL;
    }
    m->path = name;
    m->stream = nn_file_read(path, &m->size, error, error_size);
    if (m->stream && m->size == 0) FAIL(m, "%s", "the file is empty");
    if (m->stream && m->size > 0) {
        void *map = mmap(NULL, m->size, PROT_READ, MAP_SHARED, fileno(m->stream), 0);
        if (map != MAP_FAILED) m->map = map;
        else FAIL(m, "cannot be mapped: %s", strerror(errno));
    }
    if (m->map) return m;
    nn_mapped_free(m);
    return NULL;
}

void nn_mapped_free(nn_mapped *m)
{
    if (!m) return;
    if (m->map) munmap(m->map, m->size);
    if (m->stream) fclose(m->stream);
    free(m->row);
    free(m->path);
    free(m);
}

/* Takes over the type and the shape, whose rows are known by now; 0, or -1 with the message. */
static int set_rows(nn_mapped *m, nn_type type, ad_shape shape, bool swapped, char *error,
                    size_t error_size)
{
    m->type = type;
    m->swapped = swapped;
    m->shape = shape;
    m->rows = shape.dim[0];
    m->shape.dim[0] = 1;
    m->row_bytes = (size_t)nn_shape_bytes(m->shape, type);
    m->row_size = (int64_t)(m->row_bytes / nn_type_bytes(type));
    m->shape.dim[0] = AD_ROWS;
    if (m->rows < 1 || m->row_size < 1) return FAIL(m, "%s", "there are no rows, or empty ones");
    if (!swapped) return 0;
    m->row = malloc(m->row_bytes);
    return m->row ? 0 : FAIL(m, "%s", "out of memory");
}

static nn_mapped *made(nn_mapped *m, int result)
{
    if (result == 0) return m;
    nn_mapped_free(m);
    return NULL;
}

static int set_npy(nn_mapped *m, char *error, size_t error_size)
{
    nn_npy_header h;
    if (nn_npy_parse(m->path, m->map, m->size, m->size, &h, error, error_size)) return -1;
    if (h.shape.rank == 0) return FAIL(m, "%s", "one number has no rows");
    if (h.fortran)
        return FAIL(m, "%s",
                    "the array is in Fortran order, in which rows are scattered over the "
                    "file; save numpy.ascontiguousarray of it");
    m->data = m->map + h.start;
    return set_rows(m, h.type, h.shape, h.swapped, error, error_size);
}

nn_mapped *nn_map_npy(const char *path, char *error, size_t error_size)
{
    if (!path) {
        nn_error(error, error_size, "nn_map_npy: path is NULL");
        return NULL;
    }
    nn_mapped *m = map_file(path, error, error_size);
    return m ? made(m, set_npy(m, error, error_size)) : NULL;
}

static int set_raw(nn_mapped *m, nn_type type, ad_shape shape, int64_t start, char *error,
                   size_t error_size)
{
    if (start < 0 || (uint64_t)start > m->size)
        return FAIL(m, "the rows are to begin at byte %" PRId64 ", but there are %zu", start,
                    m->size);
    shape.dim[0] = 1;
    int64_t row = nn_shape_bytes(shape, type);
    uint64_t left = m->size - (uint64_t)start;
    if (row < 1 || left % (uint64_t)row)
        return FAIL(m, "%" PRIu64 " bytes are no number of rows of %" PRId64 " bytes", left, row);
    shape.dim[0] = (int64_t)(left / (uint64_t)row);
    m->data = m->map + start;
    return set_rows(m, type, shape, false, error, error_size);
}

nn_mapped *nn_map_raw(const char *path, nn_type type, ad_shape shape, int64_t start, char *error,
                      size_t error_size)
{
    ad_shape row = shape;
    if (shape.rank >= 1 && shape.rank <= AD_MAX_RANK) row.dim[0] = 1;
    if (!path || shape.rank < 1 || shape.dim[0] != AD_ROWS || nn_shape_bytes(row, type) < 1) {
        nn_error(error, error_size, "nn_map_raw: %s",
                 path ? "the shape must be [AD_ROWS, ...] with sizes >= 1, of an element type"
                      : "path is NULL");
        return NULL;
    }
    nn_mapped *m = map_file(path, error, error_size);
    return m ? made(m, set_raw(m, type, shape, start, error, error_size)) : NULL;
}

int64_t nn_mapped_rows(const nn_mapped *m) { return m ? m->rows : 0; }

ad_shape nn_mapped_shape(const nn_mapped *m) { return m ? m->shape : (ad_shape){ .rank = -1 }; }

ad_dtype nn_mapped_dtype(const nn_mapped *m)
{
    bool single = m && (m->type == NN_F32 || (m->type != NN_F64 && nn_type_bytes(m->type) <= 2));
    return single ? AD_F32 : AD_F64;
}

int nn_mapped_fetch(void *source, int64_t n, const int64_t *examples, void *out, char *error,
                    size_t error_size)
{
    nn_mapped *m = source;
    struct stat status;
    if (fstat(fileno(m->stream), &status) || (uint64_t)status.st_size < m->size)
        return FAIL(m, "the file had %zu bytes when it was opened, and has %lld now", m->size,
                    (long long)status.st_size);
    ad_dtype dtype = nn_mapped_dtype(m);
    size_t bytes = (size_t)m->row_size * nn_bytes(dtype);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = examples[i];
        if (row < 0 || row >= m->rows)
            return FAIL(m, "there is no row %" PRId64 ", there are %" PRId64, row, m->rows);
        const char *from = m->data + (size_t)row * m->row_bytes;
        if (m->swapped) {
            memcpy(m->row, from, m->row_bytes);
            nn_swap_bytes(m->row, m->row_size, nn_type_bytes(m->type));
            from = m->row;
        }
        char *to = (char *)out + (size_t)i * bytes;
        int64_t bad = nn_find_no_bool(m->type, from, m->row_size);
        if (bad < 0) bad = nn_convert(m->type, from, m->row_size, dtype, to);
        if (bad < 0) continue;
        char text[40];
        nn_print_element(m->type, from, bad, text, sizeof text);
        return FAIL(m, "element %" PRId64 " of row %" PRId64 " is %s, which is no %s", bad, row,
                    text, m->type == NN_BOOL ? "bool" : "double exactly");
    }
    return 0;
}
