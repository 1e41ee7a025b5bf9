/* The replay of programs in workspaces.
 *
 * A program runs as U_0 B_0 U_1 B_1 ...: the steps of U_p on whole arrays, by the caller's thread;
 * the body B_p block by block over the rows, dealt out to threads. Before the first phase the
 * pointers of all roots are bound to the caller's arrays and to the workspace's memory; within a
 * body each thread has pointers of its own, which move from block to block. A fused group of steps
 * goes through a block chunk by chunk.
 *
 * Reductions over rows go to lanes. A part of the work is a lane's stretch of blocks: it belongs to
 * a lane by its number, never to a thread, and lanes are added up in a fixed order, so the number
 * of threads does not change a bit. Nothing here allocates; memory was reserved by workspace.c. */
#include "autodiff/run/threads.h"
#include "autodiff/run/workspace.h"
#include <stdio.h>
#include <string.h>

/* ---- whole arrays ---- */

static void fill(const ad_program *p, int32_t value, int64_t rows, void *out)
{
    const ad_inst *x = &p->ir.inst[value];
    int64_t n = ad_row_size(x->shape) * rows;
    float *f = out;
    double *d = out;
    if (p->ir.dtype == AD_F32)
        for (int64_t i = 0; i < n; i++) f[i] = (float)x->data[0];
    else
        for (int64_t i = 0; i < n; i++) d[i] = x->data[0];
}

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
    char message[512] = "";
    ad_opaque_call call = { .dtype = p->ir.dtype,
                            .rows = p->has_rows ? a->rows : 0,
                            .threads = ad_threads_in_team() ? 1 : w->threads,
                            .refine = a->refine,
                            .state_used = s->state_used,
                            .in = w->in,
                            .in_state = w->in_state,
                            .out = w->out,
                            .in_shape = w->in_shape,
                            .out_shape = w->out_shape,
                            .error = message,
                            .error_size = sizeof message };
    int code = x->class_->forward(x->opaque, w->state[p->slot[s->value].position], &call);
    if (code == 0) return 0;
    message[sizeof message - 1] = 0;
    if (code > 0) {
        note_outside(w, ad_opaque_name(x->class_, x->opaque), message);
        ad_opaque_fill_nan(&call, x->nout);
        return 0;
    }
    return ad_workspace_fail(w, "ad_run: %s: %s", ad_opaque_name(x->class_, x->opaque),
                             message[0] ? message : "the operation failed without a message");
}

static int run_steps(ad_workspace *w, int32_t begin, int32_t end, const ad_run_args *a)
{
    const ad_program *p = w->program;
    for (int32_t i = begin; i < end; i++) {
        const ad_step *s = &p->step[i];
        if (s->kind == AD_STEP_OPAQUE) {
            if (run_opaque(w, s, a)) return -1;
        } else if (s->kind == AD_STEP_ROW_COUNT) {
            write_row_count(p, a->rows, w->base[s->value]);
        } else {
            for (int k = 0; k < s->kernel.nin; k++)
                w->in[k] = w->base[s->operand[k].root] + s->operand[k].offset;
            s->kernel.run(&s->kernel, 1, w->in, w->base[s->value], w->scratch);
        }
    }
    return 0;
}

/* The pieces of a phase's part; NULL: all of it is interpreted. */
static const ad_piece_list *pieces_of(const ad_workspace *w, const ad_phase *phase,
                                      ad_section section)
{
    if (!w->pieces || !w->pieces->phase) return NULL;
    const ad_piece_list *list = &w->pieces->phase[phase - w->program->phase][section];
    return list->n ? list : NULL;
}

static int run_uniform(ad_workspace *w, const ad_phase *phase, ad_section section,
                       const ad_run_args *a)
{
    const int32_t *range = section == AD_SECTION_CALL ? phase->call_steps : phase->parameter_steps;
    if (range[0] == range[1]) return 0;
    const ad_piece_list *list = pieces_of(w, phase, section);
    if (!list) return run_steps(w, range[0], range[1], a);
    for (int32_t i = 0; i < list->n; i++) {
        const ad_piece *piece = &list->piece[i];
        if (piece->run) piece->run(w->base, w->frame);
        else if (run_steps(w, piece->begin, piece->end, a)) return -1;
    }
    return 0;
}

