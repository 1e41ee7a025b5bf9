/* Tangents of solves, J v: against the transposed Jacobian of the adjoint, the variational
 * equation, and differences along frozen steps. */
#include "autodiff/extension.h"
#include "tests/ode/prey.h"
#include "tests/support.h"

enum { ANY = 1 << PREY_OPERANDS }; /* a set of operands has a bit for each */

/* Variables for the tangents of the operands in the set, which are put together in x. */
static int directions(const prey *p, int set, ad_var *x, ad_var *v)
{
    ad_var all[PREY_OPERANDS];
    int n = 0;
    prey_operands(p->tape, prey_direction, all);
    for (int i = 0; i < p->n; i++) {
        if (!(set >> i & 1)) continue;
        x[n] = p->x[i];
        v[n++] = all[i];
    }
    return n;
}

static ode_options some_steps(const ode_method *m)
{
    if (ode_method_adaptive(m))
        return (ode_options){ .method = m, .rtol = 1e-5, .atol = 1e-6, .newton_tolerance = 1e-14 };
    return (ode_options){ .method = m, .steps = 6, .newton_tolerance = 1e-14 };
}

/* <b, J v> = <J^T b, v> to rounding: for every method, by each operand and by all of them. The
 * tangents find the roots of implicit steps anew, so there it holds to what Newton's method leaves.
 */
START_TEST(transposes)
{
    const ode_method *m = ode_methods()[_i / PREY_FORMS];
    ode_stats stats = { 0 };
    ode_options o = some_steps(m);
    o.stats = &stats;
    prey p = prey_record(AD_F64, (prey_form)(_i % PREY_FORMS), prey_unknowns, &o);
    for (int operand = 0; operand <= p.n; operand++) {
        ad_var x[PREY_OPERANDS], v[PREY_OPERANDS], jv, jb[PREY_OPERANDS];
        double left, right, scale;
        int n = directions(&p, operand < p.n ? 1 << operand : ANY - 1, x, v);
        ad_jvp(n, x, v, 1, &p.y, &jv);
        ad_vjp(1, &p.y, &p.weights, n, x, jb);
        get(ad_sum_all(ad_mul(p.weights, jv)), &left);
        get(prey_dot(n, jb, v), &right);
        get(ad_sum_all(ad_abs(ad_mul(p.weights, jv))), &scale);
        double tolerance = stats.jacobians ? 1e3 * o.newton_tolerance : 1e-13;
        ck_assert_msg(fabs(left - right) <= tolerance * scale,
                      "%s, form %d, operand %d: %.17g, %.17g", ode_method_name(m), _i % PREY_FORMS,
                      operand, left, right);
        ck_assert(scale > 1e-3 || operand == 3 || operand == 4);
    }
    ode_stats_clear(&stats);
    ad_tape_free(p.tape);
}
END_TEST

/* s' = (dF/dy) s + (dF/dargs) v beside y. */
static void variational(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                        ad_var *dy)
{
    (void)nstate;
    dy[0] = prey_field(t, y[0], args, user);
    ad_jvp(3, (ad_var[]){ y[0], args[0], args[1] }, (ad_var[]){ y[1], args[2], args[3] }, 1, dy,
           dy + 1);
}

START_TEST(variational_equation)
{
    ode_options o = { .method = &ode_dopri8, .rtol = 1e-13, .atol = 1e-14 };
    prey p = prey_record(AD_F64, _i ? PREY_FINAL : PREY_SOLVE, prey_unknowns, &o);
    ad_var x[PREY_OPERANDS], v[PREY_OPERANDS], jv, y[2];
    int n = directions(&p, 7, x, v);
    ad_jvp(n, x, v, 1, &p.y, &jv);
    ad_var start[] = { p.x[0], v[0] }, args[] = { p.x[1], p.x[2], v[1], v[2] };
    if (_i) ode_solve_states_final(variational, NULL, 2, start, 4, args, p.x[3], &o, y);
    else ode_solve_states(variational, NULL, 2, start, 4, args, p.x[3], &o, y);
    double a[16], b[16];
    get(jv, a);
    get(y[1], b);
    for (int i = 0; i < ad_size(jv); i++)
        ck_assert_msg(fabs(a[i] - b[i]) <= 1e-9 * (fabs(b[i]) + 1e-3), "%d: %.15g, %.15g", i, a[i],
                      b[i]);
    ad_tape_free(p.tape);
}
END_TEST

/* ---- differences ---- */

