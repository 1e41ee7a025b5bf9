/* Scans as objects: the trace of a step, what it hands out for derivatives, and its programs. */
#include "autodiff/scan/scan.h"
#include "autodiff/tape/tape.h"
#include <stdlib.h>
#include <string.h>

ad_shape ad_scan_stack(ad_shape step, int64_t steps)
{
    ad_shape all = { step.rank + 1, { 0 } };
    int at = ad_has_rows(step) ? 1 : 0;
    if (all.rank > AD_MAX_RANK) return all;
    for (int i = 0; i < step.rank; i++) all.dim[i < at ? i : i + 1] = step.dim[i];
    all.dim[at] = steps;
    return all;
}

ad_var ad_scan_source(ad_tape *tape, ad_shape shape)
{
    return ad_has_rows(shape) ? ad_input_rows(tape, shape, 0, NULL) : ad_input(tape, shape, NULL);
}

ad_scan_object *ad_scan_new(const ad_scan_kind *kind, const ad_shape *in)
{
    ad_scan_object *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    if (pthread_mutex_init(&s->lock, NULL)) {
        free(s);
        return NULL;
    }
    atomic_init(&s->references, 1);
    s->kind = *kind;
    int n = ad_scan_operands(s), first_arg = kind->ncarry + kind->ninput;
    s->trace = ad_tape_new(kind->dtype);
    s->in = calloc((size_t)n + 1, sizeof *s->in);
    if (!s->trace || !s->in) {
        ad_scan_release(s);
        return NULL;
    }
    /* Arguments are the same in all steps: what depends on them alone is computed once. */
    for (int i = 0; i < n; i++)
        s->in[i] = i >= first_arg && !ad_has_rows(in[i]) ? ad_param(s->trace, in[i], NULL)
                                                         : ad_scan_source(s->trace, in[i]);
    return s;
}

static void note_opaques(ad_scan_object *s)
{
    for (int32_t k = 0; k < ad_tape_size(s->trace); k++) {
        const ad_node *n = ad_node_at(s->trace, k);
        if (n->op != AD_OP_opaque) continue;
        s->opaque = true;
        s->discretises = s->discretises || n->class_->discretises;
    }
}

/* The cut between the step and its VJP by all operands: carries apart, which are handed out anyway.
 * Returns how many; -1 with the trace's error set. */
static int find_residuals(const ad_scan_object *s, int nout, const ad_var *out, int max,
                          ad_var *residual)
{
    int nin = ad_scan_operands(s), navailable = 0, n;
    int32_t mark = ad_tape_mark(s->trace);
    ad_var *seed = malloc((size_t)(nout + 2 * nin + 1) * sizeof *seed);
    if (!seed) {
        ad_fail(s->trace, "out of memory");
        return -1;
    }
    ad_var *bar = seed + nout, *available = bar + nin;
    for (int j = 0; j < nout; j++) seed[j] = ad_scan_source(s->trace, ad_shape_of(out[j]));
    for (int i = 0; i < nin; i++)
        if (ad_has_rows(ad_shape_of(s->in[i]))) available[navailable++] = s->in[i];
    ad_vjp_cut(nout, out, seed, nin, s->in, bar);
    n = ad_residuals(nout, seed, navailable, available, nin, bar, max, residual);
    ad_tape_rewind(s->trace, mark);
    for (int i = 0; i < n && i < max; i++)
        if (ad_shape_of(residual[i]).rank == AD_MAX_RANK) n = 0; /* there is no room for steps */
    free(seed);
    return n;
}

bool ad_scan_finish(ad_scan_object *s, int noutput, int nsum, const ad_var *out)
{
    int ncarry = s->kind.ncarry, n = ncarry + noutput + nsum, nresidual = 0;
    s->noutput = noutput;
    s->nsum = nsum;
    note_opaques(s);
    if (!s->opaque && n > 0) nresidual = find_residuals(s, n, out, 0, NULL);
    if (nresidual < 0) return false;
    s->out = malloc((size_t)(n + ncarry + nresidual + 1) * sizeof *s->out);
    if (!s->out) {
        ad_fail(s->trace, "out of memory");
        return false;
    }
    for (int j = 0; j < n; j++) s->out[j] = out[j];
    for (int i = 0; i < ncarry; i++) s->out[n + i] = s->in[i];
    if (nresidual > 0) nresidual = find_residuals(s, n, out, nresidual, s->out + n + ncarry);
    s->nhidden = ncarry + (nresidual > 0 ? nresidual : 0);
    s->apart = nresidual >= 0 && ad_scan_rows_apart(s);
    return nresidual >= 0;
}

ad_scan_object *ad_scan_retain(ad_scan_object *s)
{
    atomic_fetch_add(&s->references, 1);
    return s;
}

void ad_scan_release(void *scan)
{
    ad_scan_object *s = scan;
    if (!s || atomic_fetch_sub(&s->references, 1) != 1) return;
    while (s->programs) {
        ad_scan_program *p = s->programs;
        s->programs = p->next;
        ad_program_free(p->program);
        free(p);
    }
    if (s->free_derivatives) s->free_derivatives(s->derivatives);
    ad_tape_free(s->trace);
    free(s->in);
    free(s->out);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- programs ---- */

static ad_scan_program *find_program(const ad_scan_object *s, const bool *wanted)
{
    size_t bytes = (size_t)ad_scan_results(s) * sizeof *wanted;
    ad_scan_program *p = s->programs;
    while (p && memcmp(p->wanted, wanted, bytes)) p = p->next;
    return p;
}

/* Outputs of the program are the next carries and what else is wanted, but for carries at the
 * beginning of a step, which who runs it has. */
static ad_scan_program *make_program(ad_scan_object *s, const bool *wanted)
{
    int n = ad_scan_results(s), nout = 0;
    ad_scan_program *p = calloc(1, sizeof *p + (size_t)n * sizeof *wanted);
    ad_var *out = malloc((size_t)(n + 1) * sizeof *out);
    if (p && out) {
        memcpy(p->wanted, wanted, (size_t)n * sizeof *wanted);
        for (int j = 0; j < n; j++)
            if (j < s->kind.ncarry || (wanted[j] && ad_scan_carry_of(s, j) < 0))
                out[nout++] = s->out[j];
        p->program = ad_compile(ad_scan_operands(s), s->in, nout, out);
    }
    free(out);
    if (!p || !p->program) {
        free(p);
        return NULL;
    }
    p->next = s->programs;
    s->programs = p;
    return p;
}

const ad_program *ad_scan_compile(ad_scan_object *s, const bool *wanted, char *error, size_t size)
{
    pthread_mutex_lock(&s->lock);
    ad_scan_program *p = find_program(s, wanted);
    if (!p) p = make_program(s, wanted);
    if (!p) {
        const char *why = ad_tape_error(s->trace);
        snprintf(error, size, "%s", why ? why : "out of memory");
        ad_tape_clear_error(s->trace); /* of memory: the next attempt may have more */
    }
    pthread_mutex_unlock(&s->lock);
    return p ? p->program : NULL;
}
