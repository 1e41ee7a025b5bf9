/* Internal to native code: a piece under construction. */
#ifndef COSTATE_NATIVE_PIECES_H
#define COSTATE_NATIVE_PIECES_H
#include "autodiff/native/atoms.h"

enum {
    AD_NATIVE_SUMS = 64, /* the most of a piece */
    AD_LOOP_VALUES = 64, /* and of a loop */
    AD_LOOP_READS = 192,
    AD_LOOP_CUTS = 8
};

typedef struct {
    /* where the functions begin: for rows one by one, and for as many at a time as there are lanes
     */
    int64_t one, several;
    int64_t instructions, looped;
} ad_native_code;

/* What a loop over elements makes. kept: others read it; late: it is written behind all that the
 * element at hand is made from. */
typedef struct {
    int32_t value;
    bool kept, late;
} ad_native_made;

/* A root that a loop reads. here: all of it, each turn of the loop the element that it makes. */
typedef struct {
    int32_t root;
    bool here;
} ad_native_read;

/* The elements with which a loop begins anew, in their order. */
typedef struct {
    int64_t at[AD_LOOP_CUTS];
    int n;
} ad_native_cuts;

/* A piece under way that is a loop over arrays of one size. */
typedef struct {
    int64_t size;
    ad_native_made value[AD_LOOP_VALUES];
    ad_native_read read[AD_LOOP_READS];
    int nvalue, nread;
    ad_native_cuts cuts;
} ad_native_loop;

struct ad_native {
    const ad_ir *ir;
    const ad_native_place *place;
    ad_atoms atoms;
    /* By value that is a root: where the atoms of its elements begin, + 1; 0: none. In a loop: the
     * atom of the element at hand, + 1. */
    int32_t *first;
    int32_t *element; /* the atoms; -1: not known yet */
    int32_t nelement, element_capacity;
    int32_t *seen; /* the values with atoms */
    int32_t nseen;
    int32_t nvalue; /* values of the piece under way, if it is no loop */
    ad_native_loop loop;
    int32_t sum[AD_NATIVE_SUMS]; /* roots of sums over rows that the piece adds to */
    int32_t nsum;
    ad_code code;
    int lanes; /* 1: there is code for one row only */
    int64_t frame;
    ad_native_code *piece;
    int npiece, piece_capacity;
    uint8_t *executable;
};

/* Sizes of axes, of one row. */
static inline int64_t ad_native_extent(ad_shape s, int axis)
{
    return s.dim[axis] == AD_ROWS ? 1 : s.dim[axis];
}
/* How many elements one row of a value has. */
int64_t ad_native_size(const ad_native *native, int32_t value);
/* The same; 0 where it has no rows. */
int64_t ad_native_row_size(const ad_native *native, int32_t value);
/* The atoms of a root's elements, -1 where there is none yet; NULL when memory is short. */
int32_t *ad_native_atoms(ad_native *native, int32_t root);
/* The atom of an element of a value; -1 when memory is short. */
int32_t ad_native_element(ad_native *native, int32_t value, int64_t at);

/* Forgets the atoms of the piece under way. */
void ad_native_forget(ad_native *native);

/* Loops (loops.c), where values have more elements than AD_NATIVE_ELEMENTS. */
bool ad_native_append_loop(ad_native *native, int32_t value);
void ad_native_keep_loop(ad_native *native, int32_t value);
bool ad_native_write_loop(ad_native *native, int64_t *entry);

/* out[e] gets the atom of element e of one row; false: the operation has no native form. kernel:
 * the operation's. there: the atoms of the sum over rows that the value is added to; NULL: it is
 * none.
 */
bool ad_native_value(ad_native *native, const ad_inst *x, const ad_kernel *kernel,
                     const int32_t *there, int32_t *out);
bool ad_native_contract(ad_native *native, const ad_inst *x, const ad_kernel *kernel,
                        const int32_t *there, int32_t *out);

#endif
