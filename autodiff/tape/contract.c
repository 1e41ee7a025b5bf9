/* Contractions of many operands: identities are resolved symbolically, then pairs are multiplied in
 * the order of least cost.
 *
 * Work is on factors: variables whose axes carry labels. A label that is not in the result is
 * summed. Label sizes are those of the axes; the row axis counts as NOMINAL_ROWS, and work that
 * does not depend on rows is discounted, since it is done once per solve.
 *
 * Bytes count as well. Parameters multiplied out with each other are weights of a product with the
 * rows: they are read anew for every block, and their cotangents are sums over the rows as large as
 * they are. So parameters are not multiplied out beyond MOST_GROWTH times their own size, unless
 * the result stays in a level 2 cache. */
#include "autodiff/tape/tape.h"
#include <stdlib.h>
#include <string.h>

enum {
    NOMINAL_ROWS = 256,
    ROWLESS_DISCOUNT = 16,
    BATCH_SURCHARGE = 32 /* a 32nd more */,
    ELEMENTWISE = 16,
    READING = 60, /* multiplications that an element of parameters multiplied out costs */
    EXHAUSTIVE = 10,
    MOST_GROWTH = 4,
    CACHED_BYTES = 1024 * 1024
};

/* The cost of an element beyond what parameters may be multiplied out to: more than any arithmetic
 * that it saves. */
static const double beyond_cost = 1e9;

typedef uint64_t label_set; /* one bit a label */

typedef struct {
    ad_tape *tape;
    int n;
    ad_factor f[AD_MAX_FACTORS];
    int64_t size[AD_MAX_LABELS]; /* AD_ROWS for the row label */
    label_set out, rows;         /* of the result; those of size AD_ROWS */
    double most;                 /* elements that parameters may be multiplied out to */
} product;

static const ad_node *node_of(ad_var x) { return ad_node_at(x.tape, x.node); }
static int rank_of(const ad_factor *f) { return node_of(f->x)->shape.rank; }

/* Whether f is an identity that may be resolved: nobody asks for derivatives by it. */
static bool is_eye(const ad_factor *f)
{
    return node_of(f->x)->op == AD_OP_eye && ad_is_inner(f->x);
}

static label_set labels_of(const ad_factor *f)
{
    label_set s = 0;
    for (int i = 0; i < rank_of(f); i++) s |= (label_set)1 << f->label[i];
    return s;
}

static int axis_with(const ad_factor *f, int label)
{
    for (int i = 0; i < rank_of(f); i++)
        if (f->label[i] == label) return i;
    return -1;
}

static double size_of(const product *p, label_set s)
{
    double n = 1;
    for (; s; s &= s - 1) {
        const int64_t size = p->size[__builtin_ctzll(s)];
        n *= size == AD_ROWS ? NOMINAL_ROWS : (double)size;
    }
    return n;
}

static int count(label_set s)
{
    int n = 0;
    for (; s; s &= s - 1) n++;
    return n;
}

static bool has_rows(const product *p, label_set s) { return (s & p->rows) != 0; }

static label_set elsewhere(const product *p, int except_a, int except_b)
{
    label_set s = p->out;
    for (int i = 0; i < p->n; i++)
        if (i != except_a && i != except_b) s |= labels_of(&p->f[i]);
    return s;
}

static void remove_factor(product *p, int i) { p->f[i] = p->f[--p->n]; }

/* Orders the axes of f as `want` says (labels of f, each once). */
static ad_var ordered(const ad_factor *f, const int8_t *want, int n)
{
    int perm[AD_MAX_RANK] = { 0 };
    for (int i = 0; i < n; i++) perm[i] = axis_with(f, want[i]);
    return ad_transpose(f->x, perm);
}

