/* What every test program ends with: runs a suite, prints its results, gives the exit status. */
#ifndef COSTATE_TESTS_SUITE_H
#define COSTATE_TESTS_SUITE_H
#include <check.h>

static inline int suite_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

#endif
