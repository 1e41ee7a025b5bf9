/* Random tapes, the same for the same recipe: shapes, operations, sharing and constants drawn from a seed. Every step draws from a
 * stream of its own, so that steps can be left out when a failure is shrunk. Include it once per program. */
#ifndef COSTATE_TESTS_RANDOM_TAPES_H
#define COSTATE_TESTS_RANDOM_TAPES_H
#include "autodiff/tape.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INPUTS = 6, MAX_STEPS = 24, POOL = INPUTS + MAX_STEPS, OUTPUTS = 4, FIRST_ROWS = 3, MAX_ROWS = 150, MAX_VALUES = 1 << 16 };

typedef struct {
    uint64_t seed;
    ad_dtype dtype;
    bool smooth; /* only operations with derivatives everywhere */
    int steps;
    uint32_t without; /* bit k: step k is left out */
} recipe;

typedef struct {
    recipe recipe;
    ad_tape *tape;
    int n;
    ad_var pool[POOL], input[INPUTS], output[OUTPUTS];
    double *value[INPUTS]; /* of MAX_ROWS rows; numbers that are exact in both types */
    bool couples_rows;     /* some value depends on more than its own row */
} world;

static uint64_t stream;
static uint32_t bits(void)
{
    stream = stream * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(stream >> 33);
}
static int pick(int n) { return (int)(bits() % (uint32_t)n); }
static bool chance(int percent) { return pick(100) < percent; }
static void start_stream(uint64_t seed, uint64_t part)
{
    stream = (seed * 0x9e3779b97f4a7c15u + part) * 0xd6e8feb86659fd93u + 12345;
    for (int k = 0; k < 3; k++) bits();
}

static ad_var any(world *w) { return w->pool[pick(w->n)]; }

/* ---- inputs ---- */

static double element(void) { return pick(2001) / 1024.0 - 0.977; }

/* The elements of input k, as the tape's type has them: malloc. */
static void *elements_of(const world *w, int k, int64_t rows, const double *from)
{
    int64_t n = ad_count(ad_shape_of(w->input[k]), rows);
    double *wide = malloc((size_t)n * sizeof *wide);
    float *narrow = (void *)wide; /* one of the two is written */
    for (int64_t i = 0; i < n; i++)
        if (w->recipe.dtype == AD_F32) narrow[i] = (float)from[i];
        else wide[i] = from[i];
    return wide;
}

/* Half of the tapes have inputs that fit together in contractions, the others whatever comes. */
static void make_inputs(world *w)
{
    int64_t d = 2 + pick(4), e = 1 + pick(5);
    bool fit = chance(50);
    const ad_shape fitting[INPUTS] = { { 2, { AD_ROWS, d } }, { 2, { d, e } }, { 1, { d } },
                                       { 2, { d, d } },       { 0, { 0 } },    { 3, { AD_ROWS, e, d } } };
    for (int k = 0; k < INPUTS; k++) {
        ad_shape s = { .rank = pick(4) };
        if (k == 0 && s.rank == 0) s.rank = 1;
        for (int i = 0; i < s.rank; i++) s.dim[i] = 1 + pick(4);
        if (k % 3 == 0 && s.rank) s.dim[0] = AD_ROWS;
        if (fit) s = fitting[k];
        size_t n = (size_t)ad_count(s, MAX_ROWS);
        w->value[k] = malloc(n * sizeof(double));
        for (size_t i = 0; i < n; i++) w->value[k][i] = element();
        w->input[k] = ad_has_rows(s) ? ad_input_rows(w->tape, s, FIRST_ROWS, NULL)
                      : k % 2        ? ad_param(w->tape, s, NULL)
                                     : ad_input(w->tape, s, NULL);
        w->pool[w->n++] = w->input[k];
    }
}

static void set_input(const world *w, ad_var x, int k, int64_t rows, const double *values)
{
    void *data = elements_of(w, k, rows, values);
    ad_set(x, rows, data);
    free(data);
}

