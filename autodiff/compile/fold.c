/* Constant folding: what depends on constants only is computed once, when compiling, by the kernels
 * that would run. */
#include "autodiff/compile/ir.h"
#include "autodiff/kernels/kernel.h"
#include <stdlib.h>
#include <string.h>

static void put(ad_dtype dtype, void *out, int64_t i, double value)
{
    if (dtype == AD_F32) ((float *)out)[i] = (float)value;
    else ((double *)out)[i] = value;
}

void ad_constant_write(const ad_ir *ir, const ad_inst *x, void *out)
{
    int64_t n = ad_row_size(x->shape);
    if (x->op == AD_OP_eye) {
        memset(out, 0, (size_t)n * ad_dtype_size(ir->dtype));
        for (int64_t i = 0; i < x->shape.dim[0]; i++) {
            int64_t j = i + x->attr[0];
            if (j >= 0 && j < x->shape.dim[1]) put(ir->dtype, out, i * x->shape.dim[1] + j, 1);
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) put(ir->dtype, out, i, x->data[x->op == AD_OP_fill ? 0 : i]);
}

int32_t ad_constant_add(ad_ir *ir, ad_shape shape, const void *elements)
{
    int64_t n = ad_row_size(shape), same = 1;
    size_t size = ad_dtype_size(ir->dtype);
    while (same < n && memcmp(elements, (const char *)elements + (size_t)same * size, size) == 0)
        same++;
    ad_inst x = { .op = same >= n ? AD_OP_fill : AD_OP_constant,
                  .shape = shape,
                  .ndata = same >= n ? 1 : n };
    double *data = ad_pool_alloc(ir->pool, (size_t)x.ndata * sizeof *data);
    if (!data) {
        ir->failed = true;
        return 0;
    }
    for (int64_t i = 0; i < x.ndata; i++)
        data[i] = ir->dtype == AD_F32 ? (double)((const float *)elements)[i]
                                      : ((const double *)elements)[i];
    x.data = data;
    return ad_ir_add(ir, &x);
}

static bool run_kernel(ad_ir *ir, const ad_inst *x, const ad_shape *shapes, const void *const *in,
                       void *out)
{
    ad_kernel k = { .op = x->op,
                    .dtype = ir->dtype,
                    .nin = x->nin,
                    .in_shapes = shapes,
                    .out = x->shape,
                    .nattr = x->nattr,
                    .attr = x->attr };
    AD_ASSERT(ad_kernel_exists(k.op, k.dtype, k.nin));
    if (!ad_kernel_prepare(&k, 1)) return false;
    size_t bytes = ad_kernel_scratch(&k, 1);
    void *scratch = ad_aligned_alloc((int64_t)bytes);
    if (scratch) k.run(&k, 1, in, out, scratch);
    ad_kernel_clear(&k);
    free(scratch);
    return scratch != NULL;
}

/* More than so many bytes are not worth keeping as elements: the program computes them. */
enum { MAX_BYTES = 64 * 1024 * 1024 };

/* The value of x, whose operands are constants. */
static int32_t evaluate(ad_ir *ir, const ad_inst *x)
{
    int64_t size = (int64_t)ad_dtype_size(ir->dtype),
            bytes = ad_size_align(ad_size_mul(ad_row_size(x->shape), size));
    int64_t out_bytes = bytes;
    for (int i = 0; i < x->nin; i++)
        bytes = ad_size_add(
            bytes, ad_size_align(ad_size_mul(ad_row_size(ir->inst[x->in[i]].shape), size)));
    if (bytes < 0 || bytes > MAX_BYTES) return ad_ir_add(ir, x);
    char *memory = ad_aligned_alloc(bytes);
    const void **in = ad_pool_alloc(ir->pool, (size_t)x->nin * sizeof *in);
    ad_shape *shapes = ad_pool_alloc(ir->pool, (size_t)x->nin * sizeof *shapes);
    int32_t result = 0;
    if (memory && in && shapes) {
        char *at = memory + out_bytes;
        for (int i = 0; i < x->nin; i++) {
            const ad_inst *a = &ir->inst[x->in[i]];
            shapes[i] = a->shape;
            ad_constant_write(ir, a, at);
            in[i] = at;
            at += ad_size_align(ad_row_size(a->shape) * size);
        }
        if (run_kernel(ir, x, shapes, in, memory)) result = ad_constant_add(ir, x->shape, memory);
        else ir->failed = true;
    } else {
        ir->failed = true;
    }
    free(memory);
    return result;
}

static int32_t fold(ad_ir *ir, ad_inst *x)
{
    bool constant = !ad_is_source(x->op) && ad_ops[x->op].kind != AD_OPAQUE &&
                    ad_ops[x->op].kind != AD_RESULT && !ad_has_rows(x->shape);
    for (int i = 0; i < x->nin && constant; i++)
        constant = ad_is_constant(&ir->inst[x->in[i]]) && !ad_has_rows(ir->inst[x->in[i]].shape);
    return constant ? evaluate(ir, x) : ad_ir_add(ir, x);
}

bool ad_pass_fold(ad_ir *ir) { return ad_ir_rewrite(ir, fold); }
