/* What a step of a random tape can be (random_tapes.h, which includes this). Pointwise operations
 * come from the table of operations, so that none can be forgotten; test_random.c counts all of
 * them. */
#ifndef COSTATE_TESTS_RANDOM_STEPS_H
#define COSTATE_TESTS_RANDOM_STEPS_H

/* ---- pointwise ---- */

typedef struct {
    ad_op op;
    int arity;
    ad_var (*unary)(ad_var x);
    ad_var (*binary)(ad_var a, ad_var b);
    ad_var (*ternary)(ad_var a, ad_var b, ad_var c);
    double lo[2], hi[2]; /* away from poles, kinks and jumps */
} pointwise;

static const pointwise pointwise_table[] = {
#define AD_UNARY(name, traits, kernel, push, reference, lo_, hi_)                                  \
    { AD_OP_##name, 1, ad_##name, NULL, NULL, { lo_, 0 }, { hi_, 0 } },
#define AD_BINARY(name, traits, kernel, push_a, push_b, reference, lo_a, hi_a, lo_b, hi_b)         \
    { AD_OP_##name, 2, NULL, ad_##name, NULL, { lo_a, lo_b }, { hi_a, hi_b } },
#define AD_TERNARY(name, ...) { AD_OP_##name, 3, NULL, NULL, ad_##name, { 0, 0 }, { 0, 0 } },
#define AD_CODED(...)
#include "autodiff/ops.def"
};
enum { POINTWISE = sizeof pointwise_table / sizeof *pointwise_table };

static bool compares(ad_op op) { return op >= AD_OP_lt && op <= AD_OP_ne; }
static bool jumps(ad_op op) { return op == AD_OP_sign || op == AD_OP_floor || compares(op); }
static bool bends(ad_op op)
{
    return op == AD_OP_relu || op == AD_OP_abs || op == AD_OP_min || op == AD_OP_max ||
           op == AD_OP_clamp;
}

/* x, made to lie between lo and hi whatever it is. */
static ad_var within(ad_var x, double lo, double hi)
{
    return ad_shift(ad_scale(chance(50) ? ad_sin(x) : ad_tanh(x), 0.45 * (hi - lo)), (hi + lo) / 2);
}

static ad_var operand_for(const world *w, const pointwise *p, int k, ad_var x)
{
    bool anything = p->lo[k] <= -2.5 && p->hi[k] >= 2.5;
    if (anything || (bends(p->op) && !w->recipe.smooth && chance(60))) return x;
    return within(x, p->lo[k], p->hi[k]);
}

static bool fits(ad_var a, ad_var b)
{
    ad_shape ignored;
    return ad_broadcast_shapes(ad_shape_of(a), ad_shape_of(b), &ignored);
}

/* A value that broadcasts with a. */
static ad_var beside(world *w, ad_var a)
{
    ad_var b = any(w);
    for (int k = 0; k < 4 && !fits(a, b); k++) b = any(w);
    return fits(a, b) ? b : chance(50) ? ad_sin(a) : ad_scalar(w->tape, pick(3) - 1);
}

/* Numbers without rounding errors: on these, and only on these, the two sides of a jump cannot be
 * confused. Differences must not move them where derivatives are checked. */
static ad_var exact(world *w)
{
    int k = chance(50) || w->recipe.smooth ? ROW_INDEX + pick(2) : pick(DIFFERENTIATED);
    return w->input[k];
}

static ad_var compared(world *w, const pointwise *p)
{
    ad_var a = exact(w), b = chance(40) ? w->input[ONE_INDEX] : ad_scalar(w->tape, pick(5) - 1);
    return chance(50) ? p->binary(a, b) : p->binary(b, a);
}

/* Ones and zeros along the last axis. */
static ad_var alternating(ad_var x)
{
    ad_shape s = ad_shape_of(x);
    double c[64];
    int64_t n = s.rank && s.dim[s.rank - 1] != AD_ROWS ? s.dim[s.rank - 1] : 1;
    for (int64_t i = 0; i < n && i < 64; i++) c[i] = (i + 1) % 2;
    return ad_constant(x.tape, AD_SHAPE(n), c);
}

static ad_var draw_ternary(world *w, const pointwise *p)
{
    ad_var a = any(w), b = beside(w, a), c = w->input[ROW_INDEX + pick(2)];
    if (p->op == AD_OP_select)
        return ad_select(
            fits(a, c) && fits(b, c) ? ad_gt(c, ad_scalar(w->tape, 1)) : alternating(a), a, b);
    if (!w->recipe.smooth && chance(60)) return ad_clamp(a, b, ad_add(b, ad_square(a)));
    switch (pick(3)) {
    case 0: return ad_clamp(within(a, -0.5, 0.5), within(b, -3, -1), within(a, 1, 3));
    case 1: return ad_clamp(within(a, -0.5, 0.5), within(b, 0.7, 1), within(a, 1.2, 3));
    default: return ad_clamp(within(a, -0.5, 0.5), within(b, -3, -1), within(b, -0.9, -0.6));
    }
}

static ad_var draw_from_table(world *w)
{
    const pointwise *p = &pointwise_table[pick(POINTWISE)];
    if (w->recipe.smooth && p->op == AD_OP_stop_gradient) return p->unary(w->input[ROW_INDEX]);
    if (p->arity == 3) return draw_ternary(w, p);
    if (jumps(p->op) && chance(70))
        return compares(p->op) ? compared(w, p) : p->unary(ad_shift(exact(w), -1));
    ad_var a = any(w);
    if (p->arity == 1) return p->unary(operand_for(w, p, 0, a));
    ad_var b = beside(w, a);
    if (compares(p->op)) return p->binary(within(a, -3, -0.5), within(b, 0.5, 3));
    return p->binary(operand_for(w, p, 0, a), operand_for(w, p, 1, b));
}

/* What passes look for: signs, identities, repeated operands, chains. */
static ad_var draw_pattern(world *w)
{
    ad_var a = any(w), b = beside(w, a), out;
    switch (pick(18)) {
    case 0: return ad_div(a, ad_shift(ad_square(b), 1));
    case 1: return ad_exp(ad_neg(ad_square(a)));
    case 2: return ad_log(ad_shift(ad_square(a), 0.7));
    case 3: return ad_rsqrt(ad_shift(ad_square(a), 0.4));
    case 4: return ad_scale(ad_softplus(a), -1.5);
    case 5: return ad_mul(a, a);
    case 6: return ad_erf(ad_add(a, a));
    case 7: return ad_mul(ad_ones_like(a), b);
    case 8: out = ad_sqrt(ad_shift(ad_square(a), 0.3)); return ad_add(ad_mul(out, out), out);
    case 9: return ad_sub(ad_neg(a), ad_neg(b));
    case 10: return ad_tanh(ad_add(a, b));
    case 11: return ad_tanh(ad_mul(a, b));
    case 12: return ad_add(ad_neg(a), b);
    case 13: return ad_add(ad_zeros_like(a), b);
    case 14: return ad_add(b, ad_broadcast(ad_scalar(w->tape, 0.5), ad_shape_of(b)));
    case 15: w->couples_rows = true; return ad_div(a, ad_row_count(w->tape));
    case 16:
        out = ad_neg(ad_add(a, ad_cos(b))); /* a sign that more than one reads */
        return ad_add(ad_mul(ad_sin(a), out), ad_mul(out, ad_sub(a, ad_mul(out, b))));
    default: return ad_cos(ad_sub(a, ad_scale(b, 0.5)));
    }
}

static ad_var draw_pointwise(world *w) { return chance(70) ? draw_from_table(w) : draw_pattern(w); }

/* ---- layout and reductions ---- */

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

/* Overlapping windows, or those that an array has added up. */
static ad_var draw_windows(ad_var a, ad_shape s, int axis)
{
    ad_window w = { 1 + pick(3), pick(3), pick(3), pick(3), pick(3) };
    int64_t stride = w.stride ? w.stride : 1, dilation = w.dilation ? w.dilation : 1;
    if (axis + 1 < s.rank && chance(50)) {
        w.size = s.dim[axis + 1];
        int64_t reach = (s.dim[axis] - 1) * stride + dilation * (w.size - 1) + 1;
        w.before = w.before < reach ? w.before : 0;
        w.after = w.before + w.after < reach ? w.after : 0;
        return ad_fold(a, axis, reach - w.before - w.after + pick((int)stride), &w);
    }
    w.after += dilation * (w.size - 1); /* so that one window fits */
    return s.rank < 4 ? ad_unfold(a, axis, &w) : a;
}

static ad_var layout_of(ad_var a)
{
    ad_shape s = ad_shape_of(a), flat = { 1, { ad_row_size(s) } };
    int first = ad_has_rows(s);
    if (s.rank == first) return a;
    int axis = first + pick(s.rank - first);
    int64_t n = s.dim[axis], from = pick((int)n), to = from + 1 + pick((int)(n - from)), list[5];
    for (int i = 0; i < 5; i++) list[i] = pick((int)n);
    if (first) flat = (ad_shape){ 2, { AD_ROWS, ad_row_size(s) } };
    if (ad_row_size(s) % 2 == 0 && chance(50)) {
        flat.dim[first] /= 2;
        flat.dim[flat.rank++] = 2;
    }
    switch (pick(18)) {
    case 0:
    case 12: return ad_reshape(a, flat);
    case 1: return draw_transpose(a, s);
    case 13: a = draw_transpose(a, s); return draw_transpose(a, ad_shape_of(a));
    case 2:
    case 14: return ad_slice(a, axis, from, to);
    case 3: return ad_pad(a, axis, pick(2), pick(3));
    case 4: return ad_concatenate(3, (ad_var[]){ a, ad_sin(a), a }, axis);
    case 5: return s.rank < 4 ? ad_stack(2, (ad_var[]){ a, ad_neg(a) }, axis) : a;
    case 6: return ad_flip(a, axis);
    case 7: return ad_gather(a, axis, 5, list);
    case 8: return n <= 5 ? ad_scatter_add(a, axis, n + 1, list) : ad_flip(a, axis);
    case 9:
    case 11: return draw_stretch(a, s);
    case 15: return draw_windows(a, s, axis);
    case 10: return ad_concatenate(2, (ad_var[]){ ad_slice(a, axis, from, to), ad_sin(a) }, axis);
    default: return ad_cumsum(a, axis, pick(2));
    }
}

/* An array of constants, or an identity. */
static ad_var draw_constant(world *w)
{
    double c[64];
    int64_t n = 1 + pick(5), m = 1 + pick(5);
    if (chance(50)) return ad_eye(w->tape, n, m, pick(7) - 3);
    for (int64_t i = 0; i < 2 * n * m; i++) c[i] = (pick(9) - 4) / 4.0;
    return ad_constant(w->tape, chance(50) ? AD_SHAPE(n, m) : AD_SHAPE(n, 2, m), c);
}

/* One change of layout after another, of values and of constants. */
static ad_var draw_layout(world *w)
{
    ad_var a = chance(15) ? draw_constant(w) : any(w);
    for (int k = chance(40) ? 2 + pick(3) : 1; k > 0; k--) a = layout_of(a);
    return a;
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
    case 3: return ad_sub(a, ad_mean(a, n, axes, true));
    default: return ad_reduce_max(a, n, axes, keep);
    }
}

/* ---- places that are computed ---- */

/* The transpose of take: rows of a added into a table, of each row or of all. */
static ad_var put_rows(world *w, ad_var a, ad_shape s, ad_var index, bool by_row)
{
    ad_shape table = { s.rank + 1, { AD_ROWS, 5 } };
    for (int i = 1; i < s.rank; i++) table.dim[i + 1] = s.dim[i];
    if (by_row && chance(50)) {
        w->couples_rows = true;
        table.rank = s.rank;
        memmove(table.dim, table.dim + 1, (size_t)s.rank * sizeof *table.dim);
    }
    return ad_put_add(a, index, table);
}

static ad_var draw_indexed(world *w)
{
    ad_var a = any(w);
    ad_shape s = ad_shape_of(a);
    bool by_row = chance(60);
    ad_var index = w->input[by_row ? ROW_INDEX : ONE_INDEX];
    if (chance(40))
        index =
            ad_locate(index, ad_constant(w->tape, AD_SHAPE(4), (double[]){ -0.5, 0.5, 1.5, 2.5 }));
    if (ad_has_rows(s) && s.rank < 4 && chance(40)) return put_rows(w, a, s, index, by_row);
    return s.rank > ad_has_rows(s) ? ad_take(a, index) : ad_none(w->tape);
}

/* ---- contractions ---- */

enum { MAX_LETTERS = 7, MAX_FACTORS = 5 };

typedef struct {
    char spec[64], letters[MAX_LETTERS];
    int64_t size[MAX_LETTERS];
    int n, at;
} einsum;

/* The letters of an operand: those of earlier axes of the same size mostly, rarely one twice; false
 * when there are too many. */
static bool name_axes(einsum *e, ad_shape s)
{
    bool used[MAX_LETTERS] = { false };
    for (int i = 0; i < s.rank; i++) {
        int j = 0;
        bool rows = s.dim[i] == AD_ROWS, twice = !rows && chance(8);
        while (j < e->n && (e->size[j] != s.dim[i] || (used[j] ? !twice : !rows && chance(30))))
            j++;
        if (j == MAX_LETTERS) return false;
        if (j == e->n) {
            e->size[j] = s.dim[i];
            e->letters[e->n++] = rows ? 'r' : (char)('a' + j);
        }
        used[j] = true;
        e->spec[e->at++] = e->letters[j];
    }
    return true;
}

/* Operands with rows share the letter r, which comes first in the result. */
static void name_result(world *w, einsum *e)
{
    int64_t size = 1;
    for (int j = 0; j < e->n; j++)
        if (e->letters[j] == 'r') {
            if (chance(80)) e->spec[e->at++] = 'r';
            else w->couples_rows = true;
        }
    for (int j = e->n - 1; j >= 0; j--) {
        if (e->letters[j] == 'r' || chance(45) || size * e->size[j] > 300) continue;
        e->spec[e->at++] = e->letters[j];
        size *= e->size[j];
    }
}

/* One to five factors, identities among them. */
static ad_var draw_einsum(world *w)
{
    einsum e = { .n = 0 };
    ad_var x[MAX_FACTORS];
    int n = chance(8) ? 1 : chance(50) ? 2 : 3 + pick(3);
    for (int k = 0; k < n; k++) {
        x[k] = k && chance(15) ? x[k - 1] : any(w);
        if (chance(15)) x[k] = draw_constant(w);
        if (chance(15)) x[k] = layout_of(x[k]);
        if (k) e.spec[e.at++] = ',';
        if (!name_axes(&e, ad_shape_of(x[k]))) return ad_none(w->tape);
    }
    e.spec[e.at++] = '-';
    e.spec[e.at++] = '>';
    name_result(w, &e);
    return ad_scale(ad_contract(e.spec, n, x), 0.3);
}

static ad_var draw_contraction(world *w)
{
    ad_var a = any(w), b = any(w);
    ad_shape p = ad_shape_of(a), q = ad_shape_of(b);
    int64_t n = p.rank ? p.dim[p.rank - 1] : 1, m = 1 + pick(4);
    if (chance(50)) return draw_einsum(w);
    if (p.rank - ad_has_rows(p) == 1 && chance(30)) {
        ad_var eye = chance(50) ? ad_eye(w->tape, n, m, pick(5) - 2)
                                : ad_transpose(ad_eye(w->tape, m, n, pick(5) - 2), (int[]){ 1, 0 });
        return ad_has_rows(p) ? ad_contract("ri,ij->rj", 2, (ad_var[]){ a, eye })
                              : ad_contract("ij,i->j", 2, (ad_var[]){ eye, a });
    }
    if (p.rank > ad_has_rows(p) && q.rank == 2 && n == q.dim[0] && !ad_has_rows(q))
        return ad_matmul(a, b);
    if (p.rank > ad_has_rows(p) && ad_same_shape(p, q) && pick(2)) return ad_dot(a, b);
    if (p.rank == 2 && q.rank == 2 && ad_has_rows(p) && ad_has_rows(q)) {
        if (p.dim[1] == q.dim[1] && pick(2))
            return ad_contract(
                "bi,bi,b->b", 3,
                (ad_var[]){ a, b, ad_reshape(ad_sum_axis(a, 1, false), AD_SHAPE(AD_ROWS)) });
        return ad_outer(a, b);
    }
    if (p.rank == 2 && !ad_has_rows(p) && p.dim[0] == p.dim[1])
        return ad_contract("ii,ij,kj->ik", 3,
                           (ad_var[]){ a, a, ad_eye(w->tape, n + 1, n, pick(3) - 1) });
    if (p.rank == 2) return ad_matmul(a, ad_eye(w->tape, n, n + pick(2), pick(3) - 1));
    if (p.rank == 3 && ad_has_rows(p))
        return ad_contract("bij,bkj->bik", 2, (ad_var[]){ a, ad_tanh(a) });
    return ad_none(w->tape);
}

/* ---- convolutions, their transposes and the gradients of their kernels ---- */

static ad_var draw_convolution(world *w)
{
    ad_var a = any(w);
    ad_shape s = ad_shape_of(a);
    int axes = s.rank - ad_has_rows(s) > 2 && chance(60) ? 2 : 1;
    if (s.rank - ad_has_rows(s) < axes + 1) return ad_none(w->tape);
    const bool transposed = chance(40);
    int64_t channels = s.dim[s.rank - 1], groups = channels % 2 == 0 && chance(30) ? 2 : 1,
            other = groups * (1 + pick(2));
    ad_shape kernel = { axes + 2, { 0 } };
    ad_conv_options o = { .groups = groups };
    for (int k = 0; k < axes; k++) {
        kernel.dim[k] = 1 + pick(3);
        o.before[k] = pick(3);
        o.after[k] = pick(3);
        o.stride[k] = pick(3);
        o.dilation[k] = pick(3);
    }
    kernel.dim[axes] = (transposed ? other : channels) / groups;
    kernel.dim[axes + 1] = transposed ? channels : other;
    double c[128];
    for (int i = 0; i < 128; i++) c[i] = (pick(9) - 4) / 4.0;
    if (ad_row_size(kernel) > 128) return ad_none(w->tape);
    for (int k = 0; k < axes; k++) { /* so that it fits */
        int64_t n = s.dim[s.rank - 1 - axes + k], reach = 2 * (kernel.dim[k] - 1) + 1;
        if (transposed) o.before[k] = o.after[k] = 0;
        else if (n + o.before[k] + o.after[k] < reach) o.after[k] += reach;
    }
    ad_var v = ad_constant(w->tape, kernel, c), y, bar;
    y = transposed ? ad_conv_transpose(a, v, &o) : ad_conv(a, v, &o);
    if (ad_row_size(ad_shape_of(y)) > 300) return ad_none(w->tape);
    if (!chance(30)) return ad_scale(y, 0.3);
    ad_var sine = ad_sin(y);
    ad_vjp(1, &y, &sine, 1, &v, &bar);
    w->couples_rows = w->couples_rows || ad_has_rows(s);
    return ad_scale(bar, 0.1);
}

/* ---- an opaque operation: x y, and x + x^2 / 2 ---- */

typedef struct {
    atomic_int references;
    ad_shape shape;
} opaque_data;

static void opaque_retain(void *data) { atomic_fetch_add(&((opaque_data *)data)->references, 1); }
static void opaque_release(void *data)
{
    if (atomic_fetch_sub(&((opaque_data *)data)->references, 1) == 1) free(data);
}

static void *opaque_state(void *data) { return (void)data, calloc(1, sizeof(int)); }

static int opaque_forward(void *data, void *state, const ad_opaque_call *call)
{
    int64_t n = ad_count(((opaque_data *)data)->shape, call->rows);
    const float *fx = call->in[0], *fy = call->in[1];
    const double *dx = call->in[0], *dy = call->in[1];
    ++*(int *)state;
    for (int64_t i = 0; i < n && call->dtype == AD_F32; i++) {
        if (call->out[0]) ((float *)call->out[0])[i] = fx[i] * fy[i];
        if (call->out[1]) ((float *)call->out[1])[i] = fx[i] + fx[i] * fx[i] / 2;
    }
    for (int64_t i = 0; i < n && call->dtype == AD_F64; i++) {
        if (call->out[0]) ((double *)call->out[0])[i] = dx[i] * dy[i];
        if (call->out[1]) ((double *)call->out[1])[i] = dx[i] + dx[i] * dx[i] / 2;
    }
    return 0;
}

/* The sum of what is there of two values. */
static ad_var opaque_sum(ad_var a, ad_var b)
{
    return a.node < 0 ? b : b.node < 0 ? a : ad_add(a, b);
}
static ad_var opaque_times(ad_var a, ad_var b) { return a.node < 0 ? a : ad_mul(a, b); }

static void opaque_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                       const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    (void)data, (void)token, (void)nin, (void)nout, (void)out;
    if (need[0])
        xbar[0] =
            opaque_sum(opaque_times(ybar[0], in[1]), opaque_times(ybar[1], ad_shift(in[0], 1)));
    if (need[1]) xbar[1] = opaque_times(ybar[0], in[0]);
}

