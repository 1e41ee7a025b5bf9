/* Systems: the user's field traced once on a tape of its own and cut into what depends on
 * parameters only and the rest, and the augmented system of the continuous adjoint, which is made
 * from it by ad_vjp. */
#include "ode/field/system.h"
#include <stdlib.h>
#include <string.h>

static bool broadcasts_to(ad_shape from, ad_shape to)
{
    ad_shape both;
    return ad_broadcast_shapes(from, to, &both) && ad_same_shape(both, to);
}

/* ---- calling the user's field ---- */

ad_var ode_checked_derivative(ad_tape *tape, ad_var dy, int i, ad_shape state)
{
    char got[128], want[128];
    if (ad_tape_error(tape)) return ad_none(tape);
    if (!dy.tape) {
        ad_fail(tape,
                "it returned an empty variable ({0}) for state %d: every way through the field "
                "must return the derivative",
                i);
    } else if (dy.tape != tape) {
        ad_fail(tape,
                "it returned a variable of another tape for state %d: outside variables must be "
                "passed in args",
                i);
    } else if (!ad_valid(dy)) {
        ad_fail(tape, "it returned no valid variable for state %d", i);
    } else if (broadcasts_to(ad_shape_of(dy), state)) {
        return ad_broadcast(dy, state);
    } else {
        ad_format_shape(ad_shape_of(dy), got, sizeof got);
        ad_format_shape(state, want, sizeof want);
        ad_fail(
            tape,
            "it returned %s for a state of shape %s; the derivative must have the state's shape",
            got, want);
    }
    return ad_none(tape);
}

/* Calls the field on `tape`, checks what it returns and gives it the states' shapes; g: NULL, or
 * where its diffusion goes. */
static void call_field(ode_system *s, ad_tape *tape, ad_var t, const ad_var *y, const ad_var *args,
                       ad_var *dy, ad_var *g)
{
    for (int i = 0; i < s->nstate; i++) dy[i] = ad_none(tape);
    if (ad_tape_error(tape)) return;
    if (s->field) dy[0] = s->field(t, y[0], args, s->user);
    else s->fields(t, s->nstate, y, args, s->user, dy);
    for (int i = 0; i < s->nstate; i++) dy[i] = ode_checked_derivative(tape, dy[i], i, s->state[i]);
    if (g) ode_diffusion_call(s, tape, t, y, args, g);
    ode_diffusion_at at = { .t = t, .y = y, .args = args, .g = g, .nargs = s->nargs };
    if (g) ode_diffusion_correct(s, tape, &at, s->correction, dy);
    for (int i = 0; i < s->nstate && ad_tape_error(tape); i++) dy[i] = ad_none(tape);
}

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
    call_field(s, s->trace, s->t, s->y, s->args, s->dy, is_stochastic(s) ? s->g : NULL);
    if (!ad_tape_error(s->trace) && !ode_take_knots(s)) ad_fail(s->trace, "out of memory");
    ad_var out[2 * ODE_MAX_STATES];
    int nout = ode_system_outputs(s, out);
    for (int i = 0; i < nout && !ad_tape_error(s->trace); i++)
        s->reads_time = s->reads_time || ad_depends(out[i], s->t);
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
        call_field(s, tape, ones(tape, ode_time_shape(s->rank)), y, args, dy, g);
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

/* ---- recording ---- */

