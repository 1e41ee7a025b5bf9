/* The encoding of x86-64 (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2,
 * chapter 2.3: VEX). Code is a function (list of pointers, frame), or (list of pointers, frame,
 * first row, end of rows), by the System V ABI: these are in rdi, rsi, rdx, rcx. It is a leaf,
 * keeps no register for its caller, and has no stack. */
#include "autodiff/native/encode.h"
#include <stdlib.h>
#include <string.h>

enum { LIST = 7 /* rdi */, FRAME = 6 /* rsi */, RELATIVE = 5 /* to the next instruction */ };
static const int pointers[AD_POINTER_REGISTERS] = { 0, 8, 9, 10, 11, 1, 2 }; /* rax r8-11 rcx rdx */
enum { ROWS_END = 1 /* rcx */, INDEX = 2 /* rdx: of an element, or the row */ };

void ad_encode_bytes(ad_code *c, const void *bytes, size_t n)
{
    if (c->n + (int64_t)n > c->capacity) {
        int64_t capacity = 2 * c->capacity + (int64_t)n + 256;
        uint8_t *more = realloc(c->byte, (size_t)capacity);
        if (!more) {
            c->failed = true;
            return;
        }
        c->byte = more;
        c->capacity = capacity;
    }
    memcpy(c->byte + c->n, bytes, n);
    c->n += (int64_t)n;
}

/* Room for an instruction. */
static bool reserve(ad_code *c)
{
    enum { LONGEST = 16 };
    if (c->capacity - c->n >= LONGEST) return true;
    ad_encode_bytes(c, (const char[LONGEST]){ 0 }, LONGEST);
    if (c->failed) return false;
    c->n -= LONGEST;
    return true;
}

static void byte(ad_code *c, int value) { c->byte[c->n++] = (uint8_t)value; }

static void word(ad_code *c, int64_t value)
{
    const int32_t w = (int32_t)value;
    memcpy(c->byte + c->n, &w, sizeof w);
    c->n += (int64_t)sizeof w;
}

/* The byte that names register and operand, and the operand's displacement. behind: bytes of the
 * instruction that follow. */
static void operand(ad_code *c, int reg, ad_operand_at o, int behind)
{
    const int field = (reg & 7) << 3;
    if (o.where == AD_IN_REGISTER) {
        byte(c, 0xc0 | field | (o.reg & 7));
    } else if (o.where == AD_IN_CODE) {
        byte(c, field | RELATIVE);
        word(c, o.at - (c->n + 4 + behind));
    } else {
        const int base = o.where == AD_IN_FRAME ? FRAME : pointers[o.reg];
        const bool few = o.at >= -128 && o.at < 128;
        enum { BASE_AND_INDEX = 4 };
        byte(c, (few ? 0x40 : 0x80) | field | (o.indexed ? BASE_AND_INDEX : base & 7));
        if (o.indexed) byte(c, INDEX << 3 | (base & 7));
        if (few) byte(c, (int)o.at);
        else word(c, o.at);
    }
}

typedef enum { PLAIN = 0, P66 = 1, PF3 = 2, PF2 = 3 } prefix;
typedef enum { MAP_0F = 1, MAP_0F38 = 2, MAP_0F3A = 3 } map;

/* A VEX instruction as far as its last operand. wide: of the halves of f64; vector: of all lanes;
 * second: the register in the prefix. false: memory is short. */
static bool vex(ad_code *c, prefix p, map m, int wide, int vector, int opcode, int reg, int second,
                ad_operand_at o, int behind)
{
    const int base = o.where == AD_IN_REGISTER ? o.reg
                     : o.where == AD_IN_ARRAY  ? pointers[o.reg]
                                               : 0;
    if (!reserve(c)) return false;
    c->instructions++;
    if (m == MAP_0F && !wide && base < 8) {
        byte(c, 0xc5);
        byte(c, (reg < 8 ? 0x80 : 0) | (~second & 15) << 3 | vector << 2 | (int)p);
    } else {
        byte(c, 0xc4);
        byte(c, (reg < 8 ? 0x80 : 0) | 0x40 | (base < 8 ? 0x20 : 0) | (int)m);
        byte(c, wide << 7 | (~second & 15) << 3 | vector << 2 | (int)p);
    }
    byte(c, opcode);
    operand(c, reg, o, behind);
    return true;
}

