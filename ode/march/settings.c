/* Options: checked, with defaults resolved; lists of times; what a caller gets to know of a solve.
 *
 * Options are the user's struct, in which zero means the default and which may go away once the
 * solve is recorded. Settings are the solve's own: every field has a value, arrays are copies. Each
 * group of options has one check, which names the option, what was given and what may be. */
#include "ode/march/march.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void ode_settings_clear(ode_settings *s)
{
    free(s->jump);
    free(s->atol_each);
    free(s->grid);
    s->jump = s->atol_each = s->grid = NULL;
}

/* A number that must be finite and not negative; zero means the default. */
static bool check(ad_tape *tape, const char *caller, const char *name, double value,
                  double fallback, double *out)
{
    *out = value == 0 ? fallback : value;
    if (value >= 0 && isfinite(value)) return true;
    ad_fail(tape, "%s: options.%s is %g; it must be positive and finite (0: the default)", caller,
            name, ode_shown(value));
    return false;
}

static bool check_count(ad_tape *tape, const char *caller, const char *name, int64_t value)
{
    if (value >= 0) return true;
    ad_fail(tape, "%s: options.%s is %lld; it must be positive (0: the default)", caller, name,
            (long long)value);
    return false;
}

/* A relative and an absolute tolerance as given. */
typedef struct {
    const char *name[2];
    double value[2], fallback[2];
    bool each; /* there is an absolute tolerance for each element besides */
} tolerances;

/* Defaults where both are zero and nothing else is given; otherwise a zero is a zero. */
static bool check_tolerances(ad_tape *tape, const char *caller, const tolerances *t, double out[2])
{
    bool given = t->each || t->value[0] > 0 || t->value[1] > 0;
    for (int i = 0; i < 2; i++) {
        out[i] = given ? t->value[i] : t->fallback[i];
        if (t->value[i] >= 0 && isfinite(t->value[i])) continue;
        ad_fail(tape, "%s: options.%s is %g; it must not be negative, and finite", caller,
                t->name[i], ode_shown(t->value[i]));
        return false;
    }
    return true;
}

/* Those of the solve, and of its adjoint, whose defaults they are. */
static bool resolve_tolerances(ode_settings *s, const ode_options *o, ad_tape *tape)
{
    bool f32 = ad_tape_dtype(tape) == AD_F32;
    double usual_rtol = ode_usual_rtol(ad_tape_dtype(tape)), usual_atol = f32 ? 1e-6 : 1e-8;
    if (ode_method_stochastic(s->method)) {
        usual_rtol = 1e-3;
        usual_atol = 1e-6;
    }
    double forward[2], adjoint[2];
    tolerances own = { .name = { "rtol", "atol" },
                       .value = { o->rtol, o->atol },
                       .fallback = { usual_rtol, usual_atol },
                       .each = o->natol > 0 };
    if (!check_tolerances(tape, s->caller, &own, forward)) return false;
    s->rtol = forward[0];
    s->atol = forward[1];
    tolerances back = { .name = { "adjoint_rtol", "adjoint_atol" },
                        .value = { o->adjoint_rtol, o->adjoint_atol },
                        .fallback = { s->rtol, o->natol > 0 ? usual_atol : s->atol } };
    if (!check_tolerances(tape, s->caller, &back, adjoint)) return false;
    s->adjoint_rtol = adjoint[0];
    s->adjoint_atol = adjoint[1];
    return true;
}

/* Unlike sizes it may be infinite. */
static bool resolve_drift(ode_settings *s, const ode_options *o, ad_tape *tape)
{
    s->costate_drift = o->costate_drift == 0 ? 0.1 : o->costate_drift;
    if (s->costate_drift > 0) return true;
    ad_fail(tape,
            "%s: options.costate_drift is %g; it must be positive (INFINITY: gradients are not "
            "looked at)",
            s->caller, ode_shown(o->costate_drift));
    return false;
}

