/* Internal: what a program is run in. */
#ifndef COSTATE_WORKSPACE_H
#define COSTATE_WORKSPACE_H
#include "autodiff/plan/program.h"

/* What one thread works with. The pointers are those of the roots, for the block at hand. */
typedef struct {
    char *memory;
    char **pointer;
    const void **in;
    char *block, *chunk, *repeat, *scratch;
    char *frame, *handed; /* of native code for several rows */
    int64_t entered;      /* number of the body that the pointers are those of */
    int64_t apart;        /* in a group on whole arrays: bytes from the first thread's chunks */
} ad_thread_memory;

struct ad_workspace {
    ad_program *program;
    int threads,
        nthread; /* threads: as asked for, negative ones too; nthread: those that have memory */
    ad_thread_memory *thread;
    /* values without rows, and the scratch memory of their kernels; NULL: there has been no run */
    char *fixed;
    char *scratch;
    bool begun;               /* there has been a run */
    const ad_pieces *pieces;  /* for one row; NULL: the first run was for several */
    const ad_pieces *several; /* NULL: there has been no run of several */
    char *frame;              /* memory of native code for one row */
    char *lanes;
    char *stretch;
    int64_t stretch_rows; /* rows that the arrays of a stretch hold */
    int nlane;
    char *complete;
    int64_t rows;     /* rows that the complete arrays hold */
    int64_t reserved; /* rows for which all memory is there */
    /* Of the latest run, if it had its memory: another one of so many rows needs no more. Whether
     * its bodies are a piece of machine code each, and code that is all it has to do, if any. */
    bool ready;
    int64_t ready_rows;
    bool whole;
    ad_native_run alone;
    bool plain; /* and computes each output in an array of the caller's of its own */
    size_t bytes;
    int64_t limit;   /* of bytes; 0: none */
    int64_t granted; /* rows (1: of a program without them) that are known to be within it */
    int64_t spare;   /* what it leaves */
    int64_t *most;   /* where there is a limit: what the state of an opaque operation may hold */
    /* Of every root: its array as a whole. Of what is in block memory: as a run of one row has it,
     * once there has been one. NULL: not there. */
    char **base;
    ad_thread_memory row; /* for a run of one row: memory of the first thread, pointers of base */
    /* Sums that wait for further runs: whether there are such; by root, whether it is one; the rows
     * of those that have run (0: none has) and where the outputs go. */
    bool defers, *waiting;
    int64_t waiting_rows, waiting_terms; /* terms: that a lane has added up, one after the other */
    void **waiting_out;
    const void **in;
    void **in_state, **out;
    ad_shape *in_shape, *out_shape;
    void **state; /* of the opaque operations */
    int nstate;   /* states made so far */
    bool parameters_done;
    /* What every run writes is apart from what its threads read. */
    int64_t bodies; /* that have run */
    atomic_flag busy;
    atomic_bool refused; /* a run was turned away because another one was under way */
    char error[640];
    char outside[640]; /* of the latest run: which operation was outside its domain; "": none */
    char warning[640]; /* of the latest run: what an operation doubts in its results; "": nothing */
};

/* Writes the workspace's error; -1. */
int ad_workspace_fail(ad_workspace *workspace, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 2, 3)))
#endif
    ;
/* Makes the results of an opaque operation NaN. */
void ad_opaque_fill_nan(const ad_opaque_call *call, int nout);
/* Memory for so many rows, and the states of opaque operations. 0, or -1 with the workspace's error
 * written. */
int ad_workspace_reserve(ad_workspace *workspace, int64_t rows);

#endif
