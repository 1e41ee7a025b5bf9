/* Lazy values: computes what a variable needs, node by node, on whole arrays, with the kernels that
 * compiled programs use. */
#include "autodiff/kernels/kernel.h"
#include "autodiff/run/workspace.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* "ad_tanh", and what a user calls an opaque operation. */
typedef struct {
    char text[64];
} node_name;

static node_name name_of(const ad_node *n)
{
    node_name name;
    if (n->op == AD_OP_opaque) snprintf(name.text, sizeof name.text, "%s", ad_node_name(n));
    else snprintf(name.text, sizeof name.text, "ad_%s", ad_ops[n->op].name);
    return name;
}

static bool fail_memory(ad_tape *t, const ad_node *n, size_t bytes)
{
    enum { MANY = 100000 };
    if (ad_tape_size(t) < MANY)
        ad_fail(t, "ad_value: out of memory: %s needs %zu bytes", name_of(n).text, bytes);
    else
        ad_fail(t,
                "ad_value: out of memory: %s needs %zu bytes; the tape holds %d operations, whose "
                "values are kept (ad_tape_rewind "
                "forgets what is not needed any more)",
                name_of(n).text, bytes, (int)ad_tape_size(t));
    return false;
}

/* What the limit leaves; at least 1. Without a limit 0. */
static int64_t bytes_left(const ad_tape *t)
{
    if (!ad_tape_memory(t)) return 0;
    const int64_t left = ad_tape_memory(t) - ad_tape_computed(t);
    return left > 1 ? left : 1;
}

/* Whether the limit allows so many bytes more for what a node computes; what: NULL, its shape. */
static bool is_within_limit(ad_tape *t, const ad_node *n, int64_t bytes, const char *what)
{
    if (bytes >= 0 && bytes <= ad_tape_most(t) - ad_tape_computed(t)) return true;
    char shape[160];
    if (!what) ad_format_shape(n->shape, shape, sizeof shape);
    ad_fail(t,
            "ad_value: out of memory: %s needs %lld bytes for %s, computed values hold %lld, and "
            "the limit is %lld%s; rewind what is not needed any more (ad_tape_mark, "
            "ad_tape_rewind), take fewer rows, compile what is computed (ad_compile: a program "
            "holds few values at a time), or set a larger limit (ad_tape_set_memory, "
            "COSTATE_MEMORY)",
            name_of(n).text, (long long)bytes, what ? what : shape, (long long)ad_tape_computed(t),
            (long long)ad_tape_most(t), ad_tape_memory(t) ? "" : ", half the machine's memory");
    return false;
}

static bool allocate(ad_tape *t, ad_node *n)
{
    if (n->value) return true;
    if (ad_has_rows(n->shape) && ad_tape_rows(t) < 1) {
        ad_fail(t, "ad_value: the number of rows is not known: no row input of this tape has data "
                   "(ad_input_rows, ad_set, ad_tape_set_rows)");
        return false;
    }
    if (ad_has_rows(n->shape) &&
        ad_tape_rows(t) >= ((int64_t)1 << AD_MAX_ELEMENTS_SHIFT) / ad_row_size(n->shape))
        return fail_memory(t, n, SIZE_MAX);
    int64_t count = ad_count(n->shape, ad_tape_rows(t));
    size_t bytes = ((size_t)count * ad_dtype_size(ad_tape_dtype(t)) + 63) & ~(size_t)63;
    if (bytes == 0) bytes = 64;
    if (!is_within_limit(t, n, (int64_t)bytes, NULL)) return false;
    void *value = aligned_alloc(64, bytes);
    if (!value) return fail_memory(t, n, bytes);
    ad_tape_hold_value(t, n, value, (int64_t)bytes);
    return true;
}

static void store(ad_dtype dtype, void *array, int64_t i, double v)
{
    if (dtype == AD_F32) ((float *)array)[i] = (float)v;
    else ((double *)array)[i] = v;
}

