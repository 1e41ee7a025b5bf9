/* Brownian paths are functions of their settings: the same bits in any order of steps, for any
 * number of rows, groups, threads; parts that fit together; pairs and common paths; errors. */
#include "ode/noise/noise.h"
#include "ode/sde.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 13, M = 3, MOST = 4096 };

static char error[512];

static ode_noise_settings settings_of(ad_dtype dtype, int64_t cells)
{
    return (ode_noise_settings){ .seed = 5,
                                 .dtype = dtype,
                                 .rows = ROWS,
                                 .m = M,
                                 .groups = 3,
                                 .t0 = -1,
                                 .t1 = 2,
                                 .cells = cells,
                                 .threads = 1 };
}

static ode_noise *opened(const ode_noise_settings *s)
{
    ode_noise *noise = NULL;
    ck_assert_msg(ode_noise_open(&noise, s, error, sizeof error) == 0, "%s", error);
    return noise;
}

typedef struct {
    double x[3][MOST]; /* what was written, in the dtype */
} step;

static void take(ode_noise *noise, double a, double b, step *out)
{
    memset(out, 0, sizeof *out);
    void *to[] = { out->x[0], out->x[1], out->x[2] };
    ck_assert_msg(ode_noise_step(noise, a, b, to, error, sizeof error) == 0, "%s", error);
}

static double number(const ode_noise_settings *s, const step *x, int group, int64_t i)
{
    return s->dtype == AD_F32 ? (double)((const float *)x->x[group])[i] : x->x[group][i];
}

/* Unequal steps from one end to the other, some at boundaries of cells, some not. */
enum { STEPS = 60 };
static double time_of(const ode_noise_settings *s, int k)
{
    if (s->cells > 1 && k % 3 == 0 && s->cells % STEPS == 0)
        return s->t0 + (s->t1 - s->t0) * k / STEPS;
    const double x = (double)k / STEPS;
    return s->t0 + (s->t1 - s->t0) * (0.7 * x + 0.3 * x * x);
}

static const double uneven[] = { -1, -0.9, -0.3, 0.1, 0.1001, 0.7, 1.6, 2 };

static ode_noise_settings variant(int k)
{
    static const int64_t cells[] = { 1, 2, 7, 60, 3001 };
    ode_noise_settings s = settings_of(k % 2 ? AD_F32 : AD_F64, cells[k / 2 % 5]);
    if (k >= 10) {
        s.grid = uneven;
        s.cells = 7;
        s.t0 = -1;
        s.t1 = 2;
    }
    return s;
}
enum { VARIANTS = 12 };

START_TEST(test_order)
{
    static step forwards[STEPS], now;
    const ode_noise_settings s = variant(_i);
    ode_noise *noise = opened(&s), *other = opened(&s);
    for (int k = 0; k < STEPS; k++) take(noise, time_of(&s, k), time_of(&s, k + 1), &forwards[k]);
    for (int k = STEPS - 1; k >= 0; k--) {
        take(noise, time_of(&s, k), time_of(&s, k + 1), &now);
        ck_assert_mem_eq(&now, &forwards[k], sizeof now);
    }
    for (int j = 0; j < 3 * STEPS; j++) {
        const int k = j * 37 % STEPS;
        take(other, time_of(&s, j % 7), time_of(&s, j % 7 + 1 + j % 11), &now);
        take(other, time_of(&s, k), time_of(&s, k + 1), &now);
        ck_assert_mem_eq(&now, &forwards[k], sizeof now);
    }
    ode_noise_close(noise);
    ode_noise_close(other);
}
END_TEST

