/* Recording convolutions: shapes, and what the taps of a kernel touch. */
#include "autodiff/tape/tape.h"
#include <stdlib.h>

enum { MOST = 1 << 30 }; /* of strides, paddings and dilations */

/* An axis of a convolution by sizes. */
typedef struct {
    int64_t stride, before, after, dilation, extra;
} axis_options;

static axis_options options_of(const ad_conv_options *o, int axis)
{
    axis_options a = { .stride = 1, .dilation = 1 };
    if (!o) return a;
    if (o->stride[axis]) a.stride = o->stride[axis];
    if (o->dilation[axis]) a.dilation = o->dilation[axis];
    a.before = o->before[axis];
    a.after = o->after[axis];
    a.extra = o->extra[axis];
    return a;
}

/* NULL, or what is wrong with the options. */
static const char *check_options(const ad_conv_options *o, int axes, bool transposed, char *text,
                                 size_t size)
{
    if (!o) return NULL;
    const struct {
        const char *name;
        const int64_t *value;
    } list[] = { { "stride", o->stride },
                 { "padding before", o->before },
                 { "padding after", o->after },
                 { "dilation", o->dilation },
                 { "extra", o->extra } };
    for (size_t k = 0; k < sizeof list / sizeof *list; k++)
        for (int a = 0; a < 2; a++) {
            int64_t v = list[k].value[a];
            if (v >= 0 && v < MOST && (a < axes || v == 0)) continue;
            if (a >= axes)
                snprintf(text, size, "options give a %s for a second axis; w has one spatial axis",
                         list[k].name);
            else
                snprintf(text, size, "the %s of spatial axis %d is %lld; it must be in 0..%d",
                         list[k].name, a, (long long)v, MOST - 1);
            return text;
        }
    for (int a = 0; a < axes; a++) {
        axis_options x = options_of(o, a);
        int64_t most = x.stride > x.dilation ? x.stride : x.dilation;
        if (x.extra == 0 || (transposed && x.extra < most)) continue;
        if (transposed)
            snprintf(text, size,
                     "extra of spatial axis %d is %lld; it must be smaller than the stride %lld or "
                     "the dilation %lld",
                     a, (long long)x.extra, (long long)x.stride, (long long)x.dilation);
        else snprintf(text, size, "extra is for ad_conv_transpose alone");
        return text;
    }
    if (o->groups >= 0) return NULL;
    snprintf(text, size, "the number of groups is %lld", (long long)o->groups);
    return text;
}

/* NULL, or why operand x, which is x or y of the form, cannot go with w. */
static const char *check_operands(ad_shape x, ad_shape w, int64_t groups, bool transposed,
                                  char *text, size_t size)
{
    int axes = w.rank - 2;
    if (ad_has_rows(w)) return "w must have no rows";
    if (axes < 1 || axes > 2) return "w must be [K,Cin/groups,Cout] or [K,K',Cin/groups,Cout]";
    if (x.rank < axes + 1 || (x.rank == axes + 1 && ad_has_rows(x))) {
        snprintf(text, size,
                 "w has %d spatial ax%cs, so the first operand must be [...,%s,channels]", axes,
                 axes == 1 ? 'i' : 'e', axes == 1 ? "L" : "H,W");
        return text;
    }
    int64_t cin = w.dim[axes], cout = w.dim[axes + 1], have = x.dim[x.rank - 1];
    int64_t want = transposed ? cout : cin * groups;
    if (cout % groups) {
        snprintf(text, size, "the %lld output channels of w are not divisible by %lld groups",
                 (long long)cout, (long long)groups);
        return text;
    }
    if (have % groups) {
        snprintf(text, size, "%lld channels are not divisible by %lld groups", (long long)have,
                 (long long)groups);
        return text;
    }
    if (have == want) return NULL;
    snprintf(text, size, "w and %lld groups want %lld channels, but the first operand has %lld",
             (long long)groups, (long long)want, (long long)have);
    return text;
}

/* The size of the result along an axis; less than 1: the kernel does not fit. */
static int64_t result_size(int64_t n, int64_t taps, const axis_options *o, bool transposed)
{
    int64_t reach = o->dilation * (taps - 1) + 1;
    if (transposed) return (n - 1) * o->stride - o->before - o->after + reach + o->extra;
    int64_t room = n + o->before + o->after - reach;
    return room < 0 ? 0 : room / o->stride + 1;
}