/* sum w y where the unknowns of the operands in the set have moved by so many directions. */
static double moved(prey_form form, const ode_options *o, int set, double by)
{
    double u[PREY_UNKNOWNS], value;
    for (int k = 0, i = 0; k < PREY_OPERANDS; k++)
        for (int j = 0; j < prey_size[k]; j++, i++)
            u[i] = prey_unknowns[i] + (set >> k & 1 ? by * prey_direction[i] : 0);
    prey p = prey_record(AD_F64, form, u, o);
    get(ad_sum_all(ad_mul(p.weights, p.y)), &value);
    ad_tape_free(p.tape);
    return value;
}

/* Central differences of order four. */
static double difference(prey_form form, const ode_options *o, int set)
{
    double h = 1e-3;
    double near = moved(form, o, set, h) - moved(form, o, set, -h);
    double far = moved(form, o, set, 2 * h) - moved(form, o, set, -2 * h);
    return (8 * near - far) / (12 * h);
}

static void against_differences(prey_form form, const ode_options *o, int set)
{
    prey p = prey_record(AD_F64, form, prey_unknowns, o);
    ad_var x[PREY_OPERANDS], v[PREY_OPERANDS], jv;
    double value, want = difference(form, o, set);
    int n = directions(&p, set, x, v);
    ad_jvp(n, x, v, 1, &p.y, &jv);
    get(ad_sum_all(ad_mul(p.weights, jv)), &value);
    ck_assert_msg(fabs(value - want) <= 1e-9 * (fabs(want) + 0.1),
                  "form %d, operands %x: %.14g, %.14g", form, (unsigned)set, value, want);
    ad_tape_free(p.tape);
}

/* Equal steps move with the output times as a solve of moved times has them. */
START_TEST(differences_of_equal_steps)
{
    ode_options o = { .method = _i % 2 ? &ode_nystroem2 : &ode_rk4, .steps = 5 };
    for (int operand = 0; operand < 4; operand++)
        against_differences(_i / 2 ? PREY_FINAL : PREY_SOLVE, &o, 1 << operand);
    against_differences(_i / 2 ? PREY_FINAL : PREY_SOLVE, &o, 15);
}
END_TEST

/* Adaptive ones are frozen, with dense output between them. */
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
    for (prey_form form = 0; form < PREY_FORMS; form++)
        for (int operand = 0; operand < 3; operand++) against_differences(form, &o, 1 << operand);
    against_differences(PREY_ASKED, &o, 16);
    ode_stats_clear(&stats);
}
END_TEST

/* ---- other ways to run ---- */

START_TEST(single_precision)
{
    double value[2];
    for (int k = 0; k < 2; k++) {
        ode_options o = { .method = &ode_rk4, .steps = 6 };
        prey p = prey_record(k ? AD_F32 : AD_F64, (prey_form)_i, prey_unknowns, &o);
        ad_var x[PREY_OPERANDS], v[PREY_OPERANDS], jv;
        int n = directions(&p, ANY - 1, x, v);
        ad_jvp(n, x, v, 1, &p.y, &jv);
        get(ad_sum_all(ad_mul(p.weights, jv)), &value[k]);
        ad_tape_free(p.tape);
    }
    ck_assert_msg(fabs(value[0] - value[1]) < 1e-4, "%.9g, %.9g", value[0], value[1]);
}
END_TEST

/* A field that is called anew, and one whose shared arguments are what it sees. */
START_TEST(called_anew)
{
    double value[2];
    for (int k = 0; k < 2; k++) {
        ode_options o = { .method = &ode_heun, .steps = 5, .rerecord = k };
        prey p = prey_record(AD_F64, (prey_form)_i, prey_unknowns, &o);
        ad_var x[PREY_OPERANDS], v[PREY_OPERANDS], jv, jjv;
        int n = directions(&p, ANY - 1, x, v);
        ad_jvp(n, x, v, 1, &p.y, &jv);
        ad_jvp(n, x, v, 1, &jv, &jjv);
        get(ad_sum_all(ad_mul(p.weights, jjv)), &value[k]);
        ad_tape_free(p.tape);
    }
    ck_assert_double_eq_tol(value[0], value[1], 1e-12);
}
END_TEST

