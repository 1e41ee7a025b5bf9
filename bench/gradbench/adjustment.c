/* adjustment: bundle adjustment's errors of reprojection and their Jacobian. A row is an
 * observation: rotation [3], centre [3], focal length, principal point [2] and distortion [2] of
 * its camera, its point [3] and its weight; and what was seen [2]. size: observations. */
#include "gradbench.h"

enum { CAMERA = 11, POINT = 3, NUMBERS = CAMERA + POINT + 1, SEEN = 2 };

static void plan(gb_case *c)
{
    c->ninput = 2;
    c->rows = c->size[0];
    c->count[0] = NUMBERS;
    c->count[1] = SEEN;
    c->nvalue = c->rows * SEEN;
    c->nderivative = c->rows * SEEN * NUMBERS;
}

static void fill(const gb_case *c)
{
    gb_numbers(0, c->rows * NUMBERS, 0, 1, c->input[0]);
    gb_numbers(1, c->rows * SEEN, 0, 1, c->input[1]);
    for (int64_t r = 0; r < c->rows; r++) c->input[0][r * NUMBERS + CAMERA + 2] += 5;
}

static ad_var dot(ad_var a, ad_var b) { return ad_sum_axis(ad_mul(a, b), -1, true); }

static ad_var cross(ad_var a, ad_var b)
{
    ad_var x[3];
    for (int i = 0; i < 3; i++) {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        x[i] = ad_sub(ad_mul(gb_part(a, j, j + 1), gb_part(b, k, k + 1)),
                      ad_mul(gb_part(a, k, k + 1), gb_part(b, j, j + 1)));
    }
    return ad_concatenate(3, x, -1);
}

/* Rodrigues' formula. */
static ad_var rotated(ad_var r, ad_var x)
{
    ad_var angle = ad_sqrt(dot(r, r)), u = ad_div(r, angle), c = ad_cos(angle), s = ad_sin(angle);
    ad_var along = ad_mul(dot(u, x), ad_sub(ad_scalar(x.tape, 1), c));
    return ad_add(ad_add(ad_mul(x, c), ad_mul(cross(u, x), s)), ad_mul(u, along));
}

static ad_var record(const gb_case *c, const ad_var *in)
{
    ad_var n = in[0], x = gb_part(n, CAMERA, CAMERA + POINT);
    (void)c;
    ad_var at = rotated(gb_part(n, 0, 3), ad_sub(x, gb_part(n, 3, 6)));
    ad_var on = ad_div(gb_part(at, 0, 2), gb_part(at, 2, 3)), square = dot(on, on);
    ad_var bend = ad_add(gb_part(n, 9, 10), ad_mul(gb_part(n, 10, 11), square));
    ad_var bent = ad_mul(on, ad_shift(ad_mul(square, bend), 1));
    ad_var image = ad_add(ad_mul(bent, gb_part(n, 6, 7)), gb_part(n, 7, 9));
    return ad_mul(ad_sub(image, in[1]), gb_part(n, NUMBERS - 1, NUMBERS));
}

const gb_program gb_adjustment = { "adjustment", plan, fill, record, NULL, NULL };
