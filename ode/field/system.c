/* Systems: the user's field traced once on a tape of its own and cut into what depends on
 * parameters only and the rest, and the augmented systems of the continuous adjoint, which belong
 * to it. */
#include "ode/field/system.h"
#include <stdlib.h>
#include <string.h>

static bool is_stochastic(const ode_system *s) { return s->diffusion || s->diffusions; }

ad_shape ode_time_shape(int rank)
{
    ad_shape t = { rank, { 0 } };
    for (int i = 0; i < rank; i++) t.dim[i] = 1;
    return t;
}

static const char *const advice = "the field is traced once and replayed; set ode_options.rerecord "
                                  "to call it anew, with values, at every step";

bool ode_system_new_shared(ode_system *s, int most)
{
    s->shared = calloc((size_t)most + 1, sizeof *s->shared);
    s->shared_from = calloc((size_t)most + 1, sizeof *s->shared_from);
    return s->shared && s->shared_from;
}

static void describe_shared(ode_system *s, int i)
{
    s->shared[i] = ad_shape_of(s->frontier[i]);
    for (int k = 0; k < s->nargs; k++)
        if (!ad_has_rows(s->arg[k]) && ad_depends(s->frontier[i], s->args[k]))
            s->shared_from[i] |= (uint64_t)1 << k;
}

/* Traces the field on a new tape and finds the cut. Errors are reported on `tape`. */
static bool trace_field(ode_system *s, ad_tape *tape, const char *caller)
{
    s->trace = ad_tape_new(s->dtype);
    if (!s->trace) {
        ad_fail(tape, "%s: out of memory", caller);
        return false;
    }
    ad_tape_set_traced(s->trace, advice);
    s->t = ad_input(s->trace, ode_time_shape(s->rank), NULL);
    for (int i = 0; i < s->nstate; i++) s->y[i] = ad_input_rows(s->trace, s->state[i], 0, NULL);
    for (int i = 0; i < s->nargs; i++)
        s->args[i] = ad_has_rows(s->arg[i]) ? ad_input_rows(s->trace, s->arg[i], 0, NULL)
                                            : ad_param(s->trace, s->arg[i], NULL);
    if (!ode_listen_for_knots(s->trace)) ad_fail(s->trace, "out of memory");
    ode_system_call(s, s->trace, s->t, s->y, s->args, s->dy, is_stochastic(s) ? s->g : NULL);
    if (!ad_tape_error(s->trace) && !ode_take_knots(s)) ad_fail(s->trace, "out of memory");
    ad_var out[2 * ODE_MAX_STATES];
    int nout = ode_system_outputs(s, out);
    for (int i = 0; i < nout && !ad_tape_error(s->trace); i++)
        s->reads_time = s->reads_time || ad_depends(out[i], s->t);
    if (!ad_tape_error(s->trace)) s->rows = ad_rows_of(nout, out);
    if (!ad_tape_error(s->trace)) {
        int count = ad_frontier(nout, out, 0, NULL);
        if (count > 0) s->frontier = malloc((size_t)count * sizeof *s->frontier);
        s->nshared = s->frontier ? ad_frontier(nout, out, count, s->frontier) : 0;
        if ((count > 0 && !s->frontier) || !ode_system_new_shared(s, s->nshared))
            ad_fail(s->trace, "out of memory");
        else
            for (int i = 0; i < s->nshared; i++) describe_shared(s, i);
    }
    bool of_field = ad_tape_error(s->trace) != NULL;
    if (!of_field) ode_norm_trace(s);
    const char *error = ad_tape_error(s->trace);
    if (!error) return true;
    /* the caller's tape was clean: an error there comes from a captured variable, and is named here
     */
    ad_tape_clear_error(tape);
    ad_fail(tape, "%s: in %s: %s", caller, of_field ? "the field" : "options.norm", error);
    return false;
}

/* ---- making and freeing ---- */

