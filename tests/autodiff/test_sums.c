/* Sums over many rows in single precision, of numbers of one sign: none is worse than the sum of a
 * few hundred numbers, however many rows there are. Against double precision, by programs and on
 * demand. */
#include "autodiff/plan/program.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>

enum { MOST_INPUTS = 4, THREADS = 2 };

/* A problem on a tape: its inputs and their numbers, the same in both precisions. */
typedef struct {
    ad_tape *tape;
    int64_t rows;
    bool equal; /* numbers are all equal: rounding goes one way */
    int n;
    ad_var in[MOST_INPUTS];
    float *data[MOST_INPUTS];
    int64_t size[MOST_INPUTS];
} problem;

static int64_t elements(ad_shape s, int64_t rows)
{
    int64_t n = 1;
    for (int i = 0; i < s.rank; i++) n *= s.dim[i] == AD_ROWS ? rows : s.dim[i];
    return n;
}

/* Between 0 and 1. */
static ad_var input(problem *p, ad_shape s)
{
    const int64_t n = elements(s, p->rows);
    ck_assert_int_gt(n, 0);
    float *x = malloc((size_t)n * sizeof *x);
    uint64_t state = (uint64_t)p->n + 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x[i] = p->equal ? 0.1F : (float)(state >> 40) * 0x1p-24F;
    }
    p->data[p->n] = x;
    p->size[p->n] = n;
    const bool rows = s.rank > 0 && s.dim[0] == AD_ROWS;
    return p->in[p->n++] = rows ? ad_input_rows(p->tape, s, p->rows, x) : ad_param(p->tape, s, x);
}

static ad_var gradient(ad_var y, ad_var bar, ad_var x)
{
    ad_var result;
    ad_vjp(1, &y, &bar, 1, &x, &result);
    return result;
}

static ad_var weight(problem *p, int64_t in, int64_t out)
{
    ad_var x = input(p, AD_SHAPE(AD_ROWS, in)), bar = input(p, AD_SHAPE(AD_ROWS, out)),
           w = input(p, AD_SHAPE(in, out));
    return gradient(ad_matmul(x, w), bar, w);
}

static ad_var small_weight(problem *p) { return weight(p, 8, 8); }
static ad_var middle_weight(problem *p) { return weight(p, 64, 64); }
static ad_var large_weight(problem *p) { return weight(p, 256, 264); }
static ad_var column(problem *p) { return weight(p, 64, 1); }

/* Each row has many places of its own. */
static ad_var weight_of_places(problem *p)
{
    ad_var x = input(p, AD_SHAPE(AD_ROWS, 40, 8)), bar = input(p, AD_SHAPE(AD_ROWS, 40, 16)),
           w = input(p, AD_SHAPE(8, 16));
    return gradient(ad_matmul(x, w), bar, w);
}

static ad_var weights_side_by_side(problem *p)
{
    ad_var x = input(p, AD_SHAPE(AD_ROWS, 3, 4, 5)), bar = input(p, AD_SHAPE(AD_ROWS, 3, 5, 6)),
           w = input(p, AD_SHAPE(3, 4, 6));
    return gradient(ad_contract("bijk,ijl->bikl", AD_VARS(x, w)), bar, w);
}

static ad_var convolution(problem *p)
{
    ad_var x = input(p, AD_SHAPE(AD_ROWS, 8, 8, 4)), bar = input(p, AD_SHAPE(AD_ROWS, 8, 8, 4)),
           w = input(p, AD_SHAPE(3, 3, 4, 4));
    const ad_conv_options options = { .before = { 1, 1 }, .after = { 1, 1 } };
    return gradient(ad_conv(x, w, &options), bar, w);
}

static ad_var bias(problem *p)
{
    ad_var x = input(p, AD_SHAPE(AD_ROWS, 64)), bar = input(p, AD_SHAPE(AD_ROWS, 64)),
           b = input(p, AD_SHAPE(64));
    return gradient(ad_add(x, b), bar, b);
}

static ad_var factor(problem *p)
{
    ad_var x = input(p, AD_SHAPE(AD_ROWS, 8)), bar = input(p, AD_SHAPE(AD_ROWS, 8)),
           w = input(p, AD_SHAPE(8));
    return gradient(ad_mul(x, w), bar, w);
}

static ad_var all(problem *p) { return ad_sum_all(input(p, AD_SHAPE(AD_ROWS, 3))); }

