/* The run of a scan: the program of a step, n times.
 *
 * Where rows can be divided (divide.c), blocks of them go through all steps by themselves, shared
 * out to threads; their sums are added in order. The blocks depend on the number of rows alone, so
 * the result is the same for any number of threads. Elsewhere all rows are one block, and threads
 * share each step.
 *
 * The program reads and writes dense arrays. What has no rows is stacked so that a step's part is
 * dense where it lies; of what has rows, a step's part is copied from or into the rows (unless
 * there is one row only). Carries go back and forth between two arrays. Memory is the state's, and
 * only grows where rows do. */
#include "autodiff/base/memory.h"
#include "autodiff/scan/scan.h"
#include <stdlib.h>
#include <string.h>

/* Rows of a block: at the least, and enough to be worth more than FEW blocks. */
enum { LEAST_ROWS = 32, GOOD_ROWS = 128, FEW_BLOCKS = 8, MOST_BLOCKS = 64 };

/* What one block of rows runs with. */
typedef struct {
    ad_workspace *workspace;
    const void **in;  /* of the program */
    void **out;       /* of the program */
    bool *accumulate; /* by output of the program */
    char **part;      /* of operands, then of results: a step's part, where it is copied; a sum */
    const char **now; /* carries at the beginning of the step */
    char *memory;
    int64_t rows; /* for which memory is there */
    int result;   /* of the run: 1: outside of a domain */
    char error[400];
    char warning[400]; /* what a step of the run doubts in its results; "": nothing */
} scan_block;

typedef struct {
    bool *wanted; /* results that `program` delivers */
    const ad_program *program;
    int threads; /* of the call */
    int *result; /* by output of the program: the result it is of */
    int nout;    /* outputs of the program */
    int nblock;  /* of the latest run; each has a workspace for `program` */
    scan_block block[MOST_BLOCKS];
} scan_state;

static void clear_block(scan_block *b)
{
    ad_workspace_free(b->workspace);
    free(b->in);
    free(b->out);
    free(b->accumulate);
    free(b->part);
    free(b->now);
    free(b->memory);
    *b = (scan_block){ .rows = -1 };
}

static void clear_blocks(scan_state *t)
{
    for (int k = 0; k < MOST_BLOCKS; k++) clear_block(&t->block[k]);
}

void ad_scan_state_free(void *state)
{
    scan_state *t = state;
    if (!t) return;
    clear_blocks(t);
    free(t->wanted);
    free(t->result);
    free(t);
}

void *ad_scan_state_new(void *data)
{
    const ad_scan_object *s = data;
    size_t nout = (size_t)ad_scan_results(s);
    scan_state *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->wanted = calloc(nout + 1, sizeof *t->wanted);
    t->result = calloc(nout + 1, sizeof *t->result);
    if (t->wanted && t->result) return t;
    ad_scan_state_free(t);
    return NULL;
}

static int fail(const ad_opaque_call *call, const char *message)
{
    snprintf(call->error, call->error_size, "%s", message);
    return -1;
}

/* ---- preparing ---- */

/* The program that delivers what this call wants. */
static int choose_program(ad_scan_object *s, scan_state *t, const ad_opaque_call *call)
{
    int n = ad_scan_results(s);
    bool same = t->program && t->threads == call->threads;
    for (int j = 0; j < n && same; j++) same = t->wanted[j] == (call->out[j] != NULL);
    if (same) return 0;
    clear_blocks(t);
    t->nblock = 0;
    t->program = NULL;
    t->threads = call->threads;
    t->nout = 0;
    for (int j = 0; j < n; j++) {
        t->wanted[j] = call->out[j] != NULL;
        if (j < s->kind.ncarry || (t->wanted[j] && ad_scan_carry_of(s, j) < 0))
            t->result[t->nout++] = j;
    }
    t->program = ad_scan_compile(s, t->wanted, call->error, call->error_size);
    return t->program ? 0 : -1;
}

static int64_t bytes_of(const ad_scan_object *s, ad_var x, int64_t rows)
{
    return ad_size_align(ad_size_mul(
        ad_size_mul(ad_row_size(ad_shape_of(x)), ad_has_rows(ad_shape_of(x)) ? rows : 1),
        (int64_t)ad_dtype_size(s->kind.dtype)));
}

/* Hands out the parts of the memory at `base` to a block; NULL: only counts. Returns the bytes; -1:
 * too many. */
