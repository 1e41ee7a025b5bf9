/* Pieces that are loops over the elements of larger arrays: pointwise operations on arrays of one
 * size, or on one number, and what puts arrays together or takes parts of them.
 *
 * Element i of every array is made from elements i of the others and, where a part of an array is
 * read, or arrays are put together, from elements a constant distance away. Where a part of an
 * assembled array begins or ends, these distances change: there the loop ends and another one
 * begins. What is made in the loop has to be read at i, or else the piece ends. So does it where an
 * element would be written that is still to be read, as places in memory are used again. */
#include "autodiff/native/pieces.h"
#include <string.h>

/* ---- places ---- */

static int number_of(const ad_native_loop *l, int32_t value)
{
    for (int k = 0; k < l->nvalue; k++)
        if (l->value[k].value == value) return k;
    return -1;
}

static bool add_cut(ad_native_loop *l, int64_t at)
{
    ad_native_cuts *c = &l->cuts;
    if (at <= 0 || at >= l->size) return true;
    for (int i = 0; i < c->n; i++)
        if (c->at[i] == at) return true;
    if (c->n == AD_LOOP_CUTS) return false;
    int k = c->n++;
    for (; k > 0 && c->at[k - 1] > at; k--) c->at[k] = c->at[k - 1];
    c->at[k] = at;
    return true;
}

/* An operand, of which element i + ahead is read. */
static bool note_read(ad_native *n, int32_t value, int64_t ahead)
{
    ad_native_loop *l = &n->loop;
    const ad_native_place *p = &n->place[value];
    const bool all = ad_native_size(n, value) == l->size;
    if (n->ir->inst[p->root].op == AD_OP_fill) return true;
    if (number_of(l, p->root) >= 0) return all && ahead == 0 && p->offset == 0;
    if (l->nread == AD_LOOP_READS) return false;
    const bool here = all && ahead == 0 && p->offset == 0;
    l->read[l->nread++] = (ad_native_read){ .root = p->root, .here = here };
    return true;
}

/* Whether the value's memory may be written in the loop, and whether behind all that is read. */
static bool may_write(const ad_native *n, int32_t value, bool *late)
{
    const ad_native_place *p = &n->place[value];
    *late = false;
    for (int k = 0; k < n->loop.nread; k++) {
        const ad_native_place *r = &n->place[n->loop.read[k].root];
        if (p->begin >= r->end || r->begin >= p->end) continue;
        if (!n->loop.read[k].here || p->begin != r->begin) return false;
        *late = true;
    }
    return true;
}

/* ---- parts of arrays ---- */

/* Where the elements of a part stand in an array, if they follow each other there; -1: they do not.
 * at: where it begins on every axis. */
static int64_t start_in(ad_shape array, ad_shape part, const int64_t *at)
{
    int64_t start = 0, stride = 1;
    bool narrow = false;
    for (int i = array.rank - 1; i >= 0; i--) {
        const int64_t own = ad_native_extent(part, i), all = ad_native_extent(array, i);
        if (narrow && own > 1) return -1;
        narrow = narrow || own < all;
        start += at[i] * stride;
        stride *= all;
    }
    return start;
}

/* That of operand k in an assembled value. */
static int64_t start_of(const ad_native *n, const ad_inst *x, int k)
{
    return start_in(x->shape, n->ir->inst[x->in[k]].shape, x->attr + (ptrdiff_t)k * x->shape.rank);
}

/* That of a slice. */
static int64_t slice_start(const ad_native *n, const ad_inst *x)
{
    return start_in(n->ir->inst[x->in[0]].shape, x->shape, x->attr);
}

static bool cut_assembled(ad_native *n, const ad_inst *x)
{
    if (x->nin > AD_LOOP_CUTS) return false;
    for (int k = 0; k < x->nin; k++) {
        const int64_t start = start_of(n, x, k), end = start + ad_native_size(n, x->in[k]);
        if (start < 0 || !note_read(n, x->in[k], -start)) return false;
        if (!add_cut(&n->loop, start) || !add_cut(&n->loop, end)) return false;
    }
    return true;
}

/* Kernels copy operands that do not overlap, and add others to zeros. */
static bool is_added(const ad_native *n, const ad_inst *x)
{
    for (int k = 0; k < x->nin; k++)
        for (int j = 0; j < k; j++) {
            const int64_t a = start_of(n, x, k), b = start_of(n, x, j);
            if (a < b + ad_native_size(n, x->in[j]) && b < a + ad_native_size(n, x->in[k]))
                return true;
        }
    return false;
}

/* ---- atoms ---- */

/* The atom of element `at` of an array, or of the element at hand of one that the loop makes. */
static int32_t read_element(ad_native *n, int32_t value, int64_t at)
{
    const ad_native_place *p = &n->place[value];
    const ad_inst *root = &n->ir->inst[p->root];
    if (number_of(&n->loop, p->root) >= 0) return n->first[p->root] - 1;
    if (root->op == AD_OP_fill) return ad_atom_number(&n->atoms, root->data[0]);
    const bool moves = ad_native_size(n, value) > 1;
    return ad_atom_read(&n->atoms, p->root, p->offset + at, moves, false);
}

/* That of an operand's element `at`, or of the only one. */
static int32_t operand_at(ad_native *n, int32_t value, int64_t at)
{
    if (!n->first[value]) {
        const int32_t atom = read_element(n, value, ad_native_size(n, value) > 1 ? at : 0);
        n->first[value] = atom + 1;
        n->seen[n->nseen++] = value;
    }
    return n->first[value] - 1;
}

