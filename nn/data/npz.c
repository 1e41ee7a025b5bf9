/* NumPy's archives: zip files whose entries NAME.npy are arrays. libzip reads and writes them. */
#include "nn/data/npy.h"
#include "nn/base/file.h"
#include "nn/base/names.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char ending[] = ".npy";
enum { ENDING = sizeof ending - 1 };

#ifdef NN_LIBZIP
#include <zip.h>

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct {
    const char *path;
    char *error;
    size_t error_size;
    zip_t *zip;
    uint64_t packed; /* bytes of the file that no entry has used yet */
    nn_names names;
    nn_tensors *tensors;
} archive;

#define FAIL(a, format, ...)                                                                       \
    nn_error((a)->error, (a)->error_size, "%s: " format, (a)->path, __VA_ARGS__)

/* How large an entry is, which is asked before memory is. Every entry has bytes of the file of its
 * own, and deflate makes at most 1032 out of one. */
static int check_size(archive *a, const zip_stat_t *s)
{
    enum { RATIO = 1032 };
    zip_uint64_t wanted = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
    if ((s->valid & wanted) != wanted) return FAIL(a, "%s", "an entry is damaged");
    if (s->comp_method != ZIP_CM_STORE && s->comp_method != ZIP_CM_DEFLATE)
        return FAIL(a, "'%.60s' is packed by method %d; stored and deflated entries are read",
                    s->name, s->comp_method);
    if (s->comp_size > a->packed)
        return FAIL(a, "the entries overlap, or '%.60s' is longer than the file", s->name);
    a->packed -= s->comp_size;
    bool stored = s->comp_method == ZIP_CM_STORE;
    if (stored ? s->size == s->comp_size : s->size / RATIO <= s->comp_size) return 0;
    return FAIL(a, "'%.60s' cannot be %" PRIu64 " bytes from %" PRIu64, s->name, s->size,
                s->comp_size);
}

/* The bytes of entry i, or NULL; caller frees. */
static char *read_entry(archive *a, zip_uint64_t i, const zip_stat_t *s)
{
    char *bytes = s->size < SIZE_MAX ? malloc((size_t)s->size + 1) : NULL;
    zip_file_t *file = bytes ? zip_fopen_index(a->zip, i, 0) : NULL;
    if (!bytes) FAIL(a, "out of memory for the %" PRIu64 " bytes of '%.60s'", s->size, s->name);
    else if (!file) FAIL(a, "'%.60s': %s", s->name, zip_strerror(a->zip));
    uint64_t done = 0;
    zip_int64_t got = file ? 1 : -1;
    /* Up to the end, where libzip compares the checksum. */
    while (got > 0) {
        got = zip_fread(file, bytes + done, s->size + 1 - done);
        if (got > 0) done += (uint64_t)got;
        if (done > s->size) break;
    }
    bool whole = got == 0 && done == s->size;
    if (file && got < 0) FAIL(a, "'%.60s': %s", s->name, zip_file_strerror(file));
    else if (file && !whole) FAIL(a, "'%.60s' has not the length that the archive says", s->name);
    if (file) zip_fclose(file);
    if (whole) return bytes;
    free(bytes);
    return NULL;
}

static int read_array(archive *a, zip_uint64_t i)
{
    zip_stat_t s;
    if (zip_stat_index(a->zip, i, 0, &s)) return FAIL(a, "%s", zip_strerror(a->zip));
    if (check_size(a, &s)) return -1;
    size_t length = strlen(s.name);
    if (length <= ENDING || strcmp(s.name + length - ENDING, ending) != 0)
        return FAIL(a, "'%.60s' is no array: its name does not end with .npy", s.name);
    nn_tensor *t = &a->tensors->tensor[i];
    char *name = strndup(s.name, length - ENDING);
    int64_t number = name ? nn_names_add(&a->names, name) : -1;
    t->name = name;
    a->tensors->count++;
    if (number < 0) return FAIL(a, "%s", "out of memory");
    if (number != (int64_t)i) return FAIL(a, "two arrays are called '%.60s'", name);
    char what[4096];
    snprintf(what, sizeof what, "%s: '%.60s'", a->path, name);
    char *bytes = read_entry(a, i, &s);
    if (!bytes || nn_npy_take(what, bytes, (size_t)s.size, t, a->error, a->error_size)) return -1;
    t->name = name;
    return 0;
}

static int read_arrays(archive *a)
{
    zip_int64_t n = zip_get_num_entries(a->zip, 0);
    a->tensors->tensor = calloc((size_t)n + 1, sizeof *a->tensors->tensor);
    if (!a->tensors->tensor) return FAIL(a, "%s", "out of memory");
    for (zip_int64_t i = 0; i < n; i++)
        if (read_array(a, (zip_uint64_t)i)) return -1;
    return 0;
}

