/* The tape: nodes in chunks (their addresses stay), an arena for operand lists and attributes,
 * sticky errors, the program cache. */
#include "autodiff/tape/tape.h"
#include "autodiff/base/isa.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { NODES_PER_CHUNK = 512, ARENA_CHUNK = 1 << 16, ERROR_SIZE = 1024, MOST_ABOUT = 4 };
enum {
    NODE_LIMIT = 10000000 /* about 3 GB */,
    CACHED = 128 /* objects; a solve's programs take 100 to 400 kB */
};

typedef struct cache_entry {
    struct cache_entry *next;
    void *object;
    void (*release)(void *);
    uint64_t hash;
    size_t length;
    unsigned char key[];
} cache_entry;

/* Arena positions are global offsets: chunk k holds [base[k], base[k] + size[k]). */
typedef struct arena_chunk {
    char *bytes;
    size_t base, size;
} arena_chunk;

struct ad_tape {
    ad_dtype dtype;
    uint32_t epoch;
    int32_t nnode, limit;
    int32_t chunk_count, chunk_capacity;
    ad_node **chunks;
    int32_t valued; /* the first of the computed nodes that hold a value, as a number + 1 */
    int arena_count, arena_capacity;
    int arena_at; /* the chunk that holds the end of what is used */
    arena_chunk *arena;
    size_t arena_used;
    int64_t rows, given_rows; /* given: by ad_tape_set_rows, or -1 */
    int refine;
    cache_entry *cache; /* the one used last comes first */
    int cached;
    char *marks;
    size_t mark_count;
    char *advice;
    int held;           /* evaluations under way */
    int32_t held_nodes; /* how many nodes there were when the first of them began */
    void (*on_error)(const char *text, void *user);
    void *on_error_user;
    int nabout;
    int32_t about[MOST_ABOUT];
    bool failed;
    char error[ERROR_SIZE];
};

ad_tape *ad_tape_new(ad_dtype dtype)
{
    ad_tape *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->dtype = dtype;
    t->epoch = 1;
    t->limit = NODE_LIMIT;
    t->rows = t->given_rows = -1;
    const char *error;
    ad_isa(&error);
    if (error) ad_fail(t, "COSTATE_ISA=%s: %s", getenv("COSTATE_ISA"), error);
    return t;
}

static void forget_node(ad_node *n)
{
    free(n->value);
    if (n->op == AD_OP_opaque) {
        if (n->state && n->class_->state_free) n->class_->state_free(n->state);
        if (n->class_->release) n->class_->release(n->opaque);
    }
}

void ad_tape_free(ad_tape *t)
{
    if (!t) return;
    for (int32_t i = t->nnode - 1; i >= 0; i--) forget_node(ad_node_at(t, i));
    for (int32_t i = 0; i < t->chunk_count; i++) free(t->chunks[i]);
    free(t->chunks);
    for (int i = 0; i < t->arena_count; i++) free(t->arena[i].bytes);
    free(t->arena);
    while (t->cache) {
        cache_entry *e = t->cache;
        t->cache = e->next;
        if (e->release) e->release(e->object);
        free(e);
    }
    free(t->marks);
    free(t->advice);
    free(t);
}

ad_dtype ad_tape_dtype(const ad_tape *t) { return t ? t->dtype : AD_F64; }
const char *ad_tape_error(const ad_tape *t)
{
    return !t ? "no tape (out of memory?)" : t->failed ? t->error : NULL;
}
void ad_tape_clear_error(ad_tape *t)
{
    if (t) t->failed = false;
}
int32_t ad_tape_mark(const ad_tape *t) { return t ? t->nnode : 0; }
int64_t ad_tape_rows(const ad_tape *t) { return t ? t->rows : -1; }
int32_t ad_tape_size(const ad_tape *t) { return t->nnode; }

void ad_tape_set_limit(ad_tape *t, int32_t operations)
{
    if (!t) return;
    if (operations < 0)
        ad_fail(t, "ad_tape_set_limit: %d operations; 0 is the default", (int)operations);
    else t->limit = operations ? operations : NODE_LIMIT;
}

ad_node *ad_node_at(const ad_tape *t, int32_t i)
{
    return &t->chunks[i / NODES_PER_CHUNK][i % NODES_PER_CHUNK];
}