/* The field as it was traced. */
static void record_traced(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                          const ad_var *row, const ad_var *shared, ad_var *dy, ad_var *g,
                          const ode_residuals *residuals, ad_var *kept)
{
    int n = 1 + s->nstate + s->nrow + s->nshared, k = 0, nkept = residuals ? residuals->n : 0,
        nout = 0;
    ad_var *in = malloc(2 * (size_t)(n + 2 * s->nstate + nkept) * sizeof *in);
    if (!in) {
        ad_fail(tape, "out of memory");
        return;
    }
    ad_var *to = in + n, *out = to + n, *result = out + 2 * s->nstate + nkept;
    in[k] = s->t;
    to[k++] = t;
    for (int i = 0; i < s->nstate; i++) {
        in[k] = s->y[i];
        to[k++] = y[i];
    }
    for (int i = 0; i < s->nrow; i++) {
        in[k] = s->args[s->row[i]];
        to[k++] = row[i];
    }
    for (int i = 0; i < s->nshared; i++) {
        in[k] = s->frontier[i];
        to[k++] = shared[i];
    }
    for (int i = 0; dy && i < s->nstate; i++) out[nout++] = s->dy[i];
    for (int i = 0; g && i < s->nstate; i++)
        if (s->noise.states >> i & 1) out[nout++] = s->g[i];
    for (int i = 0; i < nkept; i++) out[nout++] = residuals->var[i];
    ad_inline(n, in, nout, out, tape, to, result);
    const ad_var *next = result;
    for (int i = 0; dy && i < s->nstate; i++) dy[i] = *next++;
    for (int i = 0; g && i < s->nstate; i++)
        if (s->noise.states >> i & 1) g[i] = *next++;
    for (int i = 0; i < nkept; i++) kept[i] = *next++;
    free(in);
}

static void record_called(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                          const ad_var *row, const ad_var *shared, ad_var *dy, ad_var *g)
{
    ad_var args[ODE_MAX_ARGS], drift[ODE_MAX_STATES], diffusion[ODE_MAX_STATES];
    int nrow = 0, nshared = 0;
    for (int i = 0; i < s->nargs; i++)
        args[i] = ad_has_rows(s->arg[i]) ? row[nrow++] : shared[nshared++];
    bool both = g || s->correction != 0;
    call_field((ode_system *)s, tape, t, y, args, dy ? dy : drift, both ? diffusion : NULL);
    if (g) memcpy(g, diffusion, (size_t)s->nstate * sizeof *g);
}

void ode_system_record_kept(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                            const ad_var *row, const ad_var *shared, ad_var *dy, ad_var *g,
                            const ode_residuals *residuals, ad_var *kept)
{
    for (int i = 0; i < s->nstate; i++) {
        if (dy) dy[i] = ad_none(tape);
        if (g) g[i] = ad_none(tape);
    }
    for (int i = 0; residuals && i < residuals->n; i++) kept[i] = ad_none(tape);
    if (s->trace) record_traced(s, tape, t, y, row, shared, dy, g, residuals, kept);
    else record_called(s, tape, t, y, row, shared, dy, g);
}

void ode_check_argument(const ode_system *s, ad_var arg, bool row, int i, ad_var bar)
{
    const double *zero = s->rerecord ? ad_constant_elements(bar) : NULL;
    for (int64_t k = 0; zero && k < ad_constant_size(bar); k++)
        if (zero[k] != 0) return;
    if (!zero || !ad_looked_at(arg)) return;
    int argument = 0;
    for (int before = 0; argument < s->nargs - 1; argument++)
        if (ad_has_rows(s->arg[argument]) == row && before++ == i) break;
    ad_fail(arg.tape,
            "the field reads the value of argument %d (ad_value, ad_item) and depends on it in no "
            "other way; to the gradient a number is a "
            "constant, so that it would be 0: compute with the variable",
            argument);
}

static void correct_from_ito(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                             const ad_var *row, const ad_var *shared, const ad_var *g, ad_var *f)
{
    int n = s->nrow + s->nshared;
    ad_var *args = malloc((size_t)(n + 1) * sizeof *args);
    if (!args) {
        ad_fail(tape, "out of memory");
        return;
    }
    if (s->nrow) memcpy(args, row, (size_t)s->nrow * sizeof *args);
    if (s->nshared) memcpy(args + s->nrow, shared, (size_t)s->nshared * sizeof *args);
    ode_diffusion_at at = { .t = t, .y = y, .args = args, .g = g, .nargs = n };
    ode_diffusion_correct(s, tape, &at, -0.5, f);
    free(args);
}

