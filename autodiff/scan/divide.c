/* Whether the rows of a scan can be divided: no row of a step reads what was summed over rows, and
 * what has no rows is a sum over rows of the step's terms. Then blocks of rows go through all steps
 * by themselves, and their sums are added. */
#include "autodiff/scan/scan.h"
#include "autodiff/tape/tape.h"
#include <stdlib.h>

/* How a variable depends on rows: not at all; it has them, and each is a function of its own row;
 * it is a sum over them; in another way. */
typedef enum { SAME, ROWS, SUM, MIXED } dependence;

static dependence of_sums(const ad_node *n, const unsigned char *of, int sums)
{
    bool all = sums == n->nin;
    ad_kind kind = ad_ops[n->op].kind;
    if (all && (kind == AD_LINEAR || ad_has_trait(n->op, AD_SIGNS))) return SUM;
    if (sums == 1 && (kind == AD_CONTRACT || n->op == AD_OP_mul)) return SUM;
    return n->op == AD_OP_div && sums == 1 && of[n->in[0]] == SUM ? SUM : MIXED;
}

static dependence of_node(const ad_node *n, const unsigned char *of)
{
    int count[MIXED + 1] = { 0 };
    ad_kind kind = ad_ops[n->op].kind;
    for (int i = 0; i < n->nin; i++) count[of[n->in[i]]]++;
    if (count[MIXED] || n->op == AD_OP_row_count || kind == AD_OPAQUE || kind == AD_RESULT)
        return MIXED;
    if (ad_has_rows(n->shape)) return count[SUM] ? MIXED : ROWS;
    if (count[ROWS] && count[SUM]) return MIXED;
    if (count[ROWS])
        return ad_has_trait(n->op, AD_REDUCES) && !ad_has_trait(n->op, AD_MAXIMUM) ? SUM : MIXED;
    return count[SUM] ? of_sums(n, of, count[SUM]) : SAME;
}

bool ad_scan_rows_apart(const ad_scan_object *s)
{
    int32_t size = ad_tape_size(s->trace);
    unsigned char *of = malloc((size_t)size + 1);
    bool apart = of != NULL; /* else blocks are not worth an error */
    for (int32_t k = 0; apart && k < size; k++)
        of[k] = (unsigned char)of_node(ad_node_at(s->trace, k), of);
    for (int j = 0; apart && j < ad_scan_results(s); j++) {
        dependence d = (dependence)of[s->out[j].node];
        bool term = j >= ad_scan_first_sum(s) && j < ad_scan_first_hidden(s);
        apart = d == ROWS || (term && d == SUM);
    }
    free(of);
    return apart;
}
