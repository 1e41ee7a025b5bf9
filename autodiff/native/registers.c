/* Registers: machine code for a list of atoms, one after the other, each a number or, for several
 * rows or elements at a time, a vector with a number for each of them.
 *
 * What is needed next stays in registers; of the others, the one that is needed last goes to the
 * frame when room is short (Belady 1966, doi:10.1147/sj.52.0078), unless it can be read again from
 * where it came. A place in the frame is free again when its atom has had its last use. Elements
 * that others read are written behind everything else: they may lie where the piece still reads.
 *
 * Vectors over rows are read and written number by number, those of neighbours in a row in pairs:
 * one that is read comes with the other, one that is written waits for it. Either needs a register
 * for longer, so perhaps a place in the frame, which costs less than is saved. */
#include "autodiff/native/atoms.h"
#include <stdlib.h>
#include <string.h>

enum { NEAR = 24 /* atoms: what is needed again so soon is not read from memory twice */ };
enum { NEVER = INT32_MAX };
enum { MOST_INVARIANTS = 64 /* that a loop over rows makes before it begins: two kilobytes */ };

typedef struct {
    int32_t use, use_end; /* its uses that are still to come, in the list of all */
    int32_t slot;         /* in the frame; -1: none */
    int8_t reg;           /* -1: none */
} state;

typedef struct {
    const ad_atoms *atoms;
    ad_code *code;
    int64_t number_size; /* bytes of a register */
    int nregister;
    int64_t base; /* of the numbers in the code */
    state *of;    /* every atom */
    int32_t *use; /* positions of uses: numbers of atoms; behind them, of results */
    /* By atom that is read, the one beside it in the array's rows with which it is read, and by
     * result; -1: none. Of two results the one that is written first waits for the other. */
    int32_t *read_with, *written_with;
    /* By atom, the first of its results that are written early, as a number + 1; behind them, by
     * result, the next one of its atom. */
    int32_t *early;
    int32_t *unused, nunused, nslot;
    int32_t in[AD_NUMBER_REGISTERS]; /* the atom in a register; -1: none */
    unsigned pinned;                 /* registers of the instruction at hand */
    int32_t now;
    ad_code_kind kind;
    int npointer, fixed;                   /* registers for pointers; these keep theirs */
    int32_t pointer[AD_POINTER_REGISTERS]; /* the entry of the list in it; -1: none */
    int64_t row_bytes[AD_POINTER_REGISTERS];
    int64_t touched[AD_POINTER_REGISTERS], clock;
} writer;

/* ---- uses ---- */

static bool late(const ad_atoms *a, const ad_atom_result *r)
{
    return !r->early || a->atom[r->atom].what >= AD_ATOM_READ;
}

static void mark_needed(ad_atoms *a)
{
    for (int32_t k = 0; k < a->nresult; k++) a->atom[a->result[k].atom].needed = true;
    for (int32_t i = a->natom - 1; i >= 0; i--)
        for (int k = 0; k < 3 && a->atom[i].needed && a->atom[i].what < AD_ATOM_READ; k++)
            if (a->atom[i].in[k] >= 0) a->atom[a->atom[i].in[k]].needed = true;
}

static bool packed(const writer *w) { return w->code->lanes > 1; }

/* Vectors over rows alone are taken apart. */
static bool find_pairs(writer *w)
{
    const ad_atoms *a = w->atoms;
    const size_t n = (size_t)a->natom + (size_t)a->nresult;
    w->read_with = malloc((n + 1) * sizeof *w->read_with);
    if (!w->read_with) return false;
    w->written_with = w->read_with + a->natom;
    memset(w->read_with, -1, (n + 1) * sizeof *w->read_with);
    if (w->kind != AD_CODE_ROWS || !packed(w)) return true;
    return ad_atoms_pair(a, w->read_with, w->written_with);
}

/* When it could be written: as a position of uses. */
static int32_t position_of(const ad_atoms *a, int32_t r)
{
    return late(a, &a->result[r]) ? a->natom + r : a->result[r].atom;
}