void ad_tape_note_value(ad_tape *t, int32_t i)
{
    ad_node *n = ad_node_at(t, i);
    if (n->listed) return;
    n->listed = true;
    n->before = 0;
    n->after = t->valued;
    if (n->after) ad_node_at(t, n->after - 1)->before = i + 1;
    t->valued = i + 1;
}

static void leave_list(ad_tape *t, ad_node *n)
{
    if (!n->listed) return;
    n->listed = false;
    if (n->after) ad_node_at(t, n->after - 1)->before = n->before;
    if (n->before) ad_node_at(t, n->before - 1)->after = n->after;
    else t->valued = n->after;
}

/* Forgets all computed values. Those with rows are freed: there may be another number of them. What
 * is forgotten already is not looked at again, however long the tape is. */
static void forget_values(ad_tape *t)
{
    while (t->valued) {
        ad_node *n = ad_node_at(t, t->valued - 1);
        leave_list(t, n);
        if (ad_has_rows(n->shape)) {
            free(n->value);
            n->value = NULL;
        }
        n->known = false;
    }
}

/* The tape has lost row inputs: the number of rows is that of the first that is left. */
static void rows_of_first_input(ad_tape *t)
{
    int64_t rows = t->given_rows;
    for (int32_t i = 0; i < t->nnode && rows < 0; i++) {
        const ad_node *n = ad_node_at(t, i);
        if (n->op == AD_OP_input && n->known && ad_has_rows(n->shape)) rows = n->rows;
    }
    if (rows != t->rows) forget_values(t);
    t->rows = rows;
}

int ad_tape_set_rows(ad_tape *t, int64_t rows)
{
    if (!t || t->failed || (rows != t->rows && ad_tape_is_held(t, "ad_tape_set_rows"))) return -1;
    if (rows < 1 || rows >= (int64_t)1 << AD_MAX_ELEMENTS_SHIFT) {
        ad_fail(t, "ad_tape_set_rows: %lld rows %s", (long long)rows,
                rows < 1 ? "given; there is at least one" : "are too many");
        return -1;
    }
    int64_t before = t->given_rows;
    t->given_rows = -1;
    rows_of_first_input(t);
    if (t->rows >= 0 && t->rows != rows) {
        t->given_rows = before;
        ad_fail(t,
                "ad_tape_set_rows: %lld rows, but the row inputs of this tape have %lld (ad_set "
                "gives them others)",
                (long long)rows, (long long)t->rows);
        return -1;
    }
    if (t->rows != rows) forget_values(t);
    t->rows = t->given_rows = rows;
    return 0;
}

void ad_tape_hold(ad_tape *t)
{
    if (!t->held++) t->held_nodes = t->nnode;
}

void ad_tape_release(ad_tape *t) { t->held--; }

bool ad_tape_is_held(ad_tape *t, const char *what)
{
    if (t->held)
        ad_fail(t,
                "%s: this tape is being evaluated: a field of one of its solves (options.rerecord) "
                "must leave what it has alone",
                what);
    return t->held != 0;
}

void ad_tape_rewind(ad_tape *t, int32_t mark)
{
    if (!t || (mark < t->held_nodes && ad_tape_is_held(t, "ad_tape_rewind"))) return;
    if (mark < 0 || mark > t->nnode) {
        ad_fail(t, "ad_tape_rewind: mark %d is not a position of this tape, which has %d nodes",
                (int)mark, (int)t->nnode);
        return;
    }
    if (mark == t->nnode) return;
    bool rows_change = false;
    for (int32_t i = t->nnode - 1; i >= mark; i--) {
        const ad_node *n = ad_node_at(t, i);
        rows_change = rows_change || (n->op == AD_OP_input && n->known && ad_has_rows(n->shape));
        leave_list(t, ad_node_at(t, i));
        forget_node(ad_node_at(t, i));
    }
    t->arena_used = ad_node_at(t, mark)->arena_mark;
    while (t->arena_at > 0 && t->arena[t->arena_at].base > t->arena_used) t->arena_at--;
    t->nnode = mark;
    t->epoch++;
    if (rows_change) rows_of_first_input(t);
}