/* f h + g w; stratonovich: f is that of the calculus whatever the system's own. */
static void record_driven(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                          const ad_var *row, const ad_var *shared, const ode_driving *by,
                          bool stratonovich, ad_var *dy, const ode_residuals *residuals,
                          ad_var *kept)
{
    ad_var f[ODE_MAX_STATES], g[ODE_MAX_STATES];
    ode_system_record_kept(s, tape, t, y, row, shared, f, g, residuals, kept);
    if (stratonovich && s->calculus == SDE_ITO) correct_from_ito(s, tape, t, y, row, shared, g, f);
    ode_diffusion_apply(s, tape, g, by->w, dy);
    for (int j = 0; j < s->nstate; j++) {
        ad_var drift = ad_mul(by->h, f[j]);
        dy[j] = dy[j].node < 0 ? drift : ad_add(drift, dy[j]);
    }
}

/* x' = f, a' = -(df/dx)^T a, q' = -(df/dargs)^T a (Pontryagin's adjoint; Chen et al. 2018,
 * arXiv:1806.07366, appendix B). Where x is given, the first is left out. Costates come first: the
 * program of a step computes what its first result needs in order, so that each stage's costate
 * follows on its state, whose hidden units need not wait for it. */
static void record_augmented(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                             const ad_var *row, const ad_var *shared, const ode_driving *by,
                             ad_var *dy, ad_var *quad)
{
    int n = s->base->nstate, nquad = quad ? s->nquad : 0;
    const ad_var *state = s->ngiven ? row + s->nrow - s->ngiven : y + n, *costate = y;
    ad_var f[ODE_MAX_STATES], *slope = s->ngiven ? f : dy + n, *costate_slope = dy;
    if (by) record_driven(s->base, tape, t, state, row, shared, by, true, slope, NULL, NULL);
    else ode_system_record(s->base, tape, t, state, row, shared, slope, NULL);
    ad_var *x = malloc(2 * (size_t)(n + nquad) * sizeof *x);
    if (!x) ad_fail(tape, "out of memory");
    if (ad_tape_error(tape)) {
        free(x);
        for (int i = 0; i < n; i++) costate_slope[i] = ad_none(tape);
        for (int i = 0; i < nquad; i++) quad[i] = ad_none(tape);
        return;
    }
    ad_var *bar = x + n + nquad;
    for (int i = 0; i < n; i++) x[i] = state[i];
    for (int i = 0; i < nquad; i++)
        x[n + i] = i < s->nquad_row ? row[s->quad_of[i]] : shared[s->quad_of[i]];
    ad_vjp_cut(n, slope, costate, n + nquad, x, bar);
    for (int i = 0; i < n; i++) costate_slope[i] = ad_neg(bar[i]);
    for (int i = 0; i < nquad; i++) {
        ode_check_argument(s, x[n + i], i < s->nquad_row, s->quad_of[i], bar[n + i]);
        quad[i] = ad_neg(bar[n + i]);
    }
    free(x);
}

void ode_system_record(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                       const ad_var *row, const ad_var *shared, ad_var *dy, ad_var *quad)
{
    if (s->base) record_augmented(s, tape, t, y, row, shared, NULL, dy, quad);
    else ode_system_record_kept(s, tape, t, y, row, shared, dy, NULL, NULL, NULL);
}

void ode_system_record_driven(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                              const ad_var *row, const ad_var *shared, const ode_driving *by,
                              ad_var *dy, ad_var *quad, const ode_residuals *residuals,
                              ad_var *kept)
{
    if (s->base) record_augmented(s, tape, t, y, row, shared, by, dy, quad);
    else record_driven(s, tape, t, y, row, shared, by, false, dy, residuals, kept);
}

void ode_row_arguments(const ode_system *s, const void *const *args, const void **row)
{
    for (int i = 0; i < s->nrow - s->ngiven; i++) row[i] = args[s->row[i]];
}
