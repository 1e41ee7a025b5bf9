/* Part of nn.h: several processes that train one model.
 *
 * Every process (rank) has the whole model and computes the gradient of its share of each batch;
 * the mean over all shares is what each of them takes its step with (synchronous data parallelism).
 * The result is that of one process with the whole batch, to rounding, and the same bits from run
 * to run: shares are added in the order of the ranks. nn/mpi.h makes a group of the processes that
 * mpirun has started; a transport of one's own is another group. docs/parallel.md explains what it
 * costs. */
#ifndef COSTATE_PARALLEL_H
#define COSTATE_PARALLEL_H
#include "model.h"
#ifdef __cplusplus
extern "C" {
#endif

/* The members of a group and how they send each other bytes. Calls are collective: every rank makes
 * the same ones in the same order, from one thread at a time. 0, or -1 with the message in error
 * (of error_size bytes); after that the group is of no more use. */
typedef struct nn_processes nn_processes;
struct nn_processes {
    const char *name; /* of the transport, for messages */
    int rank, size;   /* this process, of so many; from 0 */
    /* part r of `from` goes to rank r, part r of `to` comes from rank r; parts of so many bytes */
    int (*exchange)(nn_processes *group, size_t bytes, const void *from, void *to, char *error,
                    size_t error_size);
    /* part r of `all` is what rank r has in `mine` */
    int (*gather)(nn_processes *group, size_t bytes, const void *mine, void *all, char *error,
                  size_t error_size);
    void *context; /* the transport's */
};

/* Sums of double numbers over all ranks, in place, added in the order of the ranks: for metrics,
 * counts, statistics. */
int nn_processes_sum(nn_processes *group, int64_t n, double *values, char *error,
                     size_t error_size);
/* Whether all ranks have the same model (names, shapes) and the same numbers in theta, bit for bit.
 * Otherwise an error that names the first rank that differs from rank 0. */
int nn_processes_agree(nn_processes *group, nn_theta *theta, char *error, size_t error_size);

/* Makes the mean of gradients: memory for it, so that a step allocates nothing. */
typedef struct nn_reduction nn_reduction;
/* For gradients laid out as theta. The group is borrowed. NULL when memory is short. */
nn_reduction *nn_reduction_new(nn_processes *group, const nn_theta *theta);
void nn_reduction_free(nn_reduction *reduction); /* NULL is allowed */
/* What a rank adds to a step. */
typedef struct {
    double loss;         /* mean over its share */
    int64_t rows;        /* of its share; 0: it has none, and its loss and gradient do not count */
    int64_t step;        /* the same on all ranks, or they are not at the same place: an error */
    const char *failure; /* NULL, or why it has no gradient: all ranks then get this as the error */
} nn_share;
/* gradient becomes sum_r (rows_r / rows) gradient_r, and share->loss likewise, with share->rows =
 * sum_r rows_r. */
int nn_reduction_step(nn_reduction *reduction, nn_share *share, nn_theta *gradient, char *error,
                      size_t error_size);

#ifdef __cplusplus
}
#endif
#endif