static bool copy_atols(ode_settings *s, const ode_options *o, ad_tape *tape)
{
    if (o->natol < 0 || (o->natol > 0) != (o->atol_each != NULL)) {
        ad_fail(tape, "%s: options.natol is %d with atol_each %s", s->caller, o->natol,
                o->atol_each ? "given" : "NULL");
        return false;
    }
    if (!o->natol) return true;
    if (o->atol > 0) {
        ad_fail(tape, "%s: options.atol and options.atol_each are both given; give one", s->caller);
        return false;
    }
    for (int i = 0; i < o->natol; i++) {
        double atol = o->atol_each[i];
        if (atol > 0 && isfinite(atol)) continue;
        if (atol == 0 && s->rtol > 0) continue;
        ad_fail(tape,
                "%s: options.atol_each[%d] is %g; it must not be negative, finite, and, where rtol "
                "is zero, not zero",
                s->caller, i, ode_shown(atol));
        return false;
    }
    s->atol_each = malloc(2 * (size_t)o->natol * sizeof *s->atol_each);
    if (!s->atol_each) {
        ad_fail(tape, "%s: out of memory", s->caller);
        return false;
    }
    s->natol = o->natol;
    for (int i = 0; i < s->natol; i++) {
        s->atol_each[i] = s->adjoint_atol;
        s->atol_each[s->natol + i] = o->atol_each[i];
    }
    return true;
}

bool ode_settings_fit(const ode_settings *s, const ode_system *system, ad_tape *tape)
{
    if (!s->atol_each || s->natol == system->width) return true;
    ad_fail(tape,
            "%s: options.atol_each has %d numbers (natol); a row of all states has %lld elements: "
            "give one for each of them, in order",
            s->caller, s->natol, (long long)system->width);
    return false;
}

/* A relative tolerance that is finer than the type's rounding asks for what no step can do. Whether
 * an atol beside it is large enough to make up for that depends on states that are not known yet;
 * who means the atol alone says so by an rtol of zero. */
static bool check_rounding(const ode_settings *s, double rtol, const char *prefix, ad_tape *tape)
{
    bool f32 = ad_tape_dtype(tape) == AD_F32;
    double rounding = (f32 ? FLT_EPSILON : DBL_EPSILON) / 2;
    if (!s->adaptive || rtol == 0 || rtol >= rounding) return true;
    ad_fail(tape,
            "%s: options.%srtol is %g: this is below the rounding of %s (%.2g), and no step can be "
            "so exact; raise it, or give an atol alone (an rtol of 0)%s",
            s->caller, prefix, rtol, f32 ? "float32" : "float64", rounding,
            f32 ? ", or use float64" : "");
    return false;
}

static bool copy_jumps(ode_settings *s, const ode_options *o, ad_tape *tape)
{
    if (o->njump < 0 || (o->njump > 0 && !o->jump_times)) {
        ad_fail(tape, "%s: options.njump is %d with jump_times %s", s->caller, o->njump,
                o->jump_times ? "given" : "NULL");
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
        ad_fail(tape, "%s: options.jump_times[%d] is %g; jump times must be finite", s->caller, i,
                ode_shown(s->jump[i]));
        return false;
    }
    return true;
}

/* Names of the methods of a list that fit, for messages. */
typedef bool method_test(const ode_method *method, unsigned kinds);
static void name_methods(const ode_method *const *all, method_test *fits, unsigned kinds,
                         char *text, size_t size)
{
    size_t at = 0;
    const char *prefix = ode_method_stochastic(all[0]) ? "sde_" : "ode_";
    snprintf(text, size, "none");
    for (int i = 0; all[i]; i++) {
        if (fits && !fits(all[i], kinds)) continue;
        int n = snprintf(text + at, size - at, "%s%s%s", at ? ", " : "", prefix, all[i]->name);
        at = n < 0 || at + (size_t)n >= size ? size - 1 : at + (size_t)n;
    }
}

static bool has_estimate(const ode_method *m, unsigned kinds)
{
    (void)kinds;
    return ode_method_adaptive(m);
}

