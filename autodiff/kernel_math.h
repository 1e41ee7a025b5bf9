/* Internal: the functions of the pointwise kernels. */
#ifndef COSTATE_KERNEL_MATH_H
#define COSTATE_KERNEL_MATH_H
#include <math.h>

#define BOTH(name)                                                                                                                     \
    static inline float name##_f32(float x) { return name##f(x); }                                                                     \
    static inline double name##_f64(double x) { return name(x); }
BOTH(sqrt)
BOTH(exp)
BOTH(expm1)
BOTH(log)
BOTH(log1p)
BOTH(sin)
BOTH(cos)
BOTH(tan)
BOTH(tanh)
BOTH(erf)
BOTH(fabs)
BOTH(floor)
#undef BOTH

static inline float pow_f32(float a, float b) { return powf(a, b); }
static inline double pow_f64(double a, double b) { return pow(a, b); }
static inline double sigmoid_f64(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }
static inline float sigmoid_f32(float x) { return (float)sigmoid_f64(x); }
static inline double softplus_f64(double x) { return (x < 0 ? 0 : x) + log1p(exp(-fabs(x))); }
static inline float softplus_f32(float x) { return (float)softplus_f64(x); }

#endif
