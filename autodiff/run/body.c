/* Bodies, block by block over the rows, dealt out to threads.
 *
 * Each thread has pointers of its own, which move from block to block. A fused group of steps goes
 * through a block chunk by chunk.
 *
 * Reductions over rows go to lanes. A part of the work is a lane's stretch of blocks: it belongs to
 * a lane by its number, never to a thread, and lanes are added up in a fixed order, so the number
 * of threads does not change a bit. */
#include "autodiff/run/body.h"
#include "autodiff/run/threads.h"
#include <string.h>

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

enum { PIECE_BYTES = 2048, LINE_BYTES = 64 };

/* Asks for what the next chunk will read or write while this one is computed: processors do not
 * look beyond a page. The rows behind a block's last chunk are those of the next block. */
static void fetch(const char *from, int64_t bytes)
{
#ifdef __GNUC__
    for (int64_t i = 0; i < bytes; i += LINE_BYTES) __builtin_prefetch(from + i);
#else
    (void)from, (void)bytes;
#endif
}

/* Where the result of a step is for the chunk that begins with row first. */
static char *result_of(const ad_step *s, const ad_thread_memory *t, int64_t first, int64_t count)
{
    char *out = t->pointer[s->value] + first * s->row_bytes;
    if (s->far) fetch(out + count * s->row_bytes, s->chunk_rows * s->row_bytes);
    return out;
}

/* A group of steps, chunk by chunk. */
static void run_group(const ad_step *begin, const ad_step *end, ad_thread_memory *t, int64_t rows)
{
    int64_t chunk = begin->chunk_rows;
    for (int64_t first = 0; first < rows; first += chunk) {
        int64_t count = rows - first < chunk ? rows - first : chunk;
        for (const ad_step *s = begin; s < end; s++) {
            const ad_ref *r = s->operand;
            for (int k = 0; k < s->kernel.nin; k++) {
                const char *in = t->pointer[r[k].pointer] + r[k].offset + first * r[k].row_bytes;
                t->in[k] = in;
                if (r[k].far) fetch(in + count * r[k].row_bytes, chunk * r[k].row_bytes);
            }
            if (s->paired == 0) {
                s->kernel.run(&s->kernel, count, t->in, result_of(s, t, first, count), t->scratch);
                continue;
            }
            AD_ASSERT(s + s->paired < end);
            const ad_step *last = s + s->paired, *other = last - 1;
            char *one = result_of(other, t, first, count), *two = result_of(last, t, first, count);
            ad_kernel_run_pair(&s->kernel, count, t->in, one, two);
            s = last;
        }
    }
}

void ad_run_steps(const ad_program *p, ad_thread_memory *t, int32_t begin, int32_t end,
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
        for (int k = 0; k < s->kernel.nin; k++)
            t->in[k] = t->pointer[s->operand[k].root] + s->operand[k].offset;
        s->kernel.run(&s->kernel, rows, t->in, t->pointer[s->value], t->scratch);
    }
}

static void run_block(const ad_workspace *w, const ad_phase *phase, ad_thread_memory *t,
                      int64_t first, int64_t rows)
{
    const ad_program *p = w->program;
    AD_ASSERT(rows > 0 && rows <= p->block_rows);
    for (int i = 0; i < phase->nmoving; i++) {
        int32_t root = phase->moving[i];
        if (w->base[root]) t->pointer[root] = w->base[root] + first * p->slot[root].bytes;
    }
    ad_run_steps(p, t, phase->body_steps[0], phase->body_steps[1], rows);
}

/* Blocks are dealt to parts by number: to a lane when the body reduces, else to a part each. Parts
 * are shared out to threads, so that neither the sums in a lane nor their order depend on the
 * threads. */
static int64_t part_count(const ad_program *p, const ad_phase *phase, int64_t rows)
{
    int64_t blocks = ad_block_count(p, rows);
    return phase->nreduction && blocks > AD_LANES ? AD_LANES : blocks;
}

void ad_run_repeat(const ad_phase *phase, ad_thread_memory *t, int64_t rows)
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
    ad_run_repeat(phase, t, rows < p->block_rows ? rows : p->block_rows);
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
    if (!t->entered) enter_body(w, phase, t, b->rows);
    begin_lane(w, phase, t, part);
    for (int64_t k = begin; k < end; k++) {
        if (groups && (k - begin) % AD_GROUP == 0) {
            if (k > begin) end_group(w, phase, part);
            begin_lane(w, phase, t, AD_LANES + part);
        }
        int64_t first = k * p->block_rows, left = b->rows - first;
        run_block(w, phase, t, first, left < p->block_rows ? left : p->block_rows);
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

void ad_run_finish_sums(ad_workspace *w, const ad_phase *phase, int64_t rows, bool waiting)
{
    const ad_program *p = w->program;
    body b = { w, phase, rows, part_count(p, phase, rows), 1, waiting };
    int threads = ad_threads_in_team() ? 1 : w->nthread;
    double work = (double)p->lane_bytes * (double)b.parts;
    b.finishers = ad_threads_worth(threads, work);
    ad_threads_share(b.finishers, work, b.finishers, finish_share, &b);
}

void ad_run_body(ad_workspace *w, const ad_phase *phase, int64_t rows)
{
    const ad_program *p = w->program;
    body b = { w, phase, rows, part_count(p, phase, rows), 1, false };
    int threads = ad_threads_in_team() ? 1 : w->nthread;
    for (int i = 0; i < threads; i++) w->thread[i].entered = false;
    ad_threads_share(threads, phase->row_work * (double)rows, b.parts, run_part, &b);
    if (phase->nreduction) ad_run_finish_sums(w, phase, rows, false);
}
