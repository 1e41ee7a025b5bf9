/* A march taken twice: as usual, to find the steps, and again with each of them divided. What the
 * second one computes differs from the first by what the steps do to it, so it says how far a
 * solution, and above all a gradient, is to be trusted. */
#include "ode/march/march.h"
#include <math.h>
#include <string.h>

void ode_refinement_free(ode_refinement *r)
{
    ode_buffer_free(&r->bounds);
    ode_pile_free(&r->states);
}

/* ---- the first march: only its steps are kept ---- */

typedef struct {
    ode_refinement *memory;
    ode_march *march;
    void *first; /* state */
    int64_t count;
} steps_found;

static void *slot_of(void *context, int64_t k)
{
    steps_found *f = context;
    return ode_pile_slot(&f->memory->states, f->march->watch.on ? k : k % 2);
}

static void *state_of(void *context, int64_t k, ode_boundary *a)
{
    steps_found *f = context;
    *a = ((const ode_boundary *)f->memory->bounds.data)[2 * k];
    return k ? ode_pile_slot(&f->memory->states, k - 1) : f->first;
}

static int accepted(void *context, const ode_march *march, int64_t k, const ode_boundary *a,
                    const ode_boundary *b, const void *y, const void *next)
{
    steps_found *f = context;
    (void)march, (void)y, (void)next;
    ode_boundary *all = ode_buffer_need(&f->memory->bounds, 2 * (size_t)(k + 1) * sizeof *all);
    if (!all)
        return ode_fail(f->march, ODE_OUT_OF_MEMORY, "out of memory for step %lld", (long long)k);
    all[2 * k] = *a;
    all[2 * k + 1] = *b;
    f->count = k + 1;
    return 0;
}

/* ---- the second march: each step in parts ---- */

/* How a boundary moves with times: a sum of at most two terms. */
typedef struct {
    int n, index[4];
    double weight[4];
} movement;

static void add_movement(movement *m, int index, double weight)
{
    if (index < 0 || weight == 0) return;
    int i = 0;
    while (i < m->n && m->index[i] != index) i++;
    if (i == m->n) {
        m->index[i] = index;
        m->weight[m->n++] = 0;
    }
    m->weight[i] += weight;
}

/* The boundary at a part w of the way from a to b: it moves with both. Ends that move with two
 * times do so with weights whose sum is one, and the steps of an interval with the same two. */
static ode_boundary between(const ode_boundary *a, const ode_boundary *b, double w)
{
    movement m = { 0 };
    add_movement(&m, a->lo, (1 - w) * (1 - a->weight));
    add_movement(&m, a->hi, (1 - w) * a->weight);
    add_movement(&m, b->lo, w * (1 - b->weight));
    add_movement(&m, b->hi, w * b->weight);
    ode_boundary c = { .t = a->t + w * (b->t - a->t), .lo = -1, .hi = -1 };
    if (m.n > 0) {
        c.lo = m.index[0];
        c.weight = 1 - m.weight[0];
    }
    if (m.n > 1) c.hi = m.index[1];
    return c;
}

/* The derivative at the beginning of a step of an adaptive march, where it is not the previous
 * one's last stage. */
static int begin(ode_march *m, const ode_sink *sink, const ode_boundary *a, double direction,
                 const void *y)
{
    void *kept = sink->keep ? sink->keep(sink->context, m->steps, 0) : NULL;
    return ode_march_field(m, a->t, a->jump ? (int)direction : 0, y, m->slope[0].data,
                           m->rate[0].data, kept);
}

static int march_divided(ode_march *m, int64_t count, const ode_boundary *bounds, int64_t parts,
                         void *y, const ode_sink *sink)
{
    for (int64_t k = 0; k < count; k++) {
        ode_boundary a = bounds[2 * k], last = bounds[2 * k + 1], from = a;
        double direction = last.t > a.t ? 1 : -1;
        if (m->slopes && (k == 0 || a.jump) && begin(m, sink, &a, direction, y)) return -1;
        for (int64_t i = 1; i <= parts; i++) {
            ode_boundary b = i == parts ? last : between(&from, &last, (double)i / (double)parts);
            if (i < parts && (direction * (b.t - a.t) <= 0 || direction * (last.t - b.t) <= 0))
                continue; /* time has no such number */
            if (ode_march_step(m, sink, &a, &b, &y)) return -1;
            a = b;
        }
    }
    return 0;
}

int ode_march_run_refined(ode_march *m, int n, const double *times, void *y, const ode_sink *sink,
                          int refine, ode_refinement *memory)
{
    m->step.refine = m->begin.refine = m->field.refine = refine;
    if (refine <= 0) return ode_march_run(m, n, times, y, sink);
    steps_found found = { .memory = memory, .march = m, .first = y };
    ode_sink first = {
        .context = &found, .slot = slot_of, .accepted = accepted, .state = state_of
    };
    int64_t before = m->steps;
    ode_pile_reset(&memory->states, (size_t)m->cells * ode_bytes(m->system->dtype));
    int failed = ode_march_run(m, n, times, y, &first);
    if (failed && !m->settings->partial) return -1;
    m->steps = before;
    int64_t parts = (int64_t)1 << refine;
    return march_divided(m, found.count, memory->bounds.data, parts, y, sink) ? -1 : failed;
}
