/* Workspaces, and the replay of programs in them. */
#include "program.h"
#include "threads.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* What one thread works with. The pointers are those of the roots, for the block at hand. */
typedef struct {
    char *memory;
    char **pointer;
    const void **in;
    char *block, *chunk, *repeat, *scratch;
    bool entered; /* the pointers are those of the body at hand */
} thread_memory;

struct ad_workspace {
    ad_program *program;
    atomic_flag busy;
    atomic_bool refused;  /* a run was turned away because another one was under way */
    int threads, nthread; /* threads: as asked for, negative ones too; nthread: those that have memory */
    thread_memory *thread;
    char *fixed; /* values without rows, and the scratch memory of their kernels */
    char *scratch;
    char *lanes;
    int nlane;
    char *complete;
    int64_t rows; /* rows that the complete arrays hold */
    size_t bytes;
    char **base; /* of every root: its array as a whole; NULL: block memory, or not there */
    const void **in;
    void **in_state, **out;
    void **state; /* of the opaque operations */
    int nstate;   /* states made so far */
    bool parameters_done;
    char error[640];
};

static int fail(ad_workspace *w, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 2, 3)))
#endif
    ;
static int fail(ad_workspace *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(w->error, sizeof w->error, format, args);
    va_end(args);
    return -1;
}

/* ---- workspaces ---- */

/* A negative number is left to ad_run to report. */
static int thread_count(int asked)
{
    if (asked == 0) asked = ad_threads_default();
    return asked < AD_MAX_THREADS ? asked : AD_MAX_THREADS;
}

ad_workspace *ad_workspace_new(const ad_program *program, int threads)
{
    if (!program) return NULL;
    ad_workspace *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    const ad_program *p = w->program = ad_program_retain((ad_program *)program);
    atomic_flag_clear(&w->busy);
    w->threads = thread_count(threads);
    int64_t fixed = ad_size_add(p->uniform_bytes, ad_size_align(p->uniform_scratch));
    w->thread = calloc(w->threads > 0 ? (size_t)w->threads : 1, sizeof *w->thread);
    w->fixed = ad_aligned_alloc(fixed);
    w->base = calloc((size_t)p->ir.n + 1, sizeof *w->base);
    w->in = calloc((size_t)p->max_operands + 1, sizeof *w->in);
    w->in_state = calloc((size_t)p->max_operands + 1, sizeof *w->in_state);
    w->out = calloc((size_t)p->max_results + 1, sizeof *w->out);
    w->state = calloc((size_t)p->nopaque + 1, sizeof *w->state);
    if (!w->thread || !w->fixed || !w->base || !w->in || !w->in_state || !w->out || !w->state) {
        ad_workspace_free(w);
        return NULL;
    }
    w->scratch = w->fixed + p->uniform_bytes;
    w->bytes = sizeof *w + (size_t)fixed + (size_t)p->ir.n * sizeof *w->base;
    for (int32_t i = 0; i < p->ir.n; i++) {
        if (p->slot[i].place == AD_PLACE_CONSTANT) w->base[i] = (char *)p->constants + p->slot[i].position;
        if (p->slot[i].place == AD_PLACE_UNIFORM) w->base[i] = w->fixed + p->slot[i].position;
    }
    return w;
}

void ad_workspace_free(ad_workspace *w)
{
    if (!w) return;
    for (int i = 0; w->state && i < w->nstate; i++) {
        const ad_inst *x = &w->program->ir.inst[w->program->opaque[i]];
        if (w->state[i] && x->class_->state_free) x->class_->state_free(w->state[i]);
    }
    for (int i = 0; w->thread && i < w->nthread; i++) free(w->thread[i].memory);
    free(w->thread);
    free(w->fixed);
    free(w->lanes);
    free(w->complete);
    free(w->base);
    free(w->in);
    free(w->in_state);
    free(w->out);
    free(w->state);
    ad_program_free(w->program);
    free(w);
}

const char *ad_workspace_error(const ad_workspace *w)
{
    if (!w) return "no workspace (out of memory?)";
    if (atomic_load(&w->refused)) return "ad_run: the workspace is in use by another run; every thread needs its own";
    return w->error[0] ? w->error : NULL;
}

size_t ad_workspace_bytes(const ad_workspace *w) { return w ? w->bytes : 0; }