/* ---- bodies ---- */

enum { PIECE_BYTES = 2048, LINE_BYTES = 64 };

/* Asks for what the next chunk will read while this one is computed: processors do not look beyond
 * a page. */
static void fetch(const char *from, int64_t bytes)
{
#ifdef __GNUC__
    for (int64_t i = 0; i < bytes; i += LINE_BYTES) __builtin_prefetch(from + i);
#else
    (void)from, (void)bytes;
#endif
}

/* The same for a group's first chunk, while the step before it runs. */
static void fetch_first(const ad_step *begin, const ad_step *end, const ad_thread_memory *t)
{
    int64_t count = begin->chunk_rows;
    for (const ad_step *s = begin; s < end; s++)
        for (int k = 0; k < s->kernel.nin; k++) {
            const ad_ref *r = &s->operand[k];
            if (r->far) fetch(t->pointer[r->pointer] + r->offset, count * r->row_bytes);
        }
}

/* A group of steps, chunk by chunk. */
static void run_group(const ad_step *begin, const ad_step *end, ad_thread_memory *t, int64_t rows)
{
    int64_t chunk = begin->chunk_rows;
    for (int64_t first = 0; first < rows; first += chunk) {
        int64_t count = rows - first < chunk ? rows - first : chunk;
        int64_t left = rows - first - count, following = left < chunk ? left : chunk;
        bool ahead = begin->far && following > 0;
        for (const ad_step *s = begin; s < end; s++) {
            const ad_ref *r = s->operand;
            for (int k = 0; k < s->kernel.nin; k++) {
                const char *in = t->pointer[r[k].pointer] + r[k].offset + first * r[k].row_bytes;
                t->in[k] = in;
                if (ahead && r[k].far)
                    fetch(in + count * r[k].row_bytes, following * r[k].row_bytes);
            }
            char *out = t->pointer[s->value] + first * s->row_bytes;
            if (s->paired == 0) {
                s->kernel.run(&s->kernel, count, t->in, out, t->scratch);
                continue;
            }
            AD_ASSERT(s + s->paired < end);
            const ad_step *last = s + s->paired, *other = last - 1;
            ad_kernel_run_pair(&s->kernel, count, t->in,
                               t->pointer[other->value] + first * other->row_bytes,
                               t->pointer[last->value] + first * last->row_bytes);
            s = last;
        }
    }
}

static void run_block_steps(const ad_program *p, ad_thread_memory *t, int32_t begin, int32_t end,
                            int64_t rows)
{
    for (int32_t i = begin; i < end; i = p->step[i].end) {
        const ad_step *s = &p->step[i];
        if (s->chunk_rows > 0) {
            run_group(s, p->step + (s->end < end ? s->end : end), t, rows);
            continue;
        }
        if (s->kind == AD_STEP_FILL) {
            fill(p, s->value, rows, t->pointer[s->value]);
            continue;
        }
        const ad_step *next = s + 1;
        if (i + 1 < end && next->far && next->chunk_rows < rows)
            fetch_first(next, p->step + next->end, t);
        for (int k = 0; k < s->kernel.nin; k++)
            t->in[k] = t->pointer[s->operand[k].root] + s->operand[k].offset;
        s->kernel.run(&s->kernel, rows, t->in, t->pointer[s->value], t->scratch);
    }
}

/* list: the body's pieces, where it is run for one row in all; or NULL. */
static void run_block(const ad_workspace *w, const ad_phase *phase, const ad_piece_list *list,
                      ad_thread_memory *t, int64_t first, int64_t rows)
{
    const ad_program *p = w->program;
    AD_ASSERT(rows > 0 && rows <= p->block_rows);
    for (int i = 0; i < phase->nmoving; i++) {
        int32_t root = phase->moving[i];
        if (w->base[root]) t->pointer[root] = w->base[root] + first * p->slot[root].bytes;
    }
    if (!list) run_block_steps(p, t, phase->body_steps[0], phase->body_steps[1], rows);
    for (int32_t i = 0; list && i < list->n; i++) {
        const ad_piece *piece = &list->piece[i];
        if (piece->run) piece->run(t->pointer, w->frame);
        else run_block_steps(p, t, piece->begin, piece->end, rows);
    }
}

