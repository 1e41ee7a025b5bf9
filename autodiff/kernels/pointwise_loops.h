/* Internal, a template that pointwise_isa.c includes once per dtype with T, the type, M(f), the
 * name of f for that type, and SAME (vectors.h): the loops of all pointwise operations.
 *
 * Loops run over whole multiples of 64 bytes. What is left over is copied into a vector of that
 * length and goes through the same loop: an element's result does not depend on where it stands. */
#define LANES ((int64_t)(64 / sizeof(T)))

typedef void (*M(body))(int64_t n, const void *const *in, const int *stride, void *out);

/* Copies fewer than LANES elements in pieces whose sizes are powers of two. Each is read back by a
 * piece of its own size: where the next kernel reads it at once, it need not wait until it is in
 * the cache. */
INLINE void M(copy_few)(T *to, const T *from, int64_t n)
{
    for (int64_t piece = LANES / 2; piece > 0; piece /= 2) {
        if (!(n & piece)) continue;
        memcpy(to, from, (size_t)piece * sizeof(T));
        to += piece;
        from += piece;
    }
}

/* The first n > 0 of LANES elements, then the last of them again and again. They are put together
 * in registers: a vector that is read where its elements have just been stored one by one would
 * have to wait until they are in the cache. */
typedef T M(vector) __attribute__((vector_size(BYTES)));
INLINE void M(fill_line)(T *to, const T *from, int64_t n)
{
    enum { WIDTH = BYTES / sizeof(T) };
    const T last = from[n - 1];
    for (int64_t start = 0; start < LANES; start += WIDTH) {
        M(vector) v = { SAME(last) };
        for (int64_t i = 0; i < WIDTH; i++) { /* unrolled */
            if (start + i >= n - 1) break;
            v[i] = from[start + i];
        }
        memcpy(to + start, &v, sizeof v);
    }
}

/* The last, incomplete vector; unused lanes repeat its last element. */
static void M(run_tail)(M(body) body, int arity, int64_t start, int64_t n, const void *const *in,
                        const int *stride, void *out)
{
    _Alignas(64) T padded[3][64 / sizeof(T)], result[64 / sizeof(T)];
    const void *operand[3];
    for (int k = 0; k < arity; k++) {
        const T *from = (const T *)in[k] + start * stride[k];
        M(fill_line)(padded[k], from, stride[k] ? n - start : 1);
        operand[k] = padded[k];
    }
    body(LANES, operand, (const int[]){ 1, 1, 1 }, result);
    M(copy_few)((T *)out + start, result, n - start);
}

/* What is not one call of the loop: lines that are not full, and results of numbers alone. */
static void M(run_rest)(M(body) body, int arity, int64_t n, const void *const *in,
                        const int *stride, bool one_number, void *out)
{
    if (n <= 0) return;
    int64_t whole = one_number ? 0 : n / LANES * LANES;
    if (whole > 0) body(whole, in, stride, out);
    if (whole == n) return;
    M(run_tail)(body, arity, whole, one_number ? 1 : n, in, stride, out);
    for (int64_t i = 1; one_number && i < n; i++) ((T *)out)[i] = *(T *)out;
}

INLINE void M(run)(M(body) body, int arity, int64_t n, const void *const *in, const int *stride,
                   void *out)
{
    bool one_number = true;
    for (int k = 0; k < arity; k++) one_number = one_number && stride[k] == 0;
    if (n % LANES || one_number) M(run_rest)(body, arity, n, in, stride, one_number, out);
    else body(n, in, stride, out);
}

/* One loop; n is a multiple of LANES, which the mask tells the compiler; the rest of the arguments
 * declare the operands. */
#define EACH(statement, ...)                                                                       \
    do {                                                                                           \
        VECTORISE                                                                                  \
        for (int64_t i = 0; i < (n & -LANES); i++) {                                               \
            __VA_ARGS__;                                                                           \
            statement;                                                                             \
        }                                                                                          \
    } while (0)
#define LOOP(kernel, argument, ...) EACH(out[i] = (T)(kernel), __VA_ARGS__)

/* The same for a function of the argument that is a quotient in the main: a loop over its terms and
 * one over what follows, strip by strip. In one loop an element's operations are a chain so long
 * that the processor cannot overlap enough of them. All strips but the last have the same length,
 * which the compiler knows, so that their loops have no branches. */
