/* Native code for several rows at a time has the interpreter's bits: every operation on special
 * values, what moves elements, sums over rows of what it makes, what kernels make in between; for
 * every number of rows, so with and without rows that are left over, and of threads; and touches no
 * memory but the arrays. Random tapes compare the two as well. */
#include "autodiff/plan/program.h"
#include "tests/autodiff/native_operations.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST = 300, WIDE = 6, INPUTS = 9, OUTPUTS = 4, TERMS = 20 };
static const int64_t row_counts[] = {
    1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 31, 32, 33, 64, 127, 129, MOST
};
enum { COUNTS = sizeof row_counts / sizeof *row_counts };

static const double special[] = { 0.0,    -0.0,  1.0,      -1.0,      0.3, -2.5,     3.7,
                                  1e-310, 1e300, INFINITY, -INFINITY, NAN, 0.9999999 };
enum { SPECIAL = sizeof special / sizeof *special };

static bool ask_for_native(void)
{
    setenv("COSTATE_NATIVE", "1", 1);
    unsetenv("COSTATE_ISA");
    return ad_native_wanted();
}

static void put(ad_dtype dtype, void *array, int64_t i, double x)
{
    if (dtype == AD_F32) ((float *)array)[i] = (float)x;
    else ((double *)array)[i] = x;
}

static double get(ad_dtype dtype, const void *array, int64_t i)
{
    return dtype == AD_F32 ? (double)((const float *)array)[i] : ((const double *)array)[i];
}

/* How many steps are machine code. */
static int native_steps(const ad_program *p)
{
    const ad_pieces *pieces = ad_program_pieces(p, true);
    int n = 0;
    for (int f = 0; f < p->nphase && pieces->phase; f++) {
        const ad_piece_list *list = &pieces->phase[f][AD_SECTION_BODY];
        for (int32_t i = 0; i < list->n; i++)
            if (list->piece[i].code >= 0) n += list->piece[i].end - list->piece[i].begin;
    }
    return n;
}

typedef struct {
    ad_dtype dtype;
    ad_tape *tape;
    int nin, nout;
    ad_var in[INPUTS], out[OUTPUTS];
    void *data[INPUTS];
} function;

/* The last input has no rows. */
static function open_function(ad_dtype dtype, int nin, int64_t width, bool specials)
{
    function f = { .dtype = dtype, .tape = ad_tape_new(dtype), .nin = nin };
    for (int k = 0; k < nin; k++) {
        f.in[k] = k < nin - 1 ? ad_input_rows(f.tape, AD_SHAPE(AD_ROWS, width), 0, NULL)
                              : ad_input(f.tape, AD_SHAPE(width), NULL);
        f.data[k] = malloc(MOST * WIDE * sizeof(double));
        ck_assert_ptr_nonnull(f.data[k]);
        for (int i = 0; i < MOST * WIDE; i++)
            put(dtype, f.data[k], i,
                specials ? special[(i + k * (i / SPECIAL)) % SPECIAL] : sin(1 + 1.3 * i + k));
    }
    return f;
}

static void close_function(function *f)
{
    for (int k = 0; k < f->nin; k++) free(f->data[k]);
    ad_tape_free(f->tape);
}

/* An array before whose beginning or behind whose end nothing can be read or written. */
typedef struct {
    char *map, *array;
    size_t bytes, all;
} fenced;

static fenced fence(size_t bytes, bool end)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page;
    fenced m = { .bytes = bytes, .all = inner + 2 * page };
    m.map = mmap(NULL, m.all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(m.map, MAP_FAILED);
    ck_assert_int_eq(mprotect(m.map + page, inner, PROT_READ | PROT_WRITE), 0);
    m.array = m.map + page + (end ? inner - bytes : 0);
    return m;
}

static size_t bytes_of(const function *f, ad_var x, int64_t rows)
{
    return (size_t)ad_count(ad_shape_of(x), rows) * ad_dtype_size(f->dtype);
}

