/* Internal: which nodes lie between x and y. */
#ifndef COSTATE_DERIVE_H
#define COSTATE_DERIVE_H
#include "tape.h"

enum { AD_SEED = 1, AD_THROUGH = 2, AD_NEEDED = 4 /* while finding */ };
typedef struct {
    char *active;       /* by node: AD_SEED for x, AD_THROUGH for what depends differentiably on x and y on it; the caller frees it */
    int32_t begin, end; /* nodes to visit; none before is active */
} ad_activity;
/* cut: x that depend on other x count as independent. */
bool ad_activity_find(ad_activity *activity, ad_tape *tape, int ny, const ad_var *y, int nx, const ad_var *x, bool cut);

#endif
