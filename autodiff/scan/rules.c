/* The operation of a scan, and its derivatives, which are scans.
 *
 * The VJP of a step is a function of its carries, inputs and arguments, of residuals, and of
 * cotangents; linear in the latter. Run in the other order, cotangents of carries are its carries,
 * those of outputs (hidden ones too) its inputs, those of sums its arguments; cotangents of inputs
 * are its outputs, those of arguments its sums. The JVP is the same in the scan's own order, with
 * tangents. What either reads of the scan are its inputs, hidden outputs and arguments. */
#include "autodiff/scan/scan.h"
#include "autodiff/tape/tape.h"
#include <stdlib.h>
#include <string.h>

/* Where an operand of a derivative comes from: operand or result `number` of the scan, or what is
 * given (cotangents of results, tangents of operands) with that number. */
typedef enum { FROM_OPERAND, FROM_RESULT, FROM_GIVEN } source_kind;
typedef struct {
    source_kind kind;
    int number;
} source;

struct ad_scan_derivative {
    ad_scan_derivative *next;
    ad_scan_object *scan;
    source *operand; /* by operand of `scan` */
    int *result;     /* by operand (VJP) or result (JVP): the result of `scan`; -1: zero */
    bool reverse;    /* a VJP */
    bool key[];      /* given, then needed */
};

static const ad_opaque_class *class_of(const ad_scan_object *s);

bool ad_scan_record(ad_scan_object *s, ad_tape *tape, const ad_var *operand, ad_var *result)
{
    int n = ad_scan_results(s);
    ad_shape *shape = malloc((size_t)(n + 1) * sizeof *shape);
    if (!shape) {
        ad_fail(tape, "ad_scan: out of memory");
        return false;
    }
    for (int j = 0; j < n; j++) {
        shape[j] = ad_shape_of(s->out[j]);
        if (ad_scan_stacked(s, j)) shape[j] = ad_scan_stack(shape[j], s->kind.steps);
    }
    ad_var token = ad_opaque(tape, class_of(s), ad_scan_retain(s), ad_scan_operands(s), operand, n,
                             shape, result);
    free(shape);
    return ad_valid(token);
}

/* ---- recording a derivative of the step ---- */

/* On the trace, all variables that a derivative may read: candidates for its operands, in the order
 * of the groups carries, inputs, arguments. */
typedef struct {
    int n, group[3];
    source *from;
    ad_var *x;
} candidates;

static void add_candidate(candidates *c, int group, source_kind kind, int number, ad_var x)
{
    c->from[c->n] = (source){ kind, number };
    c->x[c->n++] = x;
    c->group[group]++;
}

/* seed: cotangents of results or tangents of operands; invalid: not given. */
static void list_candidates(const ad_scan_object *s, bool reverse, const ad_var *seed,
                            candidates *c)
{
    int ncarry = s->kind.ncarry, first_arg = ncarry + s->kind.ninput;
    int nin = ad_scan_operands(s), nout = ad_scan_results(s), nseed = reverse ? nout : nin;
    for (int i = 0; i < ncarry; i++) add_candidate(c, 0, FROM_GIVEN, i, seed[i]);
    for (int i = ncarry; i < first_arg; i++) add_candidate(c, 1, FROM_OPERAND, i, s->in[i]);
    for (int j = ad_scan_first_hidden(s); j < nout; j++)
        add_candidate(c, 1, FROM_RESULT, j, s->out[j]);
    for (int pass = 1; pass < 3; pass++) {
        if (pass == 2)
            for (int i = first_arg; i < nin; i++) add_candidate(c, 2, FROM_OPERAND, i, s->in[i]);
        for (int j = ncarry; j < nseed; j++) {
            bool stacked = reverse ? ad_scan_stacked(s, j) : j < first_arg;
            if (seed[j].node >= 0 && stacked == (pass == 1))
                add_candidate(c, pass, FROM_GIVEN, j, seed[j]);
        }
    }
}

