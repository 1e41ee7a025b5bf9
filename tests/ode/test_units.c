/* Units of a system and their derivatives, for every method: JVPs against differences, VJPs against
 * JVPs (both are derived from one list of ports), and compiling in several threads at once. */
#include "ode/step/unit.h"
#include "tests/support.h"
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 3, MOST_ARRAYS = 64, MOST_ELEMENTS = 64 };

/* ---- a system with everything: two states, time, arguments with rows and without ---- */

static void pair(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user, ad_var *dy)
{
    (void)nstate;
    (void)user;
    ad_var weight = ad_tanh(args[1]); /* a shared value: it depends on an argument alone */
    ad_var hidden = ad_tanh(ad_matmul(y[0], weight));
    dy[0] = ad_add(ad_mul(ad_sin(t), hidden), ad_mul(y[1], args[0]));
    dy[1] = ad_sub(ad_mul(ad_sum_axis(ad_square(y[0]), 1, 1), ad_cos(t)), ad_mul(args[2], y[1]));
}

static ode_system *make_system(ad_tape *tape)
{
    ode_right_side right = { .caller = "test", .fields = pair };
    ad_var y[] = { ad_input_rows_data(tape, AD_SHAPE(AD_ROWS, 2), 0, AD_F64, NULL),
                   ad_input_rows_data(tape, AD_SHAPE(AD_ROWS, 1), 0, AD_F64, NULL) };
    ad_var args[] = { ad_input_rows_data(tape, AD_SHAPE(AD_ROWS, 2), 0, AD_F64, NULL),
                      ad_param_data(tape, AD_SHAPE(2, 2), AD_F64, NULL),
                      ad_param_data(tape, AD_SHAPE(1), AD_F64, NULL) };
    ode_system *system = ode_system_make(tape, &right, 2, y, 3, args, false);
    ck_assert_msg(system != NULL, "%s", ad_tape_error(tape));
    return system;
}

/* ---- running units on arrays ---- */

typedef struct {
    ode_runner runner;
    double in[MOST_ARRAYS][MOST_ELEMENTS], out[MOST_ARRAYS][MOST_ELEMENTS];
} bench;

static double random_number(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-53 - 0.5;
}

static bench *open_bench(ad_tape *tape, ode_system *system, ode_unit_key key, uint64_t seed)
{
    char error[ODE_ERROR_SIZE];
    const ode_unit *unit = ode_unit_make(system, key, tape, "test");
    ck_assert_msg(unit != NULL, "%s", ad_tape_error(tape));
    const ode_layout *l = &unit->layout;
    ck_assert_int_le(l->nin, MOST_ARRAYS);
    ck_assert_int_le(l->nout, MOST_ARRAYS);
    bench *b = calloc(1, sizeof *b);
    ck_assert_msg(!ode_runner_open(&b->runner, unit, 1, error, sizeof error), "%s", error);
    for (int i = 0; i < l->nin; i++) {
        b->runner.in[i] = b->in[i];
        for (int64_t k = 0; k < ad_count(l->in[i], ROWS); k++) b->in[i][k] = random_number(&seed);
    }
    for (int i = 0; i < l->nout; i++) b->runner.out[i] = b->out[i];
    return b;
}

static void run(bench *b)
{
    char error[ODE_ERROR_SIZE];
    b->runner.primed = false;
    ck_assert_msg(!ode_runner_run(&b->runner, ROWS, error, sizeof error), "%s", error);
}

static void close_bench(bench *b)
{
    ode_runner_close(&b->runner);
    free(b);
}

/* ---- the derivatives of one unit ---- */

/* Moves the unit's inputs along those of its JVP: x0 + by * direction. */
static void move_inputs(bench *itself, const bench *jvp, double by)
{
    const ode_unit *unit = itself->runner.unit, *along = jvp->runner.unit;
    for (int i = 0; i < unit->layout.nin; i++)
        memcpy(itself->in[i], jvp->in[i], sizeof *itself->in);
    for (ode_port p = 0; p < ODE_PORTS; p++) {
        ode_place value = ode_unit_place(unit, ODE_VALUE, p),
                  dot = ode_unit_place(along, ODE_DOT, p);
        if (value.output || dot.output || !dot.count) continue;
        ck_assert_int_eq(dot.count, value.count);
        for (int i = 0; i < dot.count; i++)
            for (int k = 0; k < MOST_ELEMENTS; k++)
                itself->in[value.first + i][k] += by * jvp->in[dot.first + i][k];
    }
}

