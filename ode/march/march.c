/* A step of a march: memory and programs, one attempt, what it found, its acceptance. The loops
 * over steps are fixed.c and adaptive.c. Joint control: one step size for all rows. */
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

int ode_march_field(ode_march *m, double t, int side, const void *y, void *dy, void *rate,
                    void *kept)
{
    ode_system *s = m->system;
    ode_runner *r = &m->field;
    const ode_places *at = &r->unit->at;
    double number = 0, tt = side ? ode_next_time(s->dtype, t, side) : ode_round_time(s->dtype, t);
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

void *ode_march_keep(const ode_march *m, const ode_sink *sink, int i)
{
    return sink->keep ? sink->keep(sink->context, m->steps, i) : NULL;
}

int ode_march_attempt(ode_march *m, const ode_sink *sink, const ode_boundary *a,
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
        ode_residuals_point(s, residuals, m->rows, ode_march_keep(m, sink, i), NULL,
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

int ode_march_accept(ode_march *m, const ode_sink *sink, const ode_boundary *a,
                     const ode_boundary *b, const void *y, const void *next)
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
    if (ode_march_attempt(m, sink, a, b, *y, next)) return -1;
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
    if (ode_march_accept(m, sink, a, b, *y, next)) return -1;
    *y = next;
    return 0;
}

/* ---- what an attempt found ---- */

static double rms(const ode_march *m, double squares) { return sqrt(squares / (double)m->cells); }

double ode_march_error(const ode_march *m)
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

double ode_march_stiffness(const ode_march *m) { return get_number(m, N_SUMS + ODE_SUM_STIFFNESS); }
