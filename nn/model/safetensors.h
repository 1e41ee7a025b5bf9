/* Internal to nn/: safetensors files of any arrays, with texts beside them. */
#ifndef COSTATE_NN_SAFETENSORS_H
#define COSTATE_NN_SAFETENSORS_H
#include "nn/base/support.h"
#include <jansson.h>

typedef struct {
    const char *name;
    ad_dtype dtype;
    ad_shape shape;
    const void *data; /* of a file: aligned to nothing */
} nn_tensor;

/* Writes the file whole or not at all. metadata: an object of texts, or NULL; borrowed. */
int nn_tensors_save(const char *path, int64_t n, const nn_tensor *tensors, json_t *metadata,
                    char *error, size_t error_size);

typedef struct nn_tensors nn_tensors; /* a file that has been read and found to be sound */
nn_tensors *nn_tensors_load(const char *path, char *error, size_t error_size);
void nn_tensors_free(nn_tensors *file);
/* Tensor i; false: there are not so many. */
bool nn_tensors_get(const nn_tensors *file, int64_t i, nn_tensor *tensor);
/* A text of the metadata, or NULL. */
const char *nn_tensors_text(const nn_tensors *file, const char *key);

#endif