/* Leaves out, but for carries, what none of the results needs. */
static bool drop_unused(ad_tape *tape, candidates *c, int nresult, const ad_var *result)
{
    ad_reach needed = { 0 };
    ad_reach_limits limits = { .nend = c->n, .end = c->x };
    if (nresult > 0 && !ad_reach_find(&needed, tape, nresult, result, &limits)) return false;
    char *used = calloc((size_t)ad_tape_size(tape) + 1, 1);
    if (!used) ad_fail(tape, "out of memory");
    int all = c->n, at = 0;
    const int group[3] = { c->group[0], c->group[1], c->group[2] };
    for (int32_t k = 0; used && k < needed.n; k++) used[needed.node[k]] = 1;
    c->n = 0;
    for (int g = 0; used && g < 3; g++) {
        c->group[g] = 0;
        for (int i = 0; i < group[g]; i++, at++)
            if (g == 0 || used[c->x[at].node])
                add_candidate(c, g, c->from[at].kind, c->from[at].number, c->x[at]);
    }
    AD_ASSERT(!used || at == all);
    (void)all;
    ad_reach_clear(&needed);
    bool fine = used != NULL;
    free(used);
    return fine;
}

static bool is_zero(ad_var x)
{
    const ad_node *n = ad_node_at(x.tape, x.node);
    return n->op == AD_OP_fill && n->data[0] == 0;
}

/* A scan whose step is recorded on another trace: of `x` in the place of its operands. */
static ad_scan_object *move(const ad_scan_object *s, bool reverse, const candidates *c, int noutput,
                            int nsum, const ad_var *out)
{
    ad_scan_kind kind = { .dtype = s->kind.dtype,
                          .steps = s->kind.steps,
                          .reverse = reverse,
                          .ncarry = c->group[0],
                          .ninput = c->group[1],
                          .narg = c->group[2] };
    int nout = kind.ncarry + noutput + nsum;
    ad_shape *shape = malloc((size_t)(c->n + 1) * sizeof *shape);
    ad_var *moved = malloc((size_t)(nout + 1) * sizeof *moved);
    ad_scan_object *d = NULL;
    if (shape && moved) {
        for (int i = 0; i < c->n; i++) shape[i] = ad_shape_of(c->x[i]);
        d = ad_scan_new(&kind, shape);
    }
    if (!d) ad_fail(s->trace, "out of memory");
    if (d && nout > 0) ad_inline(c->n, c->x, nout, out, d->trace, d->in, moved);
    if (d && (ad_tape_error(d->trace) || !ad_scan_finish(d, noutput, nsum, moved))) {
        ad_fail(s->trace, "%s", ad_tape_error(d->trace));
        ad_scan_release(d);
        d = NULL;
    }
    free(shape);
    free(moved);
    return d;
}

/* What a derivative of the step is recorded with: room for all lists. */
typedef struct {
    ad_var *seed, *y, *bar, *out, *x;
    int *number;
} lists;

/* Cotangents of carries, then of needed inputs and arguments; out has those that are results of the
 * derivative, and result[] says which. */
static void record_vjp(const ad_scan_object *s, const bool *given, const bool *need, lists *l,
                       int count[2], int *result)
{
    int ncarry = s->kind.ncarry, first_arg = ncarry + s->kind.ninput, nout = ad_scan_results(s);
    int nin = ad_scan_operands(s), ny = 0, nx = 0, n = 0;
    ad_var *seed = l->x + nin; /* of the y's */
    for (int j = 0; j < nout; j++) {
        l->seed[j] = ad_none(s->trace);
        if (j >= ncarry && !given[j]) continue;
        l->seed[j] = ad_scan_source(s->trace, ad_shape_of(s->out[j]));
        seed[ny] = l->seed[j];
        l->y[ny++] = s->out[j];
    }
    for (int i = 0; i < nin; i++) {
        result[i] = -1;
        if (i >= ncarry && !need[i]) continue;
        l->number[nx] = i;
        l->x[nx++] = s->in[i];
    }
    if (nx > 0) ad_vjp_cut(ny, l->y, seed, nx, l->x, l->bar);
    for (int i = 0; i < nx && !ad_tape_error(s->trace); i++) {
        if (i >= ncarry && is_zero(l->bar[i])) continue;
        result[l->number[i]] = n;
        l->out[n++] = l->bar[i];
        if (i >= ncarry) count[l->number[i] >= first_arg]++;
    }
}

