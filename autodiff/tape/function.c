/* Functions between variables of a tape: recorded again elsewhere, cut at what depends on
 * parameters only, named by a key.
 *
 * A function is a list of inputs and a list of outputs; its body is what the outputs need, as far
 * as the inputs. Inlining walks the body in order and records it again on the target tape. The
 * frontier is the cut below which nothing depends on more than parameters: what a solve computes
 * once. Residuals are the cut between an evaluation and its VJP: the fewest variables from which
 * all that the VJP needs follows cheaply. A key is a canonical string of the body: equal keys,
 * equal functions; caches of compiled programs go by it, never by a pointer. */
#include "autodiff/tape/tape.h"
#include <stdlib.h>
#include <string.h>

/* What a list of outputs needs, stopping at `in`. wanted[node] is 1 for nodes to visit, 2 for in.
 * NULL: out of memory. */
static char *reach(ad_tape *t, int nin, const ad_var *in, int nout, const ad_var *out,
                   int32_t *last)
{
    *last = -1;
    for (int i = 0; i < nout; i++)
        if (out[i].node > *last) *last = out[i].node;
    char *wanted = calloc((size_t)*last + 2, 1);
    if (!wanted) {
        ad_fail(t, "out of memory (%d nodes)", (int)*last + 1);
        return NULL;
    }
    for (int i = 0; i < nin; i++)
        if (in[i].node <= *last) wanted[in[i].node] = 2;
    for (int i = 0; i < nout; i++)
        if (!wanted[out[i].node]) wanted[out[i].node] = 1;
    for (int32_t k = *last; k >= 0; k--) {
        if (wanted[k] != 1) continue;
        const ad_node *n = ad_node_at(t, k);
        for (int i = 0; i < n->nin; i++)
            if (!wanted[n->in[i]]) wanted[n->in[i]] = 1;
    }
    return wanted;
}

/* map: by node of the source, what stands for it on the target; results that are wanted otherwise
 * (arguments) are left alone. */
static ad_var record_opaque_again(ad_tape *target, const ad_tape *source, int32_t node,
                                  const ad_node *n, const char *wanted, int32_t last, ad_var *map)
{
    int nout = (int)n->attr[0];
    ad_var *vars = malloc((size_t)(n->nin + nout + 1) * sizeof *vars);
    ad_shape *shapes = malloc((size_t)(nout + 1) * sizeof *shapes);
    ad_var token = ad_none(target);
    if (!vars || !shapes) ad_fail(target, "ad_inline: out of memory");
    else {
        for (int i = 0; i < n->nin; i++) vars[i] = map[n->in[i]];
        for (int k = 0; k < nout; k++) shapes[k] = ad_node_at(source, node + 1 + k)->shape;
        if (n->class_->retain) n->class_->retain(n->opaque);
        token = ad_opaque(target, n->class_, n->opaque, n->nin, vars, nout, shapes, vars + n->nin);
        for (int k = 0; k < nout && node + 1 + k <= last; k++)
            if (wanted[node + 1 + k] == 1) map[node + 1 + k] = vars[n->nin + k];
    }
    free(vars);
    free(shapes);
    return token;
}

static ad_var record_again(ad_tape *target, const ad_node *n, const ad_var *map)
{
    if (n->op == AD_OP_constant) return ad_constant(target, n->shape, n->data);
    if (n->op == AD_OP_fill) return ad_fill(target, n->shape, n->data[0]);
    int32_t small[8], *in = n->nin <= 8 ? small : malloc((size_t)n->nin * sizeof *in);
    if (!in) {
        ad_fail(target, "ad_inline: out of memory");
        return ad_none(target);
    }
    bool fine = true;
    for (int i = 0; i < n->nin; i++) {
        in[i] = map[n->in[i]].node;
        fine = fine && in[i] >= 0;
    }
    ad_var y =
        fine ? ad_record(target, n->op, n->nin, in, n->nattr, n->attr, n->shape) : ad_none(target);
    if (in != small) free(in);
    return y;
}

