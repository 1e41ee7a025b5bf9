/* Compiling and running random tapes (random_tapes.h) when memory fails at any point: an error,
 * nothing lost. And errors of programs that are too large for the machine, which name the bytes
 * before anything is touched. */
#define TESTS_COUNT_ALLOCATIONS
#include "autodiff/plan/program.h"
#include "tests/autodiff/random_tapes.h"
#include "tests/support.h"
#include <sys/resource.h>

static ad_program *compile(const world *w)
{
    return ad_compile(INPUTS, w->input, OUTPUTS, w->output);
}

static int run(const world *w, const ad_program *p, ad_workspace *s, int64_t rows)
{
    const void *data[INPUTS];
    void *out[OUTPUTS] = { NULL };
    for (int k = 0; k < INPUTS; k++) data[k] = w->value[k];
    return ad_run(p, s, rows, data, out);
}

static world tape_of(uint64_t seed)
{
    world w = make_world((recipe){ .seed = seed, .dtype = AD_F64, .steps = MAX_STEPS });
    ck_assert_msg(!ad_tape_error(w.tape), "seed %llu: %s", (unsigned long long)seed,
                  ad_tape_error(w.tape));
    return w;
}

/* ---- memory that fails ---- */

#ifndef ALLOCATIONS_NOT_COUNTED
/* _i: 0, the k-th allocation fails and all after it; 1, it alone. */
static void fail_at(long k, int alone)
{
    if (alone) allocations_fail_alone(k);
    else allocations_fail_at(k);
}

START_TEST(test_compiling_without_memory)
{
    for (uint64_t seed = 0; seed < 40; seed++) {
        world w = tape_of(seed);
        ad_program_free(compile(&w)); /* what the matrix library keeps, it keeps now */
        ad_program *p = NULL;
        long k = 0, live = allocations_live();
        for (bool failed = true; failed && k < 5000; k++) {
            ad_program_free(p);
            fail_at(k, _i);
            p = compile(&w);
            failed = allocations_failed();
            if (p) continue;
            ck_assert_msg(ad_tape_error(w.tape) && strstr(ad_tape_error(w.tape), "out of memory"),
                          "%s", ad_tape_error(w.tape) ? ad_tape_error(w.tape) : "no error");
            ad_tape_clear_error(w.tape);
            ck_assert_int_eq(allocations_live(), live);
        }
        ck_assert_ptr_nonnull(p);
        ck_assert_int_gt(k, 5);
        ad_workspace *s = ad_workspace_new(p, 2);
        ck_assert_int_eq(run(&w, p, s, 17), 0);
        ad_workspace_free(s);
        ad_program_free(p);
        end_world(&w);
    }
}
END_TEST

START_TEST(test_running_without_memory)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        world w = tape_of(seed);
        ad_program *p = compile(&w);
        int ran = -1;
        bool failed = true;
        for (long k = 0; failed && k < 200; k++) {
            fail_at(k, _i);
            ad_workspace *s = ad_workspace_new(p, 2);
            ran = s ? run(&w, p, s, MAX_ROWS) : -1;
            failed = allocations_failed();
            if (s && ran) {
                ck_assert_ptr_nonnull(strstr(ad_workspace_error(s), "out of memory"));
                ck_assert_int_eq(run(&w, p, s, MAX_ROWS), 0);
            }
            ad_workspace_free(s);
        }
        ck_assert_int_eq(ran, 0);
        ad_program_free(p);
        end_world(&w);
    }
}
END_TEST
#endif

/* ---- programs that are too large ---- */

static void check_too_large(ad_tape *t, ad_var x, ad_var y, const char *want)
{
    ad_program *p = ad_compile(1, &x, 1, &y);
    ck_assert_ptr_null(p);
    ck_assert_msg(ad_tape_error(t) && strstr(ad_tape_error(t), want), "%s",
                  ad_tape_error(t) ? ad_tape_error(t) : "no error");
    ad_tape_free(t);
}

START_TEST(test_values_too_large)
{
    const int64_t n = (int64_t)1 << 22; /* squared: 2^44 elements of 8 bytes */
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SHAPE(n, 1), NULL);
    check_too_large(t, x, ad_mul(ad_exp(x), ad_reshape(x, AD_SHAPE(1, n))),
                    "out of memory: the program needs 1407");
    t = ad_tape_new(AD_F64);
    x = ad_input(t, AD_SCALAR, NULL);
    check_too_large(t, x, ad_mul(x, ad_exp(ad_eye(t, n, n, 0))),
                    "out of memory: the program needs ");
}
END_TEST

/* Rows of nearly as many bytes as can be counted. */
START_TEST(test_rows_too_large)
{
    for (int shift = 50; shift <= 58; shift++) {
        ad_tape *t = ad_tape_new(AD_F64);
        ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 1, NULL),
               y = ad_broadcast(ad_exp(x), AD_SHAPE(AD_ROWS, (int64_t)1 << shift));
        y = ad_cumsum(y, 1, false);
        y = ad_sum_all(ad_mul(ad_neg(ad_sin(y)), ad_scale(ad_cos(y), 2)));
        ad_program *p = ad_compile(1, &x, 1, &y);
        double in = 1, out;
        if (p) { /* the size of a block can be counted */
            ad_workspace *w = ad_workspace_new(p, 1);
            ck_assert_int_eq(ad_run(p, w, 1, (const void *[]){ &in }, (void *[]){ &out }), -1);
            ck_assert_msg(strstr(ad_workspace_error(w), "out of memory: ") != NULL, "%s",
                          ad_workspace_error(w));
            ad_workspace_free(w);
        } else {
            ck_assert_msg(strstr(ad_tape_error(t),
                                 "the program needs more bytes than can be addressed") != NULL,
                          "%s", ad_tape_error(t));
        }
        ad_program_free(p);
        ad_tape_free(t);
    }
}
END_TEST

