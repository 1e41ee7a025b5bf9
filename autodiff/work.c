/* How much work a program is, by estimate. */
#include "program.h"

double ad_contract_flop(const ad_ir *ir, const ad_inst *x)
{
    const int64_t *label = x->attr + 3;
    bool seen[3 * AD_MAX_RANK] = { false };
    double flop = 2;
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < x->attr[k]; i++, label++) {
            int64_t size = ir->inst[x->in[k]].shape.dim[i];
            if (!seen[*label] && size != AD_ROWS) flop *= (double)size;
            seen[*label] = true;
        }
    return flop;
}

/* Of the largest array with rows that a step reads or writes, and of multiplications, of which a vector register does many at a time. */
static double row_elements(const ad_ir *ir, const ad_inst *x)
{
    enum { FLOP = 32 }; /* take as long as an element */
    int64_t most = ad_has_rows(x->shape) ? ad_row_size(x->shape) : 0;
    for (int k = 0; k < x->nin; k++) {
        ad_shape in = ir->inst[x->in[k]].shape;
        if (ad_has_rows(in) && ad_row_size(in) > most) most = ad_row_size(in);
    }
    return (double)most + (x->op == AD_OP_contract ? ad_contract_flop(ir, x) / FLOP : 0);
}

double ad_row_work(const ad_program *p, const ad_phase *phase)
{
    double elements = 0;
    for (int32_t s = phase->body_steps[0]; s < phase->body_steps[1]; s++) elements += row_elements(&p->ir, &p->ir.inst[p->step[s].value]);
    return elements * (double)ad_dtype_size(p->ir.dtype);
}
