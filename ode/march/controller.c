/* Controllers of step sizes.
 *
 * The error of a step is taken to be proportional to h^k. The elementary controller (I) chooses the
 * size whose error would just be allowed, from the latest error alone. Where the error does not
 * behave so (at the limit of stability each step amplifies what the one before has left), its
 * sizes oscillate, and steps are rejected again and again. A filter over the latest errors and
 * sizes makes a smooth sequence of them: PI (Gustafsson 1991), digital filters (Soederlind 2003).
 *
 * Filters are made for sequences of steps that they have chosen themselves. So a rejected attempt
 * is followed by the elementary choice and leaves no trace in the history (Gustafsson 1991), and
 * the history begins anew where something else has chosen: at a step that was cut short to end at
 * a stop, and where the march has gone back. Until the history is as long as the filter, the
 * elementary choice is taken. */
#include "ode/march/controller.h"
#include <math.h>

/* Errors below this count as this once they are in the past: an error that happens to vanish says
 * little of the next one (DOPRI5's FACOLD: Hairer, Norsett, Wanner, Solving ODEs I, appendix). */
static const double least_past = 1e-4;

/* Before the constants: one that ode.h does not declare does not compile. */
static const ode_controller *const all[] = { &ode_control_i, &ode_control_pi, &ode_control_h211b,
                                             &ode_control_pid, NULL };

const ode_controller ode_control_i = {
    .name = "i",
    .about = "integral: by the latest error alone; does not shrink after accepted steps",
    .beta = { 1 },
    .least_accepted = 1,
};
const ode_controller ode_control_pi = {
    .name = "pi",
    .about = "proportional-integral, PI.4.7 (Gustafsson 1991, doi:10.1145/210232.210242)",
    .beta = { 0.7, -0.4 },
    .most_again = 1,
};
const ode_controller ode_control_h211b = {
    .name = "h211b",
    .about = "digital filter H211b, b = 4 (Soederlind 2003, doi:10.1145/641876.641877, table III)",
    .beta = { 0.25, 0.25 },
    .alpha = { 0.25 },
    .most_again = 1,
};
const ode_controller ode_control_pid = {
    .name = "pid",
    .about = "proportional-integral-derivative, H312PID (Soederlind 2003, "
             "doi:10.1145/641876.641877, table III)",
    .beta = { 1.0 / 18, 1.0 / 9, 1.0 / 18 },
    .most_again = 1,
};

const ode_controller *const *ode_controllers(void) { return all; }

static double or_default(double value, double fallback) { return value == 0 ? fallback : value; }

ode_controller ode_controller_resolved(const ode_controller *given)
{
    ode_controller c = *given;
    c.safety = or_default(c.safety, 0.9);
    c.most = or_default(c.most, 10);
    c.least = or_default(c.least, 0.2);
    c.least_accepted = or_default(c.least_accepted, c.least);
    c.most_again = or_default(c.most_again, c.most);
    return c;
}

/* How many steps back the filter looks: entries of the history that it needs. */
static int reach(const ode_controller *c)
{
    if (c->beta[2] != 0 || c->alpha[1] != 0) return 3;
    return c->beta[1] != 0 || c->alpha[0] != 0 ? 2 : 1;
}

/* h_(n+1) / h_n of the elementary controller. */
static double elementary(const ode_controller *c, const ode_control_history *p)
{
    return c->safety * pow(p->ratio[0], -1.0 / p->order);
}

/* h_(n+1) / h_n = prod_i (e / r_(n-i))^(beta_i / k) prod_i (h_(n-i) / h_(n-i-1))^(-alpha_i), with
 * the error aimed at e = safety^k (Soederlind 2003). */
static double filtered(const ode_controller *c, const ode_control_history *p)
{
    double factor = pow(c->safety, c->beta[0] + c->beta[1] + c->beta[2]);
    int n = reach(c);
    for (int i = 0; i < n; i++) factor *= pow(p->ratio[i], -c->beta[i] / p->order);
    for (int i = 0; i + 1 < n; i++) factor *= pow(p->size[i] / p->size[i + 1], -c->alpha[i]);
    return factor;
}

double ode_controller_factor(const ode_controller *controller, const ode_control_history *p)
{
    if (!controller || !p) return NAN;
    ode_controller c = ode_controller_resolved(controller);
    double ratio = p->ratio[0], most = p->rejections ? c.most_again : c.most,
           least = c.least_accepted;
    if (!(ratio <= 1)) {
        most = c.safety;
        least = c.least;
    }
    if (ratio == 0) return most;
    if (!isfinite(ratio)) return least;
    bool known = ratio <= 1 && p->steps >= reach(&c);
    double factor = c.factor ? c.factor(p, c.user) : known ? filtered(&c, p) : elementary(&c, p);
    if (!isfinite(factor)) return NAN;
    return fmin(most, fmax(least, factor));
}

/* ---- in a march ---- */

void ode_control_begin(ode_control *control, const ode_controller *controller, int order)
{
    *control = (ode_control){ .controller = controller, .past = { .order = order } };
}

void ode_control_forget(ode_control *control)
{
    control->known = 0;
    control->past.rejections = 0;
}

double ode_control_factor(ode_control *control, double size, double ratio, bool alone)
{
    ode_control_history *p = &control->past;
    control->alone = alone;
    p->steps = alone ? 1 : control->known + 1;
    p->ratio[0] = ratio;
    p->size[0] = size;
    return ode_controller_factor(control->controller, p);
}

void ode_control_accept(ode_control *control)
{
    ode_control_history *p = &control->past;
    for (int i = ODE_CONTROL_PAST - 1; i > 0; i--) {
        p->ratio[i] = p->ratio[i - 1];
        p->size[i] = p->size[i - 1];
    }
    p->ratio[1] = fmax(p->ratio[1], least_past);
    if (control->alone) control->known = 0;
    else if (control->known < ODE_CONTROL_PAST - 1) control->known++;
    p->rejections = 0;
}

void ode_control_reject(ode_control *control) { control->past.rejections++; }
