/* Lists of atoms. */
#include "autodiff/native/atoms.h"
#include <math.h>
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

static int32_t append(ad_atoms *a, int what, bool plus, int32_t x, int32_t y, int32_t z)
{
    if (!grow(a, (void **)&a->atom, a->natom, &a->atom_capacity, sizeof *a->atom)) return -1;
    a->atom[a->natom] = (ad_atom){ .what = (uint8_t)what, .plus = plus, .in = { x, y, z } };
    return a->natom++;
}

int32_t ad_atom_read(ad_atoms *a, int32_t entry, int64_t index, int64_t row_size, bool plus)
{
    const int32_t bytes = (int32_t)ad_dtype_size(a->dtype);
    return append(a, AD_ATOM_READ, plus, entry, (int32_t)index * bytes, (int32_t)row_size * bytes);
}

/* ---- operations of which there is a cheaper form ---- */

static bool is_number(const ad_atoms *a, int32_t x, double value)
{
    return x >= 0 && a->atom[x].what == AD_ATOM_NUMBER &&
           !memcmp(&a->number[a->atom[x].in[0]], &value, sizeof value);
}

/* x without its sign changed, if that is what it is: *negative says so. */
static int32_t without_sign(const ad_atoms *a, int32_t x, bool *negative)
{
    while (x >= 0 && a->atom[x].what == AD_DO_XOR && is_number(a, a->atom[x].in[1], -0.0)) {
        x = a->atom[x].in[0];
        *negative = !*negative;
    }
    return x;
}

/* Added to what is never -0, x + 0 is as good as x. */
static int32_t without_zero(const ad_atoms *a, int32_t x)
{
    if (x < 0 || a->atom[x].what != AD_DO_ADD) return x;
    const int32_t *in = a->atom[x].in;
    return is_number(a, in[0], 0) ? in[1] : is_number(a, in[1], 0) ? in[0] : x;
}

static bool is_plus(const ad_atoms *a, int32_t x) { return x >= 0 && a->atom[x].plus; }

static int32_t add_sum(ad_atoms *a, int32_t x, int32_t y)
{
    bool negative = false;
    if (is_plus(a, x)) y = without_zero(a, y);
    else if (is_plus(a, y)) x = without_zero(a, x);
    if (is_number(a, x, 0) && is_plus(a, y)) return y;
    if (is_number(a, y, 0) && is_plus(a, x)) return x;
    const bool plus = is_plus(a, x) || is_plus(a, y);
    const int32_t other = without_sign(a, y, &negative);
    if (negative) return append(a, AD_DO_SUB, plus, x, other, -1);
    const int32_t first = without_sign(a, x, &negative);
    if (negative) return append(a, AD_DO_SUB, plus, y, first, -1);
    return append(a, AD_DO_ADD, plus, x, y, -1);
}

static int32_t add_difference(ad_atoms *a, int32_t x, int32_t y)
{
    bool negative = false;
    const int32_t other = without_sign(a, y, &negative);
    return append(a, negative ? AD_DO_ADD : AD_DO_SUB, is_plus(a, x), x, other, -1);
}

/* A product or quotient. */
static int32_t add_product(ad_atoms *a, ad_do what, int32_t x, int32_t y)
{
    bool negative = false;
    x = without_sign(a, x, &negative);
    y = without_sign(a, y, &negative);
    const int32_t product = append(a, what, false, x, y, -1);
    return negative ? append(a, AD_DO_XOR, false, product, ad_atom_number(a, -0.0), -1) : product;
}

int32_t ad_atom_add(ad_atoms *a, ad_do what, int32_t x, int32_t y, int32_t z)
{
    switch (what) {
    case AD_DO_ADD: return add_sum(a, x, y);
    case AD_DO_SUB: return add_difference(a, x, y);
    case AD_DO_MUL:
    case AD_DO_DIV: return add_product(a, what, x, y);
    default: return append(a, what, false, x, y, z);
    }
}

/* ---- numbers ---- */

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
    const bool plus = value != 0 || !signbit(value);
    const int32_t atom = append(a, AD_ATOM_NUMBER, plus, a->nnumber++, -1, -1);
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
