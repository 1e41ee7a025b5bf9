/* ad_scan: what a user asks for, checked, traced, and recorded as one scan, or as scans of
 * segments where a row may keep only so many bytes.
 *
 * Lengths are no case of their own: each step selects, by its number and the row's length, between
 * what the user's step gives and the old carry or zero. The number of the step is one more input,
 * lengths are one more argument.
 *
 * A scan over segments is a scan whose step is a scan. It keeps the carry at the beginning of each
 * segment; its VJP runs the inner scan again, which then keeps what it has, for one segment at a
 * time (Chen et al. 2016, arXiv:1604.06174). */
#include "autodiff/scan/scan.h"
#include "autodiff/tape/tape.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char advice[] = "the step of a scan is recorded once and run for all steps, so it "
                             "cannot look at values";

/* ---- checks ---- */

static ad_tape *tape_of(const ad_recurrence *r)
{
    ad_tape *t = NULL;
    for (int i = 0; i < r->ncarry && r->carry && !t; i++) t = r->carry[i].tape;
    for (int i = 0; i < r->ninput && r->input && !t; i++) t = r->input[i].tape;
    for (int i = 0; i < r->narg && r->arg && !t; i++) t = r->arg[i].tape;
    return t;
}

static bool check_lists(ad_tape *t, const ad_recurrence *r, const ad_var *last,
                        const ad_var *output)
{
    const char *missing = !r->step                     ? "step"
                          : r->ncarry > 0 && !r->carry ? "carry, the list of first carries,"
                          : r->ninput > 0 && !r->input ? "input, the list of inputs,"
                          : r->narg > 0 && !r->arg     ? "arg, the list of arguments,"
                          : r->ncarry > 0 && !last     ? "last, for the last carries,"
                          : r->noutput > 0 && !output  ? "output, for the outputs,"
                                                       : NULL;
    if (missing) ad_fail_null(t, "scan", missing);
    else if (r->ncarry < 0 || r->ninput < 0 || r->narg < 0 || r->noutput < 0)
        ad_fail(t, "ad_scan: %d carries, %d inputs, %d arguments, %d outputs: a number is negative",
                r->ncarry, r->ninput, r->narg, r->noutput);
    else if (r->ncarry + r->noutput == 0)
        ad_fail(t, "ad_scan: neither a carry nor an output: there is nothing to compute");
    return !ad_tape_error(t);
}

/* The shape of one step of an input; the rank is -1 where it has no axis of steps. */
static ad_shape step_shape(ad_shape all)
{
    int at = ad_has_rows(all) ? 1 : 0;
    ad_shape step = { all.rank - 1, { 0 } };
    if (all.rank <= at) return (ad_shape){ -1, { 0 } };
    for (int i = 0; i < step.rank; i++) step.dim[i] = all.dim[i < at ? i : i + 1];
    return step;
}

static int64_t steps_of(ad_shape all) { return all.dim[ad_has_rows(all) ? 1 : 0]; }

static bool check_operands(ad_tape *t, const ad_recurrence *r)
{
    char text[128];
    if ((r->ncarry > 0 && ad_common_tape("scan", r->ncarry, r->carry) != t) ||
        (r->ninput > 0 && ad_common_tape("scan", r->ninput, r->input) != t) ||
        (r->narg > 0 && ad_common_tape("scan", r->narg, r->arg) != t)) {
        if (!ad_tape_error(t)) ad_fail(t, "ad_scan: the operands are not on one tape");
        return false;
    }
    for (int i = 0; i < r->ninput; i++) {
        ad_shape all = ad_shape_of(r->input[i]);
        ad_format_shape(all, text, sizeof text);
        if (step_shape(all).rank < 0)
            ad_fail(
                t,
                "ad_scan: input %d is %s; an input is [rows,T,...] or [T,...], T steps (what is "
                "the same in all steps is an argument)",
                i, text);
        else if (steps_of(all) != r->steps)
            ad_fail(t, "ad_scan: input %d is %s, which is %lld steps, but steps = %lld", i, text,
                    (long long)steps_of(all), (long long)r->steps);
        if (ad_tape_error(t)) return false;
    }
    for (int i = 0; i < r->ncarry; i++) {
        ad_shape shape = ad_shape_of(r->carry[i]);
        ad_format_shape(shape, text, sizeof text);
        if (shape.rank >= AD_MAX_RANK)
            ad_fail(t,
                    "ad_scan: carry %d is %s: its gradient has no room for the axis of steps; "
                    "reshape it to fewer axes",
                    i, text);
        else if (r->lengths.tape && !ad_has_rows(shape))
            ad_fail(t,
                    "ad_scan: carry %d is %s, without rows, but lengths are those of rows: "
                    "broadcast it to [rows,...] first (ad_broadcast)",
                    i, text);
        if (ad_tape_error(t)) return false;
    }
    return true;
}

