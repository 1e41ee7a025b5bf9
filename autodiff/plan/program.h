/* Internal: compiled programs. ad_compile copies what the outputs reach into an intermediate
 * representation (ir.c), passes rewrite it (simplify.c with scale.c, fold.c, layout.c, combine.c),
 * plan.c, lanes.c, fuse.c and pieces.c decide when and where every value is computed, and run.c
 * replays the plan in the memory of workspace.c.
 *
 * A program is a sequence of phases U_0 B_0 U_1 B_1 ...: U_p works on whole arrays (operations
 * without rows, finished reductions, opaque operations), B_p is a body that runs block by block
 * over the rows. Large gradients of weights are products over many rows at once: where a body has
 * some, it goes on by stretches of many blocks, and after each stretch come its sums. */
#ifndef COSTATE_PROGRAM_H
#define COSTATE_PROGRAM_H
#include "autodiff/compile/ir.h"
#include "autodiff/kernels/kernel.h"
#include "autodiff/native/native.h"
#include <stdatomic.h>

enum { AD_LANES = 8, AD_MIN_BLOCK_ROWS = 16, AD_MAX_BLOCK_ROWS = 128, AD_BLOCK_BYTES = 552 * 1024 };

typedef enum {
    AD_PLACE_NONE,     /* never read from memory: opaque tokens, unused inputs */
    AD_PLACE_CONSTANT, /* the program's constants */
    AD_PLACE_INPUT,    /* the caller's array */
    AD_PLACE_UNIFORM,  /* workspace, one array of fixed size */
    AD_PLACE_LANES,    /* workspace, one array a lane; the first holds the finished reduction */
    AD_PLACE_SUM,      /* workspace, one array: a sum over rows that is made in pieces */
    AD_PLACE_COMPLETE, /* workspace, all rows */
    AD_PLACE_STRETCH,  /* workspace, the rows of the stretch at hand */
    AD_PLACE_BLOCK,    /* the thread's block memory */
    AD_PLACE_CHUNK,    /* the thread's memory for the chunk at hand of a fused group */
    AD_PLACE_OUTPUT /* rows of the caller's array, or block memory when the output is not wanted */
} ad_place;

/* Where and when a value is. Values that are views (reshapes; slices of consecutive elements
 * without rows) share their root's memory; so do reductions that are accumulated in the root's
 * lanes, and their sum. */
typedef struct {
    ad_place place; /* of the root */
    int32_t root;
    int64_t offset; /* bytes from the root's start (values without rows) */
    int phase;
    /* root: bytes from the start of its region; opaque token: index of its state in a workspace */
    int64_t position;
    int64_t bytes; /* root: of one row, or of the whole when it has no rows */
    bool summed;   /* root in lanes: a sum over the rows that only outputs read */
    /* Steps that write it first and use it last: of a root in a block or chunk by their number in
     * the body; of a uniform root by that in the program, which is their number itself where it is
     * there to the end. */
    int32_t first, last;
} ad_slot;

typedef struct {
    int32_t root, pointer; /* pointer: the number of its pointer, the root's or an ad_repeat's */
    int64_t offset;
    int64_t row_bytes; /* in a group: bytes from row to row; 0: the same in every chunk */
    bool far;          /* in a group: of an array that it does not make, not in the caches as yet */
    bool own;          /* in a group on whole arrays: each thread has a chunk of its own */
} ad_ref;

/* Copies of an array without rows, one for each row of a chunk: a group's kernels see it as large
 * as their results. */
typedef struct {
    int32_t root, pointer;
    int32_t next; /* while planning: another with the same hash, as its number + 1 */
    int64_t offset, row_bytes, rows, position;
} ad_repeat;

typedef enum { AD_STEP_KERNEL, AD_STEP_FILL, AD_STEP_ROW_COUNT, AD_STEP_OPAQUE } ad_step_kind;

typedef struct {
    ad_step_kind kind;
    int32_t value;
    ad_kernel kernel; /* AD_STEP_KERNEL */
    ad_ref *operand;  /* one for each operand of the value */
    ad_shape *shapes; /* of the operands, as the kernel sees them */
    const int32_t
        *result;        /* AD_STEP_OPAQUE: the values of its results, -1 where nobody needs one */
    bool state_used;    /* AD_STEP_OPAQUE: another one takes its token */
    int32_t begin, end; /* the steps of its group; of its own alone when it is not fused */
    /* In a group whose kernels see every element as a row: so many elements has a row of its
     * arrays, or a whole array. */
    int64_t elements;
    /* in a group: its kernel makes the values of so many steps that follow in the same pass. 1: and
     * its own; 2: but not its own, which is a code that only these two read */
    int paired;
    bool far;           /* in a group: the result has an array of all rows, as ad_ref's */
    bool own;           /* as ad_ref's */
    bool sums;          /* in a group on whole arrays: the step is a sum of all elements */
    int64_t leaves;     /* of such a sum: bytes from the start of scratch memory to its leaves */
    int64_t chunk_rows; /* in a group: rows of a chunk */
    /* in a group: bytes of the result from row to row; 0: the same memory for every chunk */
    int64_t row_bytes;
} ad_step;