/* Whether the result is written with another one, behind it. */
static bool waits(const writer *w, int32_t r)
{
    const int32_t other = w->written_with[r];
    if (other < 0) return false;
    const int32_t own = position_of(w->atoms, r), its = position_of(w->atoms, other);
    return own < its || (own == its && r < other);
}

static bool list_early(writer *w)
{
    const ad_atoms *a = w->atoms;
    w->early = calloc((size_t)a->natom + (size_t)a->nresult + 1, sizeof *w->early);
    for (int32_t k = 0; w->early && k < a->nresult; k++) {
        if (late(a, &a->result[k]) || waits(w, k)) continue;
        w->early[a->natom + k] = w->early[a->result[k].atom];
        w->early[a->result[k].atom] = k + 1;
    }
    return w->early != NULL;
}

static void add_use(writer *w, int32_t atom, int32_t position)
{
    state *s = &w->of[atom];
    if (w->use) w->use[s->use_end] = position;
    s->use_end++;
}

/* A result, and what waits to be written with it. */
static void add_result(writer *w, int32_t r, int32_t position)
{
    const int32_t other = w->written_with[r];
    add_use(w, w->atoms->result[r].atom, position);
    if (other >= 0) add_use(w, w->atoms->result[other].atom, position);
}

/* Each atom's uses, in their order. */
static bool list_uses(writer *w)
{
    const ad_atoms *a = w->atoms;
    int32_t total = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < a->natom; i++) {
            for (int k = 0; k < 3 && a->atom[i].needed && a->atom[i].what < AD_ATOM_READ; k++)
                if (a->atom[i].in[k] >= 0) add_use(w, a->atom[i].in[k], i);
            for (int32_t r = w->early[i]; r > 0; r = w->early[a->natom + r - 1])
                add_result(w, r - 1, i);
        }
        for (int32_t r = 0; r < a->nresult; r++) {
            if (!late(a, &a->result[r]) || waits(w, r)) continue;
            add_result(w, r, a->natom + r);
        }
        if (pass) break;
        for (int32_t i = 0; i < a->natom; i++) {
            const int32_t count = w->of[i].use_end;
            w->of[i].use = w->of[i].use_end = total;
            total += count;
        }
        w->use = malloc(((size_t)total + 1) * sizeof *w->use);
        if (!w->use) return false;
    }
    return true;
}

static int32_t next_use(const writer *w, int32_t atom)
{
    const state *s = &w->of[atom];
    return s->use < s->use_end ? w->use[s->use] : NEVER;
}

/* ---- places ---- */

static int64_t slot_at(const writer *w, int32_t slot) { return slot * w->number_size; }

static int32_t take_slot(writer *w) { return w->nunused ? w->unused[--w->nunused] : w->nslot++; }

static void load_pointer(writer *w, int reg, int32_t entry, int64_t row_bytes)
{
    if (w->kind == AD_CODE_ROWS && row_bytes) ad_encode_row_pointer(w->code, reg, entry, row_bytes);
    else ad_encode_pointer(w->code, reg, entry);
}

static int pointer_to(writer *w, int32_t entry, int64_t row_bytes)
{
    int oldest = w->fixed;
    for (int r = 0; r < w->npointer; r++) {
        if (w->pointer[r] == entry) {
            w->touched[r] = ++w->clock;
            return r;
        }
        if (r > oldest && w->touched[r] < w->touched[oldest]) oldest = r;
    }
    AD_ASSERT(oldest < w->npointer);
    load_pointer(w, oldest, entry, row_bytes);
    w->pointer[oldest] = entry;
    w->touched[oldest] = ++w->clock;
    return oldest;
}

static ad_operand_at in_register(int reg)
{
    return (ad_operand_at){ .where = AD_IN_REGISTER, .reg = reg };
}

/* row_bytes: 0 where it is the same in every turn of a loop. */
static ad_operand_at in_array(writer *w, int32_t entry, int64_t at, int64_t row_bytes)
{
    return (ad_operand_at){ .where = AD_IN_ARRAY,
                            .reg = pointer_to(w, entry, row_bytes),
                            .at = at,
                            .indexed = w->kind == AD_CODE_RANGE && row_bytes };
}

