/* Random tapes (random_tapes.h). First and second derivatives against central differences and against forward mode; replayed programs
 * against lazy values with every pass, without each of them, without any, for several sizes of blocks and numbers of rows; the same bits
 * for any number of threads, and for a row whatever its batch mates. A failure is shrunk to a tape with as few steps as will fail.
 * COSTATE_RANDOM_SEEDS=first:count runs other seeds, and as many as wanted. */
#include "autodiff/program.h"
#include "random_tapes.h"
#include "share_always.h"
#include <check.h>
#include <stdarg.h>

enum { SEEDS = 1000, BATCHES = 12, MAX_OUTPUTS = OUTPUTS + 2 + 2 * INPUTS, MAX_THREADS = 4 };

/* A tape under test: what is compiled, and for smooth ones the loss, its gradient g, s = <g, u> and the gradient h of s. */
typedef struct {
    world w;
    ad_var u[INPUTS], loss, g[INPUTS], s, h[INPUTS];
    double *direction[INPUTS];
    ad_var in[2 * INPUTS], out[MAX_OUTPUTS];
    int ninput, noutput;
} trial;

static char failure[600];

static bool failed(const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 1, 2)))
#endif
    ;
static bool failed(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(failure, sizeof failure, format, args);
    va_end(args);
    return false;
}

/* ---- derivatives ---- */

static void differentiate(trial *t)
{
    world *w = &t->w;
    for (int k = 0; k < INPUTS; k++) {
        ad_shape s = ad_shape_of(w->input[k]);
        size_t n = (size_t)ad_count(s, MAX_ROWS);
        t->direction[k] = malloc(n * sizeof(double));
        for (size_t i = 0; i < n; i++) t->direction[k][i] = element();
        t->u[k] = ad_has_rows(s) ? ad_input_rows(w->tape, s, FIRST_ROWS, NULL) : ad_input(w->tape, s, NULL);
        t->in[t->ninput++] = t->u[k];
    }
    t->loss = t->s = ad_scalar(w->tape, 0);
    for (int j = 0; j < OUTPUTS; j++) t->loss = ad_add(t->loss, ad_mean_all(ad_cos(w->output[j])));
    ad_grad(t->loss, INPUTS, w->input, t->g);
    for (int k = 0; k < INPUTS; k++) t->s = ad_add(t->s, ad_sum_all(ad_mul(t->g[k], t->u[k])));
    ad_grad(t->s, INPUTS, w->input, t->h);
    t->out[t->noutput++] = t->loss;
    t->out[t->noutput++] = t->s;
    for (int k = 0; k < INPUTS; k++) t->out[t->noutput++] = t->g[k], t->out[t->noutput++] = t->h[k];
}

static void set_all(const trial *t, int64_t rows)
{
    set_rows(&t->w, rows);
    for (int k = 0; k < INPUTS && t->w.recipe.smooth; k++) set_input(&t->w, t->u[k], k, rows, t->direction[k]);
}

static double directional(const trial *t, const ad_var *gradient)
{
    double sum = 0;
    static double a[MAX_VALUES];
    for (int k = 0; k < INPUTS; k++) {
        if (ad_get(gradient[k], a)) return NAN;
        for (int64_t i = 0, n = ad_size(gradient[k]); i < n; i++) sum += a[i] * t->direction[k][i];
    }
    return sum;
}

static void move(const trial *t, double step)
{
    static double moved[MAX_VALUES];
    for (int k = 0; k < INPUTS; k++) {
        for (int64_t i = 0, n = ad_size(t->w.input[k]); i < n; i++) moved[i] = t->w.value[k][i] + step * t->direction[k][i];
        set_input(&t->w, t->w.input[k], k, FIRST_ROWS, moved);
    }
}

static bool near(const char *what, double got, double want, double tolerance)
{
    return fabs(got - want) <= tolerance * (1 + fabs(want)) || failed("%s: got %.12g, want %.12g", what, got, want);
}

