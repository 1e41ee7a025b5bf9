/* Structural kernels against loops by index arithmetic, in double. */
#include "autodiff/kernels/kernel.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_IN = 4, SEEDS = 40 };

/* ---- random numbers, arrays, index arithmetic ------------------------------------------------ */

static uint64_t state;

static uint32_t bits(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static int64_t pick(int64_t lo, int64_t hi) { return lo + bits() % (uint32_t)(hi - lo + 1); }
static double uniform(void) { return bits() / (double)(1u << 30) - 1; }
static size_t size_of(ad_dtype t) { return t == AD_F32 ? 4 : 8; }
static double at(ad_dtype t, const void *p, int64_t i)
{
    return t == AD_F32 ? ((const float *)p)[i] : ((const double *)p)[i];
}

static void put(ad_dtype t, void *p, int64_t i, double x)
{
    if (t == AD_F32) ((float *)p)[i] = (float)x;
    else ((double *)p)[i] = x;
}

static ad_shape with_rows(ad_shape s, int64_t rows)
{
    for (int i = 0; i < s.rank; i++)
        if (s.dim[i] == AD_ROWS) s.dim[i] = rows;
    return s;
}

static int64_t count(ad_shape s)
{
    int64_t n = 1;
    for (int i = 0; i < s.rank; i++) n *= s.dim[i];
    return n;
}

static int64_t flat(ad_shape s, const int64_t *index)
{
    int64_t n = 0;
    for (int i = 0; i < s.rank; i++) n = n * s.dim[i] + index[i];
    return n;
}

static void unflat(ad_shape s, int64_t n, int64_t *index)
{
    for (int i = s.rank - 1; i >= 0; i--) {
        index[i] = n % s.dim[i];
        n /= s.dim[i];
    }
}

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    ck_assert_ptr_nonnull(p);
    return p;
}

static void *random_array(ad_dtype t, int64_t n)
{
    void *p = aligned((size_t)n * size_of(t));
    for (int64_t i = 0; i < n; i++) put(t, p, i, uniform());
    return p;
}

/* A shape of the given rank, perhaps with rows. */
static ad_shape random_shape(int rank, bool rows)
{
    ad_shape s = { .rank = rank };
    for (int i = 0; i < rank; i++) s.dim[i] = pick(1, 5);
    if (rows) s.dim[0] = AD_ROWS;
    return s;
}

/* ---- one kernel under test ------------------------------------------------------------------- */

typedef struct {
    ad_kernel k;
    ad_shape in_shapes[MAX_IN];
    int64_t attr[64];
    int64_t rows;
    void *in[MAX_IN], *out;
    double *expected;
} trial;

static trial *trial_new(ad_op op, ad_dtype dtype)
{
    trial *t = calloc(1, sizeof *t);
    ck_assert_ptr_nonnull(t);
    t->k = (ad_kernel){ .op = op, .dtype = dtype };
    t->rows = pick(1, 9);
    return t;
}

static void add_operand(trial *t, ad_shape s) { t->in_shapes[t->k.nin++] = s; }

/* Random operands, and a zeroed reference for the result. */
static void make_data(trial *t, ad_shape out)
{
    t->k.out = out;
    t->k.in_shapes = t->in_shapes;
    t->k.attr = t->attr;
    for (int i = 0; i < t->k.nin; i++)
        if (!t->in[i])
            t->in[i] = random_array(t->k.dtype, count(with_rows(t->in_shapes[i], t->rows)));
    int64_t n = count(with_rows(out, t->rows));
    t->out = random_array(t->k.dtype, n);
    t->expected = calloc((size_t)n + 1, sizeof(double));
    ck_assert_ptr_nonnull(t->expected);
}

static void *scratch_for(const ad_kernel *k, int64_t rows)
{
    size_t bytes = ad_kernel_scratch(k, rows);
    unsigned char *p = aligned(bytes + 64);
    memset(p, 0xff, bytes); /* NaN: what is not written must not be read */
    memset(p + bytes, 0x5a, 64);
    return p;
}

static void check_scratch(const ad_kernel *k, int64_t rows, void *scratch)
{
    const unsigned char *end = (unsigned char *)scratch + ad_kernel_scratch(k, rows);
    bool kept = true;
    for (int i = 0; i < 64; i++) kept &= end[i] == 0x5a;
    ck_assert_msg(kept, "wrote past the scratch");
    free(scratch);
}

static void run_rows(const ad_kernel *k, int64_t rows, void *const *in, void *out)
{
    void *scratch = scratch_for(k, rows);
    k->run(k, rows, (const void *const *)in, out, scratch);
    check_scratch(k, rows, scratch);
}

static void trial_free(trial *t)
{
    ad_kernel_clear(&t->k);
    for (int i = 0; i < t->k.nin; i++) free(t->in[i]);
    free(t->out);
    free(t->expected);
    free(t);
}

/* Check hands on each assertion that holds: one an element would be most of what is done here. */
static void compare(const trial *t, double tolerance, const char *what)
{
    int64_t n = count(with_rows(t->k.out, t->rows));
    for (int64_t i = 0; i < n; i++) {
        double got = at(t->k.dtype, t->out, i), want = t->expected[i];
        if (!(fabs(got - want) <= tolerance * (1 + fabs(want))))
            ck_abort_msg("%s: element %d of %d is %.9g, should be %.9g", what, (int)i, (int)n, got,
                         want);
    }
}

/* Runs, compares, frees. */
static void finish(trial *t, const char *what)
{
    int64_t n = count(with_rows(t->k.out, t->rows));
    ck_assert_msg(ad_kernel_prepare(&t->k, pick(0, 1) ? t->rows : 4 * t->rows), "%s: not prepared",
                  what);
    if (t->k.reduces_rows) ad_kernel_identity(&t->k, t->out, n);
    run_rows(&t->k, t->rows, t->in, t->out);
    compare(t, t->k.dtype == AD_F32 ? 1e-5 : 1e-13, what);
    trial_free(t);
}

