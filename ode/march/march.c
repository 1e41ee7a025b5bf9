/* The march from step to step: fixed, adaptive or replayed, in either direction of time. Joint
 * control: one step size for all rows. */
#include "ode/march/march.h"
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

int ode_fail(ode_march *m, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(m->error, m->error_size, format, args);
    va_end(args);
    return -1;
}

/* ---- memory and programs ---- */

bool ode_march_compile(ode_march_units *u, ode_system *s, const ode_settings *set, bool adaptive,
                       bool dense, int quadrature, const ode_residuals *residuals, ad_tape *tape)
{
    int flags = (adaptive ? ODE_ESTIMATE : 0) | (dense ? ODE_DENSE : 0) | quadrature;
    if (adaptive && set->atol_each) flags |= ODE_EACH;
    ode_unit_key step = { .kind = ODE_UNIT_STEP,
                          .method = set->method,
                          .flags = flags,
                          .newton = set->newton,
                          .residuals = residuals };
    /* Of a traced field nothing can be wrong with an explicit step, and its adjoint may want
     * another: it is compiled when first run. */
    bool later = s->trace && set->method->tableau;
    ode_unit *(*make)(ode_system *, ode_unit_key, ad_tape *, const char *) =
        later ? ode_unit_plan : ode_unit_make;
    u->step = make(s, step, tape, set->caller);
    if (!u->step) return false;
    if (set->method->begin &&
        !(u->begin =
              ode_unit_make(s, (ode_unit_key){ .kind = ODE_UNIT_BEGIN, .method = set->method },
                            tape, set->caller)))
        return false;
    ode_unit_key tangent = { .kind = ODE_UNIT_TANGENT,
                             .method = set->method,
                             .flags = flags & ODE_EACH };
    ode_unit_key field_tangent = { .kind = ODE_UNIT_TANGENT, .flags = flags & ODE_EACH };
    if (adaptive && set->adjoint->frozen &&
        (!(u->tangent = ode_unit_plan(s, tangent, tape, set->caller)) ||
         !(u->field_tangent = ode_unit_plan(s, field_tangent, tape, set->caller))))
        return false;
    ode_unit_key field = { .kind = ODE_UNIT_FIELD,
                           .flags = quadrature & ODE_QUADRATURE,
                           .residuals = residuals };
    return !adaptive || (u->field = make(s, field, tape, set->caller)) != NULL;
}

void ode_march_close(ode_march *m)
{
    ode_runner_close(&m->step);
    ode_runner_close(&m->begin);
    ode_runner_close(&m->field);
    ode_watch_close(&m->watch);
    ode_buffer *all[] = { &m->carry[0], &m->carry[1], &m->rate[0],   &m->rate[1], &m->size[0],
                          &m->size[1],  &m->k,        &m->increment, &m->work,    &m->atols };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
    ode_stops_free(&m->stops);
}

static void give_arguments(ode_runner *r, const void *const *row, void *const *shared)
{
    if (!r->unit) return;
    const ode_system *s = r->unit->system;
    for (int i = 0; i < s->nrow; i++) r->in[r->unit->at.row + i] = row[i];
    for (int i = 0; i < s->nshared; i++) r->in[r->unit->at.shared + i] = shared[i];
    r->primed = false;
}

static size_t quad_bytes(const ode_system *s, int64_t rows)
{
    int64_t n = 0;
    for (int i = 0; i < s->nquad; i++) n += ad_count(s->quad[i], rows);
    return (size_t)n * ode_bytes(s->dtype);
}

/* Points a group of inputs (or outputs) at the consecutive parts of a slot. */
static void point_in(ode_runner *r, const ode_system *s, int64_t rows, int first, const void *slot)
{
    for (int j = 0; j < s->nstate; j++) r->in[first + j] = ode_part(s, rows, slot, j);
}

static void point_out(ode_runner *r, const ode_system *s, int64_t rows, int first, void *slot)
{
    for (int j = 0; j < s->nstate; j++)
        r->out[first + j] = slot ? ode_part(s, rows, slot, j) : NULL;
}

static void point_quads(const ode_system *s, int64_t rows, void *memory, const void **in,
                        void **out)
{
    char *at = memory;
    for (int q = 0; q < s->nquad; q++) {
        if (in) in[q] = at;
        if (out) out[q] = at;
        if (at) at += (size_t)ad_count(s->quad[q], rows) * ode_bytes(s->dtype);
    }
}

