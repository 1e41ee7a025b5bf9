/* An operation of one's own, with its derivative: the Bessel function J0 of the C library.
 *
 * An opaque operation is a C function on whole arrays. Its derivative rules record ordinary
 * operations, here J0'(x) = -J1(x), where J1 is a second opaque operation; J1'(x) = J0(x) -
 * J1(x)/x. So derivatives of any order follow, and programs may hold the operation. */
#define _DEFAULT_SOURCE /* j0, j1 */
#include <autodiff/extension.h>
#include <costate.h>
#include <math.h>

static ad_var bessel(int order, ad_var x);

/* Sizes come from the shapes of the call, which have the number of rows filled in. */
static int forward(void *data, void *state, const ad_opaque_call *call)
{
    (void)state;
    double (*function)(double) = *(const int *)data == 0 ? j0 : j1;
    int64_t n = ad_count(call->in_shape[0], 0);
    for (int64_t i = 0; i < n; i++) {
        if (call->dtype == AD_F64)
            ((double *)call->out[0])[i] = function(((const double *)call->in[0])[i]);
        else ((float *)call->out[0])[i] = (float)function(((const float *)call->in[0])[i]);
    }
    return 0;
}

/* The derivative is diagonal, so forwards and backwards it multiplies by the same number. */
static ad_var times_derivative(int order, ad_var x, ad_var y, ad_var v)
{
    if (order == 0) return ad_neg(ad_mul(v, bessel(1, x)));
    return ad_mul(v, ad_sub(bessel(0, x), ad_div(y, x)));
}

static void vjp(void *data, ad_var token, int nin, const ad_var *in, int nout, const ad_var *out,
                const ad_var *ybar, const bool *need, ad_var *xbar)
{
    (void)token, (void)nin, (void)nout;
    if (need[0]) xbar[0] = times_derivative(*(const int *)data, in[0], out[0], ybar[0]);
}

static void jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot, int nout,
                const ad_var *out, ad_var *ydot)
{
    (void)token, (void)nin, (void)nout;
    ydot[0] = times_derivative(*(const int *)data, in[0], out[0], xdot[0]);
}

static ad_var bessel(int order, ad_var x)
{
    static const ad_opaque_class class_[] = {
        { .name = "J0", .forward = forward, .vjp = vjp, .jvp = jvp },
        { .name = "J1", .forward = forward, .vjp = vjp, .jvp = jvp }
    };
    static int orders[] = { 0, 1 }; /* constant data: nothing to retain or release */
    ad_shape shape = ad_shape_of(x);
    ad_var y;
    ad_opaque(x.tape, &class_[order], &orders[order], 1, &x, 1, &shape, &y);
    return y;
}

int main(void)
{
    const double points[] = { 1, 2.404825557695773, 10 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 3, points), y = bessel(0, x), first,
           second;
    ad_grad(ad_sum_all(y), AD_VARS(x), &first);
    ad_grad(ad_sum_all(first), AD_VARS(x), &second);
    ad_print(stdout, "J0", y);
    ad_print(stdout, "J0'", first);
    /* Bessel's equation: x^2 y'' + x y' + x^2 y = 0. */
    ad_var square = ad_square(x);
    ad_print(stdout, "equation",
             ad_add(ad_add(ad_mul(square, second), ad_mul(x, first)), ad_mul(square, y)));
    ad_tape_free(tape);
}
