/* Memory that is short in one place: every allocation of everyday work fails once alone, and once
 * with all that follow it. Each time there is an error that says so, nothing is lost, or the result
 * is that of undisturbed work. (test_memory.c: random programs; test_solve.c: the methods' solves.)
 */
#define TESTS_COUNT_ALLOCATIONS
#include "autodiff/extension.h"
#include "costate.h"
#include "tests/support.h"
#include <string.h>
#include <unistd.h>

#ifndef ALLOCATIONS_NOT_COUNTED
enum { MOST = 64 };
typedef struct {
    double number[MOST];
    int n;
    char error[1024];
} outcome;

/* Copies what is there of the variables, one after the other; the error of the tape if there is
 * one. Frees the tape. */
static void collect(outcome *o, ad_tape *tape, int n, const ad_var *x)
{
    for (int i = 0; i < n; i++) {
        int64_t size = ad_size(x[i]);
        if (size < 0 || o->n + size > MOST || ad_get(x[i], o->number + o->n)) break;
        o->n += (int)size;
    }
    const char *error = ad_tape_error(tape);
    if (error) snprintf(o->error, sizeof o->error, "%s", error);
    ad_tape_free(tape);
}

static ad_tape *new_tape(outcome *o, ad_dtype dtype)
{
    ad_tape *tape = ad_tape_new(dtype);
    if (!tape) snprintf(o->error, sizeof o->error, "%s", ad_tape_error(tape));
    return tape;
}

static const double x_data[] = { 0.3, -0.7, 1.1, 0.2, 0.9, -0.4 };
static const double w_data[] = { 0.5, 0.1, -0.3, 0.8 };

/* ---- operations and their derivatives, lazily ---- */

static void operations(outcome *o)
{
    ad_tape *tape = new_tape(o, AD_F64);
    if (!tape) return;
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 3, x_data),
           w = ad_param(tape, AD_SHAPE(2, 2), w_data);
    ad_var h = ad_tanh(ad_matmul(x, w)),
           parts[2] = { ad_flip(h, 1), ad_gather(h, 1, 3, (int64_t[]){ 1, 0, 1 }) };
    ad_var joined = ad_concatenate(2, parts, 1);
    ad_var sum = ad_cumsum(ad_logsumexp(joined, 1, (int[]){ 1 }, true), 1, false);
    ad_var all = ad_contract("bi,bj,ij->b", 3, (ad_var[]){ x, h, w });
    ad_var taken = ad_take(x, ad_scale(ad_gt(sum, ad_scalar(tape, 1)), 1));
    ad_var loss = ad_mean_all(
        ad_add(ad_square(sum), ad_reshape(ad_mul(all, ad_reshape(taken, AD_SHAPE(AD_ROWS))),
                                          AD_SHAPE(AD_ROWS, 1))));
    ad_var out[3] = { loss };
    ad_grad(loss, 2, (ad_var[]){ x, w }, out + 1);
    collect(o, tape, 3, out);
}

static void derivatives(outcome *o)
{
    ad_tape *tape = new_tape(o, AD_F64);
    if (!tape) return;
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 3, x_data),
           w = ad_param(tape, AD_SHAPE(2, 2), w_data), dot;
    ad_var y = ad_softplus(ad_matmul(ad_sin(x), w)), loss = ad_sum_all(ad_square(y)),
           tangent = ad_ones_like(x);
    ad_jvp(1, &x, &tangent, 1, &y, &dot);
    ad_var out[] = { dot, ad_jacobian(y, x), ad_jacobian_trace(y, x),
                     ad_hvp(loss, w, ad_ones_like(w)) };
    collect(o, tape, 4, out);
}

/* ---- solves, lazily ---- */

static ad_var network(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_sub(ad_tanh(ad_matmul(ad_mul(y, ad_cos(t)), args[0])), ad_mul(y, args[1]));
}

static ad_var cost(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_sum_axis(ad_square(ad_mul(y, args[1])), 1, true);
}

static void two_states(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                       ad_var *dy)
{
    (void)t, (void)nstate, (void)user;
    dy[0] = ad_neg(y[1]);
    dy[1] = ad_mul(y[0], ad_exp(ad_sum_all(args[0])));
}

typedef enum { FINAL, COST, FLOW, STATES, DENSITY, INTERPOLATED } form;

static ad_var driven(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var knots = ad_constant(t.tape, AD_SHAPE(3), (double[]){ 0, 0.4, 1 });
    return ad_sub(ode_interpolate(ODE_CUBIC, t, knots, args[2]), ad_mul(y, args[1]));
}

