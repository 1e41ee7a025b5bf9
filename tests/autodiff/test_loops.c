/* Native code for arrays of more elements than have registers: loops over them have the
 * interpreter's bits, whatever is read ahead or behind and wherever the arrays lie, and the values
 * of the same arithmetic in plain C. */
#include "tests/autodiff/native_programs.h"

/* Steps that loops make. */
static int looped_of(const ad_program *p)
{
    const ad_pieces *pieces = ad_program_pieces(p, false);
    int n = 0;
    for (int f = 0; f < p->nphase && pieces->phase; f++)
        for (int k = 0; k < AD_SECTIONS; k++) {
            const ad_piece_list *list = &pieces->phase[f][k];
            for (int32_t i = 0; i < list->n; i++)
                if (list->piece[i].code >= 0 && list->piece[i].call.looped)
                    n += list->piece[i].end - list->piece[i].begin;
        }
    return n;
}

/* ---- operations ---- */

/* Every operation on special values, by itself and with a sum or product before it; with an operand
 * that is one number. */
START_TEST(test_operations)
{
    enum { MOST = 103 };
    static const int64_t sizes[] = { 33, 64, MOST };
    const operation *o = &operations[_i % OPERATIONS];
    const bool narrow = _i / OPERATIONS & 1;
    const int64_t n = sizes[_i / OPERATIONS / 2];
    const ad_dtype dtype = narrow ? AD_F32 : AD_F64;
    if (!ask_for_native()) return;
    for (int shift = 0; shift < SPECIAL; shift++) {
        ad_tape *tape = ad_tape_new(dtype);
        double memory[5][MOST];
        const void *data[5];
        ad_var x[5];
        for (int k = 0; k < 5; k++) {
            for (int i = 0; i < n; i++)
                put(dtype, memory[k], i, special[(i + k * shift + (k == 2) * 5) % SPECIAL]);
            data[k] = memory[k];
            x[k] = ad_input(tape, AD_SHAPE(k < 4 ? n : 1), NULL);
        }
        compare(dtype, o->name, 5, x, applied(o, x), data, true);
        ad_var sum[] = { ad_add(x[0], x[3]), x[4], x[2] };
        compare(dtype, o->name, 5, x, applied(o, sum), data, true);
        ad_var product[] = { x[0], ad_mul(x[1], x[4]), x[4] };
        compare(dtype, o->name, 5, x, applied(o, product), data, true);
        ad_tape_free(tape);
    }
}
END_TEST

/* ---- random programs ---- */

enum { LONGEST = 5000, VALUES = 60, INPUTS = 9, OUTPUTS = 5 };

/* A program, and its values in plain C where numbers are double. */
typedef struct {
    ad_tape *tape;
    int64_t n;
    uint64_t state;
    int nvalue, nout;
    ad_var value[VALUES], out[OUTPUTS];
    double *is[VALUES], *wanted[OUTPUTS];
} trial;

static int64_t pick(trial *t, int64_t n)
{
    t->state = t->state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((t->state >> 33) % (uint64_t)n);
}

static double number(trial *t) { return (double)pick(t, 4001) / 2000 - 1; }

static double *add_value(trial *t, ad_var x)
{
    ck_assert_int_lt(t->nvalue, VALUES);
    t->value[t->nvalue] = x;
    return t->is[t->nvalue++] = calloc((size_t)t->n, sizeof(double));
}

static bool is_one(const trial *t, int k) { return ad_row_size(ad_shape_of(t->value[k])) == 1; }
static double at(const trial *t, int k, int64_t i) { return t->is[k][is_one(t, k) ? 0 : i]; }

/* One of the latest values, so that memory is used again, or any. */
static int choose(trial *t)
{
    const int near = t->nvalue < 6 ? t->nvalue : 6;
    return (int)(pick(t, 3) ? t->nvalue - 1 - pick(t, near) : pick(t, t->nvalue));
}

static int choose_long(trial *t)
{
    int k;
    do k = choose(t);
    while (is_one(t, k));
    return k;
}

