/* What an optimiser keeps: its options with their defaults, the stretches of theta, and the arrays
 * that a checkpoint saves. */
#include "nn/train/optimizer.h"
#include <fnmatch.h>
#include <stdlib.h>

bool nn_decay_matrices(const char *name, ad_shape shape, void *user)
{
    (void)name, (void)user;
    return shape.rank >= 2;
}

bool nn_decay_all(const char *name, ad_shape shape, void *user)
{
    (void)name, (void)shape, (void)user;
    return true;
}

#define FAIL(s, ...) nn_error((s)->error, sizeof(s)->error, "nn_optimizer_new: " __VA_ARGS__)

/* ---- options --------------------------------------------------------------------------------- */

static void set_default(double *value, double default_value)
{
    if (*value == 0) *value = default_value;
}

/* NULL, or what is wrong with the numbers. NaN fails every comparison, so they are written to be
 * true for good values. */
static const char *check_numbers(const nn_optimizer_options *o)
{
    const nn_optimizer *a = o->algorithm;
    if (!(o->rate > 0 && isfinite(o->rate))) return "the rate must be positive";
    if (!(o->momentum >= 0 && o->momentum < 1)) return "momentum must be in [0,1)";
    if (o->momentum > 0 && !a->takes_momentum)
        return "this algorithm takes no momentum (its beta1 is one)";
    if (o->nesterov && (a != &nn_sgd || o->momentum == 0))
        return "nesterov needs sgd with momentum";
    if (!a->takes_betas && (o->beta1 != 0 || o->beta2 != 0 || o->epsilon != 0))
        return "this algorithm takes no beta1, beta2, epsilon";
    if (!a->takes_epsilon && o->epsilon != 0) return "this algorithm takes no epsilon";
    if (!(o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1))
        return "beta1 and beta2 must be in [0,1)";
    if (!(o->epsilon >= 0 && isfinite(o->epsilon))) return "epsilon must be positive";
    if (!(o->weight_decay >= 0 && isfinite(o->weight_decay)))
        return "weight_decay must not be negative";
    if (!(o->clip_norm >= 0)) return "clip_norm must not be negative";
    if (!(o->clip_value >= 0)) return "clip_value must not be negative";
    if (o->clip_norm > 0 && o->clip_value > 0) return "clip_norm and clip_value exclude each other";
    return NULL;
}

/* Likewise with what changes the rate. */
static const char *check_rates(const nn_optimizer_options *o, int64_t steps)
{
    const nn_plateau *p = &o->plateau;
    if (o->threads < 0) return "threads must not be negative";
    if (o->warmup < 0) return "warmup must not be negative";
    if (o->schedule && steps < 1) return "a schedule needs the number of planned steps";
    if (o->schedule && steps <= o->warmup)
        return "warmup takes all planned steps, and leaves none to the schedule";
    if (!(p->factor >= 0 && p->factor < 1)) return "plateau.factor must be in (0,1), or 0 for none";
    if (p->factor == 0 && (p->patience != 0 || p->threshold != 0 || p->least != 0))
        return "plateau has options, but no factor";
    if (p->patience < 0) return "plateau.patience must not be negative";
    if (!(p->threshold >= 0 && p->threshold < 1)) return "plateau.threshold must be in [0,1)";
    if (!(p->least >= 0 && p->least <= 1)) return "plateau.least must be in [0,1]";
    return NULL;
}

static int check_groups(nn_optimizer_state *s)
{
    const nn_optimizer_options *o = &s->options;
    if (o->ngroup < 0 || (o->ngroup > 0 && !o->groups))
        return FAIL(s, "groups is NULL, ngroup is %d", o->ngroup);
    for (int i = 0; i < o->ngroup; i++) {
        const nn_group *g = &o->groups[i];
        if (!g->pattern) return FAIL(s, "group %d (from 0) has no pattern", i);
        if (!(g->rate >= 0 && isfinite(g->rate)))
            return FAIL(s, "group '%.60s': rate, a factor, must be positive", g->pattern);
        if (!(g->weight_decay >= 0 && isfinite(g->weight_decay)))
            return FAIL(s, "group '%.60s': weight_decay must not be negative", g->pattern);
        if (g->weight_decay > 0 && g->no_decay)
            return FAIL(s, "group '%.60s' has weight_decay and no_decay", g->pattern);
        if (g->frozen && (g->rate != 0 || g->weight_decay != 0 || g->no_decay))
            return FAIL(s, "group '%.60s' is frozen; its rate and decay say nothing", g->pattern);
    }
    return 0;
}

static void fill_defaults(nn_optimizer_options *o)
{
    if (!o->algorithm) o->algorithm = &nn_adam;
    set_default(&o->rate, o->algorithm->rate);
    set_default(&o->momentum, o->algorithm->momentum);
    set_default(&o->beta1, o->algorithm->beta1);
    set_default(&o->beta2, o->algorithm->beta2);
    set_default(&o->epsilon, o->algorithm->epsilon);
    set_default(&o->weight_decay, o->algorithm->decay);
    if (!o->decays) o->decays = nn_decay_matrices;
}

