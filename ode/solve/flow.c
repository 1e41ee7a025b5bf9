/* Joint systems built from the user's field: a running cost, a flow with its log-determinant,
 * continuous normalizing flows. */
#include "ode/solve/solve.h"
#include <math.h>

/* Says that something is NULL; on the tape of x, or of times where that has none. */
static bool given(const char *caller, ad_var x, ad_var times, bool is_given, const char *what)
{
    if (!is_given) ad_fail(x.tape ? x.tape : times.tape, "%s: %s is NULL", caller, what);
    return is_given;
}

/* ---- running costs ---- */

typedef struct {
    ode_field field, cost;
    void *user;
} cost_fields;

static void with_cost(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                      ad_var *dy)
{
    const cost_fields *f = user;
    (void)nstate;
    dy[0] = f->field(t, y[0], args, f->user);
    dy[1] = f->cost(t, y[0], args, f->user);
}

/* Zeros [rows,1] beside y. */
static ad_var zero_column(ad_var y) { return ad_fill(y.tape, AD_SHAPE(AD_ROWS, 1), 0); }

ad_var ode_solve_cost(ode_field field, ode_field cost, void *user, ad_var y0, int nargs,
                      const ad_var *args, ad_var times, const ode_options *options, ad_var *q)
{
    cost_fields both = { field, cost, user };
    ode_right_side right = {
        .caller = "ode_solve_cost", .fields = with_cost, .user = &both, .user_size = sizeof both
    };
    ad_var y[2] = { ad_none(y0.tape), ad_none(y0.tape) };
    if (given(right.caller, y0, times, field, "the field") &&
        given(right.caller, y0, times, cost, "the cost") && given(right.caller, y0, times, q, "q"))
        ode_record_solve(&right, 2, (ad_var[]){ y0, zero_column(y0) }, nargs, args, times, options,
                         false, y);
    if (q) *q = y[1];
    return y[0];
}

/* ---- flows ---- */

typedef struct {
    ode_field field, cost;
    void *user;
    bool with_cost; /* as a third state */
} flow_field;

/* d logdet/dt = tr(dF/dx), the instantaneous change of variables (Chen et al. 2018,
 * arXiv:1806.07366, theorem 1). */
static void with_trace(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                       ad_var *dy)
{
    const flow_field *f = user;
    dy[0] =
        ode_checked_derivative(y[0].tape, f->field(t, y[0], args, f->user), 0, ad_shape_of(y[0]));
    dy[1] = ad_jacobian_trace(dy[0], y[0]);
    if (nstate > 2) dy[2] = f->cost(t, y[0], args, f->user);
}

static bool check_points(const char *caller, ad_var x)
{
    ad_shape s = ad_shape_of(x);
    if (s.rank < 0 || (s.rank == 2 && s.dim[0] == AD_ROWS))
        return true; /* invalid variables are reported by the solve */
    char text[128];
    ad_format_shape(s, text, sizeof text);
    ad_fail(x.tape, "%s: points have shape %s; they must be [rows,d]", caller, text);
    return false;
}

static ad_var flow(const char *caller, const flow_field *f, ad_var x0, int nargs,
                   const ad_var *args, ad_var times, const ode_options *options, ad_var *logdet,
                   ad_var *q)
{
    ode_right_side right = {
        .caller = caller, .fields = with_trace, .user = (void *)f, .user_size = sizeof *f
    };
    ad_var none = ad_none(x0.tape), y[3] = { none, none, none };
    bool whole = given(caller, x0, times, f->field, "the field") &&
                 given(caller, x0, times, logdet, "logdet");
    if (f->with_cost)
        whole = whole && given(caller, x0, times, f->cost, "the cost") &&
                given(caller, x0, times, q, "q");
    if (whole && check_points(caller, x0)) {
        ad_var zero = zero_column(x0), start[3] = { x0, zero, zero };
        ode_record_solve(&right, f->with_cost ? 3 : 2, start, nargs, args, times, options, true, y);
    }
    if (logdet) *logdet = y[1];
    if (q) *q = y[2];
    return y[0];
}

