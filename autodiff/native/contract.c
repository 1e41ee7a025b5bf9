/* Contractions of one row. In which order a kernel adds is not asked but tried: it is run on
 * numbers with which every order gives other bits, and on zeros of both signs. An order that gives
 * the kernel's bits is the native one; a kernel of another order is called as ever. */
#include "autodiff/native/pieces.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_TERMS = 160,
    MOST_OF_SEVERAL = 32, /* for several rows at a time; kernels are faster with more */
    TRIED = 64            /* sums: few of them may be the same in two orders */
};

/* Element e is the sum over its `terms` products, of elements a and b of the operands. */
typedef struct {
    int64_t size, terms; /* terms: of one element */
    int64_t a[MOST_TERMS], b[MOST_TERMS];
} products;

/* How an element is added up: from the first product, from zero or from what is there already; each
 * product rounded, or fused with its addition; added to what is there already, in the end. */
typedef enum { FROM_PRODUCT, FROM_ZERO, FROM_SUM } start;
typedef struct {
    start start;
    bool fused, added;
} order;

static const order orders[] = {
    { FROM_PRODUCT, false, false }, { FROM_ZERO, true, false }, { FROM_ZERO, false, false },
    { FROM_SUM, true, false },      { FROM_SUM, false, false }, { FROM_ZERO, false, true },
    { FROM_ZERO, true, true },
};
enum { ORDERS = sizeof orders / sizeof *orders };

/* ---- which products ---- */

/* The labels of the result, then those that are summed over, with their strides in both operands;
 * false: one operand is summed by itself, or there are too many. */
static bool list_products(const ad_ir *ir, const ad_inst *x, products *p)
{
    const ad_contraction c = ad_inst_contraction(x);
    int64_t label[2 * AD_MAX_RANK], size[2 * AD_MAX_RANK], stride[2][2 * AD_MAX_RANK] = { { 0 } };
    bool in[2][2 * AD_MAX_RANK] = { { false } };
    int n = c.rank[2];
    for (int i = 0; i < n; i++) {
        label[i] = c.label[2][i];
        size[i] = ad_native_extent(x->shape, i);
    }
    for (int k = 0; k < 2; k++) {
        const ad_shape from = ir->inst[x->in[k]].shape;
        int64_t step = 1;
        for (int i = from.rank - 1; i >= 0; i--) {
            if (ad_native_extent(from, i) > 1) {
                int at = ad_label_find(label, n, c.label[k][i]);
                if (at < 0) {
                    if (n == 2 * AD_MAX_RANK) return false;
                    at = n++;
                    label[at] = c.label[k][i];
                    size[at] = ad_native_extent(from, i);
                }
                stride[k][at] = step;
                in[k][at] = true;
            }
            step *= ad_native_extent(from, i);
        }
    }
    p->size = ad_row_size(x->shape);
    p->terms = 1;
    for (int i = c.rank[2]; i < n; i++) {
        if (!in[0][i] || !in[1][i]) return false;
        p->terms *= size[i];
    }
    if (p->terms < 1 || p->size * p->terms > MOST_TERMS) return false;
    for (int64_t e = 0; e < p->size; e++)
        for (int64_t t = 0; t < p->terms; t++) {
            int64_t *a = &p->a[e * p->terms + t], *b = &p->b[e * p->terms + t], rest = e;
            *a = *b = 0;
            for (int i = c.rank[2] - 1; i >= 0; i--) {
                *a += rest % size[i] * stride[0][i];
                *b += rest % size[i] * stride[1][i];
                rest /= size[i];
            }
            rest = t; /* summed labels were met from the innermost on */
            for (int i = c.rank[2]; i < n; i++) {
                *a += rest % size[i] * stride[0][i];
                *b += rest % size[i] * stride[1][i];
                rest /= size[i];
            }
        }
    return true;
}

/* ---- trying ---- */

static void put(ad_dtype dtype, void *array, int64_t at, double value)
{
    if (dtype == AD_F32) ((float *)array)[at] = (float)value;
    else ((double *)array)[at] = value;
}

static double get(ad_dtype dtype, const void *array, int64_t at)
{
    return dtype == AD_F32 ? (double)((const float *)array)[at] : ((const double *)array)[at];
}

/* Numbers with all digits occupied, so that every sum is rounded; or zeros alone, of both signs. */
static void fill(ad_dtype dtype, void *array, int64_t n, bool zeros, uint64_t *state)
{
    for (int64_t i = 0; i < n; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        const double x = (double)(int64_t)*state * 0x1p-63;
        put(dtype, array, i, !zeros ? x : x < 0 ? -0.0 : 0.0);
    }
}

