/* costate: groups of the processes that mpirun has started (nn/parallel.h). A library of its own,
 * libcostate-mpi (pkg-config costate-mpi), which is built where MPI is found.
 *
 *     mpirun -np 4 ./program
 */
#ifndef COSTATE_MPI_H
#define COSTATE_MPI_H
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* The group of all processes. MPI is initialised unless the program has done so. A program that was
 * not started by mpirun is a group of one. One group a process at a time. A process that ends
 * without nn_mpi_free ends all of them: mpirun says which it was. NULL with the message in error.
 */
nn_processes *nn_mpi_new(char *error, size_t error_size);
/* To be called by all processes, at the end; NULL is allowed. MPI is finalised where nn_mpi_new had
 * initialised it. */
void nn_mpi_free(nn_processes *group);

#ifdef __cplusplus
}
#endif
#endif