static int64_t deal_memory(const ad_scan_object *s, scan_block *b, int64_t rows, char *base)
{
    int nin = ad_scan_operands(s), n = ad_scan_results(s), ncarry = s->kind.ncarry;
    int64_t used = 0;
    for (int i = 0; i < nin + n + ncarry; i++) {
        bool operand = i < nin, second = i >= nin + n;
        int j = second ? i - nin - n : i - nin;
        ad_var x = operand ? s->in[i] : s->out[j];
        bool carry = second || (!operand && j < ncarry);
        bool input = operand && i >= ncarry && i < ncarry + s->kind.ninput;
        bool copied = (input || (!operand && j >= ncarry && ad_scan_carry_of(s, j) < 0)) &&
                      ad_has_rows(ad_shape_of(x));
        bool sum = !operand && !second && j >= ncarry && !ad_scan_stacked(s, j);
        if (!carry && !copied && !sum) continue;
        if (base) b->part[i] = base + used;
        used = ad_size_add(used, bytes_of(s, x, rows));
    }
    return used;
}

/* Bytes of the lists of a block. */
typedef struct {
    size_t in, out, accumulate, part, now;
} list_bytes;

static list_bytes bytes_of_lists(const ad_scan_object *s)
{
    const size_t nin = (size_t)ad_scan_operands(s), nout = (size_t)ad_scan_results(s),
                 ncarry = (size_t)s->kind.ncarry, pointer = sizeof(void *);
    return (list_bytes){ .in = (nin + 1) * pointer,
                         .out = (nout + 1) * pointer,
                         .accumulate = (nout + 1) * sizeof(bool),
                         .part = (nin + nout + ncarry + 1) * pointer,
                         .now = (ncarry + 1) * pointer };
}

static bool make_lists(const ad_scan_object *s, scan_block *b)
{
    const list_bytes bytes = bytes_of_lists(s);
    b->in = calloc(1, bytes.in);
    b->out = calloc(1, bytes.out);
    b->accumulate = calloc(1, bytes.accumulate);
    b->part = calloc(1, bytes.part);
    b->now = calloc(1, bytes.now);
    return b->in && b->out && b->accumulate && b->part && b->now;
}

/* A block for so many rows, with a workspace for so many threads. */
static int reserve(const ad_scan_object *s, const scan_state *t, scan_block *b, int64_t rows,
                   int threads, const ad_opaque_call *call)
{
    if (!b->workspace) {
        clear_block(b);
        b->workspace = ad_workspace_new(t->program, threads);
        if (!b->workspace || !make_lists(s, b)) {
            clear_block(b);
            return fail(call, "out of memory");
        }
    }
    if (rows <= b->rows) return 0;
    b->rows = -1;
    free(b->memory);
    int64_t bytes = deal_memory(s, NULL, rows, NULL);
    b->memory = bytes < 0 ? NULL : ad_aligned_alloc(bytes);
    if (!b->memory) return fail(call, "out of memory");
    deal_memory(s, b, rows, b->memory);
    b->rows = rows;
    return 0;
}

/* The first row of a block. Whole vectors of rows are together. */
static int64_t first_row(int64_t rows, int nblock, int k)
{
    return k == nblock ? rows : rows * k / nblock / 8 * 8;
}

static bool wants_sums(const ad_scan_object *s, const bool *wanted)
{
    for (int j = ad_scan_first_sum(s); j < ad_scan_first_hidden(s); j++)
        if (wanted[j] && !ad_has_rows(ad_shape_of(s->out[j]))) return true;
    return false;
}

/* Where there is no sum, blocks change no bit, and one thread does without. */
static int count_blocks(const ad_scan_object *s, const bool *wanted, int threads, int64_t rows)
{
    if (!s->apart || (threads == 1 && !wants_sums(s, wanted))) return 1;
    int64_t n = rows / LEAST_ROWS;
    if (n > FEW_BLOCKS) n = rows / GOOD_ROWS > FEW_BLOCKS ? rows / GOOD_ROWS : FEW_BLOCKS;
    return n < 1 ? 1 : n > MOST_BLOCKS ? MOST_BLOCKS : (int)n;
}

