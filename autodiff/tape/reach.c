/* What variables of a tape need, found in time that goes with its size and not with the tape's
 * length: a loop that records without end pays for each value, gradient and program what this one
 * takes, however much was recorded before. */
#include "autodiff/tape/tape.h"
#include <stdlib.h>
#include <string.h>

/* A list this much shorter than the range of its nodes is sorted; else the marks are gone through.
 */
enum { SPARSE = 16, FIRST_CAPACITY = 64 };

static bool append(ad_reach *r, int32_t node, int32_t *capacity)
{
    if (r->n == *capacity) {
        int32_t more = *capacity ? 2 * *capacity : FIRST_CAPACITY;
        int32_t *list = realloc(r->node, (size_t)more * sizeof *list);
        if (!list) return false;
        r->node = list;
        *capacity = more;
    }
    r->node[r->n++] = node;
    return true;
}

static int by_number(const void *a, const void *b)
{
    int32_t p = *(const int32_t *)a;
    int32_t q = *(const int32_t *)b;
    return (p > q) - (p < q);
}

/* Makes the list one in order of recording and clears the marks. */
static void put_in_order(ad_reach *r, char *mark)
{
    int32_t lowest = INT32_MAX;
    int32_t highest = -1;
    for (int32_t i = 0; i < r->n; i++) {
        if (r->node[i] < lowest) lowest = r->node[i];
        if (r->node[i] > highest) highest = r->node[i];
    }
    if (r->n && (highest - lowest) / SPARSE < r->n) {
        int32_t n = 0;
        for (int32_t k = lowest; k <= highest; k++)
            if (mark[k]) r->node[n++] = k;
        memset(mark + lowest, 0, (size_t)(highest - lowest) + 1);
        return;
    }
    for (int32_t i = 0; i < r->n; i++) mark[r->node[i]] = 0;
    if (r->n) qsort(r->node, (size_t)r->n, sizeof *r->node, by_number);
}

bool ad_reach_find(ad_reach *r, ad_tape *t, int n, const ad_var *x, const ad_reach_limits *limits)
{
    enum { LISTED = 1, END = 2 };
    int32_t capacity = 0;
    *r = (ad_reach){ NULL, 0 };
    char *mark = ad_tape_marks(t);
    bool fine = mark != NULL;
    for (int i = 0; i < limits->nend && fine; i++) mark[limits->end[i].node] = END;
    for (int i = 0; i < n && fine; i++) {
        char *m = &mark[x[i].node];
        if (*m & LISTED || x[i].node < limits->first) continue;
        *m |= LISTED;
        fine = append(r, x[i].node, &capacity);
    }
    for (int32_t i = 0; i < r->n && fine; i++) {
        const ad_node *node = ad_node_at(t, r->node[i]);
        if (mark[r->node[i]] & END || (limits->values && node->known)) continue;
        for (int k = 0; k < node->nin && fine; k++) {
            int32_t in = node->in[k];
            if (mark[in] & LISTED || in < limits->first) continue;
            mark[in] |= LISTED;
            fine = append(r, in, &capacity);
        }
    }
    if (mark) {
        for (int i = 0; i < limits->nend; i++) mark[limits->end[i].node] &= ~END;
        put_in_order(r, mark);
    }
    if (fine) return true;
    ad_reach_clear(r);
    ad_fail(t, "out of memory on a tape of %d operations", (int)ad_tape_size(t));
    return false;
}

void ad_reach_clear(ad_reach *r)
{
    free(r->node);
    *r = (ad_reach){ NULL, 0 };
}