/* Compiling takes no memory to speak of however long the sums of a product are: here the matrices
 * for a trial would have 10 GB. */
START_TEST(test_long_sums)
{
    const int64_t n = (int64_t)1 << 23;
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var in[] = { ad_input_rows(t, AD_SHAPE(AD_ROWS, n), 1, NULL),
                    ad_param(t, AD_SHAPE(n, 16), NULL) },
           y = ad_matmul(in[0], in[1]);
    ad_program *p = ad_compile(2, in, 1, &y);
    struct rusage usage;
    ck_assert_ptr_nonnull(p);
    getrusage(RUSAGE_SELF, &usage);
    ck_assert_int_lt(usage.ru_maxrss, 1 << 20); /* KiB */
    ad_program_free(p);
    in[0] = ad_param(t, AD_SHAPE(4096, (int64_t)1 << 45),
                     NULL); /* more multiplications than can be counted */
    in[1] = ad_param(t, AD_SHAPE((int64_t)1 << 45, 4096), NULL);
    y = ad_matmul(in[0], in[1]);
    p = ad_compile(2, in, 1, &y);
    ck_assert_ptr_nonnull(p);
    ad_program_free(p);
    ad_tape_free(t);
}
END_TEST

/* All rows are kept, for the second body. */
START_TEST(test_too_many_rows)
{
    ad_tape *t = ad_tape_new(AD_F32);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 4), 1, NULL), y = ad_exp(x);
    y = ad_sub(y, ad_mean(y, 1, (int[]){ 0 }, true));
    ad_program *p = ad_compile(1, &x, 1, &y);
    ad_workspace *w = ad_workspace_new(p, 2);
    float in[4] = { 0 }, out[4];
    static const int64_t rows[] = { (int64_t)1 << 42, (int64_t)1 << 57, (int64_t)1 << 60,
                                    INT64_MAX };
    for (int k = 0; k < 4; k++) {
        ck_assert_int_eq(ad_run(p, w, rows[k], (const void *[]){ in }, (void *[]){ out }), -1);
        const char *want = k == 0   ? "ad_run: out of memory: 7036"
                           : k == 1 ? "ad_run: out of memory: 230584300"
                                    : "more bytes than can be addressed";
        ck_assert_msg(strstr(ad_workspace_error(w), want) != NULL, "%s", ad_workspace_error(w));
    }
    ck_assert_int_eq(ad_run(p, w, 1, (const void *[]){ in }, (void *[]){ out }), 0);
    ck_assert(out[0] == 0);
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(t);
}
END_TEST

/* ---- what else is asked for ---- */

START_TEST(test_negative_threads)
{
    world w = tape_of(1);
    ad_program *p = compile(&w);
    ad_workspace *s = ad_workspace_new(p, -3);
    ck_assert_int_eq(run(&w, p, s, 3), -1);
    ck_assert_msg(strstr(ad_workspace_error(s), "negative number of threads (-3)") != NULL, "%s",
                  ad_workspace_error(s));
    ad_workspace_free(s);
    ad_program_free(p);
    end_world(&w);
}
END_TEST

START_TEST(test_instruction_set)
{
    setenv("COSTATE_ISA", "generic", 1);
    world w = tape_of(1);
    ad_program *p = compile(&w);
    ad_workspace *s = ad_workspace_new(p, 1);
    char *text = ad_program_describe(p);
    ck_assert_msg(strstr(text, "instruction set generic\n") != NULL, "%s", text);
    ck_assert_int_eq(run(&w, p, s, 3), 0);
    free(text);
    ad_workspace_free(s);
    ad_program_free(p);
    end_world(&w);
}
END_TEST

START_TEST(test_unknown_instruction_set)
{
    setenv("COSTATE_ISA", "x86-64-v9", 1);
    ad_tape *t = ad_tape_new(AD_F32);
    ad_var x = ad_scalar(t, 1), y = ad_exp(x);
    ck_assert(isnan(ad_item(y)));
    ck_assert_ptr_null(ad_compile(0, NULL, 1, &y));
    const char *error = ad_tape_error(t);
    ck_assert_ptr_nonnull(error);
    ck_assert_msg(strstr(error, "COSTATE_ISA=x86-64-v9: no such instruction set (choices: ") ==
                      error,
                  "%s", error);
    ad_tape_free(t);
}
END_TEST

int main(void)
{
    TCase *tc = suite_case("memory", "memory");
#ifndef ALLOCATIONS_NOT_COUNTED
    tcase_add_loop_test(tc, test_compiling_without_memory, 0, 2);
    tcase_add_loop_test(tc, test_running_without_memory, 0, 2);
#endif
    tcase_add_test(tc, test_values_too_large);
    tcase_add_test(tc, test_rows_too_large);
    tcase_add_test(tc, test_long_sums);
    tcase_add_test(tc, test_too_many_rows);
    tcase_add_test(tc, test_negative_threads);
    tcase_add_test(tc, test_instruction_set);
    tcase_add_test(tc, test_unknown_instruction_set);
    return suite_run();
}