enum { M(STRIP) = 128 };
#define STRIPS(function, statement, argument, ...)                                                 \
    do {                                                                                           \
        const int64_t whole = n - n % M(STRIP);                                                    \
        for (int64_t start = 0; start < whole; start += M(STRIP))                                  \
            ONE_STRIP(M(STRIP), function, statement, argument, __VA_ARGS__);                       \
        for (int64_t start = whole; start < n; start += M(STRIP))                                  \
            ONE_STRIP((n - start) & -LANES, function, statement, argument, __VA_ARGS__);           \
    } while (0)
#define ONE_STRIP(count, function, statement, argument, ...)                                       \
    do {                                                                                           \
        _Alignas(64) T over[M(STRIP)], under[M(STRIP)];                                            \
        VECTORISE                                                                                  \
        for (int64_t j = 0; j < (count); j++) {                                                    \
            const int64_t i = start + j;                                                           \
            __VA_ARGS__;                                                                           \
            M(function##_terms)(argument, &over[j], &under[j]);                                    \
        }                                                                                          \
        VECTORISE                                                                                  \
        for (int64_t j = 0; j < (count); j++) {                                                    \
            const int64_t i = start + j;                                                           \
            __VA_ARGS__;                                                                           \
            const T at = argument, quotient = over[j] / under[j];                                  \
            statement;                                                                             \
        }                                                                                          \
    } while (0)
#define VALUE(function) out[i] = M(function##_of_quotient)(at, quotient)
#define LOOP_TANH(kernel, ...) STRIPS(tanh, VALUE(tanh), __VA_ARGS__)
#define LOOP_TANH_CODE(kernel, ...) STRIPS(tanh, VALUE(tanh_code), __VA_ARGS__)
#define LOOP_SIGMOID(kernel, ...) STRIPS(sigmoid, VALUE(sigmoid), __VA_ARGS__)
#define LOOP_SIGMOID_CODE(kernel, ...) STRIPS(sigmoid, VALUE(sigmoid_code), __VA_ARGS__)

/* The loop of an operation: LOOP, unless there is one of its own here. */
#define OWN_tanh ~, LOOP_TANH
#define OWN_tanh_code ~, LOOP_TANH_CODE
#define OWN_sigmoid ~, LOOP_SIGMOID
#define OWN_sigmoid_code ~, LOOP_SIGMOID_CODE
#define SECOND(first, second, ...) second
#define SECOND_OF(...) SECOND(__VA_ARGS__)
#define LOOP_OF(name) SECOND_OF(OWN_##name, LOOP, )

#define RUN(name, arity)                                                                           \
    static void M(run_##name)(int64_t n, const void *const *in, const int *stride, void *out)      \
    {                                                                                              \
        M(run)(M(body_##name), arity, n, in, stride, out);                                         \
    }

#define ONE(name, loop, kernel)                                                                    \
    static void M(body_##name)(int64_t n, const void *const *in, const int *stride, void *result)  \
    {                                                                                              \
        const T *px = in[0];                                                                       \
        T *out = result;                                                                           \
        (void)stride;                                                                              \
        loop(kernel, x, const T x = px[i]);                                                        \
    }                                                                                              \
    RUN(name, 1)

#define TWO(name, loop, kernel)                                                                    \
    static void M(body_##name)(int64_t n, const void *const *in, const int *stride, void *result)  \
    {                                                                                              \
        const T *pa = in[0], *pb = in[1], a0 = *pa, b0 = *pb;                                      \
        T *out = result;                                                                           \
        if (!stride[0]) loop(kernel, a + b, const T a = a0, b = pb[i]);                            \
        else if (!stride[1]) loop(kernel, a + b, const T a = pa[i], b = b0);                       \
        else loop(kernel, a + b, const T a = pa[i], b = pb[i]);                                    \
    }                                                                                              \
    RUN(name, 2)

#define THREE(name, kernel)                                                                        \
    static void M(body_##name)(int64_t n, const void *const *in, const int *stride, void *result)  \
    {                                                                                              \
        const T *pa = in[0], *pb = in[1], *pc = in[2], a0 = *pa, b0 = *pb, c0 = *pc;               \
        T *out = result;                                                                           \
        switch (stride[0] << 2 | stride[1] << 1 | stride[2]) {                                     \
        case 1: LOOP(kernel, 0, const T a = a0, b = b0, c = pc[i]); break;                         \
        case 2: LOOP(kernel, 0, const T a = a0, b = pb[i], c = c0); break;                         \
        case 3: LOOP(kernel, 0, const T a = a0, b = pb[i], c = pc[i]); break;                      \
        case 4: LOOP(kernel, 0, const T a = pa[i], b = b0, c = c0); break;                         \
        case 5: LOOP(kernel, 0, const T a = pa[i], b = b0, c = pc[i]); break;                      \
        case 6: LOOP(kernel, 0, const T a = pa[i], b = pb[i], c = c0); break;                      \
        default: LOOP(kernel, 0, const T a = pa[i], b = pb[i], c = pc[i]);                         \
        }                                                                                          \
    }                                                                                              \
    RUN(name, 3)

#define AD_UNARY(name, traits, kernel, ...) ONE(name, LOOP_OF(name), kernel)
#define AD_BINARY(name, traits, kernel, ...) TWO(name, LOOP, kernel)
#define AD_TERNARY(name, traits, kernel, ...) THREE(name, kernel)
#include "autodiff/ops.def"

/* Composites (see kernel.h). */
#define AD_UNARY(name, traits, kernel, ...)                                                        \
    INLINE T M(of_##name)(T x) { return (T)(kernel); }                                             \
    TWO(sum_##name, LOOP_OF(name), M(of_##name)(a + b))
#include "autodiff/ops.def"
THREE(add_product, a + b * c)
THREE(sub_product, a - b * c)
THREE(mul_product, (b * c) * a)
TWO(mul_slope, LOOP, a *M(slope_of_code)(b))

/* Two operations in one pass (see kernel.h): a and b are the first and the last operand, y the
 * first result. The second is written last: nobody may need the first, so that both are the same
 * array. */
typedef void (*M(pair_body))(int64_t n, const void *const *in, void *out, void *second);

static void M(run_pair)(M(pair_body) body, int arity, int64_t n, const void *const *in, void *out,
                        void *second)
{
    const int64_t whole = n / LANES * LANES;
    _Alignas(64) T padded[2][64 / sizeof(T)], result[2][64 / sizeof(T)];
    const void *operand[2] = { padded[0], padded[1] };
    if (whole > 0) body(whole, in, out, second);
    if (whole >= n) return;
    for (int k = 0; k < arity; k++) M(fill_line)(padded[k], (const T *)in[k] + whole, n - whole);
    body(LANES, operand, result[0], result[1]);
    M(copy_few)((T *)out + whole, result[0], n - whole);
    M(copy_few)((T *)second + whole, result[1], n - whole);
}

#define PAIR(name, arity, loop, ...)                                                               \
    static void M(pair_body_##name)(int64_t n, const void *const *in, void *result,                \
                                    void *second_result)                                           \
    {                                                                                              \
        const T *pa = in[0], *pb = in[arity - 1];                                                  \
        T *out = result, *second = second_result;                                                  \
        loop(__VA_ARGS__, const T a = pa[i], b = pb[i]; (void)a);                                  \
    }                                                                                              \
    static void M(pair_##name)(int64_t n, const void *const *in, void *out, void *second)          \
    {                                                                                              \
        M(run_pair)(M(pair_body_##name), arity, n, in, out, second);                               \
    }
#define BOTH_OF_QUOTIENT(function)                                                                 \
    VALUE(function##_code);                                                                        \
    second[i] = M(function##_of_quotient)(at, quotient)
#define VALUE_AND_SLOPE(function)                                                                  \
    VALUE(function);                                                                               \
    second[i] = M(function##_slope_of_quotient)(at, quotient)
#define BOTH_OF_CODE(function, slope)                                                              \
    const T y = slope;                                                                             \
    out[i] = y;                                                                                    \
    second[i] = M(function##_of_code)(b)
#define PAIRS(function)                                                                            \
    PAIR(function##_code, 1, STRIPS, function, BOTH_OF_QUOTIENT(function), b)                      \
    PAIR(sum_##function##_code, 2, STRIPS, function, BOTH_OF_QUOTIENT(function), a + b)            \
    PAIR(function##_slope, 1, STRIPS, function, VALUE_AND_SLOPE(function), b)                      \
    PAIR(sum_##function##_slope, 2, STRIPS, function, VALUE_AND_SLOPE(function), a + b)            \
    PAIR(slope_##function, 1, EACH, BOTH_OF_CODE(function, M(slope_of_code)(b)))                   \
    PAIR(mul_slope_##function, 2, EACH, BOTH_OF_CODE(function, a *M(slope_of_code)(b)))
PAIRS(tanh)
PAIRS(sigmoid)

static ad_pointwise_pair M(lookup_pair)(ad_op op, ad_op second, int nin)
{
    if (op == AD_OP_tanh && second == AD_OP_slope_of_code)
        return nin == 1 ? M(pair_tanh_slope) : M(pair_sum_tanh_slope);
    if (op == AD_OP_sigmoid && second == AD_OP_slope_of_code)
        return nin == 1 ? M(pair_sigmoid_slope) : M(pair_sum_sigmoid_slope);
    if (second != AD_OP_tanh_of_code && second != AD_OP_sigmoid_of_code) return NULL;
    const bool tanh = second == AD_OP_tanh_of_code;
    if (op == AD_OP_slope_of_code) {
        if (tanh) return nin == 1 ? M(pair_slope_tanh) : M(pair_mul_slope_tanh);
        return nin == 1 ? M(pair_slope_sigmoid) : M(pair_mul_slope_sigmoid);
    }
    if (op == AD_OP_tanh_code && tanh) return nin == 1 ? M(pair_tanh_code) : M(pair_sum_tanh_code);
    if (op == AD_OP_sigmoid_code && !tanh)
        return nin == 1 ? M(pair_sigmoid_code) : M(pair_sum_sigmoid_code);
    return NULL;
}

/* sin, cos and tan of arguments beyond the limit of their reduction: rare, and libm's. Looked for
 * before the fast loop runs, since that may overwrite its operand. */
enum { M(TRIG_BLOCK) = 256 };

static void M(run_trig)(ad_pointwise fast, double (*libm)(double), int64_t n, const void *const *in,
                        const int *stride, void *out)
{
    for (int64_t start = 0; start < n; start += M(TRIG_BLOCK)) {
        const int64_t size = n - start < M(TRIG_BLOCK) ? n - start : M(TRIG_BLOCK);
        const T *x = (const T *)in[0] + start * stride[0];
        T copy[M(TRIG_BLOCK)], *result = (T *)out + start;
        int far = 0;
        for (int64_t i = 0; i < size; i++) far |= M(fabs)(x[i * stride[0]]) > M(TRIG_LIMIT);
        for (int64_t i = 0; far && i < size; i++) copy[i] = x[i * stride[0]];
        fast(size, (const void *const[]){ x }, stride, result);
        for (int64_t i = 0; far && i < size; i++)
            if (M(fabs)(copy[i]) > M(TRIG_LIMIT)) result[i] = (T)libm(copy[i]);
    }
}

#define TRIG(name)                                                                                 \
    static void M(run_any_##name)(int64_t n, const void *const *in, const int *stride, void *out)  \
    {                                                                                              \
        M(run_trig)(M(run_##name), name, n, in, stride, out);                                      \
    }
TRIG(sin)
TRIG(cos)
TRIG(tan)

static ad_pointwise M(lookup)(ad_op op, int nin)
{
    static const ad_pointwise one[AD_OP_COUNT] = {
#define AD_UNARY(name, ...) [AD_OP_##name] = M(run_##name),
#include "autodiff/ops.def"
    };
    static const ad_pointwise two[AD_OP_COUNT] = {
#define AD_UNARY(name, ...) [AD_OP_##name] = M(run_sum_##name),
#define AD_BINARY(name, ...) [AD_OP_##name] = M(run_##name),
#include "autodiff/ops.def"
    };
    static const ad_pointwise three[AD_OP_COUNT] = {
#define AD_TERNARY(name, ...) [AD_OP_##name] = M(run_##name),
#include "autodiff/ops.def"
        [AD_OP_add] = M(run_add_product),
        [AD_OP_sub] = M(run_sub_product),
        [AD_OP_mul] = M(run_mul_product),
    };
    switch (op) {
    case AD_OP_sin: return nin == 1 ? M(run_any_sin) : NULL;
    case AD_OP_cos: return nin == 1 ? M(run_any_cos) : NULL;
    case AD_OP_tan: return nin == 1 ? M(run_any_tan) : NULL;
    case AD_OP_slope_of_code: return nin == 1 ? one[op] : nin == 2 ? M(run_mul_slope) : NULL;
    default: return nin == 1 ? one[op] : nin == 2 ? two[op] : nin == 3 ? three[op] : NULL;
    }
}
#undef LANES
#undef LOOP
#undef RUN
#undef ONE
#undef TWO
#undef THREE
#undef TRIG
#undef PAIR
#undef PAIRS
#undef EACH
#undef STRIPS
#undef VALUE
#undef LOOP_TANH
#undef LOOP_TANH_CODE
#undef LOOP_SIGMOID
#undef LOOP_SIGMOID_CODE
#undef OWN_tanh
#undef OWN_tanh_code
#undef OWN_sigmoid
#undef OWN_sigmoid_code
#undef SECOND
#undef SECOND_OF
#undef LOOP_OF
#undef BOTH_OF_QUOTIENT
#undef VALUE_AND_SLOPE
#undef BOTH_OF_CODE
