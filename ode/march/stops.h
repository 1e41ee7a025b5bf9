/* Internal: times at which steps have to end. */
#ifndef ODE_STOPS_H
#define ODE_STOPS_H
#include "ode/march/settings.h"

typedef struct {
    double t;
    int output; /* the output time that it is; -1: none */
    /* of the field itself: it is evaluated on the step's own side; else of a derivative */
    bool jump;
} ode_stop;

/* The queue of a march: constant stops, and the output times. */
typedef struct {
    ode_stop *at; /* the former, increasing; in memory */
    int64_t n;
    ad_dtype dtype;
    ode_buffer memory;
    const double *times; /* the latter, in either direction; borrowed */
    int ntimes;
    bool all; /* steps end at all of these, else at the last one */
} ode_stops;
/* Of a solve with these arguments, as given to it. false: out of memory. */
bool ode_stops_gather(ode_stops *stops, const ode_settings *settings, const ode_system *system,
                      const void *const *args);
void ode_stops_free(ode_stops *stops);
/* For a march from times[0] to times[n - 1]. */
void ode_stops_begin(ode_stops *stops, int n, const double *times, bool all);
/* The first stop beyond t; before the last output time there is always one. */
ode_stop ode_stops_next(const ode_stops *stops, double t);
ode_stop ode_stops_at(const ode_stops *stops, double t); /* what t is to the march */
/* Whether a constant stop lies at a or between a and b. */
bool ode_stops_between(const ode_stops *stops, double a, double b);
bool ode_stops_jump(const ode_stops *stops, double t); /* whether the field jumps at t */
double ode_round_time(ad_dtype dtype, double t);       /* as a field of this type sees it */

#endif