static void add_arithmetic(trial *t)
{
    const int a = choose_long(t), b = choose(t), c = choose(t), what = (int)pick(t, 5);
    const ad_var x = t->value[a], y = t->value[b], z = t->value[c];
    ad_var made;
    if (what == 0) made = ad_add(x, y);
    else if (what == 1) made = ad_sub(x, y);
    else if (what == 2) made = ad_mul(x, y);
    else if (what == 3) made = ad_add(x, ad_mul(y, z));
    else made = ad_neg(ad_scale(x, 0.7));
    double *is = add_value(t, made);
    for (int64_t i = 0; i < t->n; i++) {
        const double p = at(t, a, i), q = at(t, b, i), r = at(t, c, i);
        is[i] = what == 0   ? p + q
                : what == 1 ? p - q
                : what == 2 ? p * q
                : what == 3 ? p + q * r
                            : -(p * 0.7);
    }
}

/* A part of a value between others, or beside zeros; or a sum of two such, which lie one over the
 * other. */
static void add_moved(trial *t)
{
    const int a = choose_long(t), b = choose_long(t);
    const int64_t n = t->n, size = 1 + pick(t, n - 1), from = pick(t, n - size + 1),
                  to = pick(t, 4) ? pick(t, n - size + 1) : pick(t, 2);
    const int64_t put_at = to + size <= n ? to : n - size, rest = n - size;
    const ad_var part = ad_slice(t->value[a], -1, from, from + size), other = t->value[b];
    const int what = (int)pick(t, 3);
    ad_var made;
    if (what == 0 && rest > 0)
        made = ad_concatenate(2, (ad_var[]){ part, ad_slice(other, -1, 0, rest) }, -1);
    else if (what == 1 && rest > 0)
        made = ad_concatenate(2, (ad_var[]){ ad_slice(other, -1, n - rest, n), part }, -1);
    else made = ad_pad(part, -1, put_at, n - size - put_at);
    if (what == 2) made = ad_add(made, ad_pad(ad_slice(other, -1, 0, n - 1), -1, 1, 0));
    double *is = add_value(t, made);
    for (int64_t i = 0; i < n; i++) {
        const double *p = t->is[a], *q = t->is[b];
        if (what == 0 && rest > 0) is[i] = i < size ? p[from + i] : q[i - size];
        else if (what == 1 && rest > 0) is[i] = i < rest ? q[n - rest + i] : p[from + i - rest];
        else is[i] = i >= put_at && i < put_at + size ? p[from + i - put_at] : 0;
        if (what == 2) is[i] += i > 0 ? q[i - 1] : 0;
    }
}

static void open_trial(trial *t, ad_dtype dtype, uint64_t seed, int64_t n, int nvalue, bool rows)
{
    *t = (trial){ .tape = ad_tape_new(dtype), .n = n, .state = seed };
    for (int k = 0; k < INPUTS; k++) {
        const int64_t size = k < INPUTS - 2 ? n : 1;
        double *is = add_value(t, rows ? ad_input_rows(t->tape, AD_SHAPE(AD_ROWS, size), 0, NULL)
                                       : ad_input(t->tape, AD_SHAPE(size), NULL));
        for (int64_t i = 0; i < size; i++) is[i] = number(t);
    }
    while (t->nvalue < nvalue)
        if (pick(t, 3)) add_arithmetic(t);
        else add_moved(t);
    while (t->nout < OUTPUTS) {
        const int k = t->nout ? choose_long(t) : t->nvalue - 1;
        t->wanted[t->nout] = t->is[k];
        t->out[t->nout++] = t->value[k];
    }
}

static void close_trial(trial *t)
{
    for (int k = 0; k < t->nvalue; k++) free(t->is[k]);
    ad_tape_free(t->tape);
}

/* Steps of all programs that have been run. */
static int looped, interpreted;

/* rows: that many times the same. The results are the last row's. */
static void run_trial(const trial *t, const ad_compile_options *options, int threads, int64_t rows,
                      double *out[])
{
    ad_program *p = ad_compile_with(options, INPUTS, t->value, t->nout, t->out);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(t->tape));
    ad_workspace *w = ad_workspace_new(p, threads);
    const ad_dtype dtype = p->ir.dtype;
    const int64_t most = rows * t->n;
    double *memory = calloc((size_t)(INPUTS * most), sizeof *memory);
    const void *in[INPUTS];
    for (int k = 0; k < INPUTS; k++) {
        const int64_t size = is_one(t, k) ? 1 : t->n;
        double *array = memory + k * most;
        for (int i = 0; i < rows * size; i++) put(dtype, array, i, t->is[k][i % size]);
        in[k] = array;
    }
    for (int again = 0; again < 2; again++)
        ck_assert_msg(ad_run(p, w, rows, in, (void *const *)out) == 0, "%s", ad_workspace_error(w));
    const size_t bytes = (size_t)t->n * ad_dtype_size(dtype);
    for (int j = 0; j < OUTPUTS; j++)
        memmove(out[j], (char *)out[j] + (size_t)(rows - 1) * bytes, bytes);
    if (rows == 1 && !options->interpreted && !options->chunks && t->n <= 2000) {
        looped += looped_of(p);
        interpreted += interpreted_of(p);
    }
    free(memory);
    ad_workspace_free(w);
    ad_program_free(p);
}

