/* Native code: small programs on one row have the interpreter's bits, whatever the operation and
 * its operands; and where there is no such code (another processor, memory that must not become
 * executable, the environment, too much of it) everything runs all the same. Random tapes compare
 * the two as well. */
#include "autodiff/plan/program.h"
#include "autodiff/base/isa.h"
#include "tests/autodiff/native_programs.h"
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 16 };

/* ---- pointwise operations ---- */

/* Every operation on special values, by itself and with a sum or product before it; with rows and
 * without. */
START_TEST(test_pointwise)
{
    const operation *o = &operations[_i % OPERATIONS];
    const bool narrow = _i / OPERATIONS & 1, rows = _i / OPERATIONS & 2;
    const ad_dtype dtype = narrow ? AD_F32 : AD_F64;
    if (!ask_for_native()) return;
    for (int shift = 0; shift < SPECIAL; shift++) {
        ad_tape *tape = ad_tape_new(dtype);
        double memory[4][MOST];
        const void *data[4];
        ad_var x[4];
        for (int k = 0; k < 4; k++) {
            for (int i = 0; i < MOST; i++)
                put(dtype, memory[k], i, special[(i + k * shift + (k == 2) * 5) % SPECIAL]);
            data[k] = memory[k];
            x[k] = rows ? ad_input_rows(tape, AD_SHAPE(AD_ROWS, MOST), 0, NULL)
                        : ad_input(tape, AD_SHAPE(MOST), NULL);
        }
        compare(dtype, o->name, 4, x, applied(o, x), data, true);
        ad_var sum[] = { ad_add(x[0], x[3]), x[1], x[2] };
        compare(dtype, o->name, 4, x, applied(o, sum), data, true);
        ad_var product[] = { x[0], ad_mul(x[1], x[3]), x[2] };
        compare(dtype, o->name, 4, x, applied(o, product), data, true);
        ad_tape_free(tape);
    }
}
END_TEST

/* ---- what moves elements, sums, products ---- */

static ad_var moved(int what, ad_var x)
{
    const ad_var y = ad_reshape(x, AD_SHAPE(3, 4));
    ad_var column = ad_slice(y, 1, 1, 2), parts[] = { ad_slice(x, 0, 3, 7), x, column };
    switch (what) {
    case 0: return ad_transpose(y, (int[]){ 1, 0 });
    case 1: return ad_slice(y, 1, 1, 3);
    case 2: return ad_flip(y, 1);
    case 3: return ad_concatenate(2, parts, 0);
    case 4: return ad_pad(y, 1, 2, 1);
    case 5: return ad_gather(y, 1, 5, (int64_t[]){ 3, 0, 0, 2, 3 });
    case 6: return ad_scatter_add(y, 1, 3, (int64_t[]){ 2, 0, 0, 2 });
    case 7: return ad_sum(y, 1, (int[]){ 0 }, false);
    case 8: return ad_sum(y, 1, (int[]){ 1 }, true);
    case 9: return ad_sum_all(y);
    case 10: return ad_reduce_max(y, 1, (int[]){ 1 }, false);
    case 11: return ad_reduce_max(y, 1, (int[]){ 0 }, false);
    case 12: return ad_mul(y, column);
    case 13: return ad_add(ad_slice(x, 0, 0, 4), y);
    case 14: return ad_broadcast(column, AD_SHAPE(3, 5));
    case 15: return ad_contract("i,j->ij", 2, (ad_var[]){ parts[0], ad_slice(x, 0, 0, 3) });
    case 16: return ad_contract("ij,j->i", 2, (ad_var[]){ y, parts[0] });
    case 17: return ad_contract("ij,ik->jk", 2, (ad_var[]){ y, y });
    case 18: return ad_contract("ij,ij->", 2, (ad_var[]){ y, y });
    default: return ad_mul(ad_fill(x.tape, AD_SHAPE(12), 0.1), x);
    }
}
enum { MOVED = 20 };

