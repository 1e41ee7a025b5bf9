/* The intermediate representation of programs: values in order, equal ones shared (hash table),
 * rewritten as a whole by rules. */
#include "autodiff/compile/ir.h"
#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

bool ad_ir_init(ad_ir *ir, ad_pool *pool, ad_dtype dtype, int32_t capacity)
{
    *ir = (ad_ir){
        .pool = pool, .dtype = dtype, .capacity = capacity < 16 ? 16 : capacity, .table_size = 64
    };
    while (ir->table_size < 2 * ir->capacity) ir->table_size *= 2;
    ir->inst = calloc((size_t)ir->capacity, sizeof *ir->inst);
    ir->table = calloc((size_t)ir->table_size, sizeof *ir->table);
    if (!ir->inst || !ir->table) ad_ir_clear(ir);
    return ir->inst != NULL;
}

void ad_ir_clear(ad_ir *ir)
{
    free(ir->inst);
    free(ir->table);
    ir->inst = NULL;
    ir->table = NULL;
}

static void *copied(ad_ir *ir, size_t bytes, const void *from)
{
    void *p = ad_pool_alloc(ir->pool, bytes ? bytes : 1);
    if (!p) ir->failed = true;
    else if (from && bytes) memcpy(p, from, bytes);
    return p;
}

int32_t *ad_ir_ints(ad_ir *ir, int n, const int32_t *from)
{
    return copied(ir, (size_t)n * sizeof *from, from);
}
int64_t *ad_ir_longs(ad_ir *ir, int n, const int64_t *from)
{
    return copied(ir, (size_t)n * sizeof *from, from);
}

