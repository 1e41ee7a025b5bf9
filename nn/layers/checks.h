/* Internal to nn/: checks of data that losses and layers record. Each is an operation that passes
 * its operand on and fails, when it runs, on what it must not be. A tape lists its checks, so that
 * training can run them on all data before it begins. */
#ifndef COSTATE_NN_CHECKS_H
#define COSTATE_NN_CHECKS_H
#include "nn/base/support.h"

enum { NN_MAX_CHECKS = 8 }; /* listed for a tape; others fail as they run */

/* Whole numbers from lowest to highest: `name`, a noun, of the function `called`. Texts are
 * literals. */
typedef struct {
    const char *called, *name;
    int64_t lowest, highest; /* highest INT64_MAX: none */
} nn_whole;
/* x, checked to be such numbers when it is computed. Listed: those of data. */
ad_var nn_check_whole(ad_var x, const nn_whole *allowed, bool listed);
/* The checks of a tape that are still valid; returns how many. */
int nn_checks_list(ad_tape *tape, ad_var checks[NN_MAX_CHECKS]);

#endif