/* Blocks are dealt to parts by number: to a lane when the body reduces, else to a part each. Parts
 * are shared out to threads, so that neither the sums in a lane nor their order depend on the
 * threads. */
static int64_t part_count(const ad_program *p, const ad_phase *phase, int64_t rows)
{
    int64_t blocks = ad_block_count(p, rows);
    return phase->nreduction && blocks > AD_LANES ? AD_LANES : blocks;
}

/* The arrays without rows that groups see as large as their results. */
static void write_repeats(const ad_phase *phase, ad_thread_memory *t, int64_t rows)
{
    for (int i = 0; i < phase->nrepeat; i++) {
        const ad_repeat *r = &phase->repeat[i];
        char *to = t->pointer[r->pointer] = t->repeat + r->position;
        const int64_t all = (rows < r->rows ? rows : r->rows) * r->row_bytes;
        memcpy(to, t->pointer[r->root] + r->offset, (size_t)r->row_bytes);
        for (int64_t done = r->row_bytes; done < all; done *= 2) /* copies what is there already */
            memcpy(to + done, to, (size_t)(all - done < done ? all - done : done));
    }
}

static void enter_body(const ad_workspace *w, const ad_phase *phase, ad_thread_memory *t,
                       int64_t rows)
{
    const ad_program *p = w->program;
    AD_ASSERT(rows > 0);
    memcpy(t->pointer, w->base, (size_t)p->ir.n * sizeof *t->pointer);
    for (int i = 0; i < phase->nblock; i++)
        t->pointer[phase->block[i]] = t->block + p->slot[phase->block[i]].position;
    for (int i = 0; i < phase->nchunk; i++)
        t->pointer[phase->chunk[i]] = t->chunk + p->slot[phase->chunk[i]].position;
    write_repeats(phase, t, rows < p->block_rows ? rows : p->block_rows);
    t->entered = true;
}

typedef struct {
    ad_workspace *workspace;
    const ad_phase *phase;
    int64_t rows, parts, finishers;
    bool waiting; /* the sums to be finished are those that wait */
} body;

/* The body's reductions go into these arrays of the lanes, which begin as empty sums. */
static void begin_lane(const ad_workspace *w, const ad_phase *phase, ad_thread_memory *t,
                       int64_t lane)
{
    const ad_program *p = w->program;
    const int64_t size = (int64_t)ad_dtype_size(p->ir.dtype);
    for (int i = 0; i < phase->nreduction; i++) {
        const ad_step *s = &p->step[phase->reduction[i]];
        int32_t root = p->slot[s->value].root;
        t->pointer[s->value] = w->base[root] + lane * p->lane_bytes;
        if (root == s->value && !(w->waiting_rows && w->waiting[root]))
            ad_kernel_identity(&s->kernel, t->pointer[s->value], p->slot[root].bytes / size);
    }
}

/* Adds the sums of a group of blocks to those of its lane. */
static void end_group(const ad_workspace *w, const ad_phase *phase, int64_t lane)
{
    const ad_program *p = w->program;
    for (int i = 0; i < phase->nreduction; i++) {
        const ad_step *s = &p->step[phase->reduction[i]];
        if (p->slot[s->value].root != s->value) continue;
        char *sum = w->base[s->value] + lane * p->lane_bytes;
        ad_kernel_combine(&s->kernel, sum, sum + AD_LANES * p->lane_bytes,
                          ad_row_size(s->kernel.out));
    }
}

static void run_part(void *data, int thread, int64_t part)
{
    const body *b = data;
    const ad_workspace *w = b->workspace;
    const ad_phase *phase = b->phase;
    const ad_program *p = w->program;
    AD_ASSERT(thread >= 0 && thread < w->nthread);
    AD_ASSERT(part >= 0 && part < b->parts);
    ad_thread_memory *t = &w->thread[thread];
    const int64_t blocks = ad_block_count(p, b->rows), begin = part * blocks / b->parts,
                  end = (part + 1) * blocks / b->parts;
    const bool groups = phase->nreduction && ad_has_groups(blocks);
    const ad_piece_list *list = b->rows == 1 ? pieces_of(w, phase, AD_SECTION_BODY) : NULL;
    if (!t->entered) enter_body(w, phase, t, b->rows);
    begin_lane(w, phase, t, part);
    for (int64_t k = begin; k < end; k++) {
        if (groups && (k - begin) % AD_GROUP == 0) {
            if (k > begin) end_group(w, phase, part);
            begin_lane(w, phase, t, AD_LANES + part);
        }
        int64_t first = k * p->block_rows, left = b->rows - first;
        run_block(w, phase, list, t, first, left < p->block_rows ? left : p->block_rows);
    }
    if (groups) end_group(w, phase, part);
}