/* Sums the axes of f that nobody else has. */
static void sum_private(product *p, int i)
{
    ad_factor *f = &p->f[i];
    label_set keep = elsewhere(p, i, -1);
    ad_shape s = node_of(f->x)->shape, left = { 0, { 0 } };
    uint32_t mask = 0;
    int8_t label[AD_MAX_RANK];
    for (int k = 0; k < s.rank; k++) {
        if (keep >> f->label[k] & 1) {
            label[left.rank] = f->label[k];
            left.dim[left.rank++] = s.dim[k];
        } else mask |= 1u << k;
    }
    if (!mask) return;
    f->x = ad_reshape(ad_sum_mask(f->x, mask), left);
    memcpy(f->label, label, (size_t)left.rank);
}

/* ---- identities ---- */

/* f with its axis `label` replaced by `fresh` of size n, whose element i is f's element i + offset
 * where there is one, else 0. */
static void substitute(ad_factor *f, int label, int fresh, int64_t n, int64_t offset)
{
    int a = axis_with(f, label);
    int64_t m = node_of(f->x)->shape.dim[a];
    int64_t lo = offset > 0 ? offset : 0, hi = n + offset < m ? n + offset : m;
    if (lo >= hi) {
        ad_shape s = node_of(f->x)->shape;
        s.dim[a] = n;
        f->x = ad_fill(f->x.tape, s, 0);
    } else if (is_eye(f) && lo == offset && hi == n + offset) {
        const ad_node *eye = node_of(f->x);
        int64_t rows = a == 0 ? n : eye->shape.dim[0], columns = a == 1 ? n : eye->shape.dim[1];
        f->x = ad_eye(f->x.tape, rows, columns, eye->attr[0] + (a == 0 ? lo : -lo));
    } else f->x = ad_pad(ad_slice(f->x, a, lo, hi), a, lo - offset, n - (hi - offset));
    f->label[a] = (int8_t)fresh;
}

/* The two labels of an identity are one index (shifted). Where one of them is summed, the other
 * takes its place in all other factors: rather the shorter one, since that cuts them, and the
 * longer one stretches them by zeros. What is cut off may be infinite, so identities that cut come
 * first. */
static bool resolve_eye(product *p, int e, bool cuts)
{
    ad_factor eye = p->f[e];
    const ad_node *n = node_of(eye.x);
    int64_t offset = n->attr[0];
    for (int k = 0; k < 2; k++) {
        int side = n->shape.dim[1] < n->shape.dim[0] ? 1 - k : k;
        int gone = eye.label[1 - side], stays = eye.label[side];
        bool used = elsewhere(p, e, -1) >> gone & 1;
        if (gone == stays || p->out >> gone & 1 || !used) continue;
        if (cuts && n->shape.dim[side] >= n->shape.dim[1 - side]) continue;
        bool clash = false;
        for (int i = 0; i < p->n; i++)
            if (i != e && axis_with(&p->f[i], gone) >= 0 && axis_with(&p->f[i], stays) >= 0)
                clash = true;
        if (clash) continue;
        for (int i = 0; i < p->n; i++)
            if (i != e && axis_with(&p->f[i], gone) >= 0)
                substitute(&p->f[i], gone, stays, n->shape.dim[side], side == 0 ? offset : -offset);
        remove_factor(p, e);
        return true;
    }
    return false;
}

/* An identity whose labels are the same index, sum_i e[i,i]: the diagonal is ones (offset 0) or
 * nothing. */
static bool resolve_diagonal(product *p, int e)
{
    const ad_factor *eye = &p->f[e];
    if (eye->label[0] != eye->label[1]) return false;
    const ad_node *n = node_of(eye->x);
    p->f[e].x = ad_fill(p->tape, AD_SHAPE(n->shape.dim[0]), n->attr[0] == 0 ? 1 : 0);
    if (n->attr[0] == 0 && elsewhere(p, e, -1) >> p->f[e].label[0] & 1 && p->n > 1) {
        bool carried = false;
        for (int i = 0; i < p->n; i++)
            carried = carried || (i != e && axis_with(&p->f[i], p->f[e].label[0]) >= 0);
        if (carried) remove_factor(p, e);
    }
    return true;
}