static void set_rows(const world *w, int64_t rows)
{
    for (int k = 0; k < INPUTS; k++) set_input(w, w->input[k], k, rows, w->value[k]);
}

/* ---- steps ---- */

/* Ones and zeros along the last axis. */
static ad_var alternating(ad_var x)
{
    ad_shape s = ad_shape_of(x);
    double c[64];
    int64_t n = s.rank && s.dim[s.rank - 1] != AD_ROWS ? s.dim[s.rank - 1] : 1;
    for (int64_t i = 0; i < n && i < 64; i++) c[i] = (i + 1) % 2;
    return ad_constant(x.tape, AD_SHAPE(n), c);
}

static ad_var draw_kink(ad_var a, ad_var b)
{
    switch (pick(8)) {
    case 0: return ad_abs(a);
    case 1: return ad_relu(a);
    case 2: return ad_stop_gradient(a);
    case 3: return ad_zeros_like(a);
    case 4: return ad_min(a, b);
    default: return ad_max(b, a);
    }
}

static ad_var draw_pointwise(world *w)
{
    ad_var a = any(w), b = any(w), out;
    ad_shape ignored;
    for (int k = 0; k < 4 && !ad_broadcast_shapes(ad_shape_of(a), ad_shape_of(b), &ignored); k++) b = any(w);
    if (!ad_broadcast_shapes(ad_shape_of(a), ad_shape_of(b), &ignored)) b = chance(50) ? ad_sin(a) : ad_scalar(w->tape, pick(3) - 1);
    if (!w->recipe.smooth && chance(25)) return draw_kink(a, b);
    switch (pick(23)) {
    case 0: return ad_add(a, b);
    case 1: return ad_sub(b, a);
    case 2: return ad_mul(a, b);
    case 3: return ad_div(a, ad_shift(ad_square(b), 1));
    case 4: return ad_pow(ad_shift(ad_square(a), 0.5), b);
    case 5: return ad_select(alternating(a), a, b);
    case 6: return ad_tanh(a);
    case 7: return ad_sigmoid(a);
    case 8: return ad_exp(ad_neg(ad_square(a)));
    case 9: return ad_log(ad_shift(ad_square(a), 0.7));
    case 10: return ad_gelu(a);
    case 11: return ad_silu(a);
    case 12: return ad_rsqrt(ad_shift(ad_square(a), 0.4));
    case 13: return ad_scale(ad_softplus(a), -1.5);
    case 14: return ad_mul(a, a);
    case 15: return ad_erf(ad_add(a, a));
    case 16: return ad_mul(ad_ones_like(a), b);
    case 17: return ad_expm1(ad_scale(a, 0.3));
    case 18: out = ad_sqrt(ad_shift(ad_square(a), 0.3)); return ad_add(ad_mul(out, out), out);
    case 19: return ad_neg(a);
    case 20: return ad_tanh(ad_add(a, b));
    case 21: return ad_tanh(ad_mul(a, b));
    default: return ad_cos(ad_sub(a, ad_scale(b, 0.5)));
    }
}

static ad_var draw_transpose(ad_var a, ad_shape s)
{
    int p[AD_MAX_RANK] = { 0 }, first = ad_has_rows(s);
    for (int i = 0; i < s.rank; i++) p[i] = i;
    for (int i = s.rank - 1; i > first; i--) {
        int j = first + pick(i - first + 1), swap = p[i];
        p[i] = p[j];
        p[j] = swap;
    }
    return ad_transpose(a, p);
}

static ad_var draw_stretch(ad_var a, ad_shape s)
{
    for (int i = 0; i < s.rank; i++)
        if (s.dim[i] == 1) s.dim[i] = i == 0 && chance(40) ? AD_ROWS : 1 + pick(3);
    return ad_broadcast(a, s);
}

