/* Jacobians with fewer rows than columns: against derivatives along single directions and against
 * differences, whichever way they are recorded. */
#include "autodiff/tape/tape.h"
#include "tests/support.h"
#include <math.h>

enum { ROWS = 3, COLUMNS = 12, MOST = 12 };

static ad_var part(ad_var x, int64_t start, int64_t stop) { return ad_slice(x, -1, start, stop); }

static ad_var f_pinhole(ad_var x)
{
    ad_var eye = part(x, 0, 3), point = part(x, 3, 6), from = ad_sub(point, eye);
    ad_var on = ad_div(part(from, 0, 2), ad_shift(ad_square(part(from, 2, 3)), 1));
    ad_var r = ad_sum_axis(ad_square(on), -1, true);
    ad_var bent = ad_mul(on, ad_shift(ad_mul(r, part(x, 6, 7)), 1));
    return ad_add(ad_mul(bent, part(x, 7, 8)), part(x, 8, 10));
}
static ad_var f_pieces(ad_var x)
{
    ad_var a = ad_exp(ad_mul(part(x, 0, 1), part(x, 1, 2)));
    ad_var b = ad_reshape(ad_tanh(part(x, 2, 6)), AD_SHAPE(AD_ROWS, 2, 2));
    ad_var c = ad_broadcast(ad_scalar(x.tape, 3), AD_SHAPE(AD_ROWS, 1));
    ad_var flat = ad_reshape(b, AD_SHAPE(AD_ROWS, 4));
    return ad_concatenate(4, (ad_var[]){ a, flat, c, part(x, 6, 8) }, -1);
}
/* Pieces of two axes, of which the last is the one they are put together along. */
static ad_var f_beside(ad_var x)
{
    ad_var a = ad_reshape(ad_sin(part(x, 0, 4)), AD_SHAPE(AD_ROWS, 2, 2));
    ad_var b = ad_reshape(ad_mul(part(x, 4, 6), part(x, 6, 8)), AD_SHAPE(AD_ROWS, 2, 1));
    return ad_concatenate(2, (ad_var[]){ a, b }, -1);
}
/* Assemblies with gaps, and pieces that are x itself. */
static ad_var f_padded(ad_var x)
{
    ad_var y = ad_pad(ad_sin(part(x, 3, 5)), -1, 2, 1);
    return ad_add(y, ad_pad(ad_cos(part(x, 4, 7)), -1, 0, 2));
}
static ad_var f_matrix(ad_var x)
{
    ad_var a = ad_reshape(part(x, 0, 6), AD_SHAPE(AD_ROWS, 2, 3));
    ad_var b = ad_reshape(part(x, 6, 12), AD_SHAPE(AD_ROWS, 3, 2));
    return ad_matmul(a, ad_tanh(b));
}
static ad_var f_network(ad_var x)
{
    double w[COLUMNS * 16], v[16 * 3];
    for (int i = 0; i < COLUMNS * 16; i++) w[i] = sin(1.3 * i + 0.2) / 3;
    for (int i = 0; i < 16 * 3; i++) v[i] = cos(0.7 * i * i);
    ad_var h = ad_tanh(ad_matmul(x, ad_constant(x.tape, AD_SHAPE(COLUMNS, 16), w)));
    return ad_matmul(h, ad_constant(x.tape, AD_SHAPE(16, 3), v));
}
static ad_var f_largest(ad_var x)
{
    ad_var m = ad_reduce_max(x, 1, (int[]){ -1 }, true), zero = ad_scalar(x.tape, 0);
    ad_var positive = ad_gt(x, zero);
    ad_var root = ad_select(positive, ad_sqrt(ad_select(positive, x, zero)), zero);
    return ad_concatenate(2, (ad_var[]){ m, ad_sum_axis(root, -1, true) }, -1);
}
static ad_var f_tensor(ad_var x)
{
    ad_var a = ad_reshape(x, AD_SHAPE(AD_ROWS, 3, 4));
    return ad_reshape(ad_sum_axis(ad_square(a), -1, false), AD_SHAPE(AD_ROWS, 3, 1));
}

static const struct {
    const char *name;
    ad_var (*f)(ad_var x);
} functions[] = { { "pinhole camera", f_pinhole },
                  { "pieces", f_pieces },
                  { "pieces beside each other", f_beside },
                  { "padded", f_padded },
                  { "matrix product", f_matrix },
                  { "network", f_network },
                  { "largest", f_largest },
                  { "tensor", f_tensor } };
enum { FUNCTIONS = sizeof functions / sizeof *functions };

static void get(ad_var v, double *out)
{
    ck_assert_msg(ad_get(v, out) == 0, "%s", ad_tape_error(v.tape));
}

static void fill(double *x)
{
    for (int i = 0; i < ROWS * COLUMNS; i++) x[i] = sin(1.7 * i * i + 0.4) + 0.1;
}

