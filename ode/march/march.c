/* A step of a march: memory and programs, one attempt, what it found, its acceptance. The loops
 * over steps are fixed.c and adaptive.c. Joint control: one step size for all rows. */
#include "ode/march/march.h"
#include <float.h>
#include <math.h>
#include <string.h>

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
    bool later = s->trace && !ode_method_has(set->method, ODE_METHOD_IMPLICIT);
    ode_unit *(*make)(ode_system *, ode_unit_key, ad_tape *, const char *) =
        later ? ode_unit_plan : ode_unit_make;
    bool tells = adaptive && set->method->stability;
    if (tells && !(u->brief = ode_unit_plan(s, step, tape, set->caller))) return false;
    if (tells) step.flags |= ODE_STABILITY;
    u->step = make(s, step, tape, set->caller);
    if (!u->step) return false;
    if (set->method->begin &&
        !(u->begin =
              ode_unit_make(s, (ode_unit_key){ .kind = ODE_UNIT_BEGIN, .method = set->method },
                            tape, set->caller)))
        return false;
    ode_unit_key tangent = { .kind = ODE_UNIT_TANGENT,
                             .method = set->method,
                             .flags = flags & ODE_EACH,
                             .newton = set->newton };
    ode_unit_key field_tangent = { .kind = ODE_UNIT_FIELD_TANGENT, .flags = flags & ODE_EACH };
    if (!set->method->stability) field_tangent.flags |= ODE_FORCE_CHANGE;
    bool watched = adaptive && set->adjoint->frozen && !ode_method_stochastic(set->method);
    if (watched && (!(u->tangent = ode_unit_plan(s, tangent, tape, set->caller)) ||
                    !(u->field_tangent = ode_unit_plan(s, field_tangent, tape, set->caller))))
        return false;
    ode_unit_key jacobian = { .kind = ODE_UNIT_ROOT };
    u->spectrum = watched ? ode_spectrum_of(s, set->method) : ODE_NO_SPECTRUM;
    if (u->spectrum == ODE_JACOBIAN &&
        !(u->jacobian = ode_unit_plan(s, jacobian, tape, set->caller)))
        return false;
    ode_unit_key field = { .kind = ODE_UNIT_FIELD,
                           .flags = quadrature & ODE_QUADRATURE,
                           .residuals = residuals };
    bool slopes = adaptive && ode_method_has(set->method, ODE_METHOD_FSAL);
    return !slopes || (u->field = make(s, field, tape, set->caller)) != NULL;
}

void ode_march_close(ode_march *m)
{
    ode_runner_close(&m->step);
    ode_runner_close(&m->brief);
    ode_runner_close(&m->begin);
    ode_runner_close(&m->field);
    ode_watch_close(&m->watch);
    ode_buffer *all[] = { &m->slope[0], &m->slope[1], &m->carry[0], &m->carry[1], &m->rate[0],
                          &m->rate[1],  &m->size[0],  &m->size[1],  &m->k,        &m->increment,
                          &m->inputs,   &m->work,     &m->atols };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
    ode_stops_free(&m->stops);
}

static size_t quad_bytes(const ode_system *s, int64_t rows)
{
    int64_t n = 0;
    for (int i = 0; i < s->nquad; i++) n += ad_count(s->quad[i], rows);
    return (size_t)n * ode_bytes(s->dtype);
}

/* Places of scalars in march->number (each an element of the call's type in a slot of 8 bytes). */
enum {
    N_RTOL,
    N_ATOL,
    N_ROUNDING,
    N_QUADS,
    N_FINITE,
    N_ERROR,
    N_ERROR3,
    N_STIFFNESS,
    N_REUSE,
    N_FAILED_ROW,
    N_FAILED_HOW,
    N_COUNTS,
    N_H = N_COUNTS + 3, /* by each clock, as the times of each evaluation */
    N_TIMES = N_H + ODE_MAX_CLOCKS
};
_Static_assert(N_TIMES + ODE_MAX_STAGES * ODE_MAX_CLOCKS <=
                   sizeof((ode_march *)0)->number / sizeof(double),
               "march->number has room for the times of all stages");

static void set_number(ode_march *m, int i, double value)
{
    ode_store(m->system->dtype, &m->number[i], 0, value);
}
static double get_number(const ode_march *m, int i)
{
    return ode_load(m->system->dtype, &m->number[i], 0);
}

