/* Random tapes: shapes, operations, sharing and constants drawn from a seed, in both types. First and second derivatives against central
 * differences and against forward mode; replayed programs against lazy values for several numbers of rows; the same bits for any
 * number of threads, and for a row whatever its batch mates. A failure names its seed. */
#include "autodiff/tape.h"
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEEDS = 120, NIN = 6, MAX_POOL = 64, MAX_VALUES = 1 << 16, MAX_ROWS = 150, STEPS = 14 };

static uint64_t state;
static double uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) / 9007199254740992.0;
}
static int pick(int n) { return (int)(uniform() * n); }

typedef struct {
    uint64_t seed;
    ad_tape *t;
    ad_shape shape[NIN];
    ad_var x[NIN], u[NIN], pool[MAX_POOL];
    int n, d;
    bool couples_rows;
    ad_var loss, row, g[NIN], s, h[NIN];
    double *value[NIN], *direction[NIN];
} graph;

static ad_var any(graph *g) { return g->pool[pick(g->n)]; }
static int any_axis(ad_var x)
{
    ad_shape s = ad_shape_of(x);
    int first = ad_has_rows(s) ? 1 : 0;
    return s.rank > first ? first + pick(s.rank - first) : -1;
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

static ad_var draw_pointwise(graph *g)
{
    ad_var a = any(g), b = any(g), out;
    if (!ad_broadcast_shapes(ad_shape_of(a), ad_shape_of(b), &(ad_shape){ 0, { 0 } })) b = ad_sin(a);
    switch (pick(20)) {
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
    default: return ad_cos(ad_sub(a, ad_scale(b, 0.5)));
    }
}

static ad_var draw_layout(graph *g)
{
    ad_var a = any(g);
    ad_shape s = ad_shape_of(a);
    int axis = any_axis(a), first = ad_has_rows(s) ? 1 : 0;
    if (axis < 0) return ad_none(g->t);
    int64_t n = s.dim[axis], list[5];
    for (int i = 0; i < 5; i++) list[i] = pick((int)n);
    switch (pick(10)) {
    case 0: { /* reshape */
        ad_shape flat = { 1, { ad_row_size(s) } };
        if (first) flat = (ad_shape){ 2, { AD_ROWS, ad_row_size(s) } };
        return ad_reshape(a, flat);
    }
    case 1: {
        int p[AD_MAX_RANK] = { 0 };
        for (int i = first; i < s.rank; i++) p[i] = s.rank - 1 - i + first;
        return ad_transpose(a, p);
    }
    case 2: n = pick((int)n); return ad_slice(a, axis, n, n + 1 + pick((int)(s.dim[axis] - n)));
    case 3: return ad_pad(a, axis, pick(2), pick(3));
    case 4: return ad_concatenate(3, (ad_var[]){ a, ad_sin(a), a }, axis);
    case 5: return s.rank < 4 ? ad_stack(2, (ad_var[]){ a, ad_neg(a) }, axis) : a;
    case 6: return ad_flip(a, axis);
    case 7: return ad_gather(a, axis, 5, list);
    case 8: return n <= 5 ? ad_scatter_add(a, axis, n + 1, list) : ad_flip(a, axis);
    default: return ad_cumsum(a, axis, pick(2));
    }
}

static ad_var draw_reduction(graph *g)
{
    ad_var a = any(g);
    ad_shape s = ad_shape_of(a);
    if (!s.rank) return ad_none(g->t);
    int axis = pick(s.rank), keep = pick(2);
    if (axis == 0 && ad_has_rows(s)) {
        if (pick(3)) return ad_none(g->t);
        g->couples_rows = true;
    }
    switch (pick(4)) {
    case 0: return ad_sum(a, 1, &axis, keep);
    case 1: return ad_mean(a, 1, &axis, keep);
    case 2: return ad_logsumexp(a, 1, &axis, keep);
    default: return ad_sub(a, ad_mean(a, 1, &axis, 1));
    }
}

static ad_var draw_contraction(graph *g)
{
    ad_var a = any(g), b = any(g);
    ad_shape p = ad_shape_of(a), q = ad_shape_of(b);
    if (p.rank >= 1 && q.rank == 2 && p.dim[p.rank - 1] == q.dim[0] && !ad_has_rows(q)) return ad_matmul(a, b);
    if (p.rank >= 1 && ad_same_shape(p, q) && pick(2)) return ad_dot(a, b);
    if (p.rank == 2 && q.rank == 2 && ad_has_rows(p) && ad_has_rows(q)) {
        if (p.dim[1] == q.dim[1] && pick(2))
            return ad_contract("bi,bi,b->b", 3, (ad_var[]){ a, b, ad_reshape(ad_sum_axis(a, 1, 0), (ad_shape){ 1, { AD_ROWS } }) });
        return ad_outer(a, b);
    }
    if (p.rank == 2 && !ad_has_rows(p) && p.dim[0] == p.dim[1])
        return ad_contract("ii,ij,kj->ik", 3, (ad_var[]){ a, a, ad_eye(g->t, p.dim[0] + 1, p.dim[1], pick(3) - 1) });
    if (p.rank == 2) return ad_matmul(a, ad_eye(g->t, p.dim[1], p.dim[1] + pick(2), pick(3) - 1));
    if (p.rank == 3 && ad_has_rows(p)) return ad_contract("bij,bkj->bik", 2, (ad_var[]){ a, ad_tanh(a) });
    return ad_none(g->t);
}

/* Adds a variable; large numbers are squashed and large arrays are summed, so that differences stay meaningful. */
static void keep(graph *g, ad_var v)
{
    if (v.node < 0) return;
    static double values[MAX_VALUES];
    ad_shape s = ad_shape_of(v);
    if (s.rank > 4 || ad_row_size(s) > 60) {
        int axis = s.rank - 1;
        v = ad_tanh(ad_mean(v, 1, &axis, 0));
    }
    ck_assert_msg(ad_valid(v) && ad_size(v) <= MAX_VALUES && !ad_get(v, values), "seed %llu: %s", (unsigned long long)g->seed,
                  ad_tape_error(g->t));
    for (int64_t i = 0, n = ad_size(v); i < n; i++)
        if (!(fabs(values[i]) < 3)) {
            v = ad_tanh(v);
            break;
        }
    g->pool[g->n++] = v;
}

static ad_var given(graph *g, int i, int64_t rows, const double *values)
{
    static float narrow[MAX_VALUES];
    int64_t n = ad_count(g->shape[i], rows);
    for (int64_t k = 0; k < n; k++) narrow[k] = (float)values[k];
    const void *data = ad_tape_dtype(g->t) == AD_F32 ? (const void *)narrow : values;
    return ad_has_rows(g->shape[i]) ? ad_input_rows(g->t, g->shape[i], rows, data)
           : i % 2                  ? ad_param(g->t, g->shape[i], data)
                                    : ad_input(g->t, g->shape[i], data);
}

static void set(graph *g, ad_var x, int i, int64_t rows, const double *values)
{
    static float narrow[MAX_VALUES];
    int64_t n = ad_count(g->shape[i], rows);
    for (int64_t k = 0; k < n; k++) narrow[k] = (float)values[k];
    ck_assert_int_eq(ad_set(x, rows, ad_tape_dtype(g->t) == AD_F32 ? (const void *)narrow : values), 0);
}

static void make(graph *g, uint64_t seed, ad_dtype dtype)
{
    *g = (graph){ .seed = seed, .t = ad_tape_new(dtype) };
    state = seed * 0x9e3779b97f4a7c15u + 12345;
    int64_t d = g->d = 2 + pick(4), e = 1 + pick(5);
    ad_shape shapes[NIN] = {
        { 2, { AD_ROWS, d } }, { 2, { d, e } }, { 1, { d } }, { 2, { d, d } }, { 0, { 0 } }, { 3, { AD_ROWS, e, d } }
    };
    for (int i = 0; i < NIN; i++) {
        g->shape[i] = shapes[i];
        size_t n = (size_t)ad_count(shapes[i], MAX_ROWS);
        g->value[i] = malloc(n * sizeof(double));
        g->direction[i] = malloc(n * sizeof(double));
        for (size_t k = 0; k < n; k++) g->value[i][k] = (float)(2 * uniform() - 1), g->direction[i][k] = (float)(2 * uniform() - 1);
        g->x[i] = given(g, i, 3, g->value[i]);
        g->u[i] = given(g, i, 3, g->direction[i]);
        g->pool[g->n++] = g->x[i];
    }
    while (g->n < NIN + STEPS) {
        int kind = pick(10);
        keep(g, kind < 4 ? draw_pointwise(g) : kind < 6 ? draw_layout(g) : kind < 7 ? draw_reduction(g) : draw_contraction(g));
    }
}

/* loss = sum of cosines of the last variables; s = <gradient, u>; h = its gradient. */
static void differentiate(graph *g)
{
    g->loss = ad_scalar(g->t, 0);
    g->row = g->x[0];
    for (int i = g->n - 5; i < g->n; i++) {
        ad_var m = ad_mean_all(ad_cos(g->pool[i]));
        g->loss = ad_add(g->loss, m);
        if (ad_has_rows(ad_shape_of(g->pool[i]))) g->row = g->pool[i];
    }
    ad_grad(g->loss, NIN, g->x, g->g);
    g->s = ad_scalar(g->t, 0);
    for (int i = 0; i < NIN; i++) g->s = ad_add(g->s, ad_sum_all(ad_mul(g->g[i], g->u[i])));
    ad_grad(g->s, NIN, g->x, g->h);
    ck_assert_msg(!ad_tape_error(g->t), "seed %llu: %s", (unsigned long long)g->seed, ad_tape_error(g->t));
}

static double directional(graph *g, const ad_var *gradient)
{
    double sum = 0;
    static double a[MAX_VALUES];
    for (int i = 0; i < NIN; i++) {
        ck_assert_msg(!ad_get(gradient[i], a), "seed %llu: %s", (unsigned long long)g->seed, ad_tape_error(g->t));
        for (int64_t k = 0, n = ad_size(gradient[i]); k < n; k++) sum += a[k] * g->direction[i][k];
    }
    return sum;
}

static void move(graph *g, double step)
{
    static double moved[MAX_VALUES];
    for (int i = 0; i < NIN; i++) {
        for (int64_t k = 0, n = ad_count(g->shape[i], 3); k < n; k++) moved[k] = g->value[i][k] + step * g->direction[i][k];
        set(g, g->x[i], i, 3, moved);
    }
}

static void near(const graph *g, const char *what, double got, double want, double tolerance)
{
    ck_assert_msg(fabs(got - want) <= tolerance * (1 + fabs(want)), "seed %llu: %s: got %.12g, want %.12g", (unsigned long long)g->seed,
                  what, got, want);
}

static void check_derivatives(graph *g)
{
    double first = directional(g, g->g), second = directional(g, g->h), l[4], s[4];
    ad_var ldot, sdot;
    ad_jvp(NIN, g->x, g->u, 1, &g->loss, &ldot);
    ad_jvp(NIN, g->x, g->u, 1, &g->s, &sdot);
    near(g, "forward against reverse", ad_item(ldot), first, 1e-11);
    near(g, "forward over reverse", ad_item(sdot), second, 1e-10);
    const double e = 2e-4;
    const double at[4] = { -2 * e, -e, e, 2 * e };
    for (int k = 0; k < 4; k++) {
        move(g, at[k]);
        l[k] = ad_item(g->loss);
        s[k] = ad_item(g->s);
    }
    move(g, 0);
    near(g, "gradient against differences", first, (8 * (l[2] - l[1]) - (l[3] - l[0])) / (12 * e), 1e-7);
    near(g, "second derivative against differences", second, (8 * (s[2] - s[1]) - (s[3] - s[0])) / (12 * e), 1e-6);
}

typedef struct {
    ad_program *p;
    int no;
    ad_var in[2 * NIN], out[3 + 2 * NIN];
    void *got[3 + 2 * NIN];
} replay;

static void run(graph *g, replay *r, int64_t rows, int threads)
{
    const void *inputs[2 * NIN];
    ad_workspace *ws = ad_workspace_new(r->p, threads);
    for (int i = 0; i < 2 * NIN; i++) {
        const double *v = i < NIN ? g->value[i] : g->direction[i - NIN];
        int64_t n = ad_count(g->shape[i % NIN], rows);
        double *wide = malloc((size_t)n * sizeof *wide);
        float *narrow = (void *)wide; /* one of the two is written */
        for (int64_t k = 0; k < n; k++)
            if (ad_tape_dtype(g->t) == AD_F32) narrow[k] = (float)v[k];
            else wide[k] = v[k];
        inputs[i] = wide;
    }
    ck_assert_msg(ws && !ad_run(r->p, ws, rows, inputs, r->got), "seed %llu, %lld rows: %s", (unsigned long long)g->seed, (long long)rows,
                  ws ? ad_workspace_error(ws) : "no workspace");
    for (int i = 0; i < 2 * NIN; i++) free((void *)inputs[i]);
    ad_workspace_free(ws);
}

static size_t bytes_of(const graph *g, ad_var x, int64_t rows)
{
    return (size_t)ad_count(ad_shape_of(x), rows) * ad_dtype_size(ad_tape_dtype(g->t));
}

static void compare_lazy(graph *g, replay *r, int64_t rows)
{
    static double want[MAX_VALUES];
    bool narrow = ad_tape_dtype(g->t) == AD_F32;
    for (int j = 0; j < r->no; j++) {
        ck_assert_msg(!ad_get(r->out[j], want), "seed %llu: %s", (unsigned long long)g->seed, ad_tape_error(g->t));
        double scale = 1;
        for (int64_t k = 0, n = ad_size(r->out[j]); k < n; k++) scale = fmax(scale, fabs(want[k]));
        for (int64_t k = 0, n = ad_size(r->out[j]); k < n; k++) {
            double v = narrow ? ((float *)r->got[j])[k] : ((double *)r->got[j])[k];
            ck_assert_msg(fabs(v - want[k]) <= scale * (narrow ? 2e-3 : 1e-10),
                          "seed %llu, %lld rows: output %d, element %lld: replayed %.12g, lazy %.12g", (unsigned long long)g->seed,
                          (long long)rows, j, (long long)k, v, want[k]);
        }
    }
}

/* Results of another number of threads to the bit; then the first rows of a result computed row by row, to the bit. */
static void compare_bits(graph *g, replay *r, int64_t rows, const void *few_rows, int64_t few)
{
    void *first[3 + 2 * NIN];
    for (int j = 0; j < r->no; j++) {
        size_t n = bytes_of(g, r->out[j], rows);
        first[j] = malloc(n);
        memcpy(first[j], r->got[j], n);
    }
    run(g, r, rows, 2);
    for (int j = 0; j < r->no; j++)
        ck_assert_msg(!memcmp(first[j], r->got[j], bytes_of(g, r->out[j], rows)),
                      "seed %llu, %lld rows: output %d differs between 1 and 2 threads", (unsigned long long)g->seed, (long long)rows, j);
    if (few_rows && !g->couples_rows)
        ck_assert_msg(!memcmp(few_rows, first[1], bytes_of(g, g->row, few)),
                      "seed %llu: a row depends on its batch mates (%lld or %lld rows)", (unsigned long long)g->seed, (long long)few,
                      (long long)rows);
    for (int j = 0; j < r->no; j++) free(first[j]);
}

static void check_replay(graph *g)
{
    static const int64_t rows[] = { 3, 1, 17, MAX_ROWS };
    replay r = { .no = 3 + 2 * NIN };
    memcpy(r.in, g->x, sizeof g->x);
    memcpy(r.in + NIN, g->u, sizeof g->u);
    r.out[0] = g->loss;
    r.out[1] = g->row;
    r.out[2] = g->s;
    memcpy(r.out + 3, g->g, sizeof g->g);
    memcpy(r.out + 3 + NIN, g->h, sizeof g->h);
    for (int j = 0; j < r.no; j++) r.got[j] = malloc(bytes_of(g, r.out[j], MAX_ROWS));
    r.p = ad_compile(2 * NIN, r.in, r.no, r.out);
    ck_assert_msg(r.p != NULL, "seed %llu: %s", (unsigned long long)g->seed, ad_tape_error(g->t));
    void *few = malloc(bytes_of(g, g->row, 3));
    for (int k = 0; k < 4; k++) {
        for (int i = 0; i < NIN; i++) set(g, g->x[i], i, rows[k], g->value[i]), set(g, g->u[i], i, rows[k], g->direction[i]);
        run(g, &r, rows[k], 1);
        if (k == 0) memcpy(few, r.got[1], bytes_of(g, g->row, 3));
        compare_lazy(g, &r, rows[k]);
        compare_bits(g, &r, rows[k], k > 1 ? few : NULL, 3);
    }
    free(few);
    for (int j = 0; j < r.no; j++) free(r.got[j]);
    ad_program_free(r.p);
}

static void trial(uint64_t seed, ad_dtype dtype)
{
    graph g;
    make(&g, seed, dtype);
    differentiate(&g);
    if (dtype == AD_F64) check_derivatives(&g);
    check_replay(&g);
    ad_tape_free(g.t);
    for (int i = 0; i < NIN; i++) free(g.value[i]), free(g.direction[i]);
}

START_TEST(random_graphs)
{
    const char *first = getenv("COSTATE_SEED");
    uint64_t seed = (uint64_t)_i + (first ? strtoull(first, NULL, 10) : 1);
    trial(seed, AD_F64);
    trial(seed, AD_F32);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("random");
    TCase *t = tcase_create("graphs");
    tcase_set_timeout(t, 120);
    const char *count = getenv("COSTATE_SEEDS");
    tcase_add_loop_test(t, random_graphs, 0, count ? atoi(count) : SEEDS);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
