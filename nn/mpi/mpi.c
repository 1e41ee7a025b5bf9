/* The transport of groups by MPI. */
#include "nn/mpi.h"
#include <mpi.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    nn_processes group;
    MPI_Comm comm;
    int initialised_here;
} mpi_group;

static int failed(int code, const char *what, char *error, size_t error_size)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (code == MPI_SUCCESS) return 0;
    MPI_Error_string(code, text, &length);
    if (error_size) snprintf(error, error_size, "MPI: %s: %s", what, text);
    return -1;
}

/* MPI counts in int: longer parts go in blocks, of which one datatype describes one. */
static int datatype(size_t bytes, MPI_Datatype *type, char *error, size_t error_size)
{
    enum { BLOCK = 1 << 20 };
    int blocks = (int)(bytes / BLOCK), rest = (int)(bytes % BLOCK);
    if (bytes / BLOCK > INT_MAX) {
        if (error_size) snprintf(error, error_size, "MPI: %zu bytes for each rank", bytes);
        return -1;
    }
    int length[2] = { blocks, rest };
    MPI_Aint place[2] = { 0, (MPI_Aint)(bytes - (size_t)rest) };
    MPI_Datatype block, part[2] = { MPI_BYTE, MPI_BYTE };
    int code = MPI_Type_contiguous(BLOCK, MPI_BYTE, &block);
    part[0] = block;
    if (code == MPI_SUCCESS) code = MPI_Type_create_struct(2, length, place, part, type);
    if (code == MPI_SUCCESS) code = MPI_Type_commit(type);
    MPI_Type_free(&block);
    return failed(code, "a datatype", error, error_size);
}

static int exchange(nn_processes *group, size_t bytes, const void *from, void *to, char *error,
                    size_t error_size)
{
    const mpi_group *g = group->context;
    MPI_Datatype type;
    if (datatype(bytes, &type, error, error_size)) return -1;
    int code = MPI_Alltoall(from, 1, type, to, 1, type, g->comm);
    MPI_Type_free(&type);
    return failed(code, "MPI_Alltoall", error, error_size);
}

static int gather(nn_processes *group, size_t bytes, const void *mine, void *all, char *error,
                  size_t error_size)
{
    const mpi_group *g = group->context;
    MPI_Datatype type;
    if (datatype(bytes, &type, error, error_size)) return -1;
    int code = MPI_Allgather(mine, 1, type, all, 1, type, g->comm);
    MPI_Type_free(&type);
    return failed(code, "MPI_Allgather", error, error_size);
}

nn_processes *nn_mpi_new(char *error, size_t error_size)
{
    int before = 0, level = 0;
    mpi_group *g = calloc(1, sizeof *g);
    if (!g) {
        if (error_size) snprintf(error, error_size, "nn_mpi_new: out of memory");
        return NULL;
    }
    MPI_Initialized(&before);
    if (!before && failed(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level), "MPI_Init",
                          error, error_size)) {
        free(g);
        return NULL;
    }
    g->initialised_here = !before;
    g->group =
        (nn_processes){ .name = "MPI", .exchange = exchange, .gather = gather, .context = g };
    int code = MPI_Comm_dup(MPI_COMM_WORLD, &g->comm);
    if (code == MPI_SUCCESS) code = MPI_Comm_set_errhandler(g->comm, MPI_ERRORS_RETURN);
    if (code == MPI_SUCCESS) code = MPI_Comm_rank(g->comm, &g->group.rank);
    if (code == MPI_SUCCESS) code = MPI_Comm_size(g->comm, &g->group.size);
    if (!failed(code, "a communicator", error, error_size)) return &g->group;
    free(g);
    return NULL;
}

void nn_mpi_free(nn_processes *group)
{
    if (!group) return;
    mpi_group *g = group->context;
    MPI_Comm_free(&g->comm);
    if (g->initialised_here) MPI_Finalize();
    free(g);
}
