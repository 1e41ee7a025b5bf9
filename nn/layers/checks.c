#include "nn/layers/checks.h"
#include <stdatomic.h>
#include "autodiff/extension.h"
#include <stdlib.h>

/* ---- the operation --------------------------------------------------------------------------- */

typedef struct {
    atomic_int references;
    nn_whole allowed;
    ad_shape shape;
} check;

static void retain(void *data)
{
    check *c = data;
    atomic_fetch_add(&c->references, 1);
}

static void release(void *data)
{
    check *c = data;
    if (atomic_fetch_sub(&c->references, 1) == 1) free(c);
}

static const char *called(const void *data) { return ((const check *)data)->allowed.called; }

/* Which of the n numbers is bad. A single one needs no place. */
static int bad_number(const check *c, const ad_opaque_call *call, int64_t n, int64_t i,
                      double value)
{
    char place[64] = "", range[64];
    if (n > 1 && ad_has_rows(c->shape)) {
        snprintf(place, sizeof place, " of row %lld (from 0)",
                 (long long)(i / ad_row_size(c->shape)));
    } else if (n > 1) {
        snprintf(place, sizeof place, " at place %lld (from 0)", (long long)i);
    }
    if (c->allowed.highest == INT64_MAX) {
        snprintf(range, sizeof range, "at least %lld", (long long)c->allowed.lowest);
    } else {
        snprintf(range, sizeof range, "a whole number from %lld to %lld",
                 (long long)c->allowed.lowest, (long long)c->allowed.highest);
    }
    return nn_error(call->error, call->error_size, "the %s%s is %g, but must be %s",
                    c->allowed.name, place, nn_shown(value), range);
}

static int forward(void *data, void *state, const ad_opaque_call *call)
{
    const check *c = data;
    (void)state;
    const double lowest = (double)c->allowed.lowest, highest = (double)c->allowed.highest;
    int64_t n = ad_count(c->shape, call->rows);
    for (int64_t i = 0; i < n; i++) {
        double value = nn_element(call->dtype, call->in[0], i);
        if (!(value >= lowest && value <= highest && value == floor(value)))
            return bad_number(c, call, n, i, value);
        if (call->out[0]) nn_put(call->dtype, call->out[0], i, value);
    }
    return 0;
}

static const ad_opaque_class check_class = { .name = "nn_check",
                                             .forward = forward,
                                             .retain = retain,
                                             .release = release,
                                             .flat = true,
                                             .called = called };

/* ---- the list of a tape ---------------------------------------------------------------------- */

typedef struct {
    int count;
    ad_var check[NN_MAX_CHECKS];
} list;

static const char list_key[] = "nn checks";

/* Without memory there is no list: the check still fails as it runs. */
static void add_to_list(ad_var x)
{
    list *l = ad_cache_find(x.tape, list_key, sizeof list_key);
    if (!l) {
        l = calloc(1, sizeof *l);
        if (!l) return;
        ad_cache_add(x.tape, list_key, sizeof list_key, l, free);
        l = ad_cache_find(x.tape, list_key, sizeof list_key);
    }
    if (l && l->count < NN_MAX_CHECKS) l->check[l->count++] = x;
}

int nn_checks_list(ad_tape *tape, ad_var checks[NN_MAX_CHECKS])
{
    const list *l = ad_cache_find(tape, list_key, sizeof list_key);
    int n = 0;
    for (int i = 0; l && i < l->count; i++)
        if (ad_valid(l->check[i])) checks[n++] = l->check[i];
    return n;
}

ad_var nn_check_whole(ad_var x, const nn_whole *allowed, bool listed)
{
    check *data = malloc(sizeof *data);
    if (!data) {
        ad_fail(x.tape, "%s: out of memory", allowed->called);
        return ad_none(x.tape);
    }
    atomic_init(&data->references, 1);
    data->allowed = *allowed;
    data->shape = ad_shape_of(x);
    ad_var out;
    ad_opaque(x.tape, &check_class, data, 1, &x, 1, &data->shape, &out);
    if (listed && ad_valid(out)) add_to_list(out);
    return out;
}
