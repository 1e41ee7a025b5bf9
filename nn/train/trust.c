/* Whether the gradient can be trusted: at a few steps it is computed a second time with all steps
 * of the loss's solves halved. Where that changes it, the steps are too large for it, and training
 * follows a direction that is not the loss's: the training goes on, and says so.
 */
#include "nn/train/train.h"
#include "autodiff/extension.h"

enum { SECOND_CHECK = 500 };

int nn_trust_new(nn_trainer *t)
{
    if (t->options.check_gradient < 0 || !ad_program_discretises(t->runner.program)) return 0;
    t->refined = nn_theta_new(t->theta->model, t->theta->dtype, NULL);
    if (t->nstate > 0) t->aside = nn_theta_new(t->theta->model, t->theta->dtype, NULL);
    return t->refined && (t->aside || t->nstate == 0) ? 0 : FAIL(t, "out of memory");
}

/* Step 1, then 500, 1000, 2000, 4000, ... of them: a check takes less than three steps' time. */
static bool is_due(const nn_trainer *t, int64_t step)
{
    int64_t every = t->options.check_gradient;
    if (step == t->first + 1) return true; /* the first of a stage */
    if (every > 0) return step % every == 0;
    int64_t due = SECOND_CHECK;
    while (due < step && due <= INT64_MAX / 2) due *= 2;
    return step == due;
}

bool nn_trust_refine(nn_trainer *t, int64_t step)
{
    if (!t->refined || t->report.warning[0] || !is_due(t, step)) return false;
    double loss;
    t->report.gradient_checks++;
    if (nn_gradient(t, 1, &loss, t->refined) == 0) return true;
    nn_warn(t, step,
            "warning: the gradient with all steps of the solves halved cannot be computed: %.300s",
            ad_workspace_error(t->runner.workspace));
    return false;
}

void nn_trust_compare(nn_trainer *t, int64_t step)
{
    const nn_theta *theta = t->theta, *g = t->gradient;
    nn_states_copy(t, g, t->aside); /* they are no gradient */
    nn_states_clear(t, t->gradient);
    nn_states_clear(t, t->refined);
    double allowed = ad_gradient_rounding(theta->dtype, theta->size, theta->data, t->loss);
    ad_gradient_difference d =
        ad_compare_gradients(theta->dtype, theta->size, g->data, t->refined->data, allowed, 0);
    nn_states_copy(t, t->aside, t->gradient);
    if (!(d.difference <= t->report.gradient_difference))
        t->report.gradient_difference = d.difference;
    if (ad_gradients_agree(&d, 0)) return;
    const nn_parameter *p = nn_parameter_at(theta->model, d.worst_element);
    nn_warn(
        t, step,
        "warning: the gradient of the loss changes by %.2g of its size when all steps of its "
        "solves are halved (norm %.3g, then %.3g; "
        "most in '%.60s'): the steps are too large for it. Limit them (max_step, or fixed steps "
        "that are smaller), tighten the tolerances "
        "if the solution is not accurate either, or use an implicit method or another adjoint; of "
        "a chaotic field, solve shorter "
        "intervals; "
        "check with ad_check_gradient",
        d.difference, d.norm, d.refined_norm, p ? p->name : "");
}
