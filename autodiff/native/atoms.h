/* Internal to native code: a piece of a program taken apart into atoms. An atom is one number: an
 * element of an array that is read, a constant, or one operation on earlier atoms. What only moves
 * elements (slices, concatenations, transposes, broadcasts) leaves no atom. */
#ifndef COSTATE_NATIVE_ATOMS_H
#define COSTATE_NATIVE_ATOMS_H
#include "autodiff/native/encode.h"
#include "autodiff/native/native.h"

enum { AD_ATOM_READ = AD_DO_COUNT, AD_ATOM_NUMBER };
enum { AD_ATOM_TABLE = 1024 };

typedef struct {
    uint8_t what; /* an ad_do, READ or NUMBER */
    bool needed;
    bool plus; /* it is never -0 */
    /* Of an ad_do: the atoms a, b and the mask, -1 where it has none; FMA: the third is what is
     * added to. READ: the array's entry in the list of pointers, and bytes from its beginning.
     * NUMBER: its place in the list of numbers. */
    int32_t in[3];
} ad_atom;

/* An element that others read: it goes to memory. */
typedef struct {
    int32_t atom, entry;
    int64_t at, row_bytes;
    bool early; /* may be written as soon as it is known; else behind all that is read */
} ad_atom_result;

typedef struct {
    ad_dtype dtype;
    ad_atom *atom;
    int32_t natom, atom_capacity;
    double *number;
    int32_t nnumber, number_capacity;
    ad_atom_result *result;
    int32_t nresult, result_capacity;
    int32_t table[AD_ATOM_TABLE]; /* of the numbers' atoms, by their bits; -1: empty */
    bool failed;                  /* memory was short */
} ad_atoms;

void ad_atoms_begin(ad_atoms *atoms); /* forgets all atoms */
void ad_atoms_clear(ad_atoms *atoms);
/* Append an atom, or find it, and return its number; -1 when memory is short. An operation may
 * become another one with the same bits. */
int32_t ad_atom_add(ad_atoms *atoms, ad_do what, int32_t a, int32_t b, int32_t c);
int32_t ad_atom_read(ad_atoms *atoms, int32_t entry, int64_t index, int64_t row_size, bool plus);
int32_t ad_atom_number(ad_atoms *atoms, double value);
void ad_atom_keep(ad_atoms *atoms, ad_atom_result result);
/* One atom of those of its operands; -1: the operation has no native form. */
int32_t ad_atom_pointwise(ad_atoms *atoms, ad_op op, int n, const int32_t *operand);

/* Elements of arrays. */
typedef struct {
    int64_t from, to;
} ad_atom_range;
/* Machine code for the atoms that results need (registers.c). range NULL: a function, for as many
 * rows as the code has lanes. Else a loop over the range, as many elements at a time as the code
 * has lanes, to whose end control goes: what has a row size of 1 is read and written from the
 * element at hand on. It begins at *entry. Grows *frame, the bytes of memory that it works in.
 * false: memory is short. */
bool ad_atoms_write(ad_atoms *atoms, ad_code *code, const ad_atom_range *range, int64_t *entry,
                    int64_t *frame);

#endif