static void check_differences(bench *itself, bench *jvp, const char *name)
{
    const ode_unit *unit = itself->runner.unit, *along = jvp->runner.unit;
    const double step = 1e-3, weight[] = { -1, 8, -8, 1 }, at[] = { 2, 1, -1, -2 };
    double difference[MOST_ARRAYS][MOST_ELEMENTS] = { { 0 } };
    int compared = 0;
    for (int n = 0; n < 4; n++) {
        move_inputs(itself, jvp, at[n] * step);
        run(itself);
        for (int i = 0; i < unit->layout.nout; i++)
            for (int k = 0; k < MOST_ELEMENTS; k++)
                difference[i][k] += weight[n] * itself->out[i][k] / (12 * step);
    }
    run(jvp);
    for (ode_port p = 0; p < ODE_PORTS; p++) {
        ode_place value = ode_unit_place(unit, ODE_VALUE, p),
                  dot = ode_unit_place(along, ODE_DOT, p);
        if (!value.output || !dot.count) continue;
        ck_assert_int_eq(dot.count, value.count);
        for (int i = 0; i < dot.count; i++)
            for (int k = 0; k < ad_count(along->layout.out[dot.first + i], ROWS); k++, compared++)
                ck_assert_msg(
                    fabs(jvp->out[dot.first + i][k] - difference[value.first + i][k]) < 1e-8,
                    "%s: port %d, array %d, element %d: tangent %.12g, difference %.12g", name,
                    (int)p, i, k, jvp->out[dot.first + i][k], difference[value.first + i][k]);
    }
    ck_assert_int_gt(compared, 0);
}

/* Sum of products of the arrays of all ports in one role, of inputs or outputs of each side. */
static double product(const bench *a, ode_role role_a, const bench *b, ode_role role_b, bool inputs)
{
    double sum = 0;
    for (ode_port p = 0; p < ODE_PORTS; p++) {
        ode_place x = ode_unit_place(a->runner.unit, role_a, p),
                  y = ode_unit_place(b->runner.unit, role_b, p);
        if (!x.count || x.output == inputs) continue;
        ck_assert_int_eq(x.count, y.count);
        ck_assert_int_eq(x.output, !y.output);
        for (int i = 0; i < x.count; i++)
            for (int k = 0; k < MOST_ELEMENTS; k++)
                sum += (inputs ? a->in : a->out)[x.first + i][k] *
                       (inputs ? b->out : b->in)[y.first + i][k];
    }
    return sum;
}

static void check_unit(ode_unit_key key, const char *name)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_system *system = make_system(tape);
    key.need = 7;
    key.newton = (ode_newton){ 1e-14, 50 };
    bench *itself = open_bench(tape, system, key, 1);
    key.derivative = ODE_JVP;
    bench *jvp = open_bench(tape, system, key, 1);
    key.derivative = ODE_VJP;
    bench *vjp = open_bench(tape, system, key, 1);
    for (int i = 0; i < vjp->runner.unit->own.nin; i++)
        ck_assert_mem_eq(vjp->in[i], jvp->in[i], sizeof *vjp->in);
    check_differences(itself, jvp, name);
    run(vjp);
    double forward = product(jvp, ODE_DOT, vjp, ODE_BAR, false),
           backward = product(jvp, ODE_DOT, vjp, ODE_BAR, true);
    ck_assert_msg(fabs(forward - backward) < 1e-12, "%s: %.15g by the JVP, %.15g by the VJP", name,
                  forward, backward);
    ck_assert_double_gt(fabs(forward), 1e-3);
    close_bench(itself);
    close_bench(jvp);
    close_bench(vjp);
    ode_system_release(system);
    ad_tape_free(tape);
}

START_TEST(steps)
{
    const ode_method *m = ode_methods()[_i];
    if (ode_method_has(m, ODE_METHOD_IMPLICIT)) return; /* roots have no forward derivative yet */
    ode_unit_key key = { .kind = ODE_UNIT_STEP, .method = m, .flags = ODE_TIMES };
    check_unit(key, m->name);
    key.flags |= ODE_DENSE;
    if (m->dense) check_unit(key, m->name);
    key.kind = ODE_UNIT_BEGIN;
    key.flags = ODE_TIMES;
    if (m->begin) check_unit(key, m->name);
}
END_TEST

/* A step that does not tell |lambda| is the same step. */
START_TEST(brief_steps)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m) || !m->stability) return;
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_system *system = make_system(tape);
    ode_unit_key key = { .kind = ODE_UNIT_STEP, .method = m, .flags = ODE_ESTIMATE };
    for (int i = 0; i < 2; i++, key.flags |= ODE_DENSE) {
        bench *brief = open_bench(tape, system, key, 1);
        key.flags |= ODE_STABILITY;
        bench *full = open_bench(tape, system, key, 1);
        key.flags &= ~ODE_STABILITY;
        run(brief);
        run(full);
        const ode_unit *a = brief->runner.unit, *b = full->runner.unit;
        ck_assert_int_eq(a->layout.nin, b->layout.nin);
        ck_assert_int_eq(a->layout.nout + 1, b->layout.nout);
        for (ode_port p = 0; p < ODE_PORTS; p++) {
            ode_place from = ode_unit_place(a, ODE_VALUE, p), to = ode_unit_place(b, ODE_VALUE, p);
            if (!from.output || p == ODE_PORT_STIFFNESS) continue;
            ck_assert_int_eq(from.count, to.count);
            for (int k = 0; k < from.count; k++)
                ck_assert_mem_eq(brief->out[from.first + k], full->out[to.first + k],
                                 sizeof *brief->out);
        }
        close_bench(brief);
        close_bench(full);
    }
    ode_system_release(system);
    ad_tape_free(tape);
}
END_TEST