void ad_fail(ad_tape *t, const char *format, ...)
{
    if (!t || t->failed) return;
    va_list args;
    va_start(args, format);
    vsnprintf(t->error, sizeof t->error, format ? format : "ad_fail: the format is NULL", args);
    va_end(args);
    t->failed = true;
    ad_report(t, t->error, t->nabout, t->about, t->on_error, t->on_error_user);
}

void ad_tape_on_error(ad_tape *t, void (*report)(const char *text, void *user), void *user)
{
    if (!t) return;
    t->on_error = report;
    t->on_error_user = user;
}

void ad_tape_about(ad_tape *t, int n, const ad_var *x)
{
    t->nabout = 0;
    for (int i = 0; i < n && t->nabout < MOST_ABOUT; i++)
        if (ad_valid(x[i])) t->about[t->nabout++] = x[i].node;
}

ad_var ad_none(ad_tape *t) { return (ad_var){ t, -1, 0 }; }

ad_var ad_fail_shapes(ad_tape *t, const char *op, const char *reason, int n, const ad_var *x)
{
    char text[ERROR_SIZE];
    size_t used = (size_t)snprintf(text, sizeof text, "ad_%s: %s", op, reason);
    for (int i = 0; i < n && used < sizeof text; i++) {
        char shape[128];
        ad_format_shape(ad_shape_of(x[i]), shape, sizeof shape);
        if (n == 1)
            used += (size_t)snprintf(text + used, sizeof text - used, ": the operand is %s", shape);
        else
            used += (size_t)snprintf(text + used, sizeof text - used, "%s %c is %s", i ? "," : ":",
                                     'a' + i % 26, shape);
    }
    ad_tape_about(t, n, x);
    ad_fail(t, "%s", text);
    ad_tape_about(t, 0, NULL);
    return ad_none(t);
}

/* ---- arena ---- */

static bool arena_grow(ad_tape *t, size_t bytes)
{
    if (t->arena_count == t->arena_capacity) {
        int capacity = t->arena_capacity ? 2 * t->arena_capacity : 8;
        arena_chunk *more = realloc(t->arena, (size_t)capacity * sizeof *more);
        if (!more) return false;
        t->arena = more;
        t->arena_capacity = capacity;
    }
    arena_chunk *last = t->arena_count ? &t->arena[t->arena_count - 1] : NULL;
    arena_chunk *c = &t->arena[t->arena_count];
    c->size = bytes > ARENA_CHUNK ? bytes : ARENA_CHUNK;
    c->base = last ? last->base + last->size : 0;
    c->bytes = malloc(c->size);
    if (!c->bytes) return false;
    t->arena_count++;
    return true;
}

void *ad_arena_alloc(ad_tape *t, size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    /* The chunk that holds the end of what is used, or the first chunk after it that is large
     * enough. */
    for (int k = t->arena_at; k < t->arena_count; k++) {
        arena_chunk *c = &t->arena[k];
        size_t at = t->arena_used > c->base ? t->arena_used : c->base;
        if (at + bytes > c->base + c->size) continue;
        t->arena_at = k;
        t->arena_used = at + bytes;
        return c->bytes + (at - c->base);
    }
    if (!arena_grow(t, bytes)) {
        ad_fail(t, "out of memory on the tape (%zu bytes)", bytes);
        return NULL;
    }
    t->arena_at = t->arena_count - 1;
    arena_chunk *c = &t->arena[t->arena_at];
    t->arena_used = c->base + bytes;
    return c->bytes;
}

/* ---- nodes ---- */

static bool add_chunk(ad_tape *t)
{
    if (t->chunk_count == t->chunk_capacity) {
        int32_t capacity = t->chunk_capacity ? 2 * t->chunk_capacity : 8;
        ad_node **more = realloc(t->chunks, (size_t)capacity * sizeof *more);
        if (!more) return false;
        t->chunks = more;
        t->chunk_capacity = capacity;
    }
    ad_node *chunk = malloc(NODES_PER_CHUNK * sizeof *chunk);
    if (!chunk) return false;
    t->chunks[t->chunk_count++] = chunk;
    return true;
}

