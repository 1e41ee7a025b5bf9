/* The replay of programs in workspaces.
 *
 * A program runs as U_0 B_0 U_1 B_1 ...: the steps of U_p on whole arrays, by the caller's thread
 * (large products and groups by all of them); the body B_p block by block over the rows (body.c),
 * or at once when there is one row (row.c). Before the first phase the pointers of all roots are
 * bound to the caller's arrays and to the workspace's memory. Nothing here allocates; memory was
 * reserved by workspace.c. */
#include "autodiff/run/body.h"
#include "autodiff/run/threads.h"
#include <stdio.h>
#include <string.h>

/* ---- whole arrays ---- */

static void write_row_count(const ad_program *p, int64_t rows, void *out)
{
    if (p->ir.dtype == AD_F32) *(float *)out = (float)rows;
    else *(double *)out = (double)rows;
}

/* Of a run, the first operation whose operands were outside its domain. */
static void note_outside(ad_workspace *w, const char *name, const char *message)
{
    if (w->outside[0]) return;
    snprintf(w->outside, sizeof w->outside, "%s: %s", name,
             message[0] ? message : "its operands are outside its domain");
}

static int run_opaque(ad_workspace *w, const ad_step *s, const ad_run_args *a)
{
    const ad_program *p = w->program;
    const ad_inst *x = &p->ir.inst[s->value];
    for (int k = 0; k < x->nin; k++) {
        bool token = p->ir.inst[x->in[k]].op == AD_OP_opaque;
        w->in[k] = token ? NULL : w->base[s->operand[k].root] + s->operand[k].offset;
        w->in_shape[k] = ad_with_rows(p->ir.inst[x->in[k]].shape, a->rows);
        w->in_state[k] = token ? w->state[p->slot[x->in[k]].position] : NULL;
    }
    for (int j = 0; j < x->nout; j++) {
        int32_t result = s->result[j];
        w->out[j] = result < 0 ? NULL : w->base[result];
        w->out_shape[j] =
            result < 0 ? (ad_shape){ -1, { 0 } } : ad_with_rows(p->ir.inst[result].shape, a->rows);
    }
    char message[512] = "", doubt[sizeof message] = "";
    int64_t most = w->limit ? w->most[p->slot[s->value].position] : 0;
    if (most && a->refine) most = ad_size_add(most, w->spare); /* more steps than were reckoned */
    ad_opaque_call call = { .dtype = p->ir.dtype,
                            .rows = p->has_rows ? a->rows : 0,
                            .threads = ad_threads_in_team() ? 1 : w->threads,
                            .refine = a->refine,
                            .state_used = s->state_used,
                            .most_bytes = most,
                            .in = w->in,
                            .in_state = w->in_state,
                            .out = w->out,
                            .in_shape = w->in_shape,
                            .out_shape = w->out_shape,
                            .error = message,
                            .error_size = sizeof message,
                            .warning = a->warns ? doubt : NULL };
    int code = x->class_->forward(x->opaque, w->state[p->slot[s->value].position], &call);
    message[sizeof message - 1] = doubt[sizeof doubt - 1] = 0;
    if (doubt[0] && !w->warning[0])
        snprintf(w->warning, sizeof w->warning, "%s: %s", ad_opaque_name(x->class_, x->opaque),
                 doubt);
    if (code == 0) return 0;
    if (code > 0) {
        note_outside(w, ad_opaque_name(x->class_, x->opaque), message);
        ad_opaque_fill_nan(&call, x->nout);
        return 0;
    }
    return ad_workspace_fail(w, "ad_run: %s: %s", ad_opaque_name(x->class_, x->opaque),
                             message[0] ? message : "the operation failed without a message");
}

typedef struct {
    const ad_workspace *workspace;
    const ad_step *step;
} product;

static void run_product_piece(void *data, int thread, int64_t piece)
{
    const product *d = data;
    const ad_workspace *w = d->workspace;
    const ad_program *p = w->program;
    char *scratch =
        w->scratch + ad_size_align(p->uniform_scratch) + thread * ad_size_align(p->piece_scratch);
    ad_kernel_run_piece(&d->step->kernel, piece, true, 1, w->in, w->base[d->step->value], scratch);
}

