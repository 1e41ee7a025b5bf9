/* Internal: how large the processor's caches are.
 *
 * Only choices that change no bit of a result may follow them: results are the same on every
 * machine with the same instruction set. So what a sum's order depends on keeps the sizes that it
 * was measured with, whatever the caches: rows of a block and of a stretch (plan/block.c,
 * plan/plan.c), and with them which weights go by in strips (compile/layout.c, kernels/contract.c);
 * tiles that a gradient of a kernel adds up at a time (kernels/winograd.c). */
#ifndef COSTATE_BASE_CACHES_H
#define COSTATE_BASE_CACHES_H
#include <stdint.h>

/* Bytes of the level 2 cache, a core's: as the system says, else a megabyte. The environment's
 * COSTATE_CACHE, a number of bytes, is for tests. */
int64_t ad_cache_bytes(void);

#endif
