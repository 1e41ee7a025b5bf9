/* Internal: times at which steps have to end. */
#ifndef ODE_STOPS_H
#define ODE_STOPS_H
#include "ode/march/settings.h"

typedef struct {
    double t;
    bool jump; /* of the field itself: it is evaluated on the step's own side; else of a derivative
                */
} ode_stop;

typedef struct {
    ode_stop *at; /* increasing; in memory */
    int64_t n;
    ad_dtype dtype;
    ode_buffer memory;
} ode_stops;
/* Of a solve with these arguments, as given to it. false: out of memory. */
bool ode_stops_gather(ode_stops *stops, const ode_settings *settings, const ode_system *system,
                      const void *const *args);
void ode_stops_free(ode_stops *stops);
bool ode_stops_jump(const ode_stops *stops, double t); /* whether the field jumps at t */
/* The first stop strictly between a and b, going from a to b; b when there is none. */
double ode_stops_next(const ode_stops *stops, double a, double b);
double ode_round_time(ad_dtype dtype, double t); /* as a field of this type sees it */

#endif