/* A root in lanes, the step that begins it, and where the list of pointers says what it has before
 * native code adds to it. */
typedef struct {
    int32_t root, step, before;
    bool max; /* not a sum but a maximum */
} ad_row_sum;

typedef struct {
    int32_t parameter_steps[2]; /* range of steps; only U_0 has some */
    int32_t call_steps[2];
    int32_t body_steps[2];
    int32_t sum_steps[2]; /* sums over the rows of a stretch, once its blocks are done */
    int nmoving, nblock, nchunk, nreduction, nsum, nrepeat;
    /* roots with rows that the body reads or writes in complete arrays: their pointers go from
     * block to block */
    const int32_t *moving;
    const int32_t *block;     /* roots in block memory */
    const int32_t *chunk;     /* roots in chunk memory */
    const int32_t *reduction; /* steps of the body that reduce over its rows */
    const ad_row_sum *sum;    /* the roots of their results */
    ad_repeat *repeat;
    double row_work; /* the body's, as ad_row_work has it */
    double sum_work; /* that of a row in the sums */
} ad_phase;

/* An output: where it is computed, and how many elements it has (of one row, if it has rows). */
typedef struct {
    int32_t root;
    bool in_place; /* in the caller's array, if there is one and it is not added to */
    bool lane; /* a sum over rows, which is there so where machine code alone makes the only row */
    bool last; /* of those that have this root and one of these: none comes behind */
    bool rows;
    bool summed;                    /* as in ad_slot */
    int64_t offset, size, position; /* position: of the root, as in ad_slot */
} ad_output;

/* Data of an opaque operation that the program holds a reference of. */
typedef struct ad_held {
    struct ad_held *next;
    const ad_opaque_class *class_;
    void *opaque;
} ad_held;

/* Steps that follow each other: machine code, or left to the interpreter. */
typedef struct {
    int32_t begin, end;
    int code;                /* its number in native; -1: none */
    ad_native_function call; /* of machine code */
    /* For several rows: with more the interpreter is faster; and whether the step is one of those
     * of the native piece before it, and comes behind the others. */
    int64_t most_rows;
    bool behind;
} ad_piece;

/* The steps of a section of a phase as pieces; none: there is no machine code for it. */
typedef enum { AD_SECTION_PARAMETER, AD_SECTION_CALL, AD_SECTION_BODY, AD_SECTIONS } ad_section;
typedef struct {
    ad_piece *piece;
    int32_t n, native; /* native: those that are machine code */
    bool whole;        /* one piece of machine code is all there is */
} ad_piece_list;

/* A value of a body that goes from piece to piece, in the thread's memory for it. */
typedef struct {
    int32_t value;
    int64_t position;
} ad_handed;

/* Native code of a program, made when it is first run for one row or has none (pieces.c), or for
 * several rows (several.c). */
typedef struct {
    ad_native *native;
    ad_pool pool;
    ad_piece_list (*phase)[AD_SECTIONS];
    bool whole;          /* each body is one piece of machine code, or empty */
    ad_native_run alone; /* machine code that is all a run has to do; NULL: there is more */
    int64_t frame;       /* bytes of memory that the code works in */
    int lanes;           /* rows at a time */
    int nhanded;
    ad_handed *handed;
    int64_t handed_bytes;
} ad_pieces;

