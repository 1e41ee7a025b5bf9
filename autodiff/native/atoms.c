/* Lists of atoms. */
#include "autodiff/native/atoms.h"
#include <stdlib.h>
#include <string.h>

/* Room for one more of a list of n; false: memory is short. */
static bool grow(ad_atoms *a, void **list, int32_t n, int32_t *capacity, size_t size)
{
    if (n < *capacity) return true;
    const int32_t more = *capacity ? 2 * *capacity : 256;
    void *larger = realloc(*list, (size_t)more * size);
    if (!larger) {
        a->failed = true;
        return false;
    }
    *list = larger;
    *capacity = more;
    return true;
}

int32_t ad_atom_add(ad_atoms *a, int what, int32_t x, int32_t y, int32_t z)
{
    if (!grow(a, (void **)&a->atom, a->natom, &a->atom_capacity, sizeof *a->atom)) return -1;
    a->atom[a->natom] = (ad_atom){ .what = (uint8_t)what, .in = { x, y, z } };
    return a->natom++;
}

/* The number's place in a table of atoms that goes by bits. */
static int32_t *place_of(ad_atoms *a, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint64_t at = bits * 0x9e3779b97f4a7c15u >> 32;
    for (;; at++) {
        int32_t *known = &a->table[at % AD_ATOM_TABLE];
        if (*known < 0 || !memcmp(&a->number[a->atom[*known].in[0]], &value, sizeof value))
            return known;
    }
}

int32_t ad_atom_number(ad_atoms *a, double value)
{
    if (a->dtype == AD_F32) value = (float)value;
    const bool room = a->nnumber < AD_ATOM_TABLE / 2;
    int32_t *known = room ? place_of(a, value) : NULL;
    if (known && *known >= 0) return *known;
    if (!grow(a, (void **)&a->number, a->nnumber, &a->number_capacity, sizeof *a->number))
        return -1;
    a->number[a->nnumber] = value;
    const int32_t atom = ad_atom_add(a, AD_ATOM_NUMBER, a->nnumber++, -1, -1);
    if (known) *known = atom;
    return atom;
}

void ad_atom_keep(ad_atoms *a, ad_atom_result result)
{
    if (!grow(a, (void **)&a->result, a->nresult, &a->result_capacity, sizeof *a->result)) return;
    a->result[a->nresult++] = result;
}

void ad_atoms_begin(ad_atoms *a)
{
    a->natom = a->nnumber = a->nresult = 0;
    a->failed = false;
    memset(a->table, -1, sizeof a->table);
}

void ad_atoms_clear(ad_atoms *a)
{
    free(a->atom);
    free(a->number);
    free(a->result);
}