/* The numbers that steps read and give. */
static const struct {
    ode_port port;
    int number;
} numbers_in[] = { { ODE_PORT_H, N_H },         { ODE_PORT_RTOL, N_RTOL },
                   { ODE_PORT_ATOL, N_ATOL },   { ODE_PORT_ROUNDING, N_ROUNDING },
                   { ODE_PORT_REUSE, N_REUSE }, { ODE_PORT_TIMES, N_TIMES } },
  numbers_out[] = { { ODE_PORT_QUADRATURE_ERROR, N_QUADS },
                    { ODE_PORT_FINITE, N_FINITE },
                    { ODE_PORT_ERROR, N_ERROR },
                    { ODE_PORT_ERROR3, N_ERROR3 },
                    { ODE_PORT_STIFFNESS, N_STIFFNESS },
                    { ODE_PORT_COUNTS, N_COUNTS },
                    { ODE_PORT_FAILED_ROW, N_FAILED_ROW },
                    { ODE_PORT_FAILED_HOW, N_FAILED_HOW } };

/* Points all ports of a runner that are numbers at the march's. */
static void point_numbers(ode_march *m, ode_runner *r)
{
    for (size_t i = 0; i < sizeof numbers_in / sizeof *numbers_in; i++) {
        ode_place place = ode_unit_place(r->unit, ODE_VALUE, numbers_in[i].port);
        for (int k = 0; k < place.count; k++)
            r->in[place.first + k] = &m->number[numbers_in[i].number + k];
    }
    for (size_t i = 0; i < sizeof numbers_out / sizeof *numbers_out; i++)
        if (ode_unit_place(r->unit, ODE_VALUE, numbers_out[i].port).count)
            *ode_runner_out(r, ODE_VALUE, numbers_out[i].port) = &m->number[numbers_out[i].number];
}

/* Sets the tolerances of the error norm. */
static void set_norm(ode_march *m)
{
    const ode_system *s = m->system;
    /* Where both the state and atol are zero, an error of zero must pass: 0 / 0 would not. */
    double least = s->dtype == AD_F32 ? FLT_MIN : DBL_MIN;
    set_number(m, N_RTOL, m->rtol);
    set_number(m, N_ATOL, fmax(m->atol, least));
    set_number(m, N_ROUNDING, ode_guard_rounding(s, m->rtol));
    for (int64_t i = 0; m->each && i < s->width; i++)
        ode_store(s->dtype, m->atols.data, i, fmax(m->each[i], least));
}

void ode_march_clear(ode_march *m)
{
    m->status = ODE_DONE;
    m->steps = m->rejected = m->evaluations = m->blurred = m->ringing = 0;
    m->guard = (ode_guard){ 0 };
    m->watch.on = false;
    memset(m->counts, 0, sizeof m->counts);
}

/* Connects a step's program to what stays the same over a solve. */
static void connect_step(ode_march *m, ode_runner *r)
{
    point_numbers(m, r);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_ATOL_EACH, 1, m->atols.data);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_GIVEN, m->rows, m->inputs.data);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_STAGES, m->rows, m->k.data);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_QUADRATURE, m->rows, m->increment.data);
    r->connected = true;
}

/* The program for a step of size h; NULL with the march's error written. */
static ode_runner *step_runner(ode_march *m, double h)
{
    ode_runner *full = &m->step, *brief = &m->brief;
    if (!m->brief_unit || ode_guard_asks(&m->guard, h)) return full;
    if (brief->connected) return brief;
    if (ode_runner_open(brief, m->brief_unit, m->threads, m->error, m->error_size)) return NULL;
    ode_runner_arguments(brief, ode_runner_in(full, ODE_VALUE, ODE_PORT_ROW),
                         ode_runner_in(full, ODE_VALUE, ODE_PORT_SHARED));
    connect_step(m, brief);
    brief->refine = full->refine;
    brief->warning = full->warning;
    brief->warning_size = full->warning_size;
    return brief;
}

/* What a march allocates, by the rows. */
enum { MARCH_ARRAYS = 16 };

static void set_rows(ode_march *m, int64_t rows)
{
    m->slopes = m->adaptive && ode_method_has(m->method, ODE_METHOD_FSAL);
    m->rows = rows;
    m->cells = rows * m->system->width;
}

