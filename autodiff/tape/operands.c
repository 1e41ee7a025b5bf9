/* What calls are given: variables of one tape, lists of them, shapes. */
#include "autodiff/tape/store.h"

bool ad_check_shape(ad_tape *t, const char *what, ad_shape s)
{
    char text[128];
    if (s.rank < 0 || s.rank > AD_MAX_RANK) {
        ad_fail(t, "ad_%s: rank %d is not between 0 and %d", what, s.rank, AD_MAX_RANK);
        return false;
    }
    int64_t n = 1;
    for (int i = ad_has_rows(s) ? 1 : 0; i < s.rank; i++) {
        if (s.dim[i] < 1) {
            ad_format_shape(s, text, sizeof text);
            ad_fail(t, "ad_%s: size %lld of axis %d is not positive in %s%s", what,
                    (long long)s.dim[i], i, text,
                    s.dim[i] == AD_ROWS ? " (AD_ROWS stands first, or nowhere)" : "");
            return false;
        }
        if (s.dim[i] >= ((int64_t)1 << AD_MAX_ELEMENTS_SHIFT) / n) {
            ad_format_shape(s, text, sizeof text);
            ad_fail(t, "ad_%s: %s has too many elements", what, text);
            return false;
        }
        n *= s.dim[i];
    }
    return true;
}

/* What is wrong with x for a call on tape t; NULL: nothing. */
static const char *fault_of(const ad_tape *t, ad_var x)
{
    if (!x.tape) return "is not a variable";
    if (x.tape != t)
        return "is on another tape; a function that is traced on a tape of its own must get "
               "outside variables as arguments (args)";
    if (x.node < 0) return "is an invalid variable";
    if (!ad_valid(x))
        return "is stale: it was recorded after a mark to which the tape has been rewound";
    return NULL;
}

static void report_fault(ad_tape *t, const char *what, const char *place, ad_var x,
                         const char *fault)
{
    ad_fail(t, "ad_%s: %s %s", what, place, fault);
    if (x.tape && x.tape != t)
        ad_fail(x.tape,
                "ad_%s: mixes variables of this tape with those of another; pass them as arguments "
                "(args)",
                what);
}

static bool is_token(ad_tape *t, const char *what, const char *place, ad_var x)
{
    const ad_node *node = ad_node_at(t, x.node);
    if (node->op != AD_OP_opaque) return false;
    ad_fail(t, "ad_%s: %s is the token of %s, which has no value", what, place, ad_node_name(node));
    return true;
}

ad_tape *ad_common_tape_tokens(const char *what, int n, const ad_var *x)
{
    ad_tape *t = NULL;
    for (int i = 0; x && i < n && !t; i++) t = x[i].tape;
    if (!t && n > 0) {
        char text[96];
        snprintf(text, sizeof text, "ad_%s: no operand is a variable of a tape", what);
        ad_report(NULL, text, 0, NULL, NULL, NULL);
    }
    if (!t || t->failed) return NULL;
    for (int i = 0; i < n; i++) {
        const char *fault = fault_of(t, x[i]);
        if (!fault) continue;
        char place[32];
        snprintf(place, sizeof place, "operand %d", i);
        report_fault(t, what, place, x[i], fault);
        return NULL;
    }
    return t;
}

ad_tape *ad_common_tape(const char *what, int n, const ad_var *x)
{
    ad_tape *t = ad_common_tape_tokens(what, n, x);
    if (!t) return NULL;
    for (int i = 0; i < n; i++) {
        if (ad_node_at(t, x[i].node)->op != AD_OP_opaque) continue;
        char place[32];
        snprintf(place, sizeof place, "operand %d", i);
        if (is_token(t, what, place, x[i])) return NULL;
    }
    return t;
}

static bool check_list(ad_tape *t, const char *what, const ad_list *l)
{
    if (l->n < 0) ad_fail(t, "ad_%s: the list of %s has %d variables", what, l->name, l->n);
    else if (l->n > 0 && !l->x) ad_fail_null(t, what, l->name);
    if (l->n < 0 || (l->n > 0 && !l->x)) return false;
    for (int i = 0; i < l->n; i++) {
        const char *fault = fault_of(t, l->x[i]);
        if (!fault && ad_node_at(t, l->x[i].node)->op != AD_OP_opaque) continue;
        char place[48];
        snprintf(place, sizeof place, l->alone ? "%s" : "%s[%d]", l->name, i);
        if (fault) report_fault(t, what, place, l->x[i], fault);
        if (fault || is_token(t, what, place, l->x[i])) return false;
    }
    return true;
}

ad_tape *ad_lists_tape(const char *what, int nlist, const ad_list *lists)
{
    ad_tape *t = NULL;
    for (int k = 0; k < nlist; k++)
        for (int i = 0; lists[k].x && i < lists[k].n && !t; i++) t = lists[k].x[i].tape;
    if (!t || t->failed) return NULL;
    for (int k = 0; k < nlist; k++)
        if (!check_list(t, what, &lists[k])) return NULL;
    return t;
}

bool ad_results_apart(ad_tape *t, const char *what, int n, const ad_var *result, int nlist,
                      const ad_list *lists)
{
    uintptr_t first = (uintptr_t)result, end = (uintptr_t)(result + (n > 0 ? n : 0));
    for (int k = 0; result && k < nlist; k++) {
        const ad_list *l = &lists[k];
        if (!l->x || l->n <= 0) continue;
        uintptr_t begin = (uintptr_t)l->x, last = (uintptr_t)(l->x + l->n);
        if (end <= begin || last <= first) continue;
        ad_fail(t,
                "ad_%s: the list of results lies where %s is, which is still read; give it an "
                "array of its own",
                what, l->name);
        return false;
    }
    return true;
}
