/* Optimisers: one update of theta. The forms are PyTorch's, so that results can be compared number
 * by number. Parameters that weight decay acts on, and those it does not, are stretches of theta,
 * each updated by one loop. */
#include "nn/model/model.h"
#include "nn/train/optimizer.h"
#include <stdlib.h>
#include <string.h>

/* What is the same for all elements of one update. */
typedef struct {
    double rate, momentum, beta1, beta2, epsilon, decay,
        scale;                      /* scale: of the gradient, by clipping */
    double correct1, root_correct2; /* 1 - beta1^t, sqrt(1 - beta2^t) */
    bool nesterov;
    bool extreme; /* the square of a gradient, with its decay, may overflow or lose digits */
} update;

/* A part of theta whose parameters are all decayed, or none of them. */
typedef struct {
    int64_t start, stop;
    bool decays;
} stretch;

struct nn_optimizer {
    const char *name;
    double beta1, beta2, epsilon, decay; /* defaults */
    bool takes_momentum, takes_betas;
    /* Updates a part of theta and the state; returns whether all of it is finite. */
    bool (*update_f32)(nn_optimizer_state *s, const update *u, stretch part, void *theta,
                       const void *gradient);
    bool (*update_f64)(nn_optimizer_state *s, const update *u, stretch part, void *theta,
                       const void *gradient);
};

struct nn_optimizer_state {
    nn_optimizer_options options; /* defaults filled in */
    const nn_model *model;        /* to be compared with only */
    ad_dtype dtype;
    int64_t size, steps, taken;
    int64_t nstretch;
    stretch *stretches;
    double power1, power2;        /* beta1^taken, beta2^taken */
    void *first, *second, *saved; /* [size] of dtype; second: roots of second moments */
    bool unusable;
    char error[400];
};

/* ---- algorithms ------------------------------------------------------------------------------ */

/* Each is a function of one element: its new value, given its gradient and its two numbers of
 * state, which start as 0. */

static inline double sgd(const update *u, double theta, double gradient, double *first,
                         double *second)
{
    (void)second;
    gradient += u->decay * theta;
    *first = u->momentum * *first + gradient;
    return theta - u->rate * (u->nesterov ? gradient + u->momentum * *first : *first);
}

/* sqrt(beta2 root^2 + (1 - beta2) x^2). The state keeps this root of the mean square, not the mean
 * square: that would overflow, or vanish, for gradients far inside the range of numbers. The
 * squares are taken of scaled numbers for the same reason, unless they are known to be harmless.
 * The scale is a power of two: both ways give the same bits. */
static inline double root_mean_square(const update *u, double root, double x)
{
    const double beta = u->beta2;
    if (!u->extreme) return sqrt(beta * (root * root) + (1 - beta) * (x * x));
    const double size = fabs(x), largest = size > root ? size : root;
    const double scale = largest > 0x1p400 ? 0x1p-600 : largest < 0x1p-400 ? 0x1p600 : 1;
    const double back = largest > 0x1p400 ? 0x1p600 : largest < 0x1p-400 ? 0x1p-600 : 1;
    const double a = root * scale, b = x * scale;
    return sqrt(beta * (a * a) + (1 - beta) * (b * b)) * back;
}

static inline double adam(const update *u, double theta, double gradient, double *first,
                          double *second)
{
    gradient += u->decay * theta;
    *first = u->beta1 * *first + (1 - u->beta1) * gradient;
    *second = root_mean_square(u, *second, gradient);
    return theta - u->rate / u->correct1 * (*first / (*second / u->root_correct2 + u->epsilon));
}

static inline double adamw(const update *u, double theta, double gradient, double *first,
                           double *second)
{
    update undecayed = *u;
    undecayed.decay = 0;
    return adam(&undecayed, theta * (1 - u->rate * u->decay), gradient, first, second);
}

static inline double rmsprop(const update *u, double theta, double gradient, double *first,
                             double *second)
{
    gradient += u->decay * theta;
    *second = root_mean_square(u, *second, gradient);
    *first = u->momentum * *first + gradient / (*second + u->epsilon);
    return theta - u->rate * *first;
}

/* Squares of float numbers are harmless as double: they lie between 2^-298 and 2^256. The factors
 * of the gradient and of theta must not change that; sums may cancel down to 2^-53 of their terms.
 */
static bool is_extreme(const update *u, size_t size)
{
    const bool moderate_decay = u->decay == 0 || (u->decay > 0x1p-250 && u->decay < 0x1p250);
    return size > sizeof(float) || u->scale < 0x1p-250 || !moderate_decay;
}

