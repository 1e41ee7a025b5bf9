/* Bodies, block by block over the rows, dealt out to threads.
 *
 * Each thread has pointers of its own, which move from block to block. A fused group of steps goes
 * through a block chunk by chunk.
 *
 * Reductions over rows go to lanes. A part of the work is a lane's stretch of blocks: it belongs to
 * a lane by its number, never to a thread, and lanes are added up in a fixed order, so the number
 * of threads does not change a bit. Large sums are products over the rows of a stretch of blocks,
 * made in pieces of the result once these are done. */
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
    char *out = t->pointer[s->value] + first * s->row_bytes + (s->own ? t->apart : 0);
    if (s->far) fetch(out + count * s->row_bytes, s->chunk_rows * s->row_bytes);
    return out;
}

void ad_run_group(const ad_step *begin, const ad_step *end, ad_thread_memory *t, int64_t from,
                  int64_t to)
{
    int64_t chunk = begin->chunk_rows;
    for (int64_t first = from; first < to; first += chunk) {
        int64_t count = to - first < chunk ? to - first : chunk;
        for (const ad_step *s = begin; s < end; s++) {
            const ad_ref *r = s->operand;
            for (int k = 0; k < s->kernel.nin; k++) {
                const char *in = t->pointer[r[k].pointer] + r[k].offset + first * r[k].row_bytes;
                t->in[k] = in + (r[k].own ? t->apart : 0);
                if (r[k].far) fetch(in + count * r[k].row_bytes, chunk * r[k].row_bytes);
            }
            if (s->sums) {
                char *leaves = t->scratch + s->leaves + first / AD_SUM_LEAF * s->row_bytes;
                ad_kernel_sum_leaves(&s->kernel, count, t->in[0], leaves);
                continue;
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
            const int64_t n = s->elements ? rows * s->elements : rows;
            ad_run_group(s, p->step + (s->end < end ? s->end : end), t, 0, n);
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

/* Native code for the block: as many rows at a time as there are lanes, a power of two, the rest
 * one by one. */
static void run_piece(const ad_native_function *f, int lanes, const ad_thread_memory *t,
                      int64_t rows)
{
    const int64_t whole = rows & -(int64_t)lanes;
    if (whole > 0) f->several(t->pointer, t->frame, 0, whole);
    if (whole < rows) f->each(t->pointer, t->frame, whole, rows);
}

/* list: the body's pieces, NULL: all is interpreted; first: of the run's rows; within: of the
 * stretch's. */
static void run_block(const ad_workspace *w, const ad_phase *phase, const ad_piece_list *list,
                      ad_thread_memory *t, int64_t first, int64_t within, int64_t rows)
{
    const ad_program *p = w->program;
    AD_ASSERT(rows > 0 && rows <= p->block_rows);
    for (int i = 0; i < phase->nmoving; i++) {
        int32_t root = phase->moving[i];
        int64_t row = p->slot[root].place == AD_PLACE_STRETCH ? within : first;
        if (w->base[root]) t->pointer[root] = w->base[root] + row * p->slot[root].bytes;
    }
    if (!list) ad_run_steps(p, t, phase->body_steps[0], phase->body_steps[1], rows);
    for (int32_t i = 0; list && i < list->n; i++) {
        const ad_piece *piece = &list->piece[i];
        if (piece->code >= 0 && rows <= piece->most_rows) {
            run_piece(&piece->call, w->several->lanes, t, rows);
            continue;
        }
        ad_run_steps(p, t, piece->begin, piece->end, rows);
        for (; piece->code >= 0 && i + 1 < list->n && list->piece[i + 1].behind; i++) continue;
    }
}

/* Blocks are dealt to parts by number: to a lane when the body reduces, else to a part each. Parts
 * are shared out to threads, so that neither the sums in a lane nor their order depend on the
 * threads. */
static int64_t part_count(const ad_phase *phase, int64_t blocks)
{
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

typedef struct {
    ad_workspace *workspace;
    const ad_phase *phase;
    const ad_piece_list *list; /* its native code; NULL: none */
    const ad_run_args *filled; /* who fills the inputs; NULL: they are there */
    int64_t first, rows;       /* of the run, or of the stretch at hand */
    int64_t blocks, parts;
    int64_t number; /* of the workspace's bodies */
    bool groups;    /* lanes have groups */
} body;

static void enter_body(const body *b, ad_thread_memory *t)
{
    const ad_workspace *w = b->workspace;
    const ad_phase *phase = b->phase;
    const ad_piece_list *list = b->list;
    const ad_program *p = w->program;
    const int64_t rows = b->rows;
    AD_ASSERT(rows > 0);
    memcpy(t->pointer, w->base, (size_t)p->ir.n * sizeof *t->pointer);
    for (int i = 0; i < phase->nblock; i++)
        t->pointer[phase->block[i]] = t->block + p->slot[phase->block[i]].position;
    for (int i = 0; i < phase->nchunk; i++)
        t->pointer[phase->chunk[i]] = t->chunk + p->slot[phase->chunk[i]].position;
    for (int i = 0; list && i < w->several->nhanded; i++)
        t->pointer[w->several->handed[i].value] = t->handed + w->several->handed[i].position;
    ad_run_repeat(phase, t, rows < p->block_rows ? rows : p->block_rows);
    t->entered = b->number;
}

/* The body's reductions go into these arrays of the lanes; fresh: which begin as empty sums. */
static void enter_lane(const ad_workspace *w, const ad_phase *phase, ad_thread_memory *t,
                       int64_t lane, bool fresh)
{
    const ad_program *p = w->program;
    const int64_t size = (int64_t)ad_dtype_size(p->ir.dtype);
    for (int i = 0; i < phase->nreduction; i++) {
        const ad_step *s = &p->step[phase->reduction[i]];
        int32_t root = p->slot[s->value].root;
        t->pointer[s->value] = w->base[root] + lane * p->lane_bytes;
        if (fresh && root == s->value && !(w->waiting_rows && w->waiting[root]))
            ad_kernel_identity(&s->kernel, t->pointer[s->value], p->slot[root].bytes / size);
    }
}

/* Gathers the sums of a group of blocks in those of its lane. */
static void end_group(const ad_workspace *w, const ad_phase *phase, int64_t lane)
{
    const ad_program *p = w->program;
    for (int i = 0; i < phase->nreduction; i++) {
        const ad_step *s = &p->step[phase->reduction[i]];
        if (p->slot[s->value].root != s->value) continue;
        const int64_t lanes = AD_LANES * p->lane_bytes;
        char *sum = w->base[s->value] + lane * p->lane_bytes, *group = sum + lanes;
        ad_kernel_gather(&s->kernel, sum, group + lanes, group, ad_row_size(s->kernel.out));
    }
}

/* Where a body goes by stretches, each of them is a group. */
static void run_part(void *data, int thread, int64_t part)
{
    const body *b = data;
    const ad_workspace *w = b->workspace;
    const ad_phase *phase = b->phase;
    const ad_program *p = w->program;
    AD_ASSERT(thread >= 0 && thread < w->nthread);
    AD_ASSERT(part >= 0 && part < b->parts);
    ad_thread_memory *t = &w->thread[thread];
    const int64_t begin = part * b->blocks / b->parts, end = (part + 1) * b->blocks / b->parts;
    const bool groups = phase->nreduction && b->groups;
    if (t->entered != b->number) enter_body(b, t);
    enter_lane(w, phase, t, part, b->first == 0);
    if (groups) {
        enter_lane(w, phase, t, 2 * AD_LANES + part, b->first == 0);
        enter_lane(w, phase, t, AD_LANES + part, b->first == 0);
    }
    for (int64_t k = begin; k < end; k++) {
        if (groups && k > begin && (k - begin) % p->group == 0) end_group(w, phase, part);
        const int64_t within = k * p->block_rows, first = b->first + within,
                      left = b->rows - within, rows = left < p->block_rows ? left : p->block_rows;
        if (b->filled) b->filled->fill(b->filled->fill_context, first, rows);
        run_block(w, phase, b->list, t, first, within, rows);
    }
    if (groups) end_group(w, phase, part);
}

/* Sums that are finished: those that wait, or the others. */
typedef struct {
    ad_workspace *workspace;
    const ad_phase *phase;
    int64_t parts, shares;
    bool waiting, groups;
} finish;

/* Adds a share of the lanes' elements up in a fixed tree, a piece at a time that stays in a level 1
 * cache meanwhile; the sum is then in the first lane. */
static void finish_share(void *data, int thread, int64_t share)
{
    const finish *f = data;
    const ad_workspace *w = f->workspace;
    const ad_phase *phase = f->phase;
    const ad_program *p = w->program;
    int64_t lanes = f->parts, shares = f->shares;
    (void)thread;
    for (int i = 0; i < phase->nreduction; i++) {
        const ad_step *s = &p->step[phase->reduction[i]];
        if (p->slot[s->value].root != s->value || w->waiting[s->value] != f->waiting) continue;
        int64_t size = (int64_t)ad_dtype_size(p->ir.dtype),
                lines = ad_size_align(p->slot[s->value].bytes) / AD_ALIGN;
        int64_t from = share * lines / shares * AD_ALIGN,
                to = (share + 1) * lines / shares * AD_ALIGN;
        if (to > p->slot[s->value].bytes) to = p->slot[s->value].bytes;
        for (int64_t bytes; from < to; from += bytes) {
            char *first = w->base[s->value] + from;
            bytes = to - from < PIECE_BYTES ? to - from : PIECE_BYTES;
            for (int64_t lane = 0; lane < lanes && f->groups; lane++)
                ad_kernel_combine(&s->kernel, first + lane * p->lane_bytes,
                                  first + (2 * AD_LANES + lane) * p->lane_bytes, bytes / size);
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
    const int64_t blocks = ad_block_count(p, rows);
    finish f = { w, phase, part_count(phase, blocks), 1, waiting, ad_has_groups(p, blocks) };
    int threads = ad_threads_in_team() ? 1 : w->nthread;
    double work = (double)p->lane_bytes * (double)f.parts;
    f.shares = ad_threads_worth(threads, work);
    ad_threads_share((int)f.shares, work, f.shares, finish_share, &f);
}

/* A sum over the rows of a stretch. */
typedef struct {
    const ad_workspace *workspace;
    const ad_step *step;
    int64_t first, rows;
} sum;

static void run_sum_piece(void *data, int thread, int64_t piece)
{
    const sum *d = data;
    const ad_workspace *w = d->workspace;
    const ad_slot *slot = w->program->slot;
    const ad_step *s = d->step;
    const int32_t root = slot[s->value].root;
    ad_thread_memory *t = &w->thread[thread];
    for (int k = 0; k < s->kernel.nin; k++) {
        const ad_slot *from = &slot[s->operand[k].root];
        const int64_t row = from->place == AD_PLACE_STRETCH ? 0 : d->first;
        t->in[k] = w->base[s->operand[k].root] + s->operand[k].offset + row * from->bytes;
    }
    const bool fresh = root == s->value && d->first == 0 && !(w->waiting_rows && w->waiting[root]);
    ad_kernel_run_piece(&s->kernel, piece, fresh, d->rows, t->in, w->base[root], t->scratch);
}

void ad_run_sums(ad_workspace *w, const ad_phase *phase, int64_t first, int64_t rows)
{
    const int threads = ad_threads_in_team() ? 1 : w->nthread;
    const double work = phase->sum_work * (double)rows;
    for (int32_t i = phase->sum_steps[0]; i < phase->sum_steps[1]; i++) {
        sum d = { w, &w->program->step[i], first, rows };
        ad_threads_share(threads, work, d.step->kernel.pieces, run_sum_piece, &d);
    }
}

void ad_run_body(ad_workspace *w, const ad_phase *phase, int64_t rows, const ad_run_args *filled)
{
    const ad_program *p = w->program;
    const bool sums = phase->sum_steps[0] < phase->sum_steps[1];
    const int64_t stretch = sums ? p->stretch_rows : rows;
    const int threads = ad_threads_in_team() ? 1 : w->nthread;
    const double row_work = phase->row_work + (filled ? filled->fill_work : 0);
    body b = { .workspace = w,
               .phase = phase,
               .filled = filled,
               .number = ++w->bodies,
               .list = ad_pieces_of(w, w->several, phase, AD_SECTION_BODY),
               .groups = ad_has_groups(p, ad_block_count(p, rows)) };
    for (; b.first < rows; b.first += stretch) {
        b.rows = rows - b.first < stretch ? rows - b.first : stretch;
        b.blocks = ad_block_count(p, b.rows);
        b.parts = part_count(phase, b.blocks);
        ad_threads_share(threads, row_work * (double)b.rows, b.parts, run_part, &b);
        ad_run_sums(w, phase, b.first, b.rows);
    }
    if (phase->nreduction) ad_run_finish_sums(w, phase, rows, false);
}