/* Bytes of a state for a call; for each step of solves within, *step_bytes more; -1: too many. */
static int64_t bytes_of_state(const ad_scan_object *s, const ad_program *program, int nblock,
                              int64_t rows, int threads, int64_t *step_bytes)
{
    const list_bytes l = bytes_of_lists(s);
    const int64_t lists = (int64_t)(l.in + l.out + l.accumulate + l.part + l.now);
    const size_t own = ((size_t)ad_scan_results(s) + 1) * (sizeof(bool) + sizeof(int));
    int64_t bytes = (int64_t)(sizeof(scan_state) + own);
    *step_bytes = 0;
    for (int k = 0; k < nblock; k++) {
        int64_t n = first_row(rows, nblock, k + 1) - first_row(rows, nblock, k), step;
        int64_t run = ad_program_bytes(program, n, nblock == 1 ? threads : 1, &step);
        int64_t memory = deal_memory(s, NULL, n, NULL);
        bytes = ad_size_add(bytes, ad_size_add(run, ad_size_add(memory, lists)));
        *step_bytes = ad_size_add(*step_bytes, step);
    }
    return bytes;
}

void ad_scan_account(void *data, ad_opaque_account *a)
{
    ad_scan_object *s = data;
    const int n = ad_scan_results(s);
    char error[400];
    bool *wanted = calloc((size_t)n + 1, sizeof *wanted);
    for (int j = 0; wanted && j < n; j++) wanted[j] = !a->result || a->result[j] >= 0;
    const ad_program *p = wanted ? ad_scan_compile(s, wanted, error, sizeof error) : NULL;
    if (p) {
        const int nblock = count_blocks(s, wanted, a->threads, a->rows);
        a->bytes = bytes_of_state(s, p, nblock, a->rows, a->threads, &a->step_bytes);
        snprintf(a->largest, sizeof a->largest, "a step's program for %d blocks of rows", nblock);
    }
    free(wanted);
}

/* Solves within the steps find out only then what they need: the blocks share what a limit leaves.
 * Without one they have none, whatever an earlier call had. */
static int share_limit(const ad_scan_object *s, const scan_state *t, const ad_opaque_call *call)
{
    int64_t step;
    const int64_t known = call->most_bytes ? bytes_of_state(s, t->program, t->nblock, call->rows,
                                                            call->threads, &step)
                                           : -1;
    const bool limited = known >= 0 && step > 0;
    for (int k = 0; k < t->nblock; k++) {
        const scan_block *b = &t->block[k];
        const int64_t rest = call->most_bytes > known ? call->most_bytes - known : 0,
                      own = limited ? ad_program_bytes(t->program, b->rows,
                                                       t->nblock == 1 ? call->threads : 1, NULL)
                                    : 0;
        if (ad_workspace_set_limit(b->workspace, limited ? ad_size_add(own, rest / t->nblock) : 0))
            return fail(call, ad_workspace_error(b->workspace));
    }
    return 0;
}

static int reserve_all(const ad_scan_object *s, scan_state *t, const ad_opaque_call *call)
{
    int nblock = count_blocks(s, t->wanted, call->threads, call->rows);
    /* A workspace of a single block has all threads, one of several has one. */
    if ((nblock == 1) != (t->nblock == 1) && t->nblock > 0) clear_blocks(t);
    t->nblock = nblock;
    for (int k = 0; k < nblock; k++) {
        int64_t rows = first_row(call->rows, nblock, k + 1) - first_row(call->rows, nblock, k);
        if (reserve(s, t, &t->block[k], rows, nblock == 1 ? call->threads : 1, call)) return -1;
    }
    return s->opaque ? share_limit(s, t, call) : 0;
}

/* ---- a step ---- */

typedef struct {
    ad_scan_object *scan;
    const scan_state *state;
    scan_block *block;
    int number; /* of the block */
    const ad_opaque_call *call;
    int64_t first, rows, steps; /* rows from `first` on */
    size_t size;                /* of an element */
} loop;

/* A step's part of an array that is stacked. */
typedef struct {
    bool copied;
    size_t bytes; /* of a row of it, or of all of it where it has no rows */
} part;

static part part_of(const loop *l, ad_var x)
{
    ad_shape shape = ad_shape_of(x);
    return (part){ .copied = ad_has_rows(shape) && l->rows != 1,
                   .bytes = (size_t)ad_row_size(shape) * l->size };
}

/* Where the block's rows of an array begin, of which a row has so many bytes. */
static const char *rows_of(const loop *l, ad_var x, const void *array, int64_t steps)
{
    part p = part_of(l, x);
    return (const char *)array +
           (ad_has_rows(ad_shape_of(x)) ? (size_t)(l->first * steps) * p.bytes : 0);
}

