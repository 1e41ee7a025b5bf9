/* Internal: the generator of counter-based random numbers, Philox4x32-10 (Salmon et al. 2011,
 * doi:10.1145/2063384.2063405): ten rounds of multiply, exchange and mix with a growing key. Inline
 * and without branches, so that a loop over it becomes vector code. */
#ifndef COSTATE_BASE_PHILOX_H
#define COSTATE_BASE_PHILOX_H
#include <stdint.h>

/* Turns the counter c into four random words. Not a hint: a loop with a call in it is not
 * vectorised. */
static inline __attribute__((always_inline)) void ad_philox(uint64_t key, uint32_t *c0,
                                                            uint32_t *c1, uint32_t *c2,
                                                            uint32_t *c3)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t a = *c0, b = *c1, c = *c2, d = *c3;
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
        const uint64_t p = (uint64_t)0xD2511F53 * a, q = (uint64_t)0xCD9E8D57 * c;
        a = (uint32_t)(q >> 32) ^ b ^ k0;
        b = (uint32_t)q;
        c = (uint32_t)(p >> 32) ^ d ^ k1;
        d = (uint32_t)p;
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    *c0 = a;
    *c1 = b;
    *c2 = c;
    *c3 = d;
}

#endif
