/* Internal: pieces of a program as machine code, for one row of small arrays, and loops over the
 * elements of larger ones.
 *
 * Each element is a number of its own, in a register where there is room, so arrays of a few
 * elements cost what their arithmetic costs, and what only moves elements costs nothing. The
 * operations, their operands and the order of every sum are those of the kernels, hence the bits
 * too. What has no native form is left to the kernels. */
#ifndef COSTATE_NATIVE_H
#define COSTATE_NATIVE_H
#include "autodiff/compile/ir.h"
#include "autodiff/kernels/kernel.h"

/* The most elements of a value of which each is a number of its own, and of one that is gone
 * through in a loop: what is larger goes through the caches in chunks. */
enum { AD_NATIVE_ELEMENTS = 32, AD_NATIVE_LOOPED = 4096 };

/* Where a value is in memory when its piece is done, or was before. */
typedef struct {
    int32_t root;   /* the value whose memory it shares, and its entry in the list of pointers */
    int64_t offset; /* elements from the root's beginning */
    bool apart;     /* nothing that a piece reads lies in the root's memory */
    int32_t before; /* root of a sum over rows: the entry for what it has before the piece */
    bool adds;      /* root of a sum over rows: that has never been -0 */
    /* root: where one row of it lies, in bytes, among others that come before and after it in the
     * same memory; 0, 0: nowhere, it has memory of its own */
    int64_t begin, end;
} ad_native_place;

/* Code of a piece. list: pointers to the arrays by value; frame: memory that it works in. For
 * several rows: those from first to end, at least one, and the pointers are those of row 0. */
typedef void (*ad_native_run)(char *const *list, char *frame);
typedef void (*ad_native_run_rows)(char *const *list, char *frame, int64_t first, int64_t end);

typedef struct {
    ad_native_run one; /* for one row; NULL: the code is for several */
    ad_native_run_rows
        several,          /* a multiple of as many rows as there are lanes; NULL: it is for one */
        each;             /* any number of rows, one after the other */
    int64_t instructions; /* of one, or of several for as many rows as there are lanes */
    int64_t looped;       /* it is a loop over so many elements; 0: it is none */
} ad_native_function;

typedef struct ad_native ad_native;
/* Whether machine code can be made here, for the instruction set in use and as the environment
 * variable COSTATE_NATIVE says (0: it shall not). */
bool ad_native_wanted(void);
/* several: there is to be code for several rows at a time as well, and sums over rows are left to
 * the kernels. place: one a value of ir. Both must stay as they are until the code is sealed. NULL:
 * memory is short. */
ad_native *ad_native_new(const ad_ir *ir, const ad_native_place *place, bool several);
void ad_native_free(ad_native *native);
/* Appends a value to the piece under way. kernel: its own, prepared, if it has one. false: it is
 * not there as machine code, or the piece is long enough; the piece is as it was. */
bool ad_native_append(ad_native *native, int32_t value, const ad_kernel *kernel);
/* The value of the piece is read outside of it. */
void ad_native_keep(ad_native *native, int32_t value);
/* Ends the piece: the number by which its code is found, or -1: it has to be computed otherwise
 * (memory is short, or there is too much code already). */
int ad_native_end(ad_native *native);
/* Forgets the piece under way. */
void ad_native_drop(ad_native *native);
/* Of a piece: for as many rows as there are lanes. */
int64_t ad_native_instructions(const ad_native *native, int piece);
int ad_native_lanes(const ad_native *native);
/* Makes all code executable; false: the system does not allow that, or memory is short. */
bool ad_native_seal(ad_native *native);
ad_native_function ad_native_piece(const ad_native *native, int piece);
int64_t ad_native_frame(const ad_native *native); /* bytes */
int64_t ad_native_bytes(const ad_native *native); /* of code */

#endif
