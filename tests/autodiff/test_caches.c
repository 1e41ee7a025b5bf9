/* Results do not depend on the sizes of caches, to the bit: programs are compiled for several, and
 * what follows them does differ. */
#include "autodiff/base/caches.h"
#include "autodiff/plan/program.h"
#include "tests/support.h"
#include <stdlib.h>
#include <string.h>

enum { ROWS = 300 };
static const char *const sizes[] = { NULL, "1000", "65536", "262144", "4194304", "67108864" };
enum { SIZES = sizeof sizes / sizeof *sizes };

static void set_size(int k)
{
    if (sizes[k]) setenv("COSTATE_CACHE", sizes[k], 1);
    else unsetenv("COSTATE_CACHE");
}

typedef struct {
    ad_tape *tape;
    int nin, nout;
    ad_var in[5], out[5];
} function;

/* A network's step: native code for several rows, sums over rows, fused groups. */
static function network(ad_dtype dtype, int64_t width)
{
    ad_tape *t = ad_tape_new(dtype);
    function f = { .tape = t, .nin = 3, .nout = 3 };
    ad_var x = f.in[0] = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 0, NULL),
           w = f.in[1] = ad_param(t, AD_SHAPE(2, width), NULL),
           v = f.in[2] = ad_param(t, AD_SHAPE(width, 2), NULL),
           y = ad_matmul(ad_tanh(ad_matmul(x, w)), v);
    y = ad_matmul(ad_tanh(ad_matmul(ad_add(x, ad_scale(y, 0.1)), w)), v);
    f.out[0] = y;
    ad_grad(ad_sum_all(ad_square(y)), 2, f.in + 1, f.out + 1);
    return f;
}

/* 3 x 3 taps, by tiles, with all three derivatives. */
static function convolution(ad_dtype dtype)
{
    ad_tape *t = ad_tape_new(dtype);
    function f = { .tape = t, .nin = 2, .nout = 3 };
    f.in[0] = ad_input_rows(t, AD_SHAPE(AD_ROWS, 8, 8, 32), 0, NULL);
    f.in[1] = ad_param(t, AD_SHAPE(3, 3, 32, 32), NULL);
    ad_conv_options same = { .before = { 1, 1 }, .after = { 1, 1 } };
    f.out[0] = ad_conv(f.in[0], f.in[1], &same);
    ad_grad(ad_sum_all(ad_square(f.out[0])), 2, f.in, f.out + 1);
    return f;
}

static function wide(ad_dtype dtype)
{
    ad_tape *t = ad_tape_new(dtype);
    function f = { .tape = t, .nin = 2, .nout = 2 };
    f.in[0] = ad_input_rows(t, AD_SHAPE(AD_ROWS, 512), 0, NULL);
    f.in[1] = ad_param(t, AD_SHAPE(512, 512), NULL);
    f.out[0] = ad_tanh(ad_matmul(ad_tanh(ad_matmul(f.in[0], f.in[1])), f.in[1]));
    ad_grad(ad_sum_all(ad_square(f.out[0])), 1, f.in + 1, f.out + 1);
    return f;
}

static function function_of(int k)
{
    ad_dtype dtype = k % 2 ? AD_F32 : AD_F64;
    return k / 2 == 0 ? network(dtype, 64) : k / 2 == 1 ? convolution(dtype) : wide(dtype);
}
enum { FUNCTIONS = 6 };

/* Everything that the function gives, one array after the other. */
static char *evaluate(const function *f, int64_t rows, size_t *bytes)
{
    const size_t size = ad_tape_dtype(f->tape) == AD_F32 ? sizeof(float) : sizeof(double);
    ad_program *p = ad_compile(f->nin, f->in, f->nout, f->out);
    ck_assert_ptr_nonnull(p);
    native_always(p);
    share_always(p);
    ad_workspace *w = ad_workspace_new(p, 2);
    void *in[5] = { NULL }, *out[5] = { NULL };
    ad_rng rng = ad_rng_seed(7);
    for (int i = 0; i < f->nin; i++) {
        const int64_t n = ad_count(ad_shape_of(f->in[i]), rows);
        in[i] = malloc((size_t)n * size);
        for (int64_t e = 0; e < n; e++) {
            const double value = 0.2 * ad_rng_normal(&rng);
            if (size == sizeof(float)) ((float *)in[i])[e] = (float)value;
            else ((double *)in[i])[e] = value;
        }
    }
    *bytes = 0;
    for (int j = 0; j < f->nout; j++)
        *bytes += (size_t)ad_count(ad_shape_of(f->out[j]), rows) * size;
    char *all = malloc(*bytes), *at = all;
    for (int j = 0; j < f->nout; j++) {
        out[j] = at;
        at += (size_t)ad_count(ad_shape_of(f->out[j]), rows) * size;
    }
    ck_assert_msg(!ad_run(p, w, rows, (const void *const *)in, out), "%s", ad_workspace_error(w));
    for (int i = 0; i < f->nin; i++) free(in[i]);
    ad_workspace_free(w);
    ad_program_free(p);
    return all;
}

START_TEST(test_same_bits)
{
    static const int64_t counts[] = { 1, 7, ROWS };
    function f = function_of(_i);
    for (int c = 0; c < 3; c++) {
        size_t bytes;
        set_size(0);
        char *want = evaluate(&f, counts[c], &bytes);
        for (int k = 1; k < SIZES; k++) {
            set_size(k);
            char *got = evaluate(&f, counts[c], &bytes);
            ck_assert_msg(!memcmp(want, got, bytes), "cache of %s bytes, %lld rows", sizes[k],
                          (long long)counts[c]);
            free(got);
        }
        free(want);
    }
    unsetenv("COSTATE_CACHE");
    ad_tape_free(f.tape);
}
END_TEST

/* The override is heeded, and what follows the cache does. */
START_TEST(test_followed)
{
    for (int k = 1; k < SIZES; k++) {
        set_size(k);
        ck_assert_int_eq(ad_cache_bytes(), atoll(sizes[k]));
    }
    setenv("COSTATE_CACHE", "no number", 1);
    const int64_t asked = ad_cache_bytes();
    unsetenv("COSTATE_CACHE");
    ck_assert_int_eq(ad_cache_bytes(), asked);
    ck_assert(asked >= 128 << 10 && asked <= 4 << 20);
    function f = function_of(2);
    int64_t bytes[2];
    for (int k = 0; k < 2; k++) {
        set_size(k ? 4 : 2);
        ad_program *p = ad_compile(f.nin, f.in, f.nout, f.out);
        bytes[k] = ad_program_bytes(p, ROWS, 1, NULL);
        ad_program_free(p);
    }
    ck_assert_int_lt(bytes[0], bytes[1]); /* more tiles at a time take more scratch memory */
    unsetenv("COSTATE_CACHE");
    ad_tape_free(f.tape);
}
END_TEST

int main(void)
{
    TCase *tc = suite_case("caches", "caches");
    tcase_add_loop_test(tc, test_same_bits, 0, FUNCTIONS);
    tcase_add_test(tc, test_followed);
    return suite_run();
}