/* Calls body(dtype, rows) for many seeds. */
#define FOR_TRIALS(dtype, rows)                                                                    \
    for (int seed = 0; seed < SEEDS; seed++)                                                       \
        for (int rows = 0, dtype = (state = (uint64_t)seed * 7919 + 1, AD_F32); rows < 2;          \
             dtype == AD_F64 ? (rows++, dtype = AD_F32) : dtype++)

/* ---- layout ---------------------------------------------------------------------------------- */

START_TEST(layout_reshape_transpose)
{
    FOR_TRIALS(dtype, rows)
    {
        trial *t = trial_new(AD_OP_transpose, dtype);
        int rank = (int)pick(rows ? 2 : 1, 4);
        ad_shape in = random_shape(rank, rows), out = in;
        if (pick(0, 3) == 0) in.dim[rank - 1] = pick(20, 40);
        for (int i = 0; i < rank; i++) t->attr[i] = i;
        for (int i = rank - 1; i > rows; i--) {
            int j = (int)pick(rows, i);
            int64_t swap = t->attr[i];
            t->attr[i] = t->attr[j];
            t->attr[j] = swap;
        }
        for (int i = 0; i < rank; i++) out.dim[i] = in.dim[t->attr[i]];
        add_operand(t, in);
        make_data(t, out);
        ad_shape r = with_rows(in, t->rows), s = with_rows(out, t->rows);
        for (int64_t n = 0; n < count(s); n++) {
            int64_t index[4], from[4];
            unflat(s, n, index);
            for (int i = 0; i < rank; i++) from[t->attr[i]] = index[i];
            t->expected[n] = at(dtype, t->in[0], flat(r, from));
        }
        finish(t, "transpose");

        t = trial_new(AD_OP_reshape, dtype);
        in = random_shape(3, rows);
        out = AD_SHAPE(in.dim[0], in.dim[1] * in.dim[2]);
        add_operand(t, in);
        make_data(t, out);
        for (int64_t n = 0; n < count(with_rows(out, t->rows)); n++)
            t->expected[n] = at(dtype, t->in[0], n);
        finish(t, "reshape");
    }
}
END_TEST

START_TEST(layout_broadcast_slice_flip)
{
    FOR_TRIALS(dtype, rows)
    {
        for (int which = 0; which < 3; which++) {
            trial *t = trial_new(which == 0   ? AD_OP_broadcast
                                 : which == 1 ? AD_OP_slice
                                              : AD_OP_flip,
                                 dtype);
            int rank = (int)pick(1 + rows, 4);
            ad_shape in = random_shape(rank, rows), out = in;
            for (int i = 0; i < rank; i++) {
                if (which == 0 && pick(0, 1)) in.dim[i] = 1;
                if (which == 1 && i >= rows) {
                    t->attr[i] = pick(0, in.dim[i] - 1);
                    out.dim[i] = pick(1, in.dim[i] - t->attr[i]);
                }
                if (which == 2 && i >= rows) t->attr[0] |= pick(0, 1) << i;
            }
            add_operand(t, in);
            make_data(t, out);
            ad_shape r = with_rows(in, t->rows), s = with_rows(out, t->rows);
            for (int64_t n = 0; n < count(s); n++) {
                int64_t index[4];
                unflat(s, n, index);
                for (int i = 0; i < rank; i++) {
                    if (which == 0 && r.dim[i] == 1) index[i] = 0;
                    if (which == 1) index[i] += t->attr[i];
                    if (which == 2 && t->attr[0] >> i & 1) index[i] = s.dim[i] - 1 - index[i];
                }
                t->expected[n] = at(dtype, t->in[0], flat(r, index));
            }
            finish(t, which == 0 ? "broadcast" : which == 1 ? "slice" : "flip");
        }
    }
}
END_TEST

START_TEST(layout_assemble)
{
    FOR_TRIALS(dtype, rows)
    {
        trial *t = trial_new(AD_OP_assemble, dtype);
        int rank = (int)pick(1 + rows, 4), n = (int)pick(1, 3);
        ad_shape out = random_shape(rank, rows);
        bool concatenate = pick(0, 1) && rank > rows;
        if (concatenate) out.dim[rank - 1] = n * 2;
        for (int j = 0; j < n; j++) {
            ad_shape in = out;
            for (int i = rows; i < rank; i++) {
                t->attr[j * rank + i] =
                    concatenate ? (i == rank - 1 ? 2 * j : 0) : pick(0, out.dim[i] - 1);
                in.dim[i] = concatenate ? (i == rank - 1 ? 2 : in.dim[i])
                                        : pick(1, out.dim[i] - t->attr[j * rank + i]);
            }
            add_operand(t, in);
        }
        make_data(t, out);
        for (int j = 0; j < n; j++) {
            ad_shape r = with_rows(t->in_shapes[j], t->rows);
            for (int64_t l = 0; l < count(r); l++) {
                int64_t index[4];
                unflat(r, l, index);
                for (int i = 0; i < rank; i++) index[i] += t->attr[j * rank + i];
                t->expected[flat(with_rows(out, t->rows), index)] += at(dtype, t->in[j], l);
            }
        }
        finish(t, "assemble");
    }
}
END_TEST

START_TEST(layout_gather_scatter)
{
    FOR_TRIALS(dtype, rows)
    {
        for (int scatter = 0; scatter < 2; scatter++) {
            trial *t = trial_new(scatter ? AD_OP_scatter_add : AD_OP_gather, dtype);
            int rank = (int)pick(1 + rows, 4), axis = (int)pick(rows, rank - 1);
            ad_shape whole = random_shape(rank, rows), part = whole;
            part.dim[axis] = pick(1, 6);
            t->attr[0] = axis;
            for (int i = 0; i < part.dim[axis]; i++) t->attr[1 + i] = pick(0, whole.dim[axis] - 1);
            t->k.nattr = 1 + (int)part.dim[axis];
            add_operand(t, scatter ? part : whole);
            make_data(t, scatter ? whole : part);
            ad_shape p = with_rows(part, t->rows), w = with_rows(whole, t->rows);
            for (int64_t n = 0; n < count(p); n++) {
                int64_t index[4];
                unflat(p, n, index);
                index[axis] = t->attr[1 + index[axis]];
                int64_t far = flat(w, index);
                if (scatter) t->expected[far] += at(dtype, t->in[0], n);
                else t->expected[n] = at(dtype, t->in[0], far);
            }
            finish(t, scatter ? "scatter_add" : "gather");
        }
    }
}
END_TEST