/* Central differences of fourth order. */
static bool check_differences(const trial *t, double first, double second, double e)
{
    const double at[4] = { -2 * e, -e, e, 2 * e };
    double l[4], s[4];
    for (int k = 0; k < 4; k++) {
        move(t, at[k]);
        l[k] = ad_item(t->loss);
        s[k] = ad_item(t->s);
    }
    move(t, 0);
    return near("gradient against differences", first, (8 * (l[2] - l[1]) - (l[3] - l[0])) / (12 * e), 1e-7) &&
           near("second derivative against differences", second, (8 * (s[2] - s[1]) - (s[3] - s[0])) / (12 * e), 1e-6);
}

/* A step that suits the one tape is too long or too short for another. */
static bool check_derivatives(trial *t)
{
    double first = directional(t, t->g), second = directional(t, t->h);
    ad_var ldot, sdot;
    ad_jvp(INPUTS, t->w.input, t->u, 1, &t->loss, &ldot);
    ad_jvp(INPUTS, t->w.input, t->u, 1, &t->s, &sdot);
    return near("forward against reverse", ad_item(ldot), first, 1e-11) && near("forward over reverse", ad_item(sdot), second, 1e-10) &&
           (check_differences(t, first, second, 2e-4) || check_differences(t, first, second, 2e-5) ||
            check_differences(t, first, second, 1e-3));
}

/* ---- programs ---- */

typedef struct {
    void *value[MAX_OUTPUTS];
} results;

static size_t bytes_of(const trial *t, int j, int64_t rows)
{
    return (size_t)ad_count(ad_shape_of(t->out[j]), rows) * ad_dtype_size(t->w.recipe.dtype);
}

static results room(const trial *t)
{
    results r = { { NULL } };
    for (int j = 0; j < t->noutput; j++) r.value[j] = malloc(bytes_of(t, j, MAX_ROWS));
    return r;
}

static void free_results(results *r)
{
    for (int j = 0; j < MAX_OUTPUTS; j++) free(r->value[j]);
}

static bool lazy(const trial *t, int64_t rows, results *r)
{
    set_all(t, rows);
    for (int j = 0; j < t->noutput; j++) {
        const void *value = ad_value(t->out[j]);
        if (!value) return failed("lazy values: %s", ad_tape_error(t->w.tape));
        memcpy(r->value[j], value, bytes_of(t, j, rows));
    }
    return true;
}

static bool replay(const trial *t, const ad_program *p, int64_t rows, int threads, results *r)
{
    const void *data[2 * INPUTS];
    for (int k = 0; k < t->ninput; k++)
        data[k] = elements_of(&t->w, k % INPUTS, rows, k < INPUTS ? t->w.value[k] : t->direction[k - INPUTS]);
    ad_workspace *ws = ad_workspace_new(p, threads);
    bool ok = (ws && ad_run(p, ws, rows, data, r->value) == 0) || failed("%s", ad_workspace_error(ws));
    ad_workspace_free(ws);
    for (int k = 0; k < t->ninput; k++) free((void *)data[k]);
    return ok;
}

static bool agree(const trial *t, const char *what, int64_t rows, const results *got, const results *want)
{
    bool narrow = t->w.recipe.dtype == AD_F32;
    for (int j = 0; j < t->noutput; j++) {
        const float *f = got->value[j], *fw = want->value[j];
        const double *d = got->value[j], *dw = want->value[j];
        int64_t n = ad_count(ad_shape_of(t->out[j]), rows);
        double scale = 1;
        for (int64_t i = 0; i < n; i++) scale = fmax(scale, fabs(narrow ? (double)fw[i] : dw[i]));
        for (int64_t i = 0; i < n; i++) {
            double a = narrow ? (double)f[i] : d[i], b = narrow ? (double)fw[i] : dw[i];
            if (!(fabs(a - b) <= scale * (narrow ? 2e-3 : 1e-10)))
                return failed("%s, %lld rows: output %d, element %lld: replayed %.12g, lazy %.12g", what, (long long)rows, j, (long long)i,
                              a, b);
        }
    }
    return true;
}