static ad_var draw_layout(world *w)
{
    ad_var a = any(w);
    ad_shape s = ad_shape_of(a), flat = { 1, { ad_row_size(s) } };
    int first = ad_has_rows(s);
    if (s.rank == first) return ad_none(w->tape);
    int axis = first + pick(s.rank - first);
    int64_t n = s.dim[axis], from = pick((int)n), to = from + 1 + pick((int)(n - from)), list[5];
    for (int i = 0; i < 5; i++) list[i] = pick((int)n);
    if (first) flat = (ad_shape){ 2, { AD_ROWS, ad_row_size(s) } };
    switch (pick(12)) {
    case 0: return ad_reshape(a, flat);
    case 1: return draw_transpose(a, s);
    case 2: return ad_slice(a, axis, from, to);
    case 3: return ad_pad(a, axis, pick(2), pick(3));
    case 4: return ad_concatenate(3, (ad_var[]){ a, ad_sin(a), a }, axis);
    case 5: return s.rank < 4 ? ad_stack(2, (ad_var[]){ a, ad_neg(a) }, axis) : a;
    case 6: return ad_flip(a, axis);
    case 7: return ad_gather(a, axis, 5, list);
    case 8: return n <= 5 ? ad_scatter_add(a, axis, n + 1, list) : ad_flip(a, axis);
    case 9: return draw_stretch(a, s);
    case 10: return ad_concatenate(2, (ad_var[]){ ad_slice(a, axis, from, to), ad_sin(a) }, axis);
    default: return ad_cumsum(a, axis, pick(2));
    }
}

static ad_var draw_reduction(world *w)
{
    ad_var a = any(w);
    ad_shape s = ad_shape_of(a);
    int axes[AD_MAX_RANK], n = 0, keep = pick(2);
    for (int i = 0; i < s.rank; i++)
        if (chance(i == 0 && ad_has_rows(s) ? 25 : 50)) axes[n++] = i;
    if (n == 0) return ad_none(w->tape);
    if (axes[0] == 0 && ad_has_rows(s)) w->couples_rows = true;
    switch (pick(w->recipe.smooth ? 4 : 5)) {
    case 0: return ad_sum(a, n, axes, keep);
    case 1: return ad_mean(a, n, axes, keep);
    case 2: return ad_logsumexp(a, n, axes, keep);
    case 3: return ad_sub(a, ad_mean(a, n, axes, 1));
    default: return ad_reduce_max(a, n, axes, keep);
    }
}

/* An einsum of two operands; operands with rows share the letter r. */
static ad_var draw_einsum(world *w)
{
    ad_var x[2] = { any(w), any(w) };
    ad_shape s[2] = { ad_shape_of(x[0]), ad_shape_of(x[1]) };
    char spec[40], letters[16] = "";
    int64_t size[16] = { 0 };
    int n = 0, at = 0;
    for (int k = 0; k < 2; k++) {
        int before = n;
        bool used[16] = { false };
        for (int i = 0; i < s[k].rank; i++) {
            int j = 0;
            while (j < before && (k == 0 || used[j] || size[j] != s[k].dim[i] || (size[j] != AD_ROWS && chance(30)))) j++;
            if (j == before) {
                j = n++;
                size[j] = s[k].dim[i];
                letters[j] = size[j] == AD_ROWS ? 'r' : (char)('a' + j);
            }
            used[j] = true;
            spec[at++] = letters[j];
        }
        spec[at++] = k ? '-' : ',';
    }
    spec[at++] = '>';
    for (int j = 0; j < n; j++)
        if (letters[j] == 'r') {
            if (chance(80)) spec[at++] = 'r';
            else w->couples_rows = true;
        }
    for (int j = n - 1; j >= 0; j--)
        if (letters[j] != 'r' && chance(55)) spec[at++] = letters[j];
    spec[at] = 0;
    return ad_scale(ad_contract(spec, 2, x), 0.3);
}