static void fail_without_estimate(const ode_settings *s, ad_tape *tape)
{
    char names[512] = "ode_dopri5";
    if (ode_method_stochastic(s->method))
        name_methods(sde_methods(), has_estimate, 0, names, sizeof names);
    ad_fail(tape,
            "%s: %s has no error estimate: give options.step or options.steps, or choose an "
            "adaptive method such as %s",
            s->caller, s->method->name, names);
}

/* The ways of choosing steps exclude each other. */
static bool check_stepping(ode_settings *s, ad_tape *tape)
{
    if (s->step > 0 && s->steps > 0)
        ad_fail(tape, "%s: options.step and options.steps are both given; give one", s->caller);
    else if (s->replay && (s->step > 0 || s->steps > 0))
        ad_fail(tape, "%s: options.replay takes given steps; leave options.step and steps zero",
                s->caller);
    else if (s->replay && s->stats && s->replay == s->stats->steps_taken)
        ad_fail(tape,
                "%s: options.replay is the steps_taken of options.stats, which this solve "
                "overwrites; give it other statistics",
                s->caller);
    else if (s->replay && !s->adjoint->replays)
        ad_fail(tape,
                "%s: options.replay works with the discrete and the interpolating adjoint; the %s "
                "adjoint chooses its "
                "own steps",
                s->caller, s->adjoint->name);
    else if (!s->adaptive && !s->replay && !s->step && !s->steps) fail_without_estimate(s, tape);
    else if (!s->adaptive && (s->first_step > 0 || s->min_step > 0 || s->max_step > 0))
        ad_fail(tape,
                "%s: options.first_step, min_step and max_step are for steps that the error "
                "chooses; these are given (step, steps or replay)",
                s->caller);
    else if (s->min_step > 0 && s->max_step > 0 && s->min_step > s->max_step)
        ad_fail(tape, "%s: options.min_step %g is larger than max_step %g", s->caller, s->min_step,
                s->max_step);
    else return true;
    return false;
}

/* A controller that cannot do what it is for is refused. */
static bool check_controller(const ode_settings *s, const ode_options *o, ad_tape *tape)
{
    if (o->norm && !s->adaptive) {
        ad_fail(tape,
                "%s: options.norm is for steps that the error chooses; these are given (step, "
                "steps or replay)",
                s->caller);
        return false;
    }
    if (!o->controller) return true;
    const ode_controller *c = &s->controller;
    const struct {
        const char *name;
        double value, least, most;
    } range[] = {
        { "safety", c->safety, 0.01, 1 },        { "most", c->most, 1.01, 1e6 },
        { "least", c->least, 1e-6, 0.99 },       { "least_accepted", c->least_accepted, 1e-6, 1 },
        { "most_again", c->most_again, 1, 1e6 },
    };
    if (!s->adaptive) {
        ad_fail(tape,
                "%s: options.controller is for steps that the error chooses; these are given "
                "(step, steps or replay)",
                s->caller);
        return false;
    }
    for (size_t i = 0; i < sizeof range / sizeof *range; i++) {
        if (range[i].value >= range[i].least && range[i].value <= range[i].most) continue;
        ad_fail(tape, "%s: options.controller (%s): %s is %g; it must be between %g and %g",
                s->caller, c->name ? c->name : "no name", range[i].name, ode_shown(range[i].value),
                range[i].least, range[i].most);
        return false;
    }
    double sum = c->beta[0] + c->beta[1] + c->beta[2], all = sum + c->alpha[0] + c->alpha[1];
    if (c->factor || (sum > 0 && isfinite(all))) return true;
    ad_fail(tape,
            "%s: options.controller (%s): beta {%g, %g, %g}, alpha {%g, %g}; they must be finite, "
            "and the sum of beta positive, or steps whose errors are too large would grow (or give "
            "a factor)",
            s->caller, c->name ? c->name : "no name", ode_shown(c->beta[0]), ode_shown(c->beta[1]),
            ode_shown(c->beta[2]), ode_shown(c->alpha[0]), ode_shown(c->alpha[1]));
    return false;
}

/* ---- stochastic equations ---- */