static uint64_t mix(uint64_t h, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    for (; bytes >= 8; p += 8, bytes -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    for (; bytes; p++, bytes--) h = (h ^ *p) * 0x100000001b3u;
    return h;
}

static uint64_t hash(const ad_inst *x)
{
    uint64_t h = (uint64_t)x->op * 0xd6e8feb86659fd93u + (uint64_t)x->nin;
    h = mix(h, x->in, (size_t)x->nin * sizeof *x->in);
    h = mix(h, x->attr, (size_t)x->nattr * sizeof *x->attr);
    if (x->shape.rank > 0) h = mix(h, x->shape.dim, (size_t)x->shape.rank * sizeof *x->shape.dim);
    return mix(h, x->data, (size_t)x->ndata * sizeof *x->data);
}

static bool equal_bytes(const void *a, const void *b, size_t bytes)
{
    return bytes == 0 || a == b || memcmp(a, b, bytes) == 0;
}

/* Operations with a state, or which may do anything, are never shared. Data are compared by bits,
 * so that -0 is not 0. */
static bool equal(const ad_inst *a, const ad_inst *b)
{
    return a->op == b->op && ad_ops[a->op].kind != AD_OPAQUE && a->nin == b->nin &&
           a->nattr == b->nattr && a->ndata == b->ndata && ad_same_shape(a->shape, b->shape) &&
           equal_bytes(a->in, b->in, (size_t)a->nin * sizeof *a->in) &&
           equal_bytes(a->attr, b->attr, (size_t)a->nattr * sizeof *a->attr) &&
           equal_bytes(a->data, b->data, (size_t)a->ndata * sizeof *a->data);
}

static ad_level level_of(const ad_ir *ir, const ad_inst *x)
{
    if (x->op == AD_OP_input) return (ad_level)x->attr[0];
    if (ad_has_rows(x->shape)) return AD_LEVEL_ROW;
    /* Opaque operations are told the number of rows, whatever their operands. */
    ad_level level =
        x->op == AD_OP_row_count || x->op == AD_OP_opaque ? AD_LEVEL_CALL : AD_LEVEL_CONSTANT;
    for (int i = 0; i < x->nin; i++)
        if (ir->inst[x->in[i]].level > level) level = ir->inst[x->in[i]].level;
    return level;
}

static bool grow_values(ad_ir *ir)
{
    ad_inst *more = realloc(ir->inst, 2 * (size_t)ir->capacity * sizeof *more);
    if (!more) return false;
    ir->inst = more;
    ir->capacity *= 2;
    return true;
}

static bool grow(ad_ir *ir)
{
    if (!grow_values(ir)) return false;
    int32_t size = 2 * ir->table_size;
    ad_ir_entry *table = calloc((size_t)size, sizeof *table);
    if (!table) return false;
    for (int32_t i = 0; i < ir->table_size; i++) {
        if (!ir->table[i].number) continue;
        uint32_t at = ir->table[i].hash;
        while (table[at & (uint32_t)(size - 1)].number) at++;
        table[at & (uint32_t)(size - 1)] = ir->table[i];
    }
    free(ir->table);
    ir->table = table;
    ir->table_size = size;
    return true;
}

int32_t ad_ir_add(ad_ir *ir, const ad_inst *x)
{
    if (ir->failed) return 0;
    AD_ASSERT(ir->table);
    for (int k = 0; k < x->nin; k++) AD_ASSERT(x->in[k] >= 0 && x->in[k] < ir->n);
    if (ir->n == ir->capacity && !grow(ir)) {
        ir->failed = true;
        return 0;
    }
    uint32_t mask = (uint32_t)(ir->table_size - 1);
    uint32_t own = (uint32_t)(hash(x) >> 32);
    uint32_t at = own;
    for (; ir->table[at & mask].number; at++) {
        const ad_ir_entry *found = &ir->table[at & mask];
        if (found->hash == own && equal(&ir->inst[found->number - 1], x)) return found->number - 1;
    }
    ir->table[at & mask] = (ad_ir_entry){ ir->n + 1, own };
    ir->inst[ir->n] = *x;
    ir->inst[ir->n].level = level_of(ir, x);
    ir->inst[ir->n].uses = 0;
    return ir->n++;
}

int32_t ad_ir_copy(ad_ir *ir, int32_t value)
{
    AD_ASSERT(!ir->table);
    if (ir->n == ir->capacity && !grow_values(ir)) return -1;
    ir->inst[ir->n] = ir->inst[value];
    return ir->n++;
}

int32_t ad_make_fill(ad_ir *ir, ad_shape shape, double value)
{
    ad_inst x = { .op = AD_OP_fill, .shape = shape, .ndata = 1 };
    double *data = ad_pool_alloc(ir->pool, sizeof *data);
    if (!data) ir->failed = true;
    else *data = value;
    x.data = data;
    return ad_ir_add(ir, &x);
}

bool ad_inst_reduces(const ad_ir *ir, const ad_inst *x)
{
    if (ad_has_rows(x->shape) || !ad_has_trait(x->op, AD_REDUCES)) return false;
    for (int i = 0; i < x->nin; i++)
        if (ad_has_rows(ir->inst[x->in[i]].shape)) return true;
    return false;
}

/* ---- rewriting ---- */

void ad_ir_count_uses(ad_ir *ir)
{
    for (int32_t i = 0; i < ir->n; i++) ir->inst[i].uses = 0;
    for (int32_t i = 0; i < ir->n; i++)
        for (int k = 0; k < ir->inst[i].nin; k++) ir->inst[ir->inst[i].in[k]].uses++;
    for (int j = 0; j < ir->noutput; j++) ir->inst[ir->output[j]].uses++;
}

/* The operands of x by their new numbers; NULL: memory is short. */
static const int32_t *renumbered(ad_ir *ir, const ad_inst *x, const int32_t *map)
{
    bool same = true;
    for (int k = 0; k < x->nin; k++) same = same && map[x->in[k]] == x->in[k];
    if (same) return x->in;
    int32_t *in = ad_ir_ints(ir, x->nin, x->in);
    for (int k = 0; in && k < x->nin; k++) in[k] = map[in[k]];
    return in;
}

/* Adds what the old value i became to next. */
static int32_t translate(ad_ir *next, const ad_ir *ir, int32_t i, const int32_t *map, ad_rule rule)
{
    ad_inst x = ir->inst[i];
    x.in = renumbered(next, &x, map);
    if (next->failed) return 0;
    return i < ir->ninput ? ad_ir_add(next, &x) : rule(next, &x);
}

static bool rewrite(ad_ir *ir, ad_rule rule)
{
    ad_ir next;
    int32_t *map = calloc((size_t)ir->n + 1, sizeof *map);
    if (!map || !ad_ir_init(&next, ir->pool, ir->dtype, ir->n + 16)) {
        free(map);
        return false;
    }
    next.ninput = ir->ninput;
    next.noutput = ir->noutput;
    next.output = ir->output;
    for (int32_t i = 0; i < ir->n && !next.failed; i++) {
        map[i] = translate(&next, ir, i, map, rule);
        if (!next.failed) next.inst[map[i]].uses += ir->inst[i].uses;
    }
    bool ok = !next.failed;
    if (ok) {
        for (int j = 0; j < ir->noutput; j++) ir->output[j] = map[ir->output[j]];
        ad_ir_clear(ir);
        *ir = next;
    } else {
        ad_ir_clear(&next);
    }
    free(map);
    return ok;
}

/* Values that differ differ without the others, so nothing is looked up here; nor is it later, as
 * the next rule makes a representation of its own. */
bool ad_ir_sweep(ad_ir *ir)
{
    bool *needed = calloc((size_t)ir->n + 1, sizeof *needed);
    int32_t *map = calloc((size_t)ir->n + 1, sizeof *map), n = 0;
    free(ir->table);
    ir->table = NULL;
    for (int i = 0; needed && i < ir->ninput; i++) needed[i] = true;
    for (int j = 0; needed && j < ir->noutput; j++) needed[ir->output[j]] = true;
    for (int32_t i = ir->n - 1; needed && i >= 0; i--)
        for (int k = 0; needed[i] && k < ir->inst[i].nin; k++) needed[ir->inst[i].in[k]] = true;
    bool ok = needed && map;
    for (int32_t i = 0; ok && i < ir->n; i++) {
        if (!needed[i]) continue;
        ad_inst x = ir->inst[i];
        x.in = renumbered(ir, &x, map);
        ok = !ir->failed;
        ir->inst[n] = x;
        map[i] = n++;
    }
    for (int j = 0; ok && j < ir->noutput; j++) ir->output[j] = map[ir->output[j]];
    if (ok) ir->n = n;
    free(needed);
    free(map);
    return ok;
}

bool ad_ir_rewrite(ad_ir *ir, ad_rule rule)
{
    ad_ir_count_uses(ir);
    return rewrite(ir, rule) && ad_ir_sweep(ir);
}

static double convolution_flop(const ad_ir *ir, const ad_inst *x)
{
    ad_shape shape[3];
    shape[ad_face_of(x->op)] = x->shape;
    for (int i = 0; i < 2; i++) shape[ad_face_operand(x->op, i)] = ir->inst[x->in[i]].shape;
    ad_shape w = shape[AD_FACE_W], y = shape[AD_FACE_Y];
    return 2 * (double)ad_row_size(y) * (double)ad_row_size(w) / (double)w.dim[w.rank - 1];
}

double ad_product_flop(const ad_ir *ir, const ad_inst *x)
{
    if (ad_ops[x->op].kind == AD_CONVOLUTION) return convolution_flop(ir, x);
    if (ad_ops[x->op].kind != AD_CONTRACT) return 0;
    const ad_contraction c = ad_inst_contraction(x);
    double flop = 2;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < c.rank[k]; i++) {
            const int64_t label = c.label[k][i];
            const int64_t size = ir->inst[x->in[k]].shape.dim[i];
            const bool seen = ad_label_find(c.label[k], i, label) >= 0 ||
                              (k == 1 && ad_label_find(c.label[0], c.rank[0], label) >= 0);
            if (!seen && size != AD_ROWS) flop *= (double)size;
        }
    return flop;
}
