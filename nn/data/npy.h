/* Internal to nn/: the format of one NumPy array, in a file of its own (.npy) or in an archive
 * (.npz). */
#ifndef COSTATE_NN_NPY_H
#define COSTATE_NN_NPY_H
#include "nn/base/tensor.h"

typedef struct {
    nn_type type;
    ad_shape shape;
    bool swapped; /* its bytes are in the other order than this machine's */
    bool fortran; /* column-major, and that makes a difference */
    size_t start; /* where the data begin */
} nn_npy_header;

/* Reads the header at the beginning of `file`, which has `size` bytes in memory and `total` in all,
 * and checks it against the latter. `what` begins the messages. */
int nn_npy_parse(const char *what, const char *file, size_t size, uint64_t total,
                 nn_npy_header *header, char *error, size_t error_size);
/* The array that a whole file holds; takes over `file` (to be freed), also when it fails. */
int nn_npy_take(const char *what, char *file, size_t size, nn_tensor *tensor, char *error,
                size_t error_size);

enum { NN_NPY_HEADER = 384 };
/* The bytes before the data of an array, and how many these are. */
size_t nn_npy_write_header(const nn_tensor *tensor, char header[NN_NPY_HEADER]);

#endif