/* Room for one more; NULL with the error set. */
static ad_node *new_node(ad_tape *t, ad_op op)
{
    if (t->nnode >= t->limit) {
        ad_fail(t,
                "ad_%s: the tape holds %d operations, its limit: a loop that records has to forget "
                "each time what it does not need any "
                "more (ad_tape_mark before, ad_tape_rewind after), or to compile it once "
                "(ad_compile); ad_tape_set_limit allows more",
                ad_ops[op].name, (int)t->nnode);
        return NULL;
    }
    if (t->nnode == t->chunk_count * NODES_PER_CHUNK && !add_chunk(t)) {
        ad_fail(t, "ad_%s: out of memory on the tape (node %d)", ad_ops[op].name, (int)t->nnode);
        return NULL;
    }
    return ad_node_at(t, t->nnode);
}

static ad_level level_of(const ad_tape *t, ad_op op, int nin, const int32_t *in,
                         const int64_t *attr, ad_shape shape)
{
    if (ad_has_rows(shape)) return AD_LEVEL_ROW;
    if (op == AD_OP_input) return (ad_level)attr[0];
    if (op == AD_OP_row_count) return AD_LEVEL_CALL;
    ad_level level = AD_LEVEL_CONSTANT;
    for (int i = 0; i < nin; i++) {
        ad_level l = ad_node_at(t, in[i])->level;
        if (l > level) level = l;
    }
    return level;
}

ad_var ad_record(ad_tape *t, ad_op op, int nin, const int32_t *in, int nattr, const int64_t *attr,
                 ad_shape shape)
{
    if (t->failed || (op != AD_OP_opaque && !ad_check_shape(t, ad_ops[op].name, shape)))
        return ad_none(t);
    size_t mark = t->arena_used;
    int32_t *ins = nin ? ad_arena_alloc(t, (size_t)nin * sizeof *ins) : NULL;
    int64_t *attrs = nattr ? ad_arena_alloc(t, (size_t)nattr * sizeof *attrs) : NULL;
    if ((nin && !ins) || (nattr && !attrs)) return ad_none(t);
    ad_node *n = new_node(t, op);
    if (!n) return ad_none(t);
    if (nin) memcpy(ins, in, (size_t)nin * sizeof *ins);
    if (nattr) memcpy(attrs, attr, (size_t)nattr * sizeof *attrs);
    *n = (ad_node){ .op = op,
                    .epoch = t->epoch,
                    .nin = nin,
                    .nattr = nattr,
                    .in = ins,
                    .attr = attrs,
                    .shape = shape,
                    .level = level_of(t, op, nin, in, attr, shape),
                    .arena_mark = mark };
    return ad_var_at(t, t->nnode++);
}

ad_var ad_var_at(ad_tape *t, int32_t i) { return (ad_var){ t, i, ad_node_at(t, i)->epoch }; }

bool ad_valid(ad_var x)
{
    return x.tape && x.node >= 0 && x.node < x.tape->nnode &&
           ad_node_at(x.tape, x.node)->epoch == x.epoch && !x.tape->failed;
}

/* What is wrong with x for a call on tape t; NULL: nothing. */
static const char *fault_of(const ad_tape *t, ad_var x)
{
    if (!x.tape) return "is not a variable";
    if (x.tape != t)
        return "is on another tape; a function that is traced on a tape of its own must get "
               "outside variables as arguments (args)";
    if (x.node < 0) return "is an invalid variable";
    if (!ad_valid(x))
        return "is stale: it was recorded after a mark to which the tape has been rewound";
    return NULL;
}

static void report_fault(ad_tape *t, const char *what, const char *place, ad_var x,
                         const char *fault)
{
    ad_fail(t, "ad_%s: %s %s", what, place, fault);
    if (x.tape && x.tape != t)
        ad_fail(x.tape,
                "ad_%s: mixes variables of this tape with those of another; pass them as arguments "
                "(args)",
                what);
}

static bool is_token(ad_tape *t, const char *what, const char *place, ad_var x)
{
    const ad_node *node = ad_node_at(t, x.node);
    if (node->op != AD_OP_opaque) return false;
    ad_fail(t, "ad_%s: %s is the token of %s, which has no value", what, place, ad_node_name(node));
    return true;
}

