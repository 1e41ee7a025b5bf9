/* Part of autodiff.h: what C and C++ each need so that both write the same. Shapes and lists; the
 * dtype that a pointer to data carries
 * (_Generic in C, templates in C++); in C++ also lists in braces.
 *
 * AD_DTYPE_OF(pointer): AD_F32 for a pointer to float, AD_F64 for one to double and for the
 * constants NULL and (in C++) nullptr. Anything else does not compile: of a matrix `double
 * w[2][3]`, give w[0]. The pointer is not evaluated. A function of another module that takes data
 * is made typed in the same way. */
#ifndef COSTATE_AUTODIFF_TYPED_H
#define COSTATE_AUTODIFF_TYPED_H
#include "autodiff.h"
#ifdef __cplusplus
#include <cstddef>
#include <initializer_list>

template <class T> struct ad_element; /* of data: float or double */
template <> struct ad_element<float> {
    static constexpr ad_dtype dtype = AD_F32;
};
template <> struct ad_element<double> {
    static constexpr ad_dtype dtype = AD_F64;
};
template <class T> constexpr ad_dtype ad_dtype_of(const T *) { return ad_element<T>::dtype; }
constexpr ad_dtype ad_dtype_of(std::nullptr_t) { return AD_F64; }
#define AD_DTYPE_OF(...) ad_dtype_of(__VA_ARGS__)

template <class... Sizes> constexpr ad_shape ad_make_shape(Sizes... sizes)
{
    return ad_shape{ static_cast<int>(sizeof...(Sizes)), { static_cast<int64_t>(sizes)... } };
}
#define AD_SHAPE(...) ad_make_shape(__VA_ARGS__)
#define AD_SCALAR (ad_shape{ 0, { 0 } })
template <class... Vars>
char (&ad_number_of(const Vars &...))[sizeof...(Vars)]; /* is never called */
#define AD_VARS(...)                                                                               \
    static_cast<int>(sizeof(ad_number_of(__VA_ARGS__))),                                           \
        std::initializer_list<ad_var>{ __VA_ARGS__ }.begin()

template <class T> ad_var ad_param(ad_tape *tape, ad_shape shape, const T *data)
{
    return ad_param_data(tape, shape, ad_element<T>::dtype, data);
}
inline ad_var ad_param(ad_tape *tape, ad_shape shape, std::nullptr_t)
{
    return ad_param_data(tape, shape, AD_F64, nullptr);
}
template <class T> ad_var ad_input(ad_tape *tape, ad_shape shape, const T *data)
{
    return ad_input_data(tape, shape, ad_element<T>::dtype, data);
}
inline ad_var ad_input(ad_tape *tape, ad_shape shape, std::nullptr_t)
{
    return ad_input_data(tape, shape, AD_F64, nullptr);
}
template <class T> ad_var ad_input_rows(ad_tape *tape, ad_shape shape, int64_t rows, const T *data)
{
    return ad_input_rows_data(tape, shape, rows, ad_element<T>::dtype, data);
}
inline ad_var ad_input_rows(ad_tape *tape, ad_shape shape, int64_t rows, std::nullptr_t)
{
    return ad_input_rows_data(tape, shape, rows, AD_F64, nullptr);
}
template <class T> int ad_set(ad_var input, int64_t rows, const T *data)
{
    return ad_set_data(input, rows, ad_element<T>::dtype, data);
}
template <class T> ad_var ad_constant(ad_tape *tape, ad_shape shape, const T *data)
{
    return ad_constant_data(tape, shape, ad_element<T>::dtype, data);
}

inline int ad_run(const ad_program *program, ad_workspace *workspace, int64_t rows,
                  const float *const *inputs, float *const *outputs)
{
    return ad_run_f32(program, workspace, rows, inputs, outputs);
}
inline int ad_run(const ad_program *program, ad_workspace *workspace, int64_t rows,
                  const double *const *inputs, double *const *outputs)
{
    return ad_run_f64(program, workspace, rows, inputs, outputs);
}

inline int ad_evaluate(int nin, const ad_var *in, const float *const *data, int64_t rows, int nout,
                       const ad_var *out, float *const *results)
{
    return ad_evaluate_f32(nin, in, data, rows, nout, out, results);
}
inline int ad_evaluate(int nin, const ad_var *in, const double *const *data, int64_t rows, int nout,
                       const ad_var *out, double *const *results)
{
    return ad_evaluate_f64(nin, in, data, rows, nout, out, results);
}

/* Lists of variables as {a, b, c}. */
inline ad_var ad_concatenate(std::initializer_list<ad_var> x, int axis)
{
    return ad_concatenate(static_cast<int>(x.size()), x.begin(), axis);
}
inline ad_var ad_stack(std::initializer_list<ad_var> x, int axis)
{
    return ad_stack(static_cast<int>(x.size()), x.begin(), axis);
}
inline ad_var ad_contract(const char *spec, std::initializer_list<ad_var> x)
{
    return ad_contract(spec, static_cast<int>(x.size()), x.begin());
}
inline void ad_grad(ad_var loss, std::initializer_list<ad_var> x, ad_var *gradient)
{
    ad_grad(loss, static_cast<int>(x.size()), x.begin(), gradient);
}
inline ad_program *ad_compile(std::initializer_list<ad_var> inputs,
                              std::initializer_list<ad_var> outputs)
{
    return ad_compile(static_cast<int>(inputs.size()), inputs.begin(),
                      static_cast<int>(outputs.size()), outputs.begin());
}

#else

/* The third operand tells the constant NULL, whose type here is a pointer to ad_no_data, from a
 * pointer to void. */
struct ad_no_data;
#define AD_POINTER_LIKE(...)                                                                       \
    _Generic((__VA_ARGS__), \
        float *: (float *)0, \
        const float *: (const float *)0, \
        double *: (double *)0, \
        const double *: (const double *)0, \
        void *: (struct ad_no_data *)0)
#define AD_DTYPE_OF(...)                                                                           \
    _Generic(1 ? (__VA_ARGS__) : AD_POINTER_LIKE(__VA_ARGS__), \
        float *: AD_F32, \
        const float *: AD_F32, \
        double *: AD_F64, \
        const double *: AD_F64, \
        struct ad_no_data *: AD_F64)
#define ad_param(tape, shape, ...) ad_param_data(tape, shape, AD_DTYPE_OF(__VA_ARGS__), __VA_ARGS__)
#define ad_input(tape, shape, ...) ad_input_data(tape, shape, AD_DTYPE_OF(__VA_ARGS__), __VA_ARGS__)
#define ad_input_rows(tape, shape, rows, ...)                                                      \
    ad_input_rows_data(tape, shape, rows, AD_DTYPE_OF(__VA_ARGS__), __VA_ARGS__)
#define ad_set(input, rows, ...) ad_set_data(input, rows, AD_DTYPE_OF(__VA_ARGS__), __VA_ARGS__)
#define ad_constant(tape, shape, ...)                                                              \
    ad_constant_data(tape, shape, AD_DTYPE_OF(__VA_ARGS__), __VA_ARGS__)

#define AD_SHAPE(...)                                                                              \
    ((ad_shape){ (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), { __VA_ARGS__ } })
#define AD_SCALAR ((ad_shape){ 0, { 0 } })
#define AD_VARS(...)                                                                               \
    (int)(sizeof((ad_var[]){ __VA_ARGS__ }) / sizeof(ad_var)), (ad_var[]) { __VA_ARGS__ }
#endif
#endif