/* Memory that grows with the rows: old contents are not needed. */
static int renew(ad_workspace *w, char **memory, int64_t old_bytes, int64_t bytes, int64_t rows)
{
    free(*memory);
    *memory = ad_aligned_alloc(bytes);
    w->bytes -= (size_t)old_bytes;
    if (!*memory && bytes >= 0)
        return fail(w, "ad_run: out of memory: %lld bytes for a program at %lld rows", (long long)bytes, (long long)rows);
    if (!*memory) return fail(w, "ad_run: %lld rows need more bytes than can be addressed", (long long)rows);
    w->bytes += (size_t)bytes;
    return 0;
}

static int64_t complete_bytes(const ad_program *p, int64_t rows)
{
    return p->ncomplete == 0 || rows == 0 ? 0 : ad_size_add(ad_size_mul(p->complete_row_bytes, rows), (int64_t)p->ncomplete * AD_ALIGN);
}

static int reserve_complete(ad_workspace *w, int64_t rows)
{
    const ad_program *p = w->program;
    if (rows <= w->rows || p->ncomplete == 0) return 0;
    int64_t old = complete_bytes(p, w->rows);
    w->rows = 0;
    if (renew(w, &w->complete, old, complete_bytes(p, rows), rows)) return -1;
    w->rows = rows;
    int64_t at = 0;
    for (int i = 0; i < p->ncomplete; i++) {
        w->base[p->complete[i]] = w->complete + at;
        at += ad_size_align(p->slot[p->complete[i]].bytes * rows);
    }
    return 0;
}

static int reserve_lanes(ad_workspace *w, int64_t rows)
{
    const ad_program *p = w->program;
    int64_t blocks = ad_block_count(p, rows);
    int lanes = blocks < AD_LANES ? (int)blocks : AD_LANES, old = w->nlane;
    if (lanes <= w->nlane || p->lane_bytes == 0) return 0;
    w->nlane = 0;
    if (renew(w, &w->lanes, p->lane_bytes * old, ad_size_mul(p->lane_bytes, lanes), rows)) return -1;
    w->nlane = lanes;
    for (int32_t i = 0; i < p->ir.n; i++)
        if (p->slot[i].place == AD_PLACE_LANES && p->slot[i].root == i) w->base[i] = w->lanes + p->slot[i].position;
    return 0;
}

/* What a thread works with, in bytes; -1: too many. */
static int64_t thread_bytes(const ad_program *p)
{
    int64_t lists = ad_size_align((int64_t)(((size_t)p->ir.n + (size_t)p->nrepeat + 1) * sizeof(char *)));
    lists += ad_size_align((int64_t)(((size_t)p->max_operands + 1) * sizeof(void *)));
    int64_t chunks = ad_size_add(p->chunk_bytes, p->repeat_bytes);
    return ad_size_add(ad_size_add(lists, chunks), ad_size_add(ad_size_align(p->block_bytes), ad_size_align(p->block_scratch)));
}

static int reserve_threads(ad_workspace *w, int64_t rows)
{
    const ad_program *p = w->program;
    int64_t blocks = ad_block_count(p, rows), want = blocks < w->threads ? blocks : w->threads;
    int64_t pointers = ad_size_align((int64_t)(((size_t)p->ir.n + (size_t)p->nrepeat + 1) * sizeof(char *)));
    int64_t operands = ad_size_align((int64_t)(((size_t)p->max_operands + 1) * sizeof(void *)));
    int64_t bytes = thread_bytes(p);
    for (; w->nthread < want; w->nthread++) {
        thread_memory *t = &w->thread[w->nthread];
        if (renew(w, &t->memory, 0, bytes, rows)) return -1;
        t->pointer = (char **)(void *)t->memory;
        t->in = (const void **)(void *)(t->memory + pointers);
        t->block = t->memory + pointers + operands;
        t->chunk = t->block + ad_size_align(p->block_bytes);
        t->repeat = t->chunk + p->chunk_bytes;
        t->scratch = t->repeat + p->repeat_bytes;
    }
    return 0;
}

static int reserve(ad_workspace *w, int64_t rows)
{
    const ad_program *p = w->program;
    if (!p->has_rows) return 0;
    int64_t blocks = ad_block_count(p, rows), threads = blocks < w->threads ? blocks : w->threads;
    int64_t lanes = ad_size_mul(p->lane_bytes, blocks < AD_LANES ? blocks : AD_LANES);
    int64_t bytes = ad_size_add(complete_bytes(p, rows), ad_size_add(lanes, ad_size_mul(thread_bytes(p), threads)));
    /* The machine is asked only where memory has to grow: that takes longer than replaying a small program. */
    if (bytes > (int64_t)w->bytes && bytes > ad_machine_bytes())
        return fail(w, "ad_run: out of memory: %lld bytes for a program at %lld rows; this machine has %lld", (long long)bytes,
                    (long long)rows, (long long)ad_machine_bytes());
    return reserve_complete(w, rows) || reserve_lanes(w, rows) || reserve_threads(w, rows) ? -1 : 0;
}