static void opaque_jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot,
                       int nout, const ad_var *out, ad_var *ydot)
{
    (void)data, (void)token, (void)nin, (void)nout, (void)out;
    ydot[0] = opaque_sum(opaque_times(xdot[0], in[1]), opaque_times(xdot[1], in[0]));
    ydot[1] = opaque_times(xdot[0], ad_shift(in[0], 1));
}

static const ad_opaque_class opaque_class = { .name = "product",
                                              .forward = opaque_forward,
                                              .state_new = opaque_state,
                                              .state_free = free,
                                              .retain = opaque_retain,
                                              .release = opaque_release,
                                              .vjp = opaque_vjp,
                                              .jvp = opaque_jvp };

static ad_var draw_opaque(world *w)
{
    ad_var a = any(w), b = ad_sin(any(w)), out[2];
    if (!ad_same_shape(ad_shape_of(a), ad_shape_of(b))) b = ad_cos(a);
    opaque_data *data = malloc(sizeof *data);
    if (!data) return ad_none(w->tape);
    atomic_init(&data->references, 1);
    data->shape = ad_shape_of(a);
    ad_opaque(w->tape, &opaque_class, data, 2, (ad_var[]){ a, b }, 2,
              (ad_shape[]){ data->shape, data->shape }, out);
    return chance(40) ? ad_sub(out[0], out[1]) : out[pick(2)];
}