static void fill_plateau(nn_plateau *p)
{
    if (p->factor == 0) return;
    if (p->patience == 0) p->patience = 10;
    set_default(&p->threshold, 1e-4);
}

/* ---- stretches ------------------------------------------------------------------------------- */

/* The first group that a name belongs to; -1: none. */
static int group_of(const nn_optimizer_options *o, const char *name)
{
    for (int i = 0; i < o->ngroup; i++)
        if (fnmatch(o->groups[i].pattern, name, 0) == 0) return i;
    return -1;
}

/* Muon's program for an array; its last axis is that of the results, the others are inputs. */
static const nn_matrix *matrix_of(nn_optimizer_state *s, const nn_parameter *p)
{
    int64_t columns = p->shape.dim[p->shape.rank - 1], rows = p->size / columns;
    for (int64_t i = 0; i < s->nmatrix; i++)
        if (nn_matrix_fits(s->matrices[i], rows, columns)) return s->matrices[i];
    nn_matrix *m = nn_matrix_new(s->dtype, rows, columns, s->error, sizeof s->error);
    if (m) s->matrices[s->nmatrix++] = m;
    return m;
}

static int describe(nn_optimizer_state *s, const nn_parameter *p, const nn_group *group,
                    nn_stretch *part)
{
    const nn_optimizer_options *o = &s->options;
    part->rate = group && group->rate > 0 ? group->rate : 1;
    if (group && (group->weight_decay > 0 || group->no_decay)) part->decay = group->weight_decay;
    else part->decay = o->decays(p->name, p->shape, o->user) ? o->weight_decay : 0;
    if (!o->algorithm->matrices || p->shape.rank < 2) return 0;
    part->matrix = matrix_of(s, p);
    return part->matrix ? 0 : -1;
}

/* Neighbours that are treated alike are one stretch. Padding goes with the array before it: it is
 * zero, and decay leaves it so. */
static void add_stretch(nn_optimizer_state *s, nn_stretch part)
{
    nn_stretch *last = s->nstretch ? &s->stretches[s->nstretch - 1] : NULL;
    if (last && last->stop == part.start && last->rate == part.rate && last->decay == part.decay &&
        !last->matrix && !part.matrix) {
        last->stop = part.stop;
    } else {
        s->stretches[s->nstretch++] = part;
    }
}

/* Pieces are long enough to be worth a thread, and the same for any number of them. */
static bool cut(nn_optimizer_state *s)
{
    enum { LENGTH = 4096 };
    int64_t n = 0;
    for (int64_t i = 0; i < s->nstretch; i++)
        n += (s->stretches[i].stop - s->stretches[i].start + LENGTH - 1) / LENGTH;
    s->pieces = calloc((size_t)n, sizeof *s->pieces);
    if (!s->pieces) return false;
    for (int64_t i = 0; i < s->nstretch; i++) {
        const nn_stretch *part = &s->stretches[i];
        for (int64_t start = part->start; start < part->stop; start += LENGTH) {
            int64_t stop = start + LENGTH < part->stop ? start + LENGTH : part->stop;
            s->pieces[s->npiece++] =
                (nn_piece){ .stretch = part, .start = start, .stop = stop, .moments = true };
        }
    }
    return true;
}

/* A pattern that matches nothing is most likely misspelt. */
static int divide(nn_optimizer_state *s, const nn_model *model, bool *used)
{
    for (int64_t i = 0; i < model->count; i++) {
        const nn_parameter *p = &model->parameter[i];
        int k = group_of(&s->options, p->name);
        const nn_group *group = k < 0 ? NULL : &s->options.groups[k];
        nn_stretch part = { .start = p->offset, .stop = model->size };
        if (i + 1 < model->count) part.stop = model->parameter[i + 1].offset;
        if (k >= 0) used[k] = true;
        if (p->fixed || (group && group->frozen)) continue;
        if (describe(s, p, group, &part)) return -1;
        add_stretch(s, part);
    }
    for (int i = 0; i < s->options.ngroup; i++) {
        if (used[i]) continue;
        return FAIL(s,
                    "group '%.60s' has no parameter array: its pattern matches no name, or only "
                    "names that an earlier group has",
                    s->options.groups[i].pattern);
    }
    return s->nstretch ? 0 : FAIL(s, "every parameter array is frozen");
}

/* ---- making ---------------------------------------------------------------------------------- */