START_TEST(fields_and_prologues)
{
    check_unit((ode_unit_key){ .kind = ODE_UNIT_FIELD, .flags = ODE_TIMES }, "the field");
    check_unit((ode_unit_key){ .kind = ODE_UNIT_PROLOGUE }, "the prologue");
}
END_TEST

/* A JVP gives values too, where they are asked for; derivatives that nobody needs are not there. */
START_TEST(values_and_needs)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_system *system = make_system(tape);
    ode_unit_key key = { .kind = ODE_UNIT_STEP, .method = &ode_rk4 };
    bench *itself = open_bench(tape, system, key, 1);
    key.derivative = ODE_JVP;
    key.values = ode_port_bit(ODE_PORT_NEXT);
    key.need = 1;
    bench *jvp = open_bench(tape, system, key, 1);
    const ode_unit *unit = jvp->runner.unit;
    ck_assert_int_eq(ode_unit_place(unit, ODE_DOT, ODE_PORT_ROW).count, 1);
    ck_assert_int_eq(ode_unit_place(unit, ODE_DOT, ODE_PORT_SHARED).count, 0);
    ck_assert_int_eq(ode_unit_place(unit, ODE_DOT, ODE_PORT_TIMES).count, 0);
    ck_assert_int_eq(ode_unit_place(unit, ODE_DOT, ODE_PORT_FINITE).count, 0);
    run(itself);
    run(jvp);
    ode_place from = ode_unit_place(itself->runner.unit, ODE_VALUE, ODE_PORT_NEXT),
              to = ode_unit_place(unit, ODE_VALUE, ODE_PORT_NEXT);
    ck_assert_int_eq(to.count, 2);
    for (int i = 0; i < 2; i++)
        ck_assert_mem_eq(itself->out[from.first + i], jvp->out[to.first + i], sizeof *jvp->out);
    close_bench(itself);
    close_bench(jvp);
    ode_system_release(system);
    ad_tape_free(tape);
}
END_TEST

/* ---- two systems compiled at the same time ---- */

typedef struct {
    pthread_barrier_t inside, done;
    bool met;
} meeting;

static int double_forward(void *data, void *state, const ad_opaque_call *call)
{
    (void)data;
    (void)state;
    for (int64_t i = 0; i < 2 * call->rows; i++)
        ((double *)call->out[0])[i] = 2 * ((const double *)call->in[0])[i];
    return 0;
}

/* Its derivative is recorded while the VJP of a step is compiled, and before: the first time it
 * waits until another thread has solved another system. */
static void double_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                       const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    meeting *m = data;
    (void)token;
    (void)nin;
    (void)in;
    (void)nout;
    (void)out;
    if (m && !m->met) {
        m->met = true;
        pthread_barrier_wait(&m->inside);
        pthread_barrier_wait(&m->done);
    }
    if (need[0]) xbar[0] = ad_scale(ybar[0], 2);
}

static const ad_opaque_class doubling = { .name = "doubling",
                                          .forward = double_forward,
                                          .vjp = double_vjp };

static ad_var opaque_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)args;
    ad_var out;
    ad_shape shape = ad_shape_of(y);
    ad_opaque(y.tape, &doubling, user, 1, &y, 1, &shape, &out);
    return out;
}

static ad_var plain_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)args;
    (void)user;
    return ad_scale(y, 2);
}

/* The gradient of the sum of one Euler step of size 1 of y' = 2 y: 3. */
static void check_gradient(ode_field field, void *user)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, ((double[]){ 1, 2 })), bar;
    ode_options options = { .method = &ode_euler, .steps = 1 };
    ad_var y = ode_solve_final(field, user, y0, 0, NULL, ode_interval(tape, 0, 1), &options);
    ad_grad(ad_sum_all(y), 1, &y0, &bar);
    const double *gradient = ad_value_f64(bar);
    ck_assert_msg(gradient != NULL, "%s", ad_tape_error(tape));
    ck_assert_double_eq_tol(gradient[0], 3, 1e-14);
    ad_tape_free(tape);
}

static void *solve_another(void *context)
{
    meeting *m = context;
    pthread_barrier_wait(&m->inside);
    check_gradient(plain_field, NULL);
    pthread_barrier_wait(&m->done);
    return NULL;
}

START_TEST(systems_share_no_lock)
{
    meeting m = { .met = false };
    pthread_t thread;
    pthread_barrier_init(&m.inside, NULL, 2);
    pthread_barrier_init(&m.done, NULL, 2);
    ck_assert_int_eq(pthread_create(&thread, NULL, solve_another, &m), 0);
    check_gradient(opaque_field, &m);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&m.inside);
    pthread_barrier_destroy(&m.done);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("units", "derivatives");
    tcase_add_loop_test(tests, steps, 0, method_count());
    tcase_add_loop_test(tests, brief_steps, 0, method_count());
    tcase_add_test(tests, fields_and_prologues);
    tcase_add_test(tests, values_and_needs);
    TCase *threads = suite_case("units", "threads");
    tcase_add_test(threads, systems_share_no_lock);
    return suite_run();
}