/* Tangents of carries, then of outputs and hidden ones, then of sums. */
static void record_jvp(const ad_scan_object *s, const bool *given, lists *l, int count[2],
                       int *result)
{
    int ncarry = s->kind.ncarry, nin = ad_scan_operands(s), nout = ad_scan_results(s);
    int nx = 0, n = 0;
    ad_var *seed = l->x + nin; /* of the x's */
    for (int i = 0; i < nin; i++) {
        l->seed[i] = ad_none(s->trace);
        if (i >= ncarry && !given[i]) continue;
        l->seed[i] = ad_scan_source(s->trace, ad_shape_of(s->in[i]));
        seed[nx] = l->seed[i];
        l->x[nx++] = s->in[i];
    }
    if (nout > 0) ad_jvp_cut(nx, l->x, seed, nout, s->out, l->bar);
    for (int pass = 0; pass < 2; pass++)
        for (int j = 0; j < nout && !ad_tape_error(s->trace); j++) {
            bool stacked = j < ncarry || ad_scan_stacked(s, j);
            if (stacked != (pass == 0)) continue;
            result[j] = -1;
            if (j >= ncarry && is_zero(l->bar[j])) continue;
            result[j] = n;
            l->out[n++] = l->bar[j];
            if (j >= ncarry) count[pass]++;
        }
}

static bool make_lists(lists *l, candidates *c, size_t n)
{
    *l = (lists){ 0 };
    *c = (candidates){ 0 };
    l->seed = malloc(6 * (n + 1) * sizeof *l->seed);
    l->number = malloc((n + 1) * sizeof *l->number);
    c->from = malloc(3 * (n + 1) * sizeof *c->from);
    c->x = malloc(3 * (n + 1) * sizeof *c->x);
    if (l->seed) {
        l->y = l->seed + n;
        l->bar = l->y + n;
        l->out = l->bar + n;
        l->x = l->out + n; /* twice */
    }
    return l->seed && l->number && c->from && c->x;
}

static void free_lists(lists *l, candidates *c)
{
    free(l->seed);
    free(l->number);
    free(c->from);
    free(c->x);
}

/* d->result is filled, d->operand made. */
static ad_scan_object *derive(ad_scan_object *s, ad_scan_derivative *d)
{
    int nin = ad_scan_operands(s), nout = ad_scan_results(s), count[2] = { 0, 0 };
    int ngiven = d->reverse ? nout : nin;
    int32_t mark = ad_tape_mark(s->trace);
    lists l;
    candidates c;
    ad_scan_object *scan = NULL;
    if (!make_lists(&l, &c, (size_t)nin + (size_t)nout)) ad_fail(s->trace, "out of memory");
    else if (d->reverse) record_vjp(s, d->key, d->key + ngiven, &l, count, d->result);
    else record_jvp(s, d->key, &l, count, d->result);
    if (!ad_tape_error(s->trace)) {
        list_candidates(s, d->reverse, l.seed, &c);
        if (drop_unused(s->trace, &c, s->kind.ncarry + count[0] + count[1], l.out))
            scan = move(s, d->reverse != s->kind.reverse, &c, count[0], count[1], l.out);
    }
    if (scan) {
        d->operand = c.from;
        c.from = NULL;
    }
    free_lists(&l, &c);
    ad_tape_rewind(s->trace, mark);
    return scan;
}

/* ---- derivatives, kept with the scan ---- */

static void free_derivatives(ad_scan_derivative *first)
{
    while (first) {
        ad_scan_derivative *d = first;
        first = d->next;
        ad_scan_release(d->scan);
        free(d->operand);
        free(d->result);
        free(d);
    }
}

static ad_scan_derivative *make_derivative(ad_scan_object *s, bool reverse, const bool *key,
                                           size_t length)
{
    size_t n = (size_t)(reverse ? ad_scan_operands(s) : ad_scan_results(s));
    ad_scan_derivative *d = calloc(1, sizeof *d + length * sizeof *key);
    if (d) d->result = malloc((n + 1) * sizeof *d->result);
    if (!d || !d->result) {
        free(d);
        ad_fail(s->trace, "out of memory");
        return NULL;
    }
    d->reverse = reverse;
    memcpy(d->key, key, length * sizeof *key);
    d->scan = derive(s, d);
    if (!d->scan) {
        free_derivatives(d);
        return NULL;
    }
    d->next = s->derivatives;
    s->derivatives = d;
    s->free_derivatives = free_derivatives;
    return d;
}

