/* A recorded function at new data in one call: compiled once, kept in the tape's cache, and run. */
#include "autodiff/tape/tape.h"
#include <stdlib.h>
#include <string.h>

/* What the cache keeps. A run may call fields that evaluate something else, which may drop this one
 * from the cache. So a run holds a reference of its own. */
typedef struct {
    int references;
    ad_program *program;
    ad_workspace *workspace;
} evaluator;

static void evaluator_release(void *object)
{
    evaluator *e = object;
    if (--e->references > 0) return;
    ad_workspace_free(e->workspace);
    ad_program_free(e->program);
    free(e);
}

/* The caller's lists, and the inputs: those of the caller, then what the outputs reach of others.
 */
typedef struct {
    ad_dtype dtype;
    int64_t rows;
    int nin, nout, ninput;
    const ad_var *in, *out;
    const void *const *data;
    void *const *results;
    ad_var *input;
    const void **pointer; /* the elements of the inputs */
    void **result;        /* where the program writes */
} call;

/* An array's, rounded up so that the next one is aligned. */
static size_t array_bytes(const ad_tape *t, const call *c, ad_var x)
{
    return ((size_t)ad_count(ad_shape_of(x), c->rows) * ad_dtype_size(ad_tape_dtype(t)) + 63) &
           ~(size_t)63;
}

static bool check_inputs(ad_tape *t, const call *c)
{
    bool any_rows = false;
    for (int i = 0; i < c->nin; i++) {
        const ad_node *n = ad_node_at(t, c->in[i].node);
        any_rows = any_rows || ad_has_rows(n->shape);
        if (n->op != AD_OP_input)
            ad_fail(t, "ad_evaluate: variable %d is the result of ad_%s; only inputs get new data",
                    i, ad_ops[n->op].name);
        else if (!c->data || !c->data[i])
            ad_fail(t, "ad_evaluate: the data of input %d are NULL", i);
    }
    for (int j = 0; j < c->nout; j++) any_rows = any_rows || ad_has_rows(ad_shape_of(c->out[j]));
    if (any_rows && c->rows < 1)
        ad_fail(t, "ad_evaluate: the batch is empty (rows = %lld)", (long long)c->rows);
    for (int i = 0; i < c->nin + c->nout && any_rows; i++) {
        ad_shape s = ad_shape_of(i < c->nin ? c->in[i] : c->out[i - c->nin]);
        if (ad_has_rows(s) && c->rows >= ((int64_t)1 << AD_MAX_ELEMENTS_SHIFT) / ad_row_size(s))
            ad_fail(t, "ad_evaluate: %lld rows are too many", (long long)c->rows);
    }
    if (!c->results) ad_fail(t, "ad_evaluate: the list of results is NULL");
    return !ad_tape_error(t);
}

static bool is_listed(const call *c, int32_t node)
{
    for (int i = 0; i < c->nin; i++)
        if (c->in[i].node == node) return true;
    return false;
}

/* The inputs: those of the caller, then the others that the outputs need, which have the tape's
 * data. */
static bool list_inputs(ad_tape *t, call *c)
{
    ad_reach needed;
    if (!ad_reach_find(&needed, t, c->nout, c->out, &(ad_reach_limits){ 0 })) return false;
    size_t most = (size_t)c->nin + 1;
    for (int32_t i = 0; i < needed.n; i++) most += ad_node_at(t, needed.node[i])->op == AD_OP_input;
    c->input = malloc(most * sizeof *c->input);
    c->pointer = malloc(most * sizeof *c->pointer);
    c->result = malloc((size_t)c->nout * sizeof *c->result);
    bool fine = c->input && c->pointer && c->result;
    for (int i = 0; i < c->nin && fine; i++) {
        c->input[i] = c->in[i];
        c->pointer[i] = c->data[i];
    }
    c->ninput = c->nin;
    for (int32_t i = 0; i < needed.n && fine; i++) {
        int32_t k = needed.node[i];
        const ad_node *n = ad_node_at(t, k);
        if (n->op != AD_OP_input || is_listed(c, k)) continue;
        char shape[128];
        ad_format_shape(n->shape, shape, sizeof shape);
        if (!n->known)
            ad_fail(t, "ad_evaluate: an input of shape %s has no data, and none are given", shape);
        if (n->known && ad_has_rows(n->shape) && n->rows != c->rows)
            ad_fail(t,
                    "ad_evaluate: an input of shape %s that is not listed has %lld rows, the new "
                    "data %lld",
                    shape, (long long)n->rows, (long long)c->rows);
        c->input[c->ninput] = ad_var_at(t, k);
        c->pointer[c->ninput++] = n->value;
    }
    ad_reach_clear(&needed);
    return fine;
}

static evaluator *compile(const call *c)
{
    evaluator *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->references = 1;
    e->program = ad_compile(c->ninput, c->input, c->nout, c->out);
    e->workspace = ad_workspace_new(e->program, 0);
    if (e->workspace) return e;
    evaluator_release(e);
    return NULL;
}

