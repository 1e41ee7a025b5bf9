/* Forward mode over the recorded graph: the active nodes from the first to the last. As reverse
 * mode it only records, has its rules in rules.c, and carries masks of what is live (live.c). */
#include "autodiff/derive/derive.h"
#include <stdlib.h>

/* Of a contraction or a convolution. */
static ad_var push_bilinear(ad_live *l, const ad_node *n, const ad_var *dot)
{
    ad_tape *t = l->tape;
    ad_var sum = ad_none(t);
    for (int i = 0; i < 2; i++) {
        if (dot[n->in[i]].node < 0) continue;
        int32_t in[2];
        in[i] = dot[n->in[i]].node;
        in[1 - i] = n->in[1 - i];
        if (n->op == AD_OP_contract)
            in[1 - i] = ad_live_other(l, n, i, 1 - i, ad_live_before(l, n->in[i])).node;
        ad_var term = ad_record(t, n->op, 2, in, n->nattr, n->attr, n->shape);
        sum = sum.node < 0 ? term : ad_add(sum, term);
    }
    return sum;
}

static void push_opaque(const ad_activity *act, ad_tape *t, int32_t node, const ad_node *n,
                        ad_var *dot)
{
    int nout = (int)n->attr[0], nin = n->nin;
    if (!n->class_->jvp) {
        ad_fail(t,
                "ad_jvp: %s has no forward derivative rule (jvp); reverse mode (ad_vjp, ad_grad) "
                "may have one",
                ad_node_name(n));
        return;
    }
    ad_var *vars = malloc((size_t)(2 * nin + 2 * nout + 1) * sizeof *vars);
    if (!vars) {
        ad_fail(t, "ad_jvp: out of memory");
        return;
    }
    ad_var *in = vars, *xdot = in + nin, *out = xdot + nin, *ydot = out + nout;
    for (int i = 0; i < nin; i++) {
        in[i] = ad_var_at(t, n->in[i]);
        xdot[i] = dot[n->in[i]];
    }
    for (int k = 0; k < nout; k++) {
        out[k] = ad_var_at(t, node + 1 + k);
        ydot[k] = ad_none(t);
    }
    int32_t inner = ad_inner_none(t);
    n->class_->jvp(n->opaque, ad_var_at(t, node), nin, in, xdot, nout, out, ydot);
    ad_inner_end(t, inner);
    for (int k = 0; k < nout && node + 1 + k < act->end; k++)
        if (act->active[node + 1 + k] & AD_THROUGH)
            dot[node + 1 + k] =
                ad_checked_result(t, n, "jvp", ydot[k], ad_node_at(t, node + 1 + k)->shape);
    free(vars);
}

static ad_var tangent_of(ad_live *l, int32_t node, const ad_node *n, const ad_var *dot)
{
    ad_tape *t = l->tape;
    switch (ad_ops[n->op].kind) {
    case AD_LINEAR:
        return n->op == AD_OP_assemble || dot[n->in[0]].node >= 0 ? ad_push_linear(t, n, dot)
                                                                  : ad_none(t);
    case AD_CONTRACT:
    case AD_CONVOLUTION: return push_bilinear(l, n, dot);
    case AD_NONLINEAR: {
        ad_var v = dot[n->in[0]];
        return v.node < 0 ? v : ad_own_rules_of(n->op)->push(ad_var_at(t, node), v);
    }
    case AD_OPAQUE:
    case AD_RESULT: return dot[node];
    case AD_FLAT:
    case AD_SOURCE: break;
    case AD_POINTWISE: {
        ad_var sum = ad_none(t), y = ad_var_at(t, node);
        for (int i = 0; i < n->nin; i++) {
            if (dot[n->in[i]].node < 0 || !ad_differentiable(n, i)) continue;
            ad_var term = ad_push_live(l, y, n, i, ad_broadcast(dot[n->in[i]], n->shape),
                                       ad_live_before(l, n->in[i]));
            if (term.node >= 0) sum = sum.node < 0 ? term : ad_add(sum, term);
        }
        return sum;
    }
    }
    return ad_none(t);
}

/* Of what is visited, and of what that reads. */
static void clear_tangents(const ad_activity *act, ad_tape *t, int ny, const ad_var *y, int nx,
                           const ad_var *x, ad_var *dot)
{
    for (int i = 0; i < ny; i++) dot[y[i].node] = ad_none(t);
    for (int i = 0; i < nx; i++)
        if (x[i].node < act->end) dot[x[i].node] = ad_none(t);
    for (int32_t j = 0; j < act->reach.n; j++) {
        const ad_node *n = ad_node_at(t, act->reach.node[j]);
        dot[act->reach.node[j]] = ad_none(t);
        for (int i = 0; i < n->nin; i++) dot[n->in[i]] = ad_none(t);
    }
}

