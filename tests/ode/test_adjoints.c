/* The adjoints as a list of objects: each is found by its name and says what it is. */
#include "costate.h"
#include "tests/support.h"
#include <string.h>

START_TEST(are_listed)
{
    const ode_adjoint *const *all = ode_adjoints();
    int n = 0;
    for (; all[n]; n++) {
        ck_assert_ptr_eq(ode_adjoint_find(ode_adjoint_name(all[n])), all[n]);
        ck_assert_uint_gt(strlen(ode_adjoint_about(all[n])), 20);
        for (int i = 0; i < n; i++)
            ck_assert_str_ne(ode_adjoint_name(all[i]), ode_adjoint_name(all[n]));
    }
    ck_assert_ptr_eq(ode_adjoint_find("discrete"), &ode_discrete);
    ck_assert_ptr_eq(ode_adjoint_find("backsolve"), &ode_backsolve);
    ck_assert_ptr_null(ode_adjoint_find("forward"));
    ck_assert_ptr_null(ode_adjoint_find(NULL));
    ck_assert_str_eq(ode_adjoint_name(NULL), "no adjoint");
    ck_assert_str_eq(ode_adjoint_about(NULL), "no adjoint (NULL)");
    ck_assert(ode_adjoint_takes(&ode_discrete, &ode_nystroem2));
    ck_assert(!ode_adjoint_takes(&ode_interpolating, &ode_nystroem2));
    ck_assert(ode_adjoint_takes(&ode_reversible, &sde_reversible_heun));
    ck_assert(!ode_adjoint_takes(&ode_reversible, &sde_heun));
    ck_assert(!ode_adjoint_takes(NULL, &ode_dopri5) && !ode_adjoint_takes(&ode_discrete, NULL));
}
END_TEST

int main(void)
{
    TCase *c = suite_case("adjoints", "list");
    tcase_add_test(c, are_listed);
    return suite_run();
}