static void run(const function *f, const ad_program *p, int64_t rows, int threads, void *const *out)
{
    ad_workspace *w = ad_workspace_new(p, threads);
    fenced in[INPUTS], result[OUTPUTS];
    const void *from[INPUTS];
    void *to[OUTPUTS];
    for (int k = 0; k < f->nin; k++) {
        in[k] = fence(bytes_of(f, f->in[k], rows), (k + rows) % 2);
        from[k] = memcpy(in[k].array, f->data[k], in[k].bytes);
    }
    for (int j = 0; j < f->nout; j++) {
        result[j] = fence(bytes_of(f, f->out[j], rows), (j + rows / 2) % 2);
        to[j] = result[j].array;
    }
    ck_assert_msg(ad_run(p, w, rows, from, to) == 0, "%s", ad_workspace_error(w));
    for (int k = 0; k < f->nin; k++) munmap(in[k].map, in[k].all);
    for (int j = 0; j < f->nout; j++) {
        memcpy(out[j], result[j].array, result[j].bytes);
        munmap(result[j].map, result[j].all);
    }
    ad_workspace_free(w);
}

/* Native code against kernels. least: steps that have to be native. */
static void compare(const function *f, const char *what, int least)
{
    ad_program *p = ad_compile(f->nin, f->in, f->nout, f->out);
    ad_program *q = ad_compile_with(&(ad_compile_options){ .interpreted = true }, f->nin, f->in,
                                    f->nout, f->out);
    ck_assert_msg(p && q, "%s: %s", what, ad_tape_error(f->tape));
    ck_assert_msg(native_steps(p) >= least, "%s: %d native steps", what, native_steps(p));
    ck_assert_int_eq(native_steps(q), 0);
    native_always(p);
    void *a[OUTPUTS], *b[OUTPUTS];
    for (int j = 0; j < OUTPUTS; j++) {
        a[j] = calloc(MOST * WIDE * WIDE, sizeof(double));
        b[j] = calloc(MOST * WIDE * WIDE, sizeof(double));
        ck_assert(a[j] && b[j]);
    }
    for (int k = 0; k < COUNTS; k++) {
        run(f, p, row_counts[k], 1 + k % 2, a);
        run(f, q, row_counts[k], 1, b);
        for (int j = 0; j < f->nout; j++)
            for (int64_t i = 0; i < ad_count(ad_shape_of(f->out[j]), row_counts[k]); i++) {
                const double x = get(f->dtype, a[j], i), y = get(f->dtype, b[j], i);
                ck_assert_msg(
                    (isnan(x) && isnan(y)) || !memcmp(&x, &y, sizeof x),
                    "%s: %lld rows: element %lld of output %d is %.17g in native code, %.17g else",
                    what, (long long)row_counts[k], (long long)i, j, x, y);
            }
    }
    for (int j = 0; j < OUTPUTS; j++) {
        free(a[j]);
        free(b[j]);
    }
    ad_program_free(p);
    ad_program_free(q);
}

/* ---- pointwise operations ---- */

START_TEST(test_pointwise)
{
    const operation *o = &operations[_i % OPERATIONS];
    const ad_dtype dtype = _i / OPERATIONS & 1 ? AD_F32 : AD_F64;
    if (!ask_for_native()) return;
    for (int64_t width = 1; width <= 3; width++) {
        function f = open_function(dtype, 3, width, true);
        const ad_var x = f.in[0], y = f.in[1], p = f.in[2];
        f.out[f.nout++] = o->one ? o->one(x) : o->two ? o->two(x, y) : o->three(x, y, p);
        f.out[f.nout++] = o->one ? o->one(ad_mul(x, p)) : o->two ? o->two(p, x) : o->three(p, x, y);
        compare(&f, o->name, 2);
        close_function(&f);
    }
}
END_TEST

/* ---- what moves elements; sums; what is between pieces ---- */

static ad_var part(ad_var x, int64_t from, int64_t to) { return ad_slice(x, 1, from, to); }

