/* Points of a Brownian path, and walks over its tree. */
#include "ode/noise/tree.h"
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* ---- times and points ---- */

static double boundary(const ode_noise_tree *tree, int64_t k)
{
    if (tree->grid) return tree->grid[k];
    if (k == tree->cells) return tree->t1;
    return tree->t0 + (tree->t1 - tree->t0) * ((double)k / (double)tree->cells);
}

static double width(const ode_noise_tree *tree, int64_t cell)
{
    return boundary(tree, cell + 1) - boundary(tree, cell);
}

void ode_noise_forget(ode_noise_tree *tree)
{
    for (int k = 0; k < ODE_NOISE_LEVELS; k++) tree->level[k] = (ode_noise_level){ 0 };
}

int ode_noise_tree_open(ode_noise_tree *tree, char *error, size_t error_size)
{
    tree->close = 8 * DBL_EPSILON * fmax(fabs(tree->t0), fabs(tree->t1));
    tree->past = fmax(tree->past, tree->close);
    ode_noise_forget(tree);
    const int64_t looked_at = tree->grid ? tree->cells : 1;
    for (int64_t k = 0; k < looked_at; k++) {
        if (width(tree, k) > 8 * tree->close) continue;
        snprintf(error, error_size,
                 "the cells of a Brownian path must increase or decrease by more than rounding: "
                 "cell %" PRId64 " of %" PRId64 " is from t = %.17g to %.17g",
                 k, tree->cells, boundary(tree, k), boundary(tree, k + 1));
        return -1;
    }
    return 0;
}

/* The last cell that begins at t or before; the first, or the last one, where t is outside. */
static int64_t cell_at(const ode_noise_tree *tree, double t)
{
    int64_t low = 0, high = tree->cells - 1;
    if (!tree->grid) {
        const double x = (t - tree->t0) / (tree->t1 - tree->t0) * (double)tree->cells;
        const int64_t near = x <= 0 ? 0 : x >= (double)high ? high : (int64_t)x;
        low = near > 0 ? near - 1 : 0;
        high = near < high ? near + 1 : high;
    }
    while (low < high) {
        const int64_t middle = low + (high - low + 1) / 2;
        if (boundary(tree, middle) <= t) low = middle;
        else high = middle - 1;
    }
    return low;
}

/* 2^-32 of a cell, times the power of two that makes it as long as twice what is close. */
static int rounded_bits(const ode_noise_tree *tree, int64_t cell)
{
    const double unit = width(tree, cell) * 0x1p-32;
    int bits = 0;
    while (ldexp(unit, bits) < 2 * tree->close) bits++;
    return bits;
}

double ode_noise_resolution(const ode_noise_tree *tree, ode_noise_point point)
{
    int64_t cell = (int64_t)(point >> 32);
    if (cell == tree->cells) cell--;
    return ldexp(width(tree, cell) * 0x1p-32, rounded_bits(tree, cell));
}

int ode_noise_find(const ode_noise_tree *tree, double t, ode_noise_point *point, char *error,
                   size_t error_size)
{
    if (!(t >= tree->t0 - tree->past && t <= tree->t1 + tree->past)) {
        snprintf(error, error_size,
                 "t = %.17g is outside the interval of the Brownian path, from %.17g to %.17g: "
                 "give the path (t0, t1) an interval that holds all times of its solves",
                 t, tree->t0, tree->t1);
        return -1;
    }
    int64_t cell = cell_at(tree, t);
    const double past = t - boundary(tree, cell), left = boundary(tree, cell + 1) - t;
    *point = (ode_noise_point)cell << 32;
    if (past <= tree->close) return 0;
    if (left <= tree->close) {
        *point += ODE_NOISE_CELL;
        return 0;
    }
    const int bits = rounded_bits(tree, cell);
    const double units = ldexp(past / width(tree, cell), 32 - bits);
    *point += (ode_noise_point)(units + 0.5) << bits;
    return 0;
}