static int64_t clamped(double x, int64_t n)
{
    return !(x > 0) ? 0 : x > n - 1 ? n - 1 : (int64_t)x;
}

/* take and put_add: table with or without rows, index with or without, one place a row or more. */
START_TEST(layout_take_put)
{
    FOR_TRIALS(dtype, table_rows)
    {
        for (int index_rows = 0; index_rows < 2; index_rows++)
            for (int put_back = 0; put_back < 2; put_back++) {
                trial *t = trial_new(put_back ? AD_OP_put_add : AD_OP_take, dtype);
                int64_t n = pick(1, 6), d = pick(1, 4), m = pick(0, 1) ? pick(2, 5) : 1;
                bool rows = table_rows || index_rows;
                ad_shape table = table_rows ? AD_SHAPE(AD_ROWS, n, d) : AD_SHAPE(n, d),
                         item = m > 1 && rows ? AD_SHAPE(AD_ROWS, m, d)
                                              : AD_SHAPE(rows ? AD_ROWS : m, d);
                ad_shape where = index_rows            ? AD_SHAPE(AD_ROWS, m)
                                 : m > 1 || pick(0, 1) ? AD_SHAPE(m)
                                                       : AD_SHAPE(1, 1);
                add_operand(t, put_back ? item : table);
                add_operand(t, where);
                make_data(t, put_back ? table : item);
                static const double odd[] = { -3, 1e9, NAN, INFINITY, -INFINITY };
                int64_t nwhere = (index_rows ? t->rows : 1) * m;
                for (int64_t r = 0; r < nwhere; r++)
                    put(dtype, t->in[1], r, pick(0, 3) ? (double)pick(0, n - 1) : odd[pick(0, 4)]);
                for (int64_t e = 0; e < (rows ? t->rows : 1) * m * d; e++) {
                    int64_t r = e / d / m, k = e / d % m;
                    int64_t i = clamped(at(dtype, t->in[1], (index_rows ? r * m : 0) + k), n),
                            far = ((table_rows ? r * n : 0) + i) * d + e % d;
                    if (put_back) t->expected[far] += at(dtype, t->in[0], e);
                    else t->expected[e] = at(dtype, t->in[0], far);
                }
                finish(t, put_back ? "put_add" : "take");
            }
    }
}
END_TEST

START_TEST(layout_locate)
{
    FOR_TRIALS(dtype, rows)
    {
        trial *t = trial_new(AD_OP_locate, dtype);
        int64_t n = pick(2, 9);
        ad_shape s = rows ? AD_SHAPE(AD_ROWS, 1) : AD_SHAPE(1);
        add_operand(t, s);
        add_operand(t, AD_SHAPE(n));
        make_data(t, s);
        for (int64_t i = 0; i < n; i++) put(dtype, t->in[1], i, (double)i);
        for (int64_t i = 0; i < (rows ? t->rows : 1); i++) {
            double x = pick(0, 8) == 0 ? NAN : pick(-2, 10) + (pick(0, 1) ? 0.5 : 0);
            put(dtype, t->in[0], i, x);
            for (int64_t j = 0; j <= n - 2; j++)
                if (j <= x) t->expected[i] = (double)j;
        }
        finish(t, "locate");
    }
}
END_TEST

/* ---- reductions ------------------------------------------------------------------------------ */

START_TEST(reduce_sum_max)
{
    FOR_TRIALS(dtype, rows)
    {
        for (int max = 0; max < 2; max++) {
            trial *t = trial_new(max ? AD_OP_reduce_max : AD_OP_sum, dtype);
            int rank = (int)pick(1, 4);
            ad_shape in = random_shape(rank, rows), out = in;
            if (pick(0, 3) == 0) in.dim[rank - 1] = rank - 1 >= rows ? pick(100, 700) : AD_ROWS;
            out.dim[rank - 1] = in.dim[rank - 1];
            t->attr[0] = pick(0, (1 << rank) - 1);
            t->k.nattr = 1;
            for (int i = 0; i < rank; i++)
                if (t->attr[0] >> i & 1) out.dim[i] = 1;
            add_operand(t, in);
            make_data(t, out);
            ad_shape r = with_rows(in, t->rows), s = with_rows(out, t->rows);
            for (int64_t n = 0; max && n < count(s); n++) t->expected[n] = -INFINITY;
            for (int64_t n = 0; n < count(r); n++) {
                int64_t index[4];
                unflat(r, n, index);
                for (int i = 0; i < rank; i++)
                    if (t->attr[0] >> i & 1) index[i] = 0;
                double x = at(dtype, t->in[0], n), *e = &t->expected[flat(s, index)];
                *e = max ? fmax(*e, x) : *e + x;
            }
            finish(t, max ? "reduce_max" : "sum");
        }
    }
}
END_TEST

START_TEST(reduce_cumsum)
{
    FOR_TRIALS(dtype, rows)
    {
        trial *t = trial_new(AD_OP_cumsum, dtype);
        int rank = (int)pick(1 + rows, 4), axis = (int)pick(rows, rank - 1);
        ad_shape s = random_shape(rank, rows);
        t->attr[0] = axis;
        t->attr[1] = pick(0, 1);
        t->k.nattr = 2;
        add_operand(t, s);
        make_data(t, s);
        ad_shape r = with_rows(s, t->rows);
        for (int64_t n = 0; n < count(r); n++) {
            int64_t index[4];
            unflat(r, n, index);
            int64_t here = index[axis];
            for (int64_t i = 0; i < r.dim[axis]; i++) {
                index[axis] = i;
                if (t->attr[1] ? i >= here : i <= here)
                    t->expected[n] += at(dtype, t->in[0], flat(r, index));
            }
        }
        finish(t, "cumsum");
    }
}
END_TEST