/* All rows take the first item. */
static ad_var item(problem *p)
{
    ad_var index = input(p, AD_SHAPE(AD_ROWS)), bar = input(p, AD_SHAPE(AD_ROWS, 4)),
           table = input(p, AD_SHAPE(3, 4));
    return gradient(ad_take(table, index), bar, table);
}

/* ---- the same over an axis that is not declared as rows ---- */

static ad_var product(problem *p)
{
    return ad_matmul(input(p, AD_SHAPE(4, p->rows)), input(p, AD_SHAPE(p->rows, 4)));
}

static ad_var kernel_of_images(problem *p)
{
    ad_var x = input(p, AD_SHAPE(p->rows, 8, 8, 4)), bar = input(p, AD_SHAPE(p->rows, 8, 8, 4)),
           w = input(p, AD_SHAPE(3, 3, 4, 4));
    const ad_conv_options options = { .before = { 1, 1 }, .after = { 1, 1 } };
    return gradient(ad_conv(x, w, &options), bar, w);
}

static ad_var kernel_of_few_channels(problem *p)
{
    ad_var x = input(p, AD_SHAPE(p->rows, 6, 1)), bar = input(p, AD_SHAPE(p->rows, 4, 2)),
           w = input(p, AD_SHAPE(3, 1, 2));
    return gradient(ad_conv(x, w, &(ad_conv_options){ 0 }), bar, w);
}

/* All places have the first item. */
static ad_var gathered(problem *p)
{
    int64_t *indices = calloc((size_t)p->rows, sizeof *indices);
    ad_var x = input(p, AD_SHAPE(3, 4)), bar = input(p, AD_SHAPE(p->rows, 4)),
           y = ad_gather(x, 0, p->rows, indices);
    free(indices);
    return gradient(y, bar, x);
}

static ad_var scattered_behind(problem *p)
{
    int64_t *indices = calloc((size_t)p->rows, sizeof *indices);
    ad_var y = ad_scatter_add(input(p, AD_SHAPE(2, p->rows, 3)), 1, 2, indices);
    free(indices);
    return ad_slice(y, 1, 0, 1);
}

static ad_var taken(problem *p)
{
    ad_var index = input(p, AD_SHAPE(p->rows)), bar = input(p, AD_SHAPE(p->rows, 4)),
           table = input(p, AD_SHAPE(3, 4));
    return gradient(ad_take(table, index), bar, table);
}

static const struct {
    const char *name;
    ad_var (*record)(problem *p);
    int64_t least_rows, most_rows;
} cases[] = {
    { "gradient of a small weight", small_weight, 1000, 1000000 },
    { "gradient of a weight", middle_weight, 1000, 100000 },
    { "gradient of a large weight", large_weight, 1000, 20000 },
    { "gradient of a column", column, 1000, 100000 },
    { "gradient of a weight that each row uses many times", weight_of_places, 1000, 20000 },
    { "gradient of weights side by side", weights_side_by_side, 1000, 100000 },
    { "gradient of the kernel of a convolution", convolution, 1000, 20000 },
    { "gradient of a bias", bias, 1000, 100000 },
    { "gradient of a factor", factor, 1000, 100000 },
    { "sum of all", all, 1000, 1000000 },
    { "gradient of an item that all rows take", item, 1000, 1000000 },
    { "product over a long axis", product, 5000, 200000 },
    { "gradient of a kernel, images without rows", kernel_of_images, 1000, 20000 },
    { "gradient of a kernel of few channels, without rows", kernel_of_few_channels, 1000, 200000 },
    { "gradient of an element gathered by all", gathered, 1000, 1000000 },
    { "elements that are all scattered to one place", scattered_behind, 1000, 1000000 },
    { "gradient of an item that all places take", taken, 1000, 1000000 },
};

static void run(const problem *p, ad_dtype dtype, ad_var y, double *result)
{
    const int64_t n = elements(ad_shape_of(y), 1);
    const void *in[MOST_INPUTS];
    double *wide[MOST_INPUTS] = { NULL };
    for (int i = 0; i < p->n; i++) {
        in[i] = p->data[i];
        if (dtype == AD_F32) continue;
        in[i] = wide[i] = malloc((size_t)p->size[i] * sizeof(double));
        for (int64_t j = 0; j < p->size[i]; j++) wide[i][j] = p->data[i][j];
    }
    void *out = malloc((size_t)n * ad_dtype_size(dtype));
    ad_program *program = ad_compile(p->n, p->in, 1, &y);
    ad_workspace *w = ad_workspace_new(program, THREADS);
    ck_assert_msg(!ad_run(program, w, p->rows, in, &out), "%s", ad_workspace_error(w));
    for (int64_t i = 0; i < n; i++)
        result[i] = dtype == AD_F32 ? (double)((float *)out)[i] : ((double *)out)[i];
    ad_workspace_free(w);
    ad_program_free(program);
    free(out);
    for (int i = 0; i < p->n; i++) free(wide[i]);
}