/* Adds a share of the lanes' elements up in a fixed tree, a piece at a time that stays in a level 1
 * cache meanwhile; the sum is then in the first lane. */
static void finish_share(void *data, int thread, int64_t share)
{
    const body *b = data;
    const ad_workspace *w = b->workspace;
    const ad_phase *phase = b->phase;
    const ad_program *p = w->program;
    int64_t lanes = b->parts, shares = b->finishers;
    (void)thread;
    for (int i = 0; i < phase->nreduction; i++) {
        const ad_step *s = &p->step[phase->reduction[i]];
        if (p->slot[s->value].root != s->value || w->waiting[s->value] != b->waiting) continue;
        int64_t size = (int64_t)ad_dtype_size(p->ir.dtype),
                lines = ad_size_align(p->slot[s->value].bytes) / AD_ALIGN;
        int64_t from = share * lines / shares * AD_ALIGN,
                to = (share + 1) * lines / shares * AD_ALIGN;
        if (to > p->slot[s->value].bytes) to = p->slot[s->value].bytes;
        for (int64_t bytes; from < to; from += bytes) {
            char *first = w->base[s->value] + from;
            bytes = to - from < PIECE_BYTES ? to - from : PIECE_BYTES;
            for (int64_t step = 1; step < lanes; step *= 2)
                for (int64_t lane = 0; lane + step < lanes; lane += 2 * step)
                    ad_kernel_combine(&s->kernel, first + lane * p->lane_bytes,
                                      first + (lane + step) * p->lane_bytes, bytes / size);
        }
    }
}

static void finish_sums(ad_workspace *w, const ad_phase *phase, int64_t rows, bool waiting)
{
    const ad_program *p = w->program;
    body b = { w, phase, rows, part_count(p, phase, rows), 1, waiting };
    int threads = ad_threads_in_team() ? 1 : w->nthread;
    double work = (double)p->lane_bytes * (double)b.parts;
    b.finishers = ad_threads_worth(threads, work);
    ad_threads_share(b.finishers, work, b.finishers, finish_share, &b);
}

static void run_body(ad_workspace *w, const ad_phase *phase, int64_t rows)
{
    if (phase->body_steps[0] == phase->body_steps[1]) return;
    const ad_program *p = w->program;
    body b = { w, phase, rows, part_count(p, phase, rows), 1, false };
    int threads = ad_threads_in_team() ? 1 : w->nthread;
    for (int i = 0; i < threads; i++) w->thread[i].entered = false;
    ad_threads_share(threads, phase->row_work * (double)rows, b.parts, run_part, &b);
    if (phase->nreduction) finish_sums(w, phase, rows, false);
}

/* ---- runs ---- */

static const char *shape_text(const ad_program *p, int32_t value, char *text, size_t size)
{
    ad_format_shape(p->ir.inst[value].shape, text, size);
    return text;
}

static bool input_is_used(const ad_program *p, int i) { return p->ir.inst[i].uses > 0; }

static int check_arguments(ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    char text[128];
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
    if ((p->ir.ninput && !a->inputs) || (p->ir.noutput && !a->outputs))
        return ad_workspace_fail(w, "ad_run: the list of %s is NULL",
                                 p->ir.ninput && !a->inputs ? "inputs" : "outputs");
    for (int i = 0; i < p->ir.ninput; i++)
        if (!a->inputs[i] && input_is_used(p, i))
            return ad_workspace_fail(w, "ad_run: input %d of shape %s is NULL", i,
                                     shape_text(p, i, text, sizeof text));
    for (int j = 0; j < p->ir.noutput && a->accumulate; j++)
        if (a->accumulate[j] && ad_has_rows(p->ir.inst[p->ir.output[j]].shape))
            return ad_workspace_fail(w,
                                     "ad_run: output %d of shape %s has rows: only outputs without "
                                     "rows can be accumulated",
                                     j, shape_text(p, p->ir.output[j], text, sizeof text));
    return 0;
}

