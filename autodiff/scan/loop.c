/* The run of a scan: the program of a step, n times.
 *
 * The program reads and writes dense arrays. What has no rows is stacked so that a step's part is
 * dense where it lies; of what has rows, a step's part is copied from or into the rows (unless
 * there is one row only). Carries go back and forth between two arrays. Memory is the state's, and
 * only grows where rows do. */
#include "autodiff/base/memory.h"
#include "autodiff/scan/scan.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    bool *wanted; /* results that `program` delivers */
    const ad_program *program;
    ad_workspace *workspace;
    int threads;
    const void **in;  /* of the program */
    void **out;       /* of the program */
    int *result;      /* by output of the program: the result it is of */
    bool *accumulate; /* by output of the program */
    char **part;      /* of operands, then of results: a step's part, where it is copied */
    const char **now; /* carries at the beginning of the step */
    char *memory;
    int64_t rows; /* for which memory is there */
    int nout;     /* outputs of the program */
} scan_state;

void ad_scan_state_free(void *state)
{
    scan_state *t = state;
    if (!t) return;
    ad_workspace_free(t->workspace);
    free(t->wanted);
    free(t->in);
    free(t->out);
    free(t->result);
    free(t->accumulate);
    free(t->part);
    free(t->now);
    free(t->memory);
    free(t);
}

void *ad_scan_state_new(void *data)
{
    const ad_scan_object *s = data;
    size_t nin = (size_t)ad_scan_operands(s), nout = (size_t)ad_scan_results(s);
    scan_state *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->rows = -1;
    t->wanted = calloc(nout + 1, sizeof *t->wanted);
    t->in = calloc(nin + 1, sizeof *t->in);
    t->out = calloc(nout + 1, sizeof *t->out);
    t->result = calloc(nout + 1, sizeof *t->result);
    t->accumulate = calloc(nout + 1, sizeof *t->accumulate);
    t->part = calloc(nin + nout + (size_t)s->kind.ncarry + 1, sizeof *t->part);
    t->now = calloc((size_t)s->kind.ncarry + 1, sizeof *t->now);
    if (t->wanted && t->in && t->out && t->result && t->accumulate && t->part && t->now) return t;
    ad_scan_state_free(t);
    return NULL;
}

static int fail(const ad_opaque_call *call, const char *message)
{
    snprintf(call->error, call->error_size, "%s", message);
    return -1;
}

/* ---- preparing ---- */

/* The program that delivers what this call wants, and a workspace for it. */
static int choose_program(ad_scan_object *s, scan_state *t, const ad_opaque_call *call)
{
    int n = ad_scan_results(s);
    bool same = t->program && t->threads == call->threads;
    for (int j = 0; j < n && same; j++) same = t->wanted[j] == (call->out[j] != NULL);
    if (same) return 0;
    ad_workspace_free(t->workspace);
    t->workspace = NULL;
    t->program = NULL;
    t->nout = 0;
    for (int j = 0; j < n; j++) {
        t->wanted[j] = call->out[j] != NULL;
        if (j < s->kind.ncarry || (t->wanted[j] && ad_scan_carry_of(s, j) < 0))
            t->result[t->nout++] = j;
    }
    t->program = ad_scan_compile(s, t->wanted, call->error, call->error_size);
    if (!t->program) return -1;
    t->workspace = ad_workspace_new(t->program, call->threads);
    t->threads = call->threads;
    if (t->workspace) return 0;
    t->program = NULL;
    return fail(call, "out of memory");
}

static int64_t bytes_of(const ad_scan_object *s, ad_var x, int64_t rows)
{
    return ad_size_align(ad_size_mul(
        ad_size_mul(ad_row_size(ad_shape_of(x)), ad_has_rows(ad_shape_of(x)) ? rows : 1),
        (int64_t)ad_dtype_size(s->kind.dtype)));
}

/* Hands out the parts of the memory at `base`; NULL: only counts. Returns the bytes; -1: too many.
 */
