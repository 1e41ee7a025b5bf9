/* Internal: tangents as sums of products of factors (products.c). */
#ifndef COSTATE_TERMS_H
#define COSTATE_TERMS_H
#include "autodiff/derive/derive.h"

enum { AD_LABEL_ROW = 0, AD_LABEL_DIRECTION = 1, AD_FIRST_LABEL = 2 };

/* One product. Axis k of the node carries axis[k]; a label that no factor has stands for ones along
 * that axis. */
typedef struct {
    int n, labels;
    ad_factor f[AD_MAX_FACTORS];
    int8_t axis[AD_MAX_RANK];
} ad_term;

typedef struct {
    int n;
    ad_term *t;
} ad_tangent;

typedef struct {
    ad_tape *tape;
    ad_activity act;
    ad_live live;
    ad_tangent *of; /* by node, from act.begin, of those that are visited */
    int64_t ndir;   /* number of directions */
    bool single;    /* products and arrays cannot express a node's tangent: use single directions */
} ad_walk;

/* The tangent of a node that is visited. */
static inline ad_tangent *ad_tangent_at(ad_walk *w, int32_t node)
{
    return &w->of[node - w->act.begin];
}

/* Whether a factor, or any factor of a product, has the label. */
bool ad_factor_has(const ad_factor *f, int label);
bool ad_term_carries(const ad_term *t, int label);
/* Appends a product to g: one to be filled, or a copy of t. NULL: out of memory, the tape says so.
 */
ad_term *ad_term_add(ad_walk *w, ad_tangent *g);
ad_term *ad_term_copy(ad_walk *w, ad_tangent *g, const ad_term *t);
/* The factor x over the node's axes, where x broadcasts against the node (its axes of size 1 are
 * dropped). */
void ad_term_append(ad_term *t, ad_var x, ad_shape node);
/* A factor as an array that broadcasts against the node; invalid when it has other labels than the
 * node's axes. */
ad_var ad_factor_over(const ad_term *t, const ad_factor *f, ad_shape node);
/* Axes of an operand [..] aligned at the right with those of the result; stretched ones get fresh
 * labels (ones). */
void ad_term_align(ad_term *t, ad_shape from, ad_shape to);
/* The product as an array over n labels; invalid, so that single directions are what is left, when
 * it has too many axes on the way. */
ad_var ad_term_contract(ad_walk *w, const ad_term *t, int n, const int8_t *out);
/* The sum of g's products as one array over the labels out (axes of the node, AD_LABEL_DIRECTION),
 * whose sizes are those of shape; invalid when there is no room. */
ad_var ad_terms_multiply_out(ad_walk *w, const ad_tangent *g, int nout, const int *axis,
                             ad_shape shape);
/* The product of one array [rows?, directions, axes of the node...]. */
ad_term ad_term_of_array(ad_var x, ad_shape node);
/* Replaces a node's products by one array [rows?, directions, axes...]. */
void ad_terms_multiply(ad_walk *w, int32_t node);
/* Keeps products short: room for the factors and labels that the next operation adds. */
void ad_terms_limit(ad_walk *w, int32_t node);
/* What moves elements (moves.c): slices and assemblies; sums, reshapes, transpositions and
 * broadcasts of one product, by relabelling (false: not expressible). */
void ad_terms_through_windows(ad_walk *w, int32_t node, const ad_node *n);
bool ad_term_relabel(ad_walk *w, ad_term *t, const ad_node *n);

#endif