static double rounded(ad_dtype dtype, double x) { return dtype == AD_F32 ? (double)(float)x : x; }

static double multiply_add(ad_dtype dtype, double a, double b, double c)
{
    return dtype == AD_F32 ? (double)fmaf((float)a, (float)b, (float)c) : fma(a, b, c);
}

static double sum_by(const order *o, ad_dtype dtype, const products *p, int64_t e, const void *a,
                     const void *b, double there)
{
    double sum = o->start == FROM_SUM ? there : 0;
    for (int64_t t = 0; t < p->terms; t++) {
        const double x = get(dtype, a, p->a[e * p->terms + t]),
                     y = get(dtype, b, p->b[e * p->terms + t]);
        if (o->fused) sum = multiply_add(dtype, x, y, sum);
        else if (t == 0 && o->start == FROM_PRODUCT) sum = rounded(dtype, x * y);
        else sum = rounded(dtype, sum + rounded(dtype, x * y));
    }
    return o->added ? rounded(dtype, there + sum) : sum;
}

/* The order whose bits are those of the kernel; NULL: another one, or memory is short. */
static const order *find_order(const ad_kernel *k, const products *p, int64_t na, int64_t nb)
{
    const int64_t most = na > nb ? na : nb;
    const size_t array = (size_t)ad_size_align(most > p->size ? most : p->size) * sizeof(double);
    char *memory = ad_aligned_alloc((int64_t)(4 * array + ad_kernel_scratch(k, 1)));
    bool fits[ORDERS];
    if (!memory) return NULL;
    void *a = memory, *b = memory + array, *there = memory + 2 * array, *got = memory + 3 * array;
    memset(fits, true, sizeof fits);
    uint64_t state = 1;
    for (int64_t tried = 0; tried < 2 * TRIED; tried += p->size) {
        const bool zeros = tried >= TRIED;
        fill(k->dtype, a, na, zeros, &state);
        fill(k->dtype, b, nb, zeros, &state);
        fill(k->dtype, there, p->size, zeros, &state);
        memcpy(got, there, (size_t)p->size * ad_dtype_size(k->dtype));
        k->run(k, 1, (const void *const[]){ a, b }, got, memory + 4 * array);
        for (int o = 0; o < ORDERS; o++)
            for (int64_t e = 0; e < p->size && fits[o]; e++) {
                const double want =
                                 sum_by(&orders[o], k->dtype, p, e, a, b, get(k->dtype, there, e)),
                             is = get(k->dtype, got, e);
                fits[o] = want == is && signbit(want) == signbit(is);
            }
    }
    free(memory);
    for (int o = 0; o < ORDERS; o++)
        if (fits[o]) return &orders[o];
    return NULL;
}

/* ---- atoms ---- */

bool ad_native_contract(ad_native *n, const ad_inst *x, const ad_kernel *kernel,
                        const int32_t *there, int32_t *out)
{
    products p;
    const int32_t zero = ad_atom_number(&n->atoms, 0);
    if (!list_products(n->ir, x, &p)) return false;
    if (n->lanes > 1 && p.size * p.terms > MOST_OF_SEVERAL) return false;
    const order *o = find_order(kernel, &p, ad_row_size(n->ir->inst[x->in[0]].shape),
                                ad_row_size(n->ir->inst[x->in[1]].shape));
    if (!o || (!there && (o->start == FROM_SUM || o->added))) return false;
    for (int64_t e = 0; e < p.size; e++) {
        int32_t sum = o->start == FROM_SUM ? there[e] : zero;
        for (int64_t t = 0; t < p.terms; t++) {
            const int32_t a = ad_native_element(n, x->in[0], p.a[e * p.terms + t]),
                          b = ad_native_element(n, x->in[1], p.b[e * p.terms + t]);
            if (o->fused) {
                sum = ad_atom_add(&n->atoms, AD_DO_FMA, a, b, sum);
                continue;
            }
            const int32_t product = ad_atom_add(&n->atoms, AD_DO_MUL, a, b, -1);
            sum = t == 0 && o->start == FROM_PRODUCT
                      ? product
                      : ad_atom_add(&n->atoms, AD_DO_ADD, sum, product, -1);
        }
        out[e] = o->added ? ad_atom_add(&n->atoms, AD_DO_ADD, there[e], sum, -1) : sum;
    }
    return true;
}
