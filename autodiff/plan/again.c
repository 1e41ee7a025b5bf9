/* Values that groups on whole arrays make again. What a group makes and a later one reads is
 * written to memory and read from there. Where it is made by cheap steps of one array, and of
 * numbers, and that array is in memory anyway, the later group reads that instead and makes the
 * value again, chunk by chunk: it reads as much as before, and nobody writes.
 *
 * So a mask, a scaled array or a difference from a number that both a sum and what follows from the
 * sum need has no memory. A value made again is a value of its own, with a step in the group that
 * reads it. Bits are the same, as kernels give an element the same bits wherever it stands. */
#include "autodiff/plan/program.h"
#include <string.h>

/* Steps that one array may be away, and groups that may make a value again: more are not worth it.
 */
enum { MOST_STEPS = 3, MOST_GROUPS = 2 };

/* Of a value of a group. */
typedef struct {
    int32_t step, section; /* where it is made */
    int32_t group;         /* the first step of that group + 1; 0: it is in none */
    int32_t reader;        /* the last group that reads it, as `group` */
    int32_t groups;        /* that read it, but for its own */
    int32_t again, within; /* its latest copy, and in which group that is, as `group` */
    bool firm;             /* something reads it that has to find it in memory */
    int32_t steps;         /* from an array in memory; 0: it is not made again */
    bool read;             /* by a step of its own group that stays */
} making;

/* Memory of the pass. */
typedef struct {
    ad_program *program;
    making *making;
    ad_step *step; /* the new list */
    int32_t n;
    int32_t *place; /* of every old step: its new number */
    int64_t most;   /* copies */
} remaking;

static int64_t size_of(const ad_program *p, int32_t value)
{
    return ad_row_size(p->ir.inst[value].shape);
}

static void note_making(remaking *m, const int32_t *range, int32_t section)
{
    for (int32_t s = range[0]; s < range[1]; s++) {
        const ad_step *step = &m->program->step[s];
        if (!step->elements || step->sums) continue;
        m->making[step->value] =
            (making){ .step = s, .section = section, .group = step->begin + 1 };
    }
}

static void note_reading(remaking *m, const int32_t *range, int32_t section)
{
    const ad_program *p = m->program;
    for (int32_t s = range[0]; s < range[1]; s++) {
        const ad_step *step = &p->step[s];
        const ad_inst *x = &p->ir.inst[step->value];
        for (int k = 0; k < x->nin; k++) {
            making *v = &m->making[step->operand[k].root];
            if (!v->group || v->group == step->begin + 1) continue;
            const int64_t n = size_of(p, step->operand[k].root);
            if (v->section != section || step->elements != n || size_of(p, x->in[k]) != n)
                v->firm = true;
            v->groups += v->reader != step->begin + 1;
            v->reader = step->begin + 1;
        }
    }
}

/* How many steps a value is away from an array that is in memory anyway; 0: it is in memory itself.
 */
static int32_t steps_from(const remaking *m, const ad_step *s)
{
    const ad_program *p = m->program;
    const making *v = &m->making[s->value];
    if (!v->group || v->firm || v->groups > MOST_GROUPS || !ad_has_trait(s->kernel.op, AD_CHEAP))
        return 0;
    int32_t array = -1;
    for (int k = 0; k < s->kernel.nin; k++) {
        const int32_t root = s->operand[k].root;
        const int64_t n = size_of(p, root);
        if (n != s->elements && n > AD_NATIVE_ELEMENTS) return 0;
        if (n != s->elements || root == array) continue;
        if (array >= 0) return 0;
        array = root;
    }
    if (array < 0) return 0;
    const ad_place place = p->slot[array].place;
    const making *from = &m->making[array];
    if (from->steps) return from->steps < MOST_STEPS ? from->steps + 1 : 0;
    if (place == AD_PLACE_INPUT || place == AD_PLACE_CONSTANT) return 1;
    return place == AD_PLACE_UNIFORM && (!from->group || from->groups || from->firm);
}

/* Which values are made again, and how many copies that may be. */
static void choose(remaking *m)
{
    const ad_program *p = m->program;
    for (int j = 0; j < p->ir.noutput; j++) m->making[p->slot[p->ir.output[j]].root].firm = true;
    for (int32_t s = 0; s < p->nstep; s++) {
        making *v = &m->making[p->step[s].value];
        v->steps = steps_from(m, &p->step[s]);
        if (v->steps) m->most += v->steps * v->groups;
    }
    for (int32_t s = p->nstep - 1; s >= 0; s--) {
        const ad_step *step = &p->step[s];
        const making *v = &m->making[step->value];
        if (!step->elements || (v->steps && !v->read)) continue;
        for (int k = 0; k < step->kernel.nin; k++) {
            making *in = &m->making[step->operand[k].root];
            in->read |= in->group == step->begin + 1;
        }
    }
}