ad_var ode_flow(ode_field field, void *user, ad_var x0, int nargs, const ad_var *args, ad_var times,
                const ode_options *options, ad_var *logdet)
{
    return flow("ode_flow", &(flow_field){ field, NULL, user, false }, x0, nargs, args, times,
                options, logdet, NULL);
}

ad_var ode_flow_cost(ode_field field, ode_field cost, void *user, ad_var x0, int nargs,
                     const ad_var *args, ad_var times, const ode_options *options, ad_var *logdet,
                     ad_var *q)
{
    return flow("ode_flow_cost", &(flow_field){ field, cost, user, true }, x0, nargs, args, times,
                options, logdet, q);
}

/* ---- continuous normalizing flows ---- */

ad_var ode_normal_log_density(ad_var z)
{
    if (!check_points("ode_normal_log_density", z)) return ad_none(z.tape);
    double d = (double)ad_shape_of(z).dim[1];
    return ad_shift(ad_scale(ad_sum_axis(ad_square(z), 1, 1), -0.5),
                    -0.5 * d * log(2 * acos(-1.0)));
}

static bool check_flow(const ode_cnf *flow_, const char *caller, ad_var x)
{
    if (!given(caller, x, x, flow_, "the flow") ||
        !given(caller, x, x, flow_->field, "the flow's field"))
        return false;
    if (flow_->horizon > 0 && isfinite(flow_->horizon)) return true;
    if (x.tape)
        ad_fail(x.tape, "%s: the horizon is %g; it must be positive and finite", caller,
                ode_shown(flow_->horizon));
    return false;
}

static ad_var log_density(const char *caller, const ode_cnf *c, bool with_cost, ode_field cost,
                          ad_var x, int nargs, const ad_var *args, ad_var *q)
{
    if (!check_flow(c, caller, x)) return ad_none(x.tape);
    flow_field f = { c->field, cost, c->user, with_cost };
    ad_var logdet, z = flow(caller, &f, x, nargs, args, ode_interval(x.tape, 0, c->horizon),
                            &c->options, &logdet, q);
    if (!ad_valid(z)) return ad_none(x.tape);
    return ad_add(ode_normal_log_density(z), logdet);
}

ad_var ode_cnf_log_density(const ode_cnf *c, ad_var x, int nargs, const ad_var *args)
{
    return log_density("ode_cnf_log_density", c, false, NULL, x, nargs, args, NULL);
}

ad_var ode_cnf_log_density_cost(const ode_cnf *c, ode_field cost, ad_var x, int nargs,
                                const ad_var *args, ad_var *q)
{
    if (q) *q = ad_none(x.tape);
    return log_density("ode_cnf_log_density_cost", c, true, cost, x, nargs, args, q);
}

static ad_var transport(const ode_cnf *c, const char *caller, ad_var x, bool backwards, int nargs,
                        const ad_var *args)
{
    ad_var y = ad_none(x.tape);
    if (!check_flow(c, caller, x) || !check_points(caller, x)) return y;
    ode_right_side right = { .caller = caller, .field = c->field, .user = c->user };
    double from = backwards ? c->horizon : 0, to = backwards ? 0 : c->horizon;
    /* Tolerances are those of the log-density's rows (x, logdet, perhaps a cost); here there is x
     * alone. */
    ode_options options = c->options;
    ad_shape shape = ad_shape_of(x);
    bool longer =
        shape.rank == 2 && (options.natol == shape.dim[1] + 1 || options.natol == shape.dim[1] + 2);
    if (longer) options.natol = (int)shape.dim[1];
    ode_record_solve(&right, 1, &x, nargs, args, ode_interval(x.tape, from, to), &options, true,
                     &y);
    return y;
}

ad_var ode_cnf_sample(const ode_cnf *c, ad_var z, int nargs, const ad_var *args)
{
    return transport(c, "ode_cnf_sample", z, true, nargs, args);
}
ad_var ode_cnf_encode(const ode_cnf *c, ad_var x, int nargs, const ad_var *args)
{
    return transport(c, "ode_cnf_encode", x, false, nargs, args);
}