void ad_inline(int nin, const ad_var *in, int nout, const ad_var *out, ad_tape *target,
               const ad_var *args, ad_var *result)
{
    const ad_list read[] = { { "in", nin, in, false },
                             { "out", nout, out, false },
                             { "args", nin, args, false } };
    if (!ad_results_apart(target, "inline", nout, result, 3, read)) return;
    ad_clear_results(target, nout, NULL, result);
    const char *missing = !out ? "the list of outputs" : !result ? "the list of results" : NULL;
    if (!missing && nin > 0)
        missing = !in ? "the list of inputs" : !args ? "the list of arguments" : NULL;
    if (nout > 0 && missing) ad_fail_null(target, "inline", missing);
    if (nin < 0) ad_fail(target, "ad_inline: %d inputs", nin);
    if (nout < 1 || nin < 0 || missing || !target) return;
    ad_tape *t = ad_common_tape("inline", nout, out);
    bool fine = t && (nin < 1 || (ad_common_tape("inline", nin, in) == t &&
                                  ad_common_tape("inline", nin, args) == target));
    if (!fine) {
        const char *why = out[0].tape ? ad_tape_error(out[0].tape) : NULL;
        ad_fail(target, "%s",
                why ? why
                    : "ad_inline: the function's variables must be on one tape, its arguments on "
                      "the target");
        return;
    }
    for (int i = 0; i < nin; i++)
        if (!ad_same_shape(ad_shape_of(in[i]), ad_shape_of(args[i]))) {
            ad_fail_shapes(target, "inline",
                           "an argument must have the shape of the variable whose place it takes",
                           1, &args[i]);
            return;
        }
    int32_t last;
    char *wanted = reach(t, nin, in, nout, out, &last);
    ad_var *map = malloc(((size_t)last + 2) * sizeof *map);
    if (!wanted || !map) ad_fail(target, "ad_inline: out of memory");
    else {
        for (int32_t k = 0; k <= last; k++) map[k] = ad_none(target);
        for (int i = 0; i < nin; i++)
            if (in[i].node <= last) map[in[i].node] = args[i];
        for (int32_t k = 0; k <= last && !ad_tape_error(target); k++) {
            if (wanted[k] != 1) continue;
            const ad_node *n = ad_node_at(t, k);
            char shape[128];
            ad_format_shape(n->shape, shape, sizeof shape);
            if (n->op == AD_OP_input)
                ad_fail(target,
                        "ad_inline: the function depends on an input of shape %s that is not among "
                        "its arguments",
                        shape);
            else if (n->op == AD_OP_opaque)
                map[k] = record_opaque_again(target, t, k, n, wanted, last, map);
            else if (n->op != AD_OP_project) map[k] = record_again(target, n, map);
        }
        for (int j = 0; j < nout && !ad_tape_error(target); j++) result[j] = map[out[j].node];
    }
    free(map);
    free(wanted);
}

int ad_frontier(int nout, const ad_var *out, int max, ad_var *frontier)
{
    ad_tape *t = nout > 0 ? ad_common_tape("frontier", nout, out) : NULL;
    if (t && max > 0 && !frontier) ad_fail_null(t, "frontier", "the list of results");
    if (!t || ad_tape_error(t)) return -1;
    int32_t last;
    int count = 0;
    char *wanted = reach(t, 0, NULL, nout, out, &last);
    if (!wanted) return -1;
    for (int32_t k = 0; k <= last; k++) wanted[k] = wanted[k] ? 1 : 0;
    /* 4: on the frontier */
    for (int j = 0; j < nout; j++) wanted[out[j].node] |= 4;
    for (int32_t k = 0; k <= last; k++) {
        const ad_node *n = ad_node_at(t, k);
        if (!(wanted[k] & 1) || n->level <= AD_LEVEL_PARAMETER) continue;
        for (int i = 0; i < n->nin; i++) wanted[n->in[i]] |= 4;
    }
    for (int32_t k = 0; k <= last; k++) {
        const ad_node *n = ad_node_at(t, k);
        if (!(wanted[k] & 4) || n->level != AD_LEVEL_PARAMETER || n->op == AD_OP_opaque) continue;
        if (count < max) frontier[count] = ad_var_at(t, k);
        count++;
    }
    free(wanted);
    return count;
}

