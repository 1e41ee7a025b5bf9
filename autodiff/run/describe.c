/* ad_program_describe: what was compiled, as text. */
#include "autodiff/run/bytes.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *text;
    size_t used, size;
    bool failed;
} writer;

static void put(writer *w, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 2, 3)))
#endif
    ;
static void put(writer *w, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n >= 0 && !w->failed && w->used + (size_t)n + 1 > w->size) {
        size_t size = 2 * w->size + (size_t)n + 1024;
        char *more = realloc(w->text, size);
        if (more) {
            w->text = more;
            w->size = size;
        } else {
            w->failed = true;
        }
    }
    if (n >= 0 && !w->failed) {
        vsnprintf(w->text + w->used, w->size - w->used, format, again);
        w->used += (size_t)n;
    }
    va_end(again);
}

/* " ij,jk->ik, 256 flop a row" */
static void put_contraction(writer *w, const ad_program *p, const ad_inst *x)
{
    const ad_contraction c = ad_inst_contraction(x);
    char text[3 * AD_MAX_RANK + 4];
    size_t used = 0;
    bool rows = false;
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < c.rank[k]; i++) {
            text[used++] = (char)('i' + c.label[k][i]);
            rows |= k < 2 && p->ir.inst[x->in[k]].shape.dim[i] == AD_ROWS;
        }
        if (k == 0) text[used++] = ',';
        if (k == 1) text[used++] = '-';
        if (k == 1) text[used++] = '>';
    }
    text[used] = 0;
    put(w, " %s, %.0f flop%s", text, ad_product_flop(&p->ir, x), rows ? " a row" : "");
}

static bool is_view(const ad_program *p, int32_t i)
{
    return p->slot[i].root != i && !ad_inst_reduces(&p->ir, &p->ir.inst[i]);
}

static void put_value(writer *w, const ad_program *p, int32_t i, const char *note)
{
    const ad_inst *x = &p->ir.inst[i];
    char shape[160] = "token";
    if (x->op != AD_OP_opaque) ad_format_shape(x->shape, shape, sizeof shape);
    put(w, "  v%d %s %s", (int)i, shape,
        x->op == AD_OP_opaque ? ad_opaque_name(x->class_, x->opaque) : ad_ops[x->op].name);
    bool composite = ad_ops[x->op].kind == AD_POINTWISE && x->nin > ad_ops[x->op].arity;
    for (int k = 0; k < x->nin; k++) {
        const char *with = composite && k == x->nin - 1
                               ? (x->nin == 2 && x->op != AD_OP_slope_of_code ? " + " : " * ")
                               : ", ";
        put(w, "%sv%d", k ? with : "(", (int)x->in[k]);
    }
    if (x->nin) put(w, ")");
    if (x->op == AD_OP_fill) put(w, " %.9g", x->data[0]);
    if (x->op == AD_OP_contract) put_contraction(w, p, x);
    if (p->slot[i].place == AD_PLACE_COMPLETE) put(w, " complete");
    if (p->slot[i].root != i && !is_view(p, i)) put(w, ", added to v%d", (int)p->slot[i].root);
    put(w, "%s\n", note);
}

/* ---- levels ---- */

typedef enum {
    GROUP_CONSTANT,
    GROUP_PARAMETER,
    GROUP_CALL,
    GROUP_ROWS,
    GROUP_REDUCTION,
    GROUP_EPILOGUE,
    GROUP_OPAQUE,
    GROUPS,
    GROUP_NONE
} group;

static group group_of(const ad_program *p, int32_t i)
{
    const ad_inst *x = &p->ir.inst[i];
    if (ad_ops[x->op].kind == AD_OPAQUE) return GROUP_OPAQUE;
    if (x->op == AD_OP_input || ad_ops[x->op].kind == AD_RESULT || is_view(p, i)) return GROUP_NONE;
    if (p->slot[i].place == AD_PLACE_CONSTANT) return GROUP_CONSTANT;
    if (ad_has_rows(x->shape)) return GROUP_ROWS;
    if (p->slot[i].place == AD_PLACE_LANES || p->slot[i].place == AD_PLACE_SUM)
        return GROUP_REDUCTION;
    return x->level == AD_LEVEL_ROW         ? GROUP_EPILOGUE
           : x->level <= AD_LEVEL_PARAMETER ? GROUP_PARAMETER
                                            : GROUP_CALL;
}