static int list_arrays(ode_march *m, const ode_march_units *u, ode_buffer_part *list)
{
    const ode_system *s = m->system;
    const size_t slot = (size_t)m->cells * ode_bytes(s->dtype),
                 quads = m->quadrature ? quad_bytes(s, m->rows) : 0,
                 carried = ode_port_bytes(u->step, ODE_VALUE, ODE_PORT_CARRY, m->rows);
    int n = 0;
    for (int i = 0; i < 2; i++) {
        if (m->slopes) list[n++] = (ode_buffer_part){ &m->slope[i], slot };
        if (carried) list[n++] = (ode_buffer_part){ &m->carry[i], carried };
        if (m->slopes) list[n++] = (ode_buffer_part){ &m->rate[i], quads };
        if (m->norm) list[n++] = (ode_buffer_part){ &m->size[i], quads };
    }
    const bool works = m->adaptive || ode_method_has(m->method, ODE_METHOD_RINGS);
    list[n++] = (ode_buffer_part){ &m->increment, quads };
    if (works) list[n++] = (ode_buffer_part){ &m->work, 2 * slot };
    list[n++] = (ode_buffer_part){ &m->inputs,
                                   ode_port_bytes(u->step, ODE_VALUE, ODE_PORT_GIVEN, m->rows) };
    if (m->dense) list[n++] = (ode_buffer_part){ &m->k, (size_t)m->method->dense_stages * slot };
    if (m->adaptive && m->each)
        list[n++] = (ode_buffer_part){ &m->atols, (size_t)s->width * ode_bytes(s->dtype) };
    AD_ASSERT(n <= MARCH_ARRAYS);
    return n;
}

void ode_march_account(ode_march *m, const ode_march_units *u, ad_opaque_account *a)
{
    ode_buffer_part list[MARCH_ARRAYS];
    const ode_unit *units[] = { u->step, u->begin, u->field, u->brief };
    set_rows(m, a->rows);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) ode_runner_account(units[i], a);
    const int n = list_arrays(m, u, list);
    ode_account_buffers(a, n, list);
    ode_account_buffer(a, 0); /* stops */
}

/* Knots that are an argument: those of ode_interpolate that are constants it has looked at. What is
 * held may be held for no time, as a float sees it. */
static int check_knots(ode_march *m, const void *const *args)
{
    const ode_system *traced = m->system->base ? m->system->base : m->system;
    const ad_dtype dtype = m->system->dtype;
    for (int i = 0; i < traced->nknots; i++) {
        const ode_knots *k = &traced->knots[i];
        for (int64_t j = 0; !k->knot && j + 1 < k->n; j++) {
            double a = ode_load(dtype, args[k->arg], j), b = ode_load(dtype, args[k->arg], j + 1);
            if (a < b || (k->jump && a == b)) continue;
            return ode_fail(m, ODE_FAILED,
                            "the knots of ode_interpolate, argument %d, do not increase: "
                            "knots[%lld] = %.15g, knots[%lld] = %.15g%s",
                            k->arg, (long long)j, ode_shown(a), (long long)j + 1, ode_shown(b),
                            dtype == AD_F32 ? " as float32 (of a clock, count time from the start)"
                                            : "");
        }
    }
    return 0;
}

int ode_march_open(ode_march *m, const ode_march_units *u, int64_t rows, int threads,
                   const void *const *args, void *const *shared)
{
    ode_system *s = m->system;
    ode_march_clear(m);
    if (!ode_stops_gather(&m->stops, m->settings, s, args))
        return ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory");
    if (check_knots(m, args)) return -1;
    const ode_unit *units[] = { u->step, u->begin, u->field };
    ode_runner *runners[] = { &m->step, &m->begin, &m->field };
    const void *row[ODE_MAX_ROWS] = { NULL };
    ode_row_arguments(s, args, row);
    for (int i = 0; i < 3; i++) {
        if (!units[i]) continue;
        if (ode_runner_open(runners[i], units[i], threads, m->error, m->error_size)) return -1;
        ode_runner_arguments(runners[i], row, (const void *const *)shared);
        point_numbers(m, runners[i]);
    }
    m->brief_unit = u->brief;
    m->brief.connected = false;
    m->threads = threads;
    set_rows(m, rows);
    ode_buffer_part list[MARCH_ARRAYS];
    const int n = list_arrays(m, u, list);
    if (!ode_buffers_need(n, list)) return ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory");
    if (m->norm) memset(m->size[0].data, 0, m->quadrature ? quad_bytes(s, rows) : 0);
    if (m->adaptive) set_norm(m);
    connect_step(m, &m->step);
    m->guard = ode_guard_begin(m->settings, s->dtype, m->rtol);
    set_number(m, N_STIFFNESS, 0); /* of steps that do not tell */
    set_number(m, N_REUSE, 0);
    return 0;
}

