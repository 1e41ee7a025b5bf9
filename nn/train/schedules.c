/* Schedules: the factor on an optimiser's rate at each update. */
#include "nn/base/support.h"

static double half_cosine(double part) /* 1 at 0 down to 0 at 1 */
{
    return 0.5 * (1 + cos(3.14159265358979323846 * part));
}

double nn_schedule_cosine(int64_t step, int64_t steps, void *user)
{
    (void)user;
    return half_cosine((double)step / (double)steps);
}

double nn_schedule_exponential(int64_t step, int64_t steps, void *user)
{
    (void)user;
    return pow(0.01, (double)step / (double)steps);
}

double nn_schedule_step(int64_t step, int64_t steps, void *user)
{
    nn_steps_schedule s = user ? *(const nn_steps_schedule *)user : (nn_steps_schedule){ 0 };
    if (s.every == 0) s.every = steps / 3 > 0 ? steps / 3 : 1;
    if (s.factor == 0) s.factor = 0.1;
    if (s.every < 1) return NAN;
    const int64_t drops = step / s.every;
    return pow(s.factor, (double)drops);
}

double nn_schedule_one_cycle(int64_t step, int64_t steps, void *user)
{
    nn_one_cycle_schedule s =
        user ? *(const nn_one_cycle_schedule *)user : (nn_one_cycle_schedule){ 0 };
    if (s.rise == 0) s.rise = 0.3;
    if (s.start == 0) s.start = 1.0 / 25;
    if (s.end == 0) s.end = s.start / 1e4;
    if (!(s.rise > 0 && s.rise < 1)) return NAN;
    double top = s.rise * (double)steps - 1, last = (double)steps - 1, at = (double)step;
    if (at < top) return 1 + (s.start - 1) * half_cosine(at / top);
    return s.end + (1 - s.end) * half_cosine(last > top ? (at - top) / (last - top) : 1);
}