static int64_t deal_memory(const ad_scan_object *s, scan_state *t, int64_t rows, char *base)
{
    int nin = ad_scan_operands(s), n = ad_scan_results(s), ncarry = s->kind.ncarry;
    int64_t used = 0;
    for (int i = 0; i < nin + n + ncarry; i++) {
        bool operand = i < nin, second = i >= nin + n;
        int j = second ? i - nin - n : i - nin;
        ad_var x = operand ? s->in[i] : s->out[j];
        bool carry = second || (!operand && j < ncarry);
        bool input = operand && i >= ncarry && i < ncarry + s->kind.ninput;
        bool copied = (input || (!operand && j >= ncarry && ad_scan_carry_of(s, j) < 0)) &&
                      ad_has_rows(ad_shape_of(x));
        if (!carry && !copied) continue;
        if (base) t->part[i] = base + used;
        used = ad_size_add(used, bytes_of(s, x, rows));
    }
    return used;
}

static int reserve(const ad_scan_object *s, scan_state *t, const ad_opaque_call *call)
{
    if (call->rows <= t->rows) return 0;
    t->rows = -1;
    free(t->memory);
    int64_t bytes = deal_memory(s, t, call->rows, NULL);
    t->memory = bytes < 0 ? NULL : ad_aligned_alloc(bytes > 0 ? bytes : AD_ALIGN);
    if (!t->memory) return fail(call, "out of memory");
    deal_memory(s, t, call->rows, t->memory);
    t->rows = call->rows;
    return 0;
}

/* ---- a step ---- */

typedef struct {
    ad_scan_object *scan;
    scan_state *state;
    const ad_opaque_call *call;
    int64_t rows, steps;
    size_t size; /* of an element */
} loop;

/* A step's part of an array that is stacked. */
typedef struct {
    bool copied;
    size_t bytes; /* of a row of it, or of all of it where it has no rows */
} part;

static part part_of(const loop *l, ad_var x)
{
    ad_shape shape = ad_shape_of(x);
    return (part){ .copied = ad_has_rows(shape) && l->rows != 1,
                   .bytes = (size_t)ad_row_size(shape) * l->size };
}

static void copy_rows(int64_t rows, size_t bytes, const char *from, size_t from_stride, char *to,
                      size_t to_stride)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + (size_t)r * to_stride, from + (size_t)r * from_stride, bytes);
}

static void read_inputs(const loop *l, int64_t k)
{
    const ad_scan_object *s = l->scan;
    scan_state *t = l->state;
    int first = s->kind.ncarry;
    for (int i = 0; i < first; i++) t->in[i] = t->now[i];
    for (int i = first; i < first + s->kind.ninput; i++) {
        part p = part_of(l, s->in[i]);
        const char *at = (const char *)l->call->in[i] + (size_t)k * p.bytes;
        t->in[i] = at;
        if (!p.copied) continue;
        copy_rows(l->rows, p.bytes, at, p.bytes * (size_t)l->steps, t->part[i], p.bytes);
        t->in[i] = t->part[i];
    }
}

/* Where outputs of the program go; `turn`: how many steps were done. */
static void point_outputs(const loop *l, int64_t k, int64_t turn)
{
    const ad_scan_object *s = l->scan;
    scan_state *t = l->state;
    int nin = ad_scan_operands(s), n = ad_scan_results(s);
    for (int o = 0; o < t->nout; o++) {
        int j = t->result[o];
        char *whole = l->call->out[j], *copy = t->part[nin + j];
        part p = part_of(l, s->out[j]);
        if (j < s->kind.ncarry) {
            bool last = turn == l->steps - 1;
            t->out[o] = last && whole ? whole : turn % 2 ? t->part[nin + n + j] : copy;
        } else if (ad_scan_stacked(s, j)) {
            t->out[o] = p.copied ? copy : whole + (size_t)k * p.bytes;
        } else {
            bool rows = ad_has_rows(ad_shape_of(s->out[j]));
            t->accumulate[o] = !rows && turn > 0;
            t->out[o] = rows && turn > 0 ? copy : whole;
        }
    }
}

