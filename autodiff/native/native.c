/* Pieces of a program, one after the other: values become atoms, atoms code. */
#include "autodiff/native/native.h"
#include "autodiff/base/executable.h"
#include "autodiff/base/isa.h"
#include "autodiff/native/pieces.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_ELEMENTS = 32,    /* of a value; larger ones are better off in vectors */
    MOST_READ = 4096,      /* elements of an array of which some are read */
    MOST_ATOMS = 1 << 15,  /* of a piece, and places of elements */
    MOST_BYTES = 32 << 20, /* of code */
    SHORT_LINE = 16        /* below that the kernels add the elements of a line one by one */
};

bool ad_native_wanted(void)
{
#ifdef __x86_64__
    const char *said = getenv("COSTATE_NATIVE");
    return ad_isa_chosen(NULL) <= AD_ISA_V3 && !(said && !strcmp(said, "0"));
#else
    return false;
#endif
}

ad_native *ad_native_new(const ad_ir *ir, const ad_native_place *place)
{
    ad_native *n = calloc(1, sizeof *n);
    if (!n) return NULL;
    n->ir = ir;
    n->place = place;
    n->atoms.dtype = n->code.dtype = ir->dtype;
    n->first = calloc((size_t)ir->n + 1, sizeof *n->first);
    n->seen = malloc(((size_t)ir->n + 1) * sizeof *n->seen);
    if (!n->first || !n->seen) {
        ad_native_free(n);
        return NULL;
    }
    ad_atoms_begin(&n->atoms);
    return n;
}

/* What is not needed once the code is sealed. */
static void clear(ad_native *n)
{
    ad_atoms_clear(&n->atoms);
    free(n->first);
    free(n->seen);
    free(n->element);
    free(n->code.byte);
    n->atoms = (ad_atoms){ 0 };
    n->first = n->seen = n->element = NULL;
    n->code.byte = NULL;
}

void ad_native_free(ad_native *n)
{
    if (!n) return;
    clear(n);
    ad_executable_free(n->executable, (size_t)n->code.n);
    free(n->piece);
    free(n);
}

/* ---- elements of values ---- */

static int64_t size_of(const ad_native *n, int32_t value)
{
    return ad_row_size(n->ir->inst[value].shape);
}

/* The atoms of a root's elements; NULL when memory is short. */
static int32_t *atoms_of(ad_native *n, int32_t root)
{
    if (!n->first[root]) {
        const int64_t size = size_of(n, root), need = n->nelement + size;
        if (need > n->element_capacity) {
            int32_t *more = realloc(n->element, (size_t)(2 * need) * sizeof *more);
            if (!more) return NULL;
            n->element = more;
            n->element_capacity = (int32_t)(2 * need);
        }
        memset(n->element + n->nelement, -1, (size_t)size * sizeof *n->element);
        n->first[root] = n->nelement + 1;
        n->nelement = (int32_t)need;
        n->seen[n->nseen++] = root;
    }
    return n->element + n->first[root] - 1;
}

int32_t ad_native_element(ad_native *n, int32_t value, int64_t at)
{
    const ad_native_place *p = &n->place[value];
    const ad_inst *root = &n->ir->inst[p->root];
    int32_t *atoms = atoms_of(n, p->root);
    if (!atoms) {
        n->atoms.failed = true;
        return -1;
    }
    const int64_t index = p->offset + at;
    if (atoms[index] < 0)
        atoms[index] =
            root->op == AD_OP_fill
                ? ad_atom_number(&n->atoms, root->data[0])
                : ad_atom_add(&n->atoms, AD_ATOM_READ, p->root,
                              (int32_t)(index * (int64_t)ad_dtype_size(n->ir->dtype)), -1);
    return atoms[index];
}

/* ---- shapes, of one row ---- */

static int64_t extent(ad_shape s, int axis) { return s.dim[axis] == AD_ROWS ? 1 : s.dim[axis]; }

static void dense(ad_shape s, int64_t *stride)
{
    int64_t n = 1;
    for (int i = s.rank - 1; i >= 0; i--) {
        stride[i] = n;
        n *= extent(s, i);
    }
}

/* index[e] = the place of element e of an array, where it is read with these strides from `start`
 * on. */
static void walk(ad_shape s, const int64_t *stride, int64_t start, int64_t *index)
{
    const int64_t size = ad_row_size(s);
    int64_t at[AD_MAX_RANK] = { 0 };
    for (int64_t e = 0; e < size; e++) {
        index[e] = start;
        for (int i = s.rank - 1; i >= 0; i--) {
            start += stride[i];
            if (++at[i] < extent(s, i)) break;
            start -= at[i] * stride[i];
            at[i] = 0;
        }
    }
}