/* Fewer rows, components, groups; more threads; memory of another path. */
START_TEST(test_alone)
{
    static step all, now;
    const ode_noise_settings s = variant(_i);
    ode_noise *noise = opened(&s), *other = NULL;
    for (int variant = 0; variant < 4; variant++) {
        ode_noise_settings t = s;
        if (variant == 0) t.rows = 6;
        if (variant == 1) t.m = 2;
        if (variant == 2) t.groups = 1;
        if (variant == 3) t.groups = 2;
        ck_assert_int_eq(ode_noise_open(&other, &t, error, sizeof error), 0);
        for (int k = 0; k < STEPS; k += 7) {
            take(noise, time_of(&s, k), time_of(&s, k + 1), &all);
            take(other, time_of(&s, k), time_of(&s, k + 1), &now);
            for (int g = 0; g < t.groups; g++)
                for (int64_t r = 0; r < t.rows; r++)
                    for (int64_t j = 0; j < t.m; j++) {
                        const double x = number(&s, &all, g, r * M + j);
                        /* W of many cells is that of a node, or a sum */
                        const double within = t.groups > 1 ? 0 : s.dtype == AD_F32 ? 1e-5 : 1e-13;
                        ck_assert_double_le(fabs(number(&t, &now, g, r * t.m + j) - x), within);
                    }
        }
    }
    ode_noise_close(noise);
    ode_noise_close(other);
}
END_TEST

START_TEST(test_threads)
{
    enum { WIDE = 300, LONG = 40 };
    const size_t size = (size_t)WIDE * LONG * sizeof(double);
    void *one[3], *two[3];
    for (int g = 0; g < 3; g++) {
        one[g] = calloc(1, size);
        two[g] = calloc(1, size);
    }
    ode_noise_settings s = variant(_i);
    s.rows = WIDE - 3;
    s.m = LONG - 1;
    ode_noise *first = opened(&s);
    s.threads = 2;
    ode_noise *second = opened(&s);
    for (int k = 0; k < STEPS; k += 19) {
        ck_assert_int_eq(ode_noise_step(first, time_of(&s, k), time_of(&s, k + 2), one, NULL, 0),
                         0);
        ck_assert_int_eq(ode_noise_step(second, time_of(&s, k), time_of(&s, k + 2), two, NULL, 0),
                         0);
        for (int g = 0; g < 3; g++) ck_assert_mem_eq(one[g], two[g], size);
    }
    ode_noise_close(first);
    ode_noise_close(second);
    for (int g = 0; g < 3; g++) {
        free(one[g]);
        free(two[g]);
    }
}
END_TEST

/* Rows that are filled by themselves, the last ones first, are those of the step. */
START_TEST(test_filled)
{
    enum { WIDE = 300, LONG = 40, STRETCH = 64 };
    const size_t size = (size_t)WIDE * LONG * sizeof(double);
    void *one[3], *two[3];
    for (int g = 0; g < 3; g++) {
        one[g] = calloc(1, size);
        two[g] = calloc(1, size);
    }
    for (int m = 2; m <= LONG; m += LONG - 2) {
        ode_noise_settings s = variant(_i);
        if (s.common) continue;
        s.rows = WIDE - 3;
        s.m = m;
        ode_noise *first = opened(&s);
        s.stretch = STRETCH;
        ode_noise *second = opened(&s);
        for (int k = 0; k < STEPS; k += 19) {
            const double a = time_of(&s, k), b = time_of(&s, k + 2);
            ck_assert_int_eq(ode_noise_step(first, a, b, one, NULL, 0), 0);
            ck_assert_int_eq(ode_noise_find_step(second, a, b, two, NULL, 0), 0);
            ck_assert_double_gt(ode_noise_row_work(second), 0);
            const int64_t half = s.rows / STRETCH / 2 * STRETCH;
            for (int64_t r = s.rows / STRETCH * STRETCH; r >= half; r -= STRETCH)
                ode_noise_fill(second, r, r + STRETCH < s.rows ? STRETCH : s.rows - r);
            ode_noise_fill(second, 0, half);
            for (int g = 0; g < s.groups; g++) ck_assert_mem_eq(one[g], two[g], size);
        }
        ode_noise_close(first);
        ode_noise_close(second);
    }
    for (int g = 0; g < 3; g++) {
        free(one[g]);
        free(two[g]);
    }
}
END_TEST

/* Chen's relations, in their own units: u over a step of length x, then v over one of y. W over the
 * whole is, over each part, linear and a bridge; H and K of the whole are means of it, less W of
 * the whole, by 1 and by 1/2 less the share of time that is past. */