static ad_var draw_contraction(world *w)
{
    ad_var a = any(w), b = any(w);
    ad_shape p = ad_shape_of(a), q = ad_shape_of(b);
    int64_t n = p.rank ? p.dim[p.rank - 1] : 1, m = 1 + pick(4);
    if (chance(40)) return draw_einsum(w);
    if (p.rank - ad_has_rows(p) == 1 && chance(30)) {
        ad_var eye = chance(50) ? ad_eye(w->tape, n, m, pick(5) - 2) : ad_transpose(ad_eye(w->tape, m, n, pick(5) - 2), (int[]){ 1, 0 });
        return ad_has_rows(p) ? ad_contract("ri,ij->rj", 2, (ad_var[]){ a, eye }) : ad_contract("ij,i->j", 2, (ad_var[]){ eye, a });
    }
    if (p.rank > ad_has_rows(p) && q.rank == 2 && n == q.dim[0] && !ad_has_rows(q)) return ad_matmul(a, b);
    if (p.rank > ad_has_rows(p) && ad_same_shape(p, q) && pick(2)) return ad_dot(a, b);
    if (p.rank == 2 && q.rank == 2 && ad_has_rows(p) && ad_has_rows(q)) {
        if (p.dim[1] == q.dim[1] && pick(2))
            return ad_contract("bi,bi,b->b", 3, (ad_var[]){ a, b, ad_reshape(ad_sum_axis(a, 1, 0), AD_SHAPE(AD_ROWS)) });
        return ad_outer(a, b);
    }
    if (p.rank == 2 && !ad_has_rows(p) && p.dim[0] == p.dim[1])
        return ad_contract("ii,ij,kj->ik", 3, (ad_var[]){ a, a, ad_eye(w->tape, n + 1, n, pick(3) - 1) });
    if (p.rank == 2) return ad_matmul(a, ad_eye(w->tape, n, n + pick(2), pick(3) - 1));
    if (p.rank == 3 && ad_has_rows(p)) return ad_contract("bij,bkj->bik", 2, (ad_var[]){ a, ad_tanh(a) });
    return ad_none(w->tape);
}

static ad_var draw_gradient(world *w)
{
    ad_var x = w->input[pick(INPUTS)], bar;
    ad_grad(ad_sum_all(ad_sin(any(w))), 1, &x, &bar);
    w->couples_rows = true;
    return ad_scale(bar, 0.1);
}

/* Adds a value; large numbers are squashed and large arrays averaged, so that differences stay meaningful. */
static void keep(world *w, ad_var v)
{
    static double values[MAX_VALUES];
    if (v.node < 0) return;
    ad_shape s = ad_shape_of(v);
    if (s.rank > 4 || ad_row_size(s) > 60) {
        int axis = s.rank - 1;
        v = ad_tanh(ad_mean(v, 1, &axis, 0));
    }
    if (!ad_valid(v) || ad_row_size(ad_shape_of(v)) > 600 || ad_get(v, values)) return;
    for (int64_t i = 0, n = ad_size(v); i < n; i++)
        if (!(fabs(values[i]) < 3)) {
            v = ad_tanh(v);
            break;
        }
    w->pool[w->n++] = v;
}

static void step(world *w)
{
    int kind = pick(100);
    if (kind < 40) keep(w, draw_pointwise(w));
    else if (kind < 63) keep(w, draw_layout(w));
    else if (kind < 75) keep(w, draw_reduction(w));
    else if (kind < 97 || w->recipe.smooth) keep(w, draw_contraction(w));
    else keep(w, draw_gradient(w));
}

/* Errors are left on the tape. */
static world make_world(recipe r)
{
    world w = { .recipe = r, .tape = ad_tape_new(r.dtype) };
    start_stream(r.seed, 0);
    make_inputs(&w);
    set_rows(&w, FIRST_ROWS);
    for (int k = 0; k < r.steps; k++) {
        start_stream(r.seed, (uint64_t)k + 1);
        if (!(r.without >> k & 1)) step(&w);
    }
    for (int j = 0; j < OUTPUTS; j++) w.output[j] = w.pool[w.n - 1 - j];
    return w;
}

static void end_world(world *w)
{
    ad_tape_free(w->tape);
    for (int k = 0; k < INPUTS; k++) free(w->value[k]);
}

#endif