/* The loops over the elements, one for each algorithm, type and kind of squares, so that the
 * compiler sees what it can turn into vectors. */
#define LOOP(algorithm, suffix, T, kind, is_extreme_kind)                                          \
    static bool algorithm##_##suffix##_##kind(nn_optimizer_state *s, update u, stretch part,       \
                                              T *restrict theta, const T *restrict gradient)       \
    {                                                                                              \
        T *restrict first = s->first, *restrict second = s->second;                                \
        int overflows = 0;                                                                         \
        u.extreme = is_extreme_kind;                                                               \
        for (int64_t i = part.start; i < part.stop; i++) {                                         \
            double m = first[i], r = second[i];                                                    \
            T value = (T)algorithm(&u, theta[i], u.scale * gradient[i], &m, &r);                   \
            T root = (T)r;                                                                         \
            theta[i] = value;                                                                      \
            first[i] = (T)m;                                                                       \
            second[i] = root;                                                                      \
            overflows |= value - value != 0; /* infinite, or NaN */                                \
            overflows |= root - root != 0;                                                         \
        }                                                                                          \
        return !overflows;                                                                         \
    }
#define UPDATE(algorithm, suffix, T)                                                               \
    LOOP(algorithm, suffix, T, extreme, true)                                                      \
    LOOP(algorithm, suffix, T, moderate, false)                                                    \
    static bool algorithm##_##suffix(nn_optimizer_state *s, const update *shared, stretch part,    \
                                     void *theta, const void *gradient)                            \
    {                                                                                              \
        update u = *shared;                                                                        \
        if (!part.decays) u.decay = 0;                                                             \
        return is_extreme(&u, sizeof(T))                                                           \
                   ? algorithm##_##suffix##_extreme(s, u, part, theta, gradient)                   \
                   : algorithm##_##suffix##_moderate(s, u, part, theta, gradient);                 \
    }
#define OPTIMIZER(algorithm, ...)                                                                  \
    UPDATE(algorithm, f32, float)                                                                  \
    UPDATE(algorithm, f64, double)                                                                 \
    const nn_optimizer nn_##algorithm = { #algorithm, __VA_ARGS__, algorithm##_f32,                \
                                          algorithm##_f64 };

/* Defaults of beta1, beta2, epsilon and weight decay; whether there is momentum, and whether betas.
 */
OPTIMIZER(sgd, 0, 0, 0, 0, true, false)
OPTIMIZER(adam, 0.9, 0.999, 1e-8, 0, false, true)
OPTIMIZER(adamw, 0.9, 0.999, 1e-8, 0.01, false, true)
OPTIMIZER(rmsprop, 0, 0.99, 1e-8, 0, true, true)

const char *nn_optimizer_name(const nn_optimizer *optimizer)
{
    return optimizer ? optimizer->name : "none";
}

double nn_schedule_cosine(int64_t step, int64_t steps, void *user)
{
    (void)user;
    return 0.5 * (1 + cos(3.14159265358979323846 * (double)step / (double)steps));
}

double nn_schedule_exponential(int64_t step, int64_t steps, void *user)
{
    (void)user;
    return pow(0.01, (double)step / (double)steps);
}

bool nn_decay_matrices(const char *name, ad_shape shape, void *user)
{
    (void)name, (void)user;
    return shape.rank >= 2;
}

bool nn_decay_all(const char *name, ad_shape shape, void *user)
{
    (void)name, (void)shape, (void)user;
    return true;
}

/* ---- state ----------------------------------------------------------------------------------- */

static void set_default(double *value, double default_value)
{
    if (*value == 0) *value = default_value;
}

/* NULL, or what is wrong with the options. NaN fails every comparison, so they are written to be
 * true for good values. */
static const char *check_options(const nn_optimizer_options *o)
{
    const nn_optimizer *a = o->algorithm;
    if (!(o->rate > 0 && isfinite(o->rate))) return "the rate must be positive";
    if (!(o->momentum >= 0 && o->momentum < 1)) return "momentum must be in [0,1)";
    if (o->momentum > 0 && !a->takes_momentum)
        return "this algorithm takes no momentum (its beta1 is one)";
    if (o->nesterov && (a != &nn_sgd || o->momentum == 0))
        return "nesterov needs sgd with momentum";
    if (!a->takes_betas && (o->beta1 != 0 || o->beta2 != 0 || o->epsilon != 0))
        return "this algorithm takes no beta1, beta2, epsilon";
    if (!(o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1))
        return "beta1 and beta2 must be in [0,1)";
    if (!(o->epsilon >= 0 && isfinite(o->epsilon))) return "epsilon must be positive";
    if (!(o->weight_decay >= 0 && isfinite(o->weight_decay)))
        return "weight_decay must not be negative";
    if (!(o->clip_norm >= 0)) return "clip_norm must not be negative";
    return NULL;
}