static void resolve_identities(product *p)
{
    for (bool again = true; again && !ad_tape_error(p->tape);) {
        again = false;
        for (int i = 0; i < p->n && !again; i++) again = is_eye(&p->f[i]) && resolve_diagonal(p, i);
        for (int i = 0; i < 2 * p->n && !again; i++)
            again = is_eye(&p->f[i % p->n]) && resolve_eye(p, i % p->n, i < p->n);
    }
}

/* ---- pairs ---- */

/* f as an array over the labels of `want` in order, axes it lacks having size 1. */
static ad_var aligned(const product *p, const ad_factor *f, const int8_t *want, int n)
{
    int8_t mine[AD_MAX_RANK] = { 0 };
    int rank = 0, lead = 0;
    for (int i = 0; i < n; i++)
        if (axis_with(f, want[i]) >= 0) mine[rank++] = want[i];
    ad_var x = ordered(f, mine, rank);
    while (lead < n && axis_with(f, want[lead]) < 0) lead++;
    ad_shape s = { 0, { 0 } };
    for (int i = lead; i < n; i++)
        s.dim[s.rank++] = axis_with(f, want[i]) >= 0 ? p->size[(int)want[i]] : 1;
    return ad_reshape(x, s);
}

/* Where the reader of a result wants its labels: those of lower place first, those of equal place
 * in the order that comes about. */
typedef struct {
    int of[AD_MAX_LABELS];
} label_order;

/* Whether a is the operand that gives the order: the one with rows, else the one with more axes. */
static bool leads(const product *p, label_set a, label_set b)
{
    if (has_rows(p, a) != has_rows(p, b)) return has_rows(p, a);
    return count(a) >= count(b);
}

/* Labels of a pair's result: the row label, then a's in order, then b's, as far as `want` leaves
 * the choice. */
static int result_labels(const product *p, const ad_factor *a, const ad_factor *b, label_set keep,
                         const label_order *want, int8_t *out)
{
    int n = 0;
    for (int which = 0; which < 2; which++) {
        const ad_factor *f = which ? b : a;
        for (int i = 0; i < rank_of(f); i++) {
            int8_t l = f->label[i];
            if (!(keep >> l & 1)) continue;
            keep &= ~((label_set)1 << l);
            int at = n++;
            for (; at > 0; at--) {
                bool row = p->size[(int)l] == AD_ROWS,
                     before = p->size[(int)out[at - 1]] == AD_ROWS;
                if (!row && (before || want->of[(int)out[at - 1]] <= want->of[(int)l])) break;
                out[at] = out[at - 1];
            }
            out[at] = l;
        }
    }
    return n;
}

static ad_factor multiply_pair(const product *p, const ad_factor *a, const ad_factor *b,
                               label_set keep, const label_order *want)
{
    ad_factor r = { ad_none(p->tape), { 0 } };
    label_set both = labels_of(a) | labels_of(b);
    if (!leads(p, labels_of(a), labels_of(b))) {
        const ad_factor *first = b;
        b = a;
        a = first;
    }
    int n = result_labels(p, a, b, keep, want, r.label);
    if ((both & ~keep) == 0) {
        r.x = ad_mul(aligned(p, a, r.label, n), aligned(p, b, r.label, n));
        return r;
    }
    ad_shape s = { n, { 0 } };
    int64_t label[3][AD_MAX_RANK], attr[AD_CONTRACTION_MOST];
    ad_contraction c = { { rank_of(a), rank_of(b), n }, { label[0], label[1], label[2] } };
    for (int i = 0; i < rank_of(a); i++) label[0][i] = a->label[i];
    for (int i = 0; i < rank_of(b); i++) label[1][i] = b->label[i];
    for (int i = 0; i < n; i++) {
        s.dim[i] = p->size[(int)r.label[i]];
        label[2][i] = r.label[i];
    }
    int nattr = ad_contraction_write(&c, attr);
    int32_t in[2] = { a->x.node, b->x.node };
    r.x = ad_record(p->tape, AD_OP_contract, 2, in, nattr, attr, s);
    return r;
}