/* Places of scalars in march->number (each an element of the call's type in a slot of 8 bytes). */
enum {
    N_H,
    N_RTOL,
    N_ATOL,
    N_ROUNDING,
    N_QUADS,
    N_SUMS,
    N_COUNTS = N_SUMS + ODE_SUMS,
    N_TIMES = N_COUNTS + 3
};

static void set_number(ode_march *m, int i, double value)
{
    ode_store(m->system->dtype, &m->number[i], 0, value);
}
static double get_number(const ode_march *m, int i)
{
    return ode_load(m->system->dtype, &m->number[i], 0);
}

int ode_march_open(ode_march *m, const ode_march_units *u, int64_t rows, int threads,
                   const void *const *args, void *const *shared)
{
    ode_system *s = m->system;
    if (!ode_stops_gather(&m->stops, m->settings, s, args)) return ode_fail(m, "out of memory");
    if (ode_runner_open(&m->step, u->step, threads, m->error, m->error_size) ||
        (u->begin && ode_runner_open(&m->begin, u->begin, threads, m->error, m->error_size)) ||
        (u->field && ode_runner_open(&m->field, u->field, threads, m->error, m->error_size)))
        return -1;
    m->rows = rows;
    m->threads = threads;
    m->watch.on = false;
    m->cells = rows * s->width;
    size_t slot = (size_t)m->cells * ode_bytes(s->dtype),
           quads = m->quadrature ? quad_bytes(s, rows) : 0;
    bool carries = m->adaptive || m->method->begin;
    for (int i = 0; i < 2; i++)
        if ((carries && !ode_buffer_need(&m->carry[i], slot)) ||
            (m->adaptive && !ode_buffer_need(&m->rate[i], quads)) ||
            (m->norm && !ode_buffer_need(&m->size[i], quads)))
            return ode_fail(m, "out of memory");
    if (m->norm) memset(m->size[0].data, 0, quads);
    if (!ode_buffer_need(&m->increment, quads) ||
        ((m->adaptive || m->method->rings) && !ode_buffer_need(&m->work, 2 * slot)))
        return ode_fail(m, "out of memory");
    ode_runner *r = &m->step;
    const ode_places *at = &u->step->at;
    if (m->dense && !ode_buffer_need(&m->k, (size_t)at->nk * slot))
        return ode_fail(m, "out of memory");
    const void *row[ODE_MAX_ARGS];
    ode_row_arguments(s, args, row);
    give_arguments(r, row, shared);
    give_arguments(&m->begin, row, shared);
    give_arguments(&m->field, row, shared);
    r->in[at->h] = &m->number[N_H];
    for (int i = 0; i < at->nt; i++) r->in[at->t + i] = &m->number[N_TIMES + i];
    int sums = 1;
    if (m->adaptive) {
        r->in[at->tolerance] = &m->number[N_RTOL];
        r->in[at->tolerance + 1] = &m->number[N_ATOL];
        set_number(m, N_RTOL, m->rtol);
        /* Where both the state and atol are zero, an error of zero must pass: 0 / 0 would not. */
        double least = s->dtype == AD_F32 ? FLT_MIN : DBL_MIN;
        set_number(m, N_ATOL, fmax(m->atol, least));
        if (u->step->key.flags & ODE_EACH) {
            if (!ode_buffer_need(&m->atols, (size_t)s->width * ode_bytes(s->dtype)))
                return ode_fail(m, "out of memory");
            for (int64_t i = 0; i < s->width; i++)
                ode_store(s->dtype, m->atols.data, i, fmax(m->each[i], least));
            point_in(r, s, 1, at->each, m->atols.data);
        }
        r->in[at->tolerance + 2] = &m->number[N_ROUNDING];
        set_number(m, N_ROUNDING, ode_guard_rounding(s, m->rtol));
        sums = ODE_SUMS;
    }
    if (m->norm) r->out[at->quad_error] = &m->number[N_QUADS];
    for (int i = 0; i < sums; i++) r->out[at->sums + i] = &m->number[N_SUMS + i];
    if (m->method->implicit) r->out[at->counts] = (char *)m->number + N_COUNTS * sizeof(double);
    for (int i = 0; i < at->nk; i++)
        point_out(r, s, rows, at->k + i * s->nstate, (char *)m->k.data + (size_t)i * slot);
    if (m->quadrature) point_quads(s, rows, m->increment.data, NULL, r->out + at->quad);
    m->steps = m->rejected = m->evaluations = m->blurred = 0;
    m->guard = (ode_guard){ .limit = m->settings->stability, .margin = ode_guard_margin(m->rtol) };
    memset(m->counts, 0, sizeof m->counts);
    return 0;
}

