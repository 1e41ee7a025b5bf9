/* Part of updates.c: what the algorithms do to one element, and the loops over elements, for one
 * dtype T, type of the arithmetic A and SUFFIX of names. The forms are PyTorch's, so that results
 * can be compared number by number. EXTREME: squares are taken of scaled numbers; its loops come
 * before those that fall back on them. */

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(f) JOIN(f, SUFFIX)

/* nn_update in the type of the arithmetic. */
typedef struct {
    A rate, momentum, beta1, beta2, epsilon, decay, rest1, rest2, scale, limit, correct1;
    A root_correct2, rectify;
    bool nesterov;
} NAME(numbers);

static NAME(numbers) NAME(convert)(const nn_update *u)
{
    return (NAME(numbers)){ .rate = (A)u->rate,
                            .momentum = (A)u->momentum,
                            .beta1 = (A)u->beta1,
                            .beta2 = (A)u->beta2,
                            .epsilon = (A)u->epsilon,
                            .decay = (A)u->decay,
                            .rest1 = (A)u->rest1,
                            .rest2 = (A)u->rest2,
                            .scale = (A)u->scale,
                            .limit = (A)u->limit,
                            .correct1 = (A)u->correct1,
                            .root_correct2 = (A)u->root_correct2,
                            .rectify = (A)u->rectify,
                            .nesterov = u->nesterov };
}

/* ---- one element ----------------------------------------------------------------------------- */

/* Each gives the new value of an element, from its gradient and its two numbers of state. */

static inline A NAME(sgd)(const NAME(numbers) * u, A theta, A gradient, A *first, A *second)
{
    (void)second;
    gradient += u->decay * theta;
    *first = u->momentum * *first + gradient;
    return theta - u->rate * (u->nesterov ? gradient + u->momentum * *first : *first);
}

/* sqrt(beta2 root^2 + (1 - beta2) x^2). The state keeps this root of the mean square, not the mean
 * square: that would overflow, or vanish, for gradients far inside the range of numbers. The scale
 * is a power of two, which changes no digits. */
static inline A NAME(root_mean_square)(const NAME(numbers) * u, A root, A x)
{
#ifdef EXTREME
    const A size = SIZE(x), largest = size > root ? size : root;
    const A scale = largest > 0x1p400 ? 0x1p-600 : largest < 0x1p-400 ? 0x1p600 : 1;
    const A back = largest > 0x1p400 ? 0x1p600 : largest < 0x1p-400 ? 0x1p-600 : 1;
    const A a = root * scale, b = x * scale;
    return ROOT(u->beta2 * (a * a) + u->rest2 * (b * b)) * back;
#else
    return ROOT(u->beta2 * (root * root) + u->rest2 * (x * x));
#endif
}

static inline A NAME(adam)(const NAME(numbers) * u, A theta, A gradient, A *first, A *second)
{
    const A step = u->rate / u->correct1 * u->root_correct2;
    gradient += u->decay * theta;
    *first = u->beta1 * *first + u->rest1 * gradient;
    *second = NAME(root_mean_square)(u, *second, gradient);
    return theta - step * (*first / (*second + u->epsilon * u->root_correct2));
}

static inline A NAME(adamw)(const NAME(numbers) * u, A theta, A gradient, A *first, A *second)
{
    NAME(numbers) undecayed = *u;
    undecayed.decay = 0;
    return NAME(adam)(&undecayed, theta * (1 - u->rate * u->decay), gradient, first, second);
}

static inline A NAME(radam)(const NAME(numbers) * u, A theta, A gradient, A *first, A *second)
{
    gradient += u->decay * theta;
    *first = u->beta1 * *first + u->rest1 * gradient;
    *second = NAME(root_mean_square)(u, *second, gradient);
    const A adaptive = u->rectify * u->root_correct2 / (*second + u->epsilon);
    return theta - u->rate / u->correct1 * *first * (u->rectify > 0 ? adaptive : 1);
}

static inline A NAME(adamax)(const NAME(numbers) * u, A theta, A gradient, A *first, A *second)
{
    gradient += u->decay * theta;
    const A faded = u->beta2 * *second, size = SIZE(gradient) + u->epsilon;
    *first = u->beta1 * *first + u->rest1 * gradient;
    *second = faded > size ? faded : size;
    return theta - u->rate / u->correct1 * (*first / *second);
}

