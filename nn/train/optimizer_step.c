/* An optimiser's step: the gradient is examined and clipped, the rate found, every stretch of theta
 * updated; where a number would overflow, theta is put back. */
#include "nn/train/optimizer.h"
#include "autodiff/extension.h"
#include <string.h>

/* One step, as threads share it. */
typedef struct {
    nn_optimizer_state *s;
    void *theta;
    const void *gradient;
    nn_update update;
} step_of;

static void *from(const nn_optimizer_state *s, const void *array, int64_t element)
{
    return (char *)(uintptr_t)array + nn_bytes(s->dtype) * (size_t)element;
}

/* ---- the gradient ---------------------------------------------------------------------------- */

static void look_at_piece(void *data, int thread, int64_t k)
{
    const step_of *d = data;
    const nn_optimizer_state *s = d->s;
    nn_piece *p = &s->pieces[k];
    int64_t n = p->stop - p->start;
    const void *theta = from(s, d->theta, p->start), *gradient = from(s, d->gradient, p->start);
    (void)thread;
    p->moderate = p->moments && s->loops->moderate(n, theta, gradient);
    if (s->options.clip_norm > 0) p->squares = s->loops->squares(n, gradient);
}

/* Looks at all that is not frozen; whether it is of a moderate size, and so finite. */
static bool look(const step_of *d)
{
    const nn_optimizer_state *s = d->s;
    bool moderate = true;
    ad_share(s->options.threads, 2 * (double)s->size * (double)nn_bytes(s->dtype), s->npiece,
             look_at_piece, (void *)(uintptr_t)d);
    for (int64_t k = 0; k < s->npiece; k++) moderate = moderate && s->pieces[k].moderate;
    return moderate;
}

/* The first element that is not finite, or -1; *largest: the largest size. */
static int64_t examine(const nn_optimizer_state *s, const void *gradient, double *largest)
{
    *largest = 0;
    for (int64_t k = 0; k < s->nstretch; k++) {
        for (int64_t i = s->stretches[k].start; i < s->stretches[k].stop; i++) {
            double size = fabs(nn_element(s->dtype, gradient, i));
            if (!isfinite(size)) return i;
            if (size > *largest) *largest = size;
        }
    }
    return -1;
}

/* The same of x / unit, for numbers whose squares are beyond the range. */
static double scaled_squares(const step_of *d, double unit)
{
    double sum = 0;
    for (int64_t k = 0; k < d->s->npiece; k++) {
        for (int64_t i = d->s->pieces[k].start; i < d->s->pieces[k].stop; i++) {
            double v = nn_element(d->s->dtype, d->gradient, i) / unit;
            sum += v * v;
        }
    }
    return sum;
}

/* The gradient's 2-norm is value * unit: as one number it may be too large. */
typedef struct {
    double value, unit;
} norm_of;

/* Of all that is not frozen, which is finite. Elements whose squares overflow, or vanish, are
 * scaled first. */
static norm_of gradient_norm(const step_of *d)
{
    const double least = 0x1p-900; /* squares below a fraction of it have lost digits */
    double sum = 0, largest;
    for (int64_t k = 0; k < d->s->npiece; k++) sum += d->s->pieces[k].squares;
    if (isfinite(sum) && sum >= least) return (norm_of){ sqrt(sum), 1 };
    examine(d->s, d->gradient, &largest);
    if (largest == 0) return (norm_of){ 0, 1 };
    return (norm_of){ sqrt(scaled_squares(d, largest)), largest };
}

/* What clipping multiplies the gradient by. */
static double clip_scale(const step_of *d)
{
    const nn_optimizer_options *o = &d->s->options;
    if (o->clip_norm <= 0) return 1;
    norm_of norm = gradient_norm(d);
    double limit = o->clip_norm / norm.unit;
    return norm.value > limit ? limit / norm.value : 1;
}

/* ---- the rate -------------------------------------------------------------------------------- */

double nn_optimizer_factor(const nn_optimizer_state *s)
{
    const nn_optimizer_options *o = &s->options;
    int64_t taken = nn_optimizer_steps(s), left = s->steps - o->warmup;
    double factor = 1 + s->made.lowered;
    if (taken < o->warmup) return factor * (double)(taken + 1) / (double)o->warmup;
    if (!o->schedule) return factor;
    int64_t step = taken - o->warmup;
    return factor * o->schedule(step < left ? step : left - 1, left, o->user);
}

