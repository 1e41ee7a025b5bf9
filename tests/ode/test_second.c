/* Second and higher derivatives of solves: modes against each other, Hessians against their
 * transposes and against differences of gradients along frozen steps, and what they are good for.
 */
#define TESTS_COUNT_ALLOCATIONS
#include "tests/ode/prey.h"
#include "tests/support.h"

static ode_options some_steps(const ode_method *m)
{
    if (ode_method_adaptive(m))
        return (ode_options){ .method = m, .rtol = 1e-5, .atol = 1e-6, .newton_tolerance = 1e-14 };
    return (ode_options){ .method = m, .steps = 6, .newton_tolerance = 1e-14 };
}

/* H v of a loss by forward over reverse (mode 0) or reverse over reverse (1). */
static void hessian_product(int mode, ad_var loss, int n, const ad_var *x, const ad_var *v,
                            ad_var *hv)
{
    ad_var g[PREY_OPERANDS];
    ad_grad(loss, n, x, g);
    if (mode == 0) ad_jvp(n, x, v, n, g, hv);
    else ad_grad(prey_dot(n, g, v), n, x, hv);
}

/* All modes give the same, by all operands, and the Hessian is symmetric. */
START_TEST(modes_agree)
{
    const ode_method *m = ode_methods()[_i / PREY_FORMS];
    ode_options o = some_steps(m);
    prey p = prey_record(AD_F64, (prey_form)(_i % PREY_FORMS), prey_unknowns, &o);
    ad_var loss = prey_loss(&p), v[PREY_OPERANDS], w[PREY_OPERANDS], hv[2][PREY_OPERANDS];
    ad_var hw[PREY_OPERANDS], once, twice;
    double other[PREY_UNKNOWNS], value[4], scale;
    for (int i = 0; i < PREY_UNKNOWNS; i++) other[i] = sin(2.3 * i + 1);
    prey_operands(p.tape, prey_direction, v);
    prey_operands(p.tape, other, w);
    for (int mode = 0; mode < 2; mode++) hessian_product(mode, loss, p.n, p.x, v, hv[mode]);
    hessian_product(0, loss, p.n, p.x, w, hw);
    ad_jvp(p.n, p.x, v, 1, &loss, &once);
    ad_jvp(p.n, p.x, w, 1, &once, &twice);
    get(prey_dot(p.n, hv[0], w), value);
    get(prey_dot(p.n, hv[1], w), value + 1);
    get(prey_dot(p.n, hw, v), value + 2);
    get(twice, value + 3);
    get(prey_dot(p.n, hv[0], hv[0]), &scale);
    for (int i = 1; i < 4; i++)
        ck_assert_msg(fabs(value[i] - value[0]) <= 1e-12 * (sqrt(scale) + fabs(value[0])),
                      "%s, form %d, %d: %.17g, %.17g", ode_method_name(m), _i % PREY_FORMS, i,
                      value[i], value[0]);
    ad_tape_free(p.tape);
}
END_TEST

/* ---- differences of gradients along frozen steps ---- */

/* The unknowns, the operands in the set moved by so many directions. */
static void move(int set, double by, double *u)
{
    for (int k = 0, i = 0; k < PREY_OPERANDS; k++)
        for (int j = 0; j < prey_size[k]; j++, i++)
            u[i] = prey_unknowns[i] + (set >> k & 1 ? by * prey_direction[i] : 0);
}

static void gradient(prey_form form, const ode_options *o, int set, double by, double *g)
{
    double u[PREY_UNKNOWNS];
    move(set, by, u);
    prey p = prey_record(AD_F64, form, u, o);
    ad_var bar[PREY_OPERANDS];
    ad_grad(prey_loss(&p), p.n, p.x, bar);
    for (int k = 0; k < p.n; g += prey_size[k++]) get(bar[k], g);
    ad_tape_free(p.tape);
}