static inline A NAME(rmsprop)(const NAME(numbers) * u, A theta, A gradient, A *first, A *second)
{
    gradient += u->decay * theta;
    *second = NAME(root_mean_square)(u, *second, gradient);
    *first = u->momentum * *first + gradient / (*second + u->epsilon);
    return theta - u->rate * *first;
}

static inline A NAME(lion)(const NAME(numbers) * u, A theta, A gradient, A *first, A *second)
{
    (void)second;
    const A mean = u->beta1 * *first + u->rest1 * gradient;
    const A sign = (A)(mean > 0) - (A)(mean < 0);
    *first = u->beta2 * *first + u->rest2 * gradient;
    return theta * (1 - u->rate * u->decay) - u->rate * sign;
}

/* What is no matrix; the matrices are updated by muon.c. */
static inline A NAME(muon)(const NAME(numbers) * u, A theta, A gradient, A *first, A *second)
{
    return NAME(adamw)(u, theta, gradient, first, second);
}

/* ---- loops ----------------------------------------------------------------------------------- */

/* Elements start to stop. A number less itself is not 0 where it is infinite, or NaN. */
#define OPTIMIZER(name, ...)                                                                       \
    static bool NAME(name##_some)(NAME(numbers) u, int64_t start, int64_t stop, T *restrict theta, \
                                  const T *restrict gradient, T *restrict first,                   \
                                  T *restrict second, T *restrict saved)                           \
    {                                                                                              \
        int overflows = 0;                                                                         \
        for (int64_t i = start; i < stop; i++) {                                                   \
            A m = first[i], r = second[i], g = u.scale * gradient[i];                              \
            g = g > u.limit ? u.limit : g;                                                         \
            g = g < -u.limit ? -u.limit : g;                                                       \
            T value = (T)NAME(name)(&u, theta[i], g, &m, &r);                                      \
            T root = (T)r;                                                                         \
            saved[i] = theta[i];                                                                   \
            theta[i] = value;                                                                      \
            first[i] = (T)m;                                                                       \
            second[i] = root;                                                                      \
            overflows |= value - value != 0;                                                       \
            overflows |= root - root != 0;                                                         \
        }                                                                                          \
        return !overflows;                                                                         \
    }
#include "nn/train/optimizers.def"
#undef OPTIMIZER

#ifndef EXTREME
/* Whether no factor takes numbers of a moderate size out of the range. */
static bool NAME(moderate_factors)(const nn_update *u)
{
    bool decay = u->decay == 0 || (u->decay > 1 / LARGE && u->decay < 1);
    return decay && u->scale > 1 / LARGE && u->limit > 1 / LARGE && u->rate < LARGE &&
           (u->epsilon == 0 || u->epsilon > LEAST);
}

static bool NAME(moderate_elements)(int64_t start, int64_t stop, const T *theta, const T *gradient,
                                    const T *first, const T *second)
{
    const T large = LARGE;
    int beyond = 0;
    for (int64_t i = start; i < stop; i++) {
        beyond |= SIZE(theta[i]) > large;
        beyond |= SIZE(gradient[i]) > large;
        beyond |= SIZE(first[i]) > large;
        beyond |= second[i] > large;
    }
    return !beyond;
}

#define OPTIMIZER(name, ...)                                                                       \
    static bool NAME(name##_all)(const nn_update *u, const nn_elements *e)                         \
    {                                                                                              \
        bool moderate = NAME(moderate_factors)(u), fine = true;                                    \
        NAME(numbers) numbers = NAME(convert)(u);                                                  \
        JOIN(NAME(numbers), extreme) extremes = JOIN(NAME(convert), extreme)(u);                   \
        for (int64_t start = 0; start < e->n; start += CHUNK) {                                    \
            int64_t stop = start + CHUNK < e->n ? start + CHUNK : e->n;                            \
            if (moderate &&                                                                        \
                NAME(moderate_elements)(start, stop, e->theta, e->gradient, e->first, e->second))  \
                fine &= NAME(name##_some)(numbers, start, stop, e->theta, e->gradient, e->first,   \
                                          e->second, e->saved);                                    \
            else                                                                                   \
                fine &= JOIN(NAME(name##_some), extreme)(                                          \
                    extremes, start, stop, e->theta, e->gradient, e->first, e->second, e->saved);  \
        }                                                                                          \
        return fine;                                                                               \
    }
#include "nn/train/optimizers.def"
#undef OPTIMIZER
#endif

#undef NAME
#undef JOIN
#undef JOIN_
