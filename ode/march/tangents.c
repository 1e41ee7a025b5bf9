/* Blind components (watch.c): what the tangents of a step, and of the field alone, say of the
 * elements that rest. */
#include "ode/march/watch.h"
#include <stdlib.h>
#include <string.h>

/* Part of the time to the first output in which what decays fast is taken to be gone. */
static const double settling_part = 0.05;
/* An element that rests may be as inaccurate as the others are, up to so many times that. */
static const double others_error = 4;
/* What the arguments do is that over a step, or over this part of the solve where it is longer. */
static const double jump_part = 0.01;

/* The direction of a tangent by an array of arguments: random, of each element's size beside that
 * of all, which counts as one where it is smaller: the tangents of arguments that are as good as
 * zero are to be told from rounding. */
static void argument_direction(ad_dtype dtype, ad_shape shape, int64_t rows, uint64_t seed,
                               const void *value, void *to)
{
    int64_t n = ad_count(shape, rows), period = ad_has_rows(shape) && rows > 0 ? n / rows : n;
    double mean = 0;
    for (int64_t i = 0; i < n; i++) mean += fabs(ode_load(dtype, value, i)) / (double)n;
    if (!(mean > 1) || !isfinite(mean)) mean = 1;
    for (int64_t i = 0; i < n; i++) {
        double size = fabs(ode_load(dtype, value, i)) + mean;
        ode_store(dtype, to, i, random_weight(seed + (uint64_t)(i % period)) * size);
    }
}

/* What each tangent needs once a solve. false: out of memory. */
static bool point_arguments(ode_watch *w, const ode_march *m, ode_runner *r)
{
    const ode_system *s = m->system;
    size_t bytes = 0;
    for (int i = 0; i < s->nrow; i++)
        bytes += ode_array_bytes(s->dtype, s->arg[s->row[i]], m->rows);
    for (int i = 0; i < s->nshared; i++) bytes += ode_array_bytes(s->dtype, s->shared[i], 1);
    char *to = ode_buffer_need(&w->arguments, bytes);
    if (!to) return false;
    const void **row_values = ode_runner_in(&m->step, ODE_VALUE, ODE_PORT_ROW),
               **shared_values = ode_runner_in(&m->step, ODE_VALUE, ODE_PORT_SHARED);
    ode_runner_arguments(r, row_values, shared_values);
    for (int i = 0; i < s->nrow + s->nshared; i++) {
        bool row = i < s->nrow;
        int k = row ? i : i - s->nrow;
        ad_shape shape = row ? s->arg[s->row[k]] : s->shared[k];
        const void *value = row ? row_values[k] : shared_values[k];
        argument_direction(s->dtype, shape, m->rows, (uint64_t)(i + 1) << 40, value, to);
        ode_runner_in(r, ODE_VALUE, row ? ODE_PORT_ROW_DIRECTION : ODE_PORT_SHARED_DIRECTION)[k] =
            to;
        to += ode_array_bytes(s->dtype, shape, row ? m->rows : 1);
    }
    r->connected = true;
    return true;
}

/* Whether an element's derivative is the same at both ends of the step. */
static bool rests(const ode_march *m, int64_t i)
{
    ad_dtype dtype = m->system->dtype;
    return ode_load(dtype, m->slope[0].data, i) == ode_load(dtype, m->slope[1].data, i);
}

bool ode_some_element_rests(const ode_march *m)
{
    return ode_some_are_equal(m->system->dtype, m->cells, m->slope[0].data, m->slope[1].data);
}

bool ode_some_element_stands(const ode_march *m)
{
    for (int64_t i = 0; i < m->cells; i++)
        if (rests(m, i) && ode_load(m->system->dtype, m->slope[0].data, i) == 0) return true;
    return false;
}

/* Relative errors of the tangents by state and by arguments, from the sums of a row; NaN: nothing
 * can be said. */
static void relative_errors(const ode_march *m, const double *x, double size, double *by_state,
                            double *by_arguments, bool *unseen)
{
    /* A jump in time makes an error in proportion to the step: it may be small against what such a
     * rate does in a part of the solve. */
    double part = fmax(1, jump_part * m->watch.horizon / size),
           rounding = 64 * (m->system->dtype == AD_F32 ? FLT_EPSILON : DBL_EPSILON);
    double whole = fmax(part * x[ODE_TANGENT_ARGUMENTS], x[ODE_TANGENT_ARGUMENTS_ERROR]);
    *by_state = x[ODE_TANGENT_STATE_ERROR] / fmax(x[ODE_TANGENT_STATE], x[ODE_TANGENT_STATE_START]);
    *by_arguments =
        whole * fmax(m->rtol, rounding) > rounding ? x[ODE_TANGENT_ARGUMENTS_ERROR] / whole : NAN;
    *unseen = !(whole > 0);
}