/* That of an array which is broadcast to the shape. */
static void walk_broadcast(ad_shape s, ad_shape from, int64_t *index)
{
    int64_t own[AD_MAX_RANK], stride[AD_MAX_RANK];
    const int missing = s.rank - from.rank;
    dense(from, own);
    for (int i = 0; i < s.rank; i++)
        stride[i] = i < missing || extent(from, i - missing) == 1 ? 0 : own[i - missing];
    walk(s, stride, 0, index);
}

/* ---- operations: out[e] gets the atoms of the value's elements; false: no native form ---- */

static bool add_fill(ad_native *n, const ad_inst *x, int32_t *out)
{
    const int64_t size = ad_row_size(x->shape);
    for (int64_t e = 0; e < size; e++) out[e] = ad_atom_number(&n->atoms, x->data[0]);
    return true;
}

static bool add_pointwise(ad_native *n, const ad_inst *x, int32_t *out)
{
    int64_t index[3][MOST_ELEMENTS];
    const int64_t size = ad_row_size(x->shape);
    AD_ASSERT(x->nin <= 3);
    for (int k = 0; k < x->nin; k++)
        walk_broadcast(x->shape, n->ir->inst[x->in[k]].shape, index[k]);
    for (int64_t e = 0; e < size; e++) {
        int32_t operand[3];
        for (int k = 0; k < x->nin; k++) operand[k] = ad_native_element(n, x->in[k], index[k][e]);
        out[e] = ad_atom_pointwise(&n->atoms, x->op, x->nin, operand);
        if (out[e] < 0) return false;
    }
    return true;
}

/* Where every element of a value that only moves them comes from; false: it is another one. */
static bool find_sources(const ad_native *n, const ad_inst *x, int64_t *index)
{
    const ad_shape from = n->ir->inst[x->in[0]].shape;
    int64_t own[AD_MAX_RANK], stride[AD_MAX_RANK], start = 0;
    dense(from, own);
    switch (x->op) {
    case AD_OP_broadcast: walk_broadcast(x->shape, from, index); return true;
    case AD_OP_reshape: dense(x->shape, stride); break;
    case AD_OP_transpose:
        for (int i = 0; i < x->shape.rank; i++) stride[i] = own[x->attr[i]];
        break;
    case AD_OP_slice:
        for (int i = 0; i < x->shape.rank; i++) {
            stride[i] = own[i];
            start += x->attr[i] * own[i];
        }
        break;
    case AD_OP_flip:
        for (int i = 0; i < x->shape.rank; i++) {
            const bool flipped = x->attr[0] >> i & 1;
            stride[i] = flipped ? -own[i] : own[i];
            if (flipped) start += (extent(from, i) - 1) * own[i];
        }
        break;
    default: return false;
    }
    walk(x->shape, stride, start, index);
    return true;
}

static bool add_moved(ad_native *n, const ad_inst *x, int32_t *out)
{
    int64_t index[MOST_ELEMENTS];
    const int64_t size = ad_row_size(x->shape);
    if (!find_sources(n, x, index)) return false;
    for (int64_t e = 0; e < size; e++) out[e] = ad_native_element(n, x->in[0], index[e]);
    return true;
}

static bool add_gather(ad_native *n, const ad_inst *x, int32_t *out)
{
    const int axis = (int)x->attr[0];
    const int64_t whole = extent(n->ir->inst[x->in[0]].shape, axis), count = extent(x->shape, axis),
                  size = ad_row_size(x->shape);
    int64_t own[AD_MAX_RANK];
    dense(x->shape, own);
    for (int64_t e = 0; e < size; e++) {
        const int64_t inner = e % own[axis], j = e / own[axis] % count,
                      outer = e / own[axis] / count;
        out[e] =
            ad_native_element(n, x->in[0], (outer * whole + x->attr[1 + j]) * own[axis] + inner);
    }
    return true;
}

