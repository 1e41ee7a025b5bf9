/* Derivatives of stochastic solves against finite differences on the frozen path: every method,
 * every kind of noise, both calculi, by initial states, arguments of drift and diffusion, and
 * times. */
#include "costate.h"
#include "ode/step/step.h"
#include "sde_problems.h"
#include "support.h"
#include <math.h>
#include <string.h>

enum { ROWS = 2, TIMES = 3, N = ROWS * SDE_WIDTH, UNKNOWNS = N + SDE_WIDTH + SDE_WIDTH + N };
/* Behind the unknowns: how the times move as a whole, and how they scale. */
enum { SHIFT = UNKNOWNS, SCALE, ALL };

static const sde_noise_case noises[SDE_NOISES] = SDE_NOISE_CASES;
static const double unknowns[UNKNOWNS] = { 0.3, -0.5, 0.8, 1.1, 0.2,  -0.9, 0.7, 1.2, 0.4,
                                           0.5, 0.3,  0.6, 0.9, -1.1, 1.3,  0.7, 1.0, -0.8 };
static const double direction[UNKNOWNS] = { 0.3, -0.7, 0.2, 0.5, 0.4, -0.3, 0.6, 0.1, -0.2,
                                            0.8, 0.1,  0.4, 0.2, 0.7, -0.4, 0.3, 0.5, -0.6 };

typedef struct {
    const ode_method *method;
    const sde_noise_case *noise;
    sde_calculus calculus;
    int64_t keep_bytes;
    bool rerecord, backwards;
} problem;

/* A solve with its gradient on a tape, whose inputs take many values. */
typedef struct {
    const problem *p;
    ad_tape *tape;
    ad_var x[5], loss, g[5]; /* y0, a, b, c, times */
} solve;

static double time_at(const problem *p, const double *v, int i)
{
    double t = 0.2 + 0.4 * i * v[SCALE] + v[SHIFT];
    return p->backwards ? 1 - t : t;
}

static solve record(const problem *p)
{
    solve s = { .p = p, .tape = ad_tape_new(AD_F64) };
    s.x[0] = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, SDE_WIDTH), 0, NULL);
    s.x[1] = ad_param(s.tape, AD_SHAPE(SDE_WIDTH), NULL);
    s.x[2] = ad_param(s.tape, AD_SHAPE(SDE_WIDTH), NULL);
    s.x[3] = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, SDE_WIDTH), 0, NULL);
    s.x[4] = ad_input(s.tape, AD_SHAPE(TIMES), NULL);
    sde_options options = { .ode = { .method = p->method,
                                     .steps = 3,
                                     .keep_bytes = p->keep_bytes,
                                     .rerecord = p->rerecord },
                            .calculus = p->calculus,
                            .path = { .seed = 5 } };
    ad_var y =
        sde_solve(sde_drift, p->noise->diffusion, NULL, s.x[0], 3, s.x + 1, s.x[4], &options);
    s.loss = ad_sum_all(ad_mul(ad_square(y), ad_shift(ad_sin(y), 2)));
    ad_grad(s.loss, 5, s.x, s.g);
    return s;
}

/* From here on the unknowns are v. */
static void move(const solve *s, const double *v)
{
    double times[TIMES];
    for (int i = 0; i < TIMES; i++) times[i] = time_at(s->p, v, i);
    ad_set(s->x[0], ROWS, v);
    ad_set(s->x[1], 0, v + N);
    ad_set(s->x[2], 0, v + N + SDE_WIDTH);
    ad_set(s->x[3], ROWS, v + N + 2 * SDE_WIDTH);
    ad_set(s->x[4], 0, times);
}

static void check_tape(const solve *s)
{
    ck_assert_msg(!ad_tape_error(s->tape), "%s, %s noise: %s", s->p->method->name,
                  s->p->noise->name, ad_tape_error(s->tape));
}

static double loss_at(const solve *s, const double *v)
{
    move(s, v);
    double loss = ad_item(s->loss);
    check_tape(s);
    return loss;
}

/* The gradient by all unknowns, and along the two movements of the times. */
static void gradient_at(const solve *s, const double *v, double *gradient)
{
    double bar[TIMES], *to = gradient;
    move(s, v);
    for (int i = 0; i < 4; i++) {
        ad_get(s->g[i], to);
        to += ad_size(s->g[i]);
    }
    ad_get(s->g[4], bar);
    check_tape(s);
    gradient[SHIFT] = gradient[SCALE] = 0;
    double sign = s->p->backwards ? -1 : 1;
    for (int i = 0; i < TIMES; i++) {
        gradient[SHIFT] += sign * bar[i];
        gradient[SCALE] += sign * bar[i] * 0.4 * i;
    }
}

/* By differences of fourth order along w. */
static double difference(const solve *s, const double *v, const double *w)
{
    const double at[] = { -2, -1, 1, 2 }, weight[] = { 1, -8, 8, -1 };
    double h = 2e-3, sum = 0;
    for (int k = 0; k < 4; k++) {
        double moved[ALL];
        for (int i = 0; i < ALL; i++) moved[i] = v[i] + at[k] * h * w[i];
        sum += weight[k] * loss_at(s, moved);
    }
    return sum / (12 * h);
}

static void start(double *v)
{
    memcpy(v, unknowns, sizeof unknowns);
    v[SHIFT] = 0;
    v[SCALE] = 1;
}