/* ---- times ---- */

/* The float or double after t (direction > 0) or before it. */
static double next_to(ad_dtype dtype, double t, double direction)
{
    double end = direction > 0 ? INFINITY : -INFINITY;
    return dtype == AD_F64 ? nextafter(t, end) : (double)nextafterf((float)t, (float)end);
}

double ode_spacing(double t)
{
    t = fabs(t);
    return fmax(nextafter(t, INFINITY) - t, DBL_MIN);
}

double ode_type_spacing(ad_dtype dtype, double t)
{
    if (dtype == AD_F64) return ode_spacing(t);
    float at = fabsf((float)t);
    return (double)nextafterf(at, INFINITY) - (double)at;
}

double ode_stage_time(ad_dtype dtype, double t, const ode_boundary *a, const ode_boundary *b)
{
    double direction = b->t > a->t ? 1 : -1, rounded = ode_round_time(dtype, t);
    if (a->jump && direction * (rounded - ode_round_time(dtype, a->t)) <= 0)
        return next_to(dtype, a->t, direction);
    if (b->jump && direction * (rounded - ode_round_time(dtype, b->t)) >= 0)
        return next_to(dtype, b->t, -direction);
    return rounded;
}

int ode_march_field(ode_march *m, double t, int side, const void *y, void *dy, void *rate,
                    void *kept)
{
    ode_system *s = m->system;
    ode_runner *r = &m->field;
    const ode_places *at = &r->unit->at;
    double number = 0, tt = side ? next_to(s->dtype, t, side) : ode_round_time(s->dtype, t);
    ode_store(s->dtype, &number, 0, tt);
    r->in[at->t] = &number;
    point_in(r, s, m->rows, at->y, y);
    point_out(r, s, m->rows, at->next, dy);
    if (m->quadrature) point_quads(s, m->rows, rate, NULL, r->out + at->quad);
    if (r->unit->key.residuals)
        ode_residuals_point(s, r->unit->key.residuals, m->rows, kept, NULL, r->out + at->kept);
    char error[ODE_ERROR_SIZE];
    if (ode_runner_run(r, m->rows, error, sizeof error))
        return ode_fail(m, "at t = %.15g: %s", t, error);
    m->evaluations++;
    int64_t bad = ode_first_nonfinite(s->dtype, m->cells, dy);
    if (bad < 0) return 0;
    char where[96];
    ode_where(s, m->rows, bad, where, sizeof where);
    return ode_fail(
        m, "the field is not finite (%g) at t = %.15g, %s; check the field there and its arguments",
        ode_shown(ode_load(s->dtype, dy, bad)), t, where);
}

/* ---- one step ---- */

static int64_t evaluations_of_step(const ode_march *m)
{
    const ode_tableau *t = m->method->tableau;
    if (t) return t->stages + (m->dense ? t->extra + !m->adaptive : 0);
    return m->method->implicit ? (int64_t)get_number(m, N_COUNTS) + m->method->times - 1 : 1;
}

/* Memory for the residuals of evaluation i of the step to be taken, or NULL. */
static void *keep(const ode_march *m, const ode_sink *sink, int i)
{
    return sink->keep ? sink->keep(sink->context, m->steps, i) : NULL;
}