/* Sums over rows of whole numbers, which are exact in any order, for widths that have loops of
 * their own and widths that have none. */
START_TEST(reduce_columns)
{
    static const int64_t widths[] = { 1, 2, 3, 4, 7, 8, 9, 31, 32, 33, 64, 65, 72, 96, 128, 130 },
                         counts[] = { 1, 31, 32, 33, 100, 1024, 1057 };
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (size_t j = 0; j < sizeof counts / sizeof *counts; j++)
            for (int dtype = AD_F32; dtype <= AD_F64; dtype++) {
                int64_t w = widths[i], n = counts[j];
                trial *t = trial_new(AD_OP_sum, (ad_dtype)dtype);
                t->rows = n;
                t->attr[0] = 1;
                t->k.nattr = 1;
                add_operand(t, AD_SHAPE(AD_ROWS, w));
                make_data(t, AD_SHAPE(1, w));
                for (int64_t e = 0; e < n * w; e++) {
                    double x = (double)pick(-500, 500);
                    put(t->k.dtype, t->in[0], e, x);
                    t->expected[e % w] += x;
                }
                ck_assert(ad_kernel_prepare(&t->k, n));
                ad_kernel_identity(&t->k, t->out, w);
                run_rows(&t->k, n, t->in, t->out);
                compare(t, 0, "sum of columns");
                trial_free(t);
            }
}
END_TEST

/* A million equal numbers that no float sums well one after the other. */
START_TEST(reduce_is_accurate)
{
    for (int columns = 1; columns <= 2; columns++) {
        int64_t n = 1000000;
        ad_shape in = AD_SHAPE(AD_ROWS, columns), out = AD_SHAPE(1, columns);
        int64_t mask = 1;
        ad_kernel k = { .op = AD_OP_sum,
                        .dtype = AD_F32,
                        .nin = 1,
                        .in_shapes = &in,
                        .out = out,
                        .nattr = 1,
                        .attr = &mask };
        ck_assert(ad_kernel_prepare(&k, n));
        float *x = aligned((size_t)(n * columns) * 4), total[2] = { 0 };
        for (int64_t i = 0; i < n * columns; i++) x[i] = 0.1f;
        void *operand = x;
        run_rows(&k, n, &operand, total);
        for (int i = 0; i < columns; i++)
            ck_assert_msg(fabs(total[i] - 100000.0015) < 0.2, "sum is %.9g", total[i]);
        ad_kernel_clear(&k);
        free(x);
    }
}
END_TEST

/* The kernel of the largest element of each line of in [lines,n], prepared. */
static ad_kernel maxima_of_lines(ad_dtype dtype, const ad_shape *in)
{
    static const int64_t last_axis = 2;
    ad_kernel k = { .op = AD_OP_reduce_max,
                    .dtype = dtype,
                    .nin = 1,
                    .in_shapes = in,
                    .out = AD_SHAPE(in->dim[0], 1),
                    .nattr = 1,
                    .attr = &last_axis };
    ck_assert(ad_kernel_prepare(&k, 1));
    return k;
}

START_TEST(reduce_max_keeps_nan)
{
    ad_shape in = AD_SHAPE(3, 2);
    ad_kernel k = maxima_of_lines(AD_F64, &in);
    double x[6] = { 1, NAN, NAN, 1, -INFINITY, -2 }, y[3];
    void *operand = x;
    run_rows(&k, 1, &operand, y);
    ck_assert(isnan(y[0]) && isnan(y[1]) && y[2] == -2);
    ad_kernel_clear(&k);
}
END_TEST

/* A line that goes by strips: no place of it is left out. */
START_TEST(reduce_max_of_a_line)
{
    enum { LINE = 150 };
    ad_shape in = AD_SHAPE(1, LINE);
    ad_kernel k = maxima_of_lines(AD_F64, &in);
    for (int i = 0; i < LINE; i++) {
        double x[LINE], y;
        void *operand = x;
        for (int l = 0; l < LINE; l++) x[l] = -l;
        x[i] = 3;
        run_rows(&k, 1, &operand, &y);
        ck_assert_double_eq(y, 3);
        x[i] = NAN;
        run_rows(&k, 1, &operand, &y);
        ck_assert(isnan(y));
    }
    ad_kernel_clear(&k);
}
END_TEST

/* Several lines at a time, of every length: each has its largest element, wherever that is, and
 * nothing of those beside it; NaN spreads; zeros of either sign give the positive one. */
START_TEST(reduce_max_of_lines)
{
    enum { LINES = 37, LONGEST = 70 };
    static double wide[LINES * LONGEST];
    static float narrow[LINES * LONGEST];
    ad_dtype dtype = _i ? AD_F64 : AD_F32;
    for (int n = 1; n <= LONGEST; n++) {
        ad_shape in = AD_SHAPE(LINES, n);
        ad_kernel k = maxima_of_lines(dtype, &in);
        for (int place = 0; place < n; place++) {
            double y[LINES];
            void *operand = dtype == AD_F32 ? (void *)narrow : wide;
            for (int i = 0; i < LINES; i++)
                for (int l = 0; l < n; l++) {
                    double top = i % 9 == 8 ? NAN : i % 9 == 7 ? 0 : i - 10;
                    double other = i % 9 == 7 ? -0.0 : i % 9 == 6 ? -INFINITY : i - 11 - l;
                    wide[i * n + l] = l == (place + i) % n ? top : other;
                    narrow[i * n + l] = (float)wide[i * n + l];
                }
            run_rows(&k, 1, &operand, y);
            for (int i = 0; i < LINES; i++) {
                double got = at(dtype, y, i);
                if (i % 9 == 8) ck_assert(isnan(got));
                else if (i % 9 == 7) ck_assert(got == 0 && !signbit(got));
                else ck_assert_double_eq(got, i - 10);
            }
        }
        ad_kernel_clear(&k);
    }
}
END_TEST