static void seed_tangents(const ad_activity *act, int nx, const ad_var *x, const ad_var *xdot,
                          ad_var *dot)
{
    for (int i = 0; i < nx; i++) {
        if (x[i].node >= act->end) continue;
        ad_var *d = &dot[x[i].node]; /* x may be listed more than once */
        *d = d->node < 0 ? xdot[i] : ad_add(*d, xdot[i]);
    }
}

/* The tangents of all active nodes, in order. */
static void push_all(ad_tape *t, const ad_activity *act, ad_var *dot)
{
    ad_live live;
    if (!ad_live_find(&live, t, act, true)) return;
    for (int32_t j = 0; j < act->reach.n; j++) {
        if (ad_tape_error(t)) break;
        int32_t k = act->reach.node[j];
        const ad_node *n = ad_node_at(t, k);
        if (!(act->active[k] & AD_THROUGH)) continue;
        if (n->op == AD_OP_opaque) push_opaque(act, t, k, n, dot);
        else if (ad_ops[n->op].kind != AD_RESULT) {
            ad_var v = tangent_of(&live, k, n, dot);
            ad_live_push(&live, k, n);
            dot[k] = dot[k].node < 0 ? v : v.node < 0 ? dot[k] : ad_add(dot[k], v);
        }
    }
    ad_live_clear(&live);
}

static void run_jvp(const char *what, int nx, const ad_var *x, const ad_var *xdot, int ny,
                    const ad_var *y, ad_var *ydot, bool cut)
{
    const ad_list lists[] = { { "y", ny, y, false },
                              { "x", nx, x, false },
                              { "xdot", nx, xdot, false } };
    ad_tape *t = ad_lists_tape(what, 3, lists);
    if (!ad_results_apart(t, what, ny, ydot, 3, lists)) return;
    ad_clear_results(t, ny, y, ydot);
    if (ny > 0 && !ydot) ad_fail_null(t, what, "the list of results");
    if (!t || ad_tape_error(t)) return;
    for (int i = 0; i < nx; i++)
        if (!ad_same_shape(ad_shape_of(x[i]), ad_shape_of(xdot[i]))) {
            ad_fail_shapes(t, what, "a tangent must have the shape of its variable", 2,
                           (ad_var[]){ x[i], xdot[i] });
            return;
        }
    ad_activity act;
    if (!ad_activity_find(&act, t, ny, y, nx, x, cut)) return;
    ad_var *dot = malloc(((size_t)act.end + 1) * sizeof *dot);
    if (dot) {
        int32_t inner = ad_inner_begin(t);
        clear_tangents(&act, t, ny, y, nx, x, dot);
        seed_tangents(&act, nx, x, xdot, dot);
        push_all(t, &act, dot);
        ad_inner_end(t, inner);
        for (int j = 0; j < ny; j++) {
            if (ad_tape_error(t)) break;
            const ad_var d = dot[y[j].node];
            ydot[j] = d.node >= 0 ? d : ad_fill(t, ad_shape_of(y[j]), 0);
        }
    } else {
        ad_fail(t, "ad_jvp: out of memory");
    }
    free(dot);
    ad_activity_clear(&act);
}

void ad_jvp(int nx, const ad_var *x, const ad_var *xdot, int ny, const ad_var *y, ad_var *ydot)
{
    run_jvp("jvp", nx, x, xdot, ny, y, ydot, false);
}
void ad_jvp_cut(int nx, const ad_var *x, const ad_var *xdot, int ny, const ad_var *y, ad_var *ydot)
{
    run_jvp("jvp_cut", nx, x, xdot, ny, y, ydot, true);
}

/* Forward over reverse. */
ad_var ad_hvp(ad_var loss, ad_var x, ad_var v)
{
    const ad_list lists[] = { { "the loss", 1, &loss, true },
                              { "x", 1, &x, true },
                              { "v", 1, &v, true } };
    ad_tape *t = ad_lists_tape("hvp", 3, lists);
    ad_var g, h;
    if (!t) return ad_none(loss.tape);
    ad_grad(loss, 1, &x, &g);
    ad_jvp(1, &x, &v, 1, &g, &h);
    return h;
}