/* The random direction of the tangents by the state, of the size of each element's tolerance. */
static void random_direction(ode_march *m, const void *y)
{
    const ode_system *s = m->system;
    int64_t cell = 0;
    for (int j = 0; j < s->nstate; j++)
        for (int64_t i = 0; i < m->rows * s->size[j]; i++, cell++)
            ode_store(s->dtype, m->watch.moved.data, cell,
                      state_weight(s, j, i) * scale_of(m, cell, fabs(ode_load(s->dtype, y, cell))));
}

/* Runs a tangent of the step, or of the field at evaluation `at` of the step, along watch.moved,
 * whose errors are those of elements that rest, or of all. 1; 0: the field has none; -1 with the
 * march's error written. */
static int run_tangent(ode_march *m, ode_runner *r, const ode_unit *unit, const ode_boundary *a,
                       const void *y, int at, bool all)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    char text[ODE_ERROR_SIZE];
    if (ode_runner_open(r, unit, m->threads, m->error, m->error_size)) return unit->absent ? 0 : -1;
    if (!r->connected && !point_arguments(w, m, r))
        return ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory");
    /* The field's own tangents are taken inside the step. */
    bool of_field = unit->key.kind == ODE_UNIT_FIELD_TANGENT;
    const void **steps_times = ode_runner_in(&m->step, ODE_VALUE, ODE_PORT_TIMES);
    ode_place times = ode_unit_place(unit, ODE_VALUE, ODE_PORT_TIMES);
    for (int i = 0; i < times.count; i++) r->in[times.first + i] = steps_times[i + at];
    const ode_port numbers[] = { ODE_PORT_H, ODE_PORT_RTOL, ODE_PORT_ROUNDING };
    for (int i = of_field; i < 3; i++)
        *ode_runner_in(r, ODE_VALUE, numbers[i]) = *ode_runner_in(&m->step, ODE_VALUE, numbers[i]);
    *ode_runner_in(r, ODE_VALUE, ODE_PORT_ATOL) = w->number;
    if (ode_unit_place(unit, ODE_VALUE, ODE_PORT_SETTLING).count) {
        double h = ode_load(s->dtype, *ode_runner_in(&m->step, ODE_VALUE, ODE_PORT_H), 0);
        double size = fmax(fabs(h), settling_part * w->first_output);
        ode_store(s->dtype, w->settling, 0, copysign(size, h));
        *ode_runner_in(r, ODE_VALUE, ODE_PORT_SETTLING) = w->settling;
    }
    ode_runner_read(r, ODE_VALUE, ODE_PORT_ATOL_EACH, 1, w->each.data);
    for (int64_t i = 0; i < m->cells; i++)
        ode_store(s->dtype, w->chosen.data, i, all || rests(m, i));
    ode_runner_read(r, ODE_VALUE, ODE_PORT_CHOSEN, m->rows, w->chosen.data);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_STATE, m->rows, y);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_DIRECTION, m->rows, w->moved.data);
    char *out = w->rows.data;
    for (int i = 0; i < unit->layout.nout; i++)
        r->out[i] = out + (size_t)i * (size_t)m->rows * sizeof(double);
    if (ode_runner_run(r, m->rows, text, sizeof text))
        return unit->absent ? 0
                            : ode_fail(m, ODE_FAILED, "step %lld from t = %.15g: %s",
                                       (long long)m->steps, a->t, text);
    int arguments = s->nrow + s->nshared > 0;
    int64_t taken = of_field ? 3 + arguments : (2 + arguments) * m->method->times;
    m->evaluations += taken;
    w->evaluations += taken;
    w->probes++;
    return 1;
}