/* ---- pointwise ------------------------------------------------------------------------------- */

/* An operand that broadcasts against s. */
static ad_shape narrower(ad_shape s)
{
    int drop = (int)pick(0, s.rank);
    ad_shape r = { .rank = s.rank - drop };
    for (int i = 0; i < r.rank; i++) r.dim[i] = pick(0, 2) == 0 ? 1 : s.dim[i + drop];
    return r;
}

static double value_at(const trial *t, int operand, const int64_t *index, int rank)
{
    ad_shape s = with_rows(t->in_shapes[operand], t->rows);
    int64_t mine[4] = { 0 };
    for (int i = 0; i < s.rank; i++) mine[i] = s.dim[i] == 1 ? 0 : index[i + rank - s.rank];
    return at(t->k.dtype, t->in[operand], flat(s, mine));
}

static void pointwise_trial(ad_dtype dtype, ad_op op, int n, const ad_shape *in, ad_shape out,
                            int64_t rows)
{
    trial *t = trial_new(op, dtype);
    t->rows = rows;
    for (int i = 0; i < n; i++) add_operand(t, in[i]);
    make_data(t, out);
    ad_shape s = with_rows(out, rows);
    for (int64_t l = 0; l < count(s); l++) {
        int64_t index[4];
        unflat(s, l, index);
        double x[3] = { 0 };
        for (int i = 0; i < n; i++) x[i] = value_at(t, i, index, s.rank);
        t->expected[l] = n == 1            ? x[0] * x[0]
                         : op == AD_OP_mul ? x[0] * x[1]
                         : n == 2          ? x[0] - x[1]
                         : x[0] != 0       ? x[1]
                                           : x[2];
    }
    finish(t, "pointwise");
}

START_TEST(pointwise_broadcast)
{
    static const ad_op ops[] = { AD_OP_square, AD_OP_sub, AD_OP_select };
    FOR_TRIALS(dtype, rows)
    {
        for (int n = 1; n <= 3; n++) {
            int rank = (int)pick(rows, 4);
            ad_shape out = random_shape(rank, rows), in[3];
            bool wide = rank > rows && pick(0, 2) == 0;
            if (wide) {
                for (int i = rows; i < rank; i++) out.dim[i] = pick(1, 2);
                out.dim[rank - 1] = pick(0, 1) ? pick(30, 70) : pick(500, 3000);
            }
            for (int i = 0; i < n; i++) in[i] = narrower(out);
            in[n - 1] = out;
            pointwise_trial(dtype, ops[n - 1], n, in, out,
                            !wide && pick(0, 4) == 0 ? pick(50, 300) : pick(1, 9));
        }
    }
}
END_TEST

/* Outer products, and matrices whose rows or columns are scaled. */
START_TEST(pointwise_scaled_lines)
{
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++)
        for (int64_t d = 31; d <= 70; d += 13)
            for (int64_t rows = 1; rows < 20; rows += 6) {
                ad_shape full = AD_SHAPE(AD_ROWS, 5, d);
                ad_shape other[] = { AD_SHAPE(AD_ROWS, 5, 1), AD_SHAPE(AD_ROWS, 1, d),
                                     AD_SHAPE(5, 1), AD_SHAPE(5, d), AD_SHAPE(AD_ROWS, 1, 1) };
                for (unsigned i = 0; i < sizeof other / sizeof *other; i++) {
                    ad_shape one[2] = { full, other[i] }, two[2] = { other[i], full };
                    pointwise_trial(dtype, AD_OP_mul, 2, one, full, rows);
                    pointwise_trial(dtype, AD_OP_mul, 2, two, full, rows);
                }
                pointwise_trial(dtype, AD_OP_mul, 2, other, full, rows);
                pointwise_trial(dtype, AD_OP_mul, 2, other + 1, full, rows);
            }
}
END_TEST

START_TEST(pointwise_common_patterns)
{
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++)
        for (int64_t d = 1; d <= 3000; d = d * 3 + 1)
            for (int64_t rows = 1; rows < 100; rows = rows * 4 + 1) {
                ad_shape full = AD_SHAPE(AD_ROWS, d);
                ad_shape other[] = { AD_SCALAR,   AD_SHAPE(1),    AD_SHAPE(1, 1),
                                     AD_SHAPE(d), AD_SHAPE(1, d), AD_SHAPE(AD_ROWS, 1),
                                     full };
                for (unsigned i = 0; i < sizeof other / sizeof *other; i++) {
                    ad_shape one[2] = { full, other[i] }, two[2] = { other[i], full };
                    pointwise_trial(dtype, AD_OP_sub, 2, one, full, rows);
                    pointwise_trial(dtype, AD_OP_sub, 2, two, full, rows);
                }
                ad_shape outer[2] = { AD_SHAPE(AD_ROWS, 1), AD_SHAPE(1, d) };
                pointwise_trial(dtype, AD_OP_sub, 2, outer, full, rows);
            }
}
END_TEST

/* ---- contract -------------------------------------------------------------------------------- */

/* sizes[label]: AD_ROWS or a size. */
static trial *contract_trial(ad_dtype dtype, const char *a, const char *b, const char *c,
                             const int64_t *sizes, int64_t rows)
{
    trial *t = trial_new(AD_OP_contract, dtype);
    const char *list[3] = { a, b, c };
    ad_shape shape[3] = { { 0 } };
    t->rows = rows;
    t->k.nattr = 3;
    for (int s = 0; s < 3; s++) {
        t->attr[s] = (int64_t)strlen(list[s]);
        for (const char *p = list[s]; *p; p++) {
            t->attr[t->k.nattr++] = *p - 'a';
            shape[s].dim[shape[s].rank++] = sizes[*p - 'a'];
        }
    }
    add_operand(t, shape[0]);
    add_operand(t, shape[1]);
    make_data(t, shape[2]);
    return t;
}