/* Makes a step of the new list read copies, where its group has some. */
static bool read_again(remaking *m, ad_step *s, int32_t group)
{
    ad_program *p = m->program;
    ad_inst *x = &p->ir.inst[s->value];
    int32_t *in = ad_ir_ints(&p->ir, x->nin, x->in);
    ad_ref *operand = ad_pool_alloc(&p->pool, (size_t)x->nin * sizeof *operand);
    if (!in || !operand) return false;
    for (int k = 0; k < x->nin; k++) {
        operand[k] = s->operand[k];
        const making *v = &m->making[operand[k].root];
        if (v->within != group) continue;
        if (in[k] == operand[k].root) in[k] = v->again;
        operand[k].root = operand[k].pointer = v->again;
    }
    x->in = in;
    s->operand = operand;
    return true;
}

/* Adds the steps to the list that make again what step s reads. */
static bool make_operands(remaking *m, const ad_step *s, int32_t group);

static bool make_again(remaking *m, int32_t value, int32_t group)
{
    ad_program *p = m->program;
    making *v = &m->making[value];
    if (!v->steps || v->group == group || v->within == group) return true;
    const ad_step *old = &p->step[v->step];
    if (!make_operands(m, old, group)) return false;
    const int32_t again = ad_ir_copy(&p->ir, value);
    if (again < 0) return false;
    p->slot[again] = (ad_slot){ .place = AD_PLACE_UNIFORM,
                                .root = again,
                                .phase = p->slot[value].phase,
                                .bytes = p->slot[value].bytes };
    ad_step *s = &m->step[m->n++];
    *s = *old;
    s->value = v->again = again;
    v->within = group;
    return read_again(m, s, group);
}

static bool make_operands(remaking *m, const ad_step *s, int32_t group)
{
    for (int k = 0; k < s->kernel.nin; k++)
        if (!make_again(m, s->operand[k].root, group)) return false;
    return true;
}

static bool put_group(remaking *m, int32_t begin, int32_t end)
{
    ad_program *p = m->program;
    const int32_t first = m->n;
    for (int32_t s = begin; s < end; s++) {
        ad_step *step = &p->step[s];
        const making *v = &m->making[step->value];
        if (v->steps && !v->read) { /* only copies are read */
            p->slot[step->value].place = AD_PLACE_NONE;
            m->place[s] = m->n;
            continue;
        }
        if (step->elements && !make_operands(m, step, begin + 1)) return false;
        m->place[s] = m->n;
        m->step[m->n] = *step;
        if (step->elements && !read_again(m, &m->step[m->n], begin + 1)) return false;
        m->n++;
    }
    for (int32_t s = first; s < m->n; s++) {
        m->step[s].begin = first;
        m->step[s].end = m->n;
    }
    return true;
}

static void move_range(const remaking *m, int32_t *range)
{
    range[0] = m->place[range[0]];
    range[1] = m->place[range[1]];
}

static bool remake(remaking *m)
{
    ad_program *p = m->program;
    const size_t values = (size_t)(p->ir.n + m->most) + 1;
    ad_slot *slot = ad_pool_alloc(&p->pool, values * sizeof *slot);
    m->step = ad_pool_alloc(&p->pool, (size_t)(p->nstep + m->most + 1) * sizeof *m->step);
    if (!slot || !m->step) return false;
    memcpy(slot, p->slot, (size_t)p->ir.n * sizeof *slot);
    p->slot = slot;
    for (int32_t s = 0; s < p->nstep; s = p->step[s].end)
        if (!put_group(m, s, p->step[s].end)) return false;
    m->place[p->nstep] = m->n;
    for (int f = 0; f < p->nphase; f++) {
        move_range(m, p->phase[f].parameter_steps);
        move_range(m, p->phase[f].call_steps);
        move_range(m, p->phase[f].body_steps);
        move_range(m, p->phase[f].sum_steps);
    }
    p->step = m->step;
    p->nstep = m->n;
    return true;
}

bool ad_remake_whole(ad_program *p)
{
    ad_pool pool = { 0 };
    remaking m = { .program = p,
                   .making = ad_pool_alloc(&pool, ((size_t)p->ir.n + 1) * sizeof *m.making),
                   .place = ad_pool_alloc(&pool, ((size_t)p->nstep + 1) * sizeof *m.place) };
    bool memory = m.making && m.place;
    for (int f = 0; f < p->nphase && memory; f++) {
        note_making(&m, p->phase[f].parameter_steps, 2 * f);
        note_making(&m, p->phase[f].call_steps, 2 * f + 1);
    }
    for (int f = 0; f < p->nphase && memory; f++) {
        note_reading(&m, p->phase[f].parameter_steps, 2 * f);
        note_reading(&m, p->phase[f].call_steps, 2 * f + 1);
        note_reading(&m, p->phase[f].body_steps, -1);
        note_reading(&m, p->phase[f].sum_steps, -1);
    }
    if (memory) choose(&m);
    if (m.most) memory = remake(&m);
    ad_pool_clear(&pool);
    return memory;
}