static bool evaluate_source(ad_tape *t, ad_node *n)
{
    ad_dtype dtype = ad_tape_dtype(t);
    if (n->op == AD_OP_input) {
        const char *advice = ad_tape_advice(t);
        if (n->known && (!ad_has_rows(n->shape) || n->rows == ad_tape_rows(t))) return true;
        if (n->known)
            ad_fail(
                t, "ad_value: a row input has %lld rows, the latest data %lld: set it too (ad_set)",
                (long long)n->rows, (long long)ad_tape_rows(t));
        else if (advice) ad_fail(t, "ad_value: an input has no value here: %s", advice);
        else
            ad_fail(t, "ad_value: an input has no value: it was recorded without data (ad_set "
                       "gives it some)");
        return false;
    }
    if (n->op == AD_OP_row_count && ad_tape_rows(t) < 1) {
        ad_fail(t, "ad_value: the number of rows is not known: no row input of this tape has data "
                   "(ad_input_rows, ad_set, ad_tape_set_rows)");
        return false;
    }
    if (!allocate(t, n)) return false;
    int64_t count = ad_count(n->shape, ad_tape_rows(t));
    for (int64_t i = 0; i < count; i++) {
        double v = n->op == AD_OP_row_count ? (double)ad_tape_rows(t) : 0;
        if (n->op == AD_OP_constant) v = n->data[i];
        else if (n->op == AD_OP_fill) v = n->data[0];
        else if (n->op == AD_OP_eye) v = i % n->shape.dim[1] == i / n->shape.dim[1] + n->attr[0];
        store(dtype, n->value, i, v);
    }
    return true;
}

static bool evaluate_kernel(ad_tape *t, ad_node *n)
{
    ad_shape *shapes = malloc((size_t)n->nin * (sizeof *shapes + sizeof(void *)) + 1);
    if (!shapes) return fail_memory(t, n, (size_t)n->nin * sizeof *shapes);
    const void **in = (const void **)(shapes + n->nin);
    for (int i = 0; i < n->nin; i++) {
        const ad_node *m = ad_node_at(t, n->in[i]);
        shapes[i] = m->shape;
        in[i] = m->value;
    }
    int64_t rows = ad_tape_rows(t) > 0 ? ad_tape_rows(t) : 1;
    ad_kernel k = { .op = n->op,
                    .dtype = ad_tape_dtype(t),
                    .nin = n->nin,
                    .in_shapes = shapes,
                    .out = n->shape,
                    .nattr = n->nattr,
                    .attr = n->attr };
    if (!ad_kernel_exists(k.op, k.dtype, k.nin)) {
        ad_fail(t, "ad_value: no kernel for %s", name_of(n).text);
        free(shapes);
        return false;
    }
    bool fine = allocate(t, n) && ad_kernel_prepare(&k, rows);
    if (fine) {
        size_t bytes = (ad_kernel_scratch(&k, rows) + 127) & ~(size_t)63;
        void *scratch = aligned_alloc(64, bytes);
        fine = scratch || fail_memory(t, n, bytes);
        if (fine && k.reduces_rows) ad_kernel_identity(&k, n->value, ad_count(n->shape, rows));
        if (fine) k.run(&k, rows, in, n->value, scratch);
        free(scratch);
        ad_kernel_clear(&k);
    } else ad_fail(t, "ad_value: out of memory in %s", name_of(n).text);
    free(shapes);
    return fine;
}

