/* What an update of an ODE-Net takes, and what its solver and its adjoints do. */
#include "example.h"
#include "odenet.h"
#include <math.h>
#include <stdlib.h>

/* ---- solver and adjoints --------------------------------------------------------------------- */

/* Of the first digits: the final state and the gradient at a tolerance. */
typedef struct {
    double *state, *gradient; /* borrowed; state NULL: not wanted */
    ode_stats stats;
    char error[512];
} solved;

static bool solve_at(const odenet *n, const nn_theta *theta, const digit_set *d,
                     const ode_adjoint *adjoint, double tolerance, solved *to)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    /* How wrong a gradient is, is what is measured: none is refused. */
    odenet_use u = {
        n,
        0,
        { .adjoint = adjoint, .rtol = tolerance, .atol = tolerance, .costate_drift = INFINITY }
    };
    u.solver.stats = &to->stats;
    ad_var w = nn_theta_param(tape, theta), g;
    ad_var grey = ad_input_rows(tape, AD_SHAPE(AD_ROWS, d->pixels), ODENET_COMPARED, d->grey),
           digit = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ODENET_COMPARED, d->digit);
    ad_var value = nn_cross_entropy(odenet_logits(&u, w, grey), digit);
    ad_grad(value, AD_VARS(w), &g);
    bool fine = ad_get(g, to->gradient) == 0;
    if (fine && to->state)
        fine = ad_get(odenet_solve(n, w, odenet_state(n, w, grey), &u.solver), to->state) == 0;
    if (!fine) snprintf(to->error, sizeof to->error, "%s", ad_tape_error(tape));
    ad_tape_free(tape);
    return fine;
}

static double distance(int64_t n, const double *a, const double *b)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return sqrt(difference / norm);
}

bool odenet_compare(const odenet *n, const nn_theta *theta, const digit_set *digits, FILE *f)
{
    static const double tolerance[] = { 1e-1, 1e-2, 1e-3, 1e-4, 1e-5 };
    const int64_t side = ((digits->side - 4) / 2 + 1 - 3) / 2 + 1; /* of the state */
    const int64_t weights = nn_theta_size(theta), all = side * side * n->channels * ODENET_COMPARED;
    double *numbers = malloc((size_t)(2 * all + 2 * weights) * sizeof *numbers);
    if (!numbers) return !example_failed("memory", NULL);
    solved exact = { numbers, numbers + 2 * all, { 0 }, "" };
    bool fine = solve_at(n, theta, digits, &ode_discrete, 1e-7, &exact);
    if (!fine) example_failed("solve", exact.error);
    printf("solutions and gradients of %d digits, in double precision, beside those at 1e-7\n"
           "             state                  discrete adjoint             backsolve\n"
           "  tolerance  error     evaluations  error     back     kept      error     back\n",
           ODENET_COMPARED);
    for (int i = 0; fine && i < 5; i++) {
        solved a = { numbers + all, numbers + 2 * all + weights, { 0 }, "" };
        fine = solve_at(n, theta, digits, &ode_discrete, tolerance[i], &a);
        if (!fine) example_failed("solve", a.error);
        solved b = { NULL, a.gradient, { 0 }, "" };
        const double state_error = distance(all, a.state, exact.state),
                     discrete_error = distance(weights, a.gradient, exact.gradient);
        const bool back = solve_at(n, theta, digits, &ode_backsolve, tolerance[i], &b);
        const int64_t taken = a.stats.evaluations,
                      products = a.stats.backward_evaluations + a.stats.vjps,
                      solved_back = b.stats.backward_evaluations + b.stats.vjps;
        printf("  %9.0e  %8.1e  %11lld  %8.1e  %4lld  %5.1f MB  ", tolerance[i], state_error,
               (long long)taken, discrete_error, (long long)products,
               (double)a.stats.stored_bytes / 1048576);
        if (back)
            printf("%8.1e  %7lld\n", distance(weights, b.gradient, exact.gradient),
                   (long long)solved_back);
        else printf("    lost\n");
        fprintf(f, "%g %g %lld %lld ", tolerance[i], state_error, (long long)taken,
                (long long)products);
        if (back) fprintf(f, "%lld\n", (long long)solved_back);
        else fprintf(f, "nan\n");
        ode_stats_clear(&a.stats);
        ode_stats_clear(&b.stats);
    }
    ode_stats_clear(&exact.stats);
    free(numbers);
    return fine;
}

/* ---- updates --------------------------------------------------------------------------------- */

bool odenet_time_updates(const odenet *n, const odenet_settings *s, odenet_data *data,
                         nn_theta *theta)
{
    enum { BEFORE = 3, EVERY = 100, MOST = 100000 };
    ode_stats stats = { 0 };
    odenet_use fine = { n, 0, { .rtol = s->tolerance, .atol = s->tolerance, .stats = &stats } };
    const bool race = s->until > 0;
    const nn_stage stage = { .steps = race ? MOST : s->timed + BEFORE, .user = &fine };
    nn_train_options options = odenet_training(s, data, &fine, race ? EVERY : 0);
    options.nstage = 1;
    options.stages = &stage;
    options.optimizer.rate = 1e-3;
    options.check_gradient = -1;
    nn_trainer *trainer = nn_trainer_new(theta, &options);
    const nn_train_report *report = nn_trainer_report(trainer);
    double seconds = 0, processor = 0, evaluations = 0, back = 0;
    int64_t timed = 0;
    int result;
    do {
        const double began = report->seconds, then = odenet_processor_seconds();
        const int64_t validations = report->validations;
        result = nn_trainer_step(trainer);
        if (result <= 0 || report->steps <= BEFORE) continue;
        if (report->validations == validations) {
            seconds += report->seconds - began;
            processor += odenet_processor_seconds() - then;
            evaluations += (double)stats.evaluations;
            back += (double)(stats.backward_evaluations + stats.vjps);
            timed++;
        } else if (race) {
            const double share = (double)report->steps / (double)timed;
            printf("%lld updates: test error %.2f %%, %.1f s, %.1f s of the processors\n",
                   (long long)report->steps, 100 * report->validation.metrics[0], seconds * share,
                   processor * share);
            fflush(stdout);
            if (100 * report->validation.metrics[0] <= s->until) break;
        }
    } while (result > 0);
    if (result < 0) example_failed("training", nn_trainer_error(trainer));
    else
        printf("an update: %.1f ms, %.1f ms of the processors, %.1f evaluations, %.1f back\n",
               1e3 * seconds / (double)timed, 1e3 * processor / (double)timed,
               evaluations / (double)timed, back / (double)timed);
    nn_trainer_free(trainer);
    ode_stats_clear(&stats);
    return result >= 0;
}
