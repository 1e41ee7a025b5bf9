/* Reverse mode over the recorded graph. It only records: what comes out are variables of the tape,
 * which can be differentiated again.
 *
 * The active nodes are swept from the last to the first, equal ones (equal.c) as one. A node's
 * cotangent arrives in parts, terms and pieces (cotangents of slices, with the place where they
 * begin); they are settled into one variable when the node's turn comes. What one operation does to
 * a cotangent is in rules.c; contractions and opaque operations have their own cases here. Masks of
 * what is live (live.c) travel beside the cotangents. */
#include "autodiff/derive/derive.h"
#include <stdlib.h>
#include <string.h>

/* A slice's cotangent, kept until its operand is reached, so that all slices of one array make one
 * assembly. */
typedef struct {
    int32_t node, next;
    ad_var piece;
    const int64_t *start;
} piece;

typedef struct {
    ad_tape *tape;
    ad_activity act;
    ad_var *bar; /* cotangents by node, of those that are visited; node -1: zero so far */
    ad_live live;
    int32_t *pieces; /* likewise: head of its list of pieces, or -1 */
    piece *pool;
    int32_t npool, pool_capacity;
} sweep;

/* Two cotangents of one variable. Where both are products by the same slope, it multiplies their
 * sum. */
static ad_var add_cotangents(ad_tape *t, ad_var a, ad_var b)
{
    if (a.node < 0 || b.node < 0 || !ad_is_inner(a) || !ad_is_inner(b)) return ad_add(a, b);
    const ad_node *x = ad_node_at(t, a.node), *y = ad_node_at(t, b.node);
    if (x->op != AD_OP_mul || y->op != AD_OP_mul) return ad_add(a, b);
    const ad_node *p = ad_node_at(t, x->in[1]), *q = ad_node_at(t, y->in[1]);
    if (p->op != AD_OP_slope_of_code || q->op != AD_OP_slope_of_code || p->in[0] != q->in[0])
        return ad_add(a, b);
    return ad_mul(ad_add(ad_var_at(t, x->in[0]), ad_var_at(t, y->in[0])), ad_var_at(t, x->in[1]));
}

static void add_to(sweep *s, int32_t node, ad_var v)
{
    if (v.node < 0 || !s->act.active[node]) return;
    node = s->act.same[node];
    v = ad_fit(v, ad_node_at(s->tape, node)->shape);
    s->bar[node] = s->bar[node].node < 0 ? v : add_cotangents(s->tape, s->bar[node], v);
}

/* To be called before a contribution to the node's cotangent. */
static void add_live(sweep *s, int32_t node, ad_var mask)
{
    if (!s->act.active[node]) return;
    node = s->act.same[node];
    ad_live_add(&s->live, node, s->bar[node].node < 0 && s->pieces[node] < 0, mask);
}

static void add_piece(sweep *s, int32_t node, ad_var v, const int64_t *start)
{
    if (!s->act.active[node]) return;
    node = s->act.same[node];
    if (s->npool == s->pool_capacity) {
        int32_t capacity = s->pool_capacity ? 2 * s->pool_capacity : 32;
        piece *more = realloc(s->pool, (size_t)capacity * sizeof *more);
        if (!more) {
            ad_fail(s->tape, "ad_vjp: out of memory");
            return;
        }
        s->pool = more;
        s->pool_capacity = capacity;
    }
    s->pool[s->npool] = (piece){ node, s->pieces[node], v, start };
    s->pieces[node] = s->npool++;
}

/* The node's cotangent is complete: adds its pieces. */
static ad_var settle(sweep *s, int32_t node)
{
    int n = 0;
    for (int32_t p = s->pieces[node]; p >= 0; p = s->pool[p].next) n++;
    if (!n) return s->bar[node];
    ad_shape shape = ad_node_at(s->tape, node)->shape;
    ad_var *x = malloc((size_t)n * sizeof *x);
    int64_t *start = malloc((size_t)n * AD_MAX_RANK * sizeof *start);
    if (!x || !start) ad_fail(s->tape, "ad_vjp: out of memory");
    else {
        int k = n; /* the list is last in, first out */
        for (int32_t p = s->pieces[node]; p >= 0; p = s->pool[p].next) {
            x[--k] = s->pool[p].piece;
            memcpy(start + k * shape.rank, s->pool[p].start, (size_t)shape.rank * sizeof *start);
        }
        add_to(s, node, ad_assemble(s->tape, n, x, start, shape));
    }
    free(x);
    free(start);
    s->pieces[node] = -1;
    return s->bar[node];
}

/* Cotangents of a contraction's operands are contractions of the cotangent with the other operand.
 */