static void check(const problem *p)
{
    double v[ALL], g[ALL];
    solve s = record(p);
    start(v);
    gradient_at(&s, v, g);
    for (int i = 0; i < ALL; i++) {
        double w[ALL] = { 0 };
        w[i] = 1;
        double d = difference(&s, v, w);
        ck_assert_msg(fabs(d - g[i]) <= 1e-8 * (1 + fabs(d)),
                      "%s, %s noise, calculus %d, unknown %d: gradient %.12g, difference %.12g",
                      p->method->name, p->noise->name, (int)p->calculus, i, g[i], d);
    }
    ad_tape_free(s.tape);
}

static void gradient_of(const problem *p, const double *v, double *gradient)
{
    solve s = record(p);
    gradient_at(&s, v, gradient);
    ad_tape_free(s.tape);
}

static bool takes(const ode_method *m, const sde_noise_case *noise)
{
    return m->takes & noise->kinds;
}

START_TEST(differences)
{
    const ode_method *m = sde_methods()[_i];
    for (int k = 0; k < SDE_NOISES; k++)
        for (int c = 0; c < 2; c++) {
            problem p = { .method = m, .noise = &noises[k], .calculus = (sde_calculus)c };
            if (!takes(m, p.noise)) continue;
            check(&p);
        }
}
END_TEST

/* Without kept activations, in reverse time, and with fields that are called anew. */
START_TEST(ways)
{
    const ode_method *m = sde_methods()[_i];
    for (int k = 0; k < SDE_NOISES; k++) {
        problem p = { .method = m, .noise = &noises[k], .calculus = SDE_STRATONOVICH };
        if (!takes(m, p.noise)) continue;
        double v[ALL], g[ALL], other[ALL];
        start(v);
        gradient_of(&p, v, g);
        problem bare = p, anew = p, back = p;
        bare.keep_bytes = 1;
        anew.rerecord = true;
        gradient_of(&bare, v, other);
        for (int i = 0; i < ALL; i++) ck_assert_double_eq_tol(other[i], g[i], 1e-12);
        gradient_of(&anew, v, other);
        for (int i = 0; i < ALL; i++) ck_assert_double_eq_tol(other[i], g[i], 1e-12);
        back.backwards = true;
        check(&back);
    }
}
END_TEST

/* Tangents of the solve, and of its gradient, in one direction of everything. */
START_TEST(tangents)
{
    const ode_method *m = sde_methods()[_i];
    for (int k = 0; k < SDE_NOISES; k++) {
        problem p = { .method = m, .noise = &noises[k], .calculus = SDE_ITO };
        if (!takes(m, p.noise)) continue;
        double v[ALL], w[ALL], g[ALL], first = 0, times[TIMES];
        start(v);
        memcpy(w, direction, sizeof direction);
        w[SHIFT] = 0.3;
        w[SCALE] = -0.4;
        solve s = record(&p);
        gradient_at(&s, v, g);
        for (int i = 0; i < ALL; i++) first += w[i] * g[i];
        for (int i = 0; i < TIMES; i++) times[i] = w[SHIFT] + 0.4 * i * w[SCALE];
        ad_var along[5], loss_dot, gradient_dot[5];
        along[0] = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, SDE_WIDTH), ROWS, w);
        along[1] = ad_input(s.tape, AD_SHAPE(SDE_WIDTH), w + N);
        along[2] = ad_input(s.tape, AD_SHAPE(SDE_WIDTH), w + N + SDE_WIDTH);
        along[3] = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, SDE_WIDTH), ROWS, w + N + 2 * SDE_WIDTH);
        along[4] = ad_input(s.tape, AD_SHAPE(TIMES), times);
        ad_jvp(5, s.x, along, 1, &s.loss, &loss_dot);
        double tangent = ad_item(loss_dot);
        ck_assert_msg(!ad_tape_error(s.tape), "%s", ad_tape_error(s.tape));
        ck_assert_msg(fabs(tangent - first) <= 1e-11 * (1 + fabs(first)),
                      "%s, %s noise: tangent %.14g, gradient %.14g", m->name, p.noise->name,
                      tangent, first);
        ad_jvp(5, s.x, along, 4, s.g, gradient_dot);
        double second[UNKNOWNS], plus[ALL], minus[ALL], wide[2][ALL], *to = second;
        for (int i = 0; i < 4; i++) {
            ck_assert_msg(!ad_get(gradient_dot[i], to), "%s", ad_tape_error(s.tape));
            to += ad_size(gradient_dot[i]);
        }
        double h = 2e-3, *results[] = { plus, minus, wide[0], wide[1] }, part[] = { 1, -1, 2, -2 };
        for (int q = 0; q < 4; q++) {
            double moved[ALL];
            for (int i = 0; i < ALL; i++) moved[i] = v[i] + part[q] * h * w[i];
            gradient_at(&s, moved, results[q]);
        }
        ad_tape_free(s.tape);
        for (int i = 0; i < UNKNOWNS; i++) {
            double d = (8 * (plus[i] - minus[i]) - (wide[0][i] - wide[1][i])) / (12 * h);
            ck_assert_msg(fabs(d - second[i]) <= 1e-8 * (1 + fabs(d)),
                          "%s, %s noise, unknown %d: second derivative %.12g, difference %.12g",
                          m->name, p.noise->name, i, second[i], d);
        }
    }
}
END_TEST

int main(void)
{
    int methods = 0;
    while (sde_methods()[methods]) methods++;
    TCase *tests = suite_case("sde_gradients", "sde_gradients");
    tcase_add_loop_test(tests, differences, 0, methods);
    tcase_add_loop_test(tests, ways, 0, methods);
    tcase_add_loop_test(tests, tangents, 0, methods);
    return suite_run();
}
