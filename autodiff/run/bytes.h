/* Internal: what a workspace holds in memory, reckoned from the program before there is one. */
#ifndef COSTATE_BYTES_H
#define COSTATE_BYTES_H
#include "autodiff/run/workspace.h"

/* Bytes by where they are; -1 in `total`: more than can be counted. */
typedef struct {
    int64_t whole;    /* values without rows, with the scratch memory of their kernels */
    int64_t lists;    /* the workspace itself, its lists of pointers */
    int64_t complete; /* arrays of all rows */
    int64_t stretch;  /* rows that are kept for large sums */
    int64_t lanes;    /* sums over the rows */
    int64_t threads;  /* what each thread works with, native code's frames too */
    int64_t states;   /* of opaque operations */
    int64_t total;
    int64_t step_bytes; /* more for each step of operations that find out how many they take */
    int growing;        /* how many of those there are */
} ad_account;
/* Of a workspace for so many threads (>= 1) that runs so many rows first. */
void ad_account_make(ad_account *account, const ad_program *program, int64_t rows, int threads);
/* Of opaque operation k (by the number of its state). */
void ad_account_state(const ad_program *program, int k, int64_t rows, int threads,
                      ad_opaque_account *account);
/* What takes most of it: "[rows,64] of tanh for all rows, 2560000 bytes". */
void ad_account_largest(const ad_account *account, const ad_program *program, int64_t rows,
                        int threads, char *text, size_t size);

/* Parts of it, as workspace.c lays them out; -1: more than can be counted. */
int64_t ad_whole_bytes(const ad_program *program, int threads);
int64_t ad_complete_bytes(const ad_program *program, int64_t rows);
int64_t ad_stretch_bytes(const ad_program *program, int64_t rows);
int ad_lane_count(const ad_program *program, int64_t blocks);
int64_t ad_list_bytes(int64_t n); /* of so many pointers */
int64_t ad_thread_bytes(const ad_program *program);
int64_t ad_frame_bytes(const ad_pieces *several); /* of native code for several rows, a thread */

#endif