static void record(function *f, int what)
{
    const ad_var x = f->in[0], y = f->in[1], p = f->in[2];
    const ad_var grid = ad_reshape(x, AD_SHAPE(AD_ROWS, 2, 3));
    ad_var *out = f->out;
    f->nout = 2;
    out[1] = ad_sub(y, x);
    switch (what) {
    case 0: out[0] = ad_concatenate(3, (ad_var[]){ part(y, 3, 5), x, part(x, 0, 1) }, 1); break;
    case 1: out[0] = ad_mul(ad_flip(x, 1), p); break;
    case 2: out[0] = ad_gather(ad_mul(x, y), 1, 4, (int64_t[]){ 5, 0, 0, 3 }); break;
    case 3: out[0] = ad_scatter_add(ad_mul(x, y), 1, 3, (int64_t[]){ 2, 0, 0, 2, 1, 0 }); break;
    case 4: out[0] = ad_sum(ad_mul(grid, grid), 1, (int[]){ 2 }, false); break;
    case 5: out[0] = ad_reduce_max(ad_mul(x, y), 1, (int[]){ 1 }, true); break;
    case 6: out[0] = ad_transpose(ad_square(grid), (int[]){ 0, 2, 1 }); break;
    case 7: out[0] = ad_pad(ad_mul(x, y), 1, 2, 1); break;
    /* Sums over the rows, behind the piece that makes what they add. */
    case 8:
        out[1] = ad_sum(ad_mul(part(x, 0, 1), part(y, 1, 2)), 1, (int[]){ 0 }, false);
        out[0] = ad_mul(ad_sub(x, y), p);
        out[2] = ad_reduce_max(ad_mul(out[0], x), 2, (int[]){ 0, 1 }, false);
        f->nout = 3;
        break;
    /* Kernels between pieces. */
    case 9:
        out[0] = ad_mul(part(ad_exp(ad_mul(part(x, 0, 2), part(y, 2, 4))), 0, 1), part(x, 5, 6));
        out[1] = ad_sum(out[0], 1, (int[]){ 0 }, false);
        break;
    case 10:
        out[0] = ad_tanh(ad_add(
            ad_mul(x, p),
            ad_tanh(ad_mul(y, ad_concatenate(2, (ad_var[]){ part(x, 3, 6), part(x, 0, 3) }, 1)))));
        out[1] = ad_sub(ad_square(out[0]), x);
        break;
    /* A mean of the batch, for which the rows are needed again. */
    case 11:
        out[0] = ad_mul(ad_sub(ad_mul(x, y), ad_mean(ad_mul(x, y), 1, (int[]){ 0 }, true)), x);
        break;
    /* Between kernels, where places in a block are used again for wider rows. */
    case 13: {
        ad_var a = ad_exp(ad_mul(part(x, 0, 2), part(y, 1, 3))), b = ad_exp(part(y, 0, 2));
        ad_var both = ad_concatenate(2, (ad_var[]){ ad_flip(a, 1), ad_flip(b, 1) }, 1);
        ad_var wide = ad_concatenate(2, (ad_var[]){ both, part(both, 1, 3) }, 1);
        out[0] = ad_exp(ad_flip(ad_mul(ad_flip(wide, 1), p), 1));
        break;
    }
    /* A product. */
    case 12: out[0] = ad_contract("rij,ri->rj", 2, (ad_var[]){ grid, part(y, 1, 3) }); break;
    default: {
        ad_var z = ad_sum_all(ad_square(ad_sub(ad_mul(x, ad_mul(part(x, 1, 2), p)), y)));
        ad_grad(z, 2, (ad_var[]){ x, p }, out);
    }
    }
}
enum { RECORDED = 15 };

START_TEST(test_recorded)
{
    const ad_dtype dtype = _i & 1 ? AD_F32 : AD_F64;
    if (!ask_for_native()) return;
    for (int what = 0; what < RECORDED; what++) {
        function f = open_function(dtype, 3, WIDE, _i & 2);
        char name[32];
        record(&f, what);
        snprintf(name, sizeof name, "case %d", what);
        compare(&f, name, 1);
        close_function(&f);
    }
}
END_TEST

/* ---- how arrays are read and written ---- */

/* More arrays than registers for pointers, more numbers than registers, rows of 1 to 6 elements
 * that are used from the first, from the second or alone, in other orders, or handed on as they
 * are. */
START_TEST(test_arrays)
{
    const ad_dtype dtype = _i & 1 ? AD_F32 : AD_F64;
    const int64_t n = _i / 2 + 1;
    if (!ask_for_native()) return;
    for (int nin = 2; nin <= INPUTS; nin++) {
        function f = open_function(dtype, nin, n, false);
        const ad_var *x = f.in, p = x[nin - 1];
        const int64_t last = nin - 2;
        ad_var t[INPUTS], sum = ad_mul(x[0], p);
        for (int64_t k = 0; k <= last; k++) t[k] = ad_mul(x[k], ad_flip(x[last - k], 1));
        for (int64_t k = 0; k <= last; k++) sum = ad_add(ad_mul(t[k], sum), t[last - k]);
        f.out[f.nout++] = sum;
        f.out[f.nout++] = ad_mul(part(sum, n / 2, n), part(x[last], 0, 1));
        f.out[f.nout++] = ad_concatenate(3, (ad_var[]){ part(x[0], n / 2, n), t[0], x[last] }, 1);
        f.out[f.nout++] = ad_neg(part(x[0], n - 1, n));
        char name[48];
        snprintf(name, sizeof name, "%d inputs, rows of %d", nin, (int)n);
        compare(&f, name, 4);
        close_function(&f);
    }
}
END_TEST

