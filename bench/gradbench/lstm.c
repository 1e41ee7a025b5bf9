/* lstm: the cross entropy of a sequence under a recurrent model with diagonal weights. The
 * parameters are weights [4,b] and biases [4,b] of each layer, then three lines [b]: weights at the
 * entry, weights and biases at the end. size: layers, characters, b. */
#include "gradbench.h"
#include <math.h>
#include <string.h>

enum { LAYERS = 8 };

static void plan(gb_case *c)
{
    const int64_t l = c->size[0], b = c->size[2];
    c->ninput = 3;
    c->count[0] = c->nderivative = (8 * l + 3) * b;
    c->count[1] = 2 * l * b; /* hidden and cell of each layer */
    c->count[2] = c->size[1] * b;
    c->nvalue = 1;
}

static void fill(const gb_case *c)
{
    for (int k = 0; k < 3; k++) gb_numbers(k, c->count[k], 0, 1, c->input[k]);
}

/* Carries: state [2l,b]. Inputs: a character and the next one. Output: its term. */
static void step(const ad_scan_step *at, void *user)
{
    const gb_case *c = user;
    const int64_t l = c->size[0], b = c->size[2];
    ad_var p = ad_reshape(at->arg[0], AD_SHAPE(8 * l + 3, b)), state = at->carry[0];
    ad_var x = ad_mul(at->input[0], ad_reshape(ad_slice(p, 0, 8 * l, 8 * l + 1), AD_SHAPE(b)));
    ad_var next[2 * LAYERS];
    for (int64_t i = 0; i < l; i++) {
        ad_var in[4], gate[4],
            hidden = ad_reshape(ad_slice(state, 0, 2 * i, 2 * i + 1), AD_SHAPE(b));
        ad_var cell = ad_reshape(ad_slice(state, 0, 2 * i + 1, 2 * i + 2), AD_SHAPE(b));
        in[0] = in[2] = x;
        in[1] = in[3] = hidden;
        ad_var both = ad_reshape(ad_concatenate(4, in, 0), AD_SHAPE(4, b));
        ad_var sum = ad_add(ad_mul(both, ad_slice(p, 0, 8 * i, 8 * i + 4)),
                            ad_slice(p, 0, 8 * i + 4, 8 * i + 8));
        for (int g = 0; g < 4; g++) gate[g] = ad_reshape(ad_slice(sum, 0, g, g + 1), AD_SHAPE(b));
        cell = ad_add(ad_mul(cell, ad_sigmoid(gate[0])),
                      ad_mul(ad_sigmoid(gate[1]), ad_tanh(gate[3])));
        x = ad_mul(ad_sigmoid(gate[2]), ad_tanh(cell));
        next[2 * i] = x;
        next[2 * i + 1] = cell;
    }
    at->next[0] = ad_reshape(ad_concatenate((int)(2 * l), next, 0), AD_SHAPE(2 * l, b));
    ad_var y = ad_add(ad_mul(x, ad_reshape(ad_slice(p, 0, 8 * l + 1, 8 * l + 2), AD_SHAPE(b))),
                      ad_reshape(ad_slice(p, 0, 8 * l + 2, 8 * l + 3), AD_SHAPE(b)));
    ad_var total = ad_log(ad_shift(ad_sum_all(ad_exp(y)), 2));
    at->output[0] = ad_sum_all(ad_mul(at->input[1], ad_sub(y, total)));
}

static ad_var record(const gb_case *c, const ad_var *in)
{
    const int64_t l = c->size[0], n = c->size[1], b = c->size[2];
    ad_var state = ad_reshape(in[1], AD_SHAPE(2 * l, b)), text = ad_reshape(in[2], AD_SHAPE(n, b));
    ad_var input[] = { ad_slice(text, 0, 0, n - 1), ad_slice(text, 0, 1, n) }, last, term;
    ad_recurrence r = { .step = step,
                        .user = (void *)(uintptr_t)c,
                        .steps = n - 1,
                        .ncarry = 1,
                        .ninput = 2,
                        .narg = 1,
                        .noutput = 1,
                        .carry = &state,
                        .input = input,
                        .arg = in };
    ad_scan(&r, &last, &term);
    return ad_scale(ad_sum_all(term), -1 / ((double)(n - 1) * (double)b));
}

/* Of each step and layer: x or hidden before, the gates and the cell before and after. */
enum { KEPT = 8 };