static bool check_lengths(ad_tape *t, const ad_recurrence *r)
{
    if (!r->lengths.tape) return true;
    if (!ad_common_tape("scan", 1, &r->lengths)) return false;
    if (r->lengths.tape != t) {
        ad_fail(t, "ad_scan: lengths are on another tape");
        return false;
    }
    if (!ad_same_shape(ad_shape_of(r->lengths), AD_SHAPE(AD_ROWS, 1))) {
        ad_fail_shapes(t, "scan", "lengths must be [rows,1], a whole number a row", 1, &r->lengths);
        return false;
    }
    return true;
}

/* ---- lengths ---- */

/* Passes lengths on, or fails. The number of steps is in the place of a pointer to data, so that
 * equal checks are equal functions. */
static int pass_lengths(void *data, void *state, const ad_opaque_call *call)
{
    int64_t steps = (int64_t)(intptr_t)data;
    (void)state;
    for (int64_t i = 0; i < call->rows; i++) {
        double length = call->dtype == AD_F32 ? (double)((const float *)call->in[0])[i]
                                              : ((const double *)call->in[0])[i];
        if (!(length >= 0 && length <= (double)steps && length == floor(length))) {
            snprintf(call->error, call->error_size,
                     "the length of row %lld (from 0) is %g, but must be a whole number from 0 to "
                     "%lld, the number of steps",
                     (long long)i, length, (long long)steps);
            return -1;
        }
        if (call->out[0] && call->dtype == AD_F32) ((float *)call->out[0])[i] = (float)length;
        else if (call->out[0]) ((double *)call->out[0])[i] = length;
    }
    return 0;
}

static const ad_opaque_class lengths_class = { .name = "ad_scan",
                                               .forward = pass_lengths,
                                               .flat = true };

static ad_var checked_lengths(ad_tape *t, const ad_recurrence *r)
{
    ad_var lengths = ad_none(t);
    ad_shape shape = AD_SHAPE(AD_ROWS, 1);
    ad_opaque(t, &lengths_class, (void *)(intptr_t)r->steps, 1, &r->lengths, 1, &shape, &lengths);
    return lengths;
}

/* The numbers of the steps, [T,1]. */
static ad_var step_numbers(ad_tape *t, int64_t steps)
{
    double *number = malloc((size_t)steps * sizeof *number);
    if (!number) {
        ad_fail(t, "ad_scan: out of memory");
        return ad_none(t);
    }
    for (int64_t k = 0; k < steps; k++) number[k] = (double)k;
    ad_var numbers = ad_constant_data(t, AD_SHAPE(steps, 1), AD_F64, number);
    free(number);
    return numbers;
}

/* `now` in rows that are as long as this step, else `before` (invalid: zero). */
static ad_var within_length(ad_var alive, ad_var now, ad_var before)
{
    ad_shape shape = ad_shape_of(now), one = { shape.rank, { AD_ROWS } };
    for (int i = 1; i < one.rank; i++) one.dim[i] = 1;
    alive = ad_reshape(alive, one);
    return ad_select(alive, now, ad_valid(before) ? before : ad_zeros_like(now));
}

/* ---- tracing ---- */

/* The call with all operands in one list: what the user gave, then numbers of steps and lengths. */
typedef struct {
    const ad_recurrence *r;
    ad_tape *tape;
    ad_scan_kind kind;
    bool lengths;
    ad_var *operand;
} request;

static bool broadcasts_to(ad_shape from, ad_shape to)
{
    ad_shape both;
    return ad_broadcast_shapes(from, to, &both) && ad_same_shape(both, to);
}