static int make_states(ad_workspace *w)
{
    for (; w->nstate < w->program->nopaque; w->nstate++) {
        const ad_inst *x = &w->program->ir.inst[w->program->opaque[w->nstate]];
        if (!x->class_->state_new) continue;
        w->state[w->nstate] = x->class_->state_new(x->opaque);
        if (!w->state[w->nstate]) return fail(w, "ad_run: %s: out of memory for the operation's state", x->class_->name);
    }
    return 0;
}

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

static int run_opaque(ad_workspace *w, const ad_step *s, int64_t rows)
{
    const ad_program *p = w->program;
    const ad_inst *x = &p->ir.inst[s->value];
    for (int k = 0; k < x->nin; k++) {
        bool token = p->ir.inst[x->in[k]].op == AD_OP_opaque;
        w->in[k] = token ? NULL : w->base[s->operand[k].root] + s->operand[k].offset;
        w->in_state[k] = token ? w->state[p->slot[x->in[k]].position] : NULL;
    }
    for (int j = 0; j < x->nout; j++) w->out[j] = s->result[j] < 0 ? NULL : w->base[s->result[j]];
    char message[512] = "";
    ad_opaque_call call = { .dtype = p->ir.dtype,
                            .rows = p->has_rows ? rows : 0,
                            .threads = ad_threads_in_team() ? 1 : w->threads,
                            .state_used = s->state_used,
                            .in = w->in,
                            .in_state = w->in_state,
                            .out = w->out,
                            .error = message,
                            .error_size = sizeof message };
    if (x->class_->forward(x->opaque, w->state[p->slot[s->value].position], &call) == 0) return 0;
    message[sizeof message - 1] = 0;
    return fail(w, "ad_run: %s: %s", x->class_->name, message[0] ? message : "the operation failed without a message");
}

static int run_uniform(ad_workspace *w, const int32_t *range, int64_t rows)
{
    const ad_program *p = w->program;
    for (int32_t i = range[0]; i < range[1]; i++) {
        const ad_step *s = &p->step[i];
        if (s->kind == AD_STEP_OPAQUE) {
            if (run_opaque(w, s, rows)) return -1;
        } else if (s->kind == AD_STEP_ROW_COUNT) {
            write_row_count(p, rows, w->base[s->value]);
        } else {
            for (int k = 0; k < s->kernel.nin; k++) w->in[k] = w->base[s->operand[k].root] + s->operand[k].offset;
            s->kernel.run(&s->kernel, 1, w->in, w->base[s->value], w->scratch);
        }
    }
    return 0;
}

/* ---- bodies ---- */

enum { PIECE_BYTES = 2048 };

/* A group of steps, chunk by chunk. */
static void run_group(const ad_step *begin, const ad_step *end, thread_memory *t, int64_t rows)
{
    int64_t chunk = begin->chunk_rows;
    for (int64_t first = 0; first < rows; first += chunk) {
        int64_t count = rows - first < chunk ? rows - first : chunk;
        for (const ad_step *s = begin; s < end; s++) {
            const ad_ref *r = s->operand;
            for (int k = 0; k < s->kernel.nin; k++) t->in[k] = t->pointer[r[k].pointer] + r[k].offset + first * r[k].row_bytes;
            s->kernel.run(&s->kernel, count, t->in, t->pointer[s->value] + first * s->row_bytes, t->scratch);
        }
    }
}

static void run_block(const ad_workspace *w, const ad_phase *phase, thread_memory *t, int64_t first, int64_t rows)
{
    const ad_program *p = w->program;
    for (int i = 0; i < phase->nmoving; i++) {
        int32_t root = phase->moving[i];
        if (w->base[root]) t->pointer[root] = w->base[root] + first * p->slot[root].bytes;
    }
    for (int32_t i = phase->body_steps[0]; i < phase->body_steps[1]; i = p->step[i].end) {
        const ad_step *s = &p->step[i];
        if (s->chunk_rows > 0) {
            run_group(s, p->step + s->end, t, rows);
            continue;
        }
        if (s->kind == AD_STEP_FILL) {
            fill(p, s->value, rows, t->pointer[s->value]);
            continue;
        }
        for (int k = 0; k < s->kernel.nin; k++) t->in[k] = t->pointer[s->operand[k].root] + s->operand[k].offset;
        s->kernel.run(&s->kernel, rows, t->in, t->pointer[s->value], t->scratch);
    }
}

