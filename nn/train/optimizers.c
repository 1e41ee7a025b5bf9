/* Optimisers: what one update does. The forms are PyTorch's, so that results can be compared number
 * by number. An algorithm is a function of one element and a row below. */
#include "nn/train/optimizer.h"

/* Each is a function of one element: its new value, given its gradient and its two numbers of
 * state, which start as 0. */

static inline double sgd(const nn_update *u, double theta, double gradient, double *first,
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
static inline double root_mean_square(const nn_update *u, double root, double x)
{
    const double beta = u->beta2;
    if (!u->extreme) return sqrt(beta * (root * root) + (1 - beta) * (x * x));
    const double size = fabs(x), largest = size > root ? size : root;
    const double scale = largest > 0x1p400 ? 0x1p-600 : largest < 0x1p-400 ? 0x1p600 : 1;
    const double back = largest > 0x1p400 ? 0x1p600 : largest < 0x1p-400 ? 0x1p-600 : 1;
    const double a = root * scale, b = x * scale;
    return sqrt(beta * (a * a) + (1 - beta) * (b * b)) * back;
}

static inline double adam(const nn_update *u, double theta, double gradient, double *first,
                          double *second)
{
    gradient += u->decay * theta;
    *first = u->beta1 * *first + (1 - u->beta1) * gradient;
    *second = root_mean_square(u, *second, gradient);
    return theta - u->rate / u->correct1 * (*first / (*second / u->root_correct2 + u->epsilon));
}

static inline double adamw(const nn_update *u, double theta, double gradient, double *first,
                           double *second)
{
    nn_update undecayed = *u;
    undecayed.decay = 0;
    return adam(&undecayed, theta * (1 - u->rate * u->decay), gradient, first, second);
}

static inline double radam(const nn_update *u, double theta, double gradient, double *first,
                           double *second)
{
    gradient += u->decay * theta;
    *first = u->beta1 * *first + (1 - u->beta1) * gradient;
    *second = root_mean_square(u, *second, gradient);
    const double adaptive = u->rectify * u->root_correct2 / (*second + u->epsilon);
    return theta - u->rate / u->correct1 * *first * (u->rectify > 0 ? adaptive : 1);
}

static inline double adamax(const nn_update *u, double theta, double gradient, double *first,
                            double *second)
{
    gradient += u->decay * theta;
    const double faded = u->beta2 * *second, size = fabs(gradient) + u->epsilon;
    *first = u->beta1 * *first + (1 - u->beta1) * gradient;
    *second = faded > size ? faded : size;
    return theta - u->rate / u->correct1 * (*first / *second);
}

static inline double rmsprop(const nn_update *u, double theta, double gradient, double *first,
                             double *second)
{
    gradient += u->decay * theta;
    *second = root_mean_square(u, *second, gradient);
    *first = u->momentum * *first + gradient / (*second + u->epsilon);
    return theta - u->rate * *first;
}

static inline double lion(const nn_update *u, double theta, double gradient, double *first,
                          double *second)
{
    (void)second;
    const double mean = u->beta1 * *first + (1 - u->beta1) * gradient;
    const double sign = (double)(mean > 0) - (double)(mean < 0);
    *first = u->beta2 * *first + (1 - u->beta2) * gradient;
    return theta * (1 - u->rate * u->decay) - u->rate * sign;
}

/* What is no matrix; the matrices are updated by muon.c. */
static inline double muon(const nn_update *u, double theta, double gradient, double *first,
                          double *second)
{
    return adamw(u, theta, gradient, first, second);
}

/* Squares of float numbers are harmless as double: they lie between 2^-298 and 2^256. The factors
 * of the gradient and of theta must not change that; sums may cancel down to 2^-53 of their terms.
 */
static bool is_extreme(const nn_update *u, size_t size)
{
    const bool moderate_decay = u->decay == 0 || (u->decay > 0x1p-250 && u->decay < 0x1p250);
    const bool moderate_limit = u->limit > 0x1p-250;
    return size > sizeof(float) || u->scale < 0x1p-250 || !moderate_decay || !moderate_limit;
}

/* The loops over the elements, one for each algorithm, type and kind of squares, so that the
 * compiler sees what it can turn into vectors. */
#define LOOP(algorithm, suffix, T, kind, is_extreme_kind)                                          \
    static bool algorithm##_##suffix##_##kind(nn_update u, int64_t start, int64_t stop,            \
                                              T *restrict theta, const T *restrict gradient,       \
                                              T *restrict first, T *restrict second)               \
    {                                                                                              \
        int overflows = 0;                                                                         \
        u.extreme = is_extreme_kind;                                                               \
        for (int64_t i = start; i < stop; i++) {                                                   \
            double m = first[i], r = second[i], g = u.scale * gradient[i];                         \
            g = g > u.limit ? u.limit : g;                                                         \
            g = g < -u.limit ? -u.limit : g;                                                       \
            T value = (T)algorithm(&u, theta[i], g, &m, &r);                                       \
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
    static bool algorithm##_##suffix(const nn_update *u, int64_t start, int64_t stop, void *theta, \
                                     const void *gradient, void *first, void *second)              \
    {                                                                                              \
        return is_extreme(u, sizeof(T)) ? algorithm##_##suffix##_extreme(*u, start, stop, theta,   \
                                                                         gradient, first, second)  \
                                        : algorithm##_##suffix##_moderate(                         \
                                              *u, start, stop, theta, gradient, first, second);    \
    }
#define OPTIMIZER(algorithm, ...)                                                                  \
    UPDATE(algorithm, f32, float)                                                                  \
    UPDATE(algorithm, f64, double)                                                                 \
    const nn_optimizer nn_##algorithm = { #algorithm, __VA_ARGS__, algorithm##_f32,                \
                                          algorithm##_f64 };

/* Defaults of rate, momentum, beta1, beta2, epsilon and weight decay; whether momentum, the betas
 * and epsilon may be given; whether matrices are updated as such. */
OPTIMIZER(sgd, 1e-3, 0, 0, 0, 0, 0, true, false, false, false)
OPTIMIZER(adam, 1e-3, 0, 0.9, 0.999, 1e-8, 0, false, true, true, false)
OPTIMIZER(adamw, 1e-3, 0, 0.9, 0.999, 1e-8, 0.01, false, true, true, false)
OPTIMIZER(radam, 1e-3, 0, 0.9, 0.999, 1e-8, 0, false, true, true, false)
OPTIMIZER(adamax, 2e-3, 0, 0.9, 0.999, 1e-8, 0, false, true, true, false)
OPTIMIZER(rmsprop, 1e-3, 0, 0, 0.99, 1e-8, 0, true, true, true, false)
OPTIMIZER(lion, 1e-4, 0, 0.9, 0.99, 0, 0, false, true, false, false)
OPTIMIZER(muon, 1e-3, 0.95, 0.9, 0.999, 1e-8, 0.1, true, true, true, true)

const char *nn_optimizer_name(const nn_optimizer *optimizer)
{
    return optimizer ? optimizer->name : "none";
}