static bool evaluate_opaque(ad_tape *t, int32_t node, ad_node *n)
{
    int nout = (int)n->attr[0];
    char error[768] = "failed without saying why";
    if (n->running) {
        ad_fail(t,
                "ad_value: %s is being evaluated already: its own field (options.rerecord) asks "
                "for its result",
                ad_node_name(n));
        return false;
    }
    ad_opaque_account state_bytes = { .rows = ad_tape_rows(t) > 0 ? ad_tape_rows(t) : 0,
                                      .state_used = true };
    if (ad_tape_memory(t) && n->class_->account) {
        n->class_->account(n->opaque, &state_bytes);
        const char *what = state_bytes.largest[0] ? state_bytes.largest : "what it keeps";
        if (!is_within_limit(t, n, state_bytes.bytes, what)) return false;
    }
    if (!n->state && n->class_->state_new && !(n->state = n->class_->state_new(n->opaque))) {
        ad_fail(t, "ad_value: out of memory for the state of %s", ad_node_name(n));
        return false;
    }
    void **pointers = calloc((size_t)(2 * n->nin + nout) + 1, sizeof *pointers);
    ad_shape *shapes = malloc((size_t)(n->nin + nout + 1) * sizeof *shapes);
    if (!pointers || !shapes) {
        free(pointers);
        free(shapes);
        return fail_memory(t, n, 0);
    }
    void **state = pointers + n->nin, **out = state + n->nin;
    bool fine = true;
    for (int i = 0; i < n->nin; i++) {
        const ad_node *m = ad_node_at(t, n->in[i]);
        shapes[i] = ad_with_rows(m->shape, ad_tape_rows(t));
        if (m->op == AD_OP_opaque) state[i] = m->state;
        else pointers[i] = m->value;
    }
    for (int k = 0; k < nout && fine; k++) {
        ad_tape_note_value(t, node + 1 + k);
        fine = allocate(t, ad_node_at(t, node + 1 + k));
        out[k] = ad_node_at(t, node + 1 + k)->value;
        shapes[n->nin + k] = ad_with_rows(ad_node_at(t, node + 1 + k)->shape, ad_tape_rows(t));
    }
    ad_opaque_call call = { .dtype = ad_tape_dtype(t),
                            .rows = ad_tape_rows(t) > 0 ? ad_tape_rows(t) : 0,
                            .threads = 0,
                            .refine = ad_tape_refine(t),
                            .state_used = true,
                            .most_bytes = bytes_left(t),
                            .in = (const void *const *)pointers,
                            .in_state = state,
                            .out = out,
                            .in_shape = shapes,
                            .out_shape = shapes + n->nin,
                            .error = error,
                            .error_size = sizeof error };
    ad_tape_hold(t);
    n->running = true;
    int code = fine ? n->class_->forward(n->opaque, n->state, &call) : 0;
    if (code < 0) {
        ad_fail(t, "%s: %s", ad_node_name(n), error);
        fine = false;
    }
    if (code > 0) ad_opaque_fill_nan(&call, nout);
    n->running = false;
    ad_tape_release(t);
    for (int k = 0; k < nout && fine; k++) ad_node_at(t, node + 1 + k)->known = true;
    free(pointers);
    free(shapes);
    return fine;
}

static bool evaluate(ad_tape *t, int32_t node)
{
    ad_node *n = ad_node_at(t, node);
    if (n->op != AD_OP_input) ad_tape_note_value(t, node);
    bool fine = ad_ops[n->op].kind == AD_SOURCE   ? evaluate_source(t, n)
                : n->op == AD_OP_opaque           ? evaluate_opaque(t, node, n)
                : ad_ops[n->op].kind == AD_RESULT ? true
                                                  : evaluate_kernel(t, n);
    n->known = fine;
    return fine;
}

/* Computes what x needs and has no value, in order of recording: a node's operands come before it.
 */
static bool evaluate_all(ad_tape *t, ad_var x)
{
    ad_reach needed;
    if (!ad_reach_find(&needed, t, 1, &x, &(ad_reach_limits){ .values = true })) return false;
    bool fine = true;
    for (int32_t i = 0; i < needed.n && fine; i++) {
        const ad_node *n = ad_node_at(t, needed.node[i]);
        if (n->known && n->op != AD_OP_input) continue;
        ad_var now = ad_var_at(t, needed.node[i]);
        ad_tape_about(t, 1, &now);
        fine = evaluate(t, needed.node[i]);
    }
    ad_tape_about(t, 0, NULL);
    ad_reach_clear(&needed);
    return fine;
}