static bool same_bits(const trial *t, const ad_program *p, const char *what, int64_t rows, const results *one)
{
    results other = room(t);
    bool ok = true;
    for (int threads = 2; threads <= MAX_THREADS && ok; threads++) {
        ok = replay(t, p, rows, threads, &other);
        for (int j = 0; j < t->noutput && ok; j++)
            ok = !memcmp(one->value[j], other.value[j], bytes_of(t, j, rows)) ||
                 failed("%s, %lld rows: output %d differs in bits with %d threads", what, (long long)rows, j, threads);
    }
    free_results(&other);
    return ok;
}

/* One way of compiling against lazy values. */
static bool check_way(const trial *t, const ad_compile_options *way, const char *what, int64_t rows, const results *want, bool threads)
{
    ad_program *p = ad_compile_with(way, t->ninput, t->in, t->noutput, t->out);
    if (!p) return failed("%s: %s", what, ad_tape_error(t->w.tape));
    if (threads) share_always(p);
    results got = room(t);
    bool ok = replay(t, p, rows, 1, &got) && agree(t, what, rows, &got, want) && (!threads || same_bits(t, p, what, rows, &got));
    free_results(&got);
    ad_program_free(p);
    return ok;
}

static bool check_ways(const trial *t, int64_t rows, const results *want)
{
    static const int64_t sizes[] = { 1, 16, 64, 128 };
    char what[80];
    bool ok = check_way(t, &(ad_compile_options){ .without = ~0u }, "without passes", rows, want, false);
    for (int k = 0; ad_pass_name(k) && ok; k++) {
        snprintf(what, sizeof what, "without pass \"%s\"", ad_pass_name(k));
        ok = check_way(t, &(ad_compile_options){ .without = 1u << k }, what, rows, want, false);
    }
    for (int k = 0; k < 4 && ok; k++) {
        snprintf(what, sizeof what, "blocks of %d rows", (int)sizes[k]);
        ok = check_way(t, &(ad_compile_options){ .block_rows = sizes[k] }, what, rows, want, k == 1);
    }
    return ok;
}

/* The first rows of a large batch and the same rows as a small one. */
static bool same_rows(const trial *t, int64_t few, int64_t many, const results *a, const results *b)
{
    for (int j = 0; j < OUTPUTS && !t->w.couples_rows; j++)
        if (ad_has_rows(ad_shape_of(t->out[j])) && memcmp(a->value[j], b->value[j], bytes_of(t, j, few)))
            return failed("a row of output %d depends on its batch mates (%lld or %lld rows)", j, (long long)few, (long long)many);
    return true;
}

static bool check_programs(const trial *t)
{
    static const int64_t choices[] = { 1, 2, 5, 17, 33, 64, 65, 130, MAX_ROWS };
    int64_t few = FIRST_ROWS, many = choices[t->w.recipe.seed % 9];
    results want = room(t), small = room(t), large = room(t);
    ad_program *p = ad_compile(t->ninput, t->in, t->noutput, t->out);
    bool ok = p || failed("%s", ad_tape_error(t->w.tape));
    ok = ok && lazy(t, few, &want) && replay(t, p, few, 1, &small) && agree(t, "every pass", few, &small, &want);
    ok = ok && lazy(t, many, &want) && replay(t, p, many, 1, &large) && agree(t, "every pass", many, &large, &want);
    ok = ok && same_bits(t, p, "every pass", many, &large) && (many < few || same_rows(t, few, many, &small, &large));
    ok = ok && check_ways(t, many, &want);
    ad_program_free(p);
    free_results(&want);
    free_results(&small);
    free_results(&large);
    return ok;
}

/* ---- trials ---- */

