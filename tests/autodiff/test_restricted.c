/* Products and small programs where no memory may become executable (systemd's
 * MemoryDenyWriteExecute, prctl(PR_SET_MDWE)), so that generated code cannot run, and products of
 * so many kinds that generating code for each would fill the memory: plain C computes them. */
#include "autodiff/extension.h"
#include "autodiff/kernels/gemm.h"
#include "tests/support.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- the restriction ---- */

enum { DENY_WRITE_EXECUTE = 65 /* PR_SET_MDWE, which headers older than Linux 6.3 do not know */ };

/* mmap and mprotect fail where they are to make memory executable. */
static bool filter_calls(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_mmap, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_mprotect, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { .len = sizeof code / sizeof *code, .filter = code };
    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
           !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* Whether this process is restricted now; false: this system cannot do it. */
static bool restrict_memory(bool by_filter)
{
    if (by_filter ? !filter_calls() : prctl(DENY_WRITE_EXECUTE, 1, 0, 0, 0) != 0) return false;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_int_eq(mprotect(page, 4096, PROT_READ | PROT_EXEC), -1);
    return true;
}

/* ---- products ---- */

static double number(int64_t i) { return sin(0.7 * (double)i + 0.3); }

static void *numbers(ad_dtype dtype, int64_t n)
{
    float *f = malloc((size_t)n * sizeof *f);
    double *d = malloc((size_t)n * sizeof *d);
    for (int64_t i = 0; i < n; i++) {
        f[i] = (float)number(i);
        d[i] = f[i];
    }
    free(dtype == AD_F32 ? (void *)d : f);
    return dtype == AD_F32 ? (void *)f : d;
}

static double at(ad_dtype dtype, const void *x, int64_t i)
{
    return dtype == AD_F32 ? (double)((const float *)x)[i] : ((const double *)x)[i];
}

static void check_product(ad_dtype dtype, int64_t n, const void *y, double want, int64_t i,
                          const char *what)
{
    double tolerance = (dtype == AD_F32 ? 1e-6 : 1e-14) * (double)(n + 10);
    ck_assert_msg(fabs(at(dtype, y, i) - want) <= tolerance, "%s: element %lld is %.9g, not %.9g",
                  what, (long long)i, at(dtype, y, i), want);
}

/* x w of rows, and the weights' gradient of sum(x w)^2 / 2, which is x^T (x w); lazily, or
 * compiled. */
static void check_rows(ad_dtype dtype, int64_t rows, int64_t n, int64_t m, bool compiled)
{
    ad_tape *tape = ad_tape_new(dtype);
    void *x = numbers(dtype, rows * n), *w = numbers(dtype, n * m);
    size_t size = dtype == AD_F32 ? sizeof(float) : sizeof(double);
    void *y = malloc((size_t)(rows * m) * size), *g = malloc((size_t)(n * m) * size);
    ad_var in[] = { ad_input_rows_data(tape, AD_SHAPE(AD_ROWS, n), rows, dtype, x),
                    ad_param_data(tape, AD_SHAPE(n, m), dtype, w) };
    ad_var out[] = { ad_matmul(in[0], in[1]), in[0] };
    ad_grad(ad_scale(ad_sum_all(ad_square(out[0])), 0.5), 1, &in[1], &out[1]);
    if (compiled) {
        ad_program *program = ad_compile(2, in, 2, out);
        ck_assert_msg(program != NULL, "%s", ad_tape_error(tape));
        ad_workspace *space = ad_workspace_new(program, 1);
        ad_run_args args = { .rows = rows,
                             .inputs = (const void *[]){ x, w },
                             .outputs = (void *[]){ y, g } };
        ck_assert_int_eq(ad_run_with(program, space, &args), 0);
        ad_workspace_free(space);
        ad_program_free(program);
    } else {
        memcpy(y, ad_value(out[0]), (size_t)(rows * m) * size);
        memcpy(g, ad_value(out[1]), (size_t)(n * m) * size);
    }
    double *exact = calloc((size_t)(rows * m), sizeof *exact);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < m; j++) {
            for (int64_t i = 0; i < n; i++)
                exact[r * m + j] += at(dtype, x, r * n + i) * at(dtype, w, i * m + j);
            check_product(dtype, n, y, exact[r * m + j], r * m + j, "x w");
        }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < m; j++) {
            double sum = 0;
            for (int64_t r = 0; r < rows; r++) sum += at(dtype, x, r * n + i) * exact[r * m + j];
            check_product(dtype, rows * n, g, sum, i * m + j, "gradient");
        }
    free(exact);
    free(x);
    free(w);
    free(y);
    free(g);
    ad_tape_free(tape);
}