START_TEST(against_columns)
{
    double data[ROWS * COLUMNS], j[ROWS * MOST * COLUMNS], column[ROWS * MOST], up[ROWS * MOST],
        down[ROWS * MOST];
    fill(data);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, COLUMNS), ROWS, data), y = functions[_i].f(x);
    const int64_t m = ad_row_size(ad_shape_of(y));
    ad_var jacobian = ad_jacobian(y, x);
    ad_shape want = ad_shape_of(y);
    want.dim[want.rank++] = COLUMNS;
    ck_assert(ad_same_shape(ad_shape_of(jacobian), want));
    get(jacobian, j);
    for (int k = 0; k < COLUMNS; k++) {
        double unit[COLUMNS] = { 0 };
        unit[k] = 1;
        ad_var u = ad_broadcast(ad_constant(t, AD_SHAPE(1, COLUMNS), unit), ad_shape_of(x)), v;
        ad_jvp(1, &x, &u, 1, &y, &v);
        get(v, column);
        const double e = 1e-6;
        for (int r = 0; r < ROWS; r++) data[r * COLUMNS + k] += e;
        ad_set(x, ROWS, data);
        get(y, up);
        for (int r = 0; r < ROWS; r++) data[r * COLUMNS + k] -= 2 * e;
        ad_set(x, ROWS, data);
        get(y, down);
        for (int r = 0; r < ROWS; r++) data[r * COLUMNS + k] += e;
        ad_set(x, ROWS, data);
        for (int64_t i = 0; i < ROWS * m; i++) {
            const double got = j[i * COLUMNS + k], difference = (up[i] - down[i]) / (2 * e);
            ck_assert_msg(fabs(got - column[i]) <= 1e-14 * (1 + fabs(got)),
                          "%s: element %d by column %d is %.17g, along its direction %.17g",
                          functions[_i].name, (int)i, k, got, column[i]);
            ck_assert_msg(fabs(got - difference) <= 1e-7 * (1 + fabs(got)),
                          "%s: element %d by column %d is %.17g, differences say %.9g",
                          functions[_i].name, (int)i, k, got, difference);
        }
    }
    ad_tape_free(t);
}
END_TEST

/* The derivative of a Jacobian: that of its sum, weighted, by x along u, against differences. */
START_TEST(derivatives)
{
    double data[ROWS * COLUMNS], direction[ROWS * COLUMNS], g[ROWS * COLUMNS], at[2], slope = 0;
    fill(data);
    for (int i = 0; i < ROWS * COLUMNS; i++) direction[i] = cos(2.3 * i);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, COLUMNS), ROWS, data), y = functions[_i].f(x);
    ad_var jacobian = ad_jacobian(y, x), gradient, sum = ad_sum_all(ad_sin(ad_scale(jacobian, 2)));
    ad_grad(sum, 1, &x, &gradient);
    get(gradient, g);
    for (int i = 0; i < ROWS * COLUMNS; i++) slope += g[i] * direction[i];
    const double e = 1e-6;
    for (int k = 0; k < 2; k++) {
        double moved[ROWS * COLUMNS];
        for (int i = 0; i < ROWS * COLUMNS; i++) moved[i] = data[i] + (k ? -e : e) * direction[i];
        ad_set(x, ROWS, moved);
        at[k] = ad_item(sum);
    }
    const double want = (at[0] - at[1]) / (2 * e);
    ck_assert_msg(fabs(slope - want) <= 1e-6 * (1 + fabs(want)), "%s: %.12g, differences say %.9g",
                  functions[_i].name, slope, want);
    ad_tape_free(t);
}
END_TEST

/* Of a function of scalars nothing is recorded that has more elements than the Jacobian, and
 * elements that are computed apart are not swept for each other. */
START_TEST(stays_cheap)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, COLUMNS), 0, (double *)NULL), y = f_pinhole(x);
    int32_t mark = ad_tape_mark(t);
    ad_var j = ad_jacobian(y, x);
    for (int32_t k = mark; k < ad_tape_mark(t); k++)
        ck_assert_int_le(ad_row_size(ad_node_at(t, k)->shape), ad_row_size(ad_shape_of(j)));
    enum { APART = 6, DEPTH = 40 };
    ad_var z[APART];
    for (int i = 0; i < APART; i++) {
        z[i] = part(x, i, i + 1);
        for (int k = 0; k < DEPTH; k++) z[i] = ad_sin(z[i]);
    }
    y = ad_concatenate(APART, z, -1);
    mark = ad_tape_mark(t);
    ad_jacobian(y, x);
    ck_assert_int_le(ad_tape_mark(t) - mark, 3 * APART * DEPTH);
    ad_tape_free(t);
}
END_TEST

START_TEST(other_shapes)
{
    ad_tape *t = ad_tape_new(AD_F64);
    double j[12];
    ad_var a = ad_input(t, AD_SHAPE(2, 3), ((double[]){ 1, 2, 3, 4, 5, 6 }));
    ad_var y = ad_sum_axis(ad_square(a), -1, false); /* [2] by [2,3] */
    ad_var jacobian = ad_jacobian(y, a);
    ck_assert(ad_same_shape(ad_shape_of(jacobian), AD_SHAPE(2, 2, 3)));
    get(jacobian, j);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 6; k++) ck_assert_double_eq(j[6 * i + k], k / 3 == i ? 2 * (k + 1) : 0);
    ad_var s = ad_sum_all(a); /* a scalar */
    ad_var gradient = ad_jacobian(s, a);
    ck_assert(ad_same_shape(ad_shape_of(gradient), AD_SHAPE(2, 3)));
    get(gradient, j);
    for (int k = 0; k < 6; k++) ck_assert_double_eq(j[k], 1);
    ad_tape_free(t);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("jacobian_rows", "jacobian_rows");
    tcase_add_loop_test(tests, against_columns, 0, FUNCTIONS);
    tcase_add_loop_test(tests, derivatives, 0, FUNCTIONS);
    tcase_add_test(tests, stays_cheap);
    tcase_add_test(tests, other_shapes);
    return suite_run();
}