/* How an operation is encoded. Numbers of both types have the same opcodes; the prefix tells, or
 * the width. */
typedef struct {
    map map;
    uint8_t opcode;
    bool logic;     /* of vectors: the prefix of f64 is 66 in either type */
    int immediate;  /* -1: none */
    bool by_width;  /* f64 is the wide form */
    bool by_opcode; /* f64 is the next opcode */
} form;

static const form forms[AD_DO_COUNT] = {
    [AD_DO_ADD] = { MAP_0F, 0x58, false, -1, false, false },
    [AD_DO_SUB] = { MAP_0F, 0x5c, false, -1, false, false },
    [AD_DO_MUL] = { MAP_0F, 0x59, false, -1, false, false },
    [AD_DO_DIV] = { MAP_0F, 0x5e, false, -1, false, false },
    [AD_DO_MIN] = { MAP_0F, 0x5d, false, -1, false, false },
    [AD_DO_MAX] = { MAP_0F, 0x5f, false, -1, false, false },
    [AD_DO_SQRT] = { MAP_0F, 0x51, false, -1, false, false },
    [AD_DO_FLOOR] = { MAP_0F3A, 0x0a, true, 9, false, true },
    [AD_DO_AND] = { MAP_0F, 0x54, true, -1, false, false },
    [AD_DO_AND_NOT] = { MAP_0F, 0x55, true, -1, false, false },
    [AD_DO_OR] = { MAP_0F, 0x56, true, -1, false, false },
    [AD_DO_XOR] = { MAP_0F, 0x57, true, -1, false, false },
    [AD_DO_LESS] = { MAP_0F, 0xc2, false, 1, false, false },
    [AD_DO_LESS_EQUAL] = { MAP_0F, 0xc2, false, 2, false, false },
    [AD_DO_EQUAL] = { MAP_0F, 0xc2, false, 0, false, false },
    [AD_DO_NOT_EQUAL] = { MAP_0F, 0xc2, false, 4, false, false },
    [AD_DO_UNORDERED] = { MAP_0F, 0xc2, false, 3, false, false },
    [AD_DO_BLEND] = { MAP_0F3A, 0x4a, true, 0, false, true },
    [AD_DO_FMA] = { MAP_0F38, 0xb9, true, -1, true, false },
};

bool ad_encode_reads_memory(ad_do what)
{
    return !forms[what].logic || what == AD_DO_FLOOR || what == AD_DO_FMA;
}

static bool packed(const ad_code *c) { return c->lanes > 1; }

/* Numbers alone are told from vectors by the prefix, or by the opcode. */
static prefix number_prefix(const ad_code *c)
{
    const bool wide = c->dtype == AD_F64;
    if (packed(c)) return wide ? P66 : PLAIN;
    return wide ? PF2 : PF3;
}

void ad_encode(ad_code *c, ad_do what, int to, int a, ad_operand_at b, int mask)
{
    enum { FLOOR_OF_VECTORS = -2, FMA_OF_VECTORS = -1 };
    const form *f = &forms[what];
    const bool wide = c->dtype == AD_F64;
    const prefix p = f->logic ? P66 : number_prefix(c);
    int opcode = f->opcode + (f->by_opcode && wide);
    if (packed(c) && what == AD_DO_FLOOR) opcode += FLOOR_OF_VECTORS;
    if (packed(c) && what == AD_DO_FMA) opcode += FMA_OF_VECTORS;
    AD_ASSERT(packed(c) || b.where == AD_IN_REGISTER || ad_encode_reads_memory(what));
    /* vectors have no second operand where only one counts */
    const bool alone = packed(c) && (what == AD_DO_SQRT || what == AD_DO_FLOOR);
    if (!vex(c, p, f->map, f->by_width && wide, packed(c), opcode, to, alone ? 0 : a, b,
             f->immediate >= 0))
        return;
    if (what == AD_DO_BLEND) byte(c, mask << 4);
    else if (f->immediate >= 0) byte(c, f->immediate);
}