ad_tape *ad_common_tape_tokens(const char *what, int n, const ad_var *x)
{
    ad_tape *t = NULL;
    for (int i = 0; x && i < n && !t; i++) t = x[i].tape;
    if (!t && n > 0) {
        char text[96];
        snprintf(text, sizeof text, "ad_%s: no operand is a variable of a tape", what);
        ad_report(NULL, text, 0, NULL, NULL, NULL);
    }
    if (!t || t->failed) return NULL;
    for (int i = 0; i < n; i++) {
        const char *fault = fault_of(t, x[i]);
        if (!fault) continue;
        char place[32];
        snprintf(place, sizeof place, "operand %d", i);
        report_fault(t, what, place, x[i], fault);
        return NULL;
    }
    return t;
}

ad_tape *ad_common_tape(const char *what, int n, const ad_var *x)
{
    ad_tape *t = ad_common_tape_tokens(what, n, x);
    for (int i = 0; t && i < n; i++) {
        if (ad_node_at(t, x[i].node)->op != AD_OP_opaque) continue;
        char place[32];
        snprintf(place, sizeof place, "operand %d", i);
        if (is_token(t, what, place, x[i])) return NULL;
    }
    return t;
}

static bool check_list(ad_tape *t, const char *what, const ad_list *l)
{
    if (l->n < 0) ad_fail(t, "ad_%s: the list of %s has %d variables", what, l->name, l->n);
    else if (l->n > 0 && !l->x) ad_fail_null(t, what, l->name);
    if (l->n < 0 || (l->n > 0 && !l->x)) return false;
    for (int i = 0; i < l->n; i++) {
        const char *fault = fault_of(t, l->x[i]);
        if (!fault && ad_node_at(t, l->x[i].node)->op != AD_OP_opaque) continue;
        char place[48];
        snprintf(place, sizeof place, l->alone ? "%s" : "%s[%d]", l->name, i);
        if (fault) report_fault(t, what, place, l->x[i], fault);
        if (fault || is_token(t, what, place, l->x[i])) return false;
    }
    return true;
}

ad_tape *ad_lists_tape(const char *what, int nlist, const ad_list *lists)
{
    ad_tape *t = NULL;
    for (int k = 0; k < nlist; k++)
        for (int i = 0; lists[k].x && i < lists[k].n && !t; i++) t = lists[k].x[i].tape;
    if (!t || t->failed) return NULL;
    for (int k = 0; k < nlist; k++)
        if (!check_list(t, what, &lists[k])) return NULL;
    return t;
}

void ad_fail_null(ad_tape *t, const char *what, const char *argument)
{
    ad_fail(t, "ad_%s: %s is NULL", what, argument);
}

ad_shape ad_shape_of(ad_var x)
{
    if (!ad_valid(x)) return (ad_shape){ -1, { 0 } };
    return ad_node_at(x.tape, x.node)->shape;
}

int64_t ad_size(ad_var x)
{
    if (!ad_valid(x)) return -1;
    ad_shape s = ad_shape_of(x);
    if (s.rank < 0 || (ad_has_rows(s) && x.tape->rows < 0)) return -1;
    if (ad_has_rows(s) && x.tape->rows >= ((int64_t)1 << AD_MAX_ELEMENTS_SHIFT) / ad_row_size(s))
        return -1;
    return ad_count(s, x.tape->rows);
}

char *ad_tape_marks(ad_tape *t)
{
    size_t need = (size_t)t->nnode + 1;
    if (need <= t->mark_count) return t->marks;
    free(t->marks);
    t->mark_count = 0;
    t->marks = calloc(2 * need, 1);
    if (t->marks) t->mark_count = 2 * need;
    return t->marks;
}

/* ---- sources ---- */

/* The shape of a source that has rows, or has none. */
static bool check_source(ad_tape *t, const char *what, ad_shape s, bool rows)
{
    if (!ad_check_shape(t, what, s)) return false;
    if (ad_has_rows(s) == rows) return true;
    char text[128];
    ad_format_shape(s, text, sizeof text);
    if (rows) ad_fail(t, "ad_%s: the shape must begin with AD_ROWS, it is %s", what, text);
    else ad_fail(t, "ad_%s: %s has the row axis, which ad_input_rows declares", what, text);
    return false;
}

void ad_convert(int64_t n, ad_dtype from, const void *data, ad_dtype to, void *out)
{
    if (from == to) memcpy(out, data, (size_t)n * ad_dtype_size(to));
    else if (to == AD_F32)
        for (int64_t i = 0; i < n; i++) ((float *)out)[i] = (float)((const double *)data)[i];
    else
        for (int64_t i = 0; i < n; i++) ((double *)out)[i] = ((const float *)data)[i];
}

