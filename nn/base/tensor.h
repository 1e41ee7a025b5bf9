/* Internal to nn/: element types of files, and arrays of them. */
#ifndef COSTATE_NN_TENSOR_H
#define COSTATE_NN_TENSOR_H
#include "nn/base/support.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "files are copied as numbers are in memory: for little-endian machines only"
#endif

/* Bytes of an array; -1: a size < 0, more than INT64_MAX bytes, or no such type. */
int64_t nn_shape_bytes(ad_shape shape, nn_type type);
/* Turns the bytes of n elements of `width` bytes around. */
void nn_swap_bytes(void *data, int64_t n, size_t width);
/* The first element of an array of NN_BOOL that is neither 0 nor 1, or -1; -1 for other types. */
int64_t nn_find_no_bool(nn_type type, const void *data, int64_t n);
/* Whether the array can be written: type, shape, data; else -1 with the message. */
int nn_tensor_check(const char *what, const nn_tensor *tensor, char *error, size_t error_size);
/* Whether all of them can, and have different names. */
int nn_tensors_check(const char *what, const nn_tensors *tensors, char *error, size_t error_size);
/* n elements at `from`, which may be aligned to nothing, as numbers of dtype. The first whole
 * number that dtype does not hold exactly, or -1; numbers before it are written. */
int64_t nn_convert(nn_type type, const void *from, int64_t n, ad_dtype dtype, void *to);
/* Element i; NaN where double does not hold it exactly. Data may be aligned to nothing. */
double nn_tensor_element(const nn_tensor *tensor, int64_t i);
/* Element i as text, for messages. */
void nn_print_element(nn_type type, const void *data, int64_t i, char *text, size_t size);

#endif