static void fill_defaults(nn_optimizer_options *o)
{
    if (!o->algorithm) o->algorithm = &nn_adam;
    set_default(&o->rate, 1e-3);
    set_default(&o->beta1, o->algorithm->beta1);
    set_default(&o->beta2, o->algorithm->beta2);
    set_default(&o->epsilon, o->algorithm->epsilon);
    set_default(&o->weight_decay, o->algorithm->decay);
    if (!o->decays) o->decays = nn_decay_matrices;
}

bool nn_optimizer_given(const nn_optimizer_options *o)
{
    return o->algorithm || o->rate != 0 || o->momentum != 0 || o->nesterov || o->beta1 != 0 ||
           o->beta2 != 0 || o->epsilon != 0 || o->weight_decay != 0 || o->decays ||
           o->clip_norm != 0 || o->schedule || o->user;
}

/* Neighbours that are treated alike are one stretch. Padding goes with the array before it: it is
 * zero, and decay leaves it so. */
static void divide(nn_optimizer_state *s, const nn_model *model)
{
    for (int64_t i = 0; i < model->count; i++) {
        const nn_parameter *p = &model->parameter[i];
        int64_t stop = i + 1 < model->count ? model->parameter[i + 1].offset : model->size;
        bool decays = s->options.decays(p->name, p->shape, s->options.user);
        stretch *last = s->nstretch ? &s->stretches[s->nstretch - 1] : NULL;
        if (last && last->decays == decays) last->stop = stop;
        else s->stretches[s->nstretch++] = (stretch){ p->offset, stop, decays };
    }
}

static int set_up(nn_optimizer_state *s, const nn_theta *theta)
{
    size_t bytes = nn_bytes(theta->dtype);
    s->model = theta->model;
    s->dtype = theta->dtype;
    s->size = theta->size;
    s->first = calloc((size_t)s->size, bytes);
    s->second = calloc((size_t)s->size, bytes);
    s->saved = calloc((size_t)s->size, bytes);
    s->stretches = calloc((size_t)theta->model->count, sizeof *s->stretches);
    if (!s->first || !s->second || !s->saved || !s->stretches) return -1;
    divide(s, theta->model);
    return 0;
}

nn_optimizer_state *nn_optimizer_new(const nn_optimizer_options *options, const nn_theta *theta,
                                     int64_t steps)
{
    nn_optimizer_state *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    if (options) s->options = *options;
    fill_defaults(&s->options);
    s->steps = steps;
    s->power1 = s->power2 = 1;
    s->unusable = true;
    if (nn_theta_check("nn_optimizer_new", theta, s->error, sizeof s->error)) return s;
    const char *wrong = check_options(&s->options);
    if (!wrong && s->options.schedule && steps < 1)
        wrong = "a schedule needs the number of planned steps";
    if (wrong) {
        nn_error(s->error, sizeof s->error, "nn_optimizer_new: %s: %s", s->options.algorithm->name,
                 wrong);
        return s;
    }
    s->unusable = false;
    if (set_up(s, theta) == 0) return s;
    nn_optimizer_free(s);
    return NULL;
}

void nn_optimizer_free(nn_optimizer_state *state)
{
    if (!state) return;
    free(state->first);
    free(state->second);
    free(state->saved);
    free(state->stretches);
    free(state);
}

int64_t nn_optimizer_planned(const nn_optimizer_state *state) { return state->steps; }
int64_t nn_optimizer_steps(const nn_optimizer_state *state) { return state ? state->taken : 0; }

const char *nn_optimizer_error(const nn_optimizer_state *state)
{
    if (!state) return "nn_optimizer: out of memory";
    return state->error[0] ? state->error : NULL;
}

/* ---- a step ---------------------------------------------------------------------------------- */

/* Sum of (x / unit)^2. Eight partial sums let the compiler use vectors, in the same order on every
 * machine. */