int ode_tangent_errors(ode_march *m, const ode_boundary *a, const void *y, double size, bool blind,
                       double most, double *error)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    ode_runner *r = &w->tangent;
    ode_watch_prepare(m, y);
    random_direction(m, y);
    int there = run_tangent(m, r, w->unit, a, y, 0, blind);
    if (there <= 0) return there;
    error[0] = error[1] = 0;
    w->unseen = false;
    for (int64_t i = 0; i < m->rows; i++) {
        double x[ODE_TANGENTS], inside[2], outside[2];
        bool unseen, unused;
        for (int k = 0; k < ODE_TANGENTS; k++)
            x[k] = sqrt(fmax(0, ode_load(s->dtype, r->out[k], i)));
        relative_errors(m, x, size, &inside[0], &inside[1], &unseen);
        relative_errors(m, x + ODE_TANGENT_SUMS, size, &outside[0], &outside[1], &unused);
        w->unseen = w->unseen || (blind && unseen && s->nrow + s->nshared > 0);
        for (int k = 0; k < 2; k++) {
            double allowed =
                isfinite(outside[k]) ? fmax(most, fmin(outside[k], others_error * most)) : most;
            if (isfinite(inside[k])) error[k] = fmax(error[k], inside[k] / allowed);
        }
    }
    return 1;
}

/* What the arguments must do to an element to be told from rounding, in units of the tolerance. */
static double least_force(const ode_march *m)
{
    double rounding = 64 * (m->system->dtype == AD_F32 ? FLT_EPSILON : DBL_EPSILON);
    return rounding / fmax(m->rtol, rounding);
}

bool ode_is_at_rest(const ode_march *m)
{
    if (!m->system->trace || m->system->reads_time) return false;
    for (int64_t i = 0; i < m->cells; i++)
        if (ode_load(m->system->dtype, m->slope[0].data, i) != 0 || !rests(m, i)) return false;
    return true;
}

int ode_look_shortly(ode_march *m, const ode_boundary *a, const void *y, double size, double most,
                     double *largest)
{
    ode_watch *w = &m->watch;
    bool still = ode_is_at_rest(m);
    ode_watch_prepare(m, y);
    random_direction(m, y);
    int there = run_tangent(m, &w->field_tangent, w->field_unit, a, y, 1, still);
    if (there <= 0) return there;
    most = fmin(most, fmax(least_error, whole_error * size / w->horizon));
    double order = m->method->order + 1, part = fmax(size, jump_part * w->horizon), rate = 0;
    for (int64_t i = 0; i < m->rows; i++) {
        double x[ODE_TANGENT_FORCE_CHANGE], chosen = 0;
        for (int k = 0; k < ODE_TANGENT_FORCE_CHANGE; k++)
            x[k] = ode_load(m->system->dtype, w->field_tangent.out[k], i);
        if (!still && !(part * sqrt(x[ODE_TANGENT_FORCE]) <= least_force(m))) {
            w->short_looks = false; /* by chance they may do nothing at another point */
            return 0;
        }
        int64_t first = 0;
        for (int j = 0; j < m->system->nstate; first += m->rows * m->system->size[j++])
            for (int64_t c = i * m->system->size[j]; c < (i + 1) * m->system->size[j]; c++)
                chosen += ode_load(m->system->dtype, w->chosen.data, first + c);
        if (chosen > 0)
            rate =
                fmax(rate, sqrt(x[ODE_TANGENT_SECOND] / sqrt(x[ODE_TANGENT_DIRECTION] / chosen)));
        if (!isfinite(x[ODE_TANGENT_SECOND])) return 0;
    }
    *largest = pow(most * tgamma(order + 1), 1 / order) / rate;
    w->short_looks = size <= *largest || !still;
    return size <= *largest;
}

int ode_force_by_state(ode_march *m, const ode_boundary *a, const void *next, double *change)
{
    ode_watch *w = &m->watch;
    ad_dtype dtype = m->system->dtype;
    ode_watch_prepare(m, next);
    for (int64_t i = 0; i < m->cells; i++)
        ode_store(dtype, w->moved.data, i,
                  scale_of(m, i, fabs(ode_load(dtype, next, i))) *
                      ode_load(dtype, w->direction.data, i));
    int there =
        run_tangent(m, &w->field_tangent, w->field_unit, a, next, m->method->times - 1, true);
    *change = 0;
    for (int64_t i = 0; there > 0 && i < m->rows; i++) {
        double force = sqrt(ode_load(dtype, w->field_tangent.out[ODE_TANGENT_FORCE], i)),
               changed = sqrt(ode_load(dtype, w->field_tangent.out[ODE_TANGENT_FORCE_CHANGE], i));
        if (force > 0) *change = fmax(*change, changed / fmax(force, w->found / 2));
    }
    return there;
}
