/* Options: checked, with defaults resolved; lists of times; what a caller gets to know of a solve. */
#include "solver.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void ode_settings_clear(ode_settings *s)
{
    free(s->jump);
    s->jump = NULL;
}

/* A number that must be finite and not negative; zero means the default. */
static bool check(ad_tape *tape, const char *caller, const char *name, double value, double fallback, double *out)
{
    *out = value == 0 ? fallback : value;
    if (value >= 0 && isfinite(value)) return true;
    ad_fail(tape, "%s: options.%s is %g; it must be positive and finite (0: the default)", caller, name, value);
    return false;
}

static bool check_count(ad_tape *tape, const char *caller, const char *name, int64_t value)
{
    if (value >= 0) return true;
    ad_fail(tape, "%s: options.%s is %lld; it must be positive (0: the default)", caller, name, (long long)value);
    return false;
}

static bool copy_jumps(ode_settings *s, const ode_options *o, ad_tape *tape)
{
    if (o->njump < 0 || (o->njump > 0 && !o->jump_times)) {
        ad_fail(tape, "%s: options.njump is %d with jump_times %s", s->caller, o->njump, o->jump_times ? "given" : "NULL");
        return false;
    }
    if (!o->njump) return true;
    s->jump = malloc((size_t)o->njump * sizeof *s->jump);
    if (!s->jump) {
        ad_fail(tape, "%s: out of memory", s->caller);
        return false;
    }
    memcpy(s->jump, o->jump_times, (size_t)o->njump * sizeof *s->jump);
    s->njump = o->njump;
    for (int i = 0; i < s->njump; i++) {
        if (isfinite(s->jump[i])) continue;
        ad_fail(tape, "%s: options.jump_times[%d] is %g; jump times must be finite", s->caller, i, s->jump[i]);
        return false;
    }
    return true;
}

/* The ways of choosing steps exclude each other. */
static bool check_stepping(ode_settings *s, ad_tape *tape)
{
    const char *name = s->method->name;
    if (s->step > 0 && s->steps > 0) ad_fail(tape, "%s: options.step and options.steps are both given; give one", s->caller);
    else if (s->replay && (s->step > 0 || s->steps > 0))
        ad_fail(tape, "%s: options.replay takes given steps; leave options.step and steps zero", s->caller);
    else if (s->replay && s->stats && s->replay == s->stats->steps_taken)
        ad_fail(tape, "%s: options.replay is the steps_taken of options.stats, which this solve overwrites; give it other statistics",
                s->caller);
    else if (s->replay && !s->adjoint->stores)
        ad_fail(tape, "%s: options.replay works with the discrete adjoint; the %s adjoint chooses its own steps", s->caller,
                s->adjoint->name);
    else if (!s->adaptive && !s->replay && !s->step && !s->steps)
        ad_fail(tape, "%s: %s has no error estimate: give options.step or options.steps, or choose an adaptive method such as ode_dopri5",
                s->caller, name);
    else if (!s->adaptive && (s->first_step > 0 || s->min_step > 0 || s->max_step > 0))
        ad_fail(
            tape,
            "%s: options.first_step, min_step and max_step are for steps that the error chooses; these are given (step, steps or replay)",
            s->caller);
    else if (s->min_step > 0 && s->max_step > 0 && s->min_step > s->max_step)
        ad_fail(tape, "%s: options.min_step %g is larger than max_step %g", s->caller, s->min_step, s->max_step);
    else return true;
    return false;
}

bool ode_settings_make(ode_settings *s, const ode_options *options, ad_tape *tape, const char *caller)
{
    ode_options o = options ? *options : (ode_options){ 0 };
    bool f32 = ad_tape_dtype(tape) == AD_F32;
    *s = (ode_settings){ .caller = caller,
                         .method = o.method ? o.method : &ode_dopri5,
                         .adjoint = o.adjoint ? o.adjoint : &ode_discrete,
                         .steps = o.steps,
                         .max_steps = o.max_steps ? o.max_steps : 100000,
                         .keep_bytes = o.keep_bytes ? o.keep_bytes : (int64_t)256 << 20,
                         .replay = o.replay,
                         .rerecord = o.rerecord,
                         .seminorm = o.adjoint_seminorm,
                         .stats = o.stats };
    s->newton.iterations = o.newton_iterations ? o.newton_iterations : 50;
    bool ok = check(tape, caller, "rtol", o.rtol, f32 ? 1e-4 : 1e-6, &s->rtol) &&
              check(tape, caller, "atol", o.atol, f32 ? 1e-6 : 1e-8, &s->atol) &&
              check(tape, caller, "adjoint_rtol", o.adjoint_rtol, s->rtol, &s->adjoint_rtol) &&
              check(tape, caller, "adjoint_atol", o.adjoint_atol, s->atol, &s->adjoint_atol) &&
              check(tape, caller, "step", o.step, 0, &s->step) && check(tape, caller, "first_step", o.first_step, 0, &s->first_step) &&
              check(tape, caller, "min_step", o.min_step, 0, &s->min_step) &&
              check(tape, caller, "max_step", o.max_step, 0, &s->max_step) &&
              check(tape, caller, "newton_tolerance", o.newton_tolerance, f32 ? 1e-6 : 1e-12, &s->newton.tolerance) &&
              check_count(tape, caller, "steps", o.steps) && check_count(tape, caller, "max_steps", o.max_steps) &&
              check_count(tape, caller, "keep_bytes", o.keep_bytes) && check_count(tape, caller, "newton_iterations", o.newton_iterations);
    s->adaptive = s->method->error_order > 0 && !s->step && !s->steps && !s->replay;
    if (s->adaptive) s->stability = ode_stability_limit(s->method->tableau);
    if (ok && check_stepping(s, tape) && copy_jumps(s, &o, tape)) return true;
    ode_settings_clear(s);
    return false;
}

const char *ode_check_times(int n, const double *t, char *text, size_t size)
{
    for (int i = 0; i < n; i++) {
        if (isfinite(t[i])) continue;
        snprintf(text, size, "times[%d] is %g; times must be finite", i, t[i]);
        return text;
    }
    if (n == 2 && t[0] == t[1]) return NULL;
    for (int i = 0; i + 1 < n; i++) {
        if (t[1] > t[0] ? t[i + 1] > t[i] : t[i + 1] < t[i]) continue;
        snprintf(text, size, "times must be strictly increasing or decreasing: times[%d] = %.15g, times[%d] = %.15g", i, t[i], i + 1,
                 t[i + 1]);
        return text;
    }
    return NULL;
}

/* ---- accepted steps and statistics ---- */

void ode_steps_free(ode_steps *s)
{
    if (!s) return;
    ode_buffer_free(&s->times);
    free(s);
}

int64_t ode_steps_count(const ode_steps *s) { return s ? s->count : 0; }
const double *ode_steps_times(const ode_steps *s) { return s ? s->times.data : NULL; }

void ode_stats_clear(ode_stats *stats)
{
    if (!stats) return;
    ode_steps_free(stats->steps_taken);
    *stats = (ode_stats){ 0 };
}
