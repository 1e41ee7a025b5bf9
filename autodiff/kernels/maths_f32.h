/* Internal, part of maths.h: float. What is explained in maths_f64.h is not repeated.
 */

INLINE float fma_f32(float a, float b, float c)
{
    return HAVE_FMA ? __builtin_fmaf(a, b, c) : a * b + c;
}
#define FMA fma_f32

INLINE uint32_t bits_f32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float from_bits_f32(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE float fabs_f32(float x) { return __builtin_fabsf(x); }
INLINE float floor_f32(float x) { return __builtin_floorf(x); }
INLINE float sqrt_f32(float x) { return __builtin_sqrtf(x); }

/* One comparison each, which a NaN survives. */
INLINE float at_most_f32(float x, float bound) { return x > bound ? bound : x; }
INLINE float at_least_f32(float x, float bound) { return x < bound ? bound : x; }

/* ---- exponentials ---------------------------------------------------------------------------- */

#define SHIFT 0x1.8p23f

/* 2^k for k in -126..127. */
INLINE float pow2_of_bits_f32(uint32_t k) { return from_bits_f32((k << 23) + 0x3f800000u); }
INLINE float pow2_f32(float shifted) { return pow2_of_bits_f32(bits_f32(shifted)); }

INLINE float scale_f32(float v, float shifted)
{
    const uint32_t k = bits_f32(shifted), half = k >> 1;
    return v * pow2_of_bits_f32(half) * pow2_of_bits_f32(k - half);
}

INLINE float reduced_f32(float x, float *shifted)
{
    *shifted = FMA(x, 0x1.715476p0f, SHIFT);
    const float k = *shifted - SHIFT;
    return FMA(k, -0x1.7f7d1cp-20f, FMA(k, -0x1.62e4p-1f, x));
}

INLINE float expm1_reduced_f32(float r)
{
    const float q =
        POLY4(r, 0.4999999813f, 0.1666654347f, 0.04166720476f, 0.008366545276f, 0.001388230827f);
    return FMA(q * r, r, r);
}

INLINE float exp_f32(float x)
{
    float k;
    x = at_least_f32(at_most_f32(x, 89), -104);
    const float p = expm1_reduced_f32(reduced_f32(x, &k));
    return scale_f32(1 + p, k);
}

/* exp(x) for -87 <= x <= 0. */
INLINE float exp_negative_f32(float x)
{
    float k;
    const float p = expm1_reduced_f32(reduced_f32(x, &k));
    return (1 + p) * pow2_f32(k);
}

INLINE float expm1_f32(float x)
{
    float k;
    const float v = at_least_f32(at_most_f32(x, 89), -20);
    const float p = expm1_reduced_f32(reduced_f32(v, &k));
    const float top = v > 88 ? 1 : 0;
    const float s = pow2_f32(k - top);
    return __builtin_copysignf(FMA(p, s, s - 1) * (1 + top), x);
}

/* ---- functions that saturate ----------------------------------------------------------------- */

#define HALF_SHIFT (SHIFT + 126)

#define TANH_FAR_f32 0.549f
INLINE void tanh_terms_f32(float x, float *over, float *under)
{
    const float size = fabs_f32(x);
    const float shifted = FMA(size, 0x1.715476p1f, HALF_SHIFT), k = shifted - HALF_SHIFT;
    /* One part of ln 2 / 2, whose error is 1e-9, suffices where the product is not rounded. */
    const float r = HAVE_FMA ? FMA(k, -0x1.62e43p-2f, size)
                             : (size - k * 0x1.62e4p-2f) - k * 0x1.7f7d1cp-21f,
                w = r * r;
    const float t = POLY2(w, 1, 0.3333325135f, -0.02213395613f);
    const float half = from_bits_f32(bits_f32(shifted) << 23),
                up = FMA(half + 0.5f, r, (half - 0.5f) * t), down = t - r;
    *over = size > TANH_FAR_f32 ? down : up;
    *under = up + down;
}

INLINE float tanh_part_f32(float size, float quotient)
{
    const uint32_t kept = size > 44.5f ? 0 : ~(uint32_t)0;
    return from_bits_f32(bits_f32(quotient) & kept);
}

INLINE float with_sign_f32(float x, float sign)
{
    return from_bits_f32(bits_f32(x) | (bits_f32(sign) & (uint32_t)1 << 31));
}

INLINE float tanh_of_quotient_f32(float x, float quotient)
{
    const float a = fabs_f32(x), part = tanh_part_f32(a, quotient);
    return with_sign_f32(a > TANH_FAR_f32 ? 1 - part : part, x);
}

INLINE float tanh_f32(float x)
{
    float over, under;
    tanh_terms_f32(x, &over, &under);
    return tanh_of_quotient_f32(x, over / under);
}

#define CODE_SHIFT_f32 (126u << 23)
INLINE float encoded_f32(float size, float part, float x)
{
    return with_sign_f32(
        size > TANH_FAR_f32 ? from_bits_f32(bits_f32(part) + CODE_SHIFT_f32) : part, x);
}

INLINE float tanh_code_of_quotient_f32(float x, float quotient)
{
    const float a = fabs_f32(x);
    return encoded_f32(a, tanh_part_f32(a, quotient), x);
}

INLINE float tanh_code_f32(float x)
{
    float over, under;
    tanh_terms_f32(x, &over, &under);
    return tanh_code_of_quotient_f32(x, over / under);
}

INLINE bool is_far_f32(float code) { return fabs_f32(code) >= 0.5f; }
INLINE float code_complement_f32(float code)
{
    return from_bits_f32(bits_f32(code) - CODE_SHIFT_f32);
}

INLINE float tanh_of_code_f32(float code)
{
    return is_far_f32(code) ? __builtin_copysignf(1 - code_complement_f32(fabs_f32(code)), code)
                            : code;
}

INLINE float slope_of_part_f32(float part, bool far)
{
    return FMA(-part, part, far ? part + part : 1);
}

INLINE float slope_of_code_f32(float code)
{
    const float part = is_far_f32(code) ? code_complement_f32(fabs_f32(code)) : code;
    return slope_of_part_f32(part, is_far_f32(code));
}

INLINE float tanh_slope_of_quotient_f32(float x, float quotient)
{
    const float a = fabs_f32(x);
    return slope_of_part_f32(tanh_part_f32(a, quotient), a > TANH_FAR_f32);
}

INLINE float sigmoid_of_code_f32(float code)
{
    const float c = 0.5f * code_complement_f32(fabs_f32(code));
    return is_far_f32(code) ? (code < 0 ? c : 1 - c) : FMA(0.5f, code, 0.5f);
}

INLINE void sigmoid_terms_f32(float x, float *over, float *under)
{
    const float size = fabs_f32(x);
    float k;
    const float p = expm1_reduced_f32(reduced_f32(at_least_f32(-size, -104), &k)), s = pow2_f32(k);
    const float e = scale_f32(1 + p, k);
    *over = size > 2 * TANH_FAR_f32 ? 2 * e : FMA(-p, s, 1 - s);
    *under = 1 + e;
}

INLINE float sigmoid_code_of_quotient_f32(float x, float quotient)
{
    return encoded_f32(0.5f * fabs_f32(x), quotient, x);
}

INLINE float sigmoid_code_f32(float x)
{
    float over, under;
    sigmoid_terms_f32(x, &over, &under);
    return sigmoid_code_of_quotient_f32(x, over / under);
}

INLINE float sigmoid_of_quotient_f32(float x, float part)
{
    const float c = 0.5f * part;
    return fabs_f32(x) > 2 * TANH_FAR_f32 ? (x < 0 ? c : 1 - c)
                                          : FMA(0.5f, __builtin_copysignf(part, x), 0.5f);
}

INLINE float sigmoid_slope_of_quotient_f32(float x, float part)
{
    return slope_of_part_f32(part, fabs_f32(x) > 2 * TANH_FAR_f32);
}

INLINE float sigmoid_f32(float x)
{
    float over, under;
    sigmoid_terms_f32(x, &over, &under);
    return sigmoid_of_quotient_f32(x, over / under);
}

INLINE float softplus_f32(float x)
{
    const float e = exp_f32(-fabs_f32(x));
    const float t = 2 * e / (2 + e), w = t * t * 0.25f;
    const float l = POLY3(w, 0.3333320663f, 0.2001084741f, 0.139995866f, 0.1401221238f);
    return (x > 0 ? x : 0) + FMA(t * w, l, t);
}

/* ---- logarithms ------------------------------------------------------------------------------ */

INLINE float split_f32(float x, float *e)
{
    const uint32_t u = bits_f32(x) + (0x3f800000u - 0x3f3504f3u);
    *e = (float)((int32_t)(u >> 23) - 127);
    return from_bits_f32((u & 0x007fffffu) + 0x3f3504f3u);
}

/* e ln 2 + log(1 + f) by f - f^2/2 + f^3 G(f). */
INLINE float log_parts_f32(float e, float f)
{
    const float w = f * f, square = 0.5f * w;
    const float g = POLY7(f, 0.3333333169f, -0.2500082099f, 0.2000122777f, -0.1662335915f,
                          0.1420174136f, -0.1316015303f, 0.1276167034f, -0.07634673701f);
    const float tail = FMA(f * w, g, e * 0x1.7f7d1cp-20f);
    return FMA(e, 0x1.62e4p-1f, f - (square - tail));
}

INLINE float log_limits_f32(float x, float v)
{
    const float pole = x == 0 ? -__builtin_inff() : __builtin_nanf("");
    return x > 0 ? (x < __builtin_inff() ? v : x) : pole;
}

INLINE float log_f32(float x)
{
    float e;
    const float subnormal = x < 0x1p-126f ? 23 : 0;
    const float m = split_f32(x < 0x1p-126f ? x * 0x1p23f : x, &e);
    return log_limits_f32(x, log_parts_f32(e - subnormal, m - 1));
}

INLINE float log1p_f32(float x)
{
    float e;
    const float u = 1 + x, rest = u - 1, c = (1 - (u - rest)) + (x - rest);
    const float m = split_f32(u, &e);
    const float f = FMA(c, pow2_f32(SHIFT - (e > 64 ? 64 : e)), m - 1);
    return __builtin_copysignf(log_limits_f32(u, log_parts_f32(e, f)), x);
}

/* ---- error function -------------------------------------------------------------------------- */

INLINE float erf_f32(float x)
{
    const float a = fabs_f32(x), w = a * a;
    const float small = a * POLY6(w, 1.128379166f, -0.3761262583f, 0.1128358514f, -0.02685380939f,
                                  0.005188319651f, -0.0008010099192f, 7.853480709e-5f);
    const float b = at_least_f32(at_most_f32(a, 3.95f), 1);
    const float u = b - 2.5f;
    const float r = POLY5(u, 3.122728103f, 0.8919839156f, 0.0207251729f, -0.004094190244f,
                          0.0005539099525f, -0.0002106425279f);
    return __builtin_copysignf(a < 1 ? small : 1 - exp_negative_f32(-b * r), x);
}

/* ---- trigonometry ---------------------------------------------------------------------------- */

#define TRIG_LIMIT_f32 0x1p15f

/* Reduced in double, where two parts of pi/2 suffice: what cancels is exact. */
INLINE float reduced_angle_f32(float x, uint32_t *quadrant)
{
    const float shifted = FMA(x, 0x1.45f306p-1f, SHIFT);
    const double k = shifted - SHIFT;
    *quadrant = bits_f32(shifted);
    return (float)((x - k * 0x1.921fb544p+0) - k * 0x1.0b4611a626331p-34);
}

INLINE float sin_reduced_f32(float r)
{
    const float w = r * r;
    return FMA(r * w, POLY2(w, -0.1666665349f, 0.008332089196f, -0.0001950551652f), r);
}

INLINE float cos_reduced_f32(float r)
{
    const float w = r * r;
    return FMA(w * w, POLY2(w, 0.0416666437f, -0.001388721909f, 2.442199831e-5f), 1 - 0.5f * w);
}

INLINE float flip_sign_f32(float x, uint32_t lowest_bit)
{
    return from_bits_f32(bits_f32(x) ^ lowest_bit << 31);
}

INLINE float sin_f32(float x)
{
    uint32_t q;
    const float r = reduced_angle_f32(x, &q), s = sin_reduced_f32(r), c = cos_reduced_f32(r);
    return x == 0 ? x : flip_sign_f32(q & 1 ? c : s, q >> 1);
}

INLINE float cos_f32(float x)
{
    uint32_t q;
    const float r = reduced_angle_f32(x, &q), s = sin_reduced_f32(r), c = cos_reduced_f32(r);
    return flip_sign_f32(q & 1 ? s : c, (q + 1) >> 1);
}

INLINE float tan_f32(float x)
{
    uint32_t q;
    const float r = reduced_angle_f32(x, &q), s = sin_reduced_f32(r), c = cos_reduced_f32(r);
    return x == 0 ? x : flip_sign_f32((q & 1 ? c : s) / (q & 1 ? s : c), q);
}

/* ---- power: in double ------------------------------------------------------------------------ */

INLINE float pow_f32(float a, float b)
{
    return (float)pow_limits_f64(a, b, exp_f64(pow_exponent_f64(b) * log_f64(fabs_f64(a))));
}

/* ---- normal distribution --------------------------------------------------------------------- */

/* x^2 = result + *lo. */
INLINE float square_f32(float x, float *lo)
{
    const float p = x * x;
#if HAVE_FMA
    *lo = FMA(x, x, -p);
#else
    const float s = x * 4097, h = s - (s - x), l = x - h;
    *lo = ((h * h - p) + 2 * h * l) + l * l;
#endif
    return p;
}

INLINE float exp_minus_square_f32(float x, float factor)
{
    float lo, k;
    const float a = at_most_f32(fabs_f32(x), 15), p = square_f32(a, &lo);
    const float r = reduced_f32(at_least_f32(-factor * p, -104), &k) - factor * lo;
    return scale_f32(1 + expm1_reduced_f32(r), k);
}

INLINE float normal_cdf_f32(float x)
{
    const float z = at_most_f32(fabs_f32(x), 15), s = (z - 4) / (z + 4);
    const float g = POLY10(s, 0.566463848f, -0.2671011974f, 0.1383788607f, -0.04310710793f,
                           -0.001332443875f, 0.009444968978f, -0.004498858336f, 0.0003465389379f,
                           0.0005183528897f, -0.0001189008884f, -6.545809586e-5f);
    const float tail = exp_minus_square_f32(z, 0.5f) * (g / (2 + z));
    return x > 0 ? 1 - tail : tail;
}
#undef FMA
#undef SHIFT
#undef HALF_SHIFT