/* Runs the step program from a to b. */
static int run_step(ode_march *m, const ode_sink *sink, const ode_boundary *a,
                    const ode_boundary *b, const void *y, void *next)
{
    ode_system *s = m->system;
    ode_runner *r = &m->step;
    const ode_places *at = &r->unit->at;
    double h = b->t - a->t;
    set_number(m, N_H, h);
    for (int i = 0; i < at->nt; i++) {
        double c = m->method->c[i];
        set_number(m, N_TIMES + i, ode_stage_time(s->dtype, c == 1 ? b->t : a->t + c * h, a, b));
    }
    point_in(r, s, m->rows, at->y, y);
    point_out(r, s, m->rows, at->next, next);
    if (m->method->rings) point_out(r, s, m->rows, at->ringing, b->output ? m->work.data : NULL);
    if (m->carry[0].data) {
        point_in(r, s, m->rows, at->carry, m->carry[0].data);
        point_out(r, s, m->rows, at->carry_next, m->carry[1].data);
    }
    if (m->adaptive && m->quadrature) {
        point_quads(s, m->rows, m->rate[0].data, r->in + at->carry_quad, NULL);
        point_quads(s, m->rows, m->rate[1].data, NULL, r->out + at->carry_quad_next);
    }
    if (m->norm) {
        point_quads(s, m->rows, m->size[0].data, r->in + at->size, NULL);
        point_quads(s, m->rows, m->size[1].data, NULL, r->out + at->size_next);
    }
    const ode_residuals *residuals = r->unit->key.residuals;
    for (int i = at->first_kept; residuals && i < at->nkept; i++)
        ode_residuals_point(s, residuals, m->rows, keep(m, sink, i), NULL,
                            r->out + at->kept + (i - at->first_kept) * residuals->n);
    char error[ODE_ERROR_SIZE];
    if (ode_runner_run(r, m->rows, error, sizeof error))
        return ode_fail(m, "step %lld from t = %.15g, size %.3g: %s", (long long)m->steps, a->t, h,
                        error);
    m->evaluations += evaluations_of_step(m);
    for (int i = 0; i < 3 && m->method->implicit; i++)
        m->counts[i] += (int64_t)ode_load(s->dtype, &m->number[N_COUNTS], i);
    return 0;
}

int64_t ode_march_nonfinite(const ode_march *m, const void *next, bool *derivative)
{
    int64_t bad = ode_first_nonfinite(m->system->dtype, m->cells, next);
    *derivative = bad < 0;
    if (bad < 0 && m->adaptive)
        bad = ode_first_nonfinite(m->system->dtype, m->cells, m->carry[1].data);
    return bad;
}

/* Steps within which a field that reads the time sees hardly more than one of them. A few of them
 * do no harm (a first one, one that lands); many are a staircase in place of the field. */
enum { ODE_SPACINGS = 4, ODE_BLURRED_STEPS = 8 };

static int note_blur(ode_march *m, const ode_boundary *a, const ode_boundary *b)
{
    const ode_system *s = m->system->base ? m->system->base : m->system;
    double spacing = ode_type_spacing(s->dtype, fmax(fabs(a->t), fabs(b->t)));
    bool blurred = s->reads_time && fabs(b->t - a->t) < ODE_SPACINGS * spacing;
    m->blurred = blurred ? m->blurred + 1 : 0;
    return m->blurred < ODE_BLURRED_STEPS ? 0 : ode_fail_blurred(m, a->t, b->t);
}

static int accept(ode_march *m, const ode_sink *sink, const ode_boundary *a, const ode_boundary *b,
                  const void *y, const void *next)
{
    if (sink->accepted(sink->context, m, m->steps, a, b, y, next)) return -1;
    if (m->carry[0].data) ode_buffer_swap(m->carry);
    if (m->adaptive) ode_buffer_swap(m->rate);
    if (m->norm) ode_buffer_swap(m->size);
    m->steps++;
    return note_blur(m, a, b);
}

/* ---- fixed and replayed steps ---- */

/* Bootstraps a multistep method for steps like the one from a to b. */
static int bootstrap(ode_march *m, const ode_boundary *a, const ode_boundary *b, const void *y)
{
    ode_system *s = m->system;
    ode_runner *r = &m->begin;
    const ode_places *at = &r->unit->at;
    set_number(m, N_H, b->t - a->t);
    r->in[at->h] = &m->number[N_H];
    for (int i = 0; i < at->nt; i++) {
        set_number(m, N_TIMES + i,
                   ode_stage_time(s->dtype, a->t + m->method->begin_c[i] * (b->t - a->t), a, b));
        r->in[at->t + i] = &m->number[N_TIMES + i];
    }
    point_in(r, s, m->rows, at->y, y);
    point_out(r, s, m->rows, at->carry_next, m->carry[0].data);
    char error[ODE_ERROR_SIZE];
    if (ode_runner_run(r, m->rows, error, sizeof error))
        return ode_fail(m, "at t = %.15g: %s", a->t, error);
    m->evaluations += m->method->begin_times;
    return 0;
}

/* Whether the method rings in the step from a to b, whose end is a result; then the error is
 * written. On the way to a result it may. */