/* A large product without rows: the threads share it. */
static void run_product(const ad_workspace *w, const ad_step *s)
{
    const int32_t i = (int32_t)(s - w->program->step);
    const double work = ad_row_work(w->program, (int32_t[]){ i, i + 1 });
    const int threads = ad_threads_in_team() || w->threads < 1 ? 1 : w->threads;
    product d = { w, s };
    ad_threads_share(threads, work, s->kernel.pieces, run_product_piece, &d);
}

typedef struct {
    const ad_workspace *workspace;
    const ad_step *begin, *end;
    int64_t stretch; /* elements of a part */
} group;

static void run_stretch(void *data, int thread, int64_t part)
{
    enum { OPERANDS = 3 }; /* the most of a step that a group may have */
    const group *g = data;
    const ad_workspace *w = g->workspace;
    const void *in[OPERANDS];
    ad_thread_memory t = { .pointer = w->base,
                           .in = in,
                           .scratch = w->scratch,
                           .apart = thread * w->program->whole_chunk_bytes };
    const int64_t first = part * g->stretch, left = g->begin->elements - first;
    ad_run_group(g->begin, g->end, &t, first,
                 left < g->stretch ? first + left : first + g->stretch);
}

/* A group on whole arrays: the threads share its chunks. */
static void run_group(const ad_workspace *w, const ad_step *begin, const ad_step *end)
{
    enum { STRETCH = 16 }; /* chunks */
    const int64_t n = begin->elements, stretch = STRETCH * begin->chunk_rows;
    const double work = (double)n * (double)ad_dtype_size(w->program->ir.dtype);
    group g = { w, begin, end, stretch };
    const int threads = ad_threads_in_team() || w->threads < 1 ? 1 : w->threads;
    ad_threads_share(threads, work * (double)(end - begin), (n + stretch - 1) / stretch,
                     run_stretch, &g);
    for (const ad_step *s = begin; s < end; s++)
        if (s->sums) ad_kernel_sum_tree(&s->kernel, n, w->scratch + s->leaves, w->base[s->value]);
}

static int run_uniform_steps(ad_workspace *w, int32_t begin, int32_t end, const ad_run_args *a)
{
    const ad_program *p = w->program;
    for (int32_t i = begin; i < end; i = p->step[i].end) {
        const ad_step *s = &p->step[i];
        if (s->elements) {
            run_group(w, s, p->step + (s->end < end ? s->end : end));
        } else if (s->kind == AD_STEP_OPAQUE) {
            if (run_opaque(w, s, a)) return -1;
        } else if (s->kind == AD_STEP_ROW_COUNT) {
            write_row_count(p, a->rows, w->base[s->value]);
        } else {
            for (int k = 0; k < s->kernel.nin; k++)
                w->in[k] = w->base[s->operand[k].root] + s->operand[k].offset;
            if (s->kernel.divided) run_product(w, s);
            else s->kernel.run(&s->kernel, 1, w->in, w->base[s->value], w->scratch);
        }
    }
    return 0;
}

static int run_uniform(ad_workspace *w, const ad_phase *phase, ad_section section,
                       const int32_t *range, const ad_run_args *a)
{
    const ad_piece_list *list = ad_pieces_of(w, w->pieces, phase, section);
    if (!list) return run_uniform_steps(w, range[0], range[1], a);
    for (int32_t i = 0; i < list->n; i++) {
        const ad_piece *piece = &list->piece[i];
        if (piece->code >= 0) piece->call.one(w->base, w->frame);
        else if (run_uniform_steps(w, piece->begin, piece->end, a)) return -1;
    }
    return 0;
}

/* ---- runs ---- */

static const char *shape_text(const ad_program *p, int32_t value, char *text, size_t size)
{
    ad_format_shape(p->ir.inst[value].shape, text, size);
    return text;
}

static bool input_is_used(const ad_program *p, int i) { return p->ir.inst[i].uses > 0; }