static void put_levels(writer *w, const ad_program *p)
{
    static const char *const names[GROUPS] = { "constant",   "parameters", "call",  "rows",
                                               "reductions", "epilogue",   "opaque" };
    int count[GROUPS][AD_OP_COUNT] = { { 0 } }, total[GROUPS] = { 0 };
    for (int32_t i = 0; i < p->ir.n; i++) {
        group g = group_of(p, i);
        if (g == GROUP_NONE) continue;
        count[g][p->ir.inst[i].op]++;
        total[g]++;
    }
    put(w, "levels\n");
    for (int g = 0; g < GROUPS; g++) {
        put(w, "  %s %d", names[g], total[g]);
        const char *between = ": ";
        for (int op = 0; op < AD_OP_COUNT; op++) {
            if (!count[g][op]) continue;
            put(w, "%s%s %d", between, ad_ops[op].name, count[g][op]);
            between = ", ";
        }
        put(w, "\n");
    }
}

static void put_signature(writer *w, const ad_program *p)
{
    static const char *const levels[] = { "constant", "parameter", "call", "rows" };
    char shape[160];
    put(w, "program %s: %d inputs, %d outputs, %d values\n", p->ir.dtype == AD_F32 ? "f32" : "f64",
        p->ir.ninput, p->ir.noutput, (int)p->ir.n);
    put(w, "instruction set %s\ninputs\n", p->isa);
    for (int i = 0; i < p->ir.ninput; i++) {
        ad_format_shape(p->ir.inst[i].shape, shape, sizeof shape);
        put(w, "  v%d %s %s%s\n", i, shape, levels[p->ir.inst[i].attr[0]],
            p->ir.inst[i].uses ? "" : " unused");
    }
    put(w, "outputs\n");
    for (int j = 0; j < p->ir.noutput; j++) {
        ad_format_shape(p->ir.inst[p->ir.output[j]].shape, shape, sizeof shape);
        put(w, "  %d %s v%d\n", j, shape, (int)p->ir.output[j]);
    }
}

static void put_steps(writer *w, const ad_program *p, int phase, const char *name,
                      const int32_t *range)
{
    if (range[0] == range[1]) return;
    put(w, "phase %d %s\n", phase, name);
    for (int32_t i = range[0]; i < range[1]; i++) {
        const ad_step *s = &p->step[i];
        put_value(w, p, s->value,
                  s->kernel.divided       ? ", in pieces"
                  : s->end - s->begin > 1 ? " fused"
                                          : "");
    }
}

/* A section's functions, each by its first and its last value, and what is between them. */
static void put_pieces(writer *w, const ad_program *p, int phase, const char *name,
                       const ad_piece_list *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        const ad_piece *x = &list->piece[i];
        put(w, "  phase %d %s, v%d", phase, name, (int)p->step[x->begin].value);
        if (x->end > x->begin + 1) put(w, " to v%d", (int)p->step[x->end - 1].value);
        if (x->code >= 0) put(w, ": %lld instructions", (long long)x->call.instructions);
        else put(w, ": interpreted, %d steps", (int)(x->end - x->begin));
        if (x->code >= 0 && x->call.looped)
            put(w, ", in loops over %lld elements", (long long)x->call.looped);
        if (x->most_rows) put(w, ", of blocks up to %lld rows", (long long)x->most_rows);
        put(w, "\n");
    }
}

