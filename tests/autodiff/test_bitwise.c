/* Bits: a network with its exact trace and the VJP of both gives the same ones for any number of
 * threads, and to every row whatever its batch mates and its place among them; for many batch
 * sizes, for pairs of widths, in both types, with every instruction set. */
#include "autodiff/base/isa.h"
#include "autodiff/plan/program.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t widths[] = { 1, 2, 3, 17, 50, 64 };
static const int64_t batches[] = { 1,  2,  3,  5,  6,  7,  8,  9,  10, 11, 12, 16, 31,  32,
                                   33, 34, 35, 36, 37, 38, 39, 40, 41, 63, 64, 65, 511, 512 };
enum {
    WIDTHS = sizeof widths / sizeof *widths,
    BATCHES = sizeof batches / sizeof *batches,
    MOST = 512,
    THREADS = 4
};

/* Inputs: the parameters, x [rows,D], and the cotangents of y [rows,D] and the trace [rows,1].
 * Outputs: what has rows first. */
enum { LAYERS = 3, PARAMETERS = 2 * LAYERS, X = PARAMETERS, Y_BAR, TRACE_BAR, NIN };
enum { Y, TRACE, X_BAR, ROW_OUTPUTS, NOUT = ROW_OUTPUTS + PARAMETERS };

typedef struct {
    ad_dtype dtype;
    ad_program *program;
    ad_workspace *workspace[THREADS];
    size_t in_bytes[NIN], out_bytes[NOUT]; /* of one row, or of the whole */
    char *in[NIN], *whole[NOUT];           /* of MOST rows */
} subject;

static void fill(ad_dtype dtype, void *data, size_t bytes, int seed)
{
    float *f = data;
    double *d = data;
    for (size_t i = 0; i < bytes / ad_dtype_size(dtype); i++) {
        double x = 0.8 * sin(1.7 * (double)i + 0.9 * seed + 0.37 * (double)(i % 7));
        if (dtype == AD_F32) f[i] = (float)x;
        else d[i] = x;
    }
}

static void record(ad_tape *t, int64_t d, int64_t h, ad_var *in, ad_var *out)
{
    const int64_t size[LAYERS + 1] = { d, h, h, d };
    ad_var bars[2], y = in[X] = ad_input_rows(t, AD_SHAPE(AD_ROWS, d), 0, NULL);
    for (int k = 0; k < LAYERS; k++) {
        in[2 * k] = ad_param(t, AD_SHAPE(size[k], size[k + 1]), NULL);
        in[2 * k + 1] = ad_param(t, AD_SHAPE(size[k + 1]), NULL);
        y = ad_add(ad_matmul(y, in[2 * k]), in[2 * k + 1]);
        if (k + 1 < LAYERS) y = ad_tanh(y);
    }
    out[Y] = y;
    out[TRACE] = ad_jacobian_trace(y, in[X]);
    bars[0] = in[Y_BAR] = ad_input_rows(t, AD_SHAPE(AD_ROWS, d), 0, NULL);
    bars[1] = in[TRACE_BAR] = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 0, NULL);
    ad_var x[1 + PARAMETERS], bar[1 + PARAMETERS];
    x[0] = in[X];
    memcpy(x + 1, in, PARAMETERS * sizeof *x);
    ad_vjp(2, out, bars, 1 + PARAMETERS, x, bar);
    memcpy(out + X_BAR, bar, sizeof bar);
}

static size_t bytes_of(ad_var x)
{
    ad_shape s = ad_shape_of(x);
    size_t n = ad_dtype_size(ad_tape_dtype(x.tape));
    for (int i = 0; i < s.rank; i++) n *= s.dim[i] == AD_ROWS ? 1 : (size_t)s.dim[i];
    return n;
}