/* Whether an intermediate result over these labels is an array: rows by rows is none. */
static bool is_array(const product *p, label_set s)
{
    return count(s) <= AD_MAX_RANK && count(s & p->rows) <= 1;
}

/* Elementwise products take as long as ELEMENTWISE multiplications of a matrix product; so do sums
 * in which one operand has no axis of its own, and three times as long where there is one for each
 * index of a label: one operand then lies the wrong way. A matrix product for each index is a
 * little slower than one alone. */
static double pair_cost(const product *p, label_set a, label_set b, label_set keep)
{
    double c = size_of(p, a | b),
           batch = size_of(p, a & b & keep) / (has_rows(p, a & b & keep) ? NOMINAL_ROWS : 1);
    const double made = size_of(p, keep);
    if (!has_rows(p, a | b))
        return c / ROWLESS_DISCOUNT + (made > p->most ? made * beyond_cost : 0);
    const bool sums = ((a | b) & ~keep) != 0, within = (a & ~b) == 0 || (b & ~a) == 0;
    if (!sums) return c * ELEMENTWISE;
    if (within) return c * ELEMENTWISE * (batch > 1 ? 3 : 1);
    return c + (batch > 1 ? c / BATCH_SURCHARGE : 0);
}

/* No product costs less of which an operand has these labels. */
static double least_cost(const product *p, label_set a)
{
    return size_of(p, a) / (has_rows(p, a) ? 1 : ROWLESS_DISCOUNT);
}

/* What parameters are multiplied out to is read by products with the rows, block by block, and its
 * cotangent is summed over them: the cost of that for a product of two sets of factors with these
 * labels. */
static double reading_cost(const product *p, int a, label_set in_a, int b, label_set in_b)
{
    if (has_rows(p, in_a) == has_rows(p, in_b)) return 0;
    const int set = has_rows(p, in_a) ? b : a;
    const bool multiplied_out = set & (set - 1);
    return multiplied_out ? READING * size_of(p, set == a ? in_a : in_b) : 0;
}

/* Parameters that are multiplied out stay within a few times their own size or within a cache. */
static double most_elements(const product *p)
{
    double own = 0;
    for (int i = 0; i < p->n; i++)
        if (!has_rows(p, labels_of(&p->f[i]))) own += size_of(p, labels_of(&p->f[i]));
    const double cached = CACHED_BYTES / (double)ad_dtype_size(ad_tape_dtype(p->tape));
    return own * MOST_GROWTH > cached ? own * MOST_GROWTH : cached;
}

/* Exhaustive: best[set] over all ways to split a set of factors in two (dynamic programming over
 * subsets). */
typedef struct {
    double cost[1 << EXHAUSTIVE];
    uint16_t split[1 << EXHAUSTIVE];
    label_set kept[1 << EXHAUSTIVE];
    double least[1 << EXHAUSTIVE]; /* what each product that reads a set costs, or more */
} order_table;

static void plan_exhaustive(const product *p, order_table *t)
{
    int all = (1 << p->n) - 1;
    label_set labels[EXHAUSTIVE];
    for (int i = 0; i < p->n; i++) labels[i] = labels_of(&p->f[i]);
    for (int set = 1; set <= all; set++) {
        label_set inside = 0, outside = p->out;
        for (int i = 0; i < p->n; i++) *(set >> i & 1 ? &inside : &outside) |= labels[i];
        t->kept[set] = inside & outside;
        t->least[set] = least_cost(p, t->kept[set]);
        t->cost[set] = 0;
        t->split[set] = 0;
        if (!(set & (set - 1))) continue;
        t->cost[set] = -1; /* until a way is found */
        if (!is_array(p, t->kept[set])) continue;
        for (int a = (set - 1) & set; a > (set ^ a); a = (a - 1) & set) {
            int b = set ^ a;
            if (t->cost[a] < 0 || t->cost[b] < 0) continue;
            double c = t->cost[a] + t->cost[b];
            const double least = t->least[a] > t->least[b] ? t->least[a] : t->least[b];
            if (t->cost[set] >= 0 && c + least >= t->cost[set]) continue;
            c += pair_cost(p, t->kept[a], t->kept[b], t->kept[set]) +
                 reading_cost(p, a, t->kept[a], b, t->kept[b]);
            if (t->cost[set] >= 0 && c >= t->cost[set]) continue;
            t->cost[set] = c;
            t->split[set] = (uint16_t)a;
        }
    }
}

