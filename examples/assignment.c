#include "assignment.h"
#include <math.h>
#include <stdlib.h>

/* Invariant: row[i] + column[j] <= cost[i,j], with equality for all pairs; so pairs are the
 * cheapest for the rows that have one. Rows get theirs one after the other, along the path of least
 * reduced cost to a column that is free. */
typedef struct {
    int64_t n;
    const double *cost;
    double *row, *column; /* prices */
    int64_t *owner;       /* [n] row of a column, or -1 */
    double *distance;     /* [n] from the new row to each column */
    int64_t *before;      /* [n] the row that comes before a column on its path */
    bool *done;           /* [n] the distance to this column is final */
} search;

/* The free column that is the nearest to row `from`; prices are changed so that the path to it
 * costs nothing. */
static int64_t nearest_free(search *s, int64_t from)
{
    int64_t at = from, last;
    double far = 0;
    for (int64_t j = 0; j < s->n; j++) {
        s->distance[j] = INFINITY;
        s->done[j] = false;
    }
    for (;;) {
        last = -1;
        for (int64_t j = 0; j < s->n; j++) {
            if (s->done[j]) continue;
            const double way = far + s->cost[at * s->n + j] - s->row[at] - s->column[j];
            if (way < s->distance[j]) {
                s->distance[j] = way;
                s->before[j] = at;
            }
            if (last < 0 || s->distance[j] < s->distance[last]) last = j;
        }
        far = s->distance[last];
        if (s->owner[last] < 0) break;
        s->done[last] = true;
        at = s->owner[last];
    }
    s->row[from] += far;
    for (int64_t j = 0; j < s->n; j++) {
        if (!s->done[j]) continue;
        s->row[s->owner[j]] += far - s->distance[j];
        s->column[j] -= far - s->distance[j];
    }
    return last;
}

bool assign(int64_t n, const double *cost, int64_t *pair)
{
    const size_t count = (size_t)n;
    search s = { .n = n, .cost = cost };
    s.row = calloc(count, sizeof *s.row);
    s.column = calloc(count, sizeof *s.column);
    s.distance = calloc(count, sizeof *s.distance);
    s.owner = calloc(count, sizeof *s.owner);
    s.before = calloc(count, sizeof *s.before);
    s.done = calloc(count, sizeof *s.done);
    const bool fine = s.row && s.column && s.distance && s.owner && s.before && s.done;
    for (int64_t j = 0; fine && j < n; j++) s.owner[j] = pair[j] = -1;
    for (int64_t i = 0; fine && i < n; i++)
        for (int64_t column = nearest_free(&s, i), row = -1; row != i;) {
            /* along the path each row takes the column behind it and leaves its own */
            row = s.before[column];
            s.owner[column] = row;
            const int64_t left = pair[row];
            pair[row] = column;
            column = left;
        }
    free(s.row);
    free(s.column);
    free(s.distance);
    free(s.owner);
    free(s.before);
    free(s.done);
    return fine;
}