static void against_differences(prey_form form, const ode_options *o, int set)
{
    double g[4][PREY_UNKNOWNS], h = 1e-3, by[] = { -2 * h, -h, h, 2 * h };
    for (int i = 0; i < 4; i++) gradient(form, o, set, by[i], g[i]);
    prey p = prey_record(AD_F64, form, prey_unknowns, o);
    ad_var v[PREY_OPERANDS], x[PREY_OPERANDS], along[PREY_OPERANDS], bar[PREY_OPERANDS];
    ad_var hv[PREY_OPERANDS];
    int n = 0;
    prey_operands(p.tape, prey_direction, v);
    for (int k = 0; k < p.n; k++) {
        if (!(set >> k & 1)) continue;
        x[n] = p.x[k];
        along[n++] = v[k];
    }
    ad_grad(prey_loss(&p), p.n, p.x, bar);
    ad_jvp(n, x, along, p.n, bar, hv);
    double found[PREY_UNKNOWNS];
    for (int k = 0, i = 0; k < p.n; k++) {
        get(hv[k], found + i);
        for (int j = 0; j < prey_size[k]; j++, i++) {
            double want = (g[0][i] - 8 * g[1][i] + 8 * g[2][i] - g[3][i]) / (12 * h);
            ck_assert_msg(fabs(found[i] - want) <= 1e-8 * (fabs(want) + 1),
                          "form %d, set %x: operand %d, element %d: %.14g, %.14g", form,
                          (unsigned)set, k, j, found[i], want);
        }
    }
    ad_tape_free(p.tape);
}

START_TEST(differences_of_equal_steps)
{
    ode_options o = { .method = _i % 2 ? &ode_nystroem2 : &ode_rk4, .steps = 5 };
    prey_form form = _i / 2 ? PREY_FINAL : PREY_SOLVE;
    for (int operand = 0; operand < 4; operand++) against_differences(form, &o, 1 << operand);
    against_differences(form, &o, 15);
}
END_TEST

/* Steps that are replayed do not move; the times that are asked for between them do. */
START_TEST(differences_of_frozen_steps)
{
    ode_stats stats = { 0 };
    ode_options o = { .method = _i ? &ode_bosh3 : &ode_dopri5, .rtol = 1e-5, .stats = &stats };
    prey p = prey_record(AD_F64, PREY_SOLVE, prey_unknowns, &o);
    double y[16];
    get(p.y, y);
    ad_tape_free(p.tape);
    o.stats = NULL;
    o.replay = stats.steps_taken;
    for (prey_form form = 0; form < PREY_FORMS; form++) against_differences(form, &o, 7);
    against_differences(PREY_ASKED, &o, 16);
    against_differences(PREY_ASKED, &o, 23);
    ode_stats_clear(&stats);
}
END_TEST

/* ---- higher orders ---- */

/* The third derivative along a direction, against differences of the second. */
static ad_var along(const prey *p, ad_var y, const ad_var *v)
{
    ad_var dot;
    ad_jvp(p->n, p->x, v, 1, &y, &dot);
    return dot;
}

START_TEST(third_derivative)
{
    ode_options o = { .method = &ode_rk4, .steps = 4 };
    double second[4], third[2], h = 1e-3, by[] = { -2 * h, -h, 0, h, 2 * h }, at[5];
    for (int i = 0; i < 5; i++) {
        double u[PREY_UNKNOWNS];
        move(15, by[i], u);
        prey p = prey_record(AD_F64, (prey_form)_i, u, &o);
        ad_var v[PREY_OPERANDS], g[PREY_OPERANDS], loss = prey_loss(&p);
        prey_operands(p.tape, prey_direction, v);
        p.n = 4;
        ad_var twice = along(&p, along(&p, loss, v), v);
        get(twice, at + i);
        if (i == 2) {
            get(along(&p, twice, v), third);
            ad_grad(twice, 4, p.x, g);
            get(prey_dot(4, g, v), third + 1);
        }
        ad_tape_free(p.tape);
    }
    second[0] = (at[0] - 8 * at[1] + 8 * at[3] - at[4]) / (12 * h);
    for (int i = 0; i < 2; i++)
        ck_assert_double_eq_tol(third[i], second[0], 1e-7 * fabs(second[0]) + 1e-8);
}
END_TEST

/* y' = y: y(1) = e p y0, and the loss y(1)^2 has the second derivative 2 (e p)^2 by y0, whatever
 * the adjoint: those of the continuous problem have the second derivatives of the discrete one. */
static ad_var identity(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return y;
}

START_TEST(every_adjoint)
{
    if (!ode_adjoint_takes(ode_adjoints()[_i], &ode_dopri5)) return;
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_options o = { .rtol = 1e-9, .atol = 1e-10, .adjoint = ode_adjoints()[_i] };
    double p = 0.8, start = 1.2, value, want = 2 * pow(exp(1) * p, 2);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &start), g, h;
    ad_var scaled = ad_scale(y0, p), one = ad_ones_like(y0);
    ad_var y = ode_solve_final(identity, NULL, scaled, 0, NULL, ode_interval(tape, 0, 1), &o);
    get(y, &value); /* evaluated before anything asks for derivatives */
    ad_var loss = ad_sum_all(ad_square(y));
    ad_grad(loss, 1, &y0, &g);
    ad_grad(ad_sum_all(g), 1, &y0, &h);
    get(h, &value);
    ck_assert_double_eq_tol(value, want, 1e-7 * want);
    get(ad_hvp(loss, y0, one), &value);
    ck_assert_double_eq_tol(value, want, 1e-7 * want);
    get(ad_jacobian(y, y0), &value);
    ck_assert_double_eq_tol(value, exp(1) * p, 1e-8);
    ad_tape_free(tape);
}
END_TEST

