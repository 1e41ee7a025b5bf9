/* Internal to nn/: the layout of a model, error texts, and files that are written whole or not at all. */
#ifndef COSTATE_NN_INTERNAL_H
#define COSTATE_NN_INTERNAL_H
#include "nn.h"
#include <stdio.h>

typedef struct {
    char *name;
    ad_shape shape;
    int64_t offset, size, fan_in, fan_out;
    nn_init init;
} nn_parameter;

struct nn_model {
    nn_parameter *parameter;
    int64_t count, capacity;
    int64_t size; /* of theta so far, padded */
    char error[256];
};

static inline size_t nn_bytes(ad_dtype dtype) { return dtype == AD_F32 ? sizeof(float) : sizeof(double); }
static inline double nn_element(ad_dtype dtype, const void *data, int64_t i)
{
    return dtype == AD_F32 ? (double)((const float *)data)[i] : ((const double *)data)[i];
}

/* The first element that is not finite, or -1. */
int64_t nn_find_nonfinite(ad_dtype dtype, const void *data, int64_t n);
/* The parameter array that holds theta[element], or NULL for padding. */
const nn_parameter *nn_parameter_at(const nn_model *model, int64_t element);

/* Writes the message (if there is room for one) and returns -1. */
int nn_error(char *error, size_t size, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 3, 4)))
#endif
    ;

/* The whole of a regular file, with a NUL behind it; caller frees. NULL with the message in error. */
char *nn_read_file(const char *path, size_t *size, char *error, size_t error_size);

/* A file in the making. It appears under its path, complete and on disk, only in nn_file_commit; nn_file_discard leaves nothing behind. */
typedef struct {
    FILE *stream;
    char *path, *temporary;
} nn_file;
int nn_file_open(nn_file *file, const char *path, char *error, size_t error_size);
int nn_file_commit(nn_file *file, char *error, size_t error_size);
void nn_file_discard(nn_file *file);

#endif