int nn_read_npz(const char *path, nn_tensors *tensors, char *error, size_t error_size)
{
    if (!path || !tensors)
        return nn_error(error, error_size, "nn_read_npz: %s is NULL", path ? "tensors" : "path");
    *tensors = (nn_tensors){ 0 };
    archive a = { .path = path, .error = error, .error_size = error_size, .tensors = tensors };
    size_t size;
    FILE *stream = nn_file_read(path, &size, error, error_size);
    if (!stream) return -1;
    a.packed = size;
    zip_error_t why;
    zip_error_init(&why);
    zip_source_t *source = zip_source_filep_create(stream, 0, -1, &why); /* owns the stream */
    if (!source) fclose(stream);
    else a.zip = zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &why);
    if (!a.zip) {
        FAIL(&a, "%s", zip_error_strerror(&why));
        if (source) zip_source_free(source);
    }
    zip_error_fini(&why);
    int result = a.zip ? read_arrays(&a) : -1;
    if (a.zip) zip_discard(a.zip);
    nn_names_clear(&a.names);
    if (result) nn_tensors_clear(tensors);
    return result;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* An entry: the header of an array, and its data, which are borrowed. */
static int add_array(zip_t *zip, const nn_tensor *t, char *header, bool packed)
{
    size_t length = strlen(t->name);
    char *name = malloc(length + sizeof ending);
    if (!name) return -1;
    memcpy(name, t->name, length);
    memcpy(name + length, ending, sizeof ending);
    zip_buffer_fragment_t parts[] = {
        { (zip_uint8_t *)header, nn_npy_write_header(t, header) },
        { t->data, (zip_uint64_t)nn_shape_bytes(t->shape, t->type) },
    };
    zip_source_t *source =
        zip_source_buffer_fragment_create(parts, parts[1].length ? 2 : 1, 0, NULL);
    zip_int64_t i = source ? zip_file_add(zip, name, source, ZIP_FL_ENC_UTF_8) : -1;
    if (i < 0) zip_source_free(source);
    free(name);
    if (i < 0) return -1;
    zip_uint64_t entry = (zip_uint64_t)i;
    enum { FIRST_OF_1980 = 1 << 5 | 1 }; /* the same bytes whenever they are written */
    if (zip_file_set_dostime(zip, entry, 0, FIRST_OF_1980, 0)) return -1;
    return zip_set_file_compression(zip, entry, packed ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0);
}

/* The archive in memory, which zip_close leaves in `source`. */
static int make_archive(zip_source_t *source, const nn_tensors *tensors, bool packed, char *error,
                        size_t error_size)
{
    char(*headers)[NN_NPY_HEADER] = calloc((size_t)tensors->count, sizeof *headers);
    zip_t *zip = headers && source ? zip_open_from_source(source, ZIP_TRUNCATE, NULL) : NULL;
    if (!zip) {
        free(headers);
        return nn_error(error, error_size, "nn_write_npz: out of memory");
    }
    zip_source_keep(source);
    int result = 0;
    for (int64_t i = 0; result == 0 && i < tensors->count; i++) {
        result = add_array(zip, &tensors->tensor[i], headers[i], packed);
        if (result)
            nn_error(error, error_size, "nn_write_npz: array '%.60s' cannot be packed: %s%s",
                     tensors->tensor[i].name, zip_strerror(zip),
                     zip_error_code_zip(zip_get_error(zip)) == ZIP_ER_INVAL
                         ? " (is its name UTF-8?)"
                         : "");
    }
    if (result == 0) {
        result = zip_close(zip);
        if (result) nn_error(error, error_size, "nn_write_npz: %s", zip_strerror(zip));
    }
    if (result) zip_discard(zip);
    free(headers);
    return result;
}

static int copy_archive(zip_source_t *source, nn_file *file, char *error, size_t error_size)
{
    char piece[65536];
    zip_int64_t n = zip_source_open(source) == 0 ? 1 : -1;
    while (n > 0) {
        n = zip_source_read(source, piece, sizeof piece);
        if (n > 0) fwrite(piece, 1, (size_t)n, file->stream);
    }
    if (n == 0) return nn_file_commit(file, error, error_size);
    nn_file_discard(file);
    return nn_error(error, error_size, "nn_write_npz: out of memory");
}

int nn_write_npz(const char *path, const nn_tensors *tensors, bool packed, char *error,
                 size_t error_size)
{
    if (nn_tensors_check("nn_write_npz", tensors, error, error_size)) return -1;
    nn_file file;
    if (nn_file_open(&file, path, error, error_size)) return -1;
    zip_source_t *source = zip_source_buffer_create(NULL, 0, 0, NULL);
    int result = make_archive(source, tensors, packed, error, error_size);
    if (result) nn_file_discard(&file);
    else result = copy_archive(source, &file, error, error_size);
    if (source) zip_source_free(source);
    return result;
}
#else
static int no_library(const char *path, char *error, size_t error_size)
{
    return nn_error(error, error_size,
                    "%s: this build of costate has no .npz files: install libzip (Debian: "
                    "libzip-dev) and build again, or take .npy files",
                    path);
}

int nn_read_npz(const char *path, nn_tensors *tensors, char *error, size_t error_size)
{
    if (!path || !tensors)
        return nn_error(error, error_size, "nn_read_npz: %s is NULL", path ? "tensors" : "path");
    *tensors = (nn_tensors){ 0 };
    return no_library(path, error, error_size);
}

int nn_write_npz(const char *path, const nn_tensors *tensors, bool packed, char *error,
                 size_t error_size)
{
    (void)packed;
    if (nn_tensors_check("nn_write_npz", tensors, error, error_size)) return -1;
    return no_library(path ? path : "nn_write_npz", error, error_size);
}
#endif
