/* How much work a program is, by estimate. */
#include "autodiff/plan/program.h"

/* Of the largest array with rows that a step reads or writes, and of multiplications, of which a
 * vector register does many at a time. */
static double row_elements(const ad_ir *ir, const ad_inst *x)
{
    enum { FLOP = 32 }; /* take as long as an element */
    int64_t most = ad_has_rows(x->shape) ? ad_row_size(x->shape) : 0;
    for (int k = 0; k < x->nin; k++) {
        ad_shape in = ir->inst[x->in[k]].shape;
        if (ad_has_rows(in) && ad_row_size(in) > most) most = ad_row_size(in);
    }
    return (double)most + ad_product_flop(ir, x) / FLOP;
}

double ad_row_work(const ad_program *p, const int32_t *steps)
{
    double elements = 0;
    for (int32_t s = steps[0]; s < steps[1]; s++)
        elements += row_elements(&p->ir, &p->ir.inst[p->step[s].value]);
    return elements * (double)ad_dtype_size(p->ir.dtype);
}