static void solve(outcome *o, form form, const ode_options *options)
{
    ad_tape *tape = new_tape(o, AD_F64);
    if (!tape) return;
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 3, x_data),
           w = ad_param(tape, AD_SHAPE(2, 2), w_data);
    ad_var d = ad_param(tape, AD_SHAPE(2), w_data),
           samples = ad_param(tape, AD_SHAPE(3, 2), x_data);
    ad_var args[] = { w, d, samples }, times = ode_linspace(tape, 0, 1, 3), y, q;
    if (form == FINAL) y = ode_solve_final(network, NULL, x, 2, args, times, options);
    else if (form == COST) y = ode_solve_cost(network, cost, NULL, x, 2, args, times, options, &q);
    else if (form == FLOW) y = ode_flow(network, NULL, x, 2, args, times, options, &q);
    else if (form == INTERPOLATED) y = ode_solve(driven, NULL, x, 3, args, times, options);
    else if (form == DENSITY)
        y = ode_cnf_log_density(
            &(ode_cnf){ network, NULL, 1, options ? *options : (ode_options){ 0 } }, x, 2, args);
    else {
        ad_var both[2];
        ode_solve_states(two_states, NULL, 2, (ad_var[]){ x, x }, 2, args, times, options, both);
        y = both[0];
        q = both[1];
    }
    ad_var loss = ad_sum_all(ad_square(y));
    if (form == COST || form == FLOW || form == STATES) loss = ad_add(loss, ad_sum_all(q));
    ad_var out[3] = { loss };
    ad_grad(loss, 2, (ad_var[]){ x, w }, out + 1);
    collect(o, tape, 3, out);
}

static void solve_final(outcome *o) { solve(o, FINAL, NULL); }
static void solve_back(outcome *o) { solve(o, FINAL, &(ode_options){ .adjoint = &ode_backsolve }); }
static void solve_anew(outcome *o)
{
    solve(o, FINAL, &(ode_options){ .method = &ode_rk4, .steps = 2, .rerecord = true });
}
static void solve_implicitly(outcome *o)
{
    solve(o, FINAL, &(ode_options){ .method = &ode_implicit_euler, .steps = 2 });
}
static void solve_cost(outcome *o)
{
    solve(o, COST, &(ode_options){ .method = &ode_bosh3, .rtol = 1e-3 });
}
static void solve_flow(outcome *o)
{
    solve(o, FLOW, &(ode_options){ .method = &ode_rk4, .steps = 2 });
}
static void solve_states(outcome *o)
{
    solve(o, STATES, &(ode_options){ .method = &ode_tsit5, .rtol = 1e-3 });
}
static void solve_density(outcome *o)
{
    solve(o, DENSITY, &(ode_options){ .adjoint = &ode_backsolve, .rtol = 1e-3 });
}
static void solve_driven(outcome *o)
{
    solve(o, INTERPOLATED, &(ode_options){ .method = &ode_dopri8, .rtol = 1e-3 });
}

/* ---- training and files ---- */

static ad_var loss_of(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return nn_mse(nn_mlp_apply(user, theta, batch[0]), batch[0]);
}

typedef struct {
    nn_model *model;
    nn_mlp mlp;
    nn_theta *theta;
} network_of;

static network_of make_network(outcome *o)
{
    network_of n = { .model = nn_model_new() };
    ad_rng rng = ad_rng_seed(1);
    if (n.model) n.mlp = nn_mlp_new(n.model, "net", 3, (int64_t[]){ 2, 3, 2 }, ad_tanh, NULL);
    if (!n.model || nn_model_error(n.model))
        snprintf(o->error, sizeof o->error, "%s",
                 n.model ? nn_model_error(n.model) : "out of memory");
    else n.theta = nn_theta_new(n.model, AD_F64, &rng);
    if (!o->error[0] && nn_theta_error(n.theta))
        snprintf(o->error, sizeof o->error, "%s", nn_theta_error(n.theta));
    return n;
}

static void take_theta(outcome *o, nn_theta *theta)
{
    if (o->error[0]) return;
    o->n = nn_theta_size(theta) < MOST ? (int)nn_theta_size(theta)
                                       : MOST; /* check's assertions allocate */
    memcpy(o->number, nn_theta_data(theta), (size_t)o->n * sizeof *o->number);
}

static void free_network(network_of *n)
{
    nn_theta_free(n->theta);
    nn_model_free(n->model);
}