/* Blocks are dealt to units by number: to a lane when the body reduces, else to a unit each. Units are shared out to threads, so that
 * neither the sums in a lane nor their order depend on the threads. */
static int64_t unit_count(const ad_program *p, const ad_phase *phase, int64_t rows)
{
    int64_t blocks = ad_block_count(p, rows);
    return phase->nreduction && blocks > AD_LANES ? AD_LANES : blocks;
}

/* The arrays without rows that groups see as large as their results. */
static void write_repeats(const ad_phase *phase, thread_memory *t, int64_t rows)
{
    for (int i = 0; i < phase->nrepeat; i++) {
        const ad_repeat *r = &phase->repeat[i];
        char *to = t->pointer[r->pointer] = t->repeat + r->position;
        for (int64_t k = 0; k < r->rows && k < rows; k++)
            memcpy(to + k * r->row_bytes, t->pointer[r->root] + r->offset, (size_t)r->row_bytes);
    }
}

static void enter_body(const ad_workspace *w, const ad_phase *phase, thread_memory *t, int64_t rows)
{
    const ad_program *p = w->program;
    memcpy(t->pointer, w->base, (size_t)p->ir.n * sizeof *t->pointer);
    for (int i = 0; i < phase->nblock; i++) t->pointer[phase->block[i]] = t->block + p->slot[phase->block[i]].position;
    for (int i = 0; i < phase->nchunk; i++) t->pointer[phase->chunk[i]] = t->chunk + p->slot[phase->chunk[i]].position;
    write_repeats(phase, t, rows < p->block_rows ? rows : p->block_rows);
    t->entered = true;
}

typedef struct {
    ad_workspace *workspace;
    const ad_phase *phase;
    int64_t rows, units, finishers;
} body;

static void run_unit(void *data, int thread, int64_t unit)
{
    const body *b = data;
    const ad_workspace *w = b->workspace;
    const ad_phase *phase = b->phase;
    const ad_program *p = w->program;
    thread_memory *t = &w->thread[thread];
    int64_t blocks = ad_block_count(p, b->rows);
    if (!t->entered) enter_body(w, phase, t, b->rows);
    for (int i = 0; i < phase->nreduction; i++) {
        const ad_step *s = &p->step[phase->reduction[i]];
        int32_t root = p->slot[s->value].root;
        t->pointer[s->value] = w->base[root] + unit * p->lane_bytes;
        if (root == s->value) ad_kernel_identity(&s->kernel, t->pointer[s->value], ad_row_size(s->kernel.out));
    }
    for (int64_t k = unit * blocks / b->units; k < (unit + 1) * blocks / b->units; k++) {
        int64_t first = k * p->block_rows, left = b->rows - first;
        run_block(w, phase, t, first, left < p->block_rows ? left : p->block_rows);
    }
}

/* Adds a share of the lanes' elements up in a fixed tree, a piece at a time that stays in a level 1 cache meanwhile; the sum is then in
 * the first lane. */
static void finish_share(void *data, int thread, int64_t share)
{
    const body *b = data;
    const ad_workspace *w = b->workspace;
    const ad_phase *phase = b->phase;
    const ad_program *p = w->program;
    int64_t lanes = b->units, shares = b->finishers;
    (void)thread;
    for (int i = 0; i < phase->nreduction; i++) {
        const ad_step *s = &p->step[phase->reduction[i]];
        if (p->slot[s->value].root != s->value) continue;
        int64_t size = (int64_t)ad_dtype_size(p->ir.dtype), lines = ad_size_align(p->slot[s->value].bytes) / AD_ALIGN;
        int64_t from = share * lines / shares * AD_ALIGN, to = (share + 1) * lines / shares * AD_ALIGN;
        if (to > p->slot[s->value].bytes) to = p->slot[s->value].bytes;
        for (int64_t bytes; from < to; from += bytes) {
            char *first = w->base[s->value] + from;
            bytes = to - from < PIECE_BYTES ? to - from : PIECE_BYTES;
            for (int64_t step = 1; step < lanes; step *= 2)
                for (int64_t lane = 0; lane + step < lanes; lane += 2 * step)
                    ad_kernel_combine(&s->kernel, first + lane * p->lane_bytes, first + (lane + step) * p->lane_bytes, bytes / size);
        }
    }
}

