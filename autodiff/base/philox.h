/* Internal: the generator of counter-based random numbers, Philox4x32-10 (Salmon et al. 2011,
 * doi:10.1145/2063384.2063405): ten rounds of multiply, exchange and mix with a growing key. Inline
 * and without branches, so that a loop over it becomes vector code. */
#ifndef COSTATE_BASE_PHILOX_H
#define COSTATE_BASE_PHILOX_H
#include <stdint.h>

/* The rounds, on words of a type with 64 bits, or vectors of them, whose lower halves count;
 * product: of the lower halves of two of them. */
#define AD_PHILOX(word, product, key, a, b, c, d)                                                  \
    do {                                                                                           \
        uint32_t k0 = (uint32_t)(key);                                                             \
        uint32_t k1 = (uint32_t)((key) >> 32);                                                     \
        _Pragma("GCC unroll 10") for (int round = 0; round < 10; round++)                          \
        {                                                                                          \
            const word p = product(a, UINT64_C(0xD2511F53));                                       \
            const word q = product(c, UINT64_C(0xCD9E8D57));                                       \
            a = (q >> 32) ^ b ^ (uint64_t)k0;                                                      \
            b = q;                                                                                 \
            c = (p >> 32) ^ d ^ (uint64_t)k1;                                                      \
            d = p;                                                                                 \
            k0 += 0x9E3779B9;                                                                      \
            k1 += 0xBB67AE85;                                                                      \
        }                                                                                          \
    } while (0)
#define AD_PHILOX_PRODUCT(x, y) ((uint64_t)(uint32_t)(x) * (y))

/* Turns the counter c into four random words. Not a hint: a loop with a call in it is not
 * vectorised. */
static inline __attribute__((always_inline)) void ad_philox(uint64_t key, uint32_t *c0,
                                                            uint32_t *c1, uint32_t *c2,
                                                            uint32_t *c3)
{
    uint64_t a = *c0, b = *c1, c = *c2, d = *c3;
    AD_PHILOX(uint64_t, AD_PHILOX_PRODUCT, key, a, b, c, d);
    *c0 = (uint32_t)a;
    *c1 = (uint32_t)b;
    *c2 = (uint32_t)c;
    *c3 = (uint32_t)d;
}

#endif
