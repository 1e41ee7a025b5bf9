/* Workspaces: the memory that a program is run in. It grows with the rows, and never otherwise. How
 * much it is follows from the program (bytes.c): so a limit is looked at before anything is
 * allocated. */
#include "autodiff/run/bytes.h"
#include "autodiff/run/threads.h"
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>

int ad_workspace_fail(ad_workspace *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(w->error, sizeof w->error, format, args);
    va_end(args);
    ad_report(NULL, w->error, 0, NULL, NULL, NULL);
    return -1;
}

/* A negative number is left to ad_run to report. */
static int thread_count(int asked)
{
    if (asked == 0) asked = ad_threads_default();
    return asked < AD_MAX_THREADS ? asked : AD_MAX_THREADS;
}

static int working_threads(const ad_workspace *w) { return w->threads > 0 ? w->threads : 1; }

ad_workspace *ad_workspace_new(const ad_program *program, int threads)
{
    if (!program) return NULL;
    ad_workspace *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    const ad_program *p = w->program = ad_program_retain((ad_program *)program);
    atomic_flag_clear(&w->busy);
    w->threads = thread_count(threads);
    w->limit = ad_memory_limit(NULL);
    w->thread = calloc(w->threads > 0 ? (size_t)w->threads : 1, sizeof *w->thread);
    const size_t pointers = (size_t)p->ir.n + (size_t)p->nrepeat + (size_t)p->nsum;
    w->base = calloc(pointers + 1, sizeof *w->base);
    w->waiting = calloc((size_t)p->ir.n + 1, sizeof *w->waiting);
    w->waiting_out = calloc((size_t)p->ir.noutput + 1, sizeof *w->waiting_out);
    w->in = calloc((size_t)p->max_operands + 1, sizeof *w->in);
    w->in_state = calloc((size_t)p->max_operands + 1, sizeof *w->in_state);
    w->out = calloc((size_t)p->max_results + 1, sizeof *w->out);
    w->in_shape = calloc((size_t)p->max_operands + 1, sizeof *w->in_shape);
    w->out_shape = calloc((size_t)p->max_results + 1, sizeof *w->out_shape);
    w->state = calloc((size_t)p->nopaque + 1, sizeof *w->state);
    w->most = calloc((size_t)p->nopaque + 1, sizeof *w->most);
    if (!w->thread || !w->most || !w->base || !w->waiting || !w->waiting_out || !w->in ||
        !w->in_state || !w->out || !w->in_shape || !w->out_shape || !w->state) {
        ad_workspace_free(w);
        return NULL;
    }
    w->bytes = sizeof *w + (size_t)p->ir.n * sizeof *w->base;
    return w;
}

void ad_workspace_free(ad_workspace *w)
{
    if (!w) return;
    for (int i = 0; w->state && i < w->nstate; i++) {
        const ad_inst *x = &w->program->ir.inst[w->program->opaque[i]];
        if (w->state[i] && x->class_->state_free) x->class_->state_free(w->state[i]);
    }
    for (int i = 0; w->thread && i < w->nthread; i++) {
        free(w->thread[i].memory);
        free(w->thread[i].frame);
    }
    free(w->thread);
    free(w->fixed);
    free(w->frame);
    free(w->lanes);
    free(w->stretch);
    free(w->complete);
    free(w->base);
    free(w->waiting);
    free(w->waiting_out);
    free(w->in);
    free(w->in_state);
    free(w->out);
    free(w->in_shape);
    free(w->out_shape);
    free(w->state);
    free(w->most);
    ad_program_free(w->program);
    free(w);
}

const char *ad_workspace_error(const ad_workspace *w)
{
    if (!w) return "no workspace (out of memory?)";
    if (atomic_load(&w->refused))
        return "ad_run: the workspace is in use by another run; every thread needs its own";
    return w->error[0] ? w->error : NULL;
}

const char *ad_workspace_outside(const ad_workspace *w)
{
    return w && w->outside[0] ? w->outside : NULL;
}

const char *ad_workspace_warning(const ad_workspace *w)
{
    return w && w->warning[0] ? w->warning : NULL;
}

