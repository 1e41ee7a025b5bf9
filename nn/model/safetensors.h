/* Internal to nn/: safetensors files of any arrays, with texts beside them. */
#ifndef COSTATE_NN_SAFETENSORS_H
#define COSTATE_NN_SAFETENSORS_H
#include "nn/base/tensor.h"
#include <jansson.h>

/* Writes the file whole or not at all. Tensors of NN_F32 and NN_F64. metadata: an object of texts,
 * or NULL; borrowed. */
int nn_safetensors_save(const char *path, int64_t n, const nn_tensor *tensors, json_t *metadata,
                        char *error, size_t error_size);

typedef struct nn_safetensors nn_safetensors; /* a file that has been read and found to be sound */
nn_safetensors *nn_safetensors_load(const char *path, char *error, size_t error_size);
void nn_safetensors_free(nn_safetensors *file);
/* Tensor i, name and data lent by the file, data aligned to nothing; false: there are not so many.
 */
bool nn_safetensors_get(const nn_safetensors *file, int64_t i, nn_tensor *tensor);
/* A text of the metadata, or NULL. */
const char *nn_safetensors_text(const nn_safetensors *file, const char *key);

#endif