static double sum_of_squares(ad_dtype dtype, const void *x, int64_t n, double unit)
{
    double sum[8] = { 0 };
    int64_t whole = n / 8 * 8;
    for (int64_t i = 0; i < whole; i += 8) {
        for (int k = 0; k < 8; k++) {
            double v = nn_element(dtype, x, i + k) / unit;
            sum[k] += v * v;
        }
    }
    for (int64_t i = whole; i < n; i++) {
        double v = nn_element(dtype, x, i) / unit;
        sum[i - whole] += v * v;
    }
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

/* The gradient's 2-norm is value * unit: as one number it may be too large. */
typedef struct {
    double value, unit;
} norm_of;

/* Sets *bad when an element is not finite. Elements whose squares overflow, or vanish, are scaled
 * first. */
static norm_of gradient_norm(ad_dtype dtype, const void *gradient, int64_t n, int64_t *bad)
{
    const double least = 0x1p-900; /* squares below a fraction of it have lost digits */
    double sum = sum_of_squares(dtype, gradient, n, 1);
    if (isfinite(sum) && sum >= least) return (norm_of){ sqrt(sum), 1 };
    *bad = nn_find_nonfinite(dtype, gradient, n);
    if (*bad >= 0) return (norm_of){ 0, 1 };
    double largest = 0;
    for (int64_t i = 0; i < n; i++) { /* not fmax: a loop of it GCC 12 cannot compile for AArch64 */
        double element = fabs(nn_element(dtype, gradient, i));
        if (element > largest) largest = element;
    }
    if (largest == 0) return (norm_of){ 0, 1 };
    return (norm_of){ sqrt(sum_of_squares(dtype, gradient, n, largest)), largest };
}

/* What clipping multiplies the gradient by. */
static double clip_scale(const nn_optimizer_options *o, norm_of norm)
{
    double limit = o->clip_norm / norm.unit;
    return o->clip_norm > 0 && norm.value > limit ? limit / norm.value : 1;
}

/* The schedule's factor for the next update; -1 with the error where it is none. */
static double scheduled(nn_optimizer_state *s)
{
    const nn_optimizer_options *o = &s->options;
    int64_t step = s->taken < s->steps ? s->taken : s->steps - 1;
    double factor = o->schedule ? o->schedule(step, s->steps, o->user) : 1;
    if (factor >= 0 && isfinite(factor)) return factor;
    nn_error(s->error, sizeof s->error,
             "nn_optimizer_step: the schedule's factor at step %lld of %lld is %g, but must be "
             "finite and not negative",
             (long long)step, (long long)s->steps, nn_shown(factor));
    return -1;
}

static update prepare(nn_optimizer_state *s, double factor, norm_of norm)
{
    const nn_optimizer_options *o = &s->options;
    update u = { .rate = o->rate * factor,
                 .momentum = o->momentum,
                 .beta1 = o->beta1,
                 .beta2 = o->beta2,
                 .epsilon = o->epsilon,
                 .decay = o->weight_decay,
                 .scale = clip_scale(o, norm),
                 .nesterov = o->nesterov };
    s->taken++;
    s->power1 *= o->beta1;
    s->power2 *= o->beta2;
    u.correct1 = 1 - s->power1;
    u.root_correct2 = sqrt(1 - s->power2);
    return u;
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
    int64_t bad = -1;
    norm_of norm = gradient_norm(s->dtype, gradient->data, s->size, &bad);
    if (bad >= 0) {
        return nn_error(s->error, sizeof s->error,
                        "nn_optimizer_step: element %lld of the gradient is %g", (long long)bad,
                        nn_shown(nn_element(s->dtype, gradient->data, bad)));
    }
    double factor = scheduled(s);
    if (factor < 0) return -1;
    update u = prepare(s, factor, norm);
    size_t bytes = (size_t)s->size * nn_bytes(s->dtype);
    memcpy(s->saved, theta->data, bytes);
    const nn_optimizer *algorithm = s->options.algorithm;
    bool fine = true;
    for (int64_t i = 0; i < s->nstretch; i++) {
        stretch part = s->stretches[i];
        fine &= s->dtype == AD_F32
                    ? algorithm->update_f32(s, &u, part, theta->data, gradient->data)
                    : algorithm->update_f64(s, &u, part, theta->data, gradient->data);
    }
    if (fine) return 0;
    bad = nn_find_nonfinite(s->dtype, theta->data, s->size);
    memcpy(theta->data, s->saved, bytes);
    s->unusable = true;
    if (bad < 0)
        return nn_error(s->error, sizeof s->error,
                        "nn_optimizer_step: a second moment would overflow");
    return nn_error(
        s->error, sizeof s->error,
        "nn_optimizer_step: element %lld of theta would overflow; the rate (%g) is too large",
        (long long)bad, u.rate);
}
