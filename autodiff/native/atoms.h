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

/* Of every atom that is needed and read, and of every result, the one that stands beside it in the
 * rows of the same array, if they are to be read or written together (pairs.c). Others stay as they
 * are in the lists. false: memory is short. */
bool ad_atoms_pair(const ad_atoms *atoms, int32_t *read_with, int32_t *written_with);

/* Elements of arrays. */
typedef struct {
    int64_t from, to;
} ad_atom_range;
/* ONE: a function, for one row. ROWS: a function, a loop over rows. RANGE: a loop over a range of
 * elements, to whose end control goes: what has a row size of 1 is read and written from the
 * element at hand on. Each turn of a loop is for as many rows or elements as the code has lanes. */
typedef enum { AD_CODE_ONE, AD_CODE_ROWS, AD_CODE_RANGE } ad_code_kind;
/* Machine code for the atoms that results need (registers.c). range: of RANGE. It begins at *entry.
 * Grows *frame, the bytes of memory that it works in. Of ROWS the code counts the instructions of a
 * turn. false: memory is short. */
bool ad_atoms_write(ad_atoms *atoms, ad_code *code, ad_code_kind kind, const ad_atom_range *range,
                    int64_t *entry, int64_t *frame);

#endif
