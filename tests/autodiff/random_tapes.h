/* Random tapes, the same for the same recipe: shapes, operations, sharing and
 * constants drawn from a seed. Every step draws from a stream of its own, so
 * that steps can be left out when a failure is shrunk. Include it once per
 * program. */
#ifndef COSTATE_TESTS_RANDOM_TAPES_H
#define COSTATE_TESTS_RANDOM_TAPES_H
#include "autodiff/tape/tape.h"
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first inputs are differentiated; the last two hold whole numbers, one a
 * row and one for all, which steps find places by. */
enum { DIFFERENTIATED = 6, ROW_INDEX = DIFFERENTIATED, ONE_INDEX, INPUTS };
enum {
    MAX_STEPS = 24,
    POOL = DIFFERENTIATED + MAX_STEPS,
    OUTPUTS = 4,
    FIRST_ROWS = 3,
    MAX_ROWS = 150,
    MAX_VALUES = 1 << 17
};

typedef struct {
    uint64_t seed;
    ad_dtype dtype;
    bool smooth; /* only operations with derivatives everywhere */
    int steps;
    uint32_t without; /* bit k: step k is left out */
    bool probed;      /* what a step makes is made anew by adding its probe, which is
                         zero */
} recipe;

typedef struct {
    recipe recipe;
    ad_tape *tape;
    int n;
    ad_var pool[POOL], input[INPUTS], output[OUTPUTS];
    ad_var probe[POOL];    /* of what a step made; invalid: none */
    double *value[INPUTS]; /* of MAX_ROWS rows; numbers that are exact in both
                              types */
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

#include "tests/autodiff/random_steps.h"

/* ---- inputs ---- */

static double element(void) { return (pick(2001) - 1000) / 1024.0; }

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

/* Half of the tapes have inputs that fit together in contractions, the others
 * whatever comes. */
static void make_inputs(world *w)
{
    int64_t d = 2 + pick(4), e = 1 + pick(5);
    bool fit = chance(50);
    const ad_shape fitting[DIFFERENTIATED] = { { 2, { AD_ROWS, d } }, { 2, { d, e } },
                                               { 1, { d } },          { 2, { d, d } },
                                               { 0, { 0 } },          { 3, { AD_ROWS, e, d } } };
    for (int k = 0; k < INPUTS; k++) {
        ad_shape s = { .rank = pick(4) };
        if (k == 0 && s.rank == 0) s.rank = 1;
        for (int i = 0; i < s.rank; i++) s.dim[i] = 1 + pick(4);
        if (k % 3 == 0 && s.rank) s.dim[0] = AD_ROWS;
        if (fit && k < DIFFERENTIATED) s = fitting[k];
        if (k == ROW_INDEX) s = AD_SHAPE(AD_ROWS, 1);
        if (k == ONE_INDEX) s = AD_SHAPE(1);
        size_t n = (size_t)ad_count(s, MAX_ROWS);
        w->value[k] = malloc(n * sizeof(double));
        for (size_t i = 0; i < n; i++)
            w->value[k][i] = k < DIFFERENTIATED ? element() : pick(7) - 1;
        w->input[k] = ad_has_rows(s) ? ad_input_rows(w->tape, s, FIRST_ROWS, NULL)
                      : k % 2        ? ad_param(w->tape, s, NULL)
                                     : ad_input(w->tape, s, NULL);
        if (k < DIFFERENTIATED) w->pool[w->n++] = w->input[k];
    }
}

static void set_input(const world *w, ad_var x, int k, int64_t rows, const double *values)
{
    void *data = elements_of(w, k, rows, values);
    ad_set_data(x, rows, ad_tape_dtype(x.tape), data);
    free(data);
}

static void set_rows(const world *w, int64_t rows)
{
    for (int k = 0; k < INPUTS; k++) set_input(w, w->input[k], k, rows, w->value[k]);
}

/* ---- values ---- */

/* Adds a value; large numbers are squashed or made smaller and large arrays
 * averaged, so that differences stay meaningful. */
static void keep(world *w, ad_var v)
{
    static double values[MAX_VALUES];
    double most = 0;
    if (v.node < 0) return;
    ad_shape s = ad_shape_of(v);
    if (s.rank > 4 || ad_row_size(s) > 60) {
        int axis = s.rank - 1;
        v = ad_tanh(ad_mean(v, 1, &axis, false));
    }
    if (!ad_valid(v) || ad_row_size(ad_shape_of(v)) > 600 || ad_get(v, values)) return;
    for (int64_t i = 0, n = ad_size(v); i < n; i++)
        most = fabs(values[i]) <= most ? most : fabs(values[i]);
    if (!(most < 3))
        v = chance(50) && isfinite(most) ? ad_scale(v, exp2(-ceil(log2(most)))) : ad_tanh(v);
    w->pool[w->n++] = v;
}

/* The node that made x, without its probe. */
static const ad_node *made_by(const world *w, ad_var x)
{
    const ad_node *n = ad_node_at(w->tape, x.node);
    for (int k = DIFFERENTIATED; k < w->n; k++)
        if (ad_valid(w->probe[k]) && n->nin == 2 && n->in[1] == w->probe[k].node)
            return ad_node_at(w->tape, n->in[0]);
    return n;
}

/* What undoes the last operation of its kind, or is one of that kind: what recording must not
 * simplify away. */
static ad_var draw_undone(world *w)
{
    for (int k = w->n - 1; k >= 0; k--) {
        const ad_node *n = made_by(w, w->pool[k]);
        if (n->op == AD_OP_neg) return ad_neg(w->pool[k]);
        if (n->op == AD_OP_reshape)
            return ad_reshape(w->pool[k], ad_node_at(w->tape, n->in[0])->shape);
    }
    ad_var x = any(w);
    ad_shape s = ad_shape_of(x);
    if (chance(50) || s.rank == AD_MAX_RANK) return ad_neg(x);
    s.dim[s.rank++] = 1;
    return ad_reshape(x, s);
}

static void step(world *w)
{
    if (chance(10)) {
        keep(w, draw_undone(w));
        return;
    }
    int kind = pick(100);
    if (kind < 38) keep(w, draw_pointwise(w));
    else if (kind < 57) keep(w, draw_layout(w));
    else if (kind < 67) keep(w, draw_reduction(w));
    else if (kind < 74) keep(w, draw_indexed(w));
    else if (kind < 77) keep(w, draw_opaque(w));
    else if (kind < 80) keep(w, draw_recurrence(w));
    else if (kind < 92) keep(w, draw_contraction(w));
    else if (kind < 96 || w->recipe.smooth) keep(w, draw_convolution(w));
    else keep(w, draw_gradient(w));
}

/* Adds a probe to what a step made: the derivative by it is that by what was
 * made. */
static void probe(world *w, int at, int32_t before)
{
    w->probe[at] = ad_none(w->tape);
    if (!w->recipe.probed || w->n <= at || w->pool[at].node < before) return;
    w->probe[at] = ad_zeros_like(w->pool[at]);
    w->pool[at] = ad_add(w->pool[at], w->probe[at]);
}

/* Errors are left on the tape. */
static world make_world(recipe r)
{
    world w = { .recipe = r, .tape = ad_tape_new(r.dtype) };
    start_stream(r.seed, 0);
    make_inputs(&w);
    set_rows(&w, MAX_ROWS);
    for (int k = 0; k < r.steps; k++) {
        start_stream(r.seed, (uint64_t)k + 1);
        int32_t before = ad_tape_mark(w.tape);
        if (!(r.without >> k & 1)) step(&w);
        probe(&w, DIFFERENTIATED + k, before);
        if (w.n == DIFFERENTIATED + k)
            w.pool[w.n++] = w.pool[k % DIFFERENTIATED]; /* later steps find the others
                                                           at their places */
    }
    for (int j = 0; j < OUTPUTS; j++) w.output[j] = w.pool[w.n - 1 - j];
    set_rows(&w, FIRST_ROWS);
    return w;
}

static void end_world(world *w)
{
    ad_tape_free(w->tape);
    for (int k = 0; k < INPUTS; k++) free(w->value[k]);
}

#endif