struct ad_program {
    atomic_int references;
    ad_pool pool;
    ad_held *held;
    ad_ir ir;
    bool has_rows;
    int64_t most_rows; /* with more the caller's arrays would have more bytes than can be counted */
    const char *isa;   /* as ad_isa gave it when the kernels were chosen */
    ad_slot *slot;     /* one a value */
    ad_output *output; /* one an output */
    int32_t nstep;
    ad_step *step;
    int nphase;
    ad_phase *phase;
    int nopaque;
    int32_t *opaque; /* opaque values, in the order of their states */
    int max_operands, max_results;
    int64_t block_rows;
    int64_t group; /* blocks that a lane adds up one after the other (AD_CHAIN) */
    void *constants;
    int64_t constant_bytes, uniform_bytes, lane_bytes, block_bytes, chunk_bytes, repeat_bytes;
    int32_t nrepeat, nsum; /* nsum: roots in lanes */
    /* the most intermediates of one row that are live at a time, in any body */
    int64_t block_row_bytes;
    int64_t complete_row_bytes; /* of complete arrays */
    bool divide, chunks;        /* as asked for by ad_compile_options */
    int64_t stretch_rows;       /* whole blocks */
    int64_t stretch_row_bytes;  /* of arrays that hold the rows of a stretch */
    int ncomplete;
    int32_t *complete;         /* roots in complete arrays */
    int64_t whole_chunk_bytes; /* of groups on whole arrays, for each thread */
    /* of steps on whole arrays, of their pieces for each thread, and of bodies for each thread */
    int64_t uniform_scratch, piece_scratch, block_scratch;
    bool interpreted; /* there is to be no native code */
    /* for one row, and for several; NULL: nobody has asked for them yet */
    _Atomic(const ad_pieces *) pieces[2];
    int64_t refused; /* bytes that the plan asked for in vain; -1: more than can be addressed */
    const char *without_kernel; /* the operation for which the plan found no kernel */
};

/* What tests vary: every choice gives the same values to rounding. */
typedef struct {
    uint32_t without;   /* bit k: pass k is left out */
    int64_t block_rows; /* 0: as planned */
    bool interpreted;   /* without native code */
    bool divide;        /* all sums over rows in pieces that can be, by short stretches */
    bool chunks;        /* small arrays, and narrow rows, by short chunks of elements too */
} ad_compile_options;
ad_program *ad_compile_with(const ad_compile_options *options, int ninput, const ad_var *inputs,
                            int noutput, const ad_var *outputs);
const char *ad_pass_name(int pass); /* NULL from their number on */

/* Makes the plan, with p->block_rows unless that is 0; false when memory is short. */
bool ad_plan(ad_program *program);
/* Parts of the plan. Makes reductions that are added up share lanes (lanes.c). */
void ad_join_reductions(ad_program *program);
/* The program's native code for one row or for several, made at the first call; without any where
 * there shall be none, or where memory is short. Several threads may ask at a time. */
const ad_pieces *ad_program_pieces(const ad_program *program, bool several);
void ad_pieces_free(const ad_pieces *pieces);
/* Elements of a chunk of arrays that are gone through element by element, and whether so many
 * elements are more than so many chunks (chunks.c). */
enum { AD_CHUNK_BYTES = 4096 }; /* of each array: those of a few steps stay in a level 1 cache */
int64_t ad_chunk_elements(const ad_program *program);
bool ad_makes_chunks(const ad_program *program, int64_t elements, int chunks);
/* Makes the kernel of a step of a group see every element as a row. */
void ad_see_elements(const ad_program *program, ad_step *step);
/* Bytes of a chunk of its result. */
static inline int64_t ad_chunk_bytes(const ad_program *p, const ad_step *s)
{
    const int64_t row = s->elements ? (int64_t)ad_dtype_size(p->ir.dtype) : p->slot[s->value].bytes;
    return ad_size_mul(row, s->chunk_rows);
}
/* Groups the steps of bodies (fuse.c). */
bool ad_fuse(ad_program *program);
/* Groups the steps on whole arrays (chunks.c). */
bool ad_group_whole(ad_program *program);
/* Makes groups on whole arrays make again what is cheap, instead of keeping it (again.c). */
bool ad_remake_whole(ad_program *program);
/* Places values without rows in the memory of workspaces (whole.c). */
bool ad_plan_whole(ad_program *program);
/* Places values in block memory and, unless p->block_rows says it, chooses how many rows a block
 * has (block.c). */
bool ad_plan_blocks(ad_program *program);
/* The work of some steps on one row in bytes that are written, or what takes as long (work.c). */
double ad_row_work(const ad_program *program, const int32_t *steps);
/* NULL, or what is wrong with the plan. */
const char *ad_verify_plan(const ad_program *program, int32_t *where);
static inline int64_t ad_block_count(const ad_program *p, int64_t rows)
{
    return rows / p->block_rows + (rows % p->block_rows != 0);
}
/* Whether lanes have more blocks than a group: then each has two more arrays, AD_LANES and twice
 * AD_LANES further on, for the group at hand and for what rounding loses of the sum of groups. */
static inline bool ad_has_groups(const ad_program *p, int64_t blocks)
{
    return blocks > AD_LANES * p->group;
}

#endif