double nn_optimizer_rate(const nn_optimizer_state *state)
{
    return state && !state->unusable ? state->options.rate * nn_optimizer_factor(state) : NAN;
}

/* The factor for the next update; -1 with the error where it is none. */
static double scheduled(nn_optimizer_state *s)
{
    int64_t taken = nn_optimizer_steps(s), left = s->steps - s->options.warmup;
    int64_t step = taken - s->options.warmup;
    double factor = nn_optimizer_factor(s);
    if (factor >= 0 && isfinite(factor)) return factor;
    nn_error(s->error, sizeof s->error,
             "nn_optimizer_step: the schedule's factor at step %lld of %lld is %g, but must be "
             "finite and not negative",
             (long long)(step < left ? step : left - 1), (long long)left, nn_shown(factor));
    return -1;
}

int nn_optimizer_metric(nn_optimizer_state *state, double value)
{
    nn_optimizer_state *s = state;
    if (!s || s->unusable) return -1;
    const nn_plateau *p = &s->options.plateau;
    nn_progress_made *m = &s->made;
    s->error[0] = 0;
    if (p->factor == 0)
        return nn_error(s->error, sizeof s->error,
                        "nn_optimizer_metric: the optimiser was made without options.plateau");
    if (!isfinite(value))
        return nn_error(s->error, sizeof s->error, "nn_optimizer_metric: the value is %g",
                        nn_shown(value));
    bool better = m->metrics == 0 || value < m->best - p->threshold * fabs(m->best);
    m->metrics++;
    if (better) m->best = value;
    m->waiting = better ? 0 : m->waiting + 1;
    if (m->waiting <= (double)p->patience) return 0;
    m->waiting = 0;
    double factor = (1 + m->lowered) * p->factor;
    m->lowered = (factor > p->least ? factor : p->least) - 1;
    return 0;
}

/* ---- the update ------------------------------------------------------------------------------ */

/* Liu et al. 2020, section 4.2: the adaptive rate is used once the variance of its estimate is
 * finite. */
static double rectification(double beta2, double power, double t)
{
    double most = 2 / (1 - beta2) - 1, length = most - 2 * t * power / (1 - power);
    if (!(length > 5)) return 0;
    return sqrt((length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length));
}

static nn_update prepare(nn_optimizer_state *s, double factor, double scale)
{
    const nn_optimizer_options *o = &s->options;
    double t = ++s->made.taken, power2 = pow(o->beta2, t);
    return (nn_update){ .rate = o->rate * factor,
                        .momentum = o->momentum,
                        .beta1 = o->beta1,
                        .beta2 = o->beta2,
                        .epsilon = o->epsilon,
                        .rest1 = 1 - o->beta1,
                        .rest2 = 1 - o->beta2,
                        .scale = scale,
                        .limit = o->clip_value > 0 ? o->clip_value : INFINITY,
                        .correct1 = 1 - pow(o->beta1, t),
                        .root_correct2 = sqrt(1 - power2),
                        .rectify = rectification(o->beta2, power2, t),
                        .nesterov = o->nesterov };
}

/* What the update is of one stretch. */
static nn_update update_of(const step_of *d, const nn_stretch *part)
{
    nn_update u = d->update;
    u.rate *= part->rate;
    u.decay = part->decay;
    return u;
}

static void update_piece(void *data, int thread, int64_t k)
{
    const step_of *d = data;
    nn_optimizer_state *s = d->s;
    nn_piece *p = &s->pieces[k];
    nn_algorithm algorithm = s->options.algorithm->number;
    nn_update u = update_of(d, p->stretch);
    (void)thread;
    p->fine = true;
    if (p->stretch->matrix) return;
    nn_elements e = { .n = p->stop - p->start,
                      .theta = from(s, d->theta, p->start),
                      .gradient = from(s, d->gradient, p->start),
                      .first = from(s, s->first, p->start),
                      .second = from(s, s->second, p->start) };
    if (p->moderate) {
        p->fine = s->loops->update[algorithm](&u, &e);
    } else {
        p->fine = s->loops->extreme[algorithm](&u, &e);
        p->moments = s->loops->moderate_moments(e.n, e.first, e.second);
    }
}