static int32_t assembled_at(ad_native *n, const ad_inst *x, int64_t at)
{
    const bool added = is_added(n, x);
    int32_t atom = ad_atom_number(&n->atoms, 0);
    for (int k = 0; k < x->nin; k++) {
        const int64_t from = at - start_of(n, x, k);
        if (from < 0 || from >= ad_native_size(n, x->in[k])) continue;
        const int32_t part = read_element(n, x->in[k], from);
        atom = added ? ad_atom_add(&n->atoms, AD_DO_ADD, atom, part, -1) : part;
    }
    return atom;
}

/* The atom of element `at` of a value; false: it has no native form, or memory is short. */
static bool make_at(ad_native *n, int32_t value, int64_t at)
{
    const ad_inst *x = &n->ir->inst[value];
    int32_t operand[3], atom;
    if (x->op == AD_OP_assemble) {
        atom = assembled_at(n, x, at);
    } else if (x->op == AD_OP_slice) {
        atom = read_element(n, x->in[0], slice_start(n, x) + at);
    } else {
        AD_ASSERT(x->nin <= 3);
        for (int k = 0; k < x->nin; k++) operand[k] = operand_at(n, x->in[k], at);
        atom = ad_atom_pointwise(&n->atoms, x->op, x->nin, operand);
    }
    if (atom < 0 || n->atoms.failed) return false;
    n->first[value] = atom + 1;
    n->seen[n->nseen++] = value;
    return true;
}

/* ---- pieces ---- */

static bool add_value(ad_native *n, int32_t value)
{
    ad_native_loop *l = &n->loop;
    const ad_inst *x = &n->ir->inst[value];
    bool late;
    if (l->nvalue == AD_LOOP_VALUES) return false;
    if (x->op == AD_OP_assemble) {
        if (!cut_assembled(n, x)) return false;
    } else if (x->op == AD_OP_slice) {
        const int64_t start = slice_start(n, x);
        if (start < 0 || !note_read(n, x->in[0], start)) return false;
    } else if (ad_ops[x->op].kind == AD_POINTWISE) {
        for (int k = 0; k < x->nin; k++) {
            const int64_t size = ad_native_size(n, x->in[k]);
            if ((size != l->size && size != 1) || !note_read(n, x->in[k], 0)) return false;
        }
    } else {
        return false;
    }
    if (!may_write(n, value, &late) || !make_at(n, value, 0)) return false;
    l->value[l->nvalue++] = (ad_native_made){ .value = value, .late = late };
    return true;
}

bool ad_native_append_loop(ad_native *n, int32_t value)
{
    ad_native_loop *l = &n->loop;
    const ad_native_cuts cuts = l->cuts;
    const int nread = l->nread;
    const bool begins = l->nvalue == 0;
    const int64_t size = ad_native_size(n, value);
    const ad_native_place *place = &n->place[value];
    if (n->lanes > 1 || n->nvalue > 0 || size > AD_NATIVE_LOOPED) return false;
    if (place->root != value || place->end == 0) return false;
    if (begins) {
        ad_native_forget(n);
        l->size = size;
    }
    if (l->size == size && add_value(n, value)) return true;
    l->cuts = cuts;
    l->nread = nread;
    if (!begins) return false;
    ad_native_forget(n);
    l->size = 0;
    return false;
}

void ad_native_keep_loop(ad_native *n, int32_t value)
{
    n->loop.value[number_of(&n->loop, value)].kept = true;
}

static bool write_part(ad_native *n, int lanes, int64_t from, int64_t to)
{
    const ad_atom_range range = { from, to };
    int64_t entry;
    n->code.lanes = lanes;
    return from == to ||
           ad_atoms_write(&n->atoms, &n->code, AD_CODE_RANGE, &range, &entry, &n->frame);
}

/* The loops over elements from `begin` to `end`. */
static bool write_range(ad_native *n, int64_t begin, int64_t end)
{
    const ad_native_loop *l = &n->loop;
    const int64_t bytes = (int64_t)ad_dtype_size(n->ir->dtype);
    const int lanes = AD_VECTOR_BYTES / (int)bytes;
    const int64_t first = (begin + lanes - 1) / lanes * lanes, last = end / lanes * lanes;
    ad_native_forget(n);
    for (int k = 0; k < l->nvalue; k++) {
        const ad_native_made *made = &l->value[k];
        if (!make_at(n, made->value, begin)) return false;
        if (!made->kept) continue;
        ad_atom_keep(&n->atoms, (ad_atom_result){ .atom = n->first[made->value] - 1,
                                                  .entry = made->value,
                                                  .at = begin * bytes,
                                                  .row_bytes = bytes,
                                                  .early = !made->late });
    }
    if (n->atoms.failed) return false;
    if (first >= last) return write_part(n, 1, 0, end - begin);
    return write_part(n, 1, 0, first - begin) &&
           write_part(n, lanes, first - begin, last - begin) &&
           write_part(n, 1, last - begin, end - begin);
}

bool ad_native_write_loop(ad_native *n, int64_t *entry)
{
    const ad_native_loop *l = &n->loop;
    *entry = n->code.n;
    for (int k = 0; k <= l->cuts.n; k++)
        if (!write_range(n, k ? l->cuts.at[k - 1] : 0, k < l->cuts.n ? l->cuts.at[k] : l->size))
            return false;
    n->code.lanes = AD_VECTOR_BYTES;
    ad_encode_return(&n->code);
    return !n->code.failed;
}
