/* The law of Brownian paths: standardised numbers are normal and independent of each other, over
 * steps that follow each other and over steps that are parts of another, across rows, components,
 * seeds and draw numbers. Seeds are fixed, so nothing is left to chance; bounds are five standard
 * errors, and for Kolmogorov and Smirnov's distance what one sample in a million exceeds. */
#include "ode/noise/noise.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>

enum { ROWS = 33334, M = 3, N = ROWS * M };

typedef struct {
    double *x[3]; /* [N] */
} numbers;

static numbers numbers_new(void)
{
    numbers n;
    for (int g = 0; g < 3; g++) n.x[g] = malloc(N * sizeof(double));
    return n;
}

static void numbers_free(numbers *n)
{
    for (int g = 0; g < 3; g++) free(n->x[g]);
}

static const double uneven[] = { 0, 0.05, 0.06, 0.5, 0.8, 1 };

static ode_noise_settings variant(int k)
{
    static const int64_t cells[] = { 1, 4, 37, 5 };
    ode_noise_settings s = { .seed = 11,
                             .dtype = k % 2 ? AD_F32 : AD_F64,
                             .rows = ROWS,
                             .m = M,
                             .groups = 3,
                             .t0 = 0,
                             .t1 = 1,
                             .cells = cells[k / 2] };
    if (k / 2 == 3) s.grid = uneven;
    return s;
}
enum { VARIANTS = 8 };

static ode_noise *opened(const ode_noise_settings *s)
{
    char error[300];
    ode_noise *noise = NULL;
    ck_assert_msg(ode_noise_open(&noise, s, error, sizeof error) == 0, "%s", error);
    return noise;
}