/* Operands that do not overlap are copied into zeros; else all are added to zeros. */
static bool add_assemble(ad_native *n, const ad_inst *x, int32_t *out)
{
    int64_t own[AD_MAX_RANK], index[MOST_ELEMENTS];
    int taken[MOST_ELEMENTS] = { 0 };
    bool overlap = false;
    const int64_t size = ad_row_size(x->shape);
    const int32_t zero = ad_atom_number(&n->atoms, 0);
    dense(x->shape, own);
    for (int64_t e = 0; e < size; e++) out[e] = zero;
    for (int pass = 0; pass < 2; pass++)
        for (int k = 0; k < x->nin; k++) {
            const ad_shape part = n->ir->inst[x->in[k]].shape;
            int64_t start = 0;
            if (ad_row_size(part) > MOST_ELEMENTS) return false;
            for (int i = 0; i < x->shape.rank; i++)
                start += x->attr[(ptrdiff_t)k * x->shape.rank + i] * own[i];
            walk(part, own, start, index);
            for (int64_t e = 0; e < ad_row_size(part); e++) {
                int32_t *to = &out[index[e]];
                if (pass == 0) overlap |= taken[index[e]]++ > 0;
                else if (overlap)
                    *to = ad_atom_add(&n->atoms, AD_DO_ADD, *to, ad_native_element(n, x->in[k], e),
                                      -1);
                else *to = ad_native_element(n, x->in[k], e);
            }
        }
    return true;
}

static bool add_scatter(ad_native *n, const ad_inst *x, int32_t *out)
{
    const int axis = (int)x->attr[0];
    const int64_t whole = extent(x->shape, axis), size = ad_row_size(x->shape);
    const int64_t count = extent(n->ir->inst[x->in[0]].shape, axis);
    const int32_t zero = ad_atom_number(&n->atoms, 0);
    int64_t own[AD_MAX_RANK];
    dense(x->shape, own);
    for (int64_t e = 0; e < size; e++) out[e] = zero;
    for (int64_t j = 0; j < count; j++)
        for (int64_t e = 0; e < size; e++) { /* those that the index points to */
            if (e / own[axis] % whole != x->attr[1 + j]) continue;
            const int64_t outer = e / own[axis] / whole, inner = e % own[axis],
                          from = (outer * count + j) * own[axis] + inner;
            out[e] =
                ad_atom_add(&n->atoms, AD_DO_ADD, out[e], ad_native_element(n, x->in[0], from), -1);
        }
    return true;
}

/* ---- sums ---- */

/* Sums and maxima over the axes of a mask: groups of adjacent axes, the innermost first, as the
 * kernels have them, of lines so short that they are reduced one by one. */
static bool add_reduction(ad_native *n, const ad_inst *x, const int32_t *there, int32_t *out)
{
    const ad_shape s = n->ir->inst[x->in[0]].shape;
    const bool max = ad_has_trait(x->op, AD_MAXIMUM);
    int32_t from[MOST_ELEMENTS], to[MOST_ELEMENTS];
    int64_t size = ad_row_size(s), inner = 1;
    if (size > MOST_ELEMENTS || (max && there)) return false;
    for (int64_t e = 0; e < size; e++) from[e] = ad_native_element(n, x->in[0], e);
    const int32_t begin = ad_atom_number(&n->atoms, max ? -INFINITY : 0),
                  zero = ad_atom_number(&n->atoms, 0);
    bool none = true;
    for (int i = s.rank - 1; i >= 0;) {
        int64_t count = 1;
        if (!(x->attr[0] >> i & 1)) {
            inner *= extent(s, i--);
            continue;
        }
        for (; i >= 0 && (x->attr[0] >> i & 1); i--) count *= extent(s, i);
        if (count >= SHORT_LINE) return false;
        none = false;
        size /= count;
        for (int64_t e = 0; e < size; e++) {
            const int64_t outer = e / inner, column = e % inner;
            to[e] = begin;
            for (int64_t r = 0; r < count; r++) {
                const int32_t next = from[(outer * count + r) * inner + column];
                to[e] = max ? ad_atom_pointwise(&n->atoms, AD_OP_max, 2, (int32_t[]){ to[e], next })
                            : ad_atom_add(&n->atoms, AD_DO_ADD, to[e], next, -1);
            }
            if (max && inner == 1) to[e] = ad_atom_add(&n->atoms, AD_DO_ADD, to[e], zero, -1);
        }
        memcpy(from, to, (size_t)size * sizeof *from);
    }
    if (none) return false;
    for (int64_t e = 0; e < size; e++)
        out[e] = there ? ad_atom_add(&n->atoms, AD_DO_ADD, there[e], from[e], -1) : from[e];
    return true;
}

static bool add_value(ad_native *n, const ad_inst *x, const ad_kernel *kernel, const int32_t *there,
                      int32_t *out)
{
    if (ad_ops[x->op].kind == AD_POINTWISE) return add_pointwise(n, x, out);
    switch (x->op) {
    case AD_OP_fill: return add_fill(n, x, out);
    case AD_OP_gather: return add_gather(n, x, out);
    case AD_OP_assemble: return add_assemble(n, x, out);
    case AD_OP_scatter_add: return add_scatter(n, x, out);
    case AD_OP_sum:
    case AD_OP_reduce_max: return add_reduction(n, x, there, out);
    case AD_OP_contract: return ad_native_contract(n, x, kernel, there, out);
    default: return x->nin == 1 && add_moved(n, x, out);
    }
}