/* Whether method and adjoint are for this kind of equation. */
static bool check_kind(const ode_settings *s, const sde_options *sde, ad_tape *tape)
{
    char names[512];
    if (ode_method_stochastic(s->method) != (sde != NULL)) {
        name_methods(sde ? sde_methods() : ode_methods(), NULL, 0, names, sizeof names);
        ad_fail(tape, "%s: %s is a method for %s equations; methods for %s ones: %s", s->caller,
                s->method->name, sde ? "ordinary" : "stochastic", sde ? "stochastic" : "ordinary",
                names);
    } else if (sde && sde->calculus != SDE_ITO && sde->calculus != SDE_STRATONOVICH) {
        ad_fail(tape, "%s: options.calculus is %d; it must be SDE_ITO or SDE_STRATONOVICH",
                s->caller, (int)sde->calculus);
    } else {
        return true;
    }
    return false;
}

static bool check_grid(const ode_settings *s, const sde_path *path, ad_tape *tape)
{
    const double *t = path->grid;
    for (int64_t i = 0; i < path->cells; i++) {
        bool ordered = t[path->cells] > t[0] ? t[i + 1] > t[i] : t[i + 1] < t[i];
        if (ordered && isfinite(t[i]) && isfinite(t[i + 1])) continue;
        ad_fail(tape,
                "%s: options.path.grid must be finite, and strictly increasing or decreasing: "
                "grid[%lld] = %.15g, grid[%lld] = %.15g",
                s->caller, (long long)i, t[i], (long long)i + 1, t[i + 1]);
        return false;
    }
    bool given = path->t0 != 0 || path->t1 != 0;
    if (!given || (path->t0 == t[0] && path->t1 == t[path->cells])) return true;
    ad_fail(tape,
            "%s: options.path.grid goes from %.15g to %.15g, and the path from t0 = %.15g to t1 = "
            "%.15g; leave t0 and t1 zero",
            s->caller, t[0], t[path->cells], path->t0, path->t1);
    return false;
}

static bool copy_path(ode_settings *s, const sde_path *path, ad_tape *tape)
{
    s->path = *path;
    s->path.grid = NULL;
    bool given = path->t0 != 0 || path->t1 != 0;
    if (given && !(isfinite(path->t0) && isfinite(path->t1) && path->t0 != path->t1))
        ad_fail(tape,
                "%s: options.path goes from t0 = %g to t1 = %g; it must be a finite interval "
                "(both 0: that of the solve)",
                s->caller, path->t0, path->t1);
    else if (path->cells < 0 || (path->grid && !path->cells))
        ad_fail(tape, "%s: options.path.cells is %lld%s", s->caller, (long long)path->cells,
                path->grid ? " with a grid, which has one boundary more than cells"
                           : "; it must be positive (0: the default)");
    if (ad_tape_error(tape)) return false;
    if (!path->grid) return true;
    if (!check_grid(s, path, tape)) return false;
    size_t bytes = (size_t)(path->cells + 1) * sizeof *s->grid;
    s->grid = malloc(bytes);
    if (!s->grid) {
        ad_fail(tape, "%s: out of memory", s->caller);
        return false;
    }
    memcpy(s->grid, path->grid, bytes);
    s->path.t0 = s->grid[0];
    s->path.t1 = s->grid[path->cells];
    return true;
}

static bool takes(const ode_method *m, unsigned kinds) { return m->takes & kinds; }

bool ode_settings_take_noise(const ode_settings *s, const ode_system *system, bool commutative,
                             ad_tape *tape)
{
    const ode_noise_of *noise = &system->noise;
    unsigned kinds = ode_noise_kinds(noise, commutative);
    char names[512];
    if (takes(s->method, kinds)) return true;
    name_methods(sde_methods(), takes, kinds, names, sizeof names);
    bool trust = s->method->takes & ODE_TAKES_COMMUTATIVE && noise->kind == ODE_NOISE_GENERAL;
    ad_fail(tape,
            "%s: %s does not take %s noise (by %lld Brownian motions%s)%s; methods that do: %s",
            s->caller, s->method->name, ode_noise_name(noise), (long long)noise->m,
            noise->additive ? "" : "; the diffusion depends on the state",
            s->method->takes == ODE_TAKES_LANGEVIN ? ": it is for sde_langevin_solve"
            : trust ? ", unless it commutes: then set options.commutative"
                    : "",
            names);
    return false;
}