/* ---- programs ---- */

/* What is compiled gives what is evaluated lazily, allocates nothing the second time, and follows a
 * change of its inputs. */
START_TEST(programs)
{
    ode_options o = { .rtol = 1e-6, .atol = 1e-8 };
    prey p = prey_record(AD_F64, (prey_form)_i, prey_unknowns, &o);
    ad_var v[PREY_OPERANDS], hv[PREY_OPERANDS], in[2 * PREY_OPERANDS + 1];
    double lazy[PREY_UNKNOWNS], out[PREY_UNKNOWNS], twice[PREY_UNKNOWNS];
    const void *data[2 * PREY_OPERANDS + 1], *doubled[2 * PREY_OPERANDS + 1];
    void *results[PREY_OPERANDS], *again[PREY_OPERANDS];
    double direction[PREY_UNKNOWNS];
    prey_operands(p.tape, prey_direction, v);
    hessian_product(0, prey_loss(&p), p.n, p.x, v, hv);
    int unknowns = 0;
    for (int i = 0; i < PREY_UNKNOWNS; i++) direction[i] = 2 * prey_direction[i];
    for (int k = 0; k < p.n; unknowns += prey_size[k++]) {
        in[k] = p.x[k];
        in[p.n + k] = v[k];
        data[k] = doubled[k] = prey_unknowns + unknowns;
        data[p.n + k] = prey_direction + unknowns;
        doubled[p.n + k] = direction + unknowns;
        results[k] = out + unknowns;
        again[k] = twice + unknowns;
        get(hv[k], lazy + unknowns);
    }
    in[2 * p.n] = p.weights;
    data[2 * p.n] = doubled[2 * p.n] = p.w;
    ad_program *program = ad_compile(2 * p.n + 1, in, p.n, hv);
    ck_assert_msg(program != NULL, "%s", ad_tape_error(p.tape));
    ad_workspace *w = ad_workspace_new(program, 2);
    ck_assert_msg(!ad_run(program, w, PREY_ROWS, data, results), "%s", ad_workspace_error(w));
    long before = allocations();
    int failed = ad_run(program, w, PREY_ROWS, doubled, again);
    long taken = allocations() - before;
    ck_assert_msg(!failed, "%s", ad_workspace_error(w));
    ck_assert_int_eq(taken, 0);
    for (int i = 0; i < unknowns; i++) {
        ck_assert_double_eq_tol(out[i], lazy[i], 1e-12 * (1 + fabs(lazy[i])));
        ck_assert_double_eq_tol(twice[i], 2 * lazy[i], 1e-12 * (1 + fabs(lazy[i])));
    }
    ad_workspace_free(w);
    ad_program_free(program);
    ad_tape_free(p.tape);
}
END_TEST

/* ---- densities ---- */

/* One hidden layer, x' = tanh(x W1 + t) W2. */
static ad_var network(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)user;
    ad_var w1 = ad_reshape(ad_slice(args[0], 0, 0, 6), AD_SHAPE(2, 3));
    ad_var w2 = ad_reshape(ad_slice(args[0], 0, 6, 12), AD_SHAPE(3, 2));
    return ad_matmul(ad_tanh(ad_add(ad_matmul(x, w1), t)), w2);
}

static ad_var likelihood(ad_tape *tape, const double *theta, const ode_options *o, ad_var *w)
{
    static const double points[] = { 0.3, -0.8, 1.1, 0.4, -0.6, 0.9 };
    ode_cnf flow = { .field = network, .horizon = 1, .options = *o };
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 3, points);
    *w = ad_param(tape, AD_SHAPE(12), theta);
    return ad_neg(ad_mean_all(ode_cnf_log_density(&flow, x, 1, w)));
}