static void contract_reference(const trial *t, const char *a, const char *b, const char *c,
                               const int64_t *sizes)
{
    const char *list[3] = { a, b, c };
    ad_shape shape[3], all = { 0 };
    char names[AD_MAX_RANK] = { 0 };
    for (int s = 0; s < 3; s++) shape[s] = with_rows(s < 2 ? t->in_shapes[s] : t->k.out, t->rows);
    for (int s = 0; s < 3; s++)
        for (const char *p = list[s]; *p; p++)
            if (!memchr(names, *p, (size_t)all.rank)) {
                names[all.rank] = *p;
                all.dim[all.rank++] = sizes[*p - 'a'] == AD_ROWS ? t->rows : sizes[*p - 'a'];
            }
    for (int64_t n = 0; n < count(all); n++) {
        int64_t index[AD_MAX_RANK], mine[3][AD_MAX_RANK];
        unflat(all, n, index);
        for (int s = 0; s < 3; s++)
            for (int i = 0; list[s][i]; i++)
                mine[s][i] = index[(char *)memchr(names, list[s][i], (size_t)all.rank) - names];
        t->expected[flat(shape[2], mine[2])] += at(t->k.dtype, t->in[0], flat(shape[0], mine[0])) *
                                                at(t->k.dtype, t->in[1], flat(shape[1], mine[1]));
    }
}

static void contract_case(ad_dtype dtype, const char *a, const char *b, const char *c,
                          const int64_t *sizes, int64_t rows)
{
    char what[64];
    trial *t = contract_trial(dtype, a, b, c, sizes, rows);
    contract_reference(t, a, b, c, sizes);
    snprintf(what, sizeof what, "contract %s,%s->%s rows %d", a, b, c, (int)rows);
    finish(t, what);
}

/* The labels of `set` in the order given by a permutation number. */
static void order(unsigned set, int which, bool row_first, char *text)
{
    char left[5];
    int n = 0, m = 0;
    for (int i = 0; i < 4; i++)
        if (set >> i & 1) {
            if (row_first && i == 0) text[m++] = 'a';
            else left[n++] = (char)('a' + i);
        }
    for (; n > 0; n--) {
        int i = which % n;
        which /= n;
        text[m++] = left[i];
        memmove(left + i, left + i + 1, (size_t)(n - 1 - i));
    }
    text[m] = 0;
}

/* Every way in which up to four labels occur in a, b and the result; label a is the row axis or
 * not; orders at random. */
START_TEST(contract_all_patterns)
{
    int rows = _i % 2, dtype = _i / 2;
    state = 17 + (uint64_t)_i;
    for (unsigned sa = 0; sa < 16; sa++)
        for (unsigned sb = 0; sb < 16; sb++)
            for (unsigned sc = 0; sc < 16; sc++) {
                if (sc & ~(sa | sb)) continue;
                char a[5], b[5], c[5];
                int64_t sizes[4];
                for (int i = 0; i < 4; i++) sizes[i] = pick(0, 4) == 0 ? 1 : pick(0, 1) ? 2 : 5;
                if (rows) sizes[0] = AD_ROWS;
                order(sa, (int)pick(0, 23), rows, a);
                order(sb, (int)pick(0, 23), rows, b);
                order(sc, (int)pick(0, 23), rows, c);
                contract_case(dtype, a, b, c, sizes, pick(0, 1) ? 3 : 10);
            }
}
END_TEST

/* Sizes at which generated code, tiles and tails are all used. a is the row axis. */
START_TEST(contract_larger)
{
    static const char *spec[][3] = {
        { "ab", "bc", "ac" },    { "ab", "cb", "ac" },   { "bc", "ab", "ac" },
        { "ab", "ac", "bc" },    { "ab", "ac", "cb" },   { "ab", "ab", "a" },
        { "ab", "ab", "" },      { "ab", "ac", "abc" },  { "abc", "cd", "abd" },
        { "abc", "ac", "ab" },   { "abc", "bd", "acd" }, { "ab", "b", "a" },
        { "abc", "abd", "cd" },  { "abc", "adc", "bd" }, { "abc", "dc", "adb" },
        { "ab", "bc", "abc" },   { "ab", "cd", "cd" },   { "a", "ab", "b" },
        { "abc", "bc", "ab" },   { "abc", "b", "ac" },   { "ab", "abc", "ac" },
        { "abc", "acd", "abd" }, { "bc", "cd", "bd" },   { "cb", "cd", "bd" },
        { "ab", "acd", "cbd" },  { "ab", "cbd", "acd" }, { "abc", "ad", "bdc" },
    };
    static const int64_t size[] = { 1, 2, 3, 17, 33 }, rows[] = { 1, 3, 20, 129, 300 };
    state = 5 + (uint64_t)_i;
    for (unsigned s = 0; s < sizeof spec / sizeof *spec; s++)
        for (int again = 0; again < 6; again++) {
            int64_t sizes[4] = { AD_ROWS, size[pick(0, 4)], size[pick(0, 4)], size[pick(0, 4)] };
            contract_case(_i, spec[s][0], spec[s][1], spec[s][2], sizes, rows[pick(0, 4)]);
        }
}
END_TEST

/* Few columns, in every number that has a loop of its own. */
START_TEST(contract_narrow)
{
    static const int64_t sums[] = { 16, 40, 64, 100 }, rows[] = { 1, 5, 37 };
    state = 11 + (uint64_t)_i;
    for (int64_t n = 1; n <= 9; n++)
        for (int i = 0; i < 12; i++) {
            int64_t sizes[3] = { AD_ROWS, sums[i % 4], n };
            contract_case(_i, "ab", "bc", "ac", sizes, rows[i / 4]);
        }
}
END_TEST

/* An infinity gives an infinity wherever it stands along the sum: what a short vector at the end
 * has in common with the one before it is left out, not multiplied by 0. */