/* Elements of rows with others between them that nobody reads. */
START_TEST(test_gaps)
{
    const ad_dtype dtype = _i & 1 ? AD_F32 : AD_F64;
    if (!ask_for_native()) return;
    for (int64_t step = 2; step < WIDE; step++)
        for (int64_t first = 0; first + step < WIDE; first++) {
            function f = open_function(dtype, 3, WIDE, false);
            const ad_var a = part(f.in[0], first, first + 1);
            const ad_var b = part(f.in[0], first + step, first + step + 1);
            const int64_t other = (first + step + 1) % WIDE;
            f.out[f.nout++] = ad_mul(ad_sub(a, b), part(f.in[1], other, other + 1));
            compare(&f, "gaps", 1);
            close_function(&f);
        }
}
END_TEST

/* One number in several elements of a row, more of them than are written together. */
START_TEST(test_repeated)
{
    const ad_dtype dtype = _i & 1 ? AD_F32 : AD_F64;
    if (!ask_for_native()) return;
    for (int64_t n = 2; n <= WIDE; n++) {
        function f = open_function(dtype, 3, n, false);
        const ad_var x = part(f.in[0], 0, 1), y = part(f.in[1], n - 1, n),
                     p = ad_slice(f.in[2], 0, 0, 1);
        const ad_var z = ad_mul(x, y);
        f.out[f.nout++] = z;
        f.out[f.nout++] = ad_broadcast(z, AD_SHAPE(AD_ROWS, n));
        f.out[f.nout++] = ad_concatenate(3, (ad_var[]){ z, z, x }, 1);
        f.out[f.nout++] = ad_concatenate(3, (ad_var[]){ x, x, ad_sub(y, p) }, 1);
        compare(&f, "repeated", 1);
        close_function(&f);
    }
}
END_TEST

/* Many numbers that are the same for all rows. */
START_TEST(test_shared)
{
    const ad_dtype dtype = _i & 1 ? AD_F32 : AD_F64;
    if (!ask_for_native()) return;
    function f = open_function(dtype, 3, WIDE, false);
    ad_var q = ad_input(f.tape, AD_SHAPE(TERMS * WIDE), NULL), sum = f.in[0];
    for (int k = 0; k < TERMS; k++) {
        ad_var factor = ad_slice(q, 0, k * WIDE, (k + 1) * WIDE);
        sum = ad_add(ad_mul(sum, factor), ad_mul(f.in[1], ad_slice(factor, 0, 0, 1)));
    }
    f.in[2] = q;
    f.out[f.nout++] = sum;
    compare(&f, "shared", 1);
    close_function(&f);
}
END_TEST

/* ---- what it says of itself, and where there is none ---- */

START_TEST(test_described)
{
    function f = open_function(AD_F64, 3, WIDE, false);
    record(&f, RECORDED - 1);
    if (_i) setenv("COSTATE_NATIVE", "0", 1);
    ad_program *p = ad_compile(f.nin, f.in, f.nout, f.out);
    char *text = ad_program_describe(p);
    const char *found = strstr(text, "native code, for 4 rows at a time\n");
    ck_assert((found != NULL) == ad_native_wanted());
    ck_assert(!found || strstr(found, " instructions, of blocks up to "));
    free(text);
    ad_program_free(p);
    close_function(&f);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("several", "several");
    tcase_add_loop_test(tests, test_pointwise, 0, 2 * OPERATIONS);
    tcase_add_loop_test(tests, test_recorded, 0, 4);
    tcase_add_loop_test(tests, test_arrays, 0, 2 * WIDE);
    tcase_add_loop_test(tests, test_gaps, 0, 2);
    tcase_add_loop_test(tests, test_repeated, 0, 2);
    tcase_add_loop_test(tests, test_shared, 0, 2);
    tcase_add_loop_test(tests, test_described, 0, 2);
    return suite_run();
}