/* The evaluator of an equal function that the tape keeps, or a new one; NULL with the error set. */
static evaluator *through_cache(ad_tape *t, const call *c)
{
    static const char tag[] = "ad_evaluate";
    size_t length;
    void *function = ad_function_key(c->ninput, c->input, c->nout, c->out, &length);
    char *key = function ? malloc(sizeof tag + length) : NULL;
    evaluator *e = NULL;
    if (key) {
        memcpy(key, tag, sizeof tag);
        memcpy(key + sizeof tag, function, length);
        e = ad_cache_find(t, key, sizeof tag + length);
        if (!e && (e = compile(c))) ad_cache_add(t, key, sizeof tag + length, e, evaluator_release);
    }
    if (!e) ad_fail(t, "ad_evaluate: out of memory");
    free(function);
    free(key);
    return ad_tape_error(t) ? NULL : e;
}

/* Arrays in the tape's type in the place of the caller's, in one piece of memory (NULL when it is
 * short). */
static char *convert_data(ad_tape *t, call *c)
{
    size_t bytes = 0, at = 0;
    for (int i = 0; i < c->nin; i++) bytes += array_bytes(t, c, c->in[i]);
    for (int j = 0; j < c->nout; j++) bytes += array_bytes(t, c, c->out[j]);
    char *memory = malloc(bytes + 1);
    if (!memory) {
        ad_fail(t, "ad_evaluate: out of memory (%zu bytes)", bytes);
        return NULL;
    }
    for (int i = 0; i < c->nin; i++) {
        ad_convert(ad_count(ad_shape_of(c->in[i]), c->rows), c->dtype, c->data[i], ad_tape_dtype(t),
                   memory + at);
        c->pointer[i] = memory + at;
        at += array_bytes(t, c, c->in[i]);
    }
    for (int j = 0; j < c->nout; j++) {
        c->result[j] = c->results[j] ? memory + at : NULL;
        at += array_bytes(t, c, c->out[j]);
    }
    return memory;
}

static bool run(ad_tape *t, evaluator *e, call *c)
{
    bool same = c->dtype == ad_tape_dtype(t);
    for (int j = 0; j < c->nout; j++) c->result[j] = c->results[j];
    char *memory = same ? NULL : convert_data(t, c);
    if (!same && !memory) return false;
    ad_workspace_set_limit(e->workspace, ad_tape_memory(t));
    bool fine = !ad_run(e->program, e->workspace, c->rows, c->pointer, c->result);
    if (!fine) {
        static const char called[] = "ad_run: "; /* by us */
        const char *error = ad_workspace_error(e->workspace);
        bool named = !strncmp(error, called, sizeof called - 1);
        ad_fail(t, "ad_evaluate: %s", named ? error + sizeof called - 1 : error);
    }
    for (int j = 0; j < c->nout && fine && !same; j++)
        if (c->result[j])
            ad_convert(ad_count(ad_shape_of(c->out[j]), c->rows), ad_tape_dtype(t), c->result[j],
                       c->dtype, c->results[j]);
    free(memory);
    return fine;
}

static bool run_held(ad_tape *t, evaluator *e, call *c)
{
    if (e->references > 1) {
        ad_fail(t, "ad_evaluate: this function is being evaluated already: a field in it "
                   "(options.rerecord) evaluates it again");
        return false;
    }
    e->references++;
    ad_tape_hold(t);
    bool fine = run(t, e, c);
    ad_tape_release(t);
    evaluator_release(e);
    return fine;
}

static int evaluate(call c)
{
    const ad_list lists[] = { { "results", c.nout, c.out, false },
                              { "inputs", c.nin, c.in, false } };
    ad_tape *t = ad_lists_tape("evaluate", 2, lists);
    if (!t) return -1;
    if (c.nout < 1) {
        ad_fail(t, "ad_evaluate: there is nothing to evaluate");
        return -1;
    }
    if (!check_inputs(t, &c)) return -1;
    if (!list_inputs(t, &c)) ad_fail(t, "ad_evaluate: out of memory");
    evaluator *e = ad_tape_error(t) ? NULL : through_cache(t, &c);
    bool fine = e && run_held(t, e, &c);
    free(c.input);
    free(c.pointer);
    free(c.result);
    return fine ? 0 : -1;
}

int ad_evaluate_f32(int nin, const ad_var *in, const float *const *data, int64_t rows, int nout,
                    const ad_var *out, float *const *results)
{
    return evaluate((call){ .dtype = AD_F32,
                            .rows = rows,
                            .nin = nin,
                            .nout = nout,
                            .in = in,
                            .out = out,
                            .data = (const void *const *)data,
                            .results = (void *const *)results });
}

int ad_evaluate_f64(int nin, const ad_var *in, const double *const *data, int64_t rows, int nout,
                    const ad_var *out, double *const *results)
{
    return evaluate((call){ .dtype = AD_F64,
                            .rows = rows,
                            .nin = nin,
                            .nout = nout,
                            .in = in,
                            .out = out,
                            .data = (const void *const *)data,
                            .results = (void *const *)results });
}