static bool make_lock(pthread_mutex_t *lock)
{
    pthread_mutexattr_t kind;
    if (pthread_mutexattr_init(&kind)) return false;
    bool made = !pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE) &&
                !pthread_mutex_init(lock, &kind);
    pthread_mutexattr_destroy(&kind);
    return made;
}

ode_system *ode_system_new(ad_dtype dtype)
{
    ode_system *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    if (!make_lock(&s->lock)) {
        free(s);
        return NULL;
    }
    atomic_init(&s->references, 1);
    s->dtype = dtype;
    s->rank = AD_MAX_RANK;
    s->nclocks = 1;
    return s;
}

/* Sizes beyond the rank as zeros, so that equal shapes are equal bytes. */
static ad_shape clean(ad_shape shape)
{
    for (int i = shape.rank; i < AD_MAX_RANK; i++) shape.dim[i] = 0;
    return shape;
}

void ode_system_add_state(ode_system *s, ad_shape shape)
{
    int64_t n = ad_count(shape, 1);
    s->state[s->nstate] = clean(shape);
    s->size[s->nstate++] = n;
    s->width += n;
    if (shape.rank < s->rank) s->rank = shape.rank;
}

/* Tangent systems live as long as what they are the tangents of. */
static ode_system *owner(ode_system *s) { return (ode_system *)ode_system_root(s); }

ode_system *ode_system_retain(ode_system *s)
{
    atomic_fetch_add(&owner(s)->references, 1);
    return s;
}