/* ---- residuals ---- */

enum { WANTED = 1, KEPT = 2, AVAILABLE = 4 };

/* Whether node k follows from the other kept and the available ones by cheap operations. */
static bool follows(ad_tape *t, char *mark, int32_t k, char *known)
{
    for (int32_t j = 0; j <= k; j++) {
        const ad_node *n = ad_node_at(t, j);
        known[j] = n->level != AD_LEVEL_ROW || mark[j] & AVAILABLE || (mark[j] & KEPT && j != k);
        if (known[j] || !ad_has_trait(n->op, AD_CHEAP)) continue;
        known[j] = 1;
        for (int i = 0; i < n->nin; i++) known[j] = known[j] && known[n->in[i]];
    }
    return known[k];
}

static bool is_product(const ad_node *n)
{
    return ad_ops[n->op].kind == AD_CONTRACT || ad_ops[n->op].kind == AD_CONVOLUTION;
}

/* Marks what is wanted below the nodes marked so (the last first), and of it before `first` what
 * has rows as to be kept; what is kept or available ends the search. Returns whether all of it can
 * be kept and spares a contraction or convolution. */
static bool mark_kept(ad_tape *t, char *mark, int32_t last, int32_t first)
{
    bool spares = false;
    for (int32_t k = last; k >= 0; k--) {
        const ad_node *n = ad_node_at(t, k);
        if (!(mark[k] & WANTED)) continue;
        if (ad_ops[n->op].kind == AD_OPAQUE || ad_ops[n->op].kind == AD_RESULT) return false;
        if (k < first && n->level == AD_LEVEL_ROW && !(mark[k] & AVAILABLE)) mark[k] |= KEPT;
        if (mark[k] & (KEPT | AVAILABLE)) continue;
        for (int i = 0; i < n->nin; i++) mark[n->in[i]] |= WANTED;
    }
    for (int32_t k = 0; k < first && !spares; k++)
        spares = is_product(ad_node_at(t, k)) && ad_node_at(t, k)->level == AD_LEVEL_ROW;
    return spares;
}

int ad_residuals(int nseed, const ad_var *seed, int navailable, const ad_var *available, int nout,
                 const ad_var *out, int max, ad_var *residual)
{
    const ad_list lists[] = { { "seed", nseed, seed, false },
                              { "available", navailable, available, false },
                              { "out", nout, out, false } };
    ad_tape *t = ad_lists_tape("residuals", 3, lists);
    if (max > 0 && !residual) ad_fail_null(t, "residuals", "the list of results");
    if (!t || ad_tape_error(t) || nout < 1 || nseed < 1) return -1;
    int32_t last = 0, first = seed[0].node;
    for (int j = 0; j < nout; j++) last = out[j].node > last ? out[j].node : last;
    for (int i = 0; i < nseed; i++) first = seed[i].node < first ? seed[i].node : first;
    if (first > last + 1) first = last + 1; /* out may be older */
    char *mark = calloc(2 * ((size_t)last + 1), 1);
    if (!mark) {
        ad_fail(t, "out of memory (%d nodes)", (int)last + 1);
        return -1;
    }
    for (int i = 0; i < navailable; i++)
        if (available[i].node <= last) mark[available[i].node] |= AVAILABLE;
    for (int j = 0; j < nout; j++) mark[out[j].node] |= WANTED;
    int count = 0;
    if (mark_kept(t, mark, last, first)) {
        for (int32_t k = first - 1; k >= 0; k--)
            if (mark[k] & KEPT && follows(t, mark, k, mark + last + 1)) mark[k] &= ~KEPT;
        for (int32_t k = 0; k < first; k++) {
            if (!(mark[k] & KEPT)) continue;
            if (count < max) residual[count] = ad_var_at(t, k);
            count++;
        }
    }
    free(mark);
    return count;
}