static void check_trial(const trial *t, ad_dtype dtype, unsigned long long seed)
{
    enum { NATIVE, INTERPRETED, THREADS, CHUNKS, SEVERAL, WAYS, ROWS = 3 };
    const bool rows = ad_has_rows(ad_shape_of(t->out[0]));
    double *out[WAYS][OUTPUTS];
    for (int way = 0; way < WAYS; way++) {
        for (int j = 0; j < OUTPUTS; j++)
            out[way][j] = calloc((size_t)(ROWS * t->n), sizeof(double));
        const ad_compile_options options = { .interpreted = way == INTERPRETED,
                                             .chunks = way == CHUNKS };
        run_trial(t, &options, way == THREADS ? 2 : 1, way == SEVERAL && rows ? ROWS : 1, out[way]);
    }
    for (int j = 0; j < OUTPUTS; j++)
        for (int i = 0; i < t->n; i++) {
            for (int way = 1; way < WAYS; way++)
                ck_assert_msg(same(dtype, out[0][j], out[way][j], i),
                              "seed %llu: output %d, element %d has other bits, way %d", seed, j, i,
                              way);
            if (dtype == AD_F64)
                ck_assert_msg(fabs(out[0][j][i] - t->wanted[j][i]) <=
                                  1e-14 * (1 + fabs(t->wanted[j][i])),
                              "seed %llu: output %d, element %d is %.17g, not %.17g", seed, j, i,
                              out[0][j][i], t->wanted[j][i]);
        }
    for (int way = 0; way < WAYS; way++)
        for (int j = 0; j < OUTPUTS; j++) free(out[way][j]);
}

/* Without rows, and of one row beside several. */
START_TEST(test_random)
{
    enum { TRIALS = 40 };
    static const int64_t sizes[] = { 33,   34,   39,   40,   63,   100,    101,
                                     1000, 2048, 2049, 4096, 4097, LONGEST };
    enum { SIZES = sizeof sizes / sizeof *sizes };
    if (!ask_for_native()) return;
    for (int k = 0; k < TRIALS; k++) {
        const unsigned long long seed = (unsigned long long)_i * TRIALS + (unsigned long long)k;
        const ad_dtype dtype = k % 2 ? AD_F32 : AD_F64;
        trial t;
        open_trial(&t, dtype, seed, sizes[(_i * TRIALS + k) % (k % 4 ? 7 : SIZES)],
                   INPUTS + 2 + k % (VALUES - INPUTS - 2), _i % 2);
        check_trial(&t, dtype, seed);
        close_trial(&t);
    }
    ck_assert_int_gt(looped, 40 * interpreted);
}
END_TEST

/* ---- limits ---- */

/* More values than a loop may have, more than there are registers, more arrays than there are
 * registers for pointers. */
START_TEST(test_many)
{
    enum { N = 70, MANY = 150, LIVE = 40 };
    if (!ask_for_native()) return;
    ad_tape *tape = ad_tape_new(AD_F64);
    double data[N];
    ad_var x = ad_input(tape, AD_SHAPE(N), NULL), y[MANY];
    for (int i = 0; i < N; i++) data[i] = 0.01 * i - 0.3;
    for (int k = 0; k < MANY; k++)
        y[k] = ad_add(ad_square(k ? y[k - 1] : x), k >= LIVE ? y[k - LIVE] : x);
    const void *in[] = { data };
    compare(AD_F64, "a long program", 1, &x, y[MANY - 1], in, true);
    ad_var parts[20];
    for (int k = 0; k < 20; k++) parts[k] = ad_slice(y[k], 0, 3 * k, 3 * k + 3);
    compare(AD_F64, "many parts", 1, &x, ad_square(ad_concatenate(20, parts, 0)), in, false);
    ad_tape_free(tape);
}
END_TEST

