/* Internal, part of maths.h: double. */

INLINE double fma_f64(double a, double b, double c)
{
    return HAVE_FMA ? __builtin_fma(a, b, c) : a * b + c;
}
#define FMA fma_f64

INLINE uint64_t bits_f64(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE double from_bits_f64(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE double fabs_f64(double x) { return __builtin_fabs(x); }
INLINE double floor_f64(double x) { return __builtin_floor(x); }
INLINE double sqrt_f64(double x) { return __builtin_sqrt(x); }

/* One comparison each, which a NaN survives. */
INLINE double at_most_f64(double x, double bound) { return x > bound ? bound : x; }
INLINE double at_least_f64(double x, double bound) { return x < bound ? bound : x; }

/* ---- exponentials ---------------------------------------------------------------------------- */

/* Adding SHIFT to a small number rounds it to an integer, which then stands in the lowest bits. */
#define SHIFT 0x1.8p52

/* 2^k for k in -1022..1023, given an integer with the lowest 12 bits of k, or k + SHIFT. */
INLINE double pow2_of_bits_f64(uint64_t k)
{
    return from_bits_f64((k << 52) + 0x3ff0000000000000u);
}
INLINE double pow2_f64(double shifted) { return pow2_of_bits_f64(bits_f64(shifted)); }

/* v 2^k for |k| < 2000, given k + SHIFT, rounded once: each half of k is in range. (The bits of
 * SHIFT itself vanish on the left.) */
INLINE double scale_f64(double v, double shifted)
{
    const uint64_t k = bits_f64(shifted), half = k >> 1;
    return v * pow2_of_bits_f64(half) * pow2_of_bits_f64(k - half);
}

/* r where x = k ln 2 + r, |r| <= ln 2 / 2. */
INLINE double reduced_f64(double x, double *shifted)
{
    *shifted = FMA(x, 0x1.71547652b82fep0, SHIFT);
    const double k = *shifted - SHIFT;
    return FMA(k, -0x1.ef35793c7673p-45, FMA(k, -0x1.62e42fefa38p-1, x));
}

/* expm1(r) for |r| <= ln 2 / 2. */
INLINE double expm1_reduced_f64(double r)
{
    const double q = POLY10(r, 0.500000000000000001, 0.166666666666666765, 0.0416666666666665082,
                            0.00833333333332165407, 0.0013888888888962598, 0.000198412698860736783,
                            0.0000248015871722431803, 2.75572442539757147e-6,
                            2.75574027645201296e-7, 2.51090245363623757e-8, 2.08753323658882024e-9);
    return FMA(q * r, r, r);
}

/* The arguments of exp beyond which nothing changes: its result has become 0 or infinity. */
INLINE double exp_argument_f64(double x) { return at_least_f64(at_most_f64(x, 710), -746); }

INLINE double exp_f64(double x)
{
    double k;
    const double r = reduced_f64(exp_argument_f64(x), &k);
    return scale_f64(1 + expm1_reduced_f64(r), k);
}

/* exp(x + lo) for a small lo. */
INLINE double exp_sum_f64(double x, double lo)
{
    double k;
    const double r = reduced_f64(exp_argument_f64(x), &k) + lo;
    return scale_f64(1 + expm1_reduced_f64(r), k);
}

/* exp(x) for -708 <= x <= 0: the result is normal. */
INLINE double exp_negative_f64(double x)
{
    double k;
    const double p = expm1_reduced_f64(reduced_f64(x, &k));
    return (1 + p) * pow2_f64(k);
}

INLINE double expm1_f64(double x)
{
    double k;
    const double v = at_least_f64(at_most_f64(x, 710), -40);
    const double p = expm1_reduced_f64(reduced_f64(v, &k));
    const double top = v > 709 ? 1 : 0; /* there 2^k may overflow before the result does */
    const double s = pow2_f64(k - top);
    return __builtin_copysign(FMA(p, s, s - 1) * (1 + top), x);
}

/* ---- functions that saturate ----------------------------------------------------------------- */

/* The bits of k + HALF_SHIFT, shifted, are those of 2^k / 2. */
#define HALF_SHIFT (SHIFT + 1022)

/* tanh(a) for 0 <= a < 0.549, which is below 1/2, and its complement 1 - tanh(a) from there on,
 * below 0.501 and accurate until it underflows. With a = k ln 2 / 2 + r and t = r coth r, exp(2 a)
 * = 2^k (t + r) / (t - r), and tanh is the quotient of its distances to 1 and -1. Both are halved
 * here, so that for k = 0 the dividend is r. These are the terms of the quotient, over and under,
 * of a = |x|: loops take the terms and the rest apart. For a <= 355, beyond which the complement is
 * 0 but for subnormal numbers. */
#define TANH_FAR_f64 0.549
INLINE void tanh_terms_f64(double x, double *over, double *under)
{
    const double size = fabs_f64(x);
    const double shifted = FMA(size, 0x1.71547652b82fep1, HALF_SHIFT), k = shifted - HALF_SHIFT;
    const double r = FMA(k, -0x1.ef35793c7673p-46, FMA(k, -0x1.62e42fefa38p-2, size)), w = r * r;
    const double t =
        POLY5(w, 1, 0.333333333333332038, -0.0222222222216106311, 0.00211640202265262136,
              -0.000211633938814878033, 0.0000211871140802354924);
    const double half = from_bits_f64(bits_f64(shifted) << 52),
                 up = FMA(half + 0.5, r, (half - 0.5) * t), down = t - r;
    *over = size > TANH_FAR_f64 ? down : up;
    *under = up + down;
}

/* The quotient, or 0. By the bits: a division whose result is only selected would be computed under
 * a mask. */
INLINE double tanh_part_f64(double size, double quotient)
{
    const uint64_t kept = size > 355 ? 0 : ~(uint64_t)0;
    return from_bits_f64(bits_f64(quotient) & kept);
}

/* x >= 0 with the sign of another number. */
INLINE double with_sign_f64(double x, double sign)
{
    return from_bits_f64(bits_f64(x) | (bits_f64(sign) & (uint64_t)1 << 63));
}

INLINE double tanh_of_quotient_f64(double x, double quotient)
{
    const double a = fabs_f64(x), part = tanh_part_f64(a, quotient);
    return with_sign_f64(a > TANH_FAR_f64 ? 1 - part : part, x);
}

INLINE double tanh_f64(double x)
{
    double over, under;
    tanh_terms_f64(x, &over, &under);
    return tanh_of_quotient_f64(x, over / under);
}

/* The code of tanh(x): itself where its size is below 1/2; else the complement of its size, with an
 * exponent so much larger that every complement, 0 too, becomes a number from 1/2 on. */
#define CODE_SHIFT_f64 ((uint64_t)1022 << 52)
INLINE double encoded_f64(double size, double part, double x)
{
    return with_sign_f64(
        size > TANH_FAR_f64 ? from_bits_f64(bits_f64(part) + CODE_SHIFT_f64) : part, x);
}

INLINE double tanh_code_of_quotient_f64(double x, double quotient)
{
    const double a = fabs_f64(x);
    return encoded_f64(a, tanh_part_f64(a, quotient), x);
}

INLINE double tanh_code_f64(double x)
{
    double over, under;
    tanh_terms_f64(x, &over, &under);
    return tanh_code_of_quotient_f64(x, over / under);
}

INLINE bool is_far_f64(double code) { return fabs_f64(code) >= 0.5; }
INLINE double code_complement_f64(double code)
{
    return from_bits_f64(bits_f64(code) - CODE_SHIFT_f64);
}

INLINE double tanh_of_code_f64(double code)
{
    return is_far_f64(code) ? __builtin_copysign(1 - code_complement_f64(fabs_f64(code)), code)
                            : code;
}

/* 1 - tanh^2, of its size or, from a half on, the complement of that. */
INLINE double slope_of_part_f64(double part, bool far)
{
    return FMA(-part, part, far ? part + part : 1);
}

INLINE double slope_of_code_f64(double code)
{
    const double part = is_far_f64(code) ? code_complement_f64(fabs_f64(code)) : code;
    return slope_of_part_f64(part, is_far_f64(code));
}

INLINE double tanh_slope_of_quotient_f64(double x, double quotient)
{
    const double a = fabs_f64(x);
    return slope_of_part_f64(tanh_part_f64(a, quotient), a > TANH_FAR_f64);
}

/* (1 + tanh) / 2. */
INLINE double sigmoid_of_code_f64(double code)
{
    const double c = 0.5 * code_complement_f64(fabs_f64(code));
    return is_far_f64(code) ? (code < 0 ? c : 1 - c) : FMA(0.5, code, 0.5);
}

/* As tanh_terms, of tanh(x / 2), by way of e = exp(-|x|): (1 - e) / (1 + e) and 2 e / (1 + e).
 */
INLINE void sigmoid_terms_f64(double x, double *over, double *under)
{
    const double size = fabs_f64(x);
    double k;
    const double p = expm1_reduced_f64(reduced_f64(at_least_f64(-size, -746), &k)), s = pow2_f64(k);
    const double e = scale_f64(1 + p, k);
    *over = size > 2 * TANH_FAR_f64 ? 2 * e : FMA(-p, s, 1 - s);
    *under = 1 + e;
}

INLINE double sigmoid_code_of_quotient_f64(double x, double quotient)
{
    return encoded_f64(0.5 * fabs_f64(x), quotient, x);
}

INLINE double sigmoid_code_f64(double x)
{
    double over, under;
    sigmoid_terms_f64(x, &over, &under);
    return sigmoid_code_of_quotient_f64(x, over / under);
}

INLINE double sigmoid_of_quotient_f64(double x, double part)
{
    const double c = 0.5 * part;
    return fabs_f64(x) > 2 * TANH_FAR_f64 ? (x < 0 ? c : 1 - c)
                                          : FMA(0.5, __builtin_copysign(part, x), 0.5);
}

INLINE double sigmoid_slope_of_quotient_f64(double x, double part)
{
    return slope_of_part_f64(part, fabs_f64(x) > 2 * TANH_FAR_f64);
}

INLINE double sigmoid_f64(double x)
{
    double over, under;
    sigmoid_terms_f64(x, &over, &under);
    return sigmoid_of_quotient_f64(x, over / under);
}

/* log(1 + e) = 2 atanh(e / (2 + e)) with e = exp(-|x|) <= 1. */
INLINE double softplus_f64(double x)
{
    const double e = exp_f64(-fabs_f64(x));
    const double t = 2 * e / (2 + e), w = t * t * 0.25;
    const double l = POLY9(w, 0.333333333333331519, 0.200000000000786203, 0.142857142739270266,
                           0.111111119848622093, 0.0909087196253058226, 0.0769327996097244758,
                           0.0665048679083631341, 0.0605304320778141162, 0.0417005017035737584,
                           0.0850928909776164496);
    return (x > 0 ? x : 0) + FMA(t * w, l, t);
}

/* ---- logarithms ------------------------------------------------------------------------------ */

/* x = m 2^e with sqrt(1/2) <= m < sqrt(2), x normal and positive. */
INLINE double split_f64(double x, double *e)
{
    const uint64_t u = bits_f64(x) + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu);
    *e = from_bits_f64(u >> 52 | 0x4330000000000000u) - (0x1p52 + 1023);
    return from_bits_f64((u & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu);
}

/* x, or x 2^54 where it is subnormal; *e is the exponent of the factor. */
INLINE double normal_f64(double x, double *e)
{
    *e = x < 0x1p-1022 ? 54 : 0;
    return x < 0x1p-1022 ? x * 0x1p54 : x;
}

/* e ln 2 + log(1 + f) by 2 atanh(s), s = f / (2 + f). */
INLINE double log_parts_f64(double e, double f)
{
    const double s = f / (2 + f), w = s * s, square = 0.5 * f * f;
    const double l = POLY6(w, 0.333333333333336745, 0.199999999997055449, 0.142857143716315558,
                           0.11111099237977892, 0.0909178487037535056, 0.0765695161825963927,
                           0.0739875384611667713);
    const double tail = FMA(s, FMA(2 * w, l, square), e * 0x1.ef35793c7673p-45);
    return FMA(e, 0x1.62e42fefa38p-1, f - (square - tail));
}

/* The logarithm's value v where x > 0 is finite, and its limits elsewhere; x is the distance to the
 * pole. */
INLINE double log_limits_f64(double x, double v)
{
    const double pole = x == 0 ? -__builtin_inf() : __builtin_nan("");
    return x > 0 ? (x < __builtin_inf() ? v : x) : pole;
}

INLINE double log_f64(double x)
{
    double e, subnormal;
    const double m = split_f64(normal_f64(x, &subnormal), &e);
    return log_limits_f64(x, log_parts_f64(e - subnormal, m - 1));
}

/* 1 + x = u + c exactly, and 1 + x = (m + c 2^-e) 2^e. */
INLINE double log1p_f64(double x)
{
    double e;
    const double u = 1 + x, rest = u - 1, c = (1 - (u - rest)) + (x - rest);
    const double m = split_f64(u, &e);
    const double f = FMA(c, pow2_f64(SHIFT - (e > 64 ? 64 : e)), m - 1);
    return __builtin_copysign(log_limits_f64(u, log_parts_f64(e, f)), x);
}

/* ---- error function -------------------------------------------------------------------------- */

/* x P(x^2) below 1; 1 - exp(-a R(a)) above, R = -log(erfc(a)) / a. */
INLINE double erf_f64(double x)
{
    double a = fabs_f64(x);
    const double w = a * a;
    const double small =
        a * POLY11(w, 1.12837916709551257390, -0.376126389031835198, 0.112837916709441898,
                   -0.0268661706431116702, 0.00522397760611609976, -0.000854832592904106268,
                   0.000120552935647552785, -0.0000149247120048253947, 1.64471272388822987e-6,
                   -1.62062762400234962e-7, 1.37108020127789532e-8, -7.77910953640608508e-10);
    const double b = at_least_f64(at_most_f64(a, 5.95), 1); /* erf is 1 beyond */
    const double u = b - 3.5;
    const double r =
        POLY16(u, 4.03212497203259872, 0.923992747446073663, 0.0122172307419685563,
               -0.00199759014489041713, 0.000321121155801700727, -0.0000496584247952168807,
               7.21171410922264376e-6, -9.78167244868615491e-7, 7.95563551353242085e-8,
               -1.2709776543071303e-8, 1.15233921033034567e-8, 1.65201204101130175e-8,
               1.00055199095471095e-8, 3.93803984414985181e-9, 9.45754429913382102e-10,
               1.35625290619856948e-10, 8.56627436376807063e-12);
    return __builtin_copysign(a < 1 ? small : 1 - exp_negative_f64(-b * r), x);
}

/* ---- trigonometry ---------------------------------------------------------------------------- */

#define TRIG_LIMIT_f64 0x1p20

/* x = k pi/2 + (r + lo), |r| <= pi/4: *quadrant holds k in its lowest bits. The first two parts of
 * pi/2 have 33 bits, so that their products with k are exact. */
INLINE double reduced_angle_f64(double x, double *lo, uint64_t *quadrant)
{
    const double shifted = FMA(x, 0x1.45f306dc9c883p-1, SHIFT), k = shifted - SHIFT;
    *quadrant = bits_f64(shifted);
    const double a = x - k * 0x1.921fb544p+0, b = k * 0x1.0b4611a6p-34;
    const double y = a - b, back = y - a, rest = (a - (y - back)) - (b + back);
    const double c = FMA(k, 0x1.3198a2e037073p-69, -rest), r = y - c;
    *lo = (y - r) - c;
    return r;
}

INLINE double sin_reduced_f64(double r, double lo)
{
    const double w = r * r;
    const double s =
        POLY5(w, -0.166666666666666238, 0.00833333333332033804, -0.000198412698281276798,
              2.75573131032215724e-6, -2.50506651337431458e-8, 1.58913650825225035e-10);
    return r + FMA(r * w, s, lo * FMA(w, -0.5, 1));
}

INLINE double cos_reduced_f64(double r, double lo)
{
    const double w = r * r, half = 0.5 * w, a = 1 - half;
    const double c =
        POLY5(w, 0.0416666666666665784, -0.00138888888888705041, 0.0000248015872872351215,
              -2.75573137066917452e-7, 2.08756359493380083e-9, -1.13551476340083179e-11);
    return a + (((1 - a) - half) + FMA(w * w, c, -r * lo));
}

INLINE double flip_sign_f64(double x, uint64_t lowest_bit)
{
    return from_bits_f64(bits_f64(x) ^ lowest_bit << 63);
}

INLINE double sin_f64(double x)
{
    uint64_t q;
    double lo;
    const double r = reduced_angle_f64(x, &lo, &q), s = sin_reduced_f64(r, lo),
                 c = cos_reduced_f64(r, lo);
    return x == 0 ? x : flip_sign_f64(q & 1 ? c : s, q >> 1);
}

INLINE double cos_f64(double x)
{
    uint64_t q;
    double lo;
    const double r = reduced_angle_f64(x, &lo, &q), s = sin_reduced_f64(r, lo),
                 c = cos_reduced_f64(r, lo);
    return flip_sign_f64(q & 1 ? s : c, (q + 1) >> 1);
}

INLINE double tan_f64(double x)
{
    uint64_t q;
    double lo;
    const double r = reduced_angle_f64(x, &lo, &q), s = sin_reduced_f64(r, lo),
                 c = cos_reduced_f64(r, lo);
    return x == 0 ? x : flip_sign_f64((q & 1 ? c : s) / (q & 1 ? s : c), q);
}

/* ---- power ----------------------------------------------------------------------------------- */

/* a b = result + *lo. */
INLINE double product_f64(double a, double b, double *lo)
{
    const double p = a * b;
#if HAVE_FMA
    *lo = FMA(a, b, -p);
#else
    const double sa = a * 0x1.0000002p27, sb = b * 0x1.0000002p27;
    const double ah = sa - (sa - a), bh = sb - (sb - b), al = a - ah, bl = b - bh;
    *lo = ((ah * bh - p) + ah * bl + al * bh) + al * bl;
#endif
    return p;
}

/* a + b = result + *lo for |a| >= |b| or a = 0. */
INLINE double sum_f64(double a, double b, double *lo)
{
    const double s = a + b;
    *lo = b - (s - a);
    return s;
}

/* log(x) = result + *lo to some 2^-66, x >= 0: 2 s (1 + s^2 (1/3 + s^2 Q(s^2))) with s, s^2 and the
 * sum of 1/3 in two parts each. */
INLINE double long_log_f64(double x, double *lo)
{
    double e, subnormal, sl, wl, tl, vl, gl, hl, kl;
    const double m = split_f64(normal_f64(x, &subnormal), &e), f = m - 1, d = 2 + f,
                 inverse = 1 / d;
    e -= subnormal;
    const double s = f * inverse, p = product_f64(s, d, &sl);
    sl = ((f - p) - sl - s * (f - (d - 2))) * inverse;
    const double w = product_f64(s, s, &wl);
    wl = FMA(2 * s, sl, wl);
    const double q = POLY7(w, 0.199999999999999999, 0.142857142857146899, 0.111111111108240896,
                           0.0909090916851732785, 0.076922973981450537, 0.0666740665862838856,
                           0.0585300743984980795, 0.0586270476816313771);
    const double t = sum_f64(0x1.5555555555555p-2, w * q, &tl);
    tl += 0x1.5555555555555p-56;
    const double v = product_f64(w, t, &vl);
    vl += FMA(w, tl, wl * t);
    const double g = product_f64(s, v, &gl);
    gl += FMA(s, vl, sl * v);
    const double h = sum_f64(s, g, &hl);
    const double k = sum_f64(e * 0x1.62e42fefa38p-1, 2 * h, &kl);
    const double rest = kl + FMA(e, 0x1.ef35793c7673p-45, 2 * (hl + (sl + gl)));
    return sum_f64(k, rest, lo);
}

/* The special cases of C's pow, given v = |a|^b where that is a power of a positive number. */
INLINE double pow_limits_f64(double a, double b, double v)
{
    const double whole = floor_f64(b), half = 0.5 * b;
    const double odd = whole == b && floor_f64(half) != half ? 1 : 0;
    v = a < 0 && a > -__builtin_inf() && whole != b ? __builtin_nan("") : v;
    v = odd != 0 ? __builtin_copysign(v, a) : v;
    return b == 0 || a == 1 ? 1 : v;
}

/* The exponents beyond which nothing changes, since |log(a)| is 0 or not less than 2^-54. */
INLINE double pow_exponent_f64(double b) { return at_least_f64(at_most_f64(b, 0x1p70), -0x1p70); }

INLINE double pow_f64(double a, double b)
{
    double lo, pl;
    const double size = fabs_f64(a), e = pow_exponent_f64(b);
    double l = long_log_f64(size, &lo);
    lo = size > 0 && size < __builtin_inf() ? lo : 0;
    l = log_limits_f64(size, l);
    const double p = product_f64(l, e, &pl);
    pl = fabs_f64(p) < 1000 ? FMA(lo, e, pl) : 0;
    return pow_limits_f64(a, b, exp_sum_f64(p, pl));
}

/* ---- normal distribution --------------------------------------------------------------------- */

/* exp(-factor x^2), factor 1/2 or 1; 0 from 40 on. */
INLINE double exp_minus_square_f64(double x, double factor)
{
    double lo;
    const double a = at_most_f64(fabs_f64(x), 40), p = product_f64(a, a, &lo);
    return exp_sum_f64(-factor * p, -factor * lo);
}

/* The probability of less than x. Below -z it is exp(-z^2/2) G(s) / (2 + z), s = (z - 4) / (z + 4).
 */
INLINE double normal_cdf_f64(double x)
{
    const double z = at_most_f64(fabs_f64(x), 40), s = (z - 4) / (z + 4);
    const double g =
        POLY23(s, 0.566463847811813619, -0.26710119887498123, 0.138378890063688403,
               -0.0431070432841863403, -0.00133303332174275433, 0.00944400199757492996,
               -0.00449481651652770181, 0.000353190753395015617, 0.000507712840705266131,
               -0.000139985143952202639, -0.0000592048753048214985, 0.0000258815780828596792,
               9.32346389775582762e-6, -4.26147598729337646e-6, -1.95181525090436825e-6,
               6.10089214644832043e-7, 4.58552008068924225e-7, -5.05871103907905495e-8,
               -1.02408829132081742e-7, -8.89420193911793707e-9, 1.82623439792914992e-8,
               4.80784640163601236e-9, -1.85590970802332376e-9, -7.64802389046786742e-10);
    const double tail = exp_minus_square_f64(z, 0.5) * (g / (2 + z));
    return x > 0 ? 1 - tail : tail;
}
#undef FMA
#undef SHIFT
#undef HALF_SHIFT