static void run_body(ad_workspace *w, const ad_phase *phase, int64_t rows)
{
    if (phase->body_steps[0] == phase->body_steps[1]) return;
    const ad_program *p = w->program;
    body b = { w, phase, rows, unit_count(p, phase, rows), 1 };
    int threads = ad_threads_in_team() ? 1 : w->nthread;
    for (int i = 0; i < threads; i++) w->thread[i].entered = false;
    ad_threads_share(threads, phase->row_work * (double)rows, b.units, run_unit, &b);
    if (!phase->nreduction) return;
    double work = (double)p->lane_bytes * (double)b.units;
    b.finishers = ad_threads_worth(threads, work);
    ad_threads_share(b.finishers, work, b.finishers, finish_share, &b);
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
        return fail(w, "ad_run: the workspace was made for a negative number of threads (%d); 0 leaves the number to the library",
                    w->threads);
    if (p->has_rows && a->rows < 1)
        return fail(w, a->rows == 0 ? "ad_run: the batch is empty (rows = %lld)" : "ad_run: the number of rows is negative (rows = %lld)",
                    (long long)a->rows);
    if ((p->ir.ninput && !a->inputs) || (p->ir.noutput && !a->outputs))
        return fail(w, "ad_run: the list of %s is NULL", p->ir.ninput && !a->inputs ? "inputs" : "outputs");
    for (int i = 0; i < p->ir.ninput; i++)
        if (!a->inputs[i] && input_is_used(p, i))
            return fail(w, "ad_run: input %d of shape %s is NULL", i, shape_text(p, i, text, sizeof text));
    for (int j = 0; j < p->ir.noutput && a->accumulate; j++)
        if (a->accumulate[j] && ad_has_rows(p->ir.inst[p->ir.output[j]].shape))
            return fail(w, "ad_run: output %d of shape %s has rows: only outputs without rows can be accumulated", j,
                        shape_text(p, p->ir.output[j], text, sizeof text));
    return 0;
}

/* Points inputs, and outputs that are computed in place, at the caller's arrays. */
static void bind(ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    for (int i = 0; i < p->ir.ninput; i++) w->base[i] = (char *)(uintptr_t)a->inputs[i];
    for (int j = 0; j < p->ir.noutput; j++)
        if (p->slot[p->ir.output[j]].place == AD_PLACE_OUTPUT) w->base[p->slot[p->ir.output[j]].root] = NULL;
    for (int j = p->ir.noutput - 1; j >= 0; j--)
        if (p->slot[p->ir.output[j]].place == AD_PLACE_OUTPUT && a->outputs[j]) w->base[p->slot[p->ir.output[j]].root] = a->outputs[j];
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
        if (!a->outputs[j]) continue;
        int64_t n = ad_count(p->ir.inst[v].shape, a->rows);
        const char *from = w->base[p->slot[v].root] + p->slot[v].offset;
        if (a->accumulate && a->accumulate[j]) accumulate(p->ir.dtype, n, from, a->outputs[j]);
        else if (from != a->outputs[j]) memcpy(a->outputs[j], from, (size_t)n * ad_dtype_size(p->ir.dtype));
    }
}

static int run(ad_workspace *w, const ad_run_args *a)
{
    const ad_program *p = w->program;
    if (check_arguments(w, a) || make_states(w) || reserve(w, a->rows)) return -1;
    bind(w, a);
    bool skip = a->same_parameters && w->parameters_done;
    w->parameters_done = false;
    for (int f = 0; f < p->nphase; f++) {
        const ad_phase *phase = &p->phase[f];
        if (!skip && run_uniform(w, phase->parameter_steps, a->rows)) return -1;
        if (run_uniform(w, phase->call_steps, a->rows)) return -1;
        run_body(w, phase, a->rows);
    }
    deliver(w, a);
    w->parameters_done = true;
    return 0;
}

int ad_run_with(const ad_program *program, ad_workspace *w, const ad_run_args *args)
{
    if (!program || !w) return -1;
    if (atomic_flag_test_and_set(&w->busy)) {
        atomic_store(&w->refused, true);
        return -1;
    }
    atomic_store(&w->refused, false);
    w->error[0] = 0;
    int result = w->program == program ? run(w, args) : fail(w, "ad_run: the workspace was made for another program");
    atomic_flag_clear(&w->busy);
    return result;
}

int ad_run(const ad_program *program, ad_workspace *w, int64_t rows, const void *const *inputs, void *const *outputs)
{
    return ad_run_with(program, w, &(ad_run_args){ .rows = rows, .inputs = inputs, .outputs = outputs });
}