static int check_rows(ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    if (w->threads < 0)
        return ad_workspace_fail(w,
                                 "ad_run: the workspace was made for a negative number of threads "
                                 "(%d); 0 leaves the number to the library",
                                 w->threads);
    if (p->has_rows && a->rows < 1)
        return ad_workspace_fail(w,
                                 a->rows == 0
                                     ? "ad_run: the batch is empty (rows = %lld)"
                                     : "ad_run: the number of rows is negative (rows = %lld)",
                                 (long long)a->rows);
    if (p->has_rows && a->rows > p->most_rows)
        return ad_workspace_fail(w, "ad_run: %lld rows need more bytes than can be addressed",
                                 (long long)a->rows);
    return 0;
}

static int check_accumulated(ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    char text[128];
    for (int j = 0; j < p->ir.noutput; j++)
        if (a->accumulate[j] && p->output[j].rows)
            return ad_workspace_fail(w,
                                     "ad_run: output %d of shape %s has rows: only outputs without "
                                     "rows can be accumulated",
                                     j, shape_text(p, p->ir.output[j], text, sizeof text));
    return 0;
}

static int check_inputs(ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    char text[128];
    for (int i = 0; i < p->ir.ninput; i++)
        if (!a->inputs[i] && input_is_used(p, i))
            return ad_workspace_fail(w, "ad_run: input %d of shape %s is NULL", i,
                                     shape_text(p, i, text, sizeof text));
    return 0;
}

/* Checks the lists of arrays and points inputs at the caller's. */
static int bind_inputs(ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    const int n = p->ir.ninput;
    if ((n && !a->inputs) || (p->ir.noutput && !a->outputs))
        return ad_workspace_fail(w, "ad_run: the list of %s is NULL",
                                 n && !a->inputs ? "inputs" : "outputs");
    bool missing = false;
    for (int i = 0; i < n; i++) {
        const void *given = a->inputs[i];
        missing |= !given;
        w->base[i] = (char *)(uintptr_t)given;
    }
    if (missing && check_inputs(w, a)) return -1;
    if (a->fill && !ad_program_fill_rows(p))
        return ad_workspace_fail(w, "ad_run: inputs are to be filled block by block (fill), but "
                                    "operations of the program see them as a whole");
    return a->accumulate ? check_accumulated(w, a) : 0;
}

/* Where an output is while there is no array of the caller's for it. */
static char *place_of(const ad_workspace *w, const ad_output *o, const ad_run_args *a)
{
    if (o->lane) return w->lanes + o->position;
    if (!o->rows) return w->fixed + o->position;
    return a->rows == 1 ? w->row.block + o->position : NULL;
}

/* Points outputs that are computed in place at the caller's arrays. Of several that have one root,
 * the first counts. Whether there may be outputs that are computed elsewhere. */
static bool bind_outputs(ad_workspace *w, const ad_run_args *a)
{
    const ad_output *output = w->program->output;
    const bool *accumulate = a->accumulate;
    bool elsewhere = accumulate != NULL;
    for (int j = w->program->ir.noutput - 1; j >= 0; j--) {
        const ad_output *o = &output[j];
        char *given = accumulate && accumulate[j] ? NULL : a->outputs[j];
        const bool bound = given && (o->in_place || (o->lane && w->whole));
        elsewhere |= a->outputs[j] && (!bound || !o->last);
        if (bound) w->base[o->root] = given;
        else if (o->last) w->base[o->root] = place_of(w, o, a);
    }
    return elsewhere;
}

static void accumulate(ad_dtype dtype, int64_t n, const void *from, void *into)
{
    if (dtype == AD_F32)
        for (int64_t i = 0; i < n; i++) ((float *)into)[i] += ((const float *)from)[i];
    else
        for (int64_t i = 0; i < n; i++) ((double *)into)[i] += ((const double *)from)[i];
}

static void deliver(const ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    for (int j = 0; j < p->ir.noutput; j++) {
        const ad_output *o = &p->output[j];
        if (w->waiting[o->root]) continue;
        const char *from = w->base[o->root] + o->offset;
        if (!a->outputs[j] || from == a->outputs[j]) continue;
        const int64_t n = o->rows ? o->size * a->rows : o->size;
        if (a->accumulate && a->accumulate[j]) accumulate(p->ir.dtype, n, from, a->outputs[j]);
        else memcpy(a->outputs[j], from, (size_t)n * ad_dtype_size(p->ir.dtype));
    }
}

