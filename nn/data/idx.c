/* IDX files: two zero bytes, the code of the element type, the number of axes, the sizes (four
 * bytes each), the elements; all big-endian (http://yann.lecun.com/exdb/mnist/). */
#include "nn/base/file.h"
#include "nn/base/tensor.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static bool type_of(unsigned char code, nn_type *type)
{
    static const struct {
        unsigned char code;
        nn_type type;
    } codes[] = {
        { 0x08, NN_U8 },  { 0x09, NN_I8 },  { 0x0B, NN_I16 },
        { 0x0C, NN_I32 }, { 0x0D, NN_F32 }, { 0x0E, NN_F64 },
    };
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        if (codes[i].code != code) continue;
        *type = codes[i].type;
        return true;
    }
    return false;
}

/* The array that the file's bytes describe; its data are still behind the header, *start. */
static int read_header(const char *path, const unsigned char *file, size_t size, nn_tensor *tensor,
                       size_t *start, char *error, size_t error_size)
{
    enum { MAGIC = 4, AXIS = 4 };
    if (size < MAGIC || file[0] != 0 || file[1] != 0)
        return nn_error(error, error_size, "%s: not an IDX file, which begins with two zero bytes",
                        path);
    if (!type_of(file[2], &tensor->type))
        return nn_error(error, error_size,
                        "%s: byte 3 is 0x%02x, which is no element type of IDX files", path,
                        file[2]);
    int rank = file[3];
    if (rank < 1 || rank > AD_MAX_RANK)
        return nn_error(error, error_size, "%s: %d axes; 1 to %d are read", path, rank,
                        AD_MAX_RANK);
    *start = MAGIC + AXIS * (size_t)rank;
    if (size < *start)
        return nn_error(error, error_size,
                        "%s: %zu bytes are too short for the sizes of %d axes; truncated", path,
                        size, rank);
    tensor->shape.rank = rank;
    for (int i = 0; i < rank; i++) {
        const unsigned char *b = file + MAGIC + AXIS * i;
        tensor->shape.dim[i] = (int64_t)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
    }
    int64_t bytes = nn_shape_bytes(tensor->shape, tensor->type);
    if (bytes >= 0 && (uint64_t)bytes == size - *start) return 0;
    char shape[128];
    ad_format_shape(tensor->shape, shape, sizeof shape);
    if (bytes < 0)
        return nn_error(error, error_size, "%s: there is no array as large as %s", path, shape);
    return nn_error(error, error_size,
                    "%s: an array %s of %s needs %" PRId64 " bytes, but %zu follow the header%s",
                    path, shape, nn_type_name(tensor->type), bytes, size - *start,
                    (uint64_t)bytes > size - *start ? "; truncated" : "");
}

int nn_read_idx(const char *path, nn_tensor *tensor, char *error, size_t error_size)
{
    if (!path || !tensor)
        return nn_error(error, error_size, "nn_read_idx: %s is NULL", path ? "tensor" : "path");
    *tensor = (nn_tensor){ 0 };
    size_t size, start = 0;
    char *file = nn_read_unpacked(path, &size, error, error_size);
    if (!file) return -1;
    nn_tensor read = { 0 };
    int result = read_header(path, (unsigned char *)file, size, &read, &start, error, error_size);
    if (result) {
        free(file);
        return result;
    }
    /* The file's memory becomes the array's. */
    memmove(file, file + start, size - start);
    read.data = file;
    nn_swap_bytes(file, nn_tensor_count(&read), nn_type_bytes(read.type));
    *tensor = read;
    return 0;
}
