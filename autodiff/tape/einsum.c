/* Contractions as they are written: einsum notation, matrix, dot and outer products. contract.c
 * multiplies them out. */
#include "autodiff/tape/tape.h"
#include <string.h>

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

ad_var ad_contract(const char *spec, int n, const ad_var *x)
{
    ad_tape *t = n > 0 && x ? ad_common_tape("contract", n, x) : NULL;
    if (!t) return ad_none(n > 0 && x ? x[0].tape : NULL);
    if (!spec) ad_fail_null(t, "contract", "the specification");
    if (!spec) return ad_none(t);
    ad_factor f[AD_MAX_FACTORS];
    int8_t out[AD_MAX_RANK];
    int label_of[128], nlabel = 0, operand = 0, axis = 0, nout = 0;
    int64_t size[AD_MAX_LABELS];
    uint64_t used = 0; /* letters of the result, a bit each */
    const char *problem = n > AD_MAX_FACTORS ? "too many operands" : NULL, *s = spec;
    memset(label_of, -1, sizeof label_of);
    for (int i = 0; i < n && !problem; i++) f[i].x = x[i];
    for (; *s && *s != '-' && !problem; s++) {
        if (*s == ' ') continue;
        if (*s == ',') {
            if (axis != ad_shape_of(x[operand]).rank)
                problem = "an operand has another number of axes than letters";
            else if (++operand == n) problem = "more operands are named than given";
            axis = 0;
        } else if (!is_letter(*s)) problem = "letters, commas and one -> are expected";
        else if (axis == ad_shape_of(x[operand]).rank)
            problem = "an operand has another number of axes than letters";
        else {
            int *l = &label_of[(int)*s];
            int64_t d = ad_shape_of(x[operand]).dim[axis];
            if (*l < 0) {
                if (nlabel == AD_MAX_LABELS) problem = "too many different letters";
                else {
                    *l = nlabel++;
                    size[*l] = d;
                }
            } else if (size[*l] != d) problem = "a letter stands for axes of different sizes";
            if (!problem) f[operand].label[axis++] = (int8_t)*l;
        }
    }
    if (!problem && (operand != n - 1 || axis != ad_shape_of(x[operand]).rank))
        problem = "the operands named are not those given";
    if (!problem && (s[0] != '-' || s[1] != '>'))
        problem = "-> and the letters of the result are missing";
    for (s += problem ? 0 : 2; !problem && *s; s++) {
        if (*s == ' ') continue;
        int l = is_letter(*s) ? label_of[(int)*s] : -1;
        if (l < 0) problem = "a letter of the result is in no operand";
        else if (used >> l & 1) problem = "a letter stands twice in the result";
        else if (nout == AD_MAX_RANK) problem = "the result has too many axes";
        else if (size[l] == AD_ROWS && nout)
            problem = "the row axis must be the first of the result";
        else {
            used |= (uint64_t)1 << l;
            out[nout++] = (int8_t)l;
        }
    }
    if (problem) {
        char reason[256];
        snprintf(reason, sizeof reason, "\"%s\": %s", spec, problem);
        return ad_fail_shapes(t, "contract", reason, n, x);
    }
    ad_var y = ad_contract_factors(t, n, f, nout, out);
    if (!ad_valid(y))
        ad_fail(t,
                "ad_contract: \"%s\": no order was found whose intermediate results have at most "
                "%d axes",
                spec, AD_MAX_RANK);
    return y;
}

ad_var ad_matmul(ad_var a, ad_var b)
{
    ad_var x[] = { a, b };
    ad_tape *t = ad_common_tape("matmul", 2, x);
    if (!t) return ad_none(a.tape);
    ad_shape p = ad_shape_of(a), q = ad_shape_of(b);
    if (p.rank < 1 || q.rank < 2)
        return ad_fail_shapes(t, "matmul", "a needs at least one axis and b two", 2, x);
    if (p.dim[p.rank - 1] != q.dim[q.rank - 2]) {
        char s[128], u[128];
        ad_format_shape(p, s, sizeof s);
        ad_format_shape(q, u, sizeof u);
        ad_fail(t, "ad_matmul: inner sizes differ: a is %s, b is %s", s, u);
        return ad_none(t);
    }
    ad_factor f[2] = { { .x = a }, { .x = b } };
    int8_t out[AD_MAX_RANK];
    int batch = q.rank - 2, k = AD_MAX_RANK, m = AD_MAX_RANK + 1;
    if (batch && p.rank != q.rank)
        return ad_fail_shapes(t, "matmul", "batched operands need the same number of axes", 2, x);
    for (int i = 0; i < p.rank - 1; i++) {
        if (i < batch && p.dim[i] != q.dim[i])
            return ad_fail_shapes(t, "matmul", "batch axes differ", 2, x);
        f[0].label[i] = out[i] = (int8_t)i;
        if (i < batch) f[1].label[i] = (int8_t)i;
    }
    f[0].label[p.rank - 1] = f[1].label[batch] = (int8_t)k;
    f[1].label[batch + 1] = out[p.rank - 1] = (int8_t)m;
    return ad_contract_factors(t, 2, f, p.rank, out);
}

ad_var ad_dot(ad_var a, ad_var b)
{
    ad_var x[] = { a, b };
    ad_tape *t = ad_common_tape("dot", 2, x);
    if (!t) return ad_none(a.tape);
    ad_shape s = ad_shape_of(a);
    if (s.rank < 1 || !ad_same_shape(s, ad_shape_of(b)))
        return ad_fail_shapes(t, "dot", "the operands need the same shape with at least one axis",
                              2, x);
    if (s.rank == 1 && ad_has_rows(s)) return ad_mul(a, b);
    ad_factor f[2] = { { .x = a }, { .x = b } };
    int8_t out[AD_MAX_RANK];
    for (int i = 0; i < s.rank; i++) f[0].label[i] = f[1].label[i] = out[i] = (int8_t)i;
    return ad_contract_factors(t, 2, f, s.rank - 1, out);
}

ad_var ad_outer(ad_var a, ad_var b)
{
    ad_var x[] = { a, b };
    ad_tape *t = ad_common_tape("outer", 2, x);
    if (!t) return ad_none(a.tape);
    ad_shape p = ad_shape_of(a), q = ad_shape_of(b);
    if (p.rank == 1 && q.rank == 1 && !ad_has_rows(p) && !ad_has_rows(q))
        return ad_contract("i,j->ij", 2, x);
    if (p.rank == 2 && q.rank == 2 && ad_has_rows(p) && ad_has_rows(q))
        return ad_contract("bi,bj->bij", 2, x);
    return ad_fail_shapes(t, "outer", "the operands must be [n] and [m], or [rows,n] and [rows,m]",
                          2, x);
}
