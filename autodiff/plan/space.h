/* Internal to plan/: which bytes of a memory are free while values are given their places in it. */
#ifndef COSTATE_SPACE_H
#define COSTATE_SPACE_H
#include "autodiff/base/memory.h"

typedef struct ad_space_gap ad_space_gap;
typedef struct {
    ad_space_gap *node; /* from 1; 0 stands for none, and its `most` is 0 */
    int32_t root, n, unused;
    uint32_t random;
} ad_space;

/* Free without end, for at most so many values at a time. false: memory is short. */
bool ad_space_open(ad_space *space, ad_pool *pool, int32_t values);
void ad_space_empty(ad_space *space); /* free without end again */
/* Takes the beginning of the first gap that is large enough. Its position; -1 where the end could
 * not be addressed. */
int64_t ad_space_take(ad_space *space, int64_t bytes);
void ad_space_give(ad_space *space, int64_t at, int64_t bytes);

#endif