static void together(double x, double y, const double *u, const double *v, double *out)
{
    const double p = x / (x + y), q = y / (x + y);
    const double top = u[0] - p * (u[0] + v[0]); /* between the parts; at both ends it is 0 */
    out[0] = u[0] + v[0];
    out[1] = p * u[1] + q * v[1] + top / 2;
    out[2] = p * (p * u[2] + (0.5 - p / 2) * u[1] + top * (0.25 - p / 3)) +
             q * (q * v[2] + (0.5 - p - q / 2) * v[1] + top * (0.25 - p / 2 - q / 6));
}

static void in_units(const ode_noise_settings *s, const step *x, int64_t i, double h, double *out)
{
    out[0] = sqrt(fabs(h)) * number(s, x, 0, i);
    out[1] = sqrt(fabs(h) / 12) * number(s, x, 1, i);
    out[2] = sqrt(fabs(h) / 720) * number(s, x, 2, i);
}

static int earlier(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static int later(const void *a, const void *b) { return earlier(b, a); }

/* A thousand cells add up their roundings. */
START_TEST(test_parts)
{
    static step left, right, whole;
    const ode_noise_settings s = variant(_i);
    ode_noise *noise = opened(&s);
    const double within =
        s.dtype == AD_F32 ? (s.cells > 60 ? 3e-5 : 3e-6) : (s.cells > 60 ? 1e-13 : 1e-14);
    for (int k = 0; k < 40; k++) {
        double t[3] = { k * 5 % 64, k * 29 % 61 + 1, k * 17 % 59 + 2 };
        for (int i = 0; i < 3; i++) {
            t[i] = s.t0 + (s.t1 - s.t0) * t[i] / 64;
            if (s.grid) t[i] = uneven[i == 0 ? k % 3 : i == 1 ? 3 + k % 2 : 5 + k % 3];
            if (s.cells == 60) t[i] = s.t0 + 0.05 * rint((t[i] - s.t0) / 0.05);
            if (s.cells == 7 && !s.grid) t[i] = s.t0 + 3.0 / 7 * rint((t[i] - s.t0) * 7 / 3);
        }
        if (k % 2 == 0 || t[0] >= t[1] || t[1] >= t[2]) {
            /* in order of time, or the reverse */
            qsort(t, 3, sizeof *t, k % 3 ? earlier : later);
        }
        if (fabs(t[0] - t[1]) < 5e-5 || fabs(t[1] - t[2]) < 5e-5) continue;
        take(noise, t[0], t[1], &left);
        take(noise, t[1], t[2], &right);
        take(noise, t[0], t[2], &whole);
        for (int64_t i = 0; i < ROWS * M; i++) {
            double u[3], v[3], w[3], expected[3];
            in_units(&s, &left, i, t[1] - t[0], u);
            in_units(&s, &right, i, t[2] - t[1], v);
            in_units(&s, &whole, i, t[2] - t[0], w);
            together(t[1] - t[0], t[2] - t[1], u, v, expected);
            for (int g = 0; g < 3; g++)
                ck_assert_msg(fabs(w[g] - expected[g]) <= within, "group %d: %g off", g,
                              w[g] - expected[g]);
        }
    }
    ode_noise_close(noise);
}
END_TEST

/* Backwards: the path reversed. */
START_TEST(test_backwards)
{
    static step there, back;
    const ode_noise_settings s = variant(_i);
    ode_noise *noise = opened(&s);
    for (int k = 0; k + 5 < STEPS; k += 3) {
        take(noise, time_of(&s, k), time_of(&s, k + 5), &there);
        take(noise, time_of(&s, k + 5), time_of(&s, k), &back);
        for (int64_t i = 0; i < ROWS * M; i++) {
            ck_assert(number(&s, &back, 0, i) == -number(&s, &there, 0, i));
            ck_assert(number(&s, &back, 1, i) == number(&s, &there, 1, i));
            ck_assert(number(&s, &back, 2, i) == -number(&s, &there, 2, i));
        }
    }
    ode_noise_close(noise);
}
END_TEST

START_TEST(test_shared_paths)
{
    static step plain, now, first;
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++)
        for (int kind = 1; kind < 4; kind++) {
            ode_noise_settings s = settings_of(dtype, 10);
            ode_noise *noise = opened(&s);
            take(noise, -1, 0.5, &plain);
            s.antithetic = kind & 1;
            s.common = kind & 2;
            ode_noise *other = opened(&s);
            take(other, -1, 0.5, &now);
            take(other, 0.5, 2, &first);
            for (int g = 0; g < 3; g++)
                for (int64_t i = 0; i < ROWS * M; i++) {
                    const int64_t row = i / M, j = i % M;
                    const int64_t source = s.common ? 0 : row / 2;
                    const double sign = s.antithetic && row % 2 ? -1 : 1;
                    ck_assert(number(&s, &now, g, i) ==
                              sign * number(&s, &plain, g, source * M + j));
                }
            ode_noise_close(noise);
            ode_noise_close(other);
        }
}
END_TEST