static subject make_subject(ad_dtype dtype, int64_t d, int64_t h)
{
    subject s = { .dtype = dtype };
    ad_tape *t = ad_tape_new(dtype);
    ad_var in[NIN], out[NOUT];
    record(t, d, h, in, out);
    s.program = ad_compile(NIN, in, NOUT, out);
    share_always(s.program);
    ck_assert_msg(s.program != NULL, "%s", ad_tape_error(t) ? ad_tape_error(t) : "no program");
    for (int k = 0; k < THREADS; k++) s.workspace[k] = ad_workspace_new(s.program, k + 1);
    for (int k = 0; k < NIN; k++) {
        size_t bytes = (s.in_bytes[k] = bytes_of(in[k])) * (k < PARAMETERS ? 1 : MOST);
        s.in[k] = malloc(bytes);
        fill(dtype, s.in[k], bytes, k);
    }
    for (int j = 0; j < NOUT; j++)
        s.whole[j] = malloc((s.out_bytes[j] = bytes_of(out[j])) * (j < ROW_OUTPUTS ? MOST : 1));
    ad_tape_free(t);
    return s;
}

static void free_subject(subject *s)
{
    for (int k = 0; k < THREADS; k++) ad_workspace_free(s->workspace[k]);
    for (int k = 0; k < NIN; k++) free(s->in[k]);
    for (int j = 0; j < NOUT; j++) free(s->whole[j]);
    ad_program_free(s->program);
}

/* Runs rows first, first + 1, ... of the data. */
static void run(const subject *s, int threads, int64_t first, int64_t rows, char *const *out)
{
    const void *in[NIN];
    for (int k = 0; k < NIN; k++)
        in[k] = s->in[k] + (k < PARAMETERS ? 0 : (size_t)first * s->in_bytes[k]);
    int code = ad_run(s->program, s->workspace[threads - 1], rows, in, (void *const *)out);
    ck_assert_msg(code == 0, "%s", ad_workspace_error(s->workspace[threads - 1]));
}

static void check_batch(const subject *s, const char *what, int64_t rows)
{
    char *out[2][NOUT];
    int64_t first = rows * 7 % (MOST + 1 - rows);
    for (int k = 0; k < 2; k++)
        for (int j = 0; j < NOUT; j++)
            out[k][j] = malloc(s->out_bytes[j] * (size_t)(j < ROW_OUTPUTS ? rows : 1));
    for (int threads = 1; threads <= THREADS; threads++) {
        run(s, threads, first, rows, out[threads > 1]);
        for (int j = 0; j < NOUT; j++) {
            const char *got = out[threads > 1][j],
                       *want = j < ROW_OUTPUTS ? s->whole[j] + (size_t)first * s->out_bytes[j]
                                               : out[0][j];
            size_t size = s->out_bytes[j] * (size_t)(j < ROW_OUTPUTS ? rows : 1);
            ck_assert_msg(memcmp(got, want, size) == 0,
                          "%s: output %d differs with %d threads, %d rows from row %d", what, j,
                          threads, (int)rows, (int)first);
        }
    }
    for (int k = 0; k < 2; k++)
        for (int j = 0; j < NOUT; j++) free(out[k][j]);
}

/* Each width as that of the state and as that of the layers, with each of the others. */
START_TEST(test_bits)
{
    char what[80];
    int64_t d = widths[_i / WIDTHS], h = widths[_i % WIDTHS];
    for (int isa = 0; ad_isa_available(isa); isa++) {
        setenv("COSTATE_ISA", ad_isa_available(isa), 1);
        for (ad_dtype dtype = AD_F32; dtype <= AD_F64; dtype++) {
            snprintf(what, sizeof what, "%s, f%d, widths %d-%d-%d-%d", ad_isa_available(isa),
                     dtype == AD_F32 ? 32 : 64, (int)d, (int)h, (int)h, (int)d);
            subject s = make_subject(dtype, d, h);
            run(&s, 1, 0, MOST, s.whole);
            for (int k = 0; k < BATCHES; k++) check_batch(&s, what, batches[k]);
            free_subject(&s);
        }
    }
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("bitwise", "bitwise");
    tcase_add_loop_test(tests, test_bits, 0, WIDTHS * WIDTHS);
    return suite_run();
}