static bool begin(trial *t, recipe r)
{
    *t = (trial){ .w = make_world(r) };
    for (int k = 0; k < INPUTS; k++) t->in[t->ninput++] = t->w.input[k];
    for (int j = 0; j < OUTPUTS; j++) t->out[t->noutput++] = t->w.output[j];
    start_stream(r.seed, 1 << 21);
    if (r.smooth) differentiate(t);
    if (ad_tape_error(t->w.tape)) return failed("recording: %s", ad_tape_error(t->w.tape));
    set_all(t, FIRST_ROWS);
    return true;
}

static void end(trial *t)
{
    end_world(&t->w);
    for (int k = 0; k < INPUTS; k++) free(t->direction[k]);
}

static bool passes(recipe r)
{
    trial t;
    bool ok = begin(&t, r) && (!r.smooth || r.dtype != AD_F64 || check_derivatives(&t)) && check_programs(&t);
    end(&t);
    return ok;
}

/* The first steps only, as few as fail, and of these none that can be left out. */
static recipe shrunk(recipe r)
{
    recipe small = r;
    for (small.steps = 0; small.steps < r.steps && passes(small);) small.steps++;
    for (int k = small.steps - 1; k >= 0; k--) {
        recipe less = small;
        less.without |= 1u << k;
        if (!passes(less)) small = less;
    }
    return small;
}

static char *listing(recipe r)
{
    trial t;
    ad_program *p = begin(&t, r) ? ad_compile_with(&(ad_compile_options){ .without = ~0u }, t.ninput, t.in, t.noutput, t.out) : NULL;
    char *text = ad_program_describe(p);
    ad_program_free(p);
    end(&t);
    return text;
}

static void report(recipe r)
{
    char first[sizeof failure];
    memcpy(first, failure, sizeof first);
    recipe small = shrunk(r);
    passes(small);
    int left = 0;
    for (int k = 0; k < small.steps; k++) left += !(small.without >> k & 1);
    char *text = listing(small);
    printf("seed %llu: %s\nwith %d of %d steps: %s\n%s", (unsigned long long)r.seed, first, left, r.steps, failure, text ? text : "");
    fflush(stdout);
    free(text);
    ck_abort_msg("seed %llu: %s (COSTATE_RANDOM_SEEDS=%llu:1)", (unsigned long long)r.seed, first, (unsigned long long)r.seed);
}

/* The recipe of the tests for a seed: every third in single precision, two thirds of the others smooth. */
static recipe recipe_of(uint64_t seed)
{
    start_stream(seed, 1 << 20);
    ad_dtype dtype = seed % 3 ? AD_F64 : AD_F32;
    return (recipe){ .seed = seed, .dtype = dtype, .smooth = chance(60), .steps = 2 + pick(MAX_STEPS - 1) };
}

static void seeds_wanted(uint64_t *first, uint64_t *count)
{
    const char *text = getenv("COSTATE_RANDOM_SEEDS");
    char *colon = NULL;
    *first = text ? strtoull(text, &colon, 10) : 1;
    *count = text ? (*colon == ':' ? strtoull(colon + 1, NULL, 10) : 1) : SEEDS;
}

START_TEST(test_random_tapes)
{
    uint64_t first, count;
    seeds_wanted(&first, &count);
    for (uint64_t k = (uint64_t)_i; k < count; k += BATCHES) {
        recipe r = recipe_of(first + k);
        if (!passes(r)) report(r);
    }
}
END_TEST

int main(void)
{
    uint64_t first, count;
    seeds_wanted(&first, &count);
    printf("random tapes: seeds %llu to %llu\n", (unsigned long long)first, (unsigned long long)(first + count - 1));
    fflush(stdout);
    Suite *s = suite_create("random");
    TCase *t = tcase_create("tapes");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, test_random_tapes, 0, BATCHES);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int n = srunner_ntests_failed(r);
    srunner_free(r);
    return n != 0;
}