bool ode_settings_make(ode_settings *s, const ode_options *options, const sde_options *sde,
                       ad_tape *tape, const char *caller)
{
    ode_options o = *options;
    bool f32 = ad_tape_dtype(tape) == AD_F32;
    const ode_method *usual = sde ? &sde_euler_maruyama : &ode_dopri5;
    const ode_controller *control = sde ? &ode_control_pi : &ode_control_i;
    *s = (ode_settings){ .caller = caller,
                         .method = o.method ? o.method : usual,
                         .adjoint = o.adjoint,
                         .controller =
                             ode_controller_resolved(o.controller ? o.controller : control),
                         .draw = -1,
                         .steps = o.steps,
                         .max_steps = o.max_steps ? o.max_steps : 100000,
                         .keep_bytes = o.keep_bytes ? o.keep_bytes : (int64_t)256 << 20,
                         .replay = o.replay,
                         .rerecord = o.rerecord,
                         .partial = o.partial,
                         .seminorm = o.adjoint_seminorm,
                         .on_step = o.on_step,
                         .on_step_user = o.on_step_user,
                         .stats = o.stats };
    s->newton.iterations = o.newton_iterations ? o.newton_iterations : 50;
    bool ok = resolve_tolerances(s, &o, tape) && resolve_drift(s, &o, tape) &&
              check(tape, caller, "step", o.step, 0, &s->step) &&
              check(tape, caller, "first_step", o.first_step, 0, &s->first_step) &&
              check(tape, caller, "min_step", o.min_step, 0, &s->min_step) &&
              check(tape, caller, "max_step", o.max_step, 0, &s->max_step) &&
              check(tape, caller, "newton_tolerance", o.newton_tolerance, f32 ? 1e-6 : 1e-13,
                    &s->newton.tolerance) &&
              check_count(tape, caller, "steps", o.steps) &&
              check_count(tape, caller, "max_steps", o.max_steps) &&
              check_count(tape, caller, "keep_bytes", o.keep_bytes) &&
              check_count(tape, caller, "newton_iterations", o.newton_iterations);
    s->adaptive =
        ode_method_has(s->method, ODE_METHOD_ADAPTIVE) && !s->step && !s->steps && !s->replay;
    s->stability = s->adaptive && s->method->stability ? s->method->stability(s->method) : INFINITY;
    if (s->adaptive && s->method->growth) {
        s->degree = s->method->growth(s->method, s->growth);
        s->diagonal = s->method->tableau->diagonal;
    }
    ok = ok && check_kind(s, sde, tape) && (!sde || copy_path(s, &sde->path, tape));
    if (ok && check_stepping(s, tape) && check_controller(s, &o, tape) && copy_atols(s, &o, tape) &&
        check_rounding(s, s->rtol, "", tape) &&
        check_rounding(s, s->adjoint_rtol, "adjoint_", tape) && copy_jumps(s, &o, tape))
        return true;
    ode_settings_clear(s);
    return false;
}

const char *ode_check_times(int n, const double *t, char *text, size_t size)
{
    for (int i = 0; i < n; i++) {
        if (isfinite(t[i])) continue;
        snprintf(text, size, "times[%d] is %g; times must be finite", i, ode_shown(t[i]));
        return text;
    }
    if (n == 2 && t[0] == t[1]) return NULL;
    for (int i = 0; i + 1 < n; i++) {
        if (t[1] > t[0] ? t[i + 1] > t[i] : t[i + 1] < t[i]) continue;
        snprintf(
            text, size,
            "times must be strictly increasing or decreasing: times[%d] = %.15g, times[%d] = %.15g",
            i, t[i], i + 1, t[i + 1]);
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