static void pull_contract(sweep *s, int32_t node, const ad_node *n, ad_var v, ad_var live)
{
    const ad_contraction c = ad_node_contraction(n);
    for (int i = 0; i < 2; i++) {
        if (!s->act.active[n->in[i]]) continue;
        ad_var other = ad_live_other(&s->live, n, 2, 1 - i, live);
        ad_factor f[2] = { { .x = v }, { .x = other } };
        int8_t out[AD_MAX_RANK];
        for (int k = 0; k < c.rank[2]; k++) f[0].label[k] = (int8_t)c.label[2][k];
        for (int k = 0; k < c.rank[1 - i]; k++) f[1].label[k] = (int8_t)c.label[1 - i][k];
        for (int k = 0; k < c.rank[i]; k++) out[k] = (int8_t)c.label[i][k];
        add_live(s, n->in[i], ad_live_pull(&s->live, ad_var_at(s->tape, node), n, i, live));
        add_to(s, n->in[i], ad_contract_factors(s->tape, 2, f, c.rank[i], out));
    }
}

/* Cotangents of a convolution's operands are the other faces of its form. */
static void pull_convolution(sweep *s, int32_t node, const ad_node *n, ad_var v, ad_var live)
{
    ad_var y = ad_var_at(s->tape, node);
    for (int i = 0; i < 2; i++) {
        if (!s->act.active[n->in[i]]) continue;
        add_live(s, n->in[i], ad_live_pull(&s->live, y, n, i, live));
        add_to(s, n->in[i], ad_conv_face(y, i, v));
    }
}

/* The cotangent of an opaque operation's result; none where propagation stops at it. */
static ad_var result_bar(const sweep *s, int32_t node)
{
    return node < s->act.end && s->act.active[node] & AD_THROUGH ? s->bar[node] : ad_none(s->tape);
}

static void pull_opaque(sweep *s, int32_t node, const ad_node *n)
{
    int nout = (int)n->attr[0], nin = n->nin;
    ad_var *vars = malloc((size_t)(2 * nin + 2 * nout + 1) * sizeof *vars);
    bool *need = calloc((size_t)nin + 1, sizeof *need);
    bool any = false; /* without a cotangent the operation is beside the way, and needs no rule */
    for (int k = 0; k < nout; k++) any = any || result_bar(s, node + 1 + k).node >= 0;
    if (!vars || !need) ad_fail(s->tape, "ad_vjp: out of memory");
    else if (any && !n->class_->vjp)
        ad_fail(s->tape,
                "ad_vjp: %s has no derivative rule (vjp); a derivative of this order is not "
                "defined for it",
                ad_node_name(n));
    else if (any) {
        ad_var *in = vars, *xbar = in + nin, *out = xbar + nin, *ybar = out + nout;
        for (int i = 0; i < nin; i++) {
            in[i] = ad_var_at(s->tape, n->in[i]);
            xbar[i] = ad_none(s->tape);
            need[i] = s->act.active[n->in[i]] && ad_node_at(s->tape, n->in[i])->op != AD_OP_opaque;
        }
        for (int k = 0; k < nout; k++) {
            out[k] = ad_var_at(s->tape, node + 1 + k);
            ybar[k] = result_bar(s, node + 1 + k);
        }
        int32_t inner = ad_inner_none(s->tape);
        n->class_->vjp(n->opaque, ad_var_at(s->tape, node), nin, in, nout, out, ybar, need, xbar);
        ad_inner_end(s->tape, inner);
        for (int i = 0; i < nin; i++) {
            if (!need[i]) continue;
            add_live(s, n->in[i], ad_none(s->tape));
            add_to(s, n->in[i],
                   ad_checked_result(s->tape, n, "vjp", xbar[i],
                                     ad_node_at(s->tape, n->in[i])->shape));
        }
    }
    free(vars);
    free(need);
}

static void pull(sweep *s, int32_t node)
{
    const ad_node *n = ad_node_at(s->tape, node);
    if (n->op == AD_OP_opaque) {
        pull_opaque(s, node, n);
        return;
    }
    ad_var y = ad_var_at(s->tape, node), v = settle(s, node);
    const ad_kind kind = ad_ops[n->op].kind;
    if (v.node < 0 || kind == AD_RESULT) return;
    const ad_var live = ad_live_at(&s->live, node);
    if (kind == AD_CONTRACT) {
        pull_contract(s, node, n, v, live);
        return;
    }
    if (kind == AD_CONVOLUTION) {
        pull_convolution(s, node, n, v, live);
        return;
    }
    for (int i = 0; i < n->nin; i++) {
        if (!s->act.active[n->in[i]] || !ad_differentiable(n, i)) continue;
        add_live(s, n->in[i], ad_live_pull(&s->live, y, n, i, live));
        if (n->op == AD_OP_slice) add_piece(s, n->in[i], v, n->attr);
        else if (kind == AD_LINEAR) add_to(s, n->in[i], ad_transpose_rule(y, i, v));
        else if (kind == AD_NONLINEAR) add_to(s, n->in[i], ad_own_rules_of(n->op)->pull(y, v));
        else add_to(s, n->in[i], ad_push_live(&s->live, y, n, i, v, live));
    }
}