/* ---- recurrences ---- */

enum { MAX_CARRIES = 2, MAX_ARGS = 2 };

/* Of what kind the steps of a recurrence are: drawn before they are recorded. */
typedef struct {
    int ncarry, ninput, narg, noutput, activation;
} recurrence;

/* x as an array of a shape, by means where it does not fit. */
static ad_var shaped(ad_var x, ad_shape want)
{
    ad_shape s = ad_shape_of(x), both, ones = { want.rank, { 0 } };
    if (ad_broadcast_shapes(s, want, &both) && ad_same_shape(both, want))
        return ad_broadcast(x, want);
    for (int i = s.rank - 1; i >= 0; i--)
        if (s.dim[i] != AD_ROWS || !ad_has_rows(want)) x = ad_mean(x, 1, &i, false);
    for (int i = 0; i < want.rank; i++) ones.dim[i] = 1;
    if (ad_has_rows(ad_shape_of(x))) ones.dim[0] = AD_ROWS;
    return ad_broadcast(ad_reshape(x, ones), want);
}

static void recurrent_step(const ad_scan_step *at, void *user)
{
    const recurrence *r = user;
    for (int k = 0; k < r->ncarry; k++) {
        ad_shape s = ad_shape_of(at->carry[k]);
        ad_var sum = ad_scale(at->carry[k], 0.8);
        sum = ad_add(sum, shaped(at->carry[r->ncarry - 1 - k], s));
        for (int i = 0; i < r->ninput; i++) sum = ad_add(sum, shaped(at->input[i], s));
        for (int i = 0; i < r->narg; i++) sum = ad_mul(sum, ad_cos(shaped(at->arg[i], s)));
        at->next[k] = r->activation == 0   ? ad_tanh(sum)
                      : r->activation == 1 ? ad_sin(sum)
                                           : ad_sub(at->carry[k], ad_scale(ad_sigmoid(sum), 0.3));
    }
    if (r->noutput == 0) return;
    at->output[0] = ad_mul(at->next[0], ad_exp(ad_scale(ad_tanh(at->carry[0]), 0.5)));
}

