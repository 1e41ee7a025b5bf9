/* Long sums in parts, and which sums of a kernel are: those over rows, and those over what it
 * counts like rows (`units`, impl.h).
 *
 * A kernel that adds numbers one after the other loses digits: of equal numbers, or of numbers of
 * one sign, the more the longer the sum is. So no more than AD_CHAIN numbers are added like that. A
 * part of so many begins with zeros; parts are added with what rounding loses beside their sum,
 * which makes it as good as one in double precision, for one pass through the result a part. */
#include "autodiff/kernels/impl.h"
#include <string.h>

size_t ad_parts_bytes(bool gathers, int64_t n, size_t size)
{
    return (gathers ? 3 : 1) * ad_round_up((size_t)n * size);
}

void ad_parts_run(const ad_parts *p, bool accumulate, void *out, void *scratch)
{
    const int64_t n = p->m * p->n;
    const size_t bytes = ad_parts_bytes(false, n, p->size);
    char *part = scratch, *sum = part + bytes, *lost = sum + bytes;
    char *rest = part + ad_parts_bytes(p->gathers, n, p->size);
    int64_t first = 0;
    if (p->gathers) memset(sum, 0, 2 * bytes);
    do {
        const int64_t left = p->terms - first, count = left < p->most ? left : p->most;
        if (!p->gathers || first == 0) p->loops->fill(n, 0, part);
        p->add(p->data, first, count, part, rest);
        if (p->gathers) p->loops->gather(n, part, sum, lost);
        else p->loops->move(accumulate || first > 0, p->m, p->n, part, p->n, 1, out, p->ld, 1);
        first += count;
    } while (first < p->terms);
    if (!p->gathers) return;
    p->loops->combine(false, n, lost, sum);
    p->loops->move(accumulate, p->m, p->n, sum, p->n, 1, out, p->ld, 1);
}

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

typedef struct {
    const ad_kernel *k;
    const void *const *in;
} of_rows;

static void add_rows(const void *data, int64_t first, int64_t count, void *part, void *scratch)
{
    const of_rows *d = data;
    const ad_kernel *k = d->k;
    const ad_prepared *p = k->prepared;
    const void *at[2];
    AD_ASSERT(k->nin <= 2);
    for (int i = 0; i < k->nin; i++) {
        const bool moves = p->units || ad_has_rows(k->in_shapes[i]);
        at[i] = ad_at(d->in[i], moves ? first * unit_size(p, k->in_shapes[i]) : 0, p->size);
    }
    p->run_part(k, count, at, part, scratch);
}

static void run_rows(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                     void *scratch)
{
    const ad_prepared *p = k->prepared;
    if (p->units) rows = p->units;
    if (rows <= p->part_rows) {
        p->run_part(k, rows, in, out, scratch);
        return;
    }
    const int64_t n = ad_row_size(k->out);
    const of_rows data = { k, in };
    const ad_parts parts = {
        p->loops, p->size, 1, n, n, rows, p->part_rows, true, add_rows, &data
    };
    ad_parts_run(&parts, !p->units, out, scratch);
}

void ad_kernel_part(ad_kernel *k, int64_t max_rows)
{
    ad_prepared *p = k->prepared;
    if (!(k->reduces_rows || p->units) || k->divided || !p->terms) return;
    const int64_t rows = p->terms < AD_CHAIN ? AD_CHAIN / p->terms : 1;
    if ((p->units ? p->units : max_rows) <= rows) return;
    p->part_rows = rows;
    p->run_part = k->run;
    k->run = run_rows;
}
