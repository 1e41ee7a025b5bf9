/* Internal to nn/: the layout of a model, theta, error texts, and files that are written whole or
 * not at all. */
#ifndef COSTATE_NN_INTERNAL_H
#define COSTATE_NN_INTERNAL_H
#include "nn/nn.h"
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>

/* Different names, numbered as they were added; {0} is empty. */
typedef struct {
    int64_t count;
    char **name;
    int64_t places; /* a power of two, or 0 */
    int64_t *place; /* [places] hash table: number of the name plus 1, or 0 */
} nn_names;
int64_t nn_names_find(const nn_names *names, const char *name); /* its number, or -1 */
int64_t nn_names_add(nn_names *names,
                     const char *name); /* its number, new or not; -1 when memory is short */
void nn_names_clear(nn_names *names);

typedef struct {
    const char *name; /* the model's */
    ad_shape shape;
    int64_t offset, size, fan_in, fan_out;
    nn_init init;
} nn_parameter;

struct nn_model {
    nn_parameter *parameter;
    int64_t count, capacity;
    int64_t size;          /* of theta so far, padded */
    nn_names names;        /* of the parameters, numbered as they are */
    atomic_int references; /* the caller's and one of each theta */
    char error[256];
};

struct nn_theta {
    nn_model *model; /* a reference; NULL only with an error */
    ad_dtype dtype;
    int64_t size;
    void *data;
    char error[256];
};

static inline size_t nn_bytes(ad_dtype dtype)
{
    return dtype == AD_F32 ? sizeof(float) : sizeof(double);
}
static inline double nn_element(ad_dtype dtype, const void *data, int64_t i)
{
    return dtype == AD_F32 ? (double)((const float *)data)[i] : ((const double *)data)[i];
}

static inline void nn_put(ad_dtype dtype, void *data, int64_t i, double value)
{
    if (dtype == AD_F32) ((float *)data)[i] = (float)value;
    else ((double *)data)[i] = value;
}
static inline bool nn_is_dtype(ad_dtype dtype) { return dtype == AD_F32 || dtype == AD_F64; }
static inline const char *nn_dtype_name(ad_dtype dtype) { return dtype == AD_F32 ? "f32" : "f64"; }
/* For messages: the sign of a NaN means nothing, and not every machine prints it. */
static inline double nn_shown(double value) { return isnan(value) ? fabs(value) : value; }

/* The first element that is not finite, or -1. */
int64_t nn_find_nonfinite(ad_dtype dtype, const void *data, int64_t n);
/* The first element that is not finite as a number of dtype `as`, or -1. */
int64_t nn_find_unfit(ad_dtype dtype, const void *data, int64_t n, ad_dtype as);
/* The parameter array of a name, or NULL. */
const nn_parameter *nn_parameter_find(const nn_model *model, const char *name);
/* The parameter array that holds theta[element], or NULL for padding. */
const nn_parameter *nn_parameter_at(const nn_model *model, int64_t element);

nn_model *nn_model_retain(const nn_model *model);
/* 0 when theta is there, without an error, and as large as its model; else -1 with the message,
 * which begins with `what`. */
int nn_theta_check(const char *what, const nn_theta *theta, char *error, size_t size);

/* Whether the variable has the size of the model's theta; else its tape has the error, which names
 * both. */
bool nn_theta_fits(const char *what, const nn_model *model, ad_var theta);

/* Whether any of the options is not zero. */
bool nn_optimizer_given(const nn_optimizer_options *options);
/* For how many updates the state was made. */
int64_t nn_optimizer_planned(const nn_optimizer_state *state);

/* Writes the message (if there is room for one) and returns -1. */
int nn_error(char *error, size_t size, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 3, 4)))
#endif
    ;

/* The whole of a regular file, with a NUL behind it; caller frees. NULL with the message in error.
 */
char *nn_read_file(const char *path, size_t *size, char *error, size_t error_size);

/* A file in the making. It appears under its path, complete and on disk, only in nn_file_commit;
 * nn_file_discard leaves nothing behind. */
typedef struct {
    FILE *stream;
    char *path, *temporary;
} nn_file;
int nn_file_open(nn_file *file, const char *path, char *error, size_t error_size);
int nn_file_commit(nn_file *file, char *error, size_t error_size);
void nn_file_discard(nn_file *file);

#endif