/* ---- keys ---- */

typedef struct {
    unsigned char *bytes;
    size_t used, capacity;
    bool failed;
} buffer;

static void put(buffer *b, const void *data, size_t n)
{
    if (b->failed || !n) return;
    if (b->used + n > b->capacity) {
        size_t capacity = 2 * (b->used + n) + 256;
        unsigned char *more = realloc(b->bytes, capacity);
        if (!more) {
            b->failed = true;
            return;
        }
        b->bytes = more;
        b->capacity = capacity;
    }
    memcpy(b->bytes + b->used, data, n);
    b->used += n;
}

static void put_number(buffer *b, int64_t v) { put(b, &v, sizeof v); }

/* The body, in order, and the number that each of its nodes has in the key. */
typedef struct {
    ad_reach body;
    int32_t *number;
} numbering;

static int32_t *number_of(const numbering *l, int32_t node)
{
    int32_t low = 0;
    int32_t high = l->body.n - 1;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (l->body.node[middle] < node) low = middle + 1;
        else high = middle;
    }
    return l->body.n && l->body.node[low] == node ? &l->number[low] : NULL;
}

static void put_node(buffer *b, const ad_node *n, const numbering *l)
{
    put_number(b, n->op);
    put_number(b, n->shape.rank);
    for (int i = 0; i < n->shape.rank; i++) put_number(b, n->shape.dim[i]);
    put_number(b, n->nin);
    for (int i = 0; i < n->nin; i++) put_number(b, *number_of(l, n->in[i]));
    put_number(b, n->nattr);
    for (int i = 0; i < n->nattr; i++) put_number(b, n->attr[i]);
    put_number(b, n->ndata);
    put(b, n->data, (size_t)n->ndata * sizeof(double));
    put(b, &n->class_, sizeof n->class_);
    put(b, &n->opaque, sizeof n->opaque);
}

void *ad_function_key(int nin, const ad_var *in, int nout, const ad_var *out, size_t *length)
{
    ad_tape *t = ad_lists_tape(
        "function_key", 2, (ad_list[]){ { "out", nout, out, false }, { "in", nin, in, false } });
    if (!length) ad_fail_null(t, "function_key", "length");
    if (!t || ad_tape_error(t) || nout < 1) return NULL;
    numbering l = { .number = NULL };
    if (!ad_reach_find(&l.body, t, nout, out, &(ad_reach_limits){ .nend = nin, .end = in }))
        return NULL;
    l.number = malloc(((size_t)l.body.n + 1) * sizeof *l.number);
    buffer b = { .failed = !l.number };
    put_number(&b, ad_tape_dtype(t));
    put_number(&b, nin);
    for (int32_t k = 0; k < l.body.n && !b.failed; k++) l.number[k] = -1;
    for (int i = 0; i < nin && !b.failed; i++) {
        const ad_node *n = ad_node_at(t, in[i].node);
        int32_t *number = number_of(&l, in[i].node);
        if (number) *number = i;
        put_number(&b, n->level);
        put_number(&b, n->shape.rank);
        for (int k = 0; k < n->shape.rank; k++) put_number(&b, n->shape.dim[k]);
    }
    int32_t next = nin;
    for (int32_t k = 0; k < l.body.n && !b.failed; k++) {
        if (l.number[k] >= 0) continue;
        put_node(&b, ad_node_at(t, l.body.node[k]), &l);
        l.number[k] = next++;
    }
    for (int j = 0; j < nout && !b.failed; j++) put_number(&b, *number_of(&l, out[j].node));
    ad_reach_clear(&l.body);
    free(l.number);
    if (b.failed) {
        free(b.bytes);
        ad_fail(t, "ad_function_key: out of memory");
        return NULL;
    }
    *length = b.used;
    return b.bytes;
}
