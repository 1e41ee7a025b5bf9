/* Part of updates.c: what the algorithms do to one element, and the loops over elements, for one
 * dtype T, type of the arithmetic A and SUFFIX of names. The forms are PyTorch's, so that results
 * can be compared number by number. EXTREME: squares are taken of scaled numbers, and what
 * overflows is noticed. */

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

/* In EXTREME loops a number less itself is not 0 where it is infinite, or NaN. */
#ifdef EXTREME
#define NOTE(value, root) overflows |= (value) - (value) != 0 || (root) - (root) != 0
#else
#define NOTE(value, root) (void)overflows
#endif
#define OPTIMIZER(name, ...)                                                                       \
    static bool NAME(name##_some)(NAME(numbers) u, int64_t n, T *restrict theta,                   \
                                  const T *restrict gradient, T *restrict first,                   \
                                  T *restrict second)                                              \
    {                                                                                              \
        int overflows = 0;                                                                         \
        for (int64_t i = 0; i < n; i++) {                                                          \
            A m = first[i], r = second[i], g = u.scale * gradient[i];                              \
            g = g > u.limit ? u.limit : g;                                                         \
            g = g < -u.limit ? -u.limit : g;                                                       \
            T value = (T)NAME(name)(&u, theta[i], g, &m, &r);                                      \
            T root = (T)r;                                                                         \
            theta[i] = value;                                                                      \
            first[i] = (T)m;                                                                       \
            second[i] = root;                                                                      \
            NOTE(value, root);                                                                     \
        }                                                                                          \
        return !overflows;                                                                         \
    }                                                                                              \
    static bool NAME(name##_all)(const nn_update *u, const nn_elements *e)                         \
    {                                                                                              \
        return NAME(name##_some)(NAME(convert)(u), e->n, e->theta, e->gradient, e->first,          \
                                 e->second);                                                       \
    }
#include "nn/train/optimizers.def"
#undef OPTIMIZER
#undef NOTE

#ifndef EXTREME
static bool NAME(moderate_factors)(const nn_update *u)
{
    bool decay = u->decay == 0 || (u->decay > 1 / MOST && u->decay < 1);
    bool rate = u->rate < FASTEST && u->correct1 > 1 / LONGEST && u->momentum < 1 - 1 / LASTING;
    return decay && rate && u->scale > 1 / MOST && u->limit > 1 / MOST &&
           (u->epsilon == 0 || u->epsilon > LEAST);
}

static bool NAME(within)(double size, int64_t n, const void *one, const void *other)
{
    const T *restrict a = one, *restrict b = other;
    BITS largest = 0;
    for (int64_t i = 0; i < n; i++) {
        BITS x = SIZE_BITS(a[i]), y = SIZE_BITS(b[i]);
        largest = x > largest ? x : largest;
        largest = y > largest ? y : largest;
    }
    return largest <= SIZE_BITS((T)size);
}

static bool NAME(moderate)(int64_t n, const void *theta, const void *gradient)
{
    return NAME(within)(MOST, n, theta, gradient);
}

static bool NAME(moderate_moments)(int64_t n, const void *first, const void *second)
{
    return NAME(within)(4 * MOST * LASTING, n, first, second);
}
#endif

#undef NAME
#undef JOIN
#undef JOIN_