static void free_system(ode_system *s)
{
    if (s->units) s->free_units(s->units);
    while (s->augmented) {
        ode_system *a = s->augmented;
        s->augmented = a->next;
        free_system(a);
    }
    while (s->tangents) {
        ode_system *a = s->tangents;
        s->tangents = a->next;
        free_system(a);
    }
    ad_tape_free(s->trace);
    for (int i = 0; i < s->nknots; i++) free(s->knots[i].knot);
    free(s->knots);
    free(s->frontier);
    free(s->shared);
    free(s->shared_from);
    free(s->quad);
    free(s->quad_of);
    ode_residuals_free(s->residuals);
    while (s->pauses) {
        ode_pause *p = s->pauses;
        s->pauses = p->next;
        free(p);
    }
    if (s->owns_user) free(s->user);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

void ode_system_release(void *system)
{
    ode_system *s = system ? owner(system) : NULL;
    if (s && atomic_fetch_sub(&s->references, 1) == 1) free_system(s);
}

static bool copy_user(ode_system *s, const ode_right_side *right)
{
    s->user = right->user;
    if (!right->user_size) return true;
    s->user = malloc(right->user_size);
    s->owns_user = s->user != NULL;
    if (s->user) memcpy(s->user, right->user, right->user_size);
    return s->user != NULL;
}

static ode_system *describe(ad_tape *tape, const ode_right_side *right, int nstate,
                            const ad_var *y0, int nargs, const ad_var *args, bool rerecord)
{
    ode_system *s = ode_system_new(ad_tape_dtype(tape));
    if (!s || !copy_user(s, right)) {
        ode_system_release(s);
        ad_fail(tape, "%s: out of memory", right->caller);
        return NULL;
    }
    s->field = right->field;
    s->fields = right->fields;
    s->diffusion = right->diffusion;
    s->diffusions = right->diffusions;
    s->calculus = right->calculus;
    s->langevin = right->langevin;
    if (right->sde && right->sde->calculus != right->calculus)
        s->correction = right->calculus == SDE_ITO ? 0.5 : -0.5;
    s->rerecord = rerecord;
    if (right->norm) s->norm = *right->norm;
    s->last = right->last;
    for (int i = 0; i < nstate; i++) ode_system_add_state(s, ad_shape_of(y0[i]));
    s->nargs = nargs;
    for (int i = 0; i < nargs; i++) {
        s->arg[i] = clean(ad_shape_of(args[i]));
        if (ad_has_rows(s->arg[i])) s->row[s->nrow++] = i;
    }
    return s;
}

/* Without a trace the shared values are the shared arguments. */
static bool share_arguments(ode_system *s)
{
    if (!ode_system_new_shared(s, s->nargs)) return false;
    for (int i = 0; i < s->nargs; i++) {
        if (ad_has_rows(s->arg[i])) continue;
        s->shared_from[s->nshared] = (uint64_t)1 << i;
        s->shared[s->nshared++] = s->arg[i];
    }
    return true;
}

static int trace_inputs(const ode_system *s, ad_var *in)
{
    int n = 0;
    in[n++] = s->t;
    for (int i = 0; i < s->nstate; i++) in[n++] = s->y[i];
    for (int i = 0; i < s->nargs; i++) in[n++] = s->args[i];
    for (int i = 0; i < s->nstate && s->norm.record; i++) in[n++] = s->scaled[i];
    return n;
}

/* The system of an equal function that the tape has already seen, or this one, which the tape then
 * keeps. */
static ode_system *through_cache(ode_system *s, ad_tape *tape, const char *caller)
{
    static const char tag[] = "ode_system";
    ad_var in[1 + 2 * ODE_MAX_STATES + ODE_MAX_ARGS], out[2 * ODE_MAX_STATES + 1];
    /* The function's key has the shapes of all inputs, also of an argument that the field does not
     * use. */
    size_t length = 0, knots = 0;
    for (int i = 0; i < s->nknots; i++)
        knots += sizeof *s->knots + (size_t)s->knots[i].n * sizeof(double);
    int normed = s->norm.record != NULL, nout = ode_system_outputs(s, out);
    const ode_noise_of *noise = &s->noise;
    const int counts[] = { s->nstate,       s->nargs,         s->nknots,
                           normed,          (int)noise->kind, (int)noise->states,
                           noise->additive, (int)s->calculus, s->langevin };
    if (normed) out[nout++] = s->norm_value;
    void *function = ad_function_key(trace_inputs(s, in), in, nout, out, &length);
    char *key = function ? malloc(sizeof tag + sizeof counts + knots + length) : NULL;
    if (!key) {
        free(function);
        ode_system_release(s);
        ad_fail(tape, "%s: out of memory", caller);
        return NULL;
    }
    char *end = key;
    memcpy(end, tag, sizeof tag);
    end += sizeof tag;
    memcpy(end, counts, sizeof counts);
    end += sizeof counts;
    /* The same function can be written with knots that nobody stops at. */
    for (int i = 0; i < s->nknots; i++) {
        const ode_knots *k = &s->knots[i];
        int64_t numbers[] = { k->arg, k->jump, k->n };
        memcpy(end, numbers, sizeof numbers);
        end += sizeof numbers;
        if (k->knot) {
            memcpy(end, k->knot, (size_t)k->n * sizeof(double));
            end += (size_t)k->n * sizeof(double);
        }
    }
    memcpy(end, function, length);
    end += length;
    length = (size_t)(end - key);
    ode_system *found = ad_cache_find(tape, key, length);
    if (found) {
        ode_system_release(s);
        s = ode_system_retain(found);
    } else {
        ad_cache_add(tape, key, length, ode_system_retain(s), ode_system_release);
    }
    free(function);
    free(key);
    return s;
}

/* An input, of one row where it has rows. */
static ad_var ones(ad_tape *tape, ad_shape shape)
{
    double *x = malloc((size_t)ad_count(shape, 1) * sizeof *x);
    if (!x) ad_fail(tape, "out of memory");
    for (int64_t i = 0; x && i < ad_count(shape, 1); i++) x[i] = 1;
    ad_var input = !x                   ? ad_none(tape)
                   : ad_has_rows(shape) ? ad_input_rows_data(tape, shape, 1, AD_F64, x)
                                        : ad_input_data(tape, shape, AD_F64, x);
    free(x);
    return input;
}

/* What noise a diffusion makes that is called anew at every step: called once, with ones for all
 * numbers. */
static bool see_noise(ode_system *s, ad_tape *caller_tape, const char *caller)
{
    ad_tape *tape = ad_tape_new(s->dtype);
    ad_var y[ODE_MAX_STATES], args[ODE_MAX_ARGS], dy[ODE_MAX_STATES], g[ODE_MAX_STATES];
    if (tape) {
        for (int i = 0; i < s->nstate; i++) y[i] = ones(tape, s->state[i]);
        for (int i = 0; i < s->nargs; i++) args[i] = ones(tape, s->arg[i]);
        ode_system_call(s, tape, ones(tape, ode_time_shape(s->rank)), y, args, dy, g);
    }
    const char *error = tape ? ad_tape_error(tape) : "out of memory";
    if (error) ad_fail(caller_tape, "%s: in the field, called with ones: %s", caller, error);
    ad_tape_free(tape);
    return !error;
}

ode_system *ode_system_make(ad_tape *tape, const ode_right_side *right, int nstate,
                            const ad_var *y0, int nargs, const ad_var *args, bool rerecord)
{
    ode_system *s = describe(tape, right, nstate, y0, nargs, args, rerecord);
    if (!s) return NULL;
    if (rerecord) {
        bool shared = share_arguments(s);
        if (!shared) ad_fail(tape, "%s: out of memory", right->caller);
        if (shared && (!is_stochastic(s) || see_noise(s, tape, right->caller))) return s;
    } else if (trace_field(s, tape, right->caller)) {
        return through_cache(s, tape, right->caller);
    }
    ode_system_release(s);
    return NULL;
}

/* The states of the base as per-row arguments after its own. */
static void give_states(ode_system *s)
{
    s->ngiven = s->base->nstate;
    for (int i = 0; i < s->ngiven; i++) {
        s->arg[s->nargs] = s->base->state[i];
        s->row[s->nrow++] = s->nargs++;
    }
}

static ode_system *make_augmented(ode_system *base, uint64_t need, bool given)
{
    ode_system *s = ode_system_new(base->dtype);
    if (!s) return NULL;
    s->base = base;
    s->need = need;
    s->rerecord = base->rerecord;
    s->noise = base->noise;
    for (int k = given; k < 2; k++)
        for (int i = 0; i < base->nstate; i++) ode_system_add_state(s, base->state[i]);
    s->nrow = base->nrow;
    s->nshared = base->nshared;
    s->nargs = base->nargs;
    memcpy(s->arg, base->arg, sizeof s->arg);
    memcpy(s->row, base->row, sizeof s->row);
    size_t most = (size_t)base->nrow + (size_t)base->nshared + 1;
    bool shared = ode_system_new_shared(s, base->nshared);
    s->quad = calloc(most, sizeof *s->quad);
    s->quad_of = calloc(most, sizeof *s->quad_of);
    if (!shared || !s->quad || !s->quad_of) {
        free_system(s);
        return NULL;
    }
    memcpy(s->shared, base->shared, (size_t)base->nshared * sizeof *s->shared);
    memcpy(s->shared_from, base->shared_from, (size_t)base->nshared * sizeof *s->shared_from);
    for (int i = 0; i < base->nrow; i++) {
        if (!(need >> base->row[i] & 1)) continue;
        s->quad[s->nquad] = base->arg[base->row[i]];
        s->quad_of[s->nquad++] = i;
    }
    s->nquad_row = s->nquad;
    for (int i = 0; i < base->nshared; i++) {
        if (!ode_shared_needed(base, i, need)) continue;
        s->quad[s->nquad] = base->shared[i];
        s->quad_of[s->nquad++] = i;
    }
    if (given) give_states(s);
    s->next = base->augmented;
    base->augmented = s;
    return s;
}

ode_system *ode_system_augmented(ode_system *base, uint64_t need, bool given)
{
    ode_system_lock(base);
    ode_system *a = base->augmented;
    while (a && (a->need != need || (a->ngiven > 0) != given)) a = a->next;
    if (!a) a = make_augmented(base, need, given);
    ode_system_unlock(base);
    return a;
}

void ode_row_arguments(const ode_system *s, const void *const *args, const void **row)
{
    for (int i = 0; i < s->nrow - s->ngiven; i++) row[i] = args[s->row[i]];
}