static ad_operand_at in_register(int reg)
{
    return (ad_operand_at){ .where = AD_IN_REGISTER, .reg = reg };
}

static prefix scalar(const ad_code *c) { return c->dtype == AD_F64 ? PF2 : PF3; }

void ad_encode_load(ad_code *c, int to, ad_operand_at from)
{
    vex(c, packed(c) ? PLAIN : scalar(c), MAP_0F, 0, packed(c), 0x10, to, 0, from, 0);
}

void ad_encode_store(ad_code *c, ad_operand_at to, int from)
{
    vex(c, packed(c) ? PLAIN : scalar(c), MAP_0F, 0, packed(c), 0x11, from, 0, to, 0);
}

void ad_encode_move(ad_code *c, int to, int from)
{
    vex(c, PLAIN, MAP_0F, 0, packed(c), 0x28, to, 0, in_register(from), 0);
}

/* ---- vectors ---- */

void ad_encode_spread(ad_code *c, int to, ad_operand_at from)
{
    vex(c, P66, MAP_0F38, 0, 1, c->dtype == AD_F64 ? 0x19 : 0x18, to, 0, from, 0);
}

static ad_operand_at behind(ad_operand_at o, int64_t bytes)
{
    o.at += bytes;
    return o;
}

/* Half a vector. */
static void load_half(ad_code *c, int to, ad_operand_at from, int64_t stride)
{
    vex(c, scalar(c), MAP_0F, 0, 0, 0x10, to, 0, from, 0);
    if (c->dtype == AD_F64) {
        vex(c, P66, MAP_0F, 0, 0, 0x16, to, to, behind(from, stride), 0); /* vmovhpd */
        return;
    }
    for (int k = 1; k < 4; k++) /* vinsertps */
        if (vex(c, P66, MAP_0F3A, 0, 0, 0x21, to, to, behind(from, k * stride), 1)) byte(c, k << 4);
}

static void store_half(ad_code *c, ad_operand_at to, int from, int64_t stride)
{
    vex(c, scalar(c), MAP_0F, 0, 0, 0x11, from, 0, to, 0);
    if (c->dtype == AD_F64) {
        vex(c, P66, MAP_0F, 0, 0, 0x17, from, 0, behind(to, stride), 0); /* vmovhpd */
        return;
    }
    for (int k = 1; k < 4; k++) /* vextractps */
        if (vex(c, P66, MAP_0F3A, 0, 0, 0x17, from, 0, behind(to, k * stride), 1)) byte(c, k);
}

/* The upper half of a vector. */
static void insert_half(ad_code *c, int to, ad_operand_at from)
{
    if (vex(c, P66, MAP_0F3A, 0, 1, 0x18, to, to, from, 1)) byte(c, 1); /* vinsertf128 */
}

static void extract_half(ad_code *c, ad_operand_at to, int from)
{
    if (vex(c, P66, MAP_0F3A, 0, 1, 0x19, from, 0, to, 1)) byte(c, 1); /* vextractf128 */
}

void ad_encode_load_strided(ad_code *c, int to, ad_operand_at from, int64_t stride)
{
    load_half(c, to, from, stride);
    load_half(c, AD_SPARE_REGISTER, behind(from, c->lanes / 2 * stride), stride);
    insert_half(c, to, in_register(AD_SPARE_REGISTER));
}