/* Points inputs, and outputs that are computed in place, at the caller's arrays. */
static void bind(ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    for (int i = 0; i < p->ir.ninput; i++) w->base[i] = (char *)(uintptr_t)a->inputs[i];
    for (int j = 0; j < p->ir.noutput; j++)
        if (p->slot[p->ir.output[j]].place == AD_PLACE_OUTPUT)
            w->base[p->slot[p->ir.output[j]].root] = NULL;
    for (int j = p->ir.noutput - 1; j >= 0; j--)
        if (p->slot[p->ir.output[j]].place == AD_PLACE_OUTPUT && a->outputs[j])
            w->base[p->slot[p->ir.output[j]].root] = a->outputs[j];
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
        int32_t v = p->ir.output[j];
        if (w->waiting[p->slot[v].root]) continue;
        const char *from = w->base[p->slot[v].root] + p->slot[v].offset;
        if (!a->outputs[j] || from == a->outputs[j]) continue;
        int64_t n = ad_count(p->ir.inst[v].shape, a->rows);
        if (a->accumulate && a->accumulate[j]) accumulate(p->ir.dtype, n, from, a->outputs[j]);
        else memcpy(a->outputs[j], from, (size_t)n * ad_dtype_size(p->ir.dtype));
    }
}

/* ---- sums over several runs ---- */

void ad_run_deliver(ad_workspace *w)
{
    if (!w || !w->defers) return;
    const ad_program *p = w->program;
    for (int f = 0; f < p->nphase && w->waiting_rows; f++)
        if (p->phase[f].nreduction) finish_sums(w, &p->phase[f], w->waiting_rows, true);
    for (int j = 0; j < p->ir.noutput && w->waiting_rows; j++) {
        int32_t v = p->ir.output[j], root = p->slot[v].root;
        if (w->waiting[root] && w->waiting_out[j])
            accumulate(p->ir.dtype, ad_row_size(p->ir.inst[v].shape),
                       w->base[root] + p->slot[v].offset, w->waiting_out[j]);
    }
    memset(w->waiting, 0, (size_t)p->ir.n * sizeof *w->waiting);
    w->waiting_rows = 0;
    w->defers = false;
}

/* Notes which sums of the run at hand are to wait, and delivers those that do where it is not of
 * their kind. Only sums of which every lane has one block: those of many would lose digits. */
static void defer(ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    bool may = a->defer && a->accumulate && p->has_rows && ad_block_count(p, a->rows) <= AD_LANES;
    bool same = may && a->rows == w->waiting_rows;
    for (int j = 0; j < p->ir.noutput && same; j++)
        same = !w->waiting[p->slot[p->ir.output[j]].root] || a->outputs[j] == w->waiting_out[j];
    if (same) return;
    ad_run_deliver(w);
    if (!may) return;
    w->defers = true;
    for (int j = 0; j < p->ir.noutput; j++) {
        int32_t root = p->slot[p->ir.output[j]].root;
        w->waiting_out[j] = a->outputs[j];
        if (a->accumulate[j] && p->slot[root].summed) w->waiting[root] = true;
    }
    for (int j = 0; j < p->ir.noutput; j++)
        if (a->outputs[j] && !a->accumulate[j]) w->waiting[p->slot[p->ir.output[j]].root] = false;
}

static int run(ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    bool skip = a->same_parameters && w->parameters_done;
    w->parameters_done = false; /* a run that fails may have had other ones */
    if (check_arguments(w, a)) return -1;
    defer(w, a);
    if (ad_workspace_reserve(w, a->rows)) return -1;
    bind(w, a);
    for (int f = 0; f < p->nphase; f++) {
        const ad_phase *phase = &p->phase[f];
        if (!skip && run_uniform(w, phase, AD_SECTION_PARAMETER, a)) return -1;
        if (run_uniform(w, phase, AD_SECTION_CALL, a)) return -1;
        run_body(w, phase, a->rows);
    }
    deliver(w, a);
    if (w->defers) w->waiting_rows = a->rows;
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
    w->outside[0] = 0;
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
    else result = run(w, args);
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
