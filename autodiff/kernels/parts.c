/* Sums over rows in parts, and sums over what a kernel counts like rows (`units`, impl.h).
 *
 * A kernel that adds what rows have to add one after the other loses digits: of equal numbers, or
 * of numbers of one sign, the more the longer the sum is. So no more than AD_CHAIN numbers are
 * added like that. A part of so many begins with zeros; parts are added with what rounding loses
 * beside their sum, which makes it as good as one in double precision, for one pass through the
 * result a part. */
#include "autodiff/kernels/impl.h"

static size_t result_bytes(const ad_kernel *k)
{
    const ad_prepared *p = k->prepared;
    return ad_round_up((size_t)ad_row_size(k->out) * p->size);
}

size_t ad_parts_bytes(const ad_kernel *k) { return 3 * result_bytes(k); }

int64_t ad_kernel_chain(const ad_kernel *k, int64_t rows)
{
    const ad_prepared *p = k->prepared;
    if (!k->reduces_rows || !p->terms || (p->part_rows && rows > p->part_rows)) return 1;
    return rows * p->terms;
}

static int64_t unit_size(const ad_prepared *p, ad_shape s)
{
    return p->units ? ad_row_size(s) / p->units : ad_row_size(s);
}

static void run_parts(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                      void *scratch)
{
    const ad_prepared *p = k->prepared;
    if (p->units) rows = p->units;
    if (rows <= p->part_rows) {
        p->run_part(k, rows, in, out, scratch);
        return;
    }
    const int64_t n = ad_row_size(k->out);
    const void *at[2] = { in[0], k->nin > 1 ? in[1] : NULL };
    char *sum = scratch, *lost = sum + result_bytes(k), *part = lost + result_bytes(k);
    AD_ASSERT(k->nin <= 2);
    p->loops->fill(n, 0, sum);
    p->loops->fill(n, 0, lost);
    p->loops->fill(n, 0, part);
    if (p->units) p->loops->fill(n, 0, out);
    for (int64_t first = 0; first < rows; first += p->part_rows) {
        const int64_t count = rows - first < p->part_rows ? rows - first : p->part_rows;
        p->run_part(k, count, at, part, part + result_bytes(k));
        p->loops->gather(n, part, sum, lost);
        for (int i = 0; i < k->nin; i++)
            if (p->units || ad_has_rows(k->in_shapes[i]))
                at[i] = ad_at(at[i], count * unit_size(p, k->in_shapes[i]), p->size);
    }
    p->loops->combine(false, n, lost, sum);
    p->loops->combine(false, n, sum, out);
}

void ad_kernel_part(ad_kernel *k, int64_t max_rows)
{
    ad_prepared *p = k->prepared;
    if (!(k->reduces_rows || p->units) || k->divided || !p->terms) return;
    const int64_t rows = p->terms < AD_CHAIN ? AD_CHAIN / p->terms : 1;
    if ((p->units ? p->units : max_rows) <= rows) return;
    p->part_rows = rows;
    p->run_part = k->run;
    k->run = run_parts;
}