static ad_operand_at in_frame(const writer *w, int32_t slot)
{
    return (ad_operand_at){ .where = AD_IN_FRAME, .at = slot_at(w, slot) };
}

static ad_operand_at find(writer *w, int32_t atom)
{
    const state *s = &w->of[atom];
    const ad_atom *x = &w->atoms->atom[atom];
    if (s->reg >= 0) return in_register(s->reg);
    if (s->slot >= 0) return in_frame(w, s->slot);
    if (x->what == AD_ATOM_READ) return in_array(w, x->in[0], x->in[1], x->in[2]);
    AD_ASSERT(x->what == AD_ATOM_NUMBER);
    return (ad_operand_at){ .where = AD_IN_CODE, .at = w->base + x->in[0] * w->number_size };
}

/* A vector that is in memory number by number, in the arrays' rows, or once for all lanes. */
static bool is_scattered(const writer *w, int32_t atom)
{
    const ad_atom *x = &w->atoms->atom[atom];
    return packed(w) && x->what == AD_ATOM_READ && w->of[atom].slot < 0 &&
           x->in[2] != (int32_t)ad_dtype_size(w->atoms->dtype);
}

/* Whether it need not be stored when its register is wanted. */
static bool stands_elsewhere(const writer *w, int32_t atom)
{
    const ad_atom *x = &w->atoms->atom[atom];
    if (w->of[atom].slot >= 0 || x->what == AD_ATOM_NUMBER) return true;
    return x->what == AD_ATOM_READ && (!is_scattered(w, atom) || x->in[2] == 0);
}

static void put_in_frame(writer *w, int32_t atom)
{
    state *s = &w->of[atom];
    s->slot = take_slot(w);
    ad_encode_store(w->code, in_frame(w, s->slot), s->reg);
}

/* ---- registers ---- */

static int choose_victim(const writer *w)
{
    int64_t most = -1;
    int victim = -1;
    for (int r = 0; r < w->nregister; r++) {
        if (w->pinned >> r & 1) continue;
        int64_t away = (int64_t)next_use(w, w->in[r]) - w->now;
        if (stands_elsewhere(w, w->in[r])) away *= 2; /* costs half as much */
        if (away > most) {
            most = away;
            victim = r;
        }
    }
    AD_ASSERT(victim >= 0);
    return victim;
}

static int take_register(writer *w, int32_t atom)
{
    int reg = -1;
    for (int r = 0; r < w->nregister && reg < 0; r++)
        if (w->in[r] < 0) reg = r;
    if (reg < 0) {
        reg = choose_victim(w);
        const int32_t old = w->in[reg];
        if (!stands_elsewhere(w, old)) put_in_frame(w, old);
        w->of[old].reg = -1;
    }
    w->in[reg] = atom;
    w->of[atom].reg = (int8_t)reg;
    return reg;
}

/* Whether the atom with which it may be read is wanted too. */
static bool reads_two(const writer *w, int32_t atom)
{
    const int32_t other = w->read_with[atom];
    if (other < 0 || w->of[atom].slot >= 0) return false;
    const state *s = &w->of[other];
    return s->reg < 0 && s->slot < 0 && s->use < s->use_end;
}

static void read_two(writer *w, int32_t atom, int32_t other)
{
    const ad_atom *x = &w->atoms->atom[atom], *y = &w->atoms->atom[other];
    const bool first = x->in[1] < y->in[1];
    const ad_operand_at from = in_array(w, x->in[0], (first ? x : y)->in[1], x->in[2]);
    const int a = take_register(w, atom);
    w->pinned |= 1u << a;
    const int b = take_register(w, other);
    ad_encode_load_pairs(w->code, first ? a : b, first ? b : a, from, x->in[2]);
}