/* What the step returned: on its tape, and of the carry's shape. */
static ad_var checked_result(ad_tape *t, const char *what, int i, ad_var x, const ad_shape *shape)
{
    char got[128], want[128];
    if (ad_tape_error(t)) return ad_none(t);
    if (!x.tape) {
        ad_fail(t, "it gave no %s %d", what, i);
    } else if (x.tape != t) {
        ad_fail(t,
                "it gave a variable of another tape for %s %d: outside variables must be passed as "
                "arguments (arg)",
                what, i);
    } else if (!ad_valid(x)) {
        ad_fail(t, "it gave no valid variable for %s %d", what, i);
    } else if (shape && !broadcasts_to(ad_shape_of(x), *shape)) {
        ad_format_shape(ad_shape_of(x), got, sizeof got);
        ad_format_shape(*shape, want, sizeof want);
        ad_fail(t, "it gave %s for carry %d, which is %s; a carry must keep its shape", got, i,
                want);
    } else if (!shape && ad_shape_of(x).rank >= AD_MAX_RANK) {
        ad_format_shape(ad_shape_of(x), got, sizeof got);
        ad_fail(t, "it gave %s for output %d: there is no room for the axis of steps", got, i);
    } else {
        return shape ? ad_broadcast(x, *shape) : x;
    }
    return ad_none(t);
}

/* Calls the user's step on the trace; out: next carries, outputs. */
static void call_step(const request *q, ad_scan_object *s, ad_var *out)
{
    const ad_recurrence *r = q->r;
    ad_tape *t = s->trace;
    const ad_var *arg = s->in + q->kind.ncarry + q->kind.ninput;
    ad_scan_step at = { .tape = t,
                        .carry = s->in,
                        .input = s->in + r->ncarry,
                        .arg = arg,
                        .next = out,
                        .output = out + r->ncarry };
    for (int j = 0; j < r->ncarry + r->noutput; j++) out[j] = (ad_var){ 0 };
    r->step(&at, r->user);
    for (int i = 0; i < r->ncarry; i++) {
        ad_shape shape = ad_shape_of(s->in[i]);
        out[i] = checked_result(t, "carry", i, out[i], &shape);
    }
    for (int j = r->ncarry; j < r->ncarry + r->noutput; j++)
        out[j] = checked_result(t, "output", j - r->ncarry, out[j], NULL);
    if (!q->lengths || ad_tape_error(t)) return;
    ad_var alive = ad_lt(s->in[r->ncarry + r->ninput], arg[r->narg]);
    for (int j = 0; j < r->ncarry + r->noutput; j++) {
        ad_shape shape = ad_shape_of(out[j]);
        if (!ad_has_rows(shape)) {
            char text[128];
            ad_format_shape(shape, text, sizeof text);
            ad_fail(t,
                    "it gave %s for output %d, but lengths are those of rows: an output must "
                    "have rows",
                    text, j - r->ncarry);
            return;
        }
        out[j] = within_length(alive, out[j], j < r->ncarry ? s->in[j] : ad_none(t));
    }
}

/* The scan of an equal function that the tape has seen, or this one, finished, which the tape then
 * keeps. Takes over a reference of s and returns one. NULL with the tape's error set. */
static ad_scan_object *through_cache(ad_tape *tape, ad_scan_object *s, int noutput,
                                     const ad_var *out)
{
    static const char tag[8] = "ad_scan";
    const ad_scan_kind *kind = &s->kind;
    const int64_t numbers[] = { kind->steps,  kind->reverse, kind->ncarry,
                                kind->ninput, kind->narg,    noutput };
    size_t length = 0, head = sizeof tag + sizeof numbers;
    void *function =
        ad_function_key(ad_scan_operands(s), s->in, kind->ncarry + noutput, out, &length);
    char *key = function ? malloc(head + length) : NULL;
    if (!key) {
        free(function);
        ad_scan_release(s);
        ad_fail(tape, "ad_scan: out of memory");
        return NULL;
    }
    memcpy(key, tag, sizeof tag);
    memcpy(key + sizeof tag, numbers, sizeof numbers);
    memcpy(key + head, function, length);
    ad_scan_object *found = ad_cache_find(tape, key, head + length);
    if (found) {
        ad_scan_release(s);
        s = ad_scan_retain(found);
    } else if (ad_scan_finish(s, noutput, 0, out)) {
        ad_cache_add(tape, key, head + length, ad_scan_retain(s), ad_scan_release);
    } else {
        ad_fail(tape, "ad_scan: %s", ad_tape_error(s->trace));
        ad_scan_release(s);
        s = NULL;
    }
    free(function);
    free(key);
    return s;
}

