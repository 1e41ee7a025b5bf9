/* Internal to nn/: the layout of a model, and theta. */
#ifndef COSTATE_NN_MODEL_H
#define COSTATE_NN_MODEL_H
#include "nn/base/names.h"
#include "nn/base/support.h"
#include <stdatomic.h>

typedef struct {
    const char *name; /* the model's */
    ad_shape shape;
    int64_t offset, size, fan_in, fan_out;
    nn_init init;
    bool fixed; /* not trained */
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

/* The parameter array of a name, or NULL. */
const nn_parameter *nn_parameter_find(const nn_model *model, const char *name);
/* The parameter array that holds theta[element], or NULL for padding. */
const nn_parameter *nn_parameter_at(const nn_model *model, int64_t element);

/* Sets the model's error if it has none (printf form); -1. model may be NULL. */
int nn_model_fail(nn_model *model, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 2, 3)))
#endif
    ;
nn_model *nn_model_retain(const nn_model *model);
/* Sets theta's error if it has none (printf form); -1. */
int nn_theta_fail(nn_theta *theta, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 2, 3)))
#endif
    ;
/* 0 when theta is there, without an error, and as large as its model; else -1 with the message,
 * which begins with `what`. */
int nn_theta_check(const char *what, const nn_theta *theta, char *error, size_t size);

/* Whether the variable has the size of the model's theta; else its tape has the error, which names
 * both. */
bool nn_theta_fits(const char *what, const nn_model *model, ad_var theta);

#endif