static char *rows_to(const loop *l, ad_var x, void *array, int64_t steps)
{
    return array ? (char *)(uintptr_t)rows_of(l, x, array, steps) : NULL;
}

static void copy_rows(int64_t rows, size_t bytes, const char *from, size_t from_stride, char *to,
                      size_t to_stride)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + (size_t)r * to_stride, from + (size_t)r * from_stride, bytes);
}

static void read_inputs(const loop *l, int64_t k)
{
    const ad_scan_object *s = l->scan;
    scan_block *b = l->block;
    int first = s->kind.ncarry;
    for (int i = 0; i < first; i++) b->in[i] = b->now[i];
    for (int i = first; i < first + s->kind.ninput; i++) {
        part p = part_of(l, s->in[i]);
        const char *at = rows_of(l, s->in[i], l->call->in[i], l->steps) + (size_t)k * p.bytes;
        b->in[i] = at;
        if (!p.copied) continue;
        copy_rows(l->rows, p.bytes, at, p.bytes * (size_t)l->steps, b->part[i], p.bytes);
        b->in[i] = b->part[i];
    }
}

/* Where result j of the block goes in the end: its rows of the whole, or its own sum. */
static char *place_of(const loop *l, int j)
{
    const ad_scan_object *s = l->scan;
    bool own = l->number > 0 && !ad_has_rows(ad_shape_of(s->out[j]));
    if (own) return l->block->part[ad_scan_operands(s) + j];
    return rows_to(l, s->out[j], l->call->out[j], ad_scan_stacked(s, j) ? l->steps : 1);
}

/* Where outputs of the program go; `turn`: how many steps were done. */
static void point_outputs(const loop *l, int64_t k, int64_t turn)
{
    const ad_scan_object *s = l->scan;
    scan_block *b = l->block;
    int nin = ad_scan_operands(s), n = ad_scan_results(s);
    for (int o = 0; o < l->state->nout; o++) {
        int j = l->state->result[o];
        char *whole = place_of(l, j), *copy = b->part[nin + j];
        part p = part_of(l, s->out[j]);
        if (j < s->kind.ncarry) {
            bool last = turn == l->steps - 1;
            b->out[o] = last && whole ? whole : turn % 2 ? b->part[nin + n + j] : copy;
        } else if (ad_scan_stacked(s, j)) {
            b->out[o] = p.copied ? copy : whole + (size_t)k * p.bytes;
        } else {
            bool rows = ad_has_rows(ad_shape_of(s->out[j]));
            b->accumulate[o] = !rows && turn > 0;
            b->out[o] = rows && turn > 0 ? copy : whole;
        }
    }
}

static void add(ad_dtype dtype, int64_t n, const void *from, void *into)
{
    if (dtype == AD_F32)
        for (int64_t i = 0; i < n; i++) ((float *)into)[i] += ((const float *)from)[i];
    else
        for (int64_t i = 0; i < n; i++) ((double *)into)[i] += ((const double *)from)[i];
}

static void stack_carries(const loop *l, int64_t k)
{
    const ad_scan_object *s = l->scan;
    for (int i = 0; i < s->kind.ncarry; i++) {
        void *whole = l->call->out[ad_scan_first_hidden(s) + i];
        if (!whole) continue;
        part p = part_of(l, s->in[i]);
        char *to = rows_to(l, s->in[i], whole, l->steps);
        int64_t rows = ad_has_rows(ad_shape_of(s->in[i])) ? l->rows : 1;
        copy_rows(rows, p.bytes, l->block->now[i], p.bytes, to + (size_t)k * p.bytes,
                  p.bytes * (size_t)l->steps);
    }
}

static void deliver_outputs(const loop *l, int64_t k)
{
    const ad_scan_object *s = l->scan;
    scan_block *b = l->block;
    for (int o = 0; o < l->state->nout; o++) {
        int j = l->state->result[o];
        char *whole = place_of(l, j);
        part p = part_of(l, s->out[j]);
        if (j < s->kind.ncarry) {
            b->now[j] = b->out[o];
        } else if (ad_scan_stacked(s, j)) {
            if (!p.copied) continue;
            copy_rows(l->rows, p.bytes, b->out[o], p.bytes, whole + (size_t)k * p.bytes,
                      p.bytes * (size_t)l->steps);
        } else if (b->out[o] != whole) {
            add(s->kind.dtype, ad_row_size(ad_shape_of(s->out[j])) * l->rows, b->out[o], whole);
        }
    }
}