static int after(const label_order *want)
{
    int last = 0;
    for (int l = 0; l < AD_MAX_LABELS; l++) last = want->of[l] >= last ? want->of[l] + 1 : last;
    return last;
}

/* Matrix products read and write their operands as they lie if these are A [..., summed] and B
 * [summed, ...], and C is [those of A, those of B]; where B alone has no rows, a program lays it
 * out for this product, and [..., summed] is the order for the cotangents of A and B. Cotangents
 * have the order of what they belong to, so that their products then need no packing either. */
static label_order order_of_second(const product *p, const ad_factor *first, label_set second,
                                   label_set summed, const label_order *want)
{
    label_order place = *want;
    bool program_lays_out = has_rows(p, labels_of(first)) && !has_rows(p, second);
    for (int l = 0; l < AD_MAX_LABELS; l++) {
        int axis = axis_with(first, l);
        bool last = program_lays_out && summed >> l & 1;
        place.of[l] = axis < 0 ? AD_MAX_RANK + want->of[l]
                      : last   ? AD_MAX_RANK + after(want) + axis
                               : axis;
    }
    return place;
}

static ad_factor multiply_set(const product *p, const order_table *t, int set,
                              const label_order *want)
{
    if (!(set & (set - 1))) {
        int i = 0;
        while (!(set >> i & 1)) i++;
        return p->f[i];
    }
    int a = t->split[set], b = set & ~a;
    if (!leads(p, t->kept[a], t->kept[b])) {
        b = a;
        a = set & ~b;
    }
    label_set summed = (t->kept[a] | t->kept[b]) & ~t->kept[set];
    label_order of_a = *want;
    for (int l = 0, last = after(want); l < AD_MAX_LABELS; l++)
        if (summed >> l & 1) of_a.of[l] = last;
    ad_factor x = multiply_set(p, t, a, &of_a);
    if (ad_tape_error(p->tape)) return x;
    label_order of_b = summed ? order_of_second(p, &x, t->kept[b], summed, want) : *want;
    ad_factor y = multiply_set(p, t, b, &of_b);
    if (ad_tape_error(p->tape)) return y;
    return multiply_pair(p, &x, &y, t->kept[set], want);
}

/* Greedy, for long products: the pair of least cost first. false: no pair's result is an array. */
static bool reduce_greedily(product *p, int until)
{
    const label_order any = { { 0 } };
    while (p->n > until && !ad_tape_error(p->tape)) {
        int best_a = 0, best_b = 1;
        double best = -1;
        for (int a = 0; a < p->n; a++)
            for (int b = a + 1; b < p->n; b++) {
                label_set keep = (labels_of(&p->f[a]) | labels_of(&p->f[b])) & elsewhere(p, a, b);
                if (!is_array(p, keep)) continue;
                double c = pair_cost(p, labels_of(&p->f[a]), labels_of(&p->f[b]), keep);
                if (best < 0 || c < best) {
                    best = c;
                    best_a = a;
                    best_b = b;
                }
            }
        if (best < 0) return false;
        p->f[best_a] =
            multiply_pair(p, &p->f[best_a], &p->f[best_b], elsewhere(p, best_a, best_b), &any);
        remove_factor(p, best_b);
    }
    return true;
}

/* ---- the whole ---- */

