/* Internal: which nodes lie between x and y. */
#ifndef COSTATE_DERIVE_H
#define COSTATE_DERIVE_H
#include "tape.h"

enum { AD_SEED = 1, AD_THROUGH = 2, AD_NEEDED = 4 /* while finding */ };
typedef struct {
    /* By node: AD_SEED for x, AD_THROUGH for what depends differentiably on x and y on it. Only what y needs, its operands, x and y have an
     * entry: others are not written, so that a long tape costs nothing. */
    char *active;
    ad_reach reach;     /* what y needs, from the first x on: nodes to visit */
    int32_t begin, end; /* no node before or from here on is active */
} ad_activity;
/* cut: x that depend on other x count as independent. */
bool ad_activity_find(ad_activity *activity, ad_tape *tape, int ny, const ad_var *y, int nx, const ad_var *x, bool cut);
void ad_activity_clear(ad_activity *activity);

#endif
