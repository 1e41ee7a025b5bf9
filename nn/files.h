/* Part of nn.h: arrays and their files. docs/files.md has all formats in a table.
 *
 * Functions that read take files of any origin: what they cannot read exactly is refused with a
 * message that names the file, the array and the number. They return 0, or -1 with the message in
 * error (of error_size bytes) and an empty result. All of this may be called by several threads at
 * a time, on different results. */
#ifndef COSTATE_FILES_H
#define COSTATE_FILES_H
#include "../autodiff/autodiff.h"
#include <stdbool.h>
#ifdef __cplusplus
extern "C" {
#endif

/* ---- arrays ---------------------------------------------------------------------------------- */

/* The element types that files have. NN_BOOL: a byte, 0 or 1. NN_F16, IEEE 754's binary16, and
 * NN_BF16, the upper half of an f32, are read, not written: nn_tensor_numbers makes float or double
 * of them. */
typedef enum {
    NN_F32 = AD_F32,
    NN_F64 = AD_F64,
    NN_I8,
    NN_U8,
    NN_I16,
    NN_U16,
    NN_I32,
    NN_U32,
    NN_I64,
    NN_U64,
    NN_BOOL,
    NN_F16,
    NN_BF16
} nn_type;

/* An array of a file: row-major, in this machine's byte order. Rank 0 is one number; a size may be
 * 0. An array that was read owns name and data (nn_tensor_clear); one to be written may borrow
 * them. */
typedef struct {
    char *name;     /* NULL where the file has none */
    nn_type type;   /* of data */
    ad_shape shape; /* as the file says: rows are a size like the others */
    void *data;     /* aligned as malloc does it */
} nn_tensor;

void nn_tensor_clear(nn_tensor *tensor); /* frees what was read; the array is then empty */
/* How many elements it has; -1 where the shape is none (a size < 0, more than 2^63). */
int64_t nn_tensor_count(const nn_tensor *tensor);
size_t nn_type_bytes(nn_type type);     /* of an element; 0: no type */
const char *nn_type_name(nn_type type); /* "f32", "u8", "bool" and so on */
/* The numbers as double or float (out [count], of dtype), as a training takes them. Whole numbers
 * that dtype does not hold exactly (beyond 2^53 or 2^24) are an error, which names the first;
 * doubles become floats by rounding. */
int nn_tensor_numbers(const nn_tensor *tensor, ad_dtype dtype, void *out, char *error,
                      size_t error_size);

/* Arrays with names. */
typedef struct {
    int64_t count;
    nn_tensor *tensor; /* [count] */
} nn_tensors;
void nn_tensors_clear(nn_tensors *tensors); /* frees what was read; then there are none */
const nn_tensor *nn_tensors_find(const nn_tensors *tensors, const char *name); /* or NULL */

/* ---- IDX ------------------------------------------------------------------------------------- */

/* The format of MNIST (LeCun et al. 1998): all of its element types (u8, i8, i16, i32, f32, f64), 1
 * to 8 axes. A file packed by gzip is unpacked (needs zlib). */
int nn_read_idx(const char *path, nn_tensor *tensor, char *error, size_t error_size);

/* ---- NumPy ----------------------------------------------------------------------------------- */

/* .npy, versions 1 to 3 of the format: elements f2, f4, f8, i1 to i8, u1 to u8, b1, of either byte
 * order; arrays in Fortran order become row-major. Objects, records and other types are refused. */
int nn_read_npy(const char *path, nn_tensor *tensor, char *error, size_t error_size);
/* Version 1. Written whole or not at all. */
int nn_write_npy(const char *path, const nn_tensor *tensor, char *error, size_t error_size);

/* .npz: all arrays of the archive, in its order, stored (numpy.savez) or deflated
 * (numpy.savez_compressed). Needs libzip. */
int nn_read_npz(const char *path, nn_tensors *tensors, char *error, size_t error_size);
/* Names are different texts of UTF-8. packed: deflated. Written whole or not at all; the same
 * arrays give the same bytes. */
int nn_write_npz(const char *path, const nn_tensors *tensors, bool packed, char *error,
                 size_t error_size);

/* ---- safetensors ----------------------------------------------------------------------------- */

/* The format of PyTorch's and Hugging Face's weights: F32, F64, I and U of 8, 16, 32, 64, BOOL. All
 * arrays of the file, in the order of their data. (nn_load and nn_save of model.h are for the
 * weights of a model.) */
int nn_read_safetensors(const char *path, nn_tensors *tensors, char *error, size_t error_size);
/* Names are different texts of UTF-8. Written whole or not at all; arrays of wide elements come
 * first, so that all are aligned. */
int nn_write_safetensors(const char *path, const nn_tensors *tensors, char *error,
                         size_t error_size);

/* ---- files larger than memory ---------------------------------------------------------------- */

/* An array [rows, ...] that stays in its file: rows are read where they lie. One thread at a time
 * (a training with a worker keeps to that). The file must not be written to meanwhile; one that has
 * become shorter is an error. */
typedef struct nn_mapped nn_mapped;
/* A .npy file in C order, of any type and byte order that nn_read_npy reads. NULL with the message
 * in error. */
nn_mapped *nn_map_npy(const char *path, char *error, size_t error_size);
/* Rows of shape [AD_ROWS, ...] one after the other, from byte `start` to the end, in this machine's
 * byte order. */
nn_mapped *nn_map_raw(const char *path, nn_type type, ad_shape shape, int64_t start, char *error,
                      size_t error_size);
void nn_mapped_free(nn_mapped *mapped); /* NULL is allowed */
int64_t nn_mapped_rows(const nn_mapped *mapped);
ad_shape nn_mapped_shape(const nn_mapped *mapped); /* [AD_ROWS, ...] */
/* What nn_mapped_fetch writes: AD_F32 where the elements are f32, bool, or whole numbers of at most
 * 16 bits, else AD_F64. */
ad_dtype nn_mapped_dtype(const nn_mapped *mapped);
/* An nn_fetch (train.h), with an nn_mapped as its source: so nn_array_mapped(mapped) is the data of
 * a training. */
int nn_mapped_fetch(void *mapped, int64_t n, const int64_t *examples, void *out, char *error,
                    size_t error_size);

/* ---- sheets of images ------------------------------------------------------------------------ */

/* Zero: about as many images across as down, side by side, pixel by pixel. */
typedef struct {
    int across; /* images in a line */
    int gap;    /* pixels of grey between images */
    int scale;  /* an element becomes scale x scale pixels; 0: one */
    /* the numbers that become black and white, in either order; what lies beyond is cut off. Both
     * 0: 0 and 1 for f32, f64 and bool, 0 and the largest number for u8 and u16; required for other
     * types. */
    double black, white;
} nn_sheet_options;

/* Images [n,height,width], [n,height,width,1] or [n,height,width,3] (red, green, blue) as one
 * picture, of 256 levels: .png (needs libpng), .pgm (one channel) or .ppm (three), by the path's
 * end. A number that is not finite is an error. options may be NULL. Written whole or not at all.
 */
int nn_write_sheet(const char *path, const nn_tensor *images, const nn_sheet_options *options,
                   char *error, size_t error_size);

#ifdef __cplusplus
}
#endif
#endif