START_TEST(contract_narrow_infinite)
{
    enum { SUM = 41 };
    state = 12 + (uint64_t)_i;
    for (int64_t n = 1; n <= 4; n++)
        for (int64_t l = 0; l < SUM; l++) {
            int64_t sizes[3] = { AD_ROWS, SUM, n };
            trial *t = contract_trial(_i, "ab", "bc", "ac", sizes, 3);
            for (int64_t j = 0; j < n; j++) put(t->k.dtype, t->in[1], l * n + j, 1);
            put(t->k.dtype, t->in[0], SUM + l, INFINITY);
            ck_assert(ad_kernel_prepare(&t->k, t->rows));
            run_rows(&t->k, t->rows, t->in, t->out);
            for (int64_t i = 0; i < 3 * n; i++)
                ck_assert((at(t->k.dtype, t->out, i) == INFINITY) == (i / n == 1));
            trial_free(t);
        }
}
END_TEST

/* Trailing axes of so many elements have loops of their own: elements repeated, pieces copied,
 * sequences taken apart, sums. */
START_TEST(short_trailing_axes)
{
    static const int64_t sizes[] = { 2, 3, 4, 7, 8, 16, 32, 64 };
    int64_t n = sizes[_i / 2], m = 37;
    for (int which = 0; which < 4; which++) {
        static const ad_op ops[] = { AD_OP_broadcast, AD_OP_slice, AD_OP_transpose, AD_OP_sum };
        trial *t = trial_new(ops[which], _i % 2);
        ad_shape whole = AD_SHAPE(m, n), out = which == 2   ? AD_SHAPE(n, m)
                                               : which == 3 ? AD_SHAPE(m, 1)
                                                            : whole;
        add_operand(t, which == 0 ? AD_SHAPE(m, 1) : which == 1 ? AD_SHAPE(m, n + 3) : whole);
        t->k.nattr = which == 0 ? 0 : which == 3 ? 1 : 2;
        if (which == 1 || which == 2) {
            t->attr[1] = which == 1 ? 2 : 0;
            t->attr[0] = which == 1 ? 0 : 1;
        }
        if (which == 3) t->attr[0] = 2;
        make_data(t, out);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                double x = at(t->k.dtype, t->in[0],
                              which == 0   ? i
                              : which == 1 ? i * (n + 3) + j + 2
                                           : i * n + j);
                if (which == 3) t->expected[i] += x;
                else t->expected[which == 2 ? j * m + i : i * n + j] = x;
            }
        finish(t, "short trailing axes");
    }
}
END_TEST

START_TEST(contract_without_rows_large)
{
    int64_t sizes[3] = { 200, 170, 150 };
    state = 3;
    contract_case(_i, "ab", "bc", "ac", sizes, 1);
    contract_case(_i, "ba", "bc", "ac", sizes, 1);
    contract_case(_i, "ab", "cb", "ca", sizes, 1);
}
END_TEST

/* ---- rows ------------------------------------------------------------------------------------ */

/* out of every number of rows, at every place in a block, equals the same rows of one large call,
 * bit for bit. */
static void check_independence(trial *t, int64_t row_bytes, const int64_t *in_row_bytes,
                               const char *what)
{
    ad_kernel small = t->k;
    ck_assert(ad_kernel_prepare(&t->k, t->rows));
    run_rows(&t->k, t->rows, t->in, t->out);
    for (int64_t n = 1; n <= t->rows; n++) {
        int64_t from = (n * 7) % (t->rows - n + 1);
        void *in[MAX_IN], *out = aligned((size_t)(n * row_bytes));
        for (int i = 0; i < t->k.nin; i++) in[i] = (char *)t->in[i] + from * in_row_bytes[i];
        const char *want = (const char *)t->out + from * row_bytes;
        run_rows(&t->k, n, in, out);
        ck_assert_msg(!memcmp(out, want, (size_t)(n * row_bytes)), "%s: bits change at %d rows",
                      what, (int)n);
        if (n > 12 && n % 16 != 1) {
            free(out);
            continue;
        }
        ck_assert(ad_kernel_prepare(&small, n));
        run_rows(&small, n, in, out);
        ck_assert_msg(!memcmp(out, want, (size_t)(n * row_bytes)),
                      "%s: bits change when prepared for %d rows", what, (int)n);
        ad_kernel_clear(&small);
        free(out);
    }
    trial_free(t);
}

static const int64_t widths[] = { 1, 2, 3, 8, 17, 50, 64 };

START_TEST(rows_are_independent_in_products)
{
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++)
        for (int i = 0; i < 7; i++) {
            int64_t sizes[3] = { AD_ROWS, widths[_i], widths[i] }, size = (int64_t)size_of(dtype);
            static const char *spec[][3] = { { "ab", "bc", "ac" },
                                             { "ab", "cb", "ac" },
                                             { "ab", "abc", "ac" } };
            for (int s = 0; s < 3; s++) {
                trial *t = contract_trial(dtype, spec[s][0], spec[s][1], spec[s][2], sizes, 70);
                int64_t steps[2] = { sizes[1] * size, s == 2 ? sizes[1] * sizes[2] * size : 0 };
                check_independence(t, sizes[2] * size, steps, spec[s][1]);
            }
        }
}
END_TEST

START_TEST(rows_are_independent_elsewhere)
{
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++)
        for (int i = 0; i < 7; i++) {
            int64_t d = widths[i], size = (int64_t)size_of(dtype), steps[2] = { d * size, 0 },
                    both[2] = { d * size, d * size };
            trial *t = trial_new(AD_OP_sum, dtype);
            t->rows = 70;
            t->attr[0] = 2;
            t->k.nattr = 1;
            add_operand(t, AD_SHAPE(AD_ROWS, d));
            make_data(t, AD_SHAPE(AD_ROWS, 1));
            check_independence(t, size, steps, "sum");
            t = contract_trial(dtype, "ab", "ab", "a", (int64_t[]){ AD_ROWS, d }, 70);
            check_independence(t, size, both, "dot");
            t = trial_new(AD_OP_tanh, dtype);
            t->rows = 70;
            add_operand(t, AD_SHAPE(AD_ROWS, d));
            make_data(t, AD_SHAPE(AD_ROWS, d));
            check_independence(t, d * size, steps, "tanh");
            t = trial_new(AD_OP_add, dtype);
            t->rows = 70;
            add_operand(t, AD_SHAPE(AD_ROWS, d));
            add_operand(t, AD_SHAPE(d));
            make_data(t, AD_SHAPE(AD_ROWS, d));
            check_independence(t, d * size, steps, "add");
        }
}
END_TEST