static int set_up(nn_optimizer_state *s, const nn_theta *theta)
{
    size_t count = (size_t)theta->model->count;
    s->model = theta->model;
    s->dtype = theta->dtype;
    s->loops = nn_loops_chosen(s->dtype);
    s->size = theta->size;
    s->first = nn_zeros(s->dtype, s->size);
    s->second = nn_zeros(s->dtype, s->size);
    s->saved = nn_zeros(s->dtype, s->size);
    s->stretches = calloc(count, sizeof *s->stretches);
    s->matrices = calloc(count, sizeof *s->matrices);
    bool *used = calloc((size_t)s->options.ngroup + 1, sizeof *used);
    int result = -1;
    if (s->first && s->second && s->saved && s->stretches && s->matrices && used)
        result = divide(s, theta->model, used);
    if (result == 0 && !cut(s)) result = -1;
    free(used);
    s->options.groups = NULL; /* the caller's, and done with */
    s->options.ngroup = 0;
    return result;
}

static int check_all(nn_optimizer_state *s, const nn_theta *theta, int64_t steps)
{
    if (nn_theta_check("nn_optimizer_new", theta, s->error, sizeof s->error)) return -1;
    const char *wrong = check_numbers(&s->options);
    if (!wrong) wrong = check_rates(&s->options, steps);
    if (wrong) return FAIL(s, "%s: %s", s->options.algorithm->name, wrong);
    return check_groups(s);
}

nn_optimizer_state *nn_optimizer_new(const nn_optimizer_options *options, const nn_theta *theta,
                                     int64_t steps)
{
    nn_optimizer_state *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    if (options) s->options = *options;
    fill_defaults(&s->options);
    s->steps = steps;
    s->unusable = true;
    if (check_all(s, theta, steps)) return s;
    fill_plateau(&s->options.plateau);
    s->unusable = set_up(s, theta) != 0;
    if (!s->unusable || s->error[0]) return s;
    nn_optimizer_free(s);
    return NULL;
}

void nn_optimizer_free(nn_optimizer_state *state)
{
    if (!state) return;
    for (int64_t i = 0; i < state->nmatrix; i++) nn_matrix_free(state->matrices[i]);
    free(state->matrices);
    free(state->first);
    free(state->second);
    free(state->saved);
    free(state->stretches);
    free(state->pieces);
    free(state);
}

int64_t nn_optimizer_steps(const nn_optimizer_state *state)
{
    return state ? (int64_t)state->made.taken : 0;
}
const nn_optimizer *nn_optimizer_algorithm(const nn_optimizer_state *state)
{
    return state->options.algorithm;
}

const char *nn_optimizer_error(const nn_optimizer_state *state)
{
    if (!state) return "nn_optimizer: out of memory";
    return state->error[0] ? state->error : NULL;
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

void nn_optimizer_arrays(nn_optimizer_state *state, nn_state_array arrays[NN_STATE_ARRAYS])
{
    nn_optimizer_state *s = state;
    int64_t numbers = sizeof s->made / sizeof(double);
    arrays[0] = (nn_state_array){ "first", s->dtype, s->size, s->first };
    arrays[1] = (nn_state_array){ "second", s->dtype, s->size, s->second };
    arrays[2] = (nn_state_array){ "made", AD_F64, numbers, &s->made };
}

static bool is_count(double x) { return x >= 0 && x <= 0x1p53 && x == floor(x); }

int nn_optimizer_restored(nn_optimizer_state *state, char *error, size_t error_size)
{
    nn_optimizer_state *s = state;
    nn_state_array arrays[NN_STATE_ARRAYS];
    nn_optimizer_arrays(s, arrays);
    s->unusable = true;
    for (int i = 0; i < NN_STATE_ARRAYS; i++) {
        int64_t bad = nn_find_nonfinite(arrays[i].dtype, arrays[i].data, arrays[i].size);
        if (bad < 0) continue;
        return nn_error(error, error_size, "element %lld of the optimiser's '%s' is %g",
                        (long long)bad, arrays[i].name,
                        nn_shown(nn_element(arrays[i].dtype, arrays[i].data, bad)));
    }
    for (int64_t i = 0; i < s->size; i++) {
        if (nn_element(s->dtype, s->second, i) >= 0) continue;
        return nn_error(error, error_size,
                        "element %lld of the optimiser's 'second', a root, is negative",
                        (long long)i);
    }
    const nn_progress_made *m = &s->made;
    if (!is_count(m->taken) || !is_count(m->metrics) || !is_count(m->waiting) ||
        !(m->lowered <= 0 && m->lowered >= -1))
        return nn_error(error, error_size, "the optimiser's 'made' holds numbers of no optimiser");
    for (int64_t k = 0; k < s->npiece; k++) {
        size_t start = (size_t)s->pieces[k].start * nn_bytes(s->dtype);
        s->pieces[k].moments =
            s->loops->moderate_moments(s->pieces[k].stop - s->pieces[k].start,
                                       (char *)s->first + start, (char *)s->second + start);
    }
    s->unusable = false;
    return 0;
}
