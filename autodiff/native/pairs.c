/* Pairs of numbers that stand side by side in the rows of an array. Vectors of them, with a number
 * for every row, are read and written together in fewer instructions. */
#include "autodiff/native/atoms.h"
#include <stdlib.h>

/* number: of an atom that is read, or of a result. */
typedef struct {
    int64_t at, row_bytes;
    int32_t entry, number;
} element;

static int compare(const void *a, const void *b)
{
    const element *x = a, *y = b;
    if (x->entry != y->entry) return x->entry < y->entry ? -1 : 1;
    if (x->at != y->at) return x->at < y->at ? -1 : 1;
    return x->number < y->number ? -1 : 1;
}

static void pair_up(element *list, int32_t n, int64_t size, int32_t *with)
{
    qsort(list, (size_t)n, sizeof *list, compare);
    for (int32_t i = 0; i + 1 < n; i++) {
        const element *x = &list[i], *y = x + 1;
        if (x->entry != y->entry || x->at + size != y->at || x->row_bytes <= size) continue;
        with[x->number] = y->number;
        with[y->number] = x->number;
        i++;
    }
}

bool ad_atoms_pair(const ad_atoms *a, int32_t *read_with, int32_t *written_with)
{
    const int64_t size = (int64_t)ad_dtype_size(a->dtype);
    element *list = malloc(((size_t)a->natom + (size_t)a->nresult + 1) * sizeof *list);
    if (!list) return false;
    int32_t reads = 0;
    for (int32_t i = 0; i < a->natom; i++) {
        const ad_atom *x = &a->atom[i];
        if (!x->needed || x->what != AD_ATOM_READ) continue;
        list[reads++] = (element){ x->in[1], x->in[2], x->in[0], i };
    }
    pair_up(list, reads, size, read_with);
    for (int32_t r = 0; r < a->nresult; r++) {
        const ad_atom_result *x = &a->result[r];
        list[r] = (element){ x->at, x->row_bytes, x->entry, r };
    }
    pair_up(list, a->nresult, size, written_with);
    free(list);
    return true;
}