/* H v of a negative log-likelihood by the weights, against differences of its gradient. */
START_TEST(density)
{
    double theta[12], v[12], g[4][12], hv[12], h = 1e-3;
    ode_options o = { .method = &ode_rk4, .steps = 4 };
    for (int i = 0; i < 12; i++) {
        theta[i] = sin(3 * i + 1);
        v[i] = cos(2 * i + 0.3);
    }
    for (int k = 0; k < 4; k++) {
        double moved[12], by = (k < 2 ? k - 2 : k - 1) * h;
        for (int i = 0; i < 12; i++) moved[i] = theta[i] + by * v[i];
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var w, bar, loss = likelihood(tape, moved, &o, &w);
        ad_grad(loss, 1, &w, &bar);
        get(bar, g[k]);
        ad_tape_free(tape);
    }
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var w, loss = likelihood(tape, theta, &o, &w);
    get(ad_hvp(loss, w, ad_constant(tape, AD_SHAPE(12), v)), hv);
    for (int i = 0; i < 12; i++)
        ck_assert_double_eq_tol(hv[i], (g[0][i] - 8 * g[1][i] + 8 * g[2][i] - g[3][i]) / (12 * h),
                                1e-9);
    ad_tape_free(tape);
}
END_TEST

/* ---- what they are for ---- */

/* Solves a 2 x 2 system. */
static void solve2(const double m[2][2], const double *b, double *x)
{
    double det = m[0][0] * m[1][1] - m[0][1] * m[1][0];
    x[0] = (m[1][1] * b[0] - m[0][1] * b[1]) / det;
    x[1] = (m[0][0] * b[1] - m[1][0] * b[0]) / det;
}

/* Newton's method for the shared rates of the prey from a solution that they explain up to noise:
 * from close by, each step squares the error. */
START_TEST(newtons_method)
{
    ode_options o = { .rtol = 1e-9, .atol = 1e-11 };
    double data[16], u[PREY_UNKNOWNS], error[6], truth[2];
    memcpy(u, prey_unknowns, sizeof u);
    prey p = prey_record(AD_F64, PREY_SOLVE, u, &o);
    get(p.y, data);
    ad_tape_free(p.tape);
    for (int i = 0; i < 16; i++) data[i] += 0.05 * cos(5 * i);
    u[4] += 0.1;
    u[5] -= 0.1;
    double visited[9][2];
    for (int k = 0; k < 9; k++) {
        memcpy(visited[k], u + 4, sizeof visited[k]);
        p = prey_record(AD_F64, PREY_SOLVE, u, &o);
        ad_var target = ad_input_rows(p.tape, ad_shape_of(p.y), PREY_ROWS, data), g;
        ad_var loss = ad_sum_all(ad_square(ad_sub(p.y, target)));
        double hessian[2][2], slope[2], step[2];
        ad_grad(loss, 1, &p.x[1], &g);
        get(g, slope);
        for (int i = 0; i < 2; i++) {
            double unit[2] = { i == 0, i == 1 };
            get(ad_hvp(loss, p.x[1], ad_constant(p.tape, AD_SHAPE(2), unit)), hessian[i]);
        }
        ck_assert_double_eq_tol(hessian[0][1], hessian[1][0], 1e-9 * fabs(hessian[0][1]));
        solve2(hessian, slope, step);
        for (int i = 0; i < 2; i++) u[4 + i] -= step[i];
        ad_tape_free(p.tape);
    }
    memcpy(truth, visited[8], sizeof truth);
    for (int k = 0; k < 6; k++)
        error[k] = hypot(visited[k][0] - truth[0], visited[k][1] - truth[1]);
    ck_assert_double_gt(error[0], 0.05);
    for (int k = 1; k < 6 && error[k - 1] > 1e-6; k++)
        ck_assert_msg(error[k] < 5 * error[k - 1] * error[k - 1], "step %d: %g after %g", k,
                      error[k], error[k - 1]);
    ck_assert_double_lt(error[5], 1e-11);
}
END_TEST

int main(void)
{
    TCase *t = suite_case("second", "known");
    tcase_add_loop_test(t, modes_agree, 0, method_count() * PREY_FORMS);
    tcase_add_loop_test(t, differences_of_equal_steps, 0, 4);
    tcase_add_loop_test(t, differences_of_frozen_steps, 0, 2);
    tcase_add_loop_test(t, third_derivative, 0, 2);
    int adjoints = 0;
    while (ode_adjoints()[adjoints]) adjoints++;
    tcase_add_loop_test(t, every_adjoint, 0, adjoints);
    tcase_add_loop_test(t, programs, 0, PREY_FORMS);
    tcase_add_test(t, density);
    tcase_add_test(t, newtons_method);
    return suite_run();
}