void ad_encode_store_strided(ad_code *c, ad_operand_at to, int from, int64_t stride)
{
    store_half(c, to, from, stride);
    extract_half(c, in_register(AD_SPARE_REGISTER), from);
    store_half(c, behind(to, c->lanes / 2 * stride), AD_SPARE_REGISTER, stride);
}

/* ---- pairs of vectors ---- */

typedef enum { LOW, HIGH } half;

/* In each half of a vector, numbers of a and b in turn: those of the low or high quarters. */
static void interleave(ad_code *c, half h, int to, int a, int b)
{
    const prefix p = c->dtype == AD_F64 ? P66 : PLAIN;
    vex(c, p, MAP_0F, 0, 1, h == LOW ? 0x14 : 0x15, to, a, in_register(b), 0); /* vunpck */
}

/* In each half, the numbers of a and b (f32) with even or odd places. */
static void every_second(ad_code *c, half h, int to, int a, int b)
{
    const int places = h == LOW ? 0x88 : 0xdd;
    if (vex(c, PLAIN, MAP_0F, 0, 1, 0xc6, to, a, in_register(b), 1)) byte(c, places); /* vshufps */
}

/* Rows 0 and 2 in the halves of a vector (f64). */
static void load_two(ad_code *c, int to, ad_operand_at from, int64_t stride)
{
    vex(c, PLAIN, MAP_0F, 0, 0, 0x10, to, 0, from, 0); /* vmovups */
    insert_half(c, to, behind(from, 2 * stride));
}

static void store_two(ad_code *c, ad_operand_at to, int from, int64_t stride)
{
    vex(c, PLAIN, MAP_0F, 0, 0, 0x11, from, 0, to, 0);
    extract_half(c, behind(to, 2 * stride), from);
}

/* Two rows in half a vector (f32). */
static void load_half_of_two(ad_code *c, int to, ad_operand_at from, int64_t stride)
{
    vex(c, PF2, MAP_0F, 0, 0, 0x10, to, 0, from, 0);                    /* vmovsd */
    vex(c, PLAIN, MAP_0F, 0, 0, 0x16, to, to, behind(from, stride), 0); /* vmovhps */
}

static void store_half_of_two(ad_code *c, ad_operand_at to, int from, int64_t stride)
{
    vex(c, PLAIN, MAP_0F, 0, 0, 0x13, from, 0, to, 0);                 /* vmovlps */
    vex(c, PLAIN, MAP_0F, 0, 0, 0x17, from, 0, behind(to, stride), 0); /* vmovhps */
}

/* Rows 0 and 1, 4 and 5 in the halves of a vector (f32). */
static void load_four(ad_code *c, int to, ad_operand_at from, int64_t stride)
{
    load_half_of_two(c, to, from, stride);
    load_half_of_two(c, AD_SPARE_REGISTER, behind(from, 4 * stride), stride);
    insert_half(c, to, in_register(AD_SPARE_REGISTER));
}

static void store_four(ad_code *c, ad_operand_at to, int from, int64_t stride)
{
    store_half_of_two(c, to, from, stride);
    extract_half(c, in_register(from), from);
    store_half_of_two(c, behind(to, 4 * stride), from, stride);
}

void ad_encode_load_pairs(ad_code *c, int first, int second, ad_operand_at from, int64_t stride)
{
    if (c->dtype == AD_F64) {
        load_two(c, first, from, stride);
        load_two(c, AD_SPARE_REGISTER, behind(from, stride), stride);
        interleave(c, HIGH, second, first, AD_SPARE_REGISTER);
        interleave(c, LOW, first, first, AD_SPARE_REGISTER);
        return;
    }
    load_four(c, first, from, stride);
    load_four(c, second, behind(from, 2 * stride), stride);
    every_second(c, LOW, AD_SPARE_REGISTER, first, second);
    every_second(c, HIGH, second, first, second);
    ad_encode_move(c, first, AD_SPARE_REGISTER);
}