/* ---- sums over several runs ---- */

/* Adds the sums that wait to their outputs; they begin again with the next run. */
static void add_waiting(ad_workspace *w)
{
    const ad_program *p = w->program;
    for (int f = 0; f < p->nphase && w->waiting_rows; f++)
        if (p->phase[f].nreduction) ad_run_finish_sums(w, &p->phase[f], w->waiting_rows, true);
    for (int j = 0; j < p->ir.noutput && w->waiting_rows; j++) {
        const ad_output *o = &p->output[j];
        if (w->waiting[o->root] && w->waiting_out[j])
            accumulate(p->ir.dtype, o->size, w->base[o->root] + o->offset, w->waiting_out[j]);
    }
    w->waiting_rows = 0;
    w->waiting_terms = 0;
}

void ad_run_deliver(ad_workspace *w)
{
    if (!w || !w->defers) return;
    add_waiting(w);
    memset(w->waiting, 0, (size_t)w->program->ir.n * sizeof *w->waiting);
    w->defers = false;
}

/* After a run whose sums wait: a lane adds no more than AD_CHAIN numbers one after the other. */
static void wait_for_more(ad_workspace *w, int64_t rows)
{
    w->waiting_rows = rows;
    w->waiting_terms += rows < w->program->block_rows ? rows : w->program->block_rows;
    if (w->waiting_terms >= AD_CHAIN) add_waiting(w);
}

/* Notes which sums of the run at hand are to wait, and delivers those that do where it is not of
 * their kind. Only sums of which every lane has one block: those of many would lose digits. */
static void defer(ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    bool may = a->defer && a->accumulate && p->has_rows && ad_block_count(p, a->rows) <= AD_LANES;
    bool same = may && a->rows == w->waiting_rows;
    for (int j = 0; j < p->ir.noutput && same; j++)
        same = !w->waiting[p->output[j].root] ||
               (a->outputs[j] == w->waiting_out[j] && (!a->outputs[j] || a->accumulate[j]));
    if (same) return;
    ad_run_deliver(w);
    if (!may) return;
    w->defers = true;
    for (int j = 0; j < p->ir.noutput; j++) {
        const ad_output *o = &p->output[j];
        w->waiting_out[j] = a->outputs[j];
        if (a->accumulate[j] && o->summed) w->waiting[o->root] = true;
    }
    for (int j = 0; j < p->ir.noutput; j++)
        if (a->outputs[j] && !a->accumulate[j]) w->waiting[p->output[j].root] = false;
}

static int run_phases(ad_workspace *w, const ad_run_args *a, bool skip)
{
    const ad_program *p = w->program;
    const ad_run_args *filled = a->fill && a->rows > 1 ? a : NULL;
    for (int f = 0; f < p->nphase; f++) {
        const ad_phase *phase = &p->phase[f];
        const int32_t *parameter = phase->parameter_steps, *call = phase->call_steps;
        if (!skip && parameter[0] < parameter[1] &&
            run_uniform(w, phase, AD_SECTION_PARAMETER, parameter, a))
            return -1;
        if (call[0] < call[1] && run_uniform(w, phase, AD_SECTION_CALL, call, a)) return -1;
        if (phase->body_steps[0] == phase->sum_steps[1]) continue;
        if (a->rows == 1) ad_run_row(w, phase);
        else ad_run_body(w, phase, a->rows, filled);
        filled = NULL;
    }
    return 0;
}

static void run_code(ad_workspace *w)
{
    const ad_program *p = w->program;
    for (int f = 0; f < p->nphase && p->nsum; f++) ad_run_begin_sums(w, &p->phase[f], true);
    w->alone(w->base, w->frame);
}

/* Where machine code is all of a run, that of a small program takes less time than all the
 * questions that runs may raise: here it has an answer to every one of them, or has done nothing.
 */