static ad_scan_object *out_of_memory(ad_tape *tape)
{
    ad_fail(tape, "ad_scan: out of memory");
    return NULL;
}

/* The scan of the user's step; NULL with the tape's error set. */
static ad_scan_object *trace(const request *q)
{
    const ad_recurrence *r = q->r;
    int n = q->kind.ncarry + q->kind.ninput + q->kind.narg;
    ad_shape *shape = malloc((size_t)n * sizeof *shape);
    ad_var *out = malloc((size_t)(r->ncarry + r->noutput) * sizeof *out);
    if (shape)
        for (int i = 0; i < n; i++) {
            shape[i] = ad_shape_of(q->operand[i]);
            bool input = i >= q->kind.ncarry && i < q->kind.ncarry + q->kind.ninput;
            if (input) shape[i] = step_shape(shape[i]);
        }
    ad_scan_object *s = shape && out ? ad_scan_new(&q->kind, shape) : NULL;
    if (s) {
        ad_tape_set_traced(s->trace, advice);
        call_step(q, s, out);
        const char *error = ad_tape_error(s->trace);
        if (error) {
            /* The caller's tape was clean: an error there comes from a captured variable, and is
             * named here. */
            ad_tape_clear_error(q->tape);
            ad_fail(q->tape, "ad_scan: in the step: %s", error);
            ad_scan_release(s);
            s = NULL;
        } else {
            s = through_cache(q->tape, s, r->noutput, out);
        }
    } else {
        out_of_memory(q->tape);
    }
    free(shape);
    free(out);
    return s;
}

/* ---- segments ---- */

/* The same step, so many times. */
static ad_scan_object *with_steps(const ad_scan_object *s, ad_tape *tape, int64_t steps)
{
    int n = ad_scan_operands(s), nout = ad_scan_first_sum(s);
    ad_scan_kind kind = s->kind;
    kind.steps = steps;
    ad_shape *shape = malloc((size_t)(n + 1) * sizeof *shape);
    ad_var *out = malloc((size_t)(nout + 1) * sizeof *out);
    ad_scan_object *d = NULL;
    if (shape && out) {
        for (int i = 0; i < n; i++) shape[i] = ad_shape_of(s->in[i]);
        d = ad_scan_new(&kind, shape);
    }
    if (d) ad_inline(n, s->in, nout, s->out, d->trace, d->in, out);
    if (d && ad_tape_error(d->trace)) {
        ad_scan_release(d);
        d = NULL;
    }
    d = d ? through_cache(tape, d, s->noutput, out) : out_of_memory(tape);
    free(shape);
    free(out);
    return d;
}

/* The scan whose step is the scan `inner`, of which it takes over the reference. */
static ad_scan_object *over_segments(ad_scan_object *inner, ad_tape *tape, int64_t segments)
{
    int n = ad_scan_operands(inner), nout = ad_scan_first_sum(inner);
    ad_scan_kind kind = inner->kind;
    kind.steps = segments;
    ad_shape *shape = malloc((size_t)(n + 1) * sizeof *shape);
    ad_var *out = malloc((size_t)(ad_scan_results(inner) + 1) * sizeof *out);
    ad_scan_object *s = NULL;
    if (shape && out) {
        for (int i = 0; i < n; i++) {
            shape[i] = ad_shape_of(inner->in[i]);
            if (i >= kind.ncarry && i < kind.ncarry + kind.ninput)
                shape[i] = ad_scan_stack(shape[i], inner->kind.steps);
        }
        s = ad_scan_new(&kind, shape);
    }
    if (s && !ad_scan_record(inner, s->trace, s->in, out)) {
        ad_scan_release(s);
        s = NULL;
    }
    s = s ? through_cache(tape, s, nout - kind.ncarry, out) : out_of_memory(tape);
    ad_scan_release(inner);
    free(shape);
    free(out);
    return s;
}