static int into_register(writer *w, int32_t atom)
{
    if (w->of[atom].reg < 0 && reads_two(w, atom)) {
        read_two(w, atom, w->read_with[atom]);
    } else if (w->of[atom].reg < 0) {
        const bool scattered = is_scattered(w, atom);
        const int64_t row_bytes = w->atoms->atom[atom].in[2];
        const ad_operand_at from = find(w, atom);
        const int to = take_register(w, atom);
        if (!scattered) ad_encode_load(w->code, to, from);
        else if (row_bytes) ad_encode_load_strided(w->code, to, from, row_bytes);
        else ad_encode_spread(w->code, to, from);
    }
    w->pinned |= 1u << w->of[atom].reg;
    return w->of[atom].reg;
}

/* One use less. Behind the last one the register is free. */
static void used(writer *w, int32_t atom)
{
    if (atom < 0) return;
    state *s = &w->of[atom];
    s->use++;
    if (s->use < s->use_end || s->reg < 0) return;
    w->in[s->reg] = -1;
    s->reg = -1;
}

/* A read that is the same for all rows. */
static bool is_invariant(const writer *w, int32_t atom)
{
    const ad_atom *x = &w->atoms->atom[atom];
    return w->kind == AD_CODE_ROWS && x->what == AD_ATOM_READ && x->in[2] == 0;
}

/* Behind the last use the place in the frame is free too, but not before the instruction that
 * reads it. */
static void leave_frame(writer *w, int32_t atom)
{
    if (atom < 0 || is_invariant(w, atom)) return;
    state *s = &w->of[atom];
    if (s->use < s->use_end || s->slot < 0) return;
    w->unused[w->nunused++] = s->slot;
    s->slot = -1;
}

/* ---- instructions ---- */

/* Whether atom is better read from memory by the instruction itself. */
static bool read_directly(const writer *w, int32_t atom, ad_do what)
{
    const state *s = &w->of[atom];
    if (s->reg >= 0 || is_scattered(w, atom)) return false;
    if (!packed(w) && !ad_encode_reads_memory(what)) return false;
    return s->use + 1 >= s->use_end || w->use[s->use + 1] - w->now > NEAR;
}

/* Adds to a copy, or to what nobody needs any more. */
static void write_fma(writer *w, int32_t i, int ra, ad_operand_at b)
{
    const int32_t *in = w->atoms->atom[i].in, c = in[2];
    int to = w->of[c].reg;
    const bool last = w->of[c].use + 1 == w->of[c].use_end && c != in[0] && c != in[1];
    if (!last) {
        const int from = to;
        to = take_register(w, i);
        ad_encode_move(w->code, to, from);
    }
    for (int k = 0; k < 3; k++) used(w, in[k]);
    w->in[to] = i;
    w->of[i].reg = (int8_t)to;
    ad_encode(w->code, AD_DO_FMA, to, ra, b, 0);
}

static void write_atom(writer *w, int32_t i)
{
    const ad_atom *x = &w->atoms->atom[i];
    const ad_do what = (ad_do)x->what;
    int32_t a = x->in[0], b = x->in[1];
    const int32_t c = x->in[2];
    w->now = i;
    w->pinned = 0;
    if ((what == AD_DO_ADD || what == AD_DO_MUL || what == AD_DO_FMA) && w->of[a].reg < 0 &&
        w->of[b].reg >= 0) {
        a = x->in[1];
        b = x->in[0];
    }
    const int ra = into_register(w, a), rc = c >= 0 ? into_register(w, c) : 0;
    const bool direct = b != a && b != c && read_directly(w, b, what);
    const ad_operand_at at = direct ? find(w, b) : in_register(into_register(w, b));
    if (what == AD_DO_FMA) {
        write_fma(w, i, ra, at);
    } else {
        for (int k = 0; k < 3; k++) used(w, x->in[k]);
        ad_encode(w->code, what, take_register(w, i), ra, at, rc);
    }
    for (int k = 0; k < 3; k++) leave_frame(w, x->in[k]);
}

