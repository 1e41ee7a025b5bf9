/* ADOL-C as a peer of GradBench's programs (adolc.cpp), where it was there when this was built. */
#ifndef GRADBENCH_PEERS_H
#define GRADBENCH_PEERS_H
#include "gradbench.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Records the program of this name on ADOL-C's tape; false: ADOL-C is not there. */
bool gb_adolc_start(const gb_case *c, const char *program);
/* Value and derivative from that tape. */
void gb_adolc_run(const gb_case *c, const char *program, double *value, double *derivative);

#ifdef __cplusplus
}
#endif
#endif