/* The carries after the last step, or the outputs of all. */
static ad_var draw_recurrence(world *w)
{
    recurrence r = { 1 + pick(MAX_CARRIES), 0, pick(MAX_ARGS + 1), 0, pick(3) };
    ad_var carry[MAX_CARRIES], input = any(w), arg[MAX_ARGS], last[MAX_CARRIES], output;
    ad_shape s = ad_shape_of(input);
    ad_recurrence a = { .step = recurrent_step, .user = &r, .steps = pick(5) };
    bool rows = ad_has_rows(s), all_rows = true, no_rows = !rows;
    if (s.rank > rows && chance(80)) {
        r.ninput = 1;
        a.steps = s.dim[rows];
    }
    for (int k = 0; k < r.ncarry; k++) {
        carry[k] = any(w);
        all_rows = all_rows && ad_has_rows(ad_shape_of(carry[k]));
        no_rows = no_rows && !ad_has_rows(ad_shape_of(carry[k]));
    }
    for (int k = 0; k < r.narg; k++) {
        arg[k] = any(w);
        no_rows = no_rows && !ad_has_rows(ad_shape_of(arg[k]));
    }
    if (all_rows && chance(50))
        a.lengths = ad_clamp(w->input[ROW_INDEX], ad_scalar(w->tape, 0),
                             ad_scalar(w->tape, (double)a.steps));
    w->couples_rows = w->couples_rows || !(all_rows || no_rows);
    a.ncarry = r.ncarry;
    a.ninput = r.ninput;
    a.narg = r.narg;
    a.noutput = r.noutput = a.steps > 0; /* without steps there are no outputs */
    a.carry = carry;
    a.input = &input;
    a.arg = arg;
    a.reverse = chance(50);
    if (ad_scan(&a, last, &output)) return ad_none(w->tape);
    return r.noutput && chance(50) ? output : last[pick(r.ncarry)];
}

/* ---- derivatives ---- */

static ad_var draw_gradient(world *w)
{
    ad_var x = w->input[pick(DIFFERENTIATED)], bar;
    ad_grad(ad_sum_all(ad_sin(any(w))), 1, &x, &bar);
    w->couples_rows = true;
    return ad_scale(bar, 0.1);
}

#endif