static int64_t bytes_of(const ad_scan_object *s, int first, int last)
{
    int64_t bytes = 0;
    for (int j = first; j < last; j++)
        bytes += ad_row_size(ad_shape_of(s->out[j])) * (int64_t)ad_dtype_size(s->kind.dtype);
    return bytes;
}

/* How many steps make a segment, such that a row keeps at most so many bytes: the carries of all
 * segments, and all that the steps of one hand out. 0: all steps; -1 with the tape's error set. */
static int64_t segment_length(ad_tape *tape, const ad_scan_object *s, size_t budget)
{
    int first = ad_scan_first_hidden(s);
    const int64_t steps = s->kind.steps, carry = bytes_of(s, first, first + s->kind.ncarry),
                  step = bytes_of(s, first, ad_scan_results(s));
    if (!budget || steps < 1 || (double)step * (double)steps <= (double)budget) return 0;
    double least = INFINITY;
    for (int64_t length = steps - 1; length >= 1; length--) {
        const int64_t segments = (steps + length - 1) / length;
        double bytes = (double)segments * (double)carry + (double)length * (double)step;
        if (bytes <= (double)budget) return length;
        if (bytes < least) least = bytes;
    }
    ad_fail(tape,
            "ad_scan: row_bytes = %zu, but a row of %lld steps keeps at least %.0f bytes: %lld "
            "bytes of carries a segment, %lld bytes a step within one",
            budget, (long long)steps, least, (long long)carry, (long long)step);
    return -1;
}

/* Steps from..to of what is stacked, as [rows,segments,length,...] where there are segments. */
static ad_var segments_of(ad_var x, int64_t from, int64_t to, int64_t length)
{
    ad_shape shape = ad_shape_of(x);
    int axis = ad_has_rows(shape) ? 1 : 0;
    if (to - from < shape.dim[axis]) x = ad_slice(x, axis, from, to);
    if (!length) return x;
    ad_shape step = step_shape(shape);
    return ad_reshape(x, ad_scan_stack(ad_scan_stack(step, length), (to - from) / length));
}

/* Records a scan over the steps from..to (length: of segments; 0: none) and moves the carries on.
 * Outputs are stacked over steps alone. */
static bool record_range(const request *q, ad_scan_object *s, int64_t from, int64_t to,
                         int64_t length, ad_var *carry, ad_var *output)
{
    int n = ad_scan_operands(s), ncarry = q->kind.ncarry;
    ad_var *operand = malloc((size_t)(n + ad_scan_results(s)) * sizeof *operand);
    if (!operand) return out_of_memory(q->tape) != NULL;
    ad_var *result = operand + n;
    for (int i = 0; i < n; i++)
        operand[i] = i < ncarry                    ? carry[i]
                     : i < ncarry + q->kind.ninput ? segments_of(q->operand[i], from, to, length)
                                                   : q->operand[i];
    bool fine = ad_scan_record(s, q->tape, operand, result);
    for (int i = 0; fine && i < ncarry; i++) carry[i] = result[i];
    for (int j = 0; fine && j < s->noutput; j++) {
        output[j] = result[ncarry + j];
        if (!length) continue;
        ad_shape slice = step_shape(ad_shape_of(s->out[ncarry + j]));
        output[j] = ad_reshape(output[j], ad_scan_stack(slice, to - from));
    }
    free(operand);
    return fine && !ad_tape_error(q->tape);
}