/* given: of results (VJP) or operands (JVP); need: of operands (VJP) or NULL. Carries count as
 * given and needed. Errors are reported on the tape. */
static const ad_scan_derivative *derivative(ad_scan_object *s, ad_tape *tape, bool reverse,
                                            const ad_var *given, const bool *need)
{
    int ncarry = s->kind.ncarry, nin = ad_scan_operands(s);
    int ngiven = reverse ? ad_scan_results(s) : nin, nneed = reverse ? nin : 0;
    size_t length = (size_t)ngiven + (size_t)nneed;
    bool *key = malloc((length + 1) * sizeof *key);
    if (!key) {
        ad_fail(tape, "ad_scan: out of memory");
        return NULL;
    }
    for (int j = 0; j < ngiven; j++) key[j] = j < ncarry || given[j].node >= 0;
    for (int i = 0; i < nneed; i++) key[ngiven + i] = i < ncarry || need[i];
    pthread_mutex_lock(&s->lock);
    ad_scan_derivative *d = s->derivatives;
    while (d && (d->reverse != reverse || memcmp(d->key, key, length * sizeof *key))) d = d->next;
    if (!d) d = make_derivative(s, reverse, key, length);
    if (!d) {
        const char *why = ad_tape_error(s->trace);
        ad_fail(tape, "ad_scan: in the derivative of the step: %s", why ? why : "out of memory");
        ad_tape_clear_error(s->trace);
    }
    pthread_mutex_unlock(&s->lock);
    free(key);
    return d;
}

/* Records the derivative at operands and results of the scan; to[i] becomes its result for number
 * i, where it has one. */
static void apply(const ad_scan_object *s, const ad_scan_derivative *d, ad_tape *tape,
                  const ad_var *in, const ad_var *out, const ad_var *given, ad_var *to)
{
    int n = ad_scan_operands(d->scan), nresult = ad_scan_results(d->scan);
    int nto = d->reverse ? ad_scan_operands(s) : ad_scan_results(s);
    ad_var *operand = malloc((size_t)(n + nresult + 1) * sizeof *operand), *result = operand + n;
    if (!operand) {
        ad_fail(tape, "ad_scan: out of memory");
        return;
    }
    for (int i = 0; i < n; i++) {
        source from = d->operand[i];
        operand[i] = from.kind == FROM_OPERAND  ? in[from.number]
                     : from.kind == FROM_RESULT ? out[from.number]
                                                : given[from.number];
        if (operand[i].node < 0) operand[i] = ad_fill(tape, ad_shape_of(d->scan->in[i]), 0);
    }
    if (ad_scan_record(d->scan, tape, operand, result))
        for (int i = 0; i < nto; i++)
            if (d->result[i] >= 0) to[i] = result[d->result[i]];
    free(operand);
}

static void vjp(void *data, ad_var token, int nin, const ad_var *in, int nout, const ad_var *out,
                const ad_var *ybar, const bool *need, ad_var *xbar)
{
    ad_scan_object *s = data;
    (void)nin, (void)nout;
    const ad_scan_derivative *d = derivative(s, token.tape, true, ybar, need);
    if (d) apply(s, d, token.tape, in, out, ybar, xbar);
}

static void jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot, int nout,
                const ad_var *out, ad_var *ydot)
{
    ad_scan_object *s = data;
    (void)nin, (void)nout;
    const ad_scan_derivative *d = derivative(s, token.tape, false, xdot, NULL);
    if (d) apply(s, d, token.tape, in, out, xdot, ydot);
}

/* ---- the operation ---- */

static void retain(void *data) { ad_scan_retain(data); }

#define SCAN_CLASS(steps)                                                                          \
    {                                                                                              \
        .name = "ad_scan", .forward = ad_scan_forward, .state_new = ad_scan_state_new,             \
        .state_free = ad_scan_state_free, .retain = retain, .release = ad_scan_release,            \
        .vjp = vjp, .jvp = jvp, .discretises = steps, .account = ad_scan_account                   \
    }
static const ad_opaque_class plain_class = SCAN_CLASS(false), refined_class = SCAN_CLASS(true);

static const ad_opaque_class *class_of(const ad_scan_object *s)
{
    return s->discretises ? &refined_class : &plain_class;
}