/* a b without rows. */
static void check_matrices(ad_dtype dtype, int64_t n, int64_t k, int64_t m)
{
    ad_tape *tape = ad_tape_new(dtype);
    void *a = numbers(dtype, k * n), *b = numbers(dtype, k * m);
    ad_var x[] = { ad_param_data(tape, AD_SHAPE(k, n), dtype, a),
                   ad_param_data(tape, AD_SHAPE(k, m), dtype, b) };
    const void *y = ad_value(ad_contract("ki,kj->ij", 2, x));
    for (int64_t i = 0; i < n; i += 1 + n / 40)
        for (int64_t j = 0; j < m; j += 1 + m / 40) {
            double want = 0;
            for (int64_t l = 0; l < k; l++)
                want += at(dtype, a, l * n + i) * at(dtype, b, l * m + j);
            check_product(dtype, k, y, want, i * m + j, "a b");
        }
    free(a);
    free(b);
    ad_tape_free(tape);
}

static void check_products(int64_t shift)
{
    static const int64_t sizes[][3] = { { 1, 3, 5 },     { 7, 2, 2 },   { 4, 16, 16 },
                                        { 130, 64, 33 }, { 33, 1, 40 }, { 200, 24, 1 },
                                        { 64, 100, 60 } };
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int i = 0; i < 4; i++)
            check_rows(i & 1 ? AD_F32 : AD_F64, sizes[k][0], sizes[k][1] + shift,
                       sizes[k][2] + shift, i & 2);
    for (int i = 0; i < 2; i++) {
        check_matrices(i ? AD_F32 : AD_F64, 5 + shift, 9, 6);
        check_matrices(i ? AD_F32 : AD_F64, 40, 30 + shift, 50);
        check_matrices(i ? AD_F32 : AD_F64, 190, 180, 170 + shift); /* large enough for BLAS */
    }
}

/* A small program of one row, which would be native code. */
static void check_small(bool native)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 0, NULL),
           y = ad_mul(ad_add(x, x), ad_sqrt(x));
    ad_program *program = ad_compile(1, &x, 1, &y);
    ad_workspace *space = ad_workspace_new(program, 1);
    double in[] = { 1, 4, 9 }, out[3];
    ck_assert_int_eq(ad_run(program, space, 1, (const void *const[]){ in }, (void *const[]){ out }),
                     0);
    for (int i = 0; i < 3; i++) ck_assert_double_eq(out[i], 2 * in[i] * sqrt(in[i]));
    char *text = ad_program_describe(program);
    if (!native) ck_assert(!strstr(text, "native code"));
    free(text);
    ad_workspace_free(space);
    ad_program_free(program);
    ad_tape_free(tape);
}

/* _i: how memory is restricted, whether the instruction set is the generic one, whether products
 * came before. */
START_TEST(test_no_executable_memory)
{
    if (_i & 2) setenv("COSTATE_ISA", "generic", 1);
    if (_i & 4) check_products(0);
    check_small(true);
    if (!restrict_memory(_i & 1)) return;
    check_small(false);
    check_products(0);
    check_products(1); /* others than before */
}
END_TEST

/* Of ever new kinds of products only so many get code, and keep it; all are right. */
START_TEST(test_ever_new_sizes)
{
    enum { SIDE = 24, MOST = 8192 };
    int generated = 0;
    double a[SIDE * SIDE], b[SIDE * SIDE], c[SIDE * SIDE];
    for (int i = 0; i < SIDE * SIDE; i++) {
        a[i] = number(i);
        b[i] = number(3 * i);
    }
    bool first = false;
    for (int i = 0; i <= SIDE * SIDE * SIDE; i++) {
        int j = i % (SIDE * SIDE * SIDE); /* the first once more at the end */
        ad_gemm g = { .dtype = AD_F64,
                      .m = 1 + j % SIDE,
                      .n = 1 + j / SIDE % SIDE,
                      .k = 1 + j / SIDE / SIDE,
                      .ldc = SIDE };
        g.lda = g.k;
        g.ldb = g.n;
        ad_gemm_prepare(&g);
        generated += g.ntile > 0;
        if (i == 0) first = g.ntile > 0;
        if (i == SIDE * SIDE * SIDE) ck_assert(first == (g.ntile > 0));
        char scratch[4096];
        ck_assert_int_le((int)ad_gemm_scratch(&g), (int)sizeof scratch);
        ad_gemm_run(&g, 0, a, b, c, scratch);
        double want = 0;
        for (int64_t l = 0; l < g.k; l++) want += a[(g.m - 1) * g.k + l] * b[l * g.n + g.n - 1];
        ck_assert_double_eq_tol(c[(g.m - 1) * SIDE + g.n - 1], want, 1e-13);
    }
    ck_assert_int_le(generated, MOST + 1);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("restricted", "restricted");
    tcase_add_test(tests, test_ever_new_sizes);
    tcase_add_loop_test(tests, test_no_executable_memory, 0,
                        8); /* last: without forks the restriction stays */
    return suite_run();
}