static bool is_ringing(ode_march *m, const ode_boundary *a, const ode_boundary *b)
{
    const ode_system *s = m->system;
    for (int64_t i = 0; i < m->cells; i++) {
        if (!(ode_load(s->dtype, m->work.data, i) > 1)) continue;
        char where[96];
        ode_where(s, m->rows, i, where, sizeof where);
        ode_fail(m,
                 "step %lld from t = %.15g, size %.3g: the result at its end is wrong in %s: there "
                 "the problem is stiff, and %s, which is not "
                 "L-stable, makes it alternate from step to step instead of decaying; use "
                 "ode_implicit_euler, or much smaller steps",
                 (long long)m->steps, a->t, b->t - a->t, where, m->method->name);
        return true;
    }
    return false;
}

int ode_march_step(ode_march *m, const ode_sink *sink, const ode_boundary *a, const ode_boundary *b,
                   void **y)
{
    void *next = sink->slot(sink->context, m->steps);
    if (!next) return ode_fail_memory(m);
    if (a->restart && m->method->begin && bootstrap(m, a, b, *y)) return -1;
    if (run_step(m, sink, a, b, *y, next)) return -1;
    bool derivative;
    int64_t bad = isfinite(get_number(m, N_SUMS)) ? -1 : ode_march_nonfinite(m, next, &derivative);
    if (bad >= 0) {
        char where[96];
        ode_where(m->system, m->rows, bad, where, sizeof where);
        return ode_fail(m,
                        "step %lld from t = %.15g, size %.3g: the state becomes %g in %s; take "
                        "smaller steps, an adaptive or an implicit "
                        "method, or check the field",
                        (long long)m->steps, a->t, b->t - a->t,
                        ode_shown(ode_load(m->system->dtype, next, bad)), where);
    }
    if (m->method->rings && b->output && is_ringing(m, a, b)) return -1;
    if (accept(m, sink, a, b, *y, next)) return -1;
    *y = next;
    return 0;
}

static int take_step(ode_march *m, const ode_sink *sink, const ode_boundary *a,
                     const ode_boundary *b, void **y)
{
    if (m->steps < m->settings->max_steps) return ode_march_step(m, sink, a, b, y);
    return ode_fail(m, "more than %lld steps (at t = %.15g); take larger steps or raise max_steps",
                    (long long)m->settings->max_steps, a->t);
}

static double spacing_between(double from, double to)
{
    return ode_spacing(fmax(fabs(from), fabs(to)));
}

/* How many steps of at most this size: a whole number of them may come out a little longer by
 * rounding, of the times (in the type they were given in) and of the step. */
static double steps_between(const ode_march *m, double from, double to, double step)
{
    double length = fabs(to - from);
    bool floats =
        m->system->dtype == AD_F32 && (double)(float)from == from && (double)(float)to == to;
    double slack = 2 * (floats ? FLT_EPSILON : DBL_EPSILON) * fmax(fabs(from), fabs(to));
    slack = fmin(slack, 0.01 * step) + 8 * DBL_EPSILON * length;
    return fmax(1, ceil((length - slack) / step));
}

/* Equal steps between neighbouring output times (and jumps). */
static int run_fixed(ode_march *m, int n, const double *times, void *y, const ode_sink *sink)
{
    const ode_settings *set = m->settings;
    for (int j = 0; j + 1 < n; j++) {
        double from = times[j];
        ode_boundary a = {
            .t = from, .lo = j, .hi = j, .jump = ode_stops_jump(&m->stops, from), .restart = true
        };
        while (from != times[j + 1]) {
            double to = ode_stops_next(&m->stops, from, times[j + 1]), length = to - from;
            double size =
                set->steps ? fabs(times[j + 1] - times[j]) / (double)set->steps : set->step;
            double wanted = steps_between(m, from, to, size);
            if (wanted > (double)set->max_steps)
                return ode_fail(m,
                                "%.3g steps are asked for from t = %g to %g, more than max_steps = "
                                "%lld; take larger steps or raise max_steps",
                                wanted, from, to, (long long)set->max_steps);
            int64_t count = (int64_t)wanted;
            if (m->method->begin && fabs(length) < 1e3 * wanted * spacing_between(from, to))
                return ode_fail(
                    m,
                    "steps of %.3g from t = %.15g to %.15g are not equal, as %s needs them, but "
                    "rounded to the spacing of "
                    "numbers there (%.2g); take fewer steps, or shift the origin of time",
                    fabs(length) / wanted, from, to, m->method->name, spacing_between(from, to));
            /* Ends that are output times move with them; a jump is a constant, so pieces beside one
             * are affine in one time only. */
            bool start = from == times[j], end = to == times[j + 1];
            for (int64_t i = 1; i <= count; i++) {
                double w = (double)i / (double)count;
                ode_boundary b = { .t = i == count ? to : from + w * length,
                                   .weight = w,
                                   .lo = j,
                                   .hi = j + 1,
                                   .jump = i == count && ode_stops_jump(&m->stops, to) };
                b.restart = i == count;
                b.output = i == count && to == times[j + 1];
                if (!start || !end) {
                    b.lo = start ? j : end ? j + 1 : -1;
                    b.hi = -1;
                    b.weight =
                        start ? w : 1 - w; /* a part (1 - weight) of the one end that moves */
                }
                if (take_step(m, sink, &a, &b, &y)) return -1;
                a = b;
            }
            from = to;
        }
    }
    return 0;
}

