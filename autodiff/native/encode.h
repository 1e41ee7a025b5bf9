/* Internal to native code: instructions as bytes. encode.c alone knows how x86-64 is encoded; the
 * instructions are those of AVX2 and FMA in registers 0 to 15, on single numbers or on vectors of
 * as many as there are lanes. */
#ifndef COSTATE_NATIVE_ENCODE_H
#define COSTATE_NATIVE_ENCODE_H
#include "autodiff/extension.h"
#include "autodiff/base/memory.h"

/* SPARE: loads and stores of strided vectors work in it. */
enum { AD_NUMBER_REGISTERS = 16, AD_SPARE_REGISTER = 15, AD_POINTER_REGISTERS = 7 };
/* In a loop over elements the last of the registers for pointers is the index: bytes that it has
 * gone. In one over rows it is the row, and the one before it where they end. */
enum { AD_LOOP_POINTERS = AD_POINTER_REGISTERS - 1, AD_ROW_POINTERS = AD_POINTER_REGISTERS - 2 };
enum { AD_VECTOR_BYTES = 32 };

/* Code under construction. Its numbers, if it has any, stand at its beginning. */
typedef struct {
    ad_dtype dtype;
    int lanes; /* numbers in a register: 1, or as many as a vector has */
    uint8_t *byte;
    int64_t n, capacity, instructions;
    bool failed; /* memory was short */
} ad_code;

/* Where an operand is. FRAME: `at` bytes into the frame. ARRAY: `at` bytes behind what a pointer
 * register points to, and as many more as the index says. CODE: `at` bytes from the beginning of
 * the code. */
typedef enum { AD_IN_REGISTER, AD_IN_FRAME, AD_IN_ARRAY, AD_IN_CODE } ad_where;
typedef struct {
    ad_where where;
    int reg; /* REGISTER: of numbers; ARRAY: of pointers */
    int64_t at;
    bool indexed;
} ad_operand_at;

/* to = a op b. SQRT and FLOOR are of b alone. AND_NOT is of the complement of a and b. BLEND takes
 * b where the mask's sign is set, else a. */
typedef enum {
    AD_DO_ADD,
    AD_DO_SUB,
    AD_DO_MUL,
    AD_DO_DIV,
    AD_DO_MIN, /* a < b ? a : b */
    AD_DO_MAX, /* a > b ? a : b */
    AD_DO_SQRT,
    AD_DO_FLOOR,
    AD_DO_AND,
    AD_DO_AND_NOT,
    AD_DO_OR,
    AD_DO_XOR,
    AD_DO_LESS, /* comparisons: all bits, or none */
    AD_DO_LESS_EQUAL,
    AD_DO_EQUAL,
    AD_DO_NOT_EQUAL,
    AD_DO_UNORDERED,
    AD_DO_BLEND,
    AD_DO_FMA, /* to += a * b, rounded once */
    AD_DO_COUNT
} ad_do;
/* Whether b may be in memory, where there is one number: logic and BLEND would read more. */
bool ad_encode_reads_memory(ad_do what);

void ad_encode(ad_code *code, ad_do what, int to, int a, ad_operand_at b, int mask);
void ad_encode_load(ad_code *code, int to, ad_operand_at from);
void ad_encode_store(ad_code *code, ad_operand_at to, int from);
/* A number in every lane. */
void ad_encode_spread(ad_code *code, int to, ad_operand_at from);
/* A number a lane, so many bytes one from the other. */
void ad_encode_load_strided(ad_code *code, int to, ad_operand_at from, int64_t stride);
void ad_encode_store_strided(ad_code *code, ad_operand_at to, int from, int64_t stride);
/* The same for two vectors, of which the second one's numbers stand behind the first one's. */
void ad_encode_load_pairs(ad_code *code, int first, int second, ad_operand_at from, int64_t stride);
void ad_encode_store_pairs(ad_code *code, ad_operand_at to, int first, int second, int64_t stride);
void ad_encode_move(ad_code *code, int to, int from);
/* The pointer register gets an entry of the list of pointers. */
void ad_encode_pointer(ad_code *code, int to, int64_t entry);
/* The same, and as many bytes further for every row before the one at hand. */
void ad_encode_row_pointer(ad_code *code, int to, int64_t entry, int64_t row_bytes);
void ad_encode_advance(ad_code *code, int pointer, int64_t bytes);
/* The row grows by `step`; while it is below the end, the code from `head` on is run again. */
void ad_encode_next_rows(ad_code *code, int64_t step, int64_t head);
void ad_encode_return(ad_code *code);
void ad_encode_index(ad_code *code, int64_t value);
/* The index grows; while it is below `end`, the code from `head` on is run again. */
void ad_encode_repeat(ad_code *code, int64_t step, int64_t end, int64_t head);
/* Jumps to where ad_encode_land is called with the number that this returns. */
int64_t ad_encode_jump(ad_code *code);
void ad_encode_land(ad_code *code, int64_t jump);
/* Bytes that are no instruction. */
void ad_encode_bytes(ad_code *code, const void *bytes, size_t n);

#endif
