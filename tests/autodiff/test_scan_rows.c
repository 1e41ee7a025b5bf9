/* Scans whose rows are divided into blocks that go through all steps by themselves: the same bits
 * for any number of threads, and the values and gradients of the recurrence recorded step by step.
 * Where rows meet within a step they are not divided. */
#include "autodiff/autodiff.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { T = 5, ROWS = 203, H = 3, OPERANDS = 4, RESULTS = 6 };

/* What meets: nothing; the mean over all rows; the largest; a square of a sum as an output. */
typedef enum { APART, MEAN, LARGEST, SQUARE, WAYS } way;

static ad_var next(way w, ad_var h, ad_var u, ad_var weight, ad_var per_row)
{
    ad_var pre = ad_add(ad_matmul(h, weight), ad_mul(u, per_row));
    if (w == MEAN) pre = ad_sub(pre, ad_div(ad_sum_all(pre), ad_row_count(pre.tape)));
    if (w == LARGEST) pre = ad_sub(pre, ad_reduce_max(pre, 0, NULL, false));
    return ad_tanh(pre);
}

static ad_var output(way w, ad_var h)
{
    return w == SQUARE ? ad_square(ad_sum_all(h)) : ad_mul(h, ad_exp(h));
}

static void step(const ad_scan_step *at, void *user)
{
    way w = *(way *)user;
    at->next[0] = next(w, at->carry[0], at->input[0], at->arg[0], at->arg[1]);
    at->output[0] = output(w, at->next[0]);
}

static const ad_shape shapes[OPERANDS] = {
    { 2, { AD_ROWS, H } }, { 3, { AD_ROWS, T, H } }, { 2, { H, H } }, { 2, { AD_ROWS, 1 } }
};

/* Results: the last carry, the loss, its gradients. */
static ad_program *compile(ad_dtype dtype, way w, bool scanned)
{
    ad_tape *tape = ad_tape_new(dtype);
    ad_var x[OPERANDS], last, all, out[RESULTS];
    for (int i = 0; i < OPERANDS; i++)
        x[i] = shapes[i].dim[0] == AD_ROWS ? ad_input_rows(tape, shapes[i], 0, NULL)
                                           : ad_param(tape, shapes[i], NULL);
    if (scanned) {
        ad_recurrence r = { .step = step,
                            .user = &w,
                            .steps = T,
                            .ncarry = 1,
                            .carry = x,
                            .ninput = 1,
                            .input = x + 1,
                            .narg = 2,
                            .arg = x + 2,
                            .noutput = 1 };
        ck_assert_msg(ad_scan(&r, &last, &all) == 0, "%s", ad_tape_error(tape));
        out[1] = ad_sum_all(all);
    } else {
        last = x[0];
        out[1] = ad_scalar(tape, 0);
        for (int k = 0; k < T; k++) {
            ad_var u = ad_reshape(ad_slice(x[1], 1, k, k + 1), AD_SHAPE(AD_ROWS, H));
            last = next(w, last, u, x[2], x[3]);
            out[1] = ad_add(out[1], ad_sum_all(output(w, last)));
        }
    }
    out[0] = last;
    out[1] = ad_add(out[1], ad_sum_all(ad_square(last)));
    ad_grad(out[1], OPERANDS, x, out + 2);
    ad_program *p = ad_compile(OPERANDS, x, RESULTS, out);
    ck_assert_msg(p, "%s", ad_tape_error(tape));
    ad_tape_free(tape);
    return p;
}

static int64_t size_of(int result)
{
    if (result == 1) return 1;
    ad_shape s = shapes[result ? result - 2 : 0];
    int64_t n = 1;
    for (int i = 0; i < s.rank; i++) n *= s.dim[i] == AD_ROWS ? ROWS : s.dim[i];
    return n;
}

/* All results one after the other; *n: elements. */
static char *run(const ad_program *p, ad_dtype dtype, int threads, int64_t *n)
{
    size_t bytes = dtype == AD_F32 ? sizeof(float) : sizeof(double);
    void *in[OPERANDS], *out[RESULTS];
    ad_rng rng = ad_rng_seed(4);
    *n = 0;
    for (int i = 0; i < OPERANDS; i++) {
        int64_t size = size_of(i + 2);
        in[i] = malloc((size_t)size * bytes);
        for (int64_t k = 0; k < size; k++) {
            double value = 0.6 * ad_rng_normal(&rng);
            if (dtype == AD_F32) ((float *)in[i])[k] = (float)value;
            else ((double *)in[i])[k] = value;
        }
    }
    for (int j = 0; j < RESULTS; j++) *n += size_of(j);
    char *all = malloc((size_t)*n * bytes), *next_out = all;
    for (int j = 0; j < RESULTS; j++) {
        out[j] = next_out;
        next_out += (size_t)size_of(j) * bytes;
    }
    ad_workspace *w = ad_workspace_new(p, threads);
    for (int k = 0; k < 2; k++) /* again, in the same memory */
        ck_assert_msg(ad_run(p, w, ROWS, (const void *const *)in, out) == 0, "%s",
                      ad_workspace_error(w));
    ad_workspace_free(w);
    for (int i = 0; i < OPERANDS; i++) free(in[i]);
    return all;
}

START_TEST(test_blocks)
{
    way w = (way)(_i % WAYS);
    ad_dtype dtype = _i < WAYS ? AD_F64 : AD_F32;
    size_t bytes = dtype == AD_F32 ? sizeof(float) : sizeof(double);
    ad_program *scan = compile(dtype, w, true), *plain = compile(dtype, w, false);
    int64_t n;
    char *first = run(scan, dtype, 1, &n), *right = run(plain, dtype, 1, &n);
    for (int threads = 2; threads <= 5; threads++) {
        char *other = run(scan, dtype, threads, &n);
        ck_assert_msg(!memcmp(first, other, (size_t)n * bytes), "%d threads", threads);
        free(other);
    }
    for (int64_t i = 0; i < n; i++) {
        double got =
            dtype == AD_F32 ? (double)((float *)(void *)first)[i] : ((double *)(void *)first)[i];
        double want =
            dtype == AD_F32 ? (double)((float *)(void *)right)[i] : ((double *)(void *)right)[i];
        double unit = dtype == AD_F32 ? 2e-5 : 1e-12;
        ck_assert_msg(fabs(got - want) <= unit * (1 + fabs(want)), "element %lld: %.15g, %.15g",
                      (long long)i, got, want);
    }
    free(first);
    free(right);
    ad_program_free(scan);
    ad_program_free(plain);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("scan_rows", "scan_rows");
    tcase_add_loop_test(tests, test_blocks, 0, 2 * WAYS);
    return suite_run();
}
