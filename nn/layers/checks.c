#include "nn/layers/checks.h"
#include <stdatomic.h>
#include "autodiff/extension.h"
#include <stdlib.h>

/* ---- the operation --------------------------------------------------------------------------- */

typedef struct {
    atomic_int references;
    int64_t classes;
    ad_shape shape;
} class_check;

static void retain(void *data)
{
    class_check *c = data;
    atomic_fetch_add(&c->references, 1);
}

static void release(void *data)
{
    class_check *c = data;
    if (atomic_fetch_sub(&c->references, 1) == 1) free(c);
}

/* Which of the n labels is bad. A single one needs no number. */
static int bad_class(const class_check *c, const ad_opaque_call *call, int64_t n, int64_t i,
                     double label)
{
    char place[64] = "";
    if (n > 1 && ad_has_rows(c->shape)) {
        snprintf(place, sizeof place, " of row %lld (from 0)",
                 (long long)(i / ad_row_size(c->shape)));
    } else if (n > 1) {
        snprintf(place, sizeof place, " at place %lld (from 0)", (long long)i);
    }
    return nn_error(call->error, call->error_size,
                    "the class%s is %g, but must be a whole number from 0 to %lld", place,
                    nn_shown(label), (long long)c->classes - 1);
}

static int forward(void *data, void *state, const ad_opaque_call *call)
{
    const class_check *c = data;
    (void)state;
    int64_t n = ad_count(c->shape, call->rows);
    for (int64_t i = 0; i < n; i++) {
        double label = nn_element(call->dtype, call->in[0], i);
        if (!(label >= 0 && label < (double)c->classes && label == floor(label)))
            return bad_class(c, call, n, i, label);
        if (call->out[0]) nn_put(call->dtype, call->out[0], i, label);
    }
    return 0;
}

/* A label has no derivative: there is nothing to give. */
static void vjp(void *data, ad_var token, int nin, const ad_var *in, int nout, const ad_var *out,
                const ad_var *ybar, const bool *need, ad_var *xbar)
{
    (void)data, (void)token, (void)nin, (void)in, (void)nout, (void)out, (void)ybar, (void)need,
        (void)xbar;
}

static void jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot, int nout,
                const ad_var *out, ad_var *ydot)
{
    (void)data, (void)token, (void)nin, (void)in, (void)xdot, (void)nout, (void)out, (void)ydot;
}

static const ad_opaque_class check_classes = { .name = "nn_cross_entropy",
                                               .forward = forward,
                                               .retain = retain,
                                               .release = release,
                                               .vjp = vjp,
                                               .jvp = jvp };

/* ---- the list of a tape ---------------------------------------------------------------------- */

typedef struct {
    int count;
    ad_var check[NN_MAX_CHECKS];
} list;

static const char list_key[] = "nn checks";

/* Without memory there is no list: the check still fails as it runs. */
static void add_to_list(ad_var check)
{
    list *l = ad_cache_find(check.tape, list_key, sizeof list_key);
    if (!l) {
        l = calloc(1, sizeof *l);
        if (!l) return;
        ad_cache_add(check.tape, list_key, sizeof list_key, l, free);
        l = ad_cache_find(check.tape, list_key, sizeof list_key);
    }
    if (l && l->count < NN_MAX_CHECKS) l->check[l->count++] = check;
}

int nn_checks_list(ad_tape *tape, ad_var checks[NN_MAX_CHECKS])
{
    const list *l = ad_cache_find(tape, list_key, sizeof list_key);
    int n = 0;
    for (int i = 0; l && i < l->count; i++)
        if (ad_valid(l->check[i])) checks[n++] = l->check[i];
    return n;
}

ad_var nn_check_classes(ad_var classes, int64_t n)
{
    class_check *data = malloc(sizeof *data);
    if (!data) {
        ad_fail(classes.tape, "nn_cross_entropy: out of memory");
        return ad_none(classes.tape);
    }
    atomic_init(&data->references, 1);
    data->classes = n;
    data->shape = ad_shape_of(classes);
    ad_var out;
    ad_opaque(classes.tape, &check_classes, data, 1, &classes, 1, &data->shape, &out);
    if (ad_valid(out)) add_to_list(out);
    return out;
}
