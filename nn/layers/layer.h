/* Internal to nn/: what all layers do: name their parameters, check what they are applied to, read
 * their arrays from theta. */
#ifndef COSTATE_NN_LAYER_H
#define COSTATE_NN_LAYER_H
#include "nn/model/model.h"

enum { NN_LAYER_NAME = 240 };
/* "<name>.<suffix>", in text; NULL where there is no name or it is too long, which nn_model_add
 * refuses with the reason. */
const char *nn_layer_name(char text[NN_LAYER_NAME], const char *name, const char *suffix);
/* The same for the i-th layer of a stack. */
const char *nn_layer_number(char text[NN_LAYER_NAME], const char *name, int i);

/* Parameter "<name>.<suffix>": its offset, or -1 with the model's error set. */
int64_t nn_layer_add(nn_model *model, const char *name, const char *suffix, ad_shape shape,
                     nn_init init, int64_t fan_in, int64_t fan_out);

/* The same for an array that is not trained. */
int64_t nn_layer_add_fixed(nn_model *model, const char *name, const char *suffix, ad_shape shape,
                           nn_init init);

/* Whether theta and x are valid, the layer was made (its offset is there) and theta is its model's;
 * else the tape has the error, which begins with `what`. */
bool nn_layer_check(const char *what, const nn_model *model, int64_t offset, ad_var theta,
                    ad_var x);
/* Whether x is [...,width]; else its tape has the error. */
bool nn_layer_width(const char *what, ad_var x, int64_t width);
/* Whether the variable is one, with the tape's error set otherwise, which calls it `name`. */
bool nn_layer_valid(const char *what, const char *name, ad_var x, ad_tape *tape);

/* The array of this shape at an offset of theta. */
ad_var nn_layer_array(ad_var theta, int64_t offset, ad_shape shape);
/* The same of an array that is not trained: without a derivative. */
ad_var nn_layer_fixed(ad_var theta, int64_t offset, ad_shape shape);
/* 0, 1, ..., n-1 as a constant [n], made by the tape. */
ad_var nn_layer_range(ad_tape *tape, int64_t n);
/* An invalid variable on the tape of x, if it has one. */
ad_var nn_layer_none(ad_var x);
/* The same, with the tape's error set to "<what>: <message>". */
ad_var nn_layer_fail(ad_var x, const char *what, const char *message);

/* x W + b with the first n rows of W; x [...,n]. */
ad_var nn_linear_rows(const nn_linear *layer, ad_var theta, ad_var x, int64_t n);
/* Number of layers of a stack, or 0 with the model's error set: a stack of no layers has no offsets
 * to mark it as failed. */
int nn_count_layers(nn_model *model, const char *name, int nsize, const int64_t *sizes);

#endif
