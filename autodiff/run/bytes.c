/* Bytes of a workspace before anything is run.
 *
 * Everything that a workspace allocates has its size from here, so that what ad_program_bytes says
 * is what is held afterwards. What operations hold in their states (solves their steps) they reckon
 * themselves (ad_opaque_class.account). */
#include "autodiff/run/bytes.h"
#include "autodiff/run/threads.h"
#include <string.h>

/* ---- parts ---- */

int64_t ad_whole_bytes(const ad_program *p, int threads)
{
    const int64_t each = ad_size_add(ad_size_align(p->piece_scratch), p->whole_chunk_bytes);
    return ad_size_add(ad_size_add(p->uniform_bytes, ad_size_align(p->uniform_scratch)),
                       ad_size_mul(each, threads));
}

int64_t ad_complete_bytes(const ad_program *p, int64_t rows)
{
    if (p->ncomplete == 0 || rows == 0) return 0;
    return ad_size_add(ad_size_mul(p->complete_row_bytes, rows), (int64_t)p->ncomplete * AD_ALIGN);
}

int64_t ad_stretch_bytes(const ad_program *p, int64_t rows)
{
    return ad_size_mul(p->stretch_row_bytes, rows < p->stretch_rows ? rows : p->stretch_rows);
}

int ad_lane_count(const ad_program *p, int64_t blocks)
{
    if (ad_has_groups(p, blocks)) return 3 * AD_LANES;
    return blocks < AD_LANES ? (int)blocks : AD_LANES;
}

int64_t ad_list_bytes(int64_t n) { return ad_size_align((n + 1) * (int64_t)sizeof(void *)); }

int64_t ad_thread_bytes(const ad_program *p)
{
    int64_t lists = ad_list_bytes((int64_t)p->ir.n + p->nrepeat) + ad_list_bytes(p->max_operands);
    int64_t chunks = ad_size_add(p->chunk_bytes, p->repeat_bytes);
    return ad_size_add(ad_size_add(lists, chunks),
                       ad_size_add(ad_size_align(p->block_bytes), ad_size_align(p->block_scratch)));
}

int64_t ad_frame_bytes(const ad_pieces *several)
{
    if (!several->phase) return 0;
    return ad_size_align(several->frame) + ad_size_align(several->handed_bytes + AD_ALIGN);
}

static int64_t lists_bytes(const ad_program *p, int threads)
{
    const int64_t pointers = (int64_t)p->ir.n + p->nrepeat + p->nsum + 1,
                  calls = 2 * (p->max_operands + 1) + p->max_results + 1 + p->nopaque + 1,
                  shapes = (int64_t)p->max_operands + p->max_results + 2;
    const int64_t words = pointers + calls + p->ir.noutput + 1;
    return (int64_t)sizeof(ad_workspace) + words * (int64_t)sizeof(void *) +
           shapes * (int64_t)sizeof(ad_shape) + p->ir.n + 1 +
           threads * (int64_t)sizeof(ad_thread_memory) + p->nopaque * (int64_t)sizeof(int64_t);
}

/* ---- the whole ---- */

/* States of operations hold a number of arrays as large as their operands. So many times fewer rows
 * than can be addressed are counted, so that no operation's own account overflows. */
enum { COUNTED = 1 << 12 };

void ad_account_state(const ad_program *p, int k, int64_t rows, int threads, ad_opaque_account *a)
{
    const ad_inst *x = &p->ir.inst[p->opaque[k]];
    *a = (ad_opaque_account){ .rows = p->has_rows ? rows : 0, .threads = threads };
    for (int32_t i = 0; i < p->nstep; i++)
        if (p->step[i].value == p->opaque[k]) {
            a->state_used = p->step[i].state_used;
            a->result = p->step[i].result;
        }
    if (x->class_->account) x->class_->account(x->opaque, a);
}

static void count_threads(ad_account *a, const ad_program *p, int64_t rows, int threads)
{
    const int64_t blocks = ad_block_count(p, rows), working = blocks < threads ? blocks : threads;
    a->lanes = ad_size_mul(p->lane_bytes, ad_lane_count(p, blocks));
    a->threads = ad_size_mul(ad_thread_bytes(p), working);
    if (rows < 2) return;
    const int64_t frame = ad_frame_bytes(ad_program_pieces(p, true));
    a->threads = ad_size_add(a->threads, ad_size_mul(frame, working));
}

