/* Internal: the tree of a Brownian path. Its nodes are intervals between points, and have the
 * standardised numbers of the path over them. The root is the whole interval. A node of several
 * cells is split at the boundary in the middle of its cells, a cell or a part of one at its middle
 * in time. Numbers of the parts follow from those of the whole and as many new ones, drawn for the
 * point at which it is split, by an orthogonal matrix, so that all are independent again.
 *
 * Above the cells there is W alone: areas of different cells are independent of each other and of
 * all increments, so a cell draws its own when it is asked for them. Below, all three are carried.
 *
 * A walk over the tree makes a list of operations on arrays, which the caller does for all rows,
 * piece by piece. Each level keeps the two parts of the node that was split last, so walks in order
 * split every node once. */
#ifndef COSTATE_ODE_NOISE_TREE_H
#define COSTATE_ODE_NOISE_TREE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where a point is: its cell in the upper half, the part of it that is past, in 2^-32, in the
 * lower. */
typedef uint64_t ode_noise_point;
enum { ODE_NOISE_LEVELS = 66, ODE_NOISE_OPERATIONS = 128 };
#define ODE_NOISE_CELL ((ode_noise_point)1 << 32)

typedef enum {
    ODE_NOISE_ROOT,  /* draws W of the root */
    ODE_NOISE_AREA,  /* draws one group of areas of a cell, H or K */
    ODE_NOISE_SPLIT, /* W of the parts of a node of several cells */
    ODE_NOISE_HALVE, /* all three of the halves of a cell, or of a part of one */
    ODE_NOISE_FIRST, /* the result is a copy of the node */
    ODE_NOISE_JOIN   /* the result goes on by the node */
} ode_noise_operation_kind;

typedef struct {
    ode_noise_operation_kind kind;
    int level, side; /* the node; parts are one level lower */
    int group;       /* AREA */
    ode_noise_point point;
    double left, right; /* SPLIT, JOIN: shares of the length before and after the point */
} ode_noise_operation;

/* The last node split on the level above, and its parts. */
typedef struct {
    ode_noise_point lo, hi; /* equal: none yet */
    int groups[2];          /* that are there of the parts: 1 to 3 of W, H, K */
} ode_noise_level;

typedef struct ode_noise_tree ode_noise_tree;
struct ode_noise_tree {
    double t0, t1; /* t0 < t1 */
    int64_t cells;
    const double *grid; /* increasing, or NULL */
    double close;       /* times that are no farther apart are one */
    double past;        /* times so far outside are at the end */
    int groups;         /* that are asked for: 1 to 3 */
    ode_noise_level level[ODE_NOISE_LEVELS];
    ode_noise_operation operation[ODE_NOISE_OPERATIONS];
    int noperation;
    double joined; /* length of the result so far */
    /* does the operations: called when the list is full */
    void (*flush)(ode_noise_tree *tree);
    /* makes room for the parts on a level, with H and K where areas is true; false: no memory */
    bool (*reserve)(ode_noise_tree *tree, int level, bool areas);
};

/* With t0, t1, cells, grid, past set: empties the tree. -1 with a message: cells are too small. */
int ode_noise_tree_open(ode_noise_tree *tree, char *error, size_t error_size);
/* Forgets what is in the arrays. */
void ode_noise_forget(ode_noise_tree *tree);
/* The point nearest to a time. -1 with a message: the time is outside. */
int ode_noise_find(const ode_noise_tree *tree, double t, ode_noise_point *point, char *error,
                   size_t error_size);
/* What times are rounded to in the cell at a point. */
double ode_noise_resolution(const ode_noise_tree *tree, ode_noise_point point);
/* Lists the operations that lead to the numbers from p to q, p < q. false: no memory. */
bool ode_noise_walk(ode_noise_tree *tree, ode_noise_point p, ode_noise_point q);

#endif