static void take(ode_noise *noise, const ode_noise_settings *s, double a, double b, numbers *out)
{
    char error[300];
    static float f32[3][N];
    void *to[3];
    for (int g = 0; g < 3; g++) to[g] = s->dtype == AD_F32 ? (void *)f32[g] : out->x[g];
    ck_assert_msg(ode_noise_step(noise, a, b, to, error, sizeof error) == 0, "%s", error);
    for (int g = 0; g < s->groups && s->dtype == AD_F32; g++)
        for (int i = 0; i < N; i++) out->x[g][i] = (double)f32[g][i];
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void is_normal(const double *numbers, const char *what)
{
    static double x[N];
    double worst = 0, sum[5] = { 0 };
    for (int i = 0; i < N; i++) {
        double power = 1;
        x[i] = numbers[i];
        for (int k = 1; k <= 4; k++) sum[k] += power *= x[i];
    }
    const double moment[] = { 1, 0, 1, 0, 3 }, variance[] = { 0, 1, 2, 15, 96 };
    for (int k = 1; k <= 4; k++)
        ck_assert_msg(fabs(sum[k] / N - moment[k]) <= 5 * sqrt(variance[k] / N),
                      "%s: moment %d is %g", what, k, sum[k] / N);
    qsort(x, N, sizeof *x, by_size);
    for (int i = 0; i < N; i++)
        worst = fmax(worst, fabs((i + 0.5) / N - 0.5 * erfc(-x[i] / sqrt(2))) + 0.5 / N);
    ck_assert_msg(worst <= 2.69 / sqrt(N), "%s: distance %g", what, worst);
}

/* Numbers, and their squares, have no correlation. */
static void are_independent(const double *a, const double *b, int n, const char *what)
{
    double product = 0, squares = 0;
    for (int i = 0; i < n; i++) {
        product += a[i] * b[i];
        squares += (a[i] * a[i] - 1) * (b[i] * b[i] - 1);
    }
    ck_assert_msg(fabs(product) <= 5 * sqrt(n), "%s: correlation %g", what, product / n);
    ck_assert_msg(fabs(squares) <= 10 * sqrt(n), "%s: of squares: %g", what, squares / n / 2);
}

/* Steps of very different lengths, most of them not at boundaries of cells. */
static const double times[] = { 0, 0.2, 0.21, 0.6, 0.6001, 1 };
enum { STEPS = 5 };

START_TEST(test_steps)
{
    const ode_noise_settings s = variant(_i);
    ode_noise *noise = opened(&s);
    numbers x[STEPS];
    for (int k = 0; k < STEPS; k++) {
        x[k] = numbers_new();
        take(noise, &s, times[k], times[k + 1], &x[k]);
        for (int g = 0; g < 3; g++) is_normal(x[k].x[g], "a step");
    }
    for (int a = 0; a < 3 * STEPS; a++)
        for (int b = 0; b < a; b++)
            are_independent(x[a / 3].x[a % 3], x[b / 3].x[b % 3], N, "steps and groups");
    for (int g = 0; g < 3; g++) {
        double *y = x[1].x[g];
        are_independent(y, y + 1, N - 1, "components");
        are_independent(y, y + M, N - M, "rows");
        are_independent(y, y + 4 * M, N - 4 * M, "blocks");
    }
    for (int k = 0; k < STEPS; k++) numbers_free(&x[k]);
    ode_noise_close(noise);
}
END_TEST

/* Over [a, b], and over its two parts: covariances as integrals over the path have them. With
 * shares p and q of the length, the increments of the parts are sqrt p and sqrt q correlated with
 * that of the whole; by E[W(r) W(s)] = min(r, s), H of the whole with the parts' increments
 * sqrt(3 p) q and -sqrt(3 q) p, with their areas p sqrt p and q sqrt q. */
START_TEST(test_whole_and_parts)
{
    const ode_noise_settings s = variant(_i);
    ode_noise *noise = opened(&s);
    const double a = 0.03, b = 0.9, middle[] = { 0.1, 0.5, 0.77 };
    numbers whole = numbers_new(), left = numbers_new(), right = numbers_new();
    take(noise, &s, a, b, &whole);
    is_normal(whole.x[0], "increments");
    is_normal(whole.x[1], "areas");
    is_normal(whole.x[2], "areas of areas");
    for (int k = 0; k < 3; k++) {
        take(noise, &s, a, middle[k], &left);
        take(noise, &s, middle[k], b, &right);
        const double p = (middle[k] - a) / (b - a), q = 1 - p;
        const double expected[3][2][3] = {
            { { sqrt(p), 0, 0 }, { sqrt(q), 0, 0 } },
            { { sqrt(3 * p) * q, p * sqrt(p), 0 }, { -sqrt(3 * q) * p, q * sqrt(q), 0 } },
            { { sqrt(5 * p) * q * (q - p), sqrt(15 * p) * p * q, p * p * sqrt(p) },
              { sqrt(5 * q) * p * (p - q), -sqrt(15 * q) * p * q, q * q * sqrt(q) } },
        };
        for (int g = 0; g < 3; g++)
            for (int side = 0; side < 2; side++)
                for (int h = 0; h < 3; h++) {
                    const double *x = whole.x[g], *y = side ? right.x[h] : left.x[h];
                    double sum = 0;
                    for (int i = 0; i < N; i++) sum += x[i] * y[i];
                    ck_assert_double_le(fabs(sum / N - expected[g][side][h]), 5 * sqrt(2.0 / N));
                }
    }
    numbers_free(&whole);
    numbers_free(&left);
    numbers_free(&right);
    ode_noise_close(noise);
}
END_TEST

/* Given the whole, the increment to the middle has mean W / 2 + 3 / 2 H and variance h / 16
 * (Foster, Lyons & Oberhauser 2020), and what is left is normal and independent of the whole. */
START_TEST(test_given_the_whole)
{
    const ode_noise_settings s = variant(_i);
    ode_noise *noise = opened(&s);
    const double h = 0.5;
    numbers whole = numbers_new(), left = numbers_new();
    take(noise, &s, 0.25, 0.25 + h, &whole);
    take(noise, &s, 0.25, 0.25 + h / 2, &left);
    static double rest[N];
    for (int i = 0; i < N; i++) {
        const double w = sqrt(h) * whole.x[0][i], area = sqrt(h / 12) * whole.x[1][i];
        rest[i] = (sqrt(h / 2) * left.x[0][i] - w / 2 - 1.5 * area) / sqrt(h / 16);
    }
    is_normal(rest, "the rest");
    for (int g = 0; g < 3; g++) are_independent(rest, whole.x[g], N, "the rest and the whole");
    numbers_free(&whole);
    numbers_free(&left);
    ode_noise_close(noise);
}
END_TEST

/* H and K are what they are called: means over the path, from its values at many times. */
START_TEST(test_integrals)
{
    ode_noise_settings s = variant(_i);
    enum { PARTS = 64, PATHS = 60 };
    s.rows = PATHS;
    s.m = 1;
    ode_noise *noise = opened(&s);
    numbers whole = numbers_new(), part = numbers_new();
    const double a = 0.125, h = 0.5, d = h / PARTS;
    static double w[PATHS][PARTS + 1];
    take(noise, &s, a, a + h, &whole);
    for (int k = 0; k < PARTS; k++) {
        take(noise, &s, a + k * d, a + (k + 1) * d, &part);
        for (int i = 0; i < PATHS; i++) w[i][k + 1] = w[i][k] + sqrt(d) * part.x[0][i];
    }
    double off[2] = { 0 };
    for (int i = 0; i < PATHS; i++) {
        double area = 0, second = 0;
        for (int k = 0; k < PARTS; k++) {
            const double x = (double)k / PARTS, y = x + 1.0 / PARTS, all = w[i][PARTS];
            const double bridge = (w[i][k] - x * all + w[i][k + 1] - y * all) / 2;
            area += bridge / PARTS;
            second += bridge * (0.5 - (x + y) / 2) / PARTS;
        }
        off[0] += pow(area - sqrt(h / 12) * whole.x[1][i], 2) / PATHS;
        off[1] += pow(second - sqrt(h / 720) * whole.x[2][i], 2) / PATHS;
    }
    /* What a trapezium leaves of a part, sqrt(d / 12), averages out over the parts; K weighs it by
     * up to 1/2, in the mean square 1/12. */
    ck_assert_double_le(off[0], 2 * d / 12 / PARTS);
    ck_assert_double_le(off[1], 2 * d / 12 / 12 / PARTS);
    numbers_free(&whole);
    numbers_free(&part);
    ode_noise_close(noise);
}
END_TEST

START_TEST(test_seeds_and_draws)
{
    ode_noise_settings s = variant(_i);
    numbers x[4];
    const double one = 1, two = 2;
    for (int k = 0; k < 4; k++) {
        x[k] = numbers_new();
        s.seed = k == 3;
        s.draw = k == 1 ? &one : &two;
        s.ndraw = k == 1 || k == 2;
        ode_noise *noise = opened(&s);
        take(noise, &s, 0.1, 0.3, &x[k]);
        ode_noise_close(noise);
        for (int j = 0; j < k; j++)
            for (int g = 0; g < 3; g++) are_independent(x[k].x[g], x[j].x[g], N, "paths");
    }
    for (int k = 0; k < 4; k++) numbers_free(&x[k]);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("noise_law", "noise_law");
    tcase_add_loop_test(tests, test_steps, 0, VARIANTS);
    tcase_add_loop_test(tests, test_whole_and_parts, 0, VARIANTS);
    tcase_add_loop_test(tests, test_given_the_whole, 0, VARIANTS);
    tcase_add_loop_test(tests, test_integrals, 0, VARIANTS);
    tcase_add_loop_test(tests, test_seeds_and_draws, 0, VARIANTS);
    return suite_run();
}