/* Why x cannot have a value yet; NULL when nothing that it needs is missing. */
static const char *missing(ad_var x)
{
    ad_tape *t = x.tape;
    ad_reach needed;
    if (!ad_reach_find(&needed, t, 1, &x, &(ad_reach_limits){ .values = true })) return NULL;
    const char *reason = NULL;
    for (int32_t i = 0; i < needed.n && !reason; i++) {
        const ad_node *n = ad_node_at(t, needed.node[i]);
        bool rows = n->op == AD_OP_row_count || ad_has_rows(n->shape);
        if (n->op == AD_OP_input && !n->known)
            reason = ad_tape_advice(t) ? ad_tape_advice(t) : "an input was recorded without data";
        else if (rows && ad_tape_rows(t) < 1) reason = "the number of rows is not known";
    }
    ad_reach_clear(&needed);
    return reason;
}

const void *ad_value(ad_var x)
{
    ad_tape *t = ad_common_tape("value", 1, &x);
    if (!t) return NULL;
    ad_node_at(t, x.node)->looked = true;
    return evaluate_all(t, x) ? ad_node_at(t, x.node)->value : NULL;
}

static const void *value_of_type(ad_var x, const char *what, ad_dtype dtype)
{
    ad_tape *t = ad_common_tape(what, 1, &x);
    if (!t) return NULL;
    if (ad_tape_dtype(t) == dtype) return ad_value(x);
    ad_fail(t, "ad_%s: the tape computes in %s (ad_get gives doubles, whatever the tape's type)",
            what, dtype == AD_F32 ? "double" : "float");
    return NULL;
}

const float *ad_value_f32(ad_var x) { return value_of_type(x, "value_f32", AD_F32); }
const double *ad_value_f64(ad_var x) { return value_of_type(x, "value_f64", AD_F64); }

double ad_item(ad_var x)
{
    ad_tape *t = ad_common_tape("item", 1, &x);
    if (!t) return NAN;
    if (ad_size(x) != 1) {
        ad_fail_shapes(t, "item", "the variable is not one number (ad_get gives arrays)", 1, &x);
        return NAN;
    }
    const void *v = ad_value(x);
    return !v ? NAN : ad_tape_dtype(t) == AD_F32 ? *(const float *)v : *(const double *)v;
}

int ad_get(ad_var x, double *out)
{
    const void *v = ad_value(x);
    if (!v) return -1;
    if (!out) ad_fail_null(x.tape, "get", "the array for the elements");
    if (!out) return -1;
    int64_t n = ad_size(x);
    for (int64_t i = 0; i < n; i++)
        out[i] = ad_tape_dtype(x.tape) == AD_F32 ? ((const float *)v)[i] : ((const double *)v)[i];
    return 0;
}

void ad_print(FILE *file, const char *name, ad_var x)
{
    if (!file) return;
    if (!name) name = "(no name)";
    char shape[128];
    ad_format_shape(ad_shape_of(x), shape, sizeof shape);
    const char *reason = ad_common_tape("print", 1, &x) ? missing(x) : NULL;
    if (reason) {
        fprintf(file, "%s %s: no value here: %s\n", name, shape, reason);
        return;
    }
    const void *v = ad_value(x);
    if (!v) {
        fprintf(file, "%s: %s\n", name, x.tape ? ad_tape_error(x.tape) : "not a variable");
        return;
    }
    int64_t n = ad_size(x), row = ad_row_size(ad_shape_of(x));
    ad_shape s = ad_shape_of(x);
    if (s.rank > 0 && !ad_has_rows(s)) row = s.dim[s.rank - 1];
    fprintf(file, "%s %s", name, shape);
    for (int64_t i = 0; i < n; i++) {
        if (i == 1000) {
            fprintf(file, "\n  ... (%lld elements in all)", (long long)n);
            break;
        }
        fprintf(file, "%s%.9g",
                i % (row > 0 ? row : 1) ? " "
                : n > row               ? "\n  "
                                        : " ",
                ad_tape_dtype(x.tape) == AD_F32 ? (double)((const float *)v)[i]
                                                : ((const double *)v)[i]);
    }
    fprintf(file, "\n");
}