void ode_march_answers_to(ode_march *m, const ad_opaque_call *call)
{
    m->error = call->error;
    m->error_size = call->error_size;
    ode_runner *all[] = { &m->step, &m->begin, &m->field };
    for (int i = 0; i < 3; i++) ode_runner_answers_to(all[i], call);
}

/* ---- given arguments ---- */

/* Of the step from a to b: of each evaluation but a first one whose slope is known. */
static int give_to_step(ode_march *m, const ode_boundary *a, const ode_boundary *b)
{
    const ode_unit *u = m->step.unit;
    if (!m->system->ngiven) return 0;
    int n = ode_unit_place(u, ODE_VALUE, ODE_PORT_TIMES).count;
    size_t bytes = ode_port_bytes(u, ODE_VALUE, ODE_PORT_GIVEN, m->rows) / (size_t)n;
    const double *c = m->method->c;
    char *at = m->inputs.data;
    for (int i = m->slopes; i < n; i++) {
        char *to = at + (size_t)i * bytes;
        double part = ode_stage_part(c[i], b);
        if (i > m->slopes && c[i] == c[i - 1]) memcpy(to, to - bytes, bytes);
        else if (m->given.at(m->given.context, part == 1 ? b->t : a->t + part * (b->t - a->t), to))
            return -1;
    }
    return 0;
}

static void set_times(ode_march *m, int n, const double *c, const ode_boundary *a,
                      const ode_boundary *b)
{
    double size[ODE_MAX_CLOCKS], t[ODE_MAX_STAGES * ODE_MAX_CLOCKS];
    int clocks = m->system->nclocks;
    ode_step_times(m->system, m->clock, n, c, a, b, size, t);
    for (int i = 0; i < clocks; i++) set_number(m, N_H + i, size[i]);
    for (int i = 0; i < n * clocks; i++) set_number(m, N_TIMES + i, t[i]);
}

/* ---- one step ---- */

static int64_t evaluations_of_step(const ode_march *m)
{
    const ode_method *method = m->method;
    if (ode_method_has(method, ODE_METHOD_IMPLICIT))
        return (int64_t)ode_load(m->system->dtype, &m->number[N_COUNTS], 2) +
               (ode_method_has(method, ODE_METHOD_FSAL) ? !m->adaptive
                : m->dense                              ? method->times_dense
                                                        : method->times - 1);
    return ode_method_times(method, m->adaptive, m->dense) - m->slopes; /* a slope is given */
}

void *ode_march_keep(const ode_march *m, const ode_sink *sink, int i)
{
    return sink->keep ? sink->keep(sink->context, m->steps, i) : NULL;
}

/* What kind of failure the error of a step program is: a root that was not found says so. */
static ode_status status_of(const char *error)
{
    static const char newton[] = "Newton's method: ";
    return strncmp(error, newton, sizeof newton - 1) ? ODE_FAILED : ODE_NEWTON;
}

/* Whether an evaluation of the step from a to b would take place beyond a stop. */
static bool is_closed(const ode_march *m, const ode_boundary *a, const ode_boundary *b)
{
    double farthest = 1;
    for (int i = 0; i < m->method->times; i++) farthest = fmax(farthest, m->method->c[i]);
    return ode_stops_between(&m->stops, b->t, a->t + farthest * (b->t - a->t));
}