static bool run_plain(ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    const int nin = p->ir.ninput, nout = p->ir.noutput;
    if (!w->plain || w->ready_rows != a->rows || a->accumulate || a->fill || w->defers ||
        !a->inputs || !a->outputs)
        return false;
    for (int i = 0; i < nin; i++) {
        if (!a->inputs[i]) return false;
        w->base[i] = (char *)(uintptr_t)a->inputs[i];
    }
    for (int j = 0; j < nout; j++) {
        if (!a->outputs[j]) return false;
        w->base[p->output[j].root] = a->outputs[j];
    }
    run_code(w);
    w->parameters_done = true;
    return true;
}

static int run(ad_workspace *w, const ad_run_args *a)
{
    bool skip = a->same_parameters && w->parameters_done;
    w->parameters_done = false; /* a run that fails may have had other ones */
    const bool ready = w->ready && w->ready_rows == a->rows;
    if (!ready && check_rows(w, a)) return -1;
    if (bind_inputs(w, a)) return -1;
    if (a->defer || w->defers) defer(w, a);
    if (!ready && ad_workspace_reserve(w, a->rows)) return -1;
    const bool elsewhere = bind_outputs(w, a);
    if (a->fill && a->rows == 1) a->fill(a->fill_context, 0, 1);
    if (w->alone) run_code(w);
    else if (run_phases(w, a, skip)) return -1;
    if (elsewhere) deliver(w, a);
    if (w->defers) wait_for_more(w, a->rows);
    w->parameters_done = true;
    return 0;
}

/* dtype: of the caller's arrays, or NULL when they are the program's. */
static int run_alone(const ad_program *program, ad_workspace *w, const ad_run_args *args,
                     const ad_dtype *dtype)
{
    if (!w) return -1;
    if (atomic_flag_test_and_set_explicit(&w->busy, memory_order_acquire)) {
        atomic_store(&w->refused, true);
        return -1;
    }
    atomic_store_explicit(&w->refused, false, memory_order_relaxed);
    w->error[0] = 0;
    w->outside[0] = w->warning[0] = 0;
    int result;
    if (!program || !args)
        result = ad_workspace_fail(w, "ad_run: the %s is NULL",
                                   program ? "list of arguments" : "program");
    else if (w->program != program)
        result = ad_workspace_fail(w, "ad_run: the workspace was made for another program");
    else if (dtype && *dtype != program->ir.dtype)
        result =
            ad_workspace_fail(w, "ad_run: the program computes in %s, the arrays are %s",
                              program->ir.dtype == AD_F32 ? "float (AD_F32)" : "double (AD_F64)",
                              *dtype == AD_F32 ? "float" : "double");
    else result = run_plain(w, args) ? 0 : run(w, args);
    atomic_flag_clear_explicit(&w->busy, memory_order_release);
    return result;
}

int ad_run_with(const ad_program *program, ad_workspace *w, const ad_run_args *args)
{
    return run_alone(program, w, args, NULL);
}

bool ad_program_discretises(const ad_program *p)
{
    bool any = false;
    for (int i = 0; p && i < p->nopaque; i++)
        any = any || p->ir.inst[p->opaque[i]].class_->discretises;
    return any;
}

int ad_run(const ad_program *program, ad_workspace *w, int64_t rows, const void *const *inputs,
           void *const *outputs)
{
    return run_alone(program, w,
                     &(ad_run_args){ .rows = rows, .inputs = inputs, .outputs = outputs }, NULL);
}

int ad_run_f32(const ad_program *program, ad_workspace *w, int64_t rows, const float *const *inputs,
               float *const *outputs)
{
    ad_run_args args = { .rows = rows,
                         .inputs = (const void *const *)inputs,
                         .outputs = (void *const *)outputs };
    return run_alone(program, w, &args, &(ad_dtype){ AD_F32 });
}

int ad_run_f64(const ad_program *program, ad_workspace *w, int64_t rows,
               const double *const *inputs, double *const *outputs)
{
    ad_run_args args = { .rows = rows,
                         .inputs = (const void *const *)inputs,
                         .outputs = (void *const *)outputs };
    return run_alone(program, w, &args, &(ad_dtype){ AD_F64 });
}