START_TEST(test_moves)
{
    const ad_dtype dtype = _i & 1 ? AD_F32 : AD_F64;
    if (!ask_for_native()) return;
    for (int what = 0; what < MOVED; what++) {
        ad_tape *tape = ad_tape_new(dtype);
        double memory[12];
        char name[32];
        ad_var x = ad_input(tape, AD_SHAPE(12), NULL), y = moved(what, ad_neg(x));
        for (int i = 0; i < 12; i++) put(dtype, memory, i, _i & 2 ? -0.0 : sin(1 + 2.7 * i));
        snprintf(name, sizeof name, "case %d", what);
        compare(dtype, name, 1, &x, ad_mul(y, y), (const void *const[]){ memory }, false);
        compare(dtype, name, 1, &x, y, (const void *const[]){ memory }, false);
        ad_tape_free(tape);
    }
}
END_TEST

/* ---- a step of a solve and its gradient ---- */

typedef struct {
    ad_tape *tape;
    ad_program *program, *interpreted;
    int steps;
    double x[10];
} gradient;

static ad_var speed(ad_var x, ad_var y)
{
    ad_var one = ad_fill(x.tape, AD_SHAPE(1), 1),
           before = ad_concatenate(2, (ad_var[]){ one, ad_slice(y, 0, 0, 9) }, 0);
    return ad_mul(x, before);
}

/* y' = x (1, y), by Heun's method; the gradient of the last component by x. */
static gradient make_gradient(int steps)
{
    gradient g = { .tape = ad_tape_new(AD_F64), .steps = steps };
    ad_var x = ad_input(g.tape, AD_SHAPE(10), NULL), y = ad_fill(g.tape, AD_SHAPE(10), 0), bar;
    const double h = 1.0 / steps;
    for (int i = 0; i < steps; i++) {
        ad_var a = speed(x, y), b = speed(x, ad_add(y, ad_scale(a, h)));
        y = ad_add(y, ad_scale(ad_add(a, b), h / 2));
    }
    ad_grad(ad_sum_all(ad_slice(y, 0, 2, 3)), 1, &x, &bar);
    g.program = compile(false, 1, &x, bar);
    g.interpreted = compile(true, 1, &x, bar);
    for (int i = 0; i < 10; i++) g.x[i] = 1 + 0.01 * i;
    return g;
}

static void free_gradient(gradient *g)
{
    ad_program_free(g->program);
    ad_program_free(g->interpreted);
    ad_tape_free(g->tape);
}

static void check_gradient(const gradient *g)
{
    double a[10], b[10];
    run(g->program, 1, (const void *const[]){ g->x }, a);
    run(g->interpreted, 1, (const void *const[]){ g->x }, b);
    ck_assert(!memcmp(a, b, sizeof a));
    /* y2(1) = x0 x1 x2 / 6, but for the error of the method */
    ck_assert_double_eq_tol(a[0], g->x[1] * g->x[2] / 6, 0.5 / (g->steps * g->steps));
}

START_TEST(test_gradient)
{
    const bool native = ask_for_native();
    gradient g = make_gradient(10 + 10 * _i);
    check_gradient(&g);
    if (native) {
        ck_assert_int_eq(interpreted_of(g.program), 0);
        ck_assert_int_eq(functions_of(g.program), 1);
    }
    free_gradient(&g);
}
END_TEST

/* ---- what it says of itself ---- */

START_TEST(test_described)
{
    gradient g = make_gradient(3);
    char *text = ad_program_describe(g.program), *other = ad_program_describe(g.interpreted);
    const char *found = strstr(text, "native code, for one row, ");
    ck_assert((found != NULL) == ad_native_wanted());
    ck_assert(!found || strstr(found, " instructions\n"));
    ck_assert(!strstr(other, "native code"));
    free(text);
    free(other);
    free_gradient(&g);
}
END_TEST

/* ---- where there is none ---- */

/* _i: the environment says so, or an instruction set without the instructions. */
START_TEST(test_not_wanted)
{
    if (_i == 0) setenv("COSTATE_NATIVE", "0", 1);
    if (_i == 1) setenv("COSTATE_ISA", "x86-64-v2", 1);
    if (_i == 2) setenv("COSTATE_ISA", "generic", 1);
    gradient g = make_gradient(3);
    if (_i == 0 || ad_isa_chosen(NULL) == AD_ISA_GENERIC || strcmp(ad_isa(NULL), "x86-64-v2") == 0)
        ck_assert_int_eq(functions_of(g.program), 0);
    check_gradient(&g);
    free_gradient(&g);
}
END_TEST

