/* The atoms of the elements of values. */
#include "autodiff/native/pieces.h"
#include <stdlib.h>
#include <string.h>

int64_t ad_native_size(const ad_native *n, int32_t value)
{
    return ad_row_size(n->ir->inst[value].shape);
}

int64_t ad_native_row_size(const ad_native *n, int32_t value)
{
    return ad_has_rows(n->ir->inst[value].shape) ? ad_native_size(n, value) : 0;
}

int32_t *ad_native_atoms(ad_native *n, int32_t root)
{
    if (!n->first[root]) {
        const int64_t size = ad_native_size(n, root), need = n->nelement + size;
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
    int32_t *atoms = ad_native_atoms(n, p->root);
    if (!atoms) {
        n->atoms.failed = true;
        return -1;
    }
    const int64_t index = p->offset + at;
    if (atoms[index] < 0)
        atoms[index] = root->op == AD_OP_fill ? ad_atom_number(&n->atoms, root->data[0])
                                              : ad_atom_read(&n->atoms, p->root, index,
                                                             ad_native_row_size(n, p->root), false);
    return atoms[index];
}

void ad_native_forget(ad_native *n)
{
    for (int32_t k = 0; k < n->nseen; k++) n->first[n->seen[k]] = 0;
    n->nseen = n->nelement = 0;
    ad_atoms_begin(&n->atoms);
}
