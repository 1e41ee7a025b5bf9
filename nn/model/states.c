/* States: fixed arrays that change from one training step to the next. What they become is recorded
 * beside the loss, and noted on the tape until the loss is compiled (nn/train/recording.c). A tape
 * without a note of states belongs to no training: there is nothing to change. */
#include "nn/model/states.h"
#include "autodiff/extension.h"
#include <stdlib.h>

struct nn_states {
    int64_t count, room;
    nn_state *state;
};

static const char states_key[] = "nn states";

static void release(void *data)
{
    nn_states *s = data;
    free(s->state);
    free(s);
}

static nn_states *find(ad_tape *tape) { return ad_cache_find(tape, states_key, sizeof states_key); }

const nn_states *nn_states_open(ad_tape *tape)
{
    nn_states *s = calloc(1, sizeof *s);
    if (s) ad_cache_add(tape, states_key, sizeof states_key, s, release);
    return find(tape);
}

int64_t nn_states_list(ad_tape *tape, const nn_states *opened, const nn_state **states)
{
    const nn_states *s = find(tape);
    *states = s ? s->state : NULL;
    return s && s == opened ? s->count : -1;
}

static bool same(ad_var a, ad_var b)
{
    return a.tape == b.tape && a.node == b.node && a.epoch == b.epoch;
}

static nn_state *state_at(nn_states *s, ad_var theta, int64_t offset)
{
    for (int64_t i = 0; i < s->count; i++)
        if (same(s->state[i].theta, theta) && s->state[i].offset == offset) return &s->state[i];
    return NULL;
}

ad_var nn_states_latest(ad_var theta, int64_t offset, ad_shape shape)
{
    nn_states *s = find(theta.tape);
    const nn_state *state = s ? state_at(s, theta, offset) : NULL;
    ad_var array = ad_slice(theta, 0, offset, offset + ad_count(shape, 1));
    return ad_reshape(state ? state->value : ad_stop_gradient(array), shape);
}

bool nn_states_wanted(ad_tape *tape) { return find(tape) != NULL; }

void nn_states_note(const nn_model *model, ad_var theta, int64_t offset, ad_var value)
{
    nn_states *s = find(theta.tape);
    if (!s || !ad_valid(value)) return;
    const int64_t n = ad_count(ad_shape_of(value), 1);
    value = ad_reshape(ad_stop_gradient(value), AD_SHAPE(n));
    nn_state *before = state_at(s, theta, offset);
    if (before) {
        before->value = value;
        return;
    }
    if (s->count == s->room) {
        int64_t room = 2 * s->room + 8;
        nn_state *grown = realloc(s->state, (size_t)room * sizeof *grown);
        if (!grown) {
            ad_fail(theta.tape, "nn_model_update: out of memory");
            return;
        }
        s->state = grown;
        s->room = room;
    }
    s->state[s->count++] = (nn_state){ model, theta, offset, n, value };
}

void nn_model_update(const nn_model *model, ad_var theta, const char *name, ad_var value)
{
    static const char what[] = "nn_model_update";
    if (!ad_valid(theta) || !ad_valid(value)) {
        ad_tape *tape = theta.tape ? theta.tape : value.tape;
        if (tape) ad_fail(tape, "%s: theta or the value is not a valid variable", what);
        return;
    }
    const nn_parameter *p = nn_parameter_find(model, name);
    if (!p || !p->fixed) {
        ad_fail(theta.tape,
                "%s: the model has no fixed array '%.60s' (nn_model_add_fixed adds one)", what,
                name ? name : "(NULL)");
        return;
    }
    if (!nn_theta_fits(what, model, theta)) return;
    ad_shape shape = ad_shape_of(value);
    if (value.tape != theta.tape || !ad_same_shape(shape, p->shape)) {
        char text[128], due[128];
        ad_format_shape(shape, text, sizeof text);
        ad_format_shape(p->shape, due, sizeof due);
        ad_fail(theta.tape, "%s: '%.60s' is %s, but its new value is %s%s", what, p->name, due,
                text, value.tape == theta.tape ? "" : " on another tape");
        return;
    }
    nn_states_note(model, theta, p->offset, value);
}