static ad_var begin(problem *p, ad_dtype dtype, int k, int64_t rows, bool equal)
{
    *p = (problem){ .tape = ad_tape_new(dtype), .rows = rows, .equal = equal };
    ad_var y = cases[k].record(p);
    ck_assert_msg(!ad_tape_error(p->tape), "%s", ad_tape_error(p->tape));
    return y;
}

static void end(problem *p)
{
    for (int i = 0; i < p->n; i++) free(p->data[i]);
    ad_tape_free(p->tape);
}

/* What a chain of 512 numbers loses: a fraction of a unit each where they are equal, and its root
 * otherwise.
 */
static void compare(int k, int64_t rows, bool equal, const char *how, int64_t n, const double *y,
                    const double *right)
{
    const double most = equal ? 8e-6 : 1.2e-6;
    for (int64_t i = 0; i < n; i++)
        ck_assert_msg(fabs(y[i] - right[i]) <= most * right[i],
                      "%s, %s, %lld %s rows: element %lld is %.9g, right %.9g (%.1e)",
                      cases[k].name, how, (long long)rows, equal ? "equal" : "random", (long long)i,
                      y[i], right[i], fabs(y[i] / right[i] - 1));
}

START_TEST(rounding_does_not_grow_with_the_rows)
{
    for (int equal = 0; equal < 2; equal++)
        for (int64_t rows = cases[_i].least_rows; rows <= cases[_i].most_rows; rows *= 20) {
            problem p;
            ad_var y = begin(&p, AD_F64, _i, rows, equal);
            const int64_t n = elements(ad_shape_of(y), 1);
            double *right = malloc((size_t)n * sizeof *right), *of = malloc((size_t)n * sizeof *of);
            run(&p, AD_F64, y, right);
            end(&p);
            y = begin(&p, AD_F32, _i, rows, equal);
            run(&p, AD_F32, y, of);
            compare(_i, rows, equal, "a program", n, of, right);
            ck_assert(!ad_get(y, of));
            compare(_i, rows, equal, "on demand", n, of, right);
            end(&p);
            free(right);
            free(of);
        }
}
END_TEST

/* y_k = x_k W of one row, or of a few, whose cotangents are all b. */
static void take_step(const ad_scan_step *at, void *user)
{
    (void)user;
    at->output[0] = ad_matmul(at->input[0], at->arg[0]);
    at->next[0] = at->carry[0];
}

START_TEST(rounding_does_not_grow_with_the_steps_of_a_scan)
{
    enum { STEPS = 100000, IN = 3, OUT = 2 };
    const int64_t rows = _i ? 4 : 1;
    double right[IN * OUT], of[IN * OUT];
    for (int single = 0; single < 2; single++) {
        problem p = { .tape = ad_tape_new(single ? AD_F32 : AD_F64), .rows = rows, .equal = true };
        ad_var x = input(&p, AD_SHAPE(AD_ROWS, STEPS, IN)), w = input(&p, AD_SHAPE(IN, OUT)),
               bar = input(&p, AD_SHAPE(AD_ROWS, STEPS, OUT)), h = input(&p, AD_SHAPE(AD_ROWS, 1)),
               last, y;
        ck_assert(!ad_scan(&(ad_recurrence){ .step = take_step,
                                             .steps = STEPS,
                                             .ncarry = 1,
                                             .ninput = 1,
                                             .narg = 1,
                                             .noutput = 1,
                                             .carry = &h,
                                             .input = &x,
                                             .arg = &w },
                           &last, &y));
        ck_assert(!ad_get(gradient(y, bar, w), single ? of : right));
        end(&p);
    }
    for (int i = 0; i < IN * OUT; i++)
        ck_assert_msg(fabs(of[i] - right[i]) <= 1.5e-5 * right[i], "%.9g, right %.9g (%.1e)", of[i],
                      right[i], fabs(of[i] / right[i] - 1));
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("sums", "rows");
    tcase_add_loop_test(tests, rounding_does_not_grow_with_the_rows, 0,
                        (int)(sizeof cases / sizeof *cases));
    tcase_add_loop_test(tests, rounding_does_not_grow_with_the_steps_of_a_scan, 0, 2);
    return suite_run();
}