void ad_opaque_fill_nan(const ad_opaque_call *call, int nout)
{
    for (int j = 0; j < nout; j++) {
        if (!call->out[j]) continue;
        int64_t n = ad_count(call->out_shape[j], 1);
        for (int64_t i = 0; i < n; i++) {
            if (call->dtype == AD_F32) ((float *)call->out[j])[i] = NAN;
            else ((double *)call->out[j])[i] = NAN;
        }
    }
}

size_t ad_workspace_bytes(const ad_workspace *w) { return w ? w->bytes : 0; }

/* Memory that grows with the rows: old contents are not needed. */
static int renew(ad_workspace *w, char **memory, int64_t old_bytes, int64_t bytes, int64_t rows)
{
    free(*memory);
    *memory = ad_aligned_alloc(bytes);
    w->bytes -= (size_t)old_bytes;
    if (!*memory && bytes >= 0)
        return ad_workspace_fail(w,
                                 "ad_run: out of memory: %lld bytes for a program with rows = %lld",
                                 (long long)bytes, (long long)rows);
    if (!*memory)
        return ad_workspace_fail(w, "ad_run: %lld rows need more bytes than can be addressed",
                                 (long long)rows);
    w->bytes += (size_t)bytes;
    return 0;
}

/* Values without rows, and the scratch memory of their kernels. */
static int reserve_whole(ad_workspace *w, int64_t rows)
{
    const ad_program *p = w->program;
    if (w->fixed) return 0;
    if (renew(w, &w->fixed, 0, ad_whole_bytes(p, working_threads(w)), rows)) return -1;
    w->scratch = w->fixed + p->uniform_bytes;
    char *chunks = w->scratch + ad_size_align(p->uniform_scratch) +
                   working_threads(w) * ad_size_align(p->piece_scratch);
    for (int32_t i = 0; i < p->ir.n; i++) {
        if (p->slot[i].place == AD_PLACE_CHUNK && !ad_has_rows(p->ir.inst[i].shape))
            w->base[i] = chunks + p->slot[i].position;
        if (p->slot[i].place == AD_PLACE_CONSTANT)
            w->base[i] = (char *)p->constants + p->slot[i].position;
        if (p->slot[i].place == AD_PLACE_UNIFORM || p->slot[i].place == AD_PLACE_SUM)
            w->base[i] = w->fixed + p->slot[i].position;
    }
    return 0;
}

static int reserve_complete(ad_workspace *w, int64_t rows)
{
    const ad_program *p = w->program;
    if (rows <= w->rows || p->ncomplete == 0) return 0;
    int64_t old = ad_complete_bytes(p, w->rows);
    w->rows = 0;
    if (renew(w, &w->complete, old, ad_complete_bytes(p, rows), rows)) return -1;
    w->rows = rows;
    int64_t at = 0;
    for (int i = 0; i < p->ncomplete; i++) {
        w->base[p->complete[i]] = w->complete + at;
        at += ad_size_align(p->slot[p->complete[i]].bytes * rows);
    }
    return 0;
}

static int reserve_stretch(ad_workspace *w, int64_t rows)
{
    const ad_program *p = w->program;
    const int64_t hold = rows < p->stretch_rows ? rows : p->stretch_rows;
    if (hold <= w->stretch_rows || p->stretch_row_bytes == 0) return 0;
    const int64_t old = ad_stretch_bytes(p, w->stretch_rows);
    w->stretch_rows = 0;
    if (renew(w, &w->stretch, old, ad_stretch_bytes(p, rows), rows)) return -1;
    w->stretch_rows = hold;
    for (int32_t i = 0; i < p->ir.n; i++)
        if (p->slot[i].place == AD_PLACE_STRETCH && p->slot[i].root == i)
            w->base[i] = w->stretch + p->slot[i].position * hold;
    return 0;
}

static int reserve_lanes(ad_workspace *w, int64_t rows)
{
    const ad_program *p = w->program;
    const int lanes = ad_lane_count(p, ad_block_count(p, rows)), old = w->nlane;
    if (lanes <= w->nlane || p->lane_bytes == 0) return 0;
    w->nlane = 0;
    if (renew(w, &w->lanes, p->lane_bytes * old, ad_size_mul(p->lane_bytes, lanes), rows))
        return -1;
    w->nlane = lanes;
    for (int32_t i = 0; i < p->ir.n; i++)
        if (p->slot[i].place == AD_PLACE_LANES && p->slot[i].root == i)
            w->base[i] = w->lanes + p->slot[i].position;
    return 0;
}