/* All whole segments, and a scan over the steps that are left at the end. */
static bool record_segments(const request *q, ad_scan_object *s, int64_t length, ad_var *carry,
                            ad_var *output)
{
    const int64_t steps = s->kind.steps, whole = steps / length * length;
    int noutput = s->noutput;
    ad_var *part = malloc(2 * (size_t)(noutput + 1) * sizeof *part), *tail = part + noutput + 1;
    ad_scan_object *inner = with_steps(s, q->tape, length);
    ad_scan_object *outer = inner ? over_segments(inner, q->tape, steps / length) : NULL;
    ad_scan_object *rest = outer && whole < steps ? with_steps(s, q->tape, steps - whole) : NULL;
    bool fine = part && outer && (whole == steps || rest);
    if (!part) out_of_memory(q->tape);
    for (int turn = 0; turn < 2 && fine; turn++) {
        bool at_tail = (turn == 1) != s->kind.reverse;
        if (!at_tail) fine = record_range(q, outer, 0, whole, length, carry, part);
        else if (rest) fine = record_range(q, rest, whole, steps, 0, carry, tail);
    }
    for (int j = 0; j < noutput && fine; j++) {
        int axis = ad_has_rows(ad_shape_of(part[j])) ? 1 : 0;
        output[j] = rest ? ad_concatenate(2, (ad_var[]){ part[j], tail[j] }, axis) : part[j];
    }
    ad_scan_release(outer);
    ad_scan_release(rest);
    free(part);
    return fine && !ad_tape_error(q->tape);
}

/* ---- recording ---- */

static bool record(const request *q, ad_var *last, ad_var *output)
{
    const ad_recurrence *r = q->r;
    ad_scan_object *s = trace(q);
    int64_t length = s ? segment_length(q->tape, s, r->row_bytes) : -1;
    bool fine = length == 0  ? record_range(q, s, 0, r->steps, 0, last, output)
                : length > 0 ? record_segments(q, s, length, last, output)
                             : false;
    ad_scan_release(s);
    return fine;
}

static bool gather_operands(request *q)
{
    const ad_recurrence *r = q->r;
    int n = 0;
    q->operand = malloc((size_t)(r->ncarry + r->ninput + r->narg + 2) * sizeof *q->operand);
    if (!q->operand) return out_of_memory(q->tape) != NULL;
    for (int i = 0; i < r->ncarry; i++) q->operand[n++] = r->carry[i];
    for (int i = 0; i < r->ninput; i++) q->operand[n++] = r->input[i];
    if (q->lengths) q->operand[n++] = step_numbers(q->tape, r->steps);
    for (int i = 0; i < r->narg; i++) q->operand[n++] = r->arg[i];
    if (q->lengths) q->operand[n++] = checked_lengths(q->tape, r);
    q->kind = (ad_scan_kind){ .dtype = ad_tape_dtype(q->tape),
                              .steps = r->steps,
                              .reverse = r->reverse,
                              .ncarry = r->ncarry,
                              .ninput = r->ninput + q->lengths,
                              .narg = r->narg + q->lengths };
    return !ad_tape_error(q->tape);
}

int ad_scan(const ad_recurrence *r, ad_var *last, ad_var *output)
{
    ad_tape *t = r ? tape_of(r) : NULL;
    ad_clear_results(t, r ? r->ncarry : 0, NULL, last);
    ad_clear_results(t, r ? r->noutput : 0, NULL, output);
    if (!t) {
        ad_report(NULL, "ad_scan: no operand is a variable of a tape", 0, NULL, NULL, NULL);
        return -1;
    }
    if (ad_tape_error(t) || !check_lists(t, r, last, output)) return -1;
    if (r->steps < 0) ad_fail(t, "ad_scan: steps = %lld is negative", (long long)r->steps);
    else if (r->steps == 0 && r->noutput > 0)
        ad_fail(t, "ad_scan: steps = 0: without a step there are no outputs; ask for carries alone "
                   "(noutput = 0)");
    if (ad_tape_error(t) || !check_operands(t, r) || !check_lengths(t, r)) return -1;
    request q = { .r = r, .tape = t, .lengths = r->lengths.tape && r->steps > 0 };
    bool fine = true;
    ad_var *carry = malloc((size_t)(r->ncarry + r->noutput) * sizeof *carry);
    if (!carry) return out_of_memory(t) != NULL ? 0 : -1;
    for (int i = 0; i < r->ncarry; i++) carry[i] = r->carry[i];
    if (r->steps > 0) fine = gather_operands(&q) && record(&q, carry, carry + r->ncarry);
    for (int i = 0; i < r->ncarry && fine; i++) last[i] = carry[i];
    for (int j = 0; j < r->noutput && fine; j++) output[j] = carry[r->ncarry + j];
    free(q.operand);
    free(carry);
    return fine && !ad_tape_error(t) ? 0 : -1;
}