/* ---- pieces ---- */

static bool is_sum(const ad_native *n, int32_t root)
{
    for (int32_t k = 0; k < n->nsum; k++)
        if (n->sum[k] == root) return true;
    return false;
}

/* Of a sum over rows, what is there already: kernels add to it. */
static bool find_sum(ad_native *n, int32_t root, int64_t size, int32_t *there)
{
    if (n->nsum == AD_NATIVE_SUMS || size_of(n, root) != size) return false;
    for (int64_t e = 0; e < size; e++) there[e] = ad_native_element(n, root, e);
    return true;
}

bool ad_native_append(ad_native *n, int32_t value, const ad_kernel *kernel)
{
    const ad_inst *x = &n->ir->inst[value];
    const int64_t size = ad_row_size(x->shape);
    const int32_t root = n->place[value].root;
    int32_t out[MOST_ELEMENTS], there[MOST_ELEMENTS];
    const bool sums = ad_inst_reduces(n->ir, x);
    if (size < 1 || size > MOST_ELEMENTS || (root != value && !sums)) return false;
    if (n->atoms.natom > MOST_ATOMS || n->nelement > 8 * MOST_ATOMS) return false;
    for (int k = 0; k < x->nin; k++)
        if (size_of(n, n->place[x->in[k]].root) > MOST_READ || size_of(n, x->in[k]) < 1)
            return false;
    if (sums && !find_sum(n, root, size, there)) return false;
    if (!add_value(n, x, kernel, sums ? there : NULL, out) || n->atoms.failed) return false;
    int32_t *atoms = atoms_of(n, root);
    if (!atoms) return false;
    memcpy(atoms, out, (size_t)size * sizeof *out);
    if (sums && !is_sum(n, root)) n->sum[n->nsum++] = root;
    return true;
}

void ad_native_keep(ad_native *n, int32_t value)
{
    const int64_t size = size_of(n, value), bytes = (int64_t)ad_dtype_size(n->ir->dtype);
    for (int64_t e = 0; e < size; e++)
        ad_atom_keep(&n->atoms, (ad_atom_result){ .atom = ad_native_element(n, value, e),
                                                  .entry = value,
                                                  .at = e * bytes,
                                                  .early = n->place[value].apart });
}

static bool write_piece(ad_native *n)
{
    if (n->npiece == n->piece_capacity) {
        const int capacity = n->piece_capacity ? 2 * n->piece_capacity : 4;
        ad_native_code *more = realloc(n->piece, (size_t)capacity * sizeof *more);
        if (!more) return false;
        n->piece = more;
        n->piece_capacity = capacity;
    }
    const ad_code before = n->code;
    ad_native_code *p = &n->piece[n->npiece];
    if (n->atoms.failed || n->code.n > MOST_BYTES) return false;
    if (!ad_atoms_write(&n->atoms, &n->code, &p->entry, &n->frame)) {
        n->code.n = before.n;
        n->code.instructions = before.instructions;
        n->code.failed = false;
        return false;
    }
    p->instructions = n->code.instructions - before.instructions;
    return true;
}

int ad_native_end(ad_native *n)
{
    for (int32_t k = 0; k < n->nsum; k++) ad_native_keep(n, n->sum[k]);
    n->nsum = 0;
    const int number = write_piece(n) ? n->npiece++ : -1;
    for (int32_t k = 0; k < n->nseen; k++) n->first[n->seen[k]] = 0;
    n->nseen = n->nelement = 0;
    ad_atoms_begin(&n->atoms);
    return number;
}

bool ad_native_seal(ad_native *n)
{
    if (n->npiece) n->executable = ad_executable_new(n->code.byte, (size_t)n->code.n);
    clear(n);
    return n->executable != NULL;
}

ad_native_run ad_native_piece(const ad_native *n, int number, int64_t *instructions)
{
    AD_ASSERT(n->executable && number >= 0 && number < n->npiece);
    *instructions = n->piece[number].instructions;
    ad_native_run run;
    const uint8_t *at = n->executable + n->piece[number].entry;
    memcpy(&run, &at, sizeof run);
    return run;
}

int64_t ad_native_frame(const ad_native *n) { return n->frame; }
int64_t ad_native_bytes(const ad_native *n) { return n->code.n; }