/* More than the code may have bytes: the rest is interpreted. */
START_TEST(test_too_long)
{
    enum { STEPS = 45000, SIZE = 32 };
    if (!ask_for_native()) return;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_input(tape, AD_SHAPE(SIZE), NULL), y = x;
    for (int i = 0; i < STEPS; i++) y = ad_square(ad_sub(y, ad_mul(x, x)));
    ad_program *p = compile(false, 1, &x, y), *q = compile(true, 1, &x, y);
    double data[SIZE], a[SIZE], b[SIZE];
    for (int i = 0; i < SIZE; i++) data[i] = 0.05 * i - 0.7;
    run(p, 1, (const void *const[]){ data }, a);
    run(q, 1, (const void *const[]){ data }, b);
    ck_assert(!memcmp(a, b, sizeof a));
    ck_assert_int_gt(functions_of(p), 1);
    ck_assert_int_gt(interpreted_of(p), 0);
    ad_program_free(p);
    ad_program_free(q);
    ad_tape_free(tape);
}
END_TEST

/* ---- processes and threads ---- */

START_TEST(test_fork)
{
    gradient g = make_gradient(20);
    check_gradient(&g);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        double out[4][10];
        gradient other = make_gradient(5); /* code of the child's own */
        run(g.program, 1, (const void *const[]){ g.x }, out[0]);
        run(g.interpreted, 1, (const void *const[]){ g.x }, out[1]);
        run(other.program, 1, (const void *const[]){ g.x }, out[2]);
        run(other.interpreted, 1, (const void *const[]){ g.x }, out[3]);
        _exit(memcmp(out[0], out[1], sizeof out[0]) || memcmp(out[2], out[3], sizeof out[0]));
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    check_gradient(&g);
    free_gradient(&g);
}
END_TEST

typedef struct {
    const gradient *gradient;
    ad_workspace *workspace;
    atomic_bool running;
} endless;

static void *run_endlessly(void *data)
{
    endless *e = data;
    double out[10];
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    for (;;) {
        ad_run(e->gradient->program, e->workspace, 1, (const void *const[]){ e->gradient->x },
               (void *const[]){ out });
        atomic_store(&e->running, true);
    }
    return NULL;
}

/* A thread that is cancelled at any moment, so in native code mostly, takes nothing with it but
 * its workspace. */
START_TEST(test_cancelled)
{
    gradient g = make_gradient(200);
    for (int k = 0; k < 20; k++) {
        endless e = { .gradient = &g, .workspace = ad_workspace_new(g.program, 1) };
        atomic_init(&e.running, false);
        pthread_t thread;
        void *result;
        ck_assert_int_eq(pthread_create(&thread, NULL, run_endlessly, &e), 0);
        while (!atomic_load(&e.running)) usleep(100);
        pthread_cancel(thread);
        ck_assert_int_eq(pthread_join(thread, &result), 0);
        ck_assert_ptr_eq(result, PTHREAD_CANCELED);
        ad_workspace_free(e.workspace);
        check_gradient(&g);
    }
    free_gradient(&g);
}
END_TEST

static void *check_once(void *data)
{
    check_gradient(data);
    return NULL;
}

/* Threads that run a program for the first time at once make its code together. */
START_TEST(test_first_at_once)
{
    enum { THREADS = 4 };
    for (int k = 0; k < 20; k++) {
        gradient g = make_gradient(4);
        pthread_t thread[THREADS];
        for (int i = 0; i < THREADS; i++)
            ck_assert_int_eq(pthread_create(&thread[i], NULL, check_once, &g), 0);
        for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
        free_gradient(&g);
    }
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("native", "native");
    tcase_add_loop_test(tests, test_pointwise, 0, 4 * OPERATIONS);
    tcase_add_loop_test(tests, test_moves, 0, 4);
    tcase_add_loop_test(tests, test_gradient, 0, 5);
    tcase_add_test(tests, test_described);
    tcase_add_loop_test(tests, test_not_wanted, 0, 3);
    tcase_add_test(tests, test_too_long);
    tcase_add_test(tests, test_fork);
    tcase_add_test(tests, test_cancelled);
    tcase_add_test(tests, test_first_at_once);
    return suite_run();
}