int ode_march_attempt(ode_march *m, const ode_sink *sink, const ode_boundary *a, ode_boundary *b,
                      const void *y, void *next)
{
    ode_system *s = m->system;
    double h = b->t - a->t;
    ode_runner *r = step_runner(m, h);
    if (!r) return -1;
    int ntimes = ode_unit_place(r->unit, ODE_VALUE, ODE_PORT_TIMES).count / s->nclocks;
    if (!s->order) b->closed = is_closed(m, a, b); /* else the followed solve has found it */
    set_times(m, ntimes, m->method->c, a, b);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_STATE, m->rows, y);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_SLOPE, m->rows, m->slope[0].data);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_CARRY, m->rows, m->carry[0].data);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_RATE, m->rows, m->rate[0].data);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_SIZE, m->rows, m->size[0].data);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_NEXT, m->rows, next);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_SLOPE_NEXT, m->rows, m->slope[1].data);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_CARRY_NEXT, m->rows, m->carry[1].data);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_RATE_NEXT, m->rows, m->rate[1].data);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_SIZE_NEXT, m->rows, m->size[1].data);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_RINGING, m->rows, s->order ? NULL : m->work.data);
    const ode_residuals *residuals = r->unit->key.residuals;
    void **kept = ode_runner_out(r, ODE_VALUE, ODE_PORT_KEPT);
    int first = ode_first_kept(&r->unit->key);
    for (int i = first; residuals && i < ntimes; i++)
        ode_residuals_write(s, residuals, m->rows, ode_march_keep(m, sink, i),
                            ode_at_boundary(m->method, i), kept + (i - first) * residuals->n);
    if (give_to_step(m, a, b)) return -1;
    char error[ODE_ERROR_SIZE];
    void *numbers = sink->numbers ? sink->numbers(sink->context, m->steps) : NULL;
    if (ode_method_stochastic(m->method) &&
        ode_path_step(m->path, r, a->t, b->t, numbers, error, sizeof error))
        return ode_fail(m, ODE_FAILED, "step %lld: %s", (long long)m->steps, error);
    if (ode_runner_run(r, m->rows, error, sizeof error))
        return ode_fail(m, status_of(error), "step %lld from t = %.15g, size %.3g: %s",
                        (long long)m->steps, a->t, h, error);
    m->evaluations += evaluations_of_step(m);
    ode_guard_note(&m->guard, h, r == &m->step);
    set_number(m, N_REUSE, 1);
    bool counted = ode_method_has(m->method, ODE_METHOD_IMPLICIT);
    m->failed_row = counted ? (int64_t)get_number(m, N_FAILED_ROW) - 1 : -1;
    m->failed_how = counted ? (int)get_number(m, N_FAILED_HOW) : 0;
    for (int i = 0; i < 3 && counted; i++)
        m->counts[i] += (int64_t)ode_load(s->dtype, &m->number[N_COUNTS], i);
    return 0;
}

/* Steps within which a field that reads the time sees hardly more than one of them. A few of them
 * do no harm (a first one, one that lands); many are a staircase in place of the field. */
enum { ODE_SPACINGS = 4, ODE_BLURRED_STEPS = 8 };

static int note_blur(ode_march *m, const ode_boundary *a, const ode_boundary *b)
{
    const ode_system *s = m->system->base ? m->system->base : m->system;
    if (!s->reads_time) return 0;
    double spacing = ode_type_spacing(s->dtype, fmax(fabs(a->t), fabs(b->t)));
    bool blurred = fabs(b->t - a->t) < ODE_SPACINGS * spacing;
    m->blurred = blurred ? m->blurred + 1 : 0;
    return m->blurred < ODE_BLURRED_STEPS ? 0 : ode_fail_blurred(m, a->t, b->t);
}

int ode_march_accept(ode_march *m, const ode_sink *sink, const ode_boundary *a,
                     const ode_boundary *b, const void *y, const void *next)
{
    if (sink->accepted(sink->context, m, m->steps, a, b, y, next)) return -1;
    if (m->carry[0].data) ode_buffer_swap(m->carry);
    if (m->slopes) ode_buffer_swap(m->slope);
    if (m->slopes) ode_buffer_swap(m->rate);
    if (m->norm) ode_buffer_swap(m->size);
    m->steps++;
    m->reached = b->t;
    if (note_blur(m, a, b)) return -1;
    return sink->reports ? ode_march_report(m, a, b, next) : 0;
}

/* ---- fixed and replayed steps ---- */

int ode_march_begin(ode_march *m, const ode_boundary *a, const ode_boundary *b, const void *y)
{
    ode_runner *r = &m->begin;
    set_times(m, m->method->begin_times, m->method->begin_c, a, b);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_STATE, m->rows, y);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_CARRY_NEXT, m->rows, m->carry[0].data);
    char error[ODE_ERROR_SIZE];
    if (ode_runner_run(r, m->rows, error, sizeof error))
        return ode_fail(m, ODE_FAILED, "at t = %.15g: %s", a->t, error);
    m->evaluations += m->method->begin_times;
    return 0;
}