static int64_t work_size(const gb_case *c)
{
    const int64_t l = c->size[0], n = c->size[1], b = c->size[2];
    return KEPT * l * n * b + n * b + 2 * n * b + 4 * l * b + 2 * b;
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static void by_hand(const gb_case *c, double *value, double *derivative, double *work)
{
    const int64_t l = c->size[0], n = c->size[1], b = c->size[2], steps = n - 1;
    const double *p = c->input[0], *text = c->input[2], *entry = p + 8 * l * b;
    const double *end = entry + b, factor = -1 / ((double)steps * (double)b);
    double *kept = work, *share = kept + KEPT * l * n * b, *top = share + n * b;
    double *state = top + 2 * n * b, *statebar = state + 2 * l * b, *xbar = statebar + 2 * l * b;
    double *pbar = derivative, *entrybar = pbar + 8 * l * b, *endbar = entrybar + b, sum = 0;
    memcpy(state, c->input[1], (size_t)(2 * l * b) * sizeof *state);
    memset(derivative, 0, (size_t)c->nderivative * sizeof *derivative);
    memset(statebar, 0, (size_t)(2 * l * b) * sizeof *statebar);
    for (int64_t t = 0; t < steps; t++) {
        double *x = top + t * b, total = 2, y[64];
        for (int64_t i = 0; i < b; i++) x[i] = text[t * b + i] * entry[i];
        for (int64_t a = 0; a < l; a++) {
            const double *w = p + 8 * a * b;
            double *h = state + 2 * a * b, *cell = h + b, *k = kept + KEPT * (t * l + a) * b;
            for (int64_t i = 0; i < b; i++) {
                const double forget = sigmoid(x[i] * w[i] + w[4 * b + i]);
                const double in = sigmoid(h[i] * w[b + i] + w[5 * b + i]);
                const double out = sigmoid(x[i] * w[2 * b + i] + w[6 * b + i]);
                const double change = tanh(h[i] * w[3 * b + i] + w[7 * b + i]);
                const double after = cell[i] * forget + in * change, bent = tanh(after);
                const double all[KEPT] = { x[i], h[i], cell[i], forget, in, out, change, bent };
                for (int j = 0; j < KEPT; j++) k[j * b + i] = all[j];
                cell[i] = after;
                h[i] = x[i] = out * bent;
            }
        }
        for (int64_t i = 0; i < b; i++) total += exp(y[i] = x[i] * end[i] + end[b + i]);
        for (int64_t i = 0; i < b; i++) {
            share[t * b + i] = exp(y[i]) / total;
            sum += text[(t + 1) * b + i] * (y[i] - log(total));
        }
    }
    *value = sum * factor;
    for (int64_t t = steps - 1; t >= 0; t--) {
        const double *x = top + t * b;
        double gold = 0;
        for (int64_t i = 0; i < b; i++) gold += text[(t + 1) * b + i];
        for (int64_t i = 0; i < b; i++) {
            const double bar = factor * (text[(t + 1) * b + i] - gold * share[t * b + i]);
            endbar[i] += bar * x[i];
            endbar[b + i] += bar;
            xbar[i] = bar * end[i];
        }
        for (int64_t a = l - 1; a >= 0; a--) {
            const double *w = p + 8 * a * b, *k = kept + KEPT * (t * l + a) * b;
            double *wbar = pbar + 8 * a * b, *hbar = statebar + 2 * a * b, *cellbar = hbar + b;
            for (int64_t i = 0; i < b; i++) {
                const double in = k[i], h = k[b + i], cell = k[2 * b + i], f = k[3 * b + i];
                const double g = k[4 * b + i], o = k[5 * b + i], d = k[6 * b + i], e = k[7 * b + i];
                const double bar = xbar[i] + hbar[i];
                const double after = cellbar[i] + bar * o * (1 - e * e);
                const double gate[4] = { after * cell * f * (1 - f), after * d * g * (1 - g),
                                         bar * e * o * (1 - o), after * g * (1 - d * d) };
                for (int j = 0; j < 4; j++) {
                    wbar[j * b + i] += gate[j] * (j % 2 ? h : in);
                    wbar[(4 + j) * b + i] += gate[j];
                }
                xbar[i] = gate[0] * w[i] + gate[2] * w[2 * b + i];
                hbar[i] = gate[1] * w[b + i] + gate[3] * w[3 * b + i];
                cellbar[i] = after * f;
            }
        }
        for (int64_t i = 0; i < b; i++) entrybar[i] += xbar[i] * text[t * b + i];
    }
}

const gb_program gb_lstm = { "lstm", plan, fill, record, by_hand, work_size };
