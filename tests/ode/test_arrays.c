/* Loops over the elements of a state, which go stretch by stretch: one element that is not finite,
 * or that rests, is found wherever it stands, in the last and incomplete stretch too. */
#include "ode/field/arrays.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

enum { MOST = 700 };

START_TEST(one_that_is_not_finite)
{
    static const double wrong[] = { NAN, INFINITY, -INFINITY };
    static const int64_t sizes[] = { 1, 255, 256, 257, 600, MOST };
    double x[MOST];
    for (int k = 0; k < 6; k++) {
        const ad_dtype t = k % 2 ? AD_F32 : AD_F64;
        const double largest = t == AD_F32 ? 3e38 : 1.7e308;
        for (int s = 0; s < (int)(sizeof sizes / sizeof *sizes); s++) {
            for (int64_t i = 0; i < sizes[s]; i++) ode_store(t, x, i, i % 2 ? largest : -largest);
            ck_assert_int_eq(ode_first_nonfinite(t, sizes[s], x), -1);
            for (int64_t i = 0; i < sizes[s]; i++) {
                const double before = ode_load(t, x, i);
                ode_store(t, x, i, wrong[k / 2]);
                ck_assert_int_eq(ode_first_nonfinite(t, sizes[s], x), i);
                ode_store(t, x, i, before);
            }
        }
    }
}
END_TEST

START_TEST(one_that_is_equal)
{
    static const int64_t sizes[] = { 1, 255, 256, 257, 600, MOST };
    double x[MOST], y[MOST];
    for (int k = 0; k < 2; k++) {
        const ad_dtype t = k ? AD_F32 : AD_F64;
        for (int s = 0; s < (int)(sizeof sizes / sizeof *sizes); s++) {
            for (int64_t i = 0; i < MOST; i++) {
                ode_store(t, x, i, (double)i);
                ode_store(t, y, i, i < sizes[s] ? (double)i + 0.5 : (double)i);
            }
            ck_assert(!ode_some_are_equal(t, sizes[s], x, y));
            for (int64_t i = 0; i < sizes[s]; i++) {
                ode_store(t, y, i, (double)i);
                ck_assert(ode_some_are_equal(t, sizes[s], x, y));
                ode_store(t, y, i, (double)i + 0.5);
            }
        }
    }
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("arrays", "stretches");
    tcase_add_test(tests, one_that_is_not_finite);
    tcase_add_test(tests, one_that_is_equal);
    return suite_run();
}