void ad_encode_store_pairs(ad_code *c, ad_operand_at to, int first, int second, int64_t stride)
{
    const bool wide = c->dtype == AD_F64;
    void (*const store)(ad_code *, ad_operand_at, int, int64_t) = wide ? store_two : store_four;
    interleave(c, LOW, AD_SPARE_REGISTER, first, second);
    store(c, to, AD_SPARE_REGISTER, stride);
    interleave(c, HIGH, AD_SPARE_REGISTER, first, second);
    store(c, behind(to, wide ? stride : 2 * stride), AD_SPARE_REGISTER, stride);
}

/* ---- the rest ---- */

/* An instruction on registers of 64 bits, of which `reg` and the other one may be any. */
static bool wide(ad_code *c, int opcode, int reg, int other, int mode)
{
    if (!reserve(c)) return false;
    c->instructions++;
    byte(c, 0x48 | (reg < 8 ? 0 : 4) | (other < 8 ? 0 : 1));
    byte(c, opcode);
    byte(c, mode | (reg & 7) << 3 | (other & 7));
    return true;
}
enum { MEMORY = 0x80, REGISTER = 0xc0 }; /* what the other one is; of memory, where it is */

static void from_list(ad_code *c, int opcode, int reg, int64_t entry)
{
    if (wide(c, opcode, reg, LIST, MEMORY)) word(c, entry * (int64_t)sizeof(void *));
}

void ad_encode_pointer(ad_code *c, int to, int64_t entry)
{
    from_list(c, 0x8b, pointers[to], entry); /* mov */
}

void ad_encode_row_pointer(ad_code *c, int to, int64_t entry, int64_t row_bytes)
{
    if (wide(c, 0x69, pointers[to], INDEX, REGISTER)) word(c, row_bytes); /* imul */
    from_list(c, 0x03, pointers[to], entry);                              /* add */
}

void ad_encode_return(ad_code *c)
{
    if (packed(c)) { /* vzeroupper: code without vectors would be slow */
        ad_encode_bytes(c, (const uint8_t[]){ 0xc5, 0xf8, 0x77 }, 3);
        c->instructions++;
    }
    if (!reserve(c)) return;
    c->instructions++;
    byte(c, 0xc3);
}

/* ---- loops ---- */

enum { ADD = 0, COMPARE = 7 }; /* with a number of four bytes */

static void with_number(ad_code *c, int what, int reg, int64_t value)
{
    if (wide(c, 0x81, what, reg, REGISTER)) word(c, value);
}

static void jump_if_less(ad_code *c, int64_t to)
{
    if (!reserve(c)) return;
    c->instructions++;
    byte(c, 0x0f);
    byte(c, 0x8c);
    word(c, to - (c->n + 4));
}

void ad_encode_index(ad_code *c, int64_t value)
{
    if (wide(c, 0xc7, 0, INDEX, REGISTER)) word(c, value); /* mov */
}

void ad_encode_repeat(ad_code *c, int64_t step, int64_t end, int64_t head)
{
    with_number(c, ADD, INDEX, step);
    with_number(c, COMPARE, INDEX, end);
    jump_if_less(c, head);
}

void ad_encode_advance(ad_code *c, int pointer, int64_t bytes)
{
    with_number(c, ADD, pointers[pointer], bytes);
}

void ad_encode_next_rows(ad_code *c, int64_t step, int64_t head)
{
    with_number(c, ADD, INDEX, step);
    wide(c, 0x39, ROWS_END, INDEX, REGISTER); /* cmp */
    jump_if_less(c, head);
}

int64_t ad_encode_jump(ad_code *c)
{
    if (!reserve(c)) return 0;
    c->instructions++;
    byte(c, 0xe9);
    word(c, 0);
    return c->n;
}

void ad_encode_land(ad_code *c, int64_t jump)
{
    const int32_t way = (int32_t)(c->n - jump);
    if (!c->failed) memcpy(c->byte + jump - sizeof way, &way, sizeof way);
}