/* Each seed and each draw number has a path of its own; by row as for all rows. */
START_TEST(test_draws)
{
    static step base, now, mixed;
    double draw[ROWS];
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++) {
        ode_noise_settings s = settings_of(dtype, 10);
        ode_noise *noise = opened(&s), *other = NULL;
        take(noise, 0, 0.5, &base);
        s.seed = UINT64_C(1) << 63 | 5;
        ck_assert_int_eq(ode_noise_open(&other, &s, error, sizeof error), 0);
        take(other, 0, 0.5, &now);
        for (int64_t i = 0; i < ROWS * M; i++)
            ck_assert(number(&s, &now, 0, i) != number(&s, &base, 0, i));
        s.seed = 5;
        for (int r = 0; r < ROWS; r++) draw[r] = r * 3 % 5 - 2;
        s.draw = draw;
        s.ndraw = ROWS;
        ck_assert_int_eq(ode_noise_open(&noise, &s, error, sizeof error), 0);
        take(noise, 0, 0.5, &mixed);
        s.ndraw = 1;
        for (double d = -2; d <= 2; d++) {
            s.draw = &d;
            ck_assert_int_eq(ode_noise_open(&other, &s, error, sizeof error), 0);
            take(other, 0, 0.5, &now);
            for (int64_t i = 0; i < 3 * ROWS * M; i++) {
                const int64_t at = i % (ROWS * M), g = i / (ROWS * M);
                const double x = number(&s, &now, (int)g, at);
                ck_assert((x == number(&s, &mixed, (int)g, at)) == (draw[at / M] == d));
                ck_assert((x == number(&s, &base, (int)g, at)) == (d == 0));
            }
        }
        ode_noise_close(noise);
        ode_noise_close(other);
    }
}
END_TEST

#define FAILS(text, expression)                                                                    \
    do {                                                                                           \
        ck_assert_int_eq(expression, -1);                                                          \
        ck_assert_msg(strstr(error, text) != NULL, "%s", error);                                   \
    } while (0)

START_TEST(test_errors)
{
    static step x;
    void *to[] = { x.x[0], x.x[1], x.x[2] };
    ode_noise_settings s = settings_of(AD_F64, 10);
    ode_noise *noise = opened(&s);
    FAILS("t = 2.5 is outside", ode_noise_step(noise, 0, 2.5, to, error, sizeof error));
    FAILS("t = -1.25 is outside", ode_noise_step(noise, -1.25, 0, to, error, sizeof error));
    FAILS("t = nan is outside", ode_noise_step(noise, NAN, 0, to, error, sizeof error));
    FAILS("shorter than", ode_noise_step(noise, 0.4, 0.4 + 1e-13, to, error, sizeof error));
    x.x[2][ROWS * M - 1] = 3;
    ck_assert_int_eq(ode_noise_step(noise, 0.4, 0.4, to, error, sizeof error), 0);
    ck_assert(x.x[2][ROWS * M - 1] == 0);
    /* rounding carries times past the ends and past boundaries */
    static step y;
    take(noise, -1 - 1e-15, -0.7 + 1e-16, &x);
    take(noise, -1, -0.7, &y);
    ck_assert_mem_eq(&x, &y, sizeof x);
    const double wrong[] = { 0, 1, 1, 2 }, half = 0.5;
    ode_noise_settings t = s;
    t.grid = wrong;
    t.cells = 3;
    FAILS("cell 1 of 3 is from t = 1 to 1", ode_noise_open(&noise, &t, error, sizeof error));
    t = s;
    t.t1 = -1;
    FAILS("not empty", ode_noise_open(&noise, &t, error, sizeof error));
    t = s;
    t.cells = 0;
    FAILS("0 cells", ode_noise_open(&noise, &t, error, sizeof error));
    t = s;
    t.m = 0;
    FAILS("0 components", ode_noise_open(&noise, &t, error, sizeof error));
    t = s;
    t.draw = &half;
    t.ndraw = 1;
    FAILS("whole numbers", ode_noise_open(&noise, &t, error, sizeof error));
    t.ndraw = 2;
    FAILS("2 draw numbers", ode_noise_open(&noise, &t, error, sizeof error));
    s.rows = 0;
    ck_assert_int_eq(ode_noise_open(&noise, &s, error, sizeof error), 0);
    ck_assert_int_eq(ode_noise_step(noise, 0, 1, to, error, sizeof error), 0);
    ode_noise_close(noise);
    ode_noise_close(NULL);
}
END_TEST