static int set_input(ad_var x, const char *what, int64_t rows, ad_dtype dtype, const void *data)
{
    ad_tape *t = x.tape;
    ad_node *n = ad_node_at(t, x.node);
    if (ad_has_rows(n->shape)) {
        if (rows < 1) {
            ad_fail(t, "ad_%s: the batch is empty (rows = %lld)", what, (long long)rows);
            return -1;
        }
        if (rows >= ((int64_t)1 << AD_MAX_ELEMENTS_SHIFT) / ad_row_size(n->shape)) {
            ad_fail(t, "ad_%s: %lld rows are too many", what, (long long)rows);
            return -1;
        }
    }
    int64_t count = ad_count(n->shape, rows);
    size_t bytes = (size_t)count * ad_dtype_size(t->dtype);
    void *value = malloc(bytes);
    if (!value) {
        ad_fail(t, "ad_%s: out of memory (%zu bytes)", what, bytes);
        return -1;
    }
    ad_convert(count, dtype, data, t->dtype, value);
    free(n->value);
    n->value = value;
    n->known = true;
    if (ad_has_rows(n->shape)) {
        t->rows = n->rows = rows;
        if (t->given_rows >= 0) t->given_rows = rows;
    }
    return 0;
}

static ad_var new_input(ad_tape *t, const char *what, ad_level level, ad_shape shape, int64_t rows,
                        ad_dtype dtype, const void *data)
{
    if (!t || t->failed || !check_source(t, what, shape, level == AD_LEVEL_ROW)) return ad_none(t);
    if (level == AD_LEVEL_ROW && data && t->rows >= 0 && t->rows != rows) {
        ad_fail(t, "ad_%s: %lld rows, but the other row inputs of this tape have %lld", what,
                (long long)rows, (long long)t->rows);
        return ad_none(t);
    }
    ad_var x = ad_record(t, AD_OP_input, 0, NULL, 1, (int64_t[]){ level }, shape);
    if (ad_valid(x) && data && set_input(x, what, rows, dtype, data)) return ad_none(t);
    return x;
}

ad_var ad_param_data(ad_tape *t, ad_shape shape, ad_dtype dtype, const void *data)
{
    return new_input(t, "param", AD_LEVEL_PARAMETER, shape, 0, dtype, data);
}

ad_var ad_input_data(ad_tape *t, ad_shape shape, ad_dtype dtype, const void *data)
{
    return new_input(t, "input", AD_LEVEL_CALL, shape, 0, dtype, data);
}

ad_var ad_input_rows_data(ad_tape *t, ad_shape shape, int64_t rows, ad_dtype dtype,
                          const void *data)
{
    return new_input(t, "input_rows", AD_LEVEL_ROW, shape, rows, dtype, data);
}

int ad_set_data(ad_var x, int64_t rows, ad_dtype dtype, const void *data)
{
    ad_tape *t = ad_common_tape("set", 1, &x);
    if (!t) return -1;
    ad_node *n = ad_node_at(t, x.node);
    if (n->op != AD_OP_input || !data) {
        ad_fail(t,
                n->op != AD_OP_input
                    ? "ad_set: the variable is the result of ad_%s; only inputs can be set"
                    : "ad_set: no data (NULL) for ad_%s",
                ad_ops[n->op].name);
        return -1;
    }
    if (ad_tape_is_held(t, "ad_set")) return -1;
    forget_values(t);
    return set_input(x, "set", rows, dtype, data);
}

static ad_var new_constant(ad_tape *t, ad_op op, ad_shape shape, int64_t n, ad_dtype dtype,
                           const void *data)
{
    ad_var x = ad_record(t, op, 0, NULL, 0, NULL, shape);
    if (!ad_valid(x)) return x;
    double *copy = ad_arena_alloc(t, (size_t)n * sizeof *copy);
    if (!copy) return ad_none(t);
    ad_convert(n, dtype, data, AD_F64, copy);
    ad_node *node = ad_node_at(t, x.node);
    node->data = copy;
    node->ndata = n;
    return x;
}