/* Accumulating rows in two calls, or in two places that are combined, is the same as in one call,
 * to rounding. */
START_TEST(rows_accumulate)
{
    static const char *spec[][3] = { { "ab", "ac", "bc" },
                                     { "ab", "ab", "" },
                                     { "ab", "ac", "cb" },
                                     { "ab", "bc", "bc" },
                                     { "a", "ab", "b" } };
    state = 11;
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++)
        for (unsigned s = 0; s < sizeof spec / sizeof *spec; s++)
            for (int64_t rows = 2; rows < 700; rows = rows * 3 + 1) {
                int64_t sizes[3] = { AD_ROWS, pick(1, 20), pick(1, 20) }, first = pick(1, rows - 1),
                        size = (int64_t)size_of(dtype);
                trial *t = contract_trial(dtype, spec[s][0], spec[s][1], spec[s][2], sizes, rows);
                contract_reference(t, spec[s][0], spec[s][1], spec[s][2], sizes);
                int64_t n = count(t->k.out);
                ck_assert(ad_kernel_prepare(&t->k, rows));
                ck_assert(t->k.reduces_rows);
                void *rest[2], *lane = aligned((size_t)(n * size));
                for (int i = 0; i < 2; i++) {
                    int64_t row =
                        ad_has_rows(t->in_shapes[i]) ? count(with_rows(t->in_shapes[i], 1)) : 0;
                    rest[i] = (char *)t->in[i] + first * row * size;
                }
                ad_kernel_identity(&t->k, t->out, n);
                run_rows(&t->k, first, t->in, t->out);
                ad_kernel_identity(&t->k, lane, n);
                run_rows(&t->k, rows - first, rest, lane);
                ad_kernel_combine(&t->k, t->out, lane, n);
                compare(t, dtype == AD_F32 ? 3e-5 : 1e-13, "combined");
                ad_kernel_identity(&t->k, t->out, n);
                run_rows(&t->k, first, t->in, t->out);
                run_rows(&t->k, rows - first, rest, t->out);
                compare(t, dtype == AD_F32 ? 3e-5 : 1e-13, "accumulated");
                free(lane);
                trial_free(t);
            }
}
END_TEST

START_TEST(max_combines)
{
    ad_shape in = AD_SHAPE(AD_ROWS, 2), out = AD_SHAPE(1, 2);
    int64_t mask = 1;
    ad_kernel k = { .op = AD_OP_reduce_max,
                    .dtype = AD_F32,
                    .nin = 1,
                    .in_shapes = &in,
                    .out = out,
                    .nattr = 1,
                    .attr = &mask };
    ck_assert(ad_kernel_prepare(&k, 4));
    ck_assert(k.reduces_rows);
    float x[] = { -5, 1, -3, -1, -9, 0, -4, -8 }, y[2], z[2];
    void *first = x, *second = x + 4;
    ad_kernel_identity(&k, y, 2);
    ad_kernel_identity(&k, z, 2);
    ck_assert(isinf(y[0]) && y[0] < 0);
    run_rows(&k, 2, &first, y);
    run_rows(&k, 2, &second, z);
    ck_assert(y[0] == -3 && y[1] == 1 && z[0] == -4 && z[1] == 0);
    ad_kernel_combine(&k, z, y, 2);
    ck_assert(z[0] == -3 && z[1] == 1);
    ad_kernel_clear(&k);
}
END_TEST

START_TEST(sources_have_no_kernel)
{
    static const ad_op ops[] = { AD_OP_input,     AD_OP_constant, AD_OP_fill,   AD_OP_eye,
                                 AD_OP_row_count, AD_OP_opaque,   AD_OP_project };
    for (unsigned i = 0; i < sizeof ops / sizeof *ops; i++) {
        ad_kernel k = { .op = ops[i], .dtype = AD_F32 };
        ck_assert(!ad_kernel_prepare(&k, 1));
        ad_kernel_clear(&k);
    }
}
END_TEST

int main(void)
{
    TCase *c = suite_case("kernels", "kernels");
    tcase_add_test(c, layout_reshape_transpose);
    tcase_add_test(c, layout_broadcast_slice_flip);
    tcase_add_test(c, layout_assemble);
    tcase_add_test(c, layout_gather_scatter);
    tcase_add_test(c, layout_take_put);
    tcase_add_test(c, layout_locate);
    tcase_add_test(c, reduce_sum_max);
    tcase_add_test(c, reduce_cumsum);
    tcase_add_test(c, reduce_columns);
    tcase_add_test(c, reduce_is_accurate);
    tcase_add_test(c, reduce_max_keeps_nan);
    tcase_add_test(c, reduce_max_of_a_line);
    tcase_add_loop_test(c, reduce_max_of_lines, 0, 2);
    tcase_add_test(c, pointwise_broadcast);
    tcase_add_test(c, pointwise_common_patterns);
    tcase_add_test(c, pointwise_scaled_lines);
    tcase_add_loop_test(c, contract_all_patterns, 0, 4);
    tcase_add_loop_test(c, contract_larger, 0, 2);
    tcase_add_loop_test(c, contract_narrow, 0, 2);
    tcase_add_loop_test(c, contract_narrow_infinite, 0, 2);
    tcase_add_loop_test(c, short_trailing_axes, 0, 16);
    tcase_add_loop_test(c, contract_without_rows_large, 0, 2);
    tcase_add_loop_test(c, rows_are_independent_in_products, 0, 7);
    tcase_add_test(c, rows_are_independent_elsewhere);
    tcase_add_test(c, rows_accumulate);
    tcase_add_test(c, max_combines);
    tcase_add_test(c, sources_have_no_kernel);
    return suite_run();
}