/* Parts whose elements do not follow each other, and such as do. */
START_TEST(test_axes)
{
    if (!ask_for_native()) return;
    ad_tape *tape = ad_tape_new(AD_F64);
    double data[80];
    ad_var x = ad_input(tape, AD_SHAPE(8, 10), NULL);
    for (int i = 0; i < 80; i++) data[i] = 0.03 * i - 0.5;
    const void *in[] = { data };
    for (int axis = 0; axis < 2; axis++) {
        ad_var y = ad_square(x), part = ad_slice(y, axis, 1, 7);
        ad_var z = ad_pad(part, axis, axis ? 3 : 0, axis ? 1 : 2);
        compare(AD_F64, "a part", 1, &x, ad_mul(ad_add(z, x), y), in, axis == 0);
        ad_var row = ad_slice(ad_slice(y, 0, 2, 3), 1, 4, 9);
        ad_var placed = ad_pad(ad_pad(row, 1, axis ? 5 : 1, axis ? 0 : 4), 0, 3, 4);
        compare(AD_F64, "a part of a line", 1, &x, ad_sub(ad_mul(placed, x), y), in, true);
    }
    ad_tape_free(tape);
}
END_TEST

/* A value that is written where another one was, which code without additions of 0 reads again
 * (atoms.h): 0 + r, added to what is never -0, is r. */
START_TEST(test_read_again)
{
    enum { N = 70, PART = 5, LENGTH = 28 };
    if (!ask_for_native()) return;
    ad_tape *tape = ad_tape_new(AD_F64);
    double data[N];
    ad_var x = ad_input(tape, AD_SHAPE(N), NULL), last[LENGTH];
    for (int i = 0; i < N; i++) data[i] = 0.01 * i - 0.3;
    const ad_var r = ad_tanh(x), a = ad_add(r, ad_pad(ad_slice(x, 0, 0, PART), 0, 0, N - PART));
    for (int k = 0; k < LENGTH; k++) last[k] = ad_add(ad_square(k ? last[k - 1] : ad_mul(x, a)), x);
    const ad_var b = ad_add(last[LENGTH - 1], ad_pad(ad_slice(x, 0, 1, PART), 0, 0, N - PART + 1));
    ad_var sum = ad_square(ad_add(b, a));
    for (int k = 0; k < LENGTH; k++)
        sum = ad_add(sum, ad_pad(ad_slice(last[k], 0, k + 1, N), 0, 0, k + 1));
    compare(AD_F64, "what is read again", 1, &x, sum, (const void *const[]){ data }, false);
    ad_tape_free(tape);
}
END_TEST

/* y' = x (1, y), by Heun's method, and its gradient: all loops, whatever the number of steps. */
START_TEST(test_described)
{
    enum { N = 100, STEPS = 7 };
    const bool native = ask_for_native();
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_input(tape, AD_SHAPE(N), NULL), y = ad_fill(tape, AD_SHAPE(N), 0), bar;
    for (int s = 0; s < 2 * STEPS; s++) {
        ad_var one = ad_fill(tape, AD_SHAPE(1), 1);
        ad_var before = ad_concatenate(2, (ad_var[]){ one, ad_slice(y, 0, 0, N - 1) }, 0);
        y = ad_add(y, ad_scale(ad_mul(x, before), 0.5 / STEPS));
    }
    ad_grad(ad_sum_all(ad_slice(y, 0, N - 1, N)), 1, &x, &bar);
    ad_program *p = compile(false, 1, &x, bar);
    char *text = ad_program_describe(p);
    ck_assert((strstr(text, " instructions, in loops over 100 elements\n") != NULL) == native);
    if (native) ck_assert_int_eq(looped_of(p), p->nstep);
    free(text);
    ad_program_free(p);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("loops", "loops");
    tcase_add_loop_test(tests, test_operations, 0, 6 * OPERATIONS);
    tcase_add_loop_test(tests, test_random, 0, 10);
    tcase_add_test(tests, test_many);
    tcase_add_test(tests, test_axes);
    tcase_add_test(tests, test_read_again);
    tcase_add_test(tests, test_described);
    return suite_run();
}