void ad_account_make(ad_account *a, const ad_program *p, int64_t rows, int threads)
{
    *a = (ad_account){ .whole = ad_size_align(ad_whole_bytes(p, threads)),
                       .lists = lists_bytes(p, threads) };
    if (p->has_rows && rows > p->most_rows / COUNTED) {
        a->total = -1;
        return;
    }
    if (p->has_rows) {
        a->complete = ad_size_align(ad_complete_bytes(p, rows));
        a->stretch = ad_stretch_bytes(p, rows);
        count_threads(a, p, rows, threads);
    }
    if (rows == 1 || !p->has_rows)
        a->threads = ad_size_add(a->threads, ad_size_align(ad_program_pieces(p, false)->frame));
    for (int k = 0; k < p->nopaque; k++) {
        ad_opaque_account state;
        ad_account_state(p, k, rows, threads, &state);
        a->states = ad_size_add(a->states, state.bytes);
        a->step_bytes = ad_size_add(a->step_bytes, state.step_bytes);
        a->growing += state.step_bytes != 0;
    }
    const int64_t part[] = { a->lists, a->complete, a->stretch, a->lanes, a->threads, a->states };
    a->total = a->whole;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        a->total = ad_size_add(a->total, part[i]);
}

int64_t ad_program_bytes(const ad_program *p, int64_t rows, int threads, int64_t *step_bytes)
{
    ad_account a;
    if (step_bytes) *step_bytes = 0;
    if (!p || threads < 0 || (p->has_rows && (rows < 1 || rows > p->most_rows))) return -1;
    if (threads == 0) threads = ad_threads_default();
    ad_account_make(&a, p, rows, threads < AD_MAX_THREADS ? threads : AD_MAX_THREADS);
    if (step_bytes) *step_bytes = a.step_bytes;
    return a.total;
}

/* ---- the largest ---- */

/* Of the roots at a place, which has arrays for so many rows. */
static void largest_root(const ad_program *p, ad_place place, int64_t rows, const char *what,
                         char *text, size_t size)
{
    int32_t most = -1;
    for (int32_t i = 0; i < p->ir.n; i++) {
        const bool here = p->slot[i].place == place && p->slot[i].root == i;
        if (here && (most < 0 || p->slot[i].bytes > p->slot[most].bytes)) most = i;
    }
    if (most < 0) {
        snprintf(text, size, "scratch memory of kernels");
        return;
    }
    const ad_inst *x = &p->ir.inst[most];
    char shape[160];
    ad_format_shape(x->shape, shape, sizeof shape);
    snprintf(text, size, "%s of %s%s, %lld bytes", shape, ad_ops[x->op].name, what,
             (long long)ad_size_mul(p->slot[most].bytes, rows));
}

static void largest_state(const ad_program *p, int64_t rows, int threads, char *text, size_t size)
{
    ad_opaque_account most = { .bytes = -1 }, state;
    int which = 0;
    for (int k = 0; k < p->nopaque; k++) {
        ad_account_state(p, k, rows, threads, &state);
        if (state.bytes <= most.bytes) continue;
        most = state;
        which = k;
    }
    const ad_inst *x = &p->ir.inst[p->opaque[which]];
    snprintf(text, size, "the memory of %s, %lld bytes%s%s", ad_opaque_name(x->class_, x->opaque),
             (long long)most.bytes, most.largest[0] ? ": " : "", most.largest);
}

void ad_account_largest(const ad_account *a, const ad_program *p, int64_t rows, int threads,
                        char *text, size_t size)
{
    const int64_t part[] = { a->whole, a->complete, a->stretch, a->lanes, a->threads, a->states };
    enum { WHOLE, COMPLETE, STRETCH, LANES, THREADS, STATES } most = WHOLE;
    for (int i = COMPLETE; i <= STATES; i++)
        if (part[i] > part[most]) most = i;
    const int64_t blocks = p->has_rows ? ad_block_count(p, rows) : 0;
    switch (most) {
    case WHOLE: largest_root(p, AD_PLACE_UNIFORM, 1, "", text, size); break;
    case COMPLETE: largest_root(p, AD_PLACE_COMPLETE, rows, " for all rows", text, size); break;
    case STRETCH:
        largest_root(p, AD_PLACE_STRETCH, rows < p->stretch_rows ? rows : p->stretch_rows,
                     ", kept for gradients of weights", text, size);
        break;
    case LANES:
        largest_root(p, AD_PLACE_LANES, ad_lane_count(p, blocks), ", a sum over rows in lanes",
                     text, size);
        break;
    case THREADS:
        snprintf(text, size, "memory for blocks of %lld rows on %lld threads, %lld bytes",
                 (long long)(rows < p->block_rows ? rows : p->block_rows),
                 (long long)(blocks < threads ? blocks : threads), (long long)a->threads);
        break;
    case STATES: largest_state(p, rows, threads, text, size); break;
    }
}