static bool seed(sweep *s, int ny, const ad_var *y, const ad_var *ybar)
{
    for (int i = 0; i < ny; i++) {
        if (ybar[i].node < 0 && ybar[i].tape) continue;
        if (!ad_common_tape("vjp", 2, (ad_var[]){ y[i], ybar[i] })) return false;
        if (!ad_same_shape(ad_shape_of(ybar[i]), ad_shape_of(y[i]))) {
            ad_fail_shapes(s->tape, "vjp", "a cotangent must have the shape of its variable", 2,
                           (ad_var[]){ y[i], ybar[i] });
            return false;
        }
        add_to(s, y[i].node, ybar[i]);
    }
    return true;
}

static void clear_bar(sweep *s, int32_t node)
{
    s->bar[node] = ad_none(s->tape);
    s->pieces[node] = -1;
}

static void run_vjp(const char *what, int ny, const ad_var *y, const ad_var *ybar, int nx,
                    const ad_var *x, ad_var *xbar, bool cut)
{
    ad_tape *t =
        ad_lists_tape(what, 2, (ad_list[]){ { "y", ny, y, false }, { "x", nx, x, false } });
    const ad_list read[] = { { "y", ny, y, false },
                             { "ybar", ny, ybar, false },
                             { "x", nx, x, false } };
    if (!ad_results_apart(t, what, nx, xbar, 3, read)) return;
    ad_clear_results(t, nx, x, xbar);
    if (nx > 0 && !xbar) ad_fail_null(t, what, "the list of results");
    if (ny > 0 && !ybar) ad_fail_null(t, what, "the list of cotangents");
    if (!t || (ny > 0 && !ybar)) return;
    sweep s = { .tape = t };
    if (ad_tape_error(t) || !ad_activity_find(&s.act, t, ny, y, nx, x, cut)) return;
    if (!ad_equal_find(&s.act, t, nx, x)) {
        ad_activity_clear(&s.act);
        return;
    }
    int32_t inner = ad_inner_begin(t);
    s.bar = malloc(((size_t)s.act.end + 1) * sizeof *s.bar);
    s.pieces = malloc(((size_t)s.act.end + 1) * sizeof *s.pieces);
    if (!s.bar || !s.pieces) ad_fail(t, "ad_vjp: out of memory");
    else ad_live_find(&s.live, t, &s.act, false);
    for (int32_t j = 0; j < s.act.reach.n && !ad_tape_error(t); j++)
        clear_bar(&s, s.act.reach.node[j]);
    for (int i = 0; i < nx && !ad_tape_error(t); i++)
        if (x[i].node < s.act.end) clear_bar(&s, x[i].node);
    if (!ad_tape_error(t) && seed(&s, ny, y, ybar))
        for (int32_t j = s.act.reach.n - 1; j >= 0 && !ad_tape_error(t); j--)
            if (s.act.active[s.act.reach.node[j]] & AD_THROUGH) pull(&s, s.act.reach.node[j]);
    for (int i = 0; i < nx && !ad_tape_error(t); i++) {
        ad_var v = x[i].node < s.act.end ? settle(&s, x[i].node) : ad_none(t);
        xbar[i] = v.node >= 0 ? v : ad_fill(t, ad_shape_of(x[i]), 0);
    }
    ad_inner_end(t, inner);
    free(s.bar);
    ad_live_clear(&s.live);
    free(s.pieces);
    free(s.pool);
    ad_activity_clear(&s.act);
}

void ad_vjp(int ny, const ad_var *y, const ad_var *ybar, int nx, const ad_var *x, ad_var *xbar)
{
    run_vjp("vjp", ny, y, ybar, nx, x, xbar, false);
}
void ad_vjp_cut(int ny, const ad_var *y, const ad_var *ybar, int nx, const ad_var *x, ad_var *xbar)
{
    run_vjp("vjp_cut", ny, y, ybar, nx, x, xbar, true);
}

void ad_grad(ad_var loss, int nx, const ad_var *x, ad_var *gradient)
{
    ad_tape *t = ad_lists_tape(
        "grad", 2, (ad_list[]){ { "the loss", 1, &loss, true }, { "x", nx, x, false } });
    if (!ad_results_apart(t, "grad", nx, gradient, 1, (ad_list[]){ { "x", nx, x, false } })) return;
    ad_clear_results(t ? t : loss.tape, nx, NULL, gradient);
    if (nx > 0 && !gradient) ad_fail_null(t, "grad", "the list of results");
    if (!t || ad_tape_error(t)) return;
    ad_shape s = ad_shape_of(loss);
    if (ad_has_rows(s) || ad_row_size(s) != 1) {
        ad_fail_shapes(t, "grad",
                       "the loss must be one number (ad_vjp takes cotangents of anything else)", 1,
                       &loss);
        return;
    }
    int32_t inner = ad_inner_begin(t);
    ad_var one = ad_ones_like(loss);
    ad_vjp(1, &loss, &one, nx, x, gradient);
    ad_inner_end(t, inner);
}