/* A run whose steps are divided: tangents follow them. */
START_TEST(refined)
{
    ode_options o = { .method = &ode_bosh3, .rtol = 1e-5, .atol = 1e-6 };
    prey p = prey_record(AD_F64, (prey_form)_i, prey_unknowns, &o);
    ad_var x[PREY_OPERANDS], v[PREY_OPERANDS], jv, jb[PREY_OPERANDS];
    int n = directions(&p, ANY - 1, x, v);
    ad_jvp(n, x, v, 1, &p.y, &jv);
    ad_vjp(1, &p.y, &p.weights, n, x, jb);
    ad_var out[] = { ad_sum_all(ad_mul(p.weights, jv)), prey_dot(n, jb, v) };
    ad_var in[2 * PREY_OPERANDS + 1];
    const void *data[2 * PREY_OPERANDS + 1];
    for (int k = 0, at = 0; k < p.n; at += prey_size[k++]) {
        in[k] = x[k];
        in[p.n + k] = v[k];
        data[k] = prey_unknowns + at;
        data[p.n + k] = prey_direction + at;
    }
    in[2 * p.n] = p.weights;
    data[2 * p.n] = p.w;
    ad_program *program = ad_compile(2 * p.n + 1, in, 2, out);
    ck_assert_msg(program != NULL, "%s", ad_tape_error(p.tape));
    ad_workspace *w = ad_workspace_new(program, 1);
    double usual[2], halved[2];
    ad_run_args args = { .rows = PREY_ROWS,
                         .inputs = data,
                         .outputs = (void *[]){ usual, usual + 1 } };
    ck_assert_msg(!ad_run_with(program, w, &args), "%s", ad_workspace_error(w));
    args.outputs = (void *[]){ halved, halved + 1 };
    args.refine = 1;
    ck_assert_msg(!ad_run_with(program, w, &args), "%s", ad_workspace_error(w));
    ck_assert_double_eq_tol(usual[0], usual[1], 1e-12);
    ck_assert_double_eq_tol(halved[0], halved[1], 1e-12);
    ck_assert(usual[0] != halved[0]);
    ck_assert_double_eq_tol(usual[0], halved[0], 1e-2);
    ad_workspace_free(w);
    ad_program_free(program);
    ad_tape_free(p.tape);
}
END_TEST

/* ---- what goes wrong ---- */

static ad_var root(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(args[0], ad_sqrt(y));
}

/* y' = k sqrt(y) from 0, where the root has no derivative: the step is named. */
START_TEST(not_finite)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double zero = 0, one = 1;
    ode_options o = { .method = &ode_rk4, .steps = 2 };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &zero);
    ad_var k = ad_param(tape, AD_SCALAR, &one), v = ad_input_rows(tape, ad_shape_of(y0), 1, &one);
    ad_var y = ode_solve_final(root, NULL, y0, 1, &k, ode_interval(tape, 0, 1), &o), dy;
    ad_jvp(1, &y0, &v, 1, &y, &dy);
    ck_assert(!ad_value(dy));
    const char *error = ad_tape_error(tape);
    ck_assert_msg(strstr(error, "ode_solve_final: step 0 from t = 0: the derivative becomes") &&
                      strstr(error, "a tangent of the state"),
                  "%s", error);
    ad_tape_free(tape);
}
END_TEST

/* Arguments that a field called anew only looks at have no tangent. */
static ad_var looking(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_scale(y, ad_item(args[0]));
}

START_TEST(looked_at)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double one = 1;
    ode_options o = { .method = &ode_rk4, .steps = 2, .rerecord = true };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &one);
    ad_var k = ad_param(tape, AD_SCALAR, &one), v = ad_ones_like(k);
    ad_var y = ode_solve_final(looking, NULL, y0, 1, &k, ode_interval(tape, 0, 1), &o), dy;
    ad_jvp(1, &k, &v, 1, &y, &dy);
    ck_assert(!ad_value(dy));
    const char *error = ad_tape_error(tape);
    ck_assert_msg(strstr(error, "the field reads the value of argument 0"), "%s", error);
    ad_tape_free(tape);
}
END_TEST

/* A solve that may end early: its tangents end with it. */
static bool until_middle(const ode_accepted_step *step, void *user)
{
    (void)user;
    return step->t < 0.9;
}

START_TEST(partial_solve)
{
    double jv[16], y[16];
    ode_options o = { .rtol = 1e-6, .on_step = until_middle, .partial = true };
    prey p = prey_record(AD_F64, PREY_SOLVE, prey_unknowns, &o);
    ad_var x[PREY_OPERANDS], v[PREY_OPERANDS], dot;
    int n = directions(&p, 7, x, v);
    ad_jvp(n, x, v, 1, &p.y, &dot);
    get(dot, jv);
    get(p.y, y);
    int missing = 0;
    for (int i = 0; i < 16; i++) {
        ck_assert(isnan(y[i]) == isnan(jv[i]));
        missing += isnan(y[i]) != 0;
    }
    ck_assert_int_gt(missing, 0);
    ck_assert_int_lt(missing, 12);
    ad_tape_free(p.tape);
}
END_TEST