static int run_replay(ode_march *m, int n, const double *times, void *y, const ode_sink *sink)
{
    const ode_steps *steps = m->settings->replay;
    const double *t = ode_steps_times(steps);
    int64_t count = ode_steps_count(steps);
    if (count < 1 || t[0] != times[0] || t[count] != times[n - 1])
        return ode_fail(
            m,
            "the steps to replay go from t = %.15g to %.15g, not from %.15g to %.15g as times do",
            count < 1 ? NAN : t[0], count < 1 ? NAN : t[count], times[0], times[n - 1]);
    ode_boundary a = {
        .t = t[0], .lo = 0, .hi = 0, .jump = ode_stops_jump(&m->stops, t[0]), .restart = true
    };
    for (int64_t i = 1; i <= count; i++) {
        bool last = i == count, output = false;
        for (int j = 0; j < n; j++) output = output || times[j] == t[i];
        ode_boundary b = { .t = t[i],
                           .lo = last ? n - 1 : -1,
                           .hi = last ? n - 1 : -1,
                           .jump = ode_stops_jump(&m->stops, t[i]) };
        b.output = output;
        double h = t[i] - t[i - 1], following = last ? h : t[i + 1] - t[i];
        b.restart = b.jump || output || fabs(following - h) > 1e-9 * fabs(h);
        if (take_step(m, sink, &a, &b, &y)) return -1;
        a = b;
    }
    return 0;
}

/* ---- adaptive steps ---- */

static double rms(const ode_march *m, double squares) { return sqrt(squares / (double)m->cells); }

/* The error of the attempted step in units of the tolerance; infinite when anything is not finite.
 */
static double error_ratio(const ode_march *m)
{
    double finite = get_number(m, N_SUMS), error = get_number(m, N_SUMS + 1),
           error3 = get_number(m, N_SUMS + 2);
    double quadratures = m->norm ? sqrt(get_number(m, N_QUADS)) : 0, state = rms(m, error);
    if (!isfinite(finite) || !isfinite(error) || !isfinite(error3) || !isfinite(quadratures))
        return INFINITY;
    /* DOP853's combination of its two estimates (Hairer, Norsett, Wanner, II.10). */
    if (m->method->tableau->e3)
        state = error == 0 ? 0 : state * sqrt(error / (error + 0.01 * error3));
    return fmax(state, quadratures);
}

/* How much the step may grow or must shrink. */
static double step_factor(const ode_march *m, double ratio)
{
    double least = ratio <= 1 ? 1 : 0.2;
    if (ratio == 0) return 10;
    if (!isfinite(ratio)) return least;
    return fmin(10, fmax(least, 0.9 * pow(ratio, -1.0 / m->method->order)));
}

/* The smallest step that is tried at t. */
static double least_step(const ode_settings *set, double t)
{
    return fmax(set->min_step, 16 * ode_spacing(t));
}

/* Goes back to where step k began. */
static int go_back(ode_march *m, const ode_sink *sink, int64_t k, int direction, ode_boundary *a,
                   void **y)
{
    *y = sink->rewind(sink->context, k, a);
    m->steps = k;
    ode_watch_rewind(m);
    return ode_march_field(m, a->t, a->jump ? direction : 0, *y, m->carry[0].data, m->rate[0].data,
                           keep(m, sink, 0));
}

