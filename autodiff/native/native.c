/* Pieces of a program, one after the other: values become atoms, atoms code. */
#include "autodiff/native/native.h"
#include "autodiff/base/executable.h"
#include "autodiff/base/isa.h"
#include "autodiff/native/pieces.h"
#include <stdlib.h>
#include <string.h>

enum {
    MOST_READ = 4096,     /* elements of an array of which some are read */
    MOST_ATOMS = 1 << 15, /* of a piece, and places of elements */
    MOST_BYTES = 16 << 20 /* of code */
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

ad_native *ad_native_new(const ad_ir *ir, const ad_native_place *place, bool several)
{
    ad_native *n = calloc(1, sizeof *n);
    if (!n) return NULL;
    n->ir = ir;
    n->place = place;
    n->atoms.dtype = n->code.dtype = ir->dtype;
    n->lanes = several ? AD_VECTOR_BYTES / (int)ad_dtype_size(ir->dtype) : 1;
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
    const ad_native_place *place = &n->place[root];
    int32_t *atoms = ad_native_atoms(n, root);
    if (!atoms || n->nsum == AD_NATIVE_SUMS || ad_native_size(n, root) != size) return false;
    for (int64_t e = 0; e < size; e++) {
        if (atoms[e] < 0) atoms[e] = ad_atom_read(&n->atoms, place->before, e, 0, place->adds);
        there[e] = atoms[e];
    }
    return true;
}

/* The piece does not make the sum after all: whoever reads it finds it in its array. */
static bool leave_sum(ad_native *n, int32_t root, int64_t size)
{
    int32_t *atoms = ad_native_atoms(n, root);
    for (int64_t e = 0; atoms && e < size && !is_sum(n, root); e++) atoms[e] = -1;
    return false;
}

bool ad_native_append(ad_native *n, int32_t value, const ad_kernel *kernel)
{
    const ad_inst *x = &n->ir->inst[value];
    const int64_t size = ad_row_size(x->shape);
    const int32_t root = n->place[value].root;
    int32_t out[AD_NATIVE_ELEMENTS], there[AD_NATIVE_ELEMENTS];
    const bool sums = ad_inst_reduces(n->ir, x);
    if (size > AD_NATIVE_ELEMENTS) return ad_native_append_loop(n, value);
    if (size < 1 || n->loop.nvalue > 0 || (root != value && !sums)) return false;
    if (n->atoms.natom > MOST_ATOMS || n->nelement > 8 * MOST_ATOMS) return false;
    for (int k = 0; k < x->nin; k++)
        if (ad_native_size(n, n->place[x->in[k]].root) > MOST_READ ||
            ad_native_size(n, x->in[k]) < 1)
            return false;
    if (sums && n->lanes > 1) return false;
    if (sums && !find_sum(n, root, size, there)) return false;
    if (!ad_native_value(n, x, kernel, sums ? there : NULL, out) || n->atoms.failed)
        return sums && leave_sum(n, root, size);
    int32_t *atoms = ad_native_atoms(n, root);
    if (!atoms) return false;
    memcpy(atoms, out, (size_t)size * sizeof *out);
    if (sums && !is_sum(n, root)) n->sum[n->nsum++] = root;
    n->nvalue++;
    return true;
}

void ad_native_keep(ad_native *n, int32_t value)
{
    if (n->loop.nvalue > 0) {
        ad_native_keep_loop(n, value);
        return;
    }
    const int64_t size = ad_native_size(n, value), bytes = (int64_t)ad_dtype_size(n->ir->dtype),
                  row_bytes = ad_native_row_size(n, value) * bytes;
    for (int64_t e = 0; e < size; e++)
        ad_atom_keep(&n->atoms, (ad_atom_result){ .atom = ad_native_element(n, value, e),
                                                  .entry = value,
                                                  .at = e * bytes,
                                                  .row_bytes = row_bytes,
                                                  .early = n->place[value].apart });
}

/* The piece's code for so many rows at a time. */
static bool write_code(ad_native *n, int lanes, int64_t *entry, int64_t *instructions)
{
    const int64_t before = n->code.instructions;
    const ad_code_kind kind = n->lanes > 1 ? AD_CODE_ROWS : AD_CODE_ONE;
    n->code.lanes = lanes;
    if (n->loop.nvalue > 0 ? !ad_native_write_loop(n, entry)
                           : !ad_atoms_write(&n->atoms, &n->code, kind, NULL, entry, &n->frame))
        return false;
    *instructions = n->code.instructions - before;
    return true;
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
    p->looped = n->loop.size;
    const bool fine = write_code(n, 1, &p->one, &p->instructions) &&
                      (n->lanes == 1 || write_code(n, n->lanes, &p->several, &p->instructions));
    if (fine) return true;
    n->code.n = before.n;
    n->code.instructions = before.instructions;
    n->code.failed = false;
    return false;
}

void ad_native_drop(ad_native *n)
{
    ad_native_forget(n);
    n->nsum = n->nvalue = n->loop.nvalue = n->loop.nread = n->loop.cuts.n = 0;
    n->loop.size = 0;
}

int ad_native_end(ad_native *n)
{
    for (int32_t k = 0; k < n->nsum; k++) ad_native_keep(n, n->sum[k]);
    const int number = write_piece(n) ? n->npiece++ : -1;
    ad_native_drop(n);
    return number;
}

int64_t ad_native_instructions(const ad_native *n, int number)
{
    return n->piece[number].instructions;
}

int ad_native_lanes(const ad_native *n) { return n->lanes; }

bool ad_native_seal(ad_native *n)
{
    if (n->npiece) n->executable = ad_executable_new(n->code.byte, (size_t)n->code.n);
    clear(n);
    return n->executable != NULL;
}

ad_native_function ad_native_piece(const ad_native *n, int number)
{
    AD_ASSERT(n->executable && number >= 0 && number < n->npiece);
    const ad_native_code *p = &n->piece[number];
    const uint8_t *one = n->executable + p->one;
    ad_native_function f = { .instructions = p->instructions, .looped = p->looped };
    if (n->lanes == 1) {
        memcpy(&f.one, &one, sizeof f.one);
    } else {
        const uint8_t *several = n->executable + p->several;
        memcpy(&f.each, &one, sizeof f.each);
        memcpy(&f.several, &several, sizeof f.several);
    }
    return f;
}

int64_t ad_native_frame(const ad_native *n) { return n->frame; }
int64_t ad_native_bytes(const ad_native *n) { return n->code.n; }