static void write_two(writer *w, const ad_atom_result *r, const ad_atom_result *other)
{
    const bool first = r->at < other->at;
    const int a = into_register(w, r->atom), b = into_register(w, other->atom);
    const ad_operand_at to = in_array(w, r->entry, first ? r->at : other->at, r->row_bytes);
    ad_encode_store_pairs(w->code, to, first ? a : b, first ? b : a, r->row_bytes);
    used(w, other->atom);
    leave_frame(w, other->atom);
}

static void write_one(writer *w, const ad_atom_result *r)
{
    const int reg = into_register(w, r->atom);
    const ad_operand_at to = in_array(w, r->entry, r->at, r->row_bytes);
    if (packed(w) && r->row_bytes != (int64_t)ad_dtype_size(w->atoms->dtype))
        ad_encode_store_strided(w->code, to, reg, r->row_bytes);
    else ad_encode_store(w->code, to, reg);
}

static void write_result(writer *w, int32_t number)
{
    const ad_atom_result *r = &w->atoms->result[number];
    const int32_t other = w->written_with[number];
    w->pinned = 0;
    if (other >= 0) write_two(w, r, &w->atoms->result[other]);
    else write_one(w, r);
    used(w, r->atom);
    leave_frame(w, r->atom);
}

/* What is read and handed on as it is must be out of the way before anything is written where
 * something may lie. */
static void save_passed_on(writer *w)
{
    const ad_atoms *a = w->atoms;
    bool apart = true;
    w->now = a->natom;
    for (int32_t k = 0; k < a->nresult; k++) apart = apart && a->result[k].early;
    if (apart) return;
    for (int32_t k = 0; k < a->nresult; k++) {
        const int32_t atom = a->result[k].atom;
        if (a->atom[atom].what != AD_ATOM_READ || w->of[atom].slot >= 0) continue;
        w->pinned = 0;
        into_register(w, atom);
        put_in_frame(w, atom);
    }
}

static void write_all(writer *w)
{
    const ad_atoms *a = w->atoms;
    for (int32_t i = 0; i < a->natom; i++) {
        if (!a->atom[i].needed || a->atom[i].what >= AD_ATOM_READ) continue;
        write_atom(w, i);
        for (int32_t k = w->early[i]; k > 0; k = w->early[a->natom + k - 1]) write_result(w, k - 1);
    }
    save_passed_on(w);
    for (int32_t k = 0; k < a->nresult; k++) {
        if (!late(a, &a->result[k]) || waits(w, k)) continue;
        w->now = a->natom + k;
        write_result(w, k);
    }
}

static void align(ad_code *c)
{
    static const char zeros[AD_ALIGN];
    const size_t rest = (size_t)(c->n % AD_ALIGN);
    if (rest) ad_encode_bytes(c, zeros, sizeof zeros - rest);
}

static void write_numbers(writer *w)
{
    const ad_atoms *a = w->atoms;
    align(w->code);
    w->base = w->code->n;
    for (int32_t k = 0; k < a->nnumber * w->code->lanes; k++) {
        const double number = a->number[k / w->code->lanes];
        const float narrow = (float)number;
        if (a->dtype == AD_F64) ad_encode_bytes(w->code, &number, sizeof number);
        else ad_encode_bytes(w->code, &narrow, sizeof narrow);
    }
    align(w->code);
}

static void fix_pointer(writer *w, int32_t entry, int64_t row_bytes)
{
    for (int r = 0; r < w->fixed && r < w->npointer; r++)
        if (w->pointer[r] == entry) return;
    if (w->fixed < w->npointer) {
        w->pointer[w->fixed] = entry;
        w->row_bytes[w->fixed] = row_bytes;
    }
    if (w->fixed <= w->npointer) w->fixed++;
}

/* Pointers that stay in their registers all through a loop. Where there are too many: so many of
 * them do. */
static void fix_pointers(writer *w, int if_too_many)
{
    const ad_atoms *a = w->atoms;
    for (int32_t i = 0; i < a->natom; i++)
        if (a->atom[i].needed && a->atom[i].what == AD_ATOM_READ && w->of[i].slot < 0)
            fix_pointer(w, a->atom[i].in[0], a->atom[i].in[2]);
    for (int32_t k = 0; k < a->nresult; k++)
        fix_pointer(w, a->result[k].entry, a->result[k].row_bytes);
    if (w->fixed > w->npointer) w->fixed = if_too_many;
    for (int r = w->fixed; r < AD_POINTER_REGISTERS; r++) w->pointer[r] = -1;
    for (int r = 0; r < w->fixed; r++) load_pointer(w, r, w->pointer[r], w->row_bytes[r]);
}