/* In 2^-32 of a cell where all are equal, else in time. */
static double length(const ode_noise_tree *tree, ode_noise_point p, ode_noise_point q)
{
    if (!tree->grid) return (double)(q - p);
    const int64_t from = (int64_t)(p >> 32), to = (int64_t)(q >> 32);
    const double after = (double)(uint32_t)p * 0x1p-32, past = (double)(uint32_t)q * 0x1p-32;
    if (from == to) return width(tree, from) * (past - after);
    const double first = after > 0 ? width(tree, from) * after : 0;
    const double last = past > 0 ? width(tree, to) * past : 0;
    return (boundary(tree, to) - boundary(tree, from)) - first + last;
}

/* ---- walks ---- */

static void emit(ode_noise_tree *tree, ode_noise_operation operation)
{
    if (tree->noperation == ODE_NOISE_OPERATIONS) {
        tree->flush(tree);
        tree->noperation = 0;
    }
    tree->operation[tree->noperation++] = operation;
}

/* Groups of a node on a level. Parts of cells have them all; a cell draws its areas. */
static bool need(ode_noise_tree *tree, int groups, int level, int side, ode_noise_point lo)
{
    int *there = &tree->level[level].groups[side];
    if (*there >= groups) return true;
    if (!tree->reserve(tree, level, true)) return false;
    for (; *there < groups; ++*there)
        emit(tree, (ode_noise_operation){ ODE_NOISE_AREA, level, side, *there, lo, 0, 0 });
    return true;
}

static bool split(ode_noise_tree *tree, int level, int side, ode_noise_point lo,
                  ode_noise_point middle, ode_noise_point hi)
{
    ode_noise_level *parts = &tree->level[level + 1];
    if (parts->lo == lo && parts->hi == hi) return true;
    const bool within = hi - lo <= ODE_NOISE_CELL;
    if (within && !need(tree, 3, level, side, lo)) return false;
    if (!tree->reserve(tree, level + 1, within)) return false;
    ode_noise_operation operation = { ODE_NOISE_HALVE, level, side, 0, middle, 0.5, 0.5 };
    if (!within) {
        const double left = length(tree, lo, middle), right = length(tree, middle, hi);
        operation.kind = ODE_NOISE_SPLIT;
        operation.left = left / (left + right);
        operation.right = right / (left + right);
    }
    emit(tree, operation);
    const int groups = within ? 3 : 1;
    *parts = (ode_noise_level){ lo, hi, { groups, groups } };
    return true;
}

static void add(ode_noise_tree *tree, int level, int side, ode_noise_point lo, ode_noise_point hi)
{
    const double more = length(tree, lo, hi), all = tree->joined + more;
    emit(tree, (ode_noise_operation){ tree->joined > 0 ? ODE_NOISE_JOIN : ODE_NOISE_FIRST, level,
                                      side, 0, lo, tree->joined / all, more / all });
    tree->joined = all;
}

/* What the node from lo to hi has between p and q. */
static bool visit(ode_noise_tree *tree, int level, int side, ode_noise_point lo, ode_noise_point hi,
                  ode_noise_point p, ode_noise_point q)
{
    const bool cells = hi - lo > ODE_NOISE_CELL;
    if (p <= lo && hi <= q && !(tree->groups > 1 && cells)) {
        if (!need(tree, tree->groups, level, side, lo)) return false;
        add(tree, level, side, lo, hi);
        return true;
    }
    const ode_noise_point half = (hi - lo) / 2;
    const ode_noise_point middle = cells ? lo + (half >> 32 << 32) : lo + half;
    if (!split(tree, level, side, lo, middle, hi)) return false;
    if (p < middle && !visit(tree, level + 1, 0, lo, middle, p, q)) return false;
    return q <= middle || visit(tree, level + 1, 1, middle, hi, p, q);
}

bool ode_noise_walk(ode_noise_tree *tree, ode_noise_point p, ode_noise_point q)
{
    const ode_noise_point end = (ode_noise_point)tree->cells << 32;
    tree->noperation = 0;
    tree->joined = 0;
    if (tree->level[0].hi != end) {
        if (!tree->reserve(tree, 0, false)) return false;
        emit(tree, (ode_noise_operation){ ODE_NOISE_ROOT, 0, 0, 0, 0, 0, 0 });
        tree->level[0] = (ode_noise_level){ 0, end, { 1, 1 } };
    }
    return visit(tree, 0, 0, 0, end, p, q);
}
