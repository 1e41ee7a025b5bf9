/* Random programs: a replay equals lazy evaluation to rounding, whatever was recorded; threads change no bit. And compiling and running
 * when memory fails at any point: an error, nothing lost. */
#include "autodiff/extension.h"
#include "allocations.h"
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POOL = 96, STEPS = 45, OUTPUTS = 6, INPUTS = 6, MAX_ROWS = 300, SEEDS = 1200, BATCHES = 8 };

static uint64_t state;

static uint32_t bits(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static int pick(int n) { return (int)(bits() % (uint32_t)n); }
static bool chance(int percent) { return pick(100) < percent; }

typedef struct {
    ad_tape *tape;
    ad_dtype dtype;
    int64_t rows;
    int n, ninput;
    ad_var pool[POOL], input[INPUTS], output[OUTPUTS];
    void *data[INPUTS];
} world;

static size_t size_of(ad_dtype t) { return t == AD_F32 ? 4 : 8; }
static double get(ad_dtype t, const void *p, int64_t i) { return t == AD_F32 ? ((const float *)p)[i] : ((const double *)p)[i]; }
static bool has_rows(ad_shape s) { return s.rank > 0 && s.dim[0] == AD_ROWS; }

static int64_t count(ad_shape s, int64_t rows)
{
    int64_t n = 1;
    for (int i = 0; i < s.rank; i++) n *= s.dim[i] == AD_ROWS ? rows : s.dim[i];
    return n;
}

static ad_var any(world *w) { return w->pool[pick(w->n)]; }

/* Keeps x unless it is too large; bounded, so that long chains stay finite. */
static void keep(world *w, ad_var x)
{
    ad_shape s = ad_shape_of(x);
    if (s.rank >= 0 && s.rank <= 5 && count(s, 1) <= 600 && w->n < POOL) w->pool[w->n++] = x;
}

static void make_input(world *w, int level)
{
    ad_shape s = { .rank = pick(4) };
    if (level == 2 && s.rank == 0) s.rank = 1;
    for (int i = 0; i < s.rank; i++) s.dim[i] = 1 + pick(4);
    if (level == 2) s.dim[0] = AD_ROWS;
    int64_t n = count(s, MAX_ROWS);
    int k = w->ninput++;
    w->data[k] = malloc((size_t)n * size_of(w->dtype));
    for (int64_t i = 0; i < n; i++) {
        double x = pick(2001) / 1000.0 - 1;
        if (w->dtype == AD_F32) ((float *)w->data[k])[i] = (float)x;
        else ((double *)w->data[k])[i] = x;
    }
    w->input[k] = level == 0   ? ad_param(w->tape, s, w->data[k])
                  : level == 1 ? ad_input(w->tape, s, w->data[k])
                               : ad_input_rows(w->tape, s, w->rows, w->data[k]);
    keep(w, w->input[k]);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static void unary(world *w)
{
    static ad_var (*const f[])(ad_var) = { ad_tanh,          ad_sin, ad_neg,  ad_sigmoid,    ad_abs,
                                           ad_stop_gradient, ad_cos, ad_relu, ad_zeros_like, ad_ones_like };
    keep(w, f[pick(10)](any(w)));
}

static bool broadcast_together(ad_shape a, ad_shape b)
{
    if ((a.rank < b.rank && has_rows(a)) || (b.rank < a.rank && has_rows(b))) return false;
    for (int i = 1; i <= a.rank && i <= b.rank; i++) {
        int64_t p = a.dim[a.rank - i], q = b.dim[b.rank - i];
        if (p != q && p != 1 && q != 1) return false;
    }
    return true;
}

static void binary(world *w)
{
    static ad_var (*const f[])(ad_var, ad_var) = { ad_add, ad_sub, ad_mul, ad_max, ad_min, ad_add, ad_mul };
    ad_var a = any(w), b = any(w);
    for (int k = 0; k < 10 && !broadcast_together(ad_shape_of(a), ad_shape_of(b)); k++) b = any(w);
    if (!broadcast_together(ad_shape_of(a), ad_shape_of(b))) b = ad_scalar(w->tape, pick(3) - 1);
    ad_var y = f[pick(7)](a, b);
    keep(w, chance(50) ? ad_tanh(y) : y);
}

static void reduce(world *w)
{
    ad_var x = any(w);
    int axes[8], n = 0, rank = ad_shape_of(x).rank;
    for (int i = 0; i < rank; i++)
        if (chance(50)) axes[n++] = i;
    if (n == 0 && rank > 0) return;
    ad_var y = chance(30) ? ad_reduce_max(x, n, axes, pick(2)) : chance(40) ? ad_mean(x, n, axes, pick(2)) : ad_sum(x, n, axes, pick(2));
    keep(w, chance(60) ? ad_tanh(ad_scale(y, 0.1)) : y);
}

static void rearrange(world *w)
{
    ad_var x = any(w);
    ad_shape s = ad_shape_of(x), flat = { .rank = 1, .dim = { count(s, 1) } };
    int permutation[8], first = has_rows(s);
    for (int i = 0; i < s.rank; i++) permutation[i] = i;
    for (int i = s.rank - 1; i > first; i--) {
        int j = first + pick(i - first + 1), swap = permutation[i];
        permutation[i] = permutation[j];
        permutation[j] = swap;
    }
    if (first) flat = (ad_shape){ .rank = 2, .dim = { AD_ROWS, count(s, 1) } };
    if (chance(60) && s.rank > 0) keep(w, ad_transpose(x, permutation));
    else keep(w, ad_reshape(x, flat));
}

static void stretch(world *w)
{
    ad_var x = any(w);
    ad_shape s = ad_shape_of(x);
    for (int i = 0; i < s.rank; i++)
        if (s.dim[i] == 1) s.dim[i] = i == 0 && chance(40) ? AD_ROWS : 1 + pick(3);
    keep(w, ad_broadcast(x, s));
}

static void along_an_axis(world *w)
{
    ad_var x = any(w);
    ad_shape s = ad_shape_of(x);
    int first = has_rows(s);
    if (s.rank == first) return;
    int axis = first + pick(s.rank - first);
    int64_t n = s.dim[axis], from = pick((int)n), to = from + 1 + pick((int)(n - from)), index[4] = { 0 };
    for (int i = 0; i < 4; i++) index[i] = pick((int)n);
    switch (pick(8)) {
    case 0:
    case 1: keep(w, ad_slice(x, axis, from, to)); break;
    case 2: keep(w, ad_pad(x, axis, pick(3), pick(3))); break;
    case 3: keep(w, ad_flip(x, axis)); break;
    case 4: keep(w, ad_gather(x, axis, 3, index)); break;
    case 5:
        for (int i = 0; i < 4; i++) index[i] = pick(3);
        if (n <= 4) keep(w, ad_scatter_add(x, axis, 3, index));
        break;
    case 6: keep(w, ad_cumsum(x, axis, pick(2))); break;
    default: keep(w, ad_concatenate(2, (ad_var[]){ ad_slice(x, axis, from, to), ad_sin(x) }, axis)); break;
    }
}

/* An einsum of two operands; operands with rows share the letter r. */
static void contract(world *w)
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
        if (letters[j] == 'r' && chance(80)) spec[at++] = 'r';
    for (int j = n - 1; j >= 0; j--)
        if (letters[j] != 'r' && chance(55)) spec[at++] = letters[j];
    spec[at] = 0;
    ad_var y = ad_contract(spec, 2, x);
    keep(w, chance(70) ? ad_tanh(ad_scale(y, 0.3)) : ad_scale(y, 0.05));
}

static void with_eye(world *w)
{
    ad_var x = any(w);
    ad_shape s = ad_shape_of(x);
    if (s.rank - has_rows(s) != 1) return;
    int64_t n = s.dim[s.rank - 1], m = 1 + pick(4);
    ad_var eye = chance(50) ? ad_eye(w->tape, n, m, pick(5) - 2) : ad_transpose(ad_eye(w->tape, m, n, pick(5) - 2), (int[]){ 1, 0 });
    keep(w, has_rows(s) ? ad_contract("ri,ij->rj", 2, (ad_var[]){ x, eye }) : ad_contract("ij,i->j", 2, (ad_var[]){ eye, x }));
}

static void differentiate(world *w)
{
    ad_var loss = ad_sum_all(ad_sin(any(w))), x = w->input[pick(w->ninput)], bar;
    ad_grad(loss, 1, &x, &bar);
    keep(w, ad_tanh(ad_scale(bar, 0.1)));
}

static void step(world *w)
{
    static void (*const kinds[])(world *) = { unary,         binary,        binary,   reduce,   rearrange, stretch,
                                              along_an_axis, along_an_axis, contract, contract, with_eye };
    if (chance(4)) differentiate(w);
    else kinds[pick(11)](w);
}

/* A random program; the same for the same seed whatever the rows. */
static world make_world(uint64_t seed, ad_dtype dtype, int64_t rows)
{
    world w = { .tape = ad_tape_new(dtype), .dtype = dtype, .rows = rows };
    state = seed * 77777 + 5;
    for (int k = 0; k < INPUTS; k++) make_input(&w, k % 3);
    for (int k = 0; k < STEPS; k++) step(&w);
    for (int j = 0; j < OUTPUTS; j++) w.output[j] = w.pool[w.n - 1 - pick(w.n / 2)];
    ck_assert_msg(!ad_tape_error(w.tape), "seed %d: %s", (int)seed, ad_tape_error(w.tape));
    return w;
}

static void end_world(world *w)
{
    ad_tape_free(w->tape);
    for (int k = 0; k < w->ninput; k++) free(w->data[k]);
}

/* ---- replays ----------------------------------------------------------------------------------------------------- */

static void replay(const world *w, const ad_program *p, int threads, void **out)
{
    ad_workspace *s = ad_workspace_new(p, threads);
    for (int j = 0; j < OUTPUTS; j++) out[j] = malloc((size_t)count(ad_shape_of(w->output[j]), w->rows) * size_of(w->dtype));
    ck_assert_msg(ad_run(p, s, w->rows, (const void *const *)w->data, out) == 0, "%s", ad_workspace_error(s));
    ad_workspace_free(s);
}

static void compare(const world *w, int seed, const ad_program *p)
{
    void *one[OUTPUTS], *three[OUTPUTS];
    replay(w, p, 1, one);
    replay(w, p, 3, three);
    for (int j = 0; j < OUTPUTS; j++) {
        const void *lazy = ad_value(w->output[j]);
        ck_assert_msg(lazy != NULL, "seed %d: %s", seed, ad_tape_error(w->tape));
        int64_t n = ad_size(w->output[j]);
        double scale = 1;
        for (int64_t i = 0; i < n; i++) scale = fmax(scale, fabs(get(w->dtype, lazy, i)));
        for (int64_t i = 0; i < n; i++) {
            double a = get(w->dtype, lazy, i), b = get(w->dtype, one[j], i);
            if (fabs(a - b) <= (w->dtype == AD_F32 ? 3e-4 : 1e-10) * scale) continue;
            ck_abort_msg("seed %d, %lld rows, output %d[%lld]: lazy %.17g, replayed %.17g\n%s", seed, (long long)w->rows, j, (long long)i,
                         a, b, ad_program_describe(p));
        }
        ck_assert_msg(memcmp(one[j], three[j], (size_t)n * size_of(w->dtype)) == 0, "seed %d: output %d differs in bits with three threads",
                      seed, j);
        free(one[j]);
        free(three[j]);
    }
}

START_TEST(test_random_programs)
{
    static const int64_t rows[] = { 1, 2, 17, 130, 300 };
    for (int seed = _i; seed < SEEDS; seed += BATCHES) {
        world w = make_world((uint64_t)seed, seed % 5 ? AD_F64 : AD_F32, rows[seed % 5]);
        ad_program *p = ad_compile(w.ninput, w.input, OUTPUTS, w.output);
        ck_assert_msg(p != NULL, "seed %d: %s", seed, ad_tape_error(w.tape));
        compare(&w, seed, p);
        ad_program_free(p);
        end_world(&w);
    }
}
END_TEST

/* ---- memory that fails ------------------------------------------------------------------------------------------- */

#ifndef ALLOCATIONS_NOT_COUNTED
START_TEST(test_compiling_without_memory)
{
    for (int seed = 0; seed < 40; seed++) {
        world w = make_world((uint64_t)seed, AD_F64, 17);
        ad_program *p = ad_compile(w.ninput, w.input, OUTPUTS, w.output);
        ad_program_free(p); /* what the matrix library keeps, it keeps now */
        p = NULL;
        long k = 0, live = allocations_live();
        for (; !p && k < 5000; k++) {
            allocations_fail_at(k);
            p = ad_compile(w.ninput, w.input, OUTPUTS, w.output);
            allocations_fail_at(-1);
            if (p) break;
            ck_assert_msg(ad_tape_error(w.tape) && strstr(ad_tape_error(w.tape), "out of memory"), "%s",
                          ad_tape_error(w.tape) ? ad_tape_error(w.tape) : "no error");
            ad_tape_clear_error(w.tape);
            ck_assert_int_eq(allocations_live(), live);
        }
        ck_assert_ptr_nonnull(p);
        ck_assert_int_gt(k, 5);
        compare(&w, seed, p);
        ad_program_free(p);
        end_world(&w);
    }
}
END_TEST

START_TEST(test_running_without_memory)
{
    world w = make_world(8, AD_F64, 300);
    ad_program *p = ad_compile(w.ninput, w.input, OUTPUTS, w.output);
    void *out[OUTPUTS] = { NULL };
    int ran = -1;
    for (long k = 0; ran && k < 200; k++) {
        allocations_fail_at(k);
        ad_workspace *s = ad_workspace_new(p, 2);
        ran = s ? ad_run(p, s, w.rows, (const void *const *)w.data, out) : -1;
        allocations_fail_at(-1);
        if (s && ran) {
            ck_assert_ptr_nonnull(strstr(ad_workspace_error(s), "out of memory: "));
            ck_assert_int_eq(ad_run(p, s, w.rows, (const void *const *)w.data, out), 0);
        }
        ad_workspace_free(s);
    }
    ck_assert_int_eq(ran, 0);
    ad_program_free(p);
    end_world(&w);
}
END_TEST
#endif

int main(void)
{
    Suite *suite = suite_create("random_programs");
    TCase *tc = tcase_create("random_programs");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, test_random_programs, 0, BATCHES);
#ifndef ALLOCATIONS_NOT_COUNTED
    tcase_add_test(tc, test_compiling_without_memory);
    tcase_add_test(tc, test_running_without_memory);
#endif
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
