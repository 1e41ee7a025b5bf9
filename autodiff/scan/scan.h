/* Internal: scans, recurrences that are recorded once and run n times.
 *
 * A scan is a function of one step, traced on a tape of its own:
 *
 *     carry_{k+1}, output_k, term_k = step(carry_k, input_k; arg)
 *
 * As an operation it takes the first carries, inputs stacked over the steps and arguments, and
 * gives the last carries, outputs stacked over the steps, and sums of the terms. So carries,
 * inputs and arguments are the transposes of carries, outputs and sums: the VJP of a scan is a scan
 * of the step's VJP in the other order, and its JVP a scan of the step's JVP. What these need of
 * the scan itself are hidden outputs, the carry at the beginning of each step and the residuals of
 * the step, so that derivatives of all orders follow. */
#ifndef COSTATE_SCAN_H
#define COSTATE_SCAN_H
#include "autodiff/extension.h"
#include <pthread.h>
#include <stdatomic.h>

/* The program of a step that delivers some of the results (a bool each). */
typedef struct ad_scan_program ad_scan_program;
struct ad_scan_program {
    ad_scan_program *next;
    ad_program *program;
    bool wanted[];
};

typedef struct ad_scan_derivative ad_scan_derivative;

typedef struct {
    ad_dtype dtype;
    int64_t steps;
    bool reverse;
    int ncarry, ninput, narg;
} ad_scan_kind;

/* Results are in the order carries, outputs, sums, hidden outputs (first the ncarry carries). */
typedef struct {
    atomic_int references;
    pthread_mutex_t lock; /* of the trace, programs and derivatives */
    ad_scan_kind kind;
    ad_tape *trace;
    ad_var *in; /* on the trace: carries, inputs, arguments */
    int noutput, nsum, nhidden;
    ad_var *out;      /* on the trace, by result */
    bool opaque;      /* the step has opaque operations */
    bool discretises; /* one of them does */
    bool apart;       /* rows can be divided */
    ad_scan_program *programs;
    ad_scan_derivative *derivatives;
    void (*free_derivatives)(ad_scan_derivative *first);
} ad_scan_object;

static inline int ad_scan_operands(const ad_scan_object *s)
{
    return s->kind.ncarry + s->kind.ninput + s->kind.narg;
}
static inline int ad_scan_first_sum(const ad_scan_object *s) { return s->kind.ncarry + s->noutput; }
static inline int ad_scan_first_hidden(const ad_scan_object *s)
{
    return ad_scan_first_sum(s) + s->nsum;
}
static inline int ad_scan_results(const ad_scan_object *s)
{
    return ad_scan_first_hidden(s) + s->nhidden;
}
/* Whether result j is stacked over the steps. */
static inline bool ad_scan_stacked(const ad_scan_object *s, int j)
{
    return j >= s->kind.ncarry && (j < ad_scan_first_sum(s) || j >= ad_scan_first_hidden(s));
}
/* The carry of which result j has the value at the beginning of each step; -1: another result. */
static inline int ad_scan_carry_of(const ad_scan_object *s, int j)
{
    int i = j - ad_scan_first_hidden(s);
    return i >= 0 && i < s->kind.ncarry ? i : -1;
}
/* The shape of so many steps: [rows,T,...] or [T,...]. Its rank may be one too many. */
ad_shape ad_scan_stack(ad_shape step, int64_t steps);
/* A variable of the given shape for data that are to come. */
ad_var ad_scan_source(ad_tape *tape, ad_shape shape);

/* A scan with its trace, on which the step is to be recorded as a function of `in`, with one
 * reference. in: the shapes of its variables. NULL: memory is short. */
ad_scan_object *ad_scan_new(const ad_scan_kind *kind, const ad_shape *in);
/* The step is recorded: out has the carries, outputs and sums. Finds the hidden outputs. false with
 * the trace's error set. */
bool ad_scan_finish(ad_scan_object *s, int noutput, int nsum, const ad_var *out);
/* Whether its rows can be divided into blocks that go through all steps by themselves (divide.c).
 */
bool ad_scan_rows_apart(const ad_scan_object *s);
ad_scan_object *ad_scan_retain(ad_scan_object *s);
void ad_scan_release(void *scan);

/* The program of a step that delivers the wanted results; the scan keeps it. NULL with a message.
 */
const ad_program *ad_scan_compile(ad_scan_object *s, const bool *wanted, char *error, size_t size);

/* Of the operation (loop.c). */
void *ad_scan_state_new(void *data);
void ad_scan_state_free(void *state);
int ad_scan_forward(void *data, void *state, const ad_opaque_call *call);
void ad_scan_account(void *data, ad_opaque_account *account);

/* Records the operation on a tape: operands and results in the order above. Takes over no
 * reference. false with the tape's error set. */
bool ad_scan_record(ad_scan_object *s, ad_tape *tape, const ad_var *operand, ad_var *result);

#endif