/* Too many arrays for a derivative of this order. */
START_TEST(too_high)
{
    ode_options o = { .method = &ode_euler, .steps = 2 };
    prey p = prey_record(AD_F64, PREY_FINAL, prey_unknowns, &o);
    ad_var v[PREY_OPERANDS], y[5] = { p.y };
    prey_operands(p.tape, prey_direction, v);
    for (int order = 1; order < 4; order++) ad_jvp(4, p.x, v, 1, y + order - 1, y + order);
    ck_assert_msg(!ad_tape_error(p.tape), "%s", ad_tape_error(p.tape));
    ad_jvp(4, p.x, v, 1, y + 3, y + 4);
    const char *error = ad_tape_error(p.tape);
    ck_assert_msg(error && strstr(error, "ode_solve_final: a derivative of order 4 takes"), "%s",
                  error ? error : "no error");
    ad_tape_free(p.tape);
}
END_TEST

/* ---- Jacobians ---- */

/* The Jacobian of the flow, and its trace, for each row by itself. */
START_TEST(jacobian_of_the_flow)
{
    ode_options o = { .rtol = 1e-9, .atol = 1e-10 };
    prey p = prey_record(AD_F64, PREY_FINAL, prey_unknowns, &o);
    ad_var trace = ad_jacobian_trace(p.y, p.x[0]), jacobian = ad_jacobian(p.y, p.x[0]);
    double j[8], tr[2];
    get(jacobian, j);
    get(trace, tr);
    for (int component = 0; component < 2; component++) {
        ad_var g, one = ad_slice(p.y, 1, component, component + 1);
        ad_grad(ad_sum_all(one), 1, p.x, &g);
        double rows[4];
        get(g, rows);
        for (int r = 0; r < 2; r++)
            for (int k = 0; k < 2; k++)
                ck_assert_double_eq_tol(j[4 * r + 2 * component + k], rows[2 * r + k], 1e-12);
    }
    for (int r = 0; r < 2; r++) ck_assert_double_eq_tol(tr[r], j[4 * r] + j[4 * r + 3], 1e-12);
    ad_tape_free(p.tape);
}
END_TEST

/* A solve inside the field: x' = -k z(1), z' = sin(x) z from 1, over one unit of its own time. */
static ad_var inner(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(ad_sin(args[0]), y);
}

static ad_var outer(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ode_options o = { .method = &ode_rk4, .steps = 3 };
    ad_var one = ad_ones_like(y);
    ad_var z = ode_solve_final(inner, NULL, one, 1, &y, ode_interval(t.tape, 0, 1), &o);
    return ad_neg(ad_mul(args[0], z));
}

START_TEST(solve_inside_a_field)
{
    double k = 0.7, x = 0.4, f[5], h = 1e-3, first, second, value;
    ode_options o = { .method = &ode_rk4, .steps = 4 };
    for (int i = 0; i < 5; i++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        double at = k + (i - 2) * h;
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &x),
               p = ad_param(tape, AD_SCALAR, &at);
        ad_var y = ode_solve_final(outer, NULL, y0, 1, &p, ode_interval(tape, 0, 1), &o);
        get(y, f + i);
        ad_tape_free(tape);
    }
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &x), p = ad_param(tape, AD_SCALAR, &k);
    ad_var y = ode_solve_final(outer, NULL, y0, 1, &p, ode_interval(tape, 0, 1), &o), dy, g;
    ad_var one = ad_ones_like(p);
    ad_jvp(1, &p, &one, 1, &y, &dy);
    get(dy, &first);
    ck_assert_double_eq_tol(first, (f[0] - 8 * f[1] + 8 * f[3] - f[4]) / (12 * h), 1e-10);
    ad_grad(ad_sum_all(dy), 1, &p, &g);
    get(g, &second);
    value = (-f[0] + 16 * f[1] - 30 * f[2] + 16 * f[3] - f[4]) / (12 * h * h);
    ck_assert_double_eq_tol(second, value, 1e-7);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *t = suite_case("tangents", "known");
    tcase_add_loop_test(t, transposes, 0, method_count() * PREY_FORMS);
    tcase_add_loop_test(t, variational_equation, 0, 2);
    tcase_add_loop_test(t, differences_of_equal_steps, 0, 4);
    tcase_add_loop_test(t, differences_of_frozen_steps, 0, 2);
    tcase_add_loop_test(t, single_precision, 0, PREY_FORMS);
    tcase_add_loop_test(t, called_anew, 0, PREY_FORMS);
    tcase_add_loop_test(t, refined, 0, PREY_FORMS);
    tcase_add_test(t, not_finite);
    tcase_add_test(t, looked_at);
    tcase_add_test(t, partial_solve);
    tcase_add_test(t, too_high);
    tcase_add_test(t, jacobian_of_the_flow);
    tcase_add_test(t, solve_inside_a_field);
    return suite_run();
}
