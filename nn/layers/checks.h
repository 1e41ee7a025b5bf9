/* Internal to nn/: checks of data that losses record. Each is an operation that passes its operand
 * on and fails, when it runs, on what it must not be. A tape lists its checks, so that training can
 * run them on all data before it begins. */
#ifndef COSTATE_NN_CHECKS_H
#define COSTATE_NN_CHECKS_H
#include "nn/base/support.h"

enum { NN_MAX_CHECKS = 8 }; /* listed for a tape; others fail as they run */

/* classes [...,1], checked to be whole numbers 0..n-1 when they are computed. */
ad_var nn_check_classes(ad_var classes, int64_t n);
/* The checks of a tape that are still valid; returns how many. */
int nn_checks_list(ad_tape *tape, ad_var checks[NN_MAX_CHECKS]);

#endif