/* The element that the latest step has alternating, or -1. */
static int64_t ringing_element(const ode_march *m)
{
    if (!ode_method_has(m->method, ODE_METHOD_RINGS) || m->system->order) return -1;
    for (int64_t i = 0; i < m->cells; i++)
        if (ode_load(m->system->dtype, m->work.data, i) > 1) return i;
    return -1;
}

/* A step from a to b that rings: on the way to a result it is counted; where its end is a result,
 * the error is written. */
static int count_ringing(ode_march *m, const ode_boundary *a, const ode_boundary *b)
{
    const int64_t i = ringing_element(m);
    if (i < 0) return 0;
    if (!b->output) {
        m->ringing++;
        return 0;
    }
    char where[96];
    ode_where(m->system, m->rows, i, where, sizeof where);
    return ode_fail(m, ODE_RINGING,
                    "step %lld from t = %.15g, size %.3g: the result at its end is wrong in %s: "
                    "there the problem is stiff, and %s, which is not "
                    "L-stable, makes it alternate from step to step instead of decaying; use "
                    "ode_kvaerno5, or much smaller steps",
                    (long long)m->steps, a->t, b->t - a->t, where, m->method->name);
}

int ode_march_step(ode_march *m, const ode_sink *sink, const ode_boundary *a, ode_boundary *b,
                   void **y)
{
    void *next = sink->slot(sink->context, m->steps);
    if (!next) return ode_fail_memory(m);
    if (a->restart && m->method->begin && ode_march_begin(m, a, b, *y)) return -1;
    if (ode_march_attempt(m, sink, a, b, *y, next)) return -1;
    bool derivative;
    int64_t bad =
        isfinite(get_number(m, N_FINITE)) ? -1 : ode_march_nonfinite(m, next, &derivative);
    if (bad >= 0) {
        char where[96];
        ode_where(m->system, m->rows, bad, where, sizeof where);
        const char *outside = ad_workspace_outside(m->step.workspace);
        if (outside)
            return ode_fail(m, ODE_OUTSIDE_DOMAIN,
                            "step %lld from t = %.15g, size %.3g: %s; take smaller steps, or an "
                            "adaptive method",
                            (long long)m->steps, a->t, b->t - a->t, outside);
        return ode_fail(m, ODE_NOT_FINITE,
                        "step %lld from t = %.15g, size %.3g: %s becomes %g in %s; take "
                        "smaller steps, an adaptive or an implicit "
                        "method, or check the field",
                        (long long)m->steps, a->t, b->t - a->t,
                        ode_is_derivative(m->system, m->rows, bad) ? "a derivative" : "the state",
                        ode_shown(ode_load(m->system->dtype, next, bad)), where);
    }
    if (count_ringing(m, a, b)) return -1;
    if (ode_march_accept(m, sink, a, b, *y, next)) return -1;
    *y = next;
    return 0;
}

/* ---- what an attempt found ---- */

static double rms(const ode_march *m, double squares) { return sqrt(squares / (double)m->cells); }

double ode_march_error(const ode_march *m)
{
    double finite = get_number(m, N_FINITE), error = get_number(m, N_ERROR),
           error3 = get_number(m, N_ERROR3);
    double quadratures = m->norm ? sqrt(get_number(m, N_QUADS)) : 0;
    if (!isfinite(finite) || !isfinite(error) || !isfinite(error3) || !isfinite(quadratures))
        return INFINITY;
    bool own = ode_has_norm(m->system);
    double state = own ? error : rms(m, error);
    if (state < 0) return state; /* the user's norm makes no sense: the march says so */
    /* DOP853's combination of its two estimates (Hairer, Norsett, Wanner, II.10), from squares. */
    if (ode_method_has(m->method, ODE_METHOD_TWO_ESTIMATES)) {
        double square = own ? error * error : error, square3 = own ? error3 * error3 : error3;
        state = error == 0 ? 0 : state * sqrt(square / (square + 0.01 * square3));
    }
    return fmax(state, quadratures);
}

bool ode_march_norm_is_nan(const ode_march *m)
{
    return ode_has_norm(m->system) && isfinite(get_number(m, N_FINITE)) &&
           isnan(get_number(m, N_ERROR));
}

double ode_march_stiffness(const ode_march *m) { return get_number(m, N_STIFFNESS); }