static void write_range(writer *w, const ad_atom_range *range)
{
    const int64_t size = (int64_t)ad_dtype_size(w->atoms->dtype), step = size * w->code->lanes;
    if (w->atoms->nnumber) {
        const int64_t jump = ad_encode_jump(w->code);
        write_numbers(w);
        ad_encode_land(w->code, jump);
    }
    w->npointer = AD_LOOP_POINTERS;
    fix_pointers(w, AD_LOOP_POINTERS - 1);
    ad_encode_index(w->code, range->from * size);
    const int64_t head = w->code->n;
    write_all(w);
    if (range->from * size + step < range->to * size)
        ad_encode_repeat(w->code, step, range->to * size, head);
}

/* What is the same for all rows becomes vectors before they are gone through. */
static void write_invariants(writer *w)
{
    for (int32_t i = 0; packed(w) && i < w->atoms->natom && w->nslot < MOST_INVARIANTS; i++) {
        const ad_atom *x = &w->atoms->atom[i];
        if (!x->needed || !is_invariant(w, i)) continue;
        ad_encode_spread(w->code, AD_SPARE_REGISTER, in_array(w, x->in[0], x->in[1], 0));
        w->of[i].slot = take_slot(w);
        ad_encode_store(w->code, in_frame(w, w->of[i].slot), AD_SPARE_REGISTER);
    }
}

/* Where there are more pointers than registers, a turn finds them anew. */
static void write_rows(writer *w)
{
    const int64_t rows = w->code->lanes, before = w->code->instructions;
    w->npointer = AD_ROW_POINTERS;
    write_invariants(w);
    fix_pointers(w, 0);
    const int64_t head = w->code->n;
    w->code->instructions = before;
    write_all(w);
    for (int r = 0; r < w->fixed; r++)
        if (w->row_bytes[r]) ad_encode_advance(w->code, r, rows * w->row_bytes[r]);
    ad_encode_next_rows(w->code, rows, head);
}

bool ad_atoms_write(ad_atoms *a, ad_code *code, ad_code_kind kind, const ad_atom_range *range,
                    int64_t *entry, int64_t *frame)
{
    writer w = { .atoms = a,
                 .code = code,
                 .kind = kind,
                 .npointer = AD_POINTER_REGISTERS,
                 .number_size = (int64_t)ad_dtype_size(a->dtype) * code->lanes,
                 .nregister = code->lanes > 1 ? AD_SPARE_REGISTER : AD_NUMBER_REGISTERS };
    mark_needed(a);
    w.of = calloc((size_t)a->natom + 1, sizeof *w.of);
    w.unused = malloc(((size_t)a->natom + 1) * sizeof *w.unused);
    for (int32_t i = 0; w.of && i < a->natom; i++) w.of[i] = (state){ .slot = -1, .reg = -1 };
    memset(w.in, -1, sizeof w.in);
    memset(w.pointer, -1, sizeof w.pointer);
    const bool memory = w.of && w.unused && find_pairs(&w) && list_early(&w) && list_uses(&w);
    if (memory) {
        if (kind != AD_CODE_RANGE) write_numbers(&w);
        *entry = code->n;
        if (kind == AD_CODE_RANGE) write_range(&w, range);
        else if (kind == AD_CODE_ROWS) write_rows(&w);
        else write_all(&w);
        if (kind != AD_CODE_RANGE) ad_encode_return(code);
        if (slot_at(&w, w.nslot) > *frame) *frame = slot_at(&w, w.nslot);
    }
    free(w.of);
    free(w.use);
    free(w.unused);
    free(w.read_with);
    free(w.early);
    return memory && !code->failed;
}