static void put_native(writer *w, const ad_program *p)
{
    const ad_pieces *pieces = ad_program_pieces(p, false);
    if (pieces->phase)
        put(w, "native code, for one row, %lld bytes\n",
            (long long)ad_native_bytes(pieces->native));
    for (int f = 0; f < p->nphase && pieces->phase; f++) {
        put_pieces(w, p, f, "parameters", &pieces->phase[f][AD_SECTION_PARAMETER]);
        put_pieces(w, p, f, "call", &pieces->phase[f][AD_SECTION_CALL]);
        put_pieces(w, p, f, "body", &pieces->phase[f][AD_SECTION_BODY]);
    }
    const ad_pieces *several = p->has_rows ? ad_program_pieces(p, true) : NULL;
    for (int f = 0; f < p->nphase && several && several->phase; f++) {
        const ad_piece_list *list = &several->phase[f][AD_SECTION_BODY];
        if (!list->n) continue;
        put(w, "native code, for %d rows at a time\n", several->lanes);
        put_pieces(w, p, f, "body", list);
    }
}

/* What workspaces hold, and what operations hold of that. */
static void put_bytes(writer *w, const ad_program *p)
{
    static const int64_t rows[] = { 1, 32, 512 };
    put(w, "a workspace holds, with one thread and with two\n");
    for (size_t i = 0; i < (p->has_rows ? sizeof rows / sizeof *rows : 1); i++) {
        int64_t each;
        if (p->has_rows) put(w, "  at %lld rows", (long long)rows[i]);
        put(w, "  %lld bytes", (long long)ad_program_bytes(p, rows[i], 1, &each));
        put(w, " and %lld", (long long)ad_program_bytes(p, rows[i], 2, NULL));
        if (each) put(w, ", and %lld for each step", (long long)each);
        put(w, "\n");
    }
    for (int k = 0; k < p->nopaque; k++) {
        const ad_inst *x = &p->ir.inst[p->opaque[k]];
        ad_opaque_account state;
        ad_account_state(p, k, 512, 1, &state);
        if (!state.bytes) continue;
        put(w, "  of that %s", ad_opaque_name(x->class_, x->opaque));
        if (p->has_rows) put(w, " at 512 rows");
        put(w, " %lld bytes", (long long)state.bytes);
        if (state.step_bytes) put(w, ", and %lld for each step", (long long)state.step_bytes);
        put(w, state.largest[0] ? ": %s\n" : "%s\n", state.largest);
    }
}

char *ad_program_describe(const ad_program *p)
{
    if (!p) return NULL;
    writer w = { 0 };
    put_signature(&w, p);
    put_levels(&w, p);
    if (p->has_rows)
        put(&w,
            "blocks\n  %lld rows a block, 512 rows in %lld blocks, at most %d reduction lanes of "
            "%lld bytes\n"
            "  %lld bytes a block, %lld a row, complete arrays %lld bytes a row\n",
            (long long)p->block_rows, (long long)ad_block_count(p, 512), AD_LANES,
            (long long)p->lane_bytes, (long long)p->block_bytes, (long long)p->block_row_bytes,
            (long long)p->complete_row_bytes);
    if (p->stretch_row_bytes)
        put(&w, "  stretches of %lld rows, %lld bytes a row\n", (long long)p->stretch_rows,
            (long long)p->stretch_row_bytes);
    put_bytes(&w, p);
    put(&w, "constants\n");
    for (int32_t i = 0; i < p->ir.n; i++)
        if (group_of(p, i) == GROUP_CONSTANT) put_value(&w, p, i, "");
    put(&w, "views\n");
    for (int32_t i = 0; i < p->ir.n; i++)
        if (is_view(p, i)) put_value(&w, p, i, "");
    for (int f = 0; f < p->nphase; f++) {
        put_steps(&w, p, f, "parameters", p->phase[f].parameter_steps);
        put_steps(&w, p, f, "call", p->phase[f].call_steps);
        put_steps(&w, p, f, "body", p->phase[f].body_steps);
        put_steps(&w, p, f, "sums", p->phase[f].sum_steps);
    }
    put_native(&w, p);
    if (w.failed) {
        free(w.text);
        return NULL;
    }
    return w.text;
}