static void training(outcome *o)
{
    network_of n = make_network(o);
    nn_array array = nn_array_of(AD_SHAPE(AD_ROWS, 2), x_data);
    nn_train_options options = { .loss = loss_of,
                                 .user = &n.mlp,
                                 .narray = 1,
                                 .arrays = &array,
                                 .examples = 3,
                                 .steps = 3,
                                 .batch = 2,
                                 .threads = 1 };
    if (!o->error[0]) nn_train(n.theta, &options, NULL, o->error, sizeof o->error);
    take_theta(o, n.theta);
    free_network(&n);
}

static char path[64];

static void files(outcome *o)
{
    network_of n = make_network(o);
    nn_theta *loaded = o->error[0] ? NULL : nn_theta_new(n.model, AD_F64, NULL);
    if (!o->error[0] && nn_theta_error(loaded))
        snprintf(o->error, sizeof o->error, "%s", nn_theta_error(loaded));
    if (!o->error[0] && !nn_save(path, n.theta, o->error, sizeof o->error))
        nn_load(path, loaded, o->error, sizeof o->error);
    take_theta(o, loaded);
    nn_theta_free(loaded);
    free_network(&n);
}

static void tables(outcome *o)
{
    double numbers[] = { 1, 2.5, -3, 4 };
    char *names[] = { (char *)"a", (char *)"b" };
    nn_table out = { .rows = 2, .columns = 2, .data = numbers, .names = names }, in = { 0 };
    if (!nn_write_csv(path, &out, o->error, sizeof o->error) &&
        !nn_read_csv(path, NULL, &in, o->error, sizeof o->error)) {
        o->n = 4;
        memcpy(o->number, in.data, sizeof numbers);
    }
    nn_table_clear(&in);
}

static const struct {
    const char *name;
    void (*run)(outcome *o);
    int stride; /* every so many allocations one fails */
} work[] = {
    { "operations", operations, 1 },       { "derivatives", derivatives, 1 },
    { "a solve", solve_final, 1 },         { "backsolve", solve_back, 2 },
    { "rerecording", solve_anew, 5 },      { "implicit Euler", solve_implicitly, 3 },
    { "a cost", solve_cost, 3 },           { "a flow", solve_flow, 2 },
    { "two states", solve_states, 3 },     { "a density", solve_density, 5 },
    { "a driven field", solve_driven, 5 }, { "training", training, 1 },
    { "weights in a file", files, 1 },     { "a table in a file", tables, 1 },
};
enum { WORK = sizeof work / sizeof *work };

/* Messages are those of the first failure; once memory is short their texts differ from place to
 * place. */
static bool blames_memory(const char *error) { return strstr(error, "memory") != NULL; }

static void check_failures(int k, bool alone, const outcome *want)
{
    bool failed = true;
    for (long at = 0; failed; at += work[k].stride) {
        outcome got = { .n = 0 };
        long live = allocations_live();
        if (alone) allocations_fail_alone(at);
        else allocations_fail_at(at);
        work[k].run(&got);
        failed = allocations_failed();
        const char *how = alone ? "alone" : "and all after it";
        ck_assert_msg(allocations_live() == live, "%s: allocation %ld failed %s: %ld are lost",
                      work[k].name, at, how, allocations_live() - live);
        if (got.error[0]) {
            ck_assert_msg(blames_memory(got.error), "%s: allocation %ld failed %s: %s",
                          work[k].name, at, how, got.error);
            ck_assert(failed);
            continue;
        }
        ck_assert_msg(got.n == want->n &&
                          !memcmp(got.number, want->number, (size_t)got.n * sizeof *got.number),
                      "%s: allocation %ld failed %s: another result, without an error",
                      work[k].name, at, how);
    }
}

START_TEST(test_every_allocation)
{
    strcpy(path, "/tmp/costate-scarce-XXXXXX");
    int file = mkstemp(path);
    ck_assert_int_ge(file, 0);
    close(file);
    outcome want = { .n = 0 };
    for (int k = 0; k < 2; k++) { /* what is made once and kept, is made now */
        want = (outcome){ .n = 0 };
        work[_i].run(&want);
    }
    ck_assert_msg(!want.error[0], "%s: %s", work[_i].name, want.error);
    ck_assert_int_gt(want.n, 0);
    check_failures(_i, true, &want);
    check_failures(_i, false, &want);
    remove(path);
}
END_TEST
#endif

int main(void)
{
    TCase *tests = suite_case("scarce", "scarce");
#ifndef ALLOCATIONS_NOT_COUNTED
    tcase_add_loop_test(tests, test_every_allocation, 0, WORK);
#endif
    return suite_run();
}