static void add(ad_dtype dtype, int64_t n, const void *from, void *into)
{
    if (dtype == AD_F32)
        for (int64_t i = 0; i < n; i++) ((float *)into)[i] += ((const float *)from)[i];
    else
        for (int64_t i = 0; i < n; i++) ((double *)into)[i] += ((const double *)from)[i];
}

static void stack_carries(const loop *l, int64_t k)
{
    const ad_scan_object *s = l->scan;
    for (int i = 0; i < s->kind.ncarry; i++) {
        char *to = l->call->out[ad_scan_first_hidden(s) + i];
        if (!to) continue;
        part p = part_of(l, s->in[i]);
        int64_t rows = ad_has_rows(ad_shape_of(s->in[i])) ? l->rows : 1;
        copy_rows(rows, p.bytes, l->state->now[i], p.bytes, to + (size_t)k * p.bytes,
                  p.bytes * (size_t)l->steps);
    }
}

static void deliver_outputs(const loop *l, int64_t k)
{
    const ad_scan_object *s = l->scan;
    scan_state *t = l->state;
    for (int o = 0; o < t->nout; o++) {
        int j = t->result[o];
        char *whole = l->call->out[j];
        part p = part_of(l, s->out[j]);
        if (j < s->kind.ncarry) {
            t->now[j] = t->out[o];
        } else if (ad_scan_stacked(s, j)) {
            if (!p.copied) continue;
            copy_rows(l->rows, p.bytes, t->out[o], p.bytes, whole + (size_t)k * p.bytes,
                      p.bytes * (size_t)l->steps);
        } else if (t->out[o] != whole) {
            add(s->kind.dtype, ad_row_size(ad_shape_of(s->out[j])) * l->rows, t->out[o], whole);
        }
    }
}

static int fail_step(const loop *l, int64_t k)
{
    const char *message = ad_workspace_error(l->state->workspace), prefix[] = "ad_run: ";
    if (!strncmp(message, prefix, sizeof prefix - 1)) message += sizeof prefix - 1;
    snprintf(l->call->error, l->call->error_size, "in step %lld of %lld (from 0): %s", (long long)k,
             (long long)l->steps, message);
    return -1;
}

int ad_scan_forward(void *data, void *state, const ad_opaque_call *call)
{
    ad_scan_object *s = data;
    scan_state *t = state;
    if (choose_program(s, t, call) || reserve(s, t, call)) return -1;
    loop l = { .scan = s,
               .state = t,
               .call = call,
               .rows = call->rows,
               .steps = s->kind.steps,
               .size = ad_dtype_size(s->kind.dtype) };
    int ncarry = s->kind.ncarry, nin = ad_scan_operands(s);
    bool outside = false;
    for (int i = 0; i < ncarry; i++) t->now[i] = call->in[i];
    for (int i = ncarry + s->kind.ninput; i < nin; i++) t->in[i] = call->in[i];
    for (int64_t turn = 0; turn < l.steps; turn++) {
        int64_t k = s->kind.reverse ? l.steps - 1 - turn : turn;
        read_inputs(&l, k);
        point_outputs(&l, k, turn);
        stack_carries(&l, k);
        ad_run_args args = { .rows = call->rows,
                             .inputs = t->in,
                             .outputs = t->out,
                             .accumulate = t->accumulate,
                             .refine = call->refine,
                             .same_parameters = turn > 0 };
        if (ad_run_with(t->program, t->workspace, &args)) return fail_step(&l, k);
        const char *why = outside ? NULL : ad_workspace_outside(t->workspace);
        if (why)
            snprintf(call->error, call->error_size, "in step %lld of %lld (from 0): %s",
                     (long long)k, (long long)l.steps, why);
        outside = outside || why;
        deliver_outputs(&l, k);
    }
    return outside ? 1 : 0;
}