/* Writes down what a step said, the first time. */
static void note(const loop *l, int64_t k, const char *message, char *to, size_t size)
{
    const char prefix[] = "ad_run: ";
    if (!strncmp(message, prefix, sizeof prefix - 1)) message += sizeof prefix - 1;
    snprintf(to, size, "in step %lld of %lld (from 0): %s", (long long)k, (long long)l->steps,
             message);
}

static void note_result(const loop *l, int result, int64_t k, const char *message)
{
    scan_block *b = l->block;
    b->result = result;
    note(l, k, message, b->error, sizeof b->error);
}

/* ---- a run ---- */

typedef struct {
    ad_scan_object *scan;
    scan_state *state;
    const ad_opaque_call *call;
} scan_run;

/* All steps of a block. */
static void run_block(void *data, int thread, int64_t number)
{
    const scan_run *r = data;
    ad_scan_object *s = r->scan;
    scan_block *b = &r->state->block[number];
    const ad_opaque_call *call = r->call;
    int64_t first = first_row(call->rows, r->state->nblock, (int)number);
    loop l = { .scan = s,
               .state = r->state,
               .block = b,
               .number = (int)number,
               .call = call,
               .first = first,
               .rows = first_row(call->rows, r->state->nblock, (int)number + 1) - first,
               .steps = s->kind.steps,
               .size = ad_dtype_size(s->kind.dtype) };
    int ncarry = s->kind.ncarry, nin = ad_scan_operands(s);
    (void)thread;
    b->result = 0;
    b->warning[0] = 0;
    for (int i = 0; i < ncarry; i++) b->now[i] = rows_of(&l, s->in[i], call->in[i], 1);
    for (int i = ncarry + s->kind.ninput; i < nin; i++)
        b->in[i] = rows_of(&l, s->in[i], call->in[i], 1);
    for (int64_t turn = 0; turn < l.steps; turn++) {
        int64_t k = s->kind.reverse ? l.steps - 1 - turn : turn;
        read_inputs(&l, k);
        point_outputs(&l, k, turn);
        stack_carries(&l, k);
        ad_run_args args = { .rows = l.rows,
                             .inputs = b->in,
                             .outputs = b->out,
                             .accumulate = b->accumulate,
                             .defer = true,
                             .refine = call->refine,
                             .same_parameters = turn > 0,
                             .warns = call->warning != NULL };
        if (ad_run_with(r->state->program, b->workspace, &args)) {
            note_result(&l, -1, k, ad_workspace_error(b->workspace));
            break;
        }
        const char *why = b->result ? NULL : ad_workspace_outside(b->workspace);
        if (why) note_result(&l, 1, k, why);
        const char *doubt = b->warning[0] ? NULL : ad_workspace_warning(b->workspace);
        if (doubt) note(&l, k, doubt, b->warning, sizeof b->warning);
        deliver_outputs(&l, k);
    }
    ad_run_deliver(b->workspace);
}

/* Adds the sums of the blocks, in their order. */
static void add_sums(const ad_scan_object *s, const scan_state *t, const ad_opaque_call *call)
{
    for (int j = ad_scan_first_sum(s); j < ad_scan_first_hidden(s); j++) {
        ad_shape shape = ad_shape_of(s->out[j]);
        if (!call->out[j] || ad_has_rows(shape)) continue;
        for (int k = 1; k < t->nblock; k++)
            add(s->kind.dtype, ad_row_size(shape), t->block[k].part[ad_scan_operands(s) + j],
                call->out[j]);
    }
}

int ad_scan_forward(void *data, void *state, const ad_opaque_call *call)
{
    ad_scan_object *s = data;
    scan_state *t = state;
    if (choose_program(s, t, call) || reserve_all(s, t, call)) return -1;
    scan_run r = { s, t, call };
    double work =
        (double)ad_program_bytes_per_row(t->program) * (double)call->rows * (double)s->kind.steps;
    ad_share(call->threads, work, t->nblock, run_block, &r);
    int result = 0;
    for (int k = 0; k < t->nblock && result >= 0; k++) {
        const scan_block *b = &t->block[k];
        if (call->warning && b->warning[0] && !call->warning[0])
            snprintf(call->warning, call->error_size, "%s", b->warning);
        if (b->result == 0 || (b->result > 0 && result > 0)) continue;
        result = b->result;
        snprintf(call->error, call->error_size, "%s", b->error);
    }
    if (result >= 0) add_sums(s, t, call);
    return result;
}