ad_var ad_constant_data(ad_tape *t, ad_shape shape, ad_dtype dtype, const void *data)
{
    if (!t || t->failed || !check_source(t, "constant", shape, false)) return ad_none(t);
    if (!data) ad_fail(t, "ad_constant: no data (NULL)");
    return t->failed ? ad_none(t)
                     : new_constant(t, AD_OP_constant, shape, ad_count(shape, 0), dtype, data);
}

ad_var ad_fill(ad_tape *t, ad_shape shape, double value)
{
    if (!t || t->failed || !ad_check_shape(t, "fill", shape)) return ad_none(t);
    return new_constant(t, AD_OP_fill, shape, 1, AD_F64, &value);
}

ad_var ad_scalar(ad_tape *t, double value) { return ad_fill(t, AD_SCALAR, value); }

ad_var ad_eye(ad_tape *t, int64_t n, int64_t m, int64_t offset)
{
    if (!t || t->failed || !check_source(t, "eye", AD_SHAPE(n, m), false)) return ad_none(t);
    if (offset >= m || offset <= -n) return ad_fill(t, AD_SHAPE(n, m), 0);
    return ad_record(t, AD_OP_eye, 0, NULL, 1, &offset, AD_SHAPE(n, m));
}

ad_var ad_row_count(ad_tape *t)
{
    if (!t || t->failed) return ad_none(t);
    return ad_record(t, AD_OP_row_count, 0, NULL, 0, NULL, AD_SCALAR);
}

const double *ad_constant_elements(ad_var x)
{
    return ad_valid(x) ? ad_node_at(x.tape, x.node)->data : NULL;
}

int64_t ad_constant_size(ad_var x) { return ad_valid(x) ? ad_node_at(x.tape, x.node)->ndata : 0; }

/* ---- tracing and cache ---- */

void ad_tape_set_refine(ad_tape *t, int refine)
{
    for (int32_t i = 0; i < t->nnode; i++) {
        ad_node *n = ad_node_at(t, i);
        n->known = n->known && n->op == AD_OP_input;
    }
    t->refine = refine;
}

int ad_tape_refine(const ad_tape *t) { return t->refine; }

void ad_tape_set_traced(ad_tape *t, const char *advice)
{
    if (!t) return;
    size_t n = advice ? strlen(advice) + 1 : 0;
    free(t->advice);
    t->advice = n ? malloc(n) : NULL;
    if (t->advice) memcpy(t->advice, advice, n);
}

const char *ad_tape_advice(const ad_tape *t) { return t->advice; }

static uint64_t hash_of(const unsigned char *key, size_t length)
{
    uint64_t h = length;
    for (; length >= 8; key += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, key, sizeof word);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    for (; length; key++, length--) h = (h ^ *key) * 0x9e3779b97f4a7c15u;
    return h;
}

void *ad_cache_find(ad_tape *t, const void *key, size_t length)
{
    if (!t || !key) return NULL;
    uint64_t hash = hash_of(key, length);
    for (cache_entry **at = &t->cache; *at; at = &(*at)->next) {
        cache_entry *e = *at;
        if (e->hash != hash || e->length != length || memcmp(e->key, key, length)) continue;
        *at = e->next;
        e->next = t->cache;
        t->cache = e;
        return e->object;
    }
    return NULL;
}

/* Drops the entry that was not used for the longest time. */
static void drop_oldest(ad_tape *t)
{
    cache_entry **at = &t->cache;
    while ((*at)->next) at = &(*at)->next;
    cache_entry *oldest = *at;
    *at = NULL;
    t->cached--;
    if (oldest->release) oldest->release(oldest->object);
    free(oldest);
}

void ad_cache_add(ad_tape *t, const void *key, size_t length, void *object, void (*release)(void *))
{
    cache_entry *e = t && key ? malloc(sizeof *e + length) : NULL;
    if (!e) {
        if (release) release(object);
        if (key) ad_fail(t, "out of memory in the tape's cache");
        else ad_fail(t, "ad_cache_add: the key is NULL");
        return;
    }
    if (t->cached == CACHED) drop_oldest(t);
    *e = (cache_entry){ .next = t->cache,
                        .object = object,
                        .release = release,
                        .hash = hash_of(key, length),
                        .length = length };
    memcpy(e->key, key, length);
    t->cache = e;
    t->cached++;
}