static bool update_matrix(const step_of *d, const nn_stretch *part)
{
    nn_optimizer_state *s = d->s;
    nn_update u = update_of(d, part);
    return nn_matrix_update(part->matrix, &u, from(s, d->theta, part->start),
                            from(s, d->gradient, part->start), from(s, s->first, part->start));
}

/* Whether all numbers are finite afterwards. Bytes that are read take time as those written do. */
static bool update_all(const step_of *d)
{
    const nn_optimizer_state *s = d->s;
    bool fine = true;
    ad_share(s->options.threads, 7 * (double)s->size * (double)nn_bytes(s->dtype), s->npiece,
             update_piece, (void *)(uintptr_t)d);
    for (int64_t k = 0; k < s->npiece; k++) fine = fine && s->pieces[k].fine;
    for (int64_t i = 0; i < s->nstretch; i++)
        if (s->stretches[i].matrix) fine = update_matrix(d, &s->stretches[i]) && fine;
    return fine;
}

/* Whether no number can overflow. Pieces whose factors are not moderate are marked. */
static bool is_safe(const step_of *d)
{
    const nn_optimizer_state *s = d->s;
    bool safe = s->nmatrix == 0;
    for (int64_t k = 0; k < s->npiece; k++) {
        nn_piece *p = &s->pieces[k];
        nn_update u = update_of(d, p->stretch);
        p->moderate = p->moderate && s->loops->moderate_factors(&u);
        safe = safe && p->moderate;
    }
    return safe;
}

/* All of theta that is not frozen, from one array of its size to another. */
static void copy_all(const nn_optimizer_state *s, const void *source, void *target)
{
    for (int64_t i = 0; i < s->nstretch; i++) {
        const nn_stretch *part = &s->stretches[i];
        memcpy(from(s, target, part->start), from(s, source, part->start),
               (size_t)(part->stop - part->start) * nn_bytes(s->dtype));
    }
}

/* Whether theta and gradient are what the state was made for. */
static int check_step(nn_optimizer_state *s, const nn_theta *theta, const nn_theta *gradient)
{
    const nn_theta *both[] = { theta, gradient };
    for (int i = 0; i < 2; i++) {
        const nn_theta *x = both[i];
        const char *what = i ? "nn_optimizer_step: gradient" : "nn_optimizer_step";
        if (nn_theta_check(what, x, s->error, sizeof s->error)) return -1;
        if (x->model == s->model && x->size == s->size && x->dtype == s->dtype) continue;
        return nn_error(s->error, sizeof s->error,
                        "%s: %s [%lld]%s, but the optimiser was made for %s [%lld]", what,
                        nn_dtype_name(x->dtype), (long long)x->size,
                        x->model == s->model ? "" : " of another model", nn_dtype_name(s->dtype),
                        (long long)s->size);
    }
    if (theta != gradient) return 0;
    return nn_error(s->error, sizeof s->error,
                    "nn_optimizer_step: theta and gradient are the same object");
}

int nn_optimizer_step(nn_optimizer_state *state, nn_theta *theta, const nn_theta *gradient)
{
    nn_optimizer_state *s = state;
    if (!s || s->unusable) return -1;
    s->error[0] = 0;
    if (check_step(s, theta, gradient)) return -1;
    step_of d = { .s = s, .theta = theta->data, .gradient = gradient->data };
    double largest;
    int64_t bad = look(&d) ? -1 : examine(s, gradient->data, &largest);
    if (bad >= 0) {
        return nn_error(s->error, sizeof s->error,
                        "nn_optimizer_step: element %lld of the gradient is %g", (long long)bad,
                        nn_shown(nn_element(s->dtype, gradient->data, bad)));
    }
    double factor = scheduled(s);
    if (factor < 0) return -1;
    d.update = prepare(s, factor, clip_scale(&d));
    if (!is_safe(&d)) copy_all(s, theta->data, s->saved);
    if (update_all(&d)) return 0;
    bad = nn_find_nonfinite(s->dtype, theta->data, s->size);
    copy_all(s, s->saved, theta->data);
    s->unusable = true;
    if (bad < 0)
        return nn_error(s->error, sizeof s->error,
                        "nn_optimizer_step: a second moment would overflow");
    return nn_error(
        s->error, sizeof s->error,
        "nn_optimizer_step: element %lld of theta would overflow; the rate (%g) is too large",
        (long long)bad, d.update.rate);
}