static ad_var convolve(ad_op op, ad_var x, ad_var w, const ad_conv_options *options)
{
    const char *name = ad_ops[op].name;
    ad_var in[2] = { x, w };
    ad_tape *t = ad_common_tape(name, 2, in);
    if (!t) return ad_none(x.tape);
    const bool transposed = op == AD_OP_conv_transpose;
    ad_shape sx = ad_shape_of(x), sw = ad_shape_of(w), out = sx;
    ad_sweep s = { .axes = sw.rank - 2,
                   .groups = options && options->groups ? options->groups : 1 };
    char text[256];
    const char *wrong = NULL;
    if (s.axes >= 1 && s.axes <= 2)
        wrong = check_options(options, s.axes, transposed, text, sizeof text);
    if (!wrong) wrong = check_operands(sx, sw, s.groups, transposed, text, sizeof text);
    if (wrong) return ad_fail_shapes(t, name, wrong, 2, in);
    for (int a = 0; a < s.axes; a++) {
        const axis_options o = options_of(options, a);
        int at = sx.rank - 1 - s.axes + a;
        int64_t n = sx.dim[at];
        bool countable = n < (int64_t)1 << 32 && sw.dim[a] < MOST;
        out.dim[at] = countable ? result_size(n, sw.dim[a], &o, transposed) : 0;
        if (out.dim[at] < 1) {
            snprintf(text, sizeof text,
                     transposed ? "spatial axis %d of the result would be empty: kernel %lld, "
                                  "dilation %lld, padding %lld + %lld"
                                : "the kernel is larger than the padded spatial axis %d: kernel "
                                  "%lld, dilation %lld, padding %lld + %lld",
                     a, (long long)sw.dim[a], (long long)o.dilation, (long long)o.before,
                     (long long)o.after);
            return ad_fail_shapes(t, name, text, 2, in);
        }
        s.stride[a] = o.stride;
        s.before[a] = o.before;
        s.dilation[a] = o.dilation;
    }
    out.dim[out.rank - 1] = transposed ? sw.dim[s.axes] * s.groups : sw.dim[s.axes + 1];
    int64_t attr[AD_SWEEP_MOST];
    int nattr = ad_sweep_write(&s, attr);
    return ad_record(t, op, 2, (int32_t[]){ x.node, w.node }, nattr, attr, out);
}

ad_var ad_conv(ad_var x, ad_var w, const ad_conv_options *options)
{
    return convolve(AD_OP_conv, x, w, options);
}

ad_var ad_conv_transpose(ad_var y, ad_var w, const ad_conv_options *options)
{
    return convolve(AD_OP_conv_transpose, y, w, options);
}

/* ---- what taps touch ------------------------------------------------------------------------- */

/* Sets touched[0 .. size) of an axis of one of the arrays to 1 or 0. */
static void touch(const ad_sweep *s, int axis, ad_face face, int64_t nx, int64_t taps, int64_t ny,
                  double *touched)
{
    for (int64_t o = 0; o < ny; o++)
        for (int64_t k = 0; k < taps; k++) {
            int64_t i = o * s->stride[axis] - s->before[axis] + k * s->dilation[axis];
            if (i >= 0 && i < nx) touched[face == AD_FACE_X ? i : face == AD_FACE_W ? k : o] = 1;
        }
}

ad_var ad_conv_touched(ad_var y, int operand)
{
    const ad_node *n = ad_node_at(y.tape, y.node);
    const ad_sweep s = ad_sweep_of(n->attr, n->nattr);
    ad_shape shape[3];
    int first[3]; /* the first spatial axis */
    for (int i = 0; i < 3; i++) {
        ad_face f = i == 2 ? ad_face_of(n->op) : ad_face_operand(n->op, i);
        shape[f] = i == 2 ? n->shape : ad_node_at(y.tape, n->in[i])->shape;
        first[f] = f == AD_FACE_W ? 0 : shape[f].rank - 1 - s.axes;
    }
    ad_face face = operand == 2 ? ad_face_of(n->op) : ad_face_operand(n->op, operand);
    ad_var mask = ad_none(y.tape);
    for (int a = 0; a < s.axes; a++) {
        int at = first[face] + a;
        int64_t size = shape[face].dim[at];
        double *touched = calloc((size_t)size, sizeof *touched);
        if (!touched) {
            ad_fail(y.tape, "ad_%s: out of memory", ad_ops[n->op].name);
            return ad_none(y.tape);
        }
        touch(&s, a, face, shape[AD_FACE_X].dim[first[AD_FACE_X] + a], shape[AD_FACE_W].dim[a],
              shape[AD_FACE_Y].dim[first[AD_FACE_Y] + a], touched);
        bool all = true;
        for (int64_t i = 0; i < size; i++) all = all && touched[i] == 1;
        ad_shape line = { shape[face].rank - at, { size } };
        for (int k = 1; k < line.rank; k++) line.dim[k] = 1;
        ad_var part = all ? ad_none(y.tape) : ad_constant(y.tape, line, touched);
        free(touched);
        if (!all) mask = mask.node < 0 ? part : ad_mul(mask, part);
    }
    return mask.node < 0 ? mask : ad_broadcast(mask, shape[face]);
}