/* What a user sees of a path is what its steps get, in its own units. */
START_TEST(test_looked_at)
{
    static step x;
    static double w[ROWS * M], h[ROWS * M], k[ROWS * M];
    ad_tape *tape = ad_tape_new(AD_F64);
    const double two = 2;
    sde_path path = { .seed = 5, .t0 = -1, .t1 = 2, .cells = 10, .draw = ad_scalar(tape, two) };
    ode_noise_settings s = settings_of(AD_F64, 10);
    s.draw = &two;
    s.ndraw = 1;
    ode_noise *noise = opened(&s);
    take(noise, 0.3, -0.45, &x);
    ck_assert_int_eq(
        sde_path_increments(&path, AD_F64, ROWS, M, 0.3, -0.45, w, h, k, error, sizeof error), 0);
    for (int64_t i = 0; i < ROWS * M; i++) {
        ck_assert_double_eq_tol(w[i], sqrt(0.75) * x.x[0][i], 1e-14);
        ck_assert_double_eq_tol(h[i], sqrt(0.75 / 12) * x.x[1][i], 1e-14);
        ck_assert_double_eq_tol(k[i], sqrt(0.75 / 720) * x.x[2][i], 1e-14);
    }
    FAILS("t = 3 is outside",
          sde_path_increments(&path, AD_F64, ROWS, M, 0, 3, w, h, k, error, sizeof error));
    path.t1 = -1;
    FAILS("interval",
          sde_path_increments(&path, AD_F64, ROWS, M, 0, 1, w, h, k, error, sizeof error));
    path.t1 = 2;
    path.cells = -1;
    FAILS("path.cells is -1",
          sde_path_increments(&path, AD_F64, ROWS, M, 0, 1, w, h, k, error, sizeof error));
    path.grid = &two;
    path.cells = 0;
    FAILS("path.cells is 0 with a grid",
          sde_path_increments(&path, AD_F64, ROWS, M, 0, 1, w, h, k, error, sizeof error));
    path.grid = NULL;
    path.draw = ad_scalar(tape, -1);
    FAILS("path.draw is -1",
          sde_path_increments(&path, AD_F64, ROWS, M, 0, 1, w, h, k, error, sizeof error));
    path.draw = ad_none(tape);
    FAILS("path.draw must have a value",
          sde_path_increments(&path, AD_F64, ROWS, M, 0, 1, w, h, k, error, sizeof error));
    FAILS("needs a path",
          sde_path_increments(NULL, AD_F64, ROWS, M, 0, 1, w, h, k, error, sizeof error));
    ode_noise_close(noise);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("noise", "noise");
    tcase_add_loop_test(tests, test_order, 0, VARIANTS);
    tcase_add_loop_test(tests, test_alone, 0, VARIANTS);
    tcase_add_loop_test(tests, test_threads, 0, VARIANTS);
    tcase_add_loop_test(tests, test_filled, 0, VARIANTS);
    tcase_add_loop_test(tests, test_parts, 0, VARIANTS);
    tcase_add_loop_test(tests, test_backwards, 0, VARIANTS);
    tcase_add_test(tests, test_shared_paths);
    tcase_add_test(tests, test_draws);
    tcase_add_test(tests, test_errors);
    tcase_add_test(tests, test_looked_at);
    return suite_run();
}
