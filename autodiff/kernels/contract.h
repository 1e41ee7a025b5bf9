/* Internal: contractions of two operands, between what lays them out (roles.c) and what runs them
 * (contract.c). */
#ifndef COSTATE_KERNELS_CONTRACT_H
#define COSTATE_KERNELS_CONTRACT_H
#include "autodiff/kernels/gemm.h"

enum { A, B, C, LABELS = 2 * AD_MAX_RANK };

/* A label: its size (1 for the row label, which `rows` marks) and its strides in a, b and c; 0
 * where it does not occur. */
typedef struct {
    int64_t size, stride[3];
    bool in[3], rows;
} label;

typedef struct {
    int n;
    label of[LABELS];
} ad_labels;

typedef enum { PRODUCT, DOT, MATRIX } form;
typedef enum { ROW_NONE, ROW_OUTER, ROW_M, ROW_K } row_role;

/* An operand of the matrix product: direct, or packed with `pack` (array 0: packed, array 1: the
 * operand; for C the other way round). */
typedef struct {
    bool packed, moves; /* moves: its place changes with the batch index or the row tile */
    int64_t row_step;   /* elements from row to row, along the row axis (0: it has none) */
    ad_nest pack;
    int64_t packed_size; /* elements, of a row where the row axis is packed */
    bool pack_rows;
} side;

typedef struct {
    ad_prepared head;
    ad_kernel presum[2];
    ad_shape presum_in[2], presum_out[2];
    int64_t presum_mask[2];
    bool summed[2];
    form form;
    bool accumulate;
    int first, second; /* which operand is the matrix A, and B */
    ad_nest nest;      /* product, dot: c, a, b over the result; matrix: over the batch */
    int64_t dot_size;
    bool dot_rows;
    row_role row;
    int64_t row_count; /* M or K per row */
    int64_t tile;      /* rows a time */
    side side[3];
    ad_gemm gemm;
    /* of weights that do not stay in a level 2 cache, so many columns at a time (0: all at once),
     * and those that are left */
    int64_t columns, strip;
    ad_gemm last_strip;
    /* divided: of whole pieces and of those at the end, by lines and by columns; a whole panel of
     * columns, and what is left */
    ad_gemm piece[2][2][2];
} ad_contraction_plan;

/* The labels of a contraction, by class. */
typedef struct {
    ad_labels all, batch, m, n, sum;
} ad_classes;

/* Sums away what one operand alone has, before anything else; false when memory is short. */
bool ad_contract_presum(const ad_kernel *k, ad_contraction_plan *p, int which, int64_t max_rows);
/* Sorts the labels, of operands without those that are summed away and of the result. */
void ad_contract_classify(const ad_kernel *k, const ad_shape shapes[3], ad_classes *c);
/* What a row adds to an element of a sum over rows, one after the other; 0: rows are summed away
 * before. */
int64_t ad_contract_terms(const ad_classes *c);
/* Whether it is a dot product; then its length is noted. */
bool ad_contract_is_dot(ad_contraction_plan *p, const ad_classes *c);
/* Of products and dot products: the loops over the result. */
void ad_contract_result_nest(ad_contraction_plan *p, const ad_classes *c);
/* Of matrix products: decides what is A and what B, what is looped over, and fixes how the operands
 * lie. The classes change with that. */
void ad_contract_lay_out(const ad_kernel *kernel, ad_contraction_plan *p, ad_classes *c);
/* And after that: the loops over the batch, and how each operand moves with them. */
void ad_contract_go_round(ad_contraction_plan *p, const ad_classes *c);

#endif