static int reserve_threads(ad_workspace *w, int64_t rows)
{
    const ad_program *p = w->program;
    int64_t blocks = ad_block_count(p, rows), want = blocks < w->threads ? blocks : w->threads;
    int64_t pointers = ad_list_bytes((int64_t)p->ir.n + p->nrepeat),
            operands = ad_list_bytes(p->max_operands), bytes = ad_thread_bytes(p);
    for (; w->nthread < want; w->nthread++) {
        ad_thread_memory *t = &w->thread[w->nthread];
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

/* The pointers of runs of one row, but for those to the caller's arrays. */
static void set_row(ad_workspace *w)
{
    const ad_program *p = w->program;
    w->row = w->thread[0];
    w->row.pointer = w->base;
    for (int f = 0; f < p->nphase; f++) {
        const ad_phase *phase = &p->phase[f];
        for (int i = 0; i < phase->nblock; i++)
            w->base[phase->block[i]] = w->row.block + p->slot[phase->block[i]].position;
        for (int i = 0; i < phase->nchunk; i++)
            w->base[phase->chunk[i]] = w->row.chunk + p->slot[phase->chunk[i]].position;
        for (int i = 0; i < phase->nrepeat; i++)
            w->base[phase->repeat[i].pointer] = w->row.repeat + phase->repeat[i].position;
        for (int i = 0; i < phase->nreduction; i++) {
            const int32_t value = p->step[phase->reduction[i]].value;
            w->base[value] = w->base[p->slot[value].root];
        }
    }
}

static int make_states(ad_workspace *w)
{
    for (; w->nstate < w->program->nopaque; w->nstate++) {
        const ad_inst *x = &w->program->ir.inst[w->program->opaque[w->nstate]];
        if (!x->class_->state_new) continue;
        w->state[w->nstate] = x->class_->state_new(x->opaque);
        if (!w->state[w->nstate])
            return ad_workspace_fail(w, "ad_run: %s: out of memory for the operation's state",
                                     ad_opaque_name(x->class_, x->opaque));
    }
    return 0;
}

static int reserve_frame(ad_workspace *w, int64_t rows)
{
    const ad_pieces *pieces = ad_program_pieces(w->program, false);
    if (pieces->frame && renew(w, &w->frame, 0, pieces->frame, rows)) return -1;
    w->pieces = pieces;
    return 0;
}

/* What native code for several rows works with. */
static int reserve_frames(ad_workspace *w, int64_t rows)
{
    const ad_pieces *several = ad_program_pieces(w->program, true);
    const int64_t bytes = ad_frame_bytes(several);
    for (int i = 0; i < w->nthread && several->phase; i++) {
        ad_thread_memory *t = &w->thread[i];
        if (t->frame) continue;
        if (renew(w, &t->frame, 0, bytes, rows)) return -1;
        t->handed = t->frame + ad_size_align(several->frame);
    }
    w->several = several;
    return 0;
}

/* ---- limits ---- */

int ad_workspace_set_limit(ad_workspace *w, int64_t bytes)
{
    if (!w) return -1;
    if (bytes < 0)
        return ad_workspace_fail(w, "ad_workspace_set_limit: %lld bytes; 0 is no limit",
                                 (long long)bytes);
    if (bytes != w->limit) {
        w->granted = 0;
        w->ready = w->plain = false;
    }
    w->limit = bytes;
    return 0;
}

/* The most rows below `rows` that the limit allows; 0: none. */
static int64_t rows_within(const ad_workspace *w, int64_t rows)
{
    int64_t fit = 0;
    ad_account a;
    while (rows - fit > 1) {
        const int64_t middle = fit + (rows - fit) / 2;
        ad_account_make(&a, w->program, middle, working_threads(w));
        if (a.total >= 0 && a.total <= w->limit) fit = middle;
        else rows = middle;
    }
    return fit;
}

static int fail_limit(ad_workspace *w, const ad_account *a, int64_t rows)
{
    const ad_program *p = w->program;
    char largest[320], advice[96] = "";
    if (a->total < 0)
        return ad_workspace_fail(w, "ad_run: %lld rows need more bytes than can be addressed",
                                 (long long)rows);
    ad_account_largest(a, p, rows, working_threads(w), largest, sizeof largest);
    const int64_t fit = p->has_rows ? rows_within(w, rows) : 0;
    if (fit) snprintf(advice, sizeof advice, "run with rows = %lld at most, or ", (long long)fit);
    return ad_workspace_fail(
        w,
        "ad_run: out of memory: %lld bytes for a program with rows = %lld, and the limit is %lld; "
        "most of it is %s; %sset a larger limit (ad_workspace_set_limit, COSTATE_MEMORY)",
        (long long)a->total, (long long)rows, (long long)w->limit, largest, advice);
}

/* Whether a run of so many rows stays within the limit, and what each operation may hold: what it
 * said, and its share of the rest if it finds out only then how many steps it takes. */
static int look_at_limit(ad_workspace *w, int64_t rows)
{
    const ad_program *p = w->program;
    ad_account a;
    ad_account_make(&a, p, rows, working_threads(w));
    if (a.total < 0 || a.total > w->limit) return fail_limit(w, &a, rows);
    for (int k = 0; k < p->nopaque; k++) {
        ad_opaque_account state;
        ad_account_state(p, k, rows, working_threads(w), &state);
        w->most[k] = state.bytes;
        if (state.step_bytes) w->most[k] += (w->limit - a.total) / a.growing;
    }
    w->spare = w->limit - a.total;
    w->granted = rows > 0 ? rows : 1;
    return 0;
}

/* ---- all ---- */

static int reserve(ad_workspace *w, int64_t rows)
{
    const ad_program *p = w->program;
    if (!p->has_rows) rows = 0;
    if (w->limit && w->granted < (rows > 0 ? rows : 1) && look_at_limit(w, rows)) return -1;
    if (make_states(w) || reserve_whole(w, rows)) return -1;
    if (!w->begun && rows <= 1 && reserve_frame(w, rows)) return -1;
    w->begun = true; /* whoever begins with many rows has no native code for one */
    if (!p->has_rows || rows <= w->reserved) return 0;
    w->reserved = 0;
    int64_t blocks = ad_block_count(p, rows), threads = blocks < w->threads ? blocks : w->threads;
    int64_t lanes = ad_size_mul(p->lane_bytes, ad_lane_count(p, blocks));
    int64_t bytes = ad_size_add(ad_size_add(ad_complete_bytes(p, rows), ad_stretch_bytes(p, rows)),
                                ad_size_add(lanes, ad_size_mul(ad_thread_bytes(p), threads)));
    /* The machine is asked only where memory has to grow: that takes longer than replaying a small
     * program. */
    if (bytes > (int64_t)w->bytes && bytes > ad_machine_bytes())
        return ad_workspace_fail(w,
                                 "ad_run: out of memory: %lld bytes for a program with rows = "
                                 "%lld; this machine has %lld",
                                 (long long)bytes, (long long)rows, (long long)ad_machine_bytes());
    if (reserve_complete(w, rows) || reserve_stretch(w, rows) || reserve_lanes(w, rows) ||
        reserve_threads(w, rows))
        return -1;
    if (rows > 1 && reserve_frames(w, rows)) return -1;
    set_row(w);
    w->reserved = rows;
    return 0;
}

/* Whether all outputs are computed in arrays of the caller's, one each. */
static bool is_plain(const ad_workspace *w)
{
    bool plain = w->ready && w->alone;
    for (int j = 0; j < w->program->ir.noutput && plain; j++) {
        const ad_output *o = &w->program->output[j];
        plain = o->last && (o->in_place || (o->lane && w->whole));
    }
    return plain;
}

int ad_workspace_reserve(ad_workspace *w, int64_t rows)
{
    const int result = reserve(w, rows);
    const ad_pieces *pieces = rows == 1 || !w->program->has_rows ? w->pieces : NULL;
    w->ready = !result;
    w->ready_rows = rows;
    w->whole = pieces && pieces->whole;
    w->alone = pieces ? pieces->alone : NULL;
    w->plain = is_plain(w);
    return result;
}