static int run_adaptive(ode_march *m, int n, double t0, double t1, void *y, const ode_sink *sink)
{
    const ode_settings *set = m->settings;
    double direction = t1 > t0 ? 1 : -1, h = set->first_step,
           stop = ode_stops_next(&m->stops, t0, t1);
    ode_boundary a = { .t = t0, .lo = 0, .hi = 0, .jump = ode_stops_jump(&m->stops, t0) };
    if (ode_march_field(m, t0, a.jump ? (int)direction : 0, y, m->carry[0].data, m->rate[0].data,
                        keep(m, sink, 0)))
        return -1;
    if (h == 0) h = ode_first_step(m, t0, t1, y);
    for (int64_t attempt = 0; a.t != t1; attempt++) {
        if (attempt >= set->max_steps) return ode_fail_many(m, a.t, t1, h, y);
        double left = fabs(stop - a.t), least = least_step(set, a.t);
        h = fmax(h, least);
        if (set->max_step > 0) h = fmin(h, set->max_step);
        /* Stretch a little rather than leave a sliver; beyond max_step only by what rounding makes
         * of a whole number of steps. */
        double stretched =
                   set->max_step > 0 ? fmin(1.01 * h, set->max_step * (1 + 1e-6)) : 1.01 * h,
               taken = h;
        bool landing = left <= stretched;
        if (landing) taken = left;
        if (taken < least && !landing)
            return ode_fail(m,
                            "options.max_step = %g is too small at t = %.15g, where the rounding "
                            "of time allows steps of %.3g at least; "
                            "raise it, or shift the origin of time towards t",
                            set->max_step, a.t, least);
        void *next = sink->slot(sink->context, m->steps);
        if (!next) return ode_fail_memory(m);
        ode_boundary b = { .t = landing ? stop : a.t + direction * h,
                           .lo = -1,
                           .hi = -1,
                           .jump = landing && ode_stops_jump(&m->stops, stop) };
        if (b.t == t1) b.lo = b.hi = n - 1;
        if (run_step(m, sink, &a, &b, y, next)) return -1;
        double ratio = error_ratio(m), factor = step_factor(m, ratio);
        bool stable = ode_guard_allows(&m->guard, taken, get_number(m, N_SUMS + ODE_SUM_STIFFNESS));
        factor = fmin(factor, fmax(0.2, ode_guard_factor(&m->guard)));
        int fine = ratio <= 1 && stable ? ode_watch_step(m, &a, &b, y, ratio, &factor) : 0;
        if (fine < 0) return -1;
        if (fine) {
            if (ode_watch_accept(m, taken)) return -1;
            ode_guard_accept(&m->guard);
            if (accept(m, sink, &a, &b, y, next)) return -1;
            y = next;
            a = b;
            h = landing && factor * taken < h ? fmin(h, ode_guard_factor(&m->guard) * taken)
                                              : factor * taken;
            stop = ode_stops_next(&m->stops, a.t, t1);
            if (b.jump && a.t != t1 &&
                ode_march_field(m, a.t, (int)direction, y, m->carry[0].data, m->rate[0].data,
                                keep(m, sink, 0)))
                return -1;
            h = fmin(h, ode_watch_limit(&m->watch));
            int64_t back = a.t == t1 ? -1 : ode_watch_look(m, &a, (int)direction, y, h);
            if (back >= 0) {
                if (go_back(m, sink, back, (int)direction, &a, &y)) return -1;
                stop = ode_stops_next(&m->stops, a.t, t1);
            }
            h = fmin(h, ode_watch_limit(&m->watch));
            continue;
        }
        m->rejected++;
        if (taken <= least) return ode_fail_small(m, a.t, taken, ratio, y, next);
        h = factor * taken;
        int64_t doubtful = ratio <= 1 && stable ? ode_watch_doubtful(m) : -1;
        if (doubtful >= 0) {
            if (go_back(m, sink, doubtful, (int)direction, &a, &y)) return -1;
            stop = ode_stops_next(&m->stops, a.t, t1);
        }
    }
    return 0;
}

int ode_march_run(ode_march *m, int n, const double *times, void *y, const ode_sink *sink)
{
    if (m->settings->replay) return run_replay(m, n, times, y, sink);
    return m->adaptive ? run_adaptive(m, n, times[0], times[n - 1], y, sink)
                       : run_fixed(m, n, times, y, sink);
}