static bool load_factors(product *p, int n, const ad_factor *factors)
{
    label_set seen = 0;
    p->n = n;
    for (int i = 0; i < n; i++) {
        p->f[i] = factors[i];
        ad_shape s = node_of(factors[i].x)->shape;
        for (int k = 0; k < s.rank; k++) {
            int l = factors[i].label[k];
            if (seen >> l & 1 && p->size[l] != s.dim[k]) {
                ad_fail(p->tape,
                        "ad_contract: an index has size %lld in one operand and %lld in another",
                        (long long)p->size[l], (long long)s.dim[k]);
                return false;
            }
            seen |= (label_set)1 << l;
            p->size[l] = s.dim[k];
            if (s.dim[k] == AD_ROWS) p->rows |= (label_set)1 << l;
        }
    }
    return true;
}

/* A repeated index within one factor, "bii->bi", is a diagonal: an identity joins two indices made
 * distinct. (An identity's own is resolved as such.) */
static bool split_diagonals(product *p)
{
    label_set used = p->out;
    for (int i = 0; i < p->n; i++) used |= labels_of(&p->f[i]);
    for (int i = 0, given = p->n; i < given; i++) {
        ad_shape s = node_of(p->f[i].x)->shape;
        if (is_eye(&p->f[i])) continue;
        for (int a = 0; a < s.rank; a++)
            for (int b = a + 1; b < s.rank; b++) {
                if (p->f[i].label[a] != p->f[i].label[b]) continue;
                int fresh = 0;
                while (fresh < AD_MAX_LABELS && used >> fresh & 1) fresh++;
                if (p->n == AD_MAX_FACTORS || fresh == AD_MAX_LABELS) {
                    ad_fail(p->tape, "ad_contract: too many repeated indices");
                    return false;
                }
                used |= (label_set)1 << fresh;
                p->size[fresh] = s.dim[a];
                if (s.dim[a] == AD_ROWS) p->rows |= (label_set)1 << fresh;
                p->f[p->n++] = (ad_factor){ ad_eye(p->tape, s.dim[a], s.dim[a], 0),
                                            { p->f[i].label[a], (int8_t)fresh } };
                p->f[i].label[b] = (int8_t)fresh;
            }
    }
    return true;
}

static ad_var multiply_factors(ad_tape *tape, int n, const ad_factor *factors, int nout,
                               const int8_t *out)
{
    product p = { .tape = tape };
    label_order want = { { 0 } };
    if (!load_factors(&p, n, factors)) return ad_none(tape);
    for (int i = 0; i < nout; i++) {
        p.out |= (label_set)1 << out[i];
        want.of[(int)out[i]] = i;
    }
    if (!split_diagonals(&p)) return ad_none(tape);
    resolve_identities(&p);
    for (int i = 0; i < p.n && !ad_tape_error(tape); i++) sum_private(&p, i);
    if (ad_tape_error(tape)) return ad_none(tape);
    p.most = most_elements(&p);
    if (p.n > EXHAUSTIVE && !reduce_greedily(&p, EXHAUSTIVE)) return ad_none(tape);
    if (ad_tape_error(tape)) return ad_none(tape);
    ad_factor r = p.f[0];
    if (p.n > 1) {
        order_table *t = malloc(sizeof *t);
        if (!t) {
            ad_fail(tape, "ad_contract: out of memory");
            return ad_none(tape);
        }
        plan_exhaustive(&p, t);
        bool fits = t->cost[(1 << p.n) - 1] >= 0;
        if (fits) r = multiply_set(&p, t, (1 << p.n) - 1, &want);
        free(t);
        if (!fits || ad_tape_error(tape)) return ad_none(tape);
    }
    return ordered(&r, out, nout);
}

ad_var ad_contract_factors(ad_tape *tape, int n, const ad_factor *factors, int nout,
                           const int8_t *out)
{
    if (ad_tape_error(tape)) return ad_none(tape);
    int32_t inner = ad_inner_begin(tape);
    ad_var y = multiply_factors(tape, n, factors, nout, out);
    ad_inner_end(tape, inner);
    return y;
}
