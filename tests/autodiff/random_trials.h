/* What must hold of a random tape (random_tapes.h). First and second derivatives agree with
 * differences of the loss and of the gradient, in every order of modes, and those by what steps
 * made with those by what is added to it; replayed programs agree with lazy values with every pass,
 * without each of them, without any, for several sizes of blocks and numbers of rows; the same bits
 * for any number of threads, and for a row whatever its batch mates. Include it once per program.
 */
#ifndef COSTATE_TESTS_RANDOM_TRIALS_H
#define COSTATE_TESTS_RANDOM_TRIALS_H
#include "autodiff/plan/program.h"
#include "tests/autodiff/random_tapes.h"
#include "tests/support.h"
#include <stdarg.h>

enum { MAX_OUTPUTS = OUTPUTS + 2 + 2 * INPUTS, MAX_THREADS = 4 };

/* A tape under test: what is compiled, and for smooth ones the loss, its gradient g, s = <g, u> and
 * the gradient h of s. */
typedef struct {
    world w;
    ad_var u[INPUTS], loss, g[INPUTS], s, h[INPUTS];
    double *direction[INPUTS];
    ad_var in[2 * INPUTS], out[MAX_OUTPUTS];
    int ninput, noutput;
} trial;

/* What trials leave behind. */
typedef struct {
    char failure[600];
    /* derivatives compared with differences, and those that differences could not tell */
    int64_t differences, unresolved;
    int64_t tapes[AD_OP_COUNT];  /* how many contain the operation */
    int64_t smooth[AD_OP_COUNT]; /* of these: compared with differences, before differentiation */
} findings;
static findings *found;

static bool failed(const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 1, 2)))
#endif
    ;
static bool failed(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(found->failure, sizeof found->failure, format, args);
    va_end(args);
    return false;
}

/* Adds 1 to the counts of all operations on the tape. */
static void count_operations(const ad_tape *tape, int64_t *count)
{
    bool there[AD_OP_COUNT] = { false };
    for (int32_t i = 0; i < ad_tape_size(tape); i++) there[ad_node_at(tape, i)->op] = true;
    for (int op = 0; op < AD_OP_COUNT; op++) count[op] += there[op];
}

/* ---- derivatives ---- */

static ad_var loss_of(const world *w)
{
    ad_var loss = ad_scalar(w->tape, 0);
    for (int j = 0; j < OUTPUTS; j++) loss = ad_add(loss, ad_mean_all(ad_cos(w->output[j])));
    return loss;
}

static void differentiate(trial *t)
{
    world *w = &t->w;
    for (int k = 0; k < INPUTS; k++) {
        ad_shape s = ad_shape_of(w->input[k]);
        size_t n = (size_t)ad_count(s, MAX_ROWS);
        t->direction[k] = malloc(n * sizeof(double));
        for (size_t i = 0; i < n; i++) t->direction[k][i] = k < DIFFERENTIATED ? element() : 0;
        t->u[k] = ad_has_rows(s) ? ad_input_rows(w->tape, s, FIRST_ROWS, NULL)
                                 : ad_input(w->tape, s, NULL);
        t->in[t->ninput++] = t->u[k];
    }
    t->loss = loss_of(w);
    t->s = ad_scalar(w->tape, 0);
    ad_grad(t->loss, INPUTS, w->input, t->g);
    for (int k = 0; k < INPUTS; k++) t->s = ad_add(t->s, ad_sum_all(ad_mul(t->g[k], t->u[k])));
    ad_grad(t->s, INPUTS, w->input, t->h);
    t->out[t->noutput++] = t->loss;
    t->out[t->noutput++] = t->s;
    for (int k = 0; k < INPUTS; k++) {
        t->out[t->noutput++] = t->g[k];
        t->out[t->noutput++] = t->h[k];
    }
}

static void set_all(const trial *t, int64_t rows)
{
    set_rows(&t->w, rows);
    for (int k = 0; k < INPUTS && t->w.recipe.smooth; k++)
        set_input(&t->w, t->u[k], k, rows, t->direction[k]);
}

/* <gradient, u>; *size: the sum of the sizes of its terms. */
static double directional(const trial *t, const ad_var *gradient, double *size)
{
    double sum = 0;
    static double a[MAX_VALUES];
    *size = 0;
    for (int k = 0; k < INPUTS; k++) {
        if (ad_get(gradient[k], a)) return NAN;
        for (int64_t i = 0, n = ad_size(gradient[k]); i < n; i++) {
            sum += a[i] * t->direction[k][i];
            *size += fabs(a[i] * t->direction[k][i]);
        }
    }
    return sum;
}

static void move(const trial *t, double step)
{
    static double moved[MAX_VALUES];
    for (int k = 0; k < DIFFERENTIATED; k++) {
        for (int64_t i = 0, n = ad_size(t->w.input[k]); i < n; i++)
            moved[i] = t->w.value[k][i] + step * t->direction[k][i];
        set_input(&t->w, t->w.input[k], k, FIRST_ROWS, moved);
    }
}

static bool near(const char *what, double got, double want, double bound)
{
    return fabs(got - want) <= bound ||
           failed("%s: got %.12g, want %.12g within %.3g", what, got, want, bound);
}

/* Richardson's extrapolation of central differences to step 0 (Ridders 1982,
 * doi:10.1016/S0141-1195(82)80057-0): of the entries of the tableau the one that differs least from
 * those it is made of, and by how much. */
enum { LEVELS = 12 };
typedef struct {
    double entry[LEVELS], value, error;
} extrapolation;

static void extrapolate(extrapolation *x, int level, double difference)
{
    double last[LEVELS], power = 1;
    memcpy(last, x->entry, sizeof last);
    x->entry[0] = difference;
    if (level == 0) {
        x->value = difference;
        x->error = INFINITY;
    }
    for (int k = 1; k <= level; k++) {
        power *= 4;
        x->entry[k] = x->entry[k - 1] + (x->entry[k - 1] - last[k - 1]) / (power - 1);
        double error = fmax(fabs(x->entry[k] - x->entry[k - 1]), fabs(x->entry[k] - last[k - 1]));
        if (!(error < x->error)) continue;
        x->error = error;
        x->value = x->entry[k];
    }
}

/* An extrapolation that does not know itself better than this decides nothing. */
static bool check_one(const char *what, double got, const extrapolation *x, double tolerance)
{
    double scale = 1 + fabs(x->value);
    found->differences++;
    if (!(x->error <= 10 * tolerance * scale)) found->unresolved++;
    return x->error > 10 * tolerance * scale ||
           near(what, got, x->value, tolerance * scale + x->error);
}

static bool check_differences(const trial *t, double first, double second)
{
    extrapolation l = { .value = 0 }, s = { .value = 0 };
    double h = 0.0625;
    for (int level = 0; level < LEVELS; level++, h /= 2) {
        double forward[2], back[2];
        move(t, h);
        forward[0] = ad_item(t->loss);
        forward[1] = ad_item(t->s);
        move(t, -h);
        back[0] = ad_item(t->loss);
        back[1] = ad_item(t->s);
        extrapolate(&l, level, (forward[0] - back[0]) / (2 * h));
        extrapolate(&s, level, (forward[1] - back[1]) / (2 * h));
        if (l.error < 1e-9 * (1 + fabs(l.value)) && s.error < 1e-8 * (1 + fabs(s.value))) break;
    }
    move(t, 0);
    return check_one("gradient against differences", first, &l, 1e-7) &&
           check_one("second derivative against differences", second, &s, 1e-6);
}

/* Every order of modes: forward; forward over reverse, reverse over forward, forward over forward.
 */
static bool check_modes(const trial *t, double first, double second)
{
    const world *w = &t->w;
    double size;
    ad_var ldot, sdot, lddot, bar[INPUTS];
    ad_jvp(INPUTS, w->input, t->u, 1, &t->loss, &ldot);
    ad_jvp(INPUTS, w->input, t->u, 1, &t->s, &sdot);
    ad_jvp(INPUTS, w->input, t->u, 1, &ldot, &lddot);
    ad_grad(ldot, INPUTS, w->input, bar);
    double near_first = 1e-11 * (1 + fabs(first)), near_second = 1e-10 * (1 + fabs(second));
    return near("forward against reverse", ad_item(ldot), first, near_first) &&
           near("forward over reverse", ad_item(sdot), second, near_second) &&
           near("reverse over forward", directional(t, bar, &size), second, near_second) &&
           near("forward over forward", ad_item(lddot), second, near_second);
}

/* Derivatives by what steps made are those by probes added to it on a second tape, where operations
 * see sums and can look through nothing. */
static bool check_made(const trial *t)
{
    static double got[MAX_VALUES], want[MAX_VALUES];
    const world *w = &t->w;
    recipe r = w->recipe;
    r.probed = true;
    world other = make_world(r);
    ad_var made[POOL], added[POOL], g[POOL], h[POOL];
    int n = 0;
    for (int k = DIFFERENTIATED; k < other.n; k++) {
        if (!ad_valid(other.probe[k])) continue;
        bool again = false; /* the result was an operand: no variable of its own */
        for (int i = 0; i < k; i++) again = again || w->pool[i].node == w->pool[k].node;
        made[n] = w->pool[k];
        added[n] = other.probe[k];
        n += !again;
    }
    ad_grad(t->loss, n, made, g);
    ad_grad(loss_of(&other), n, added, h);
    bool ok = true;
    for (int k = 0; k < n && ok; k++) {
        ok = (!ad_get(g[k], got) && !ad_get(h[k], want)) ||
             failed("derivatives by what was made: %s", ad_tape_error(w->tape));
        for (int64_t i = 0; i < ad_size(g[k]) && ok; i++)
            ok = near("derivative by what was made, against its probe", got[i], want[i],
                      1e-11 * (1 + fabs(want[i])));
    }
    end_world(&other);
    return ok;
}

static bool check_derivatives(const trial *t)
{
    double size, first = directional(t, t->g, &size), second = directional(t, t->h, &size);
    return check_modes(t, first, second) && check_made(t) && check_differences(t, first, second);
}

/* Single precision against the same tape in double. */
static bool check_narrow(const trial *narrow, const trial *wide)
{
    double size[2], ignored, first = directional(wide, wide->g, &size[0]),
                             second = directional(wide, wide->h, &size[1]);
    return near("gradient in single precision", directional(narrow, narrow->g, &ignored), first,
                2e-3 * (1 + size[0])) &&
           near("second derivative in single precision", directional(narrow, narrow->h, &ignored),
                second, 2e-3 * (1 + size[1]));
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
        data[k] = elements_of(&t->w, k % INPUTS, rows,
                              k < INPUTS ? t->w.value[k] : t->direction[k - INPUTS]);
    ad_workspace *ws = ad_workspace_new(p, threads);
    bool ok =
        (ws && ad_run(p, ws, rows, data, r->value) == 0) || failed("%s", ad_workspace_error(ws));
    ad_workspace_free(ws);
    for (int k = 0; k < t->ninput; k++) free((void *)data[k]);
    return ok;
}

static bool agree(const trial *t, const char *what, int64_t rows, const results *got,
                  const results *want)
{
    bool narrow = t->w.recipe.dtype == AD_F32;
    for (int j = 0; j < t->noutput; j++) {
        const float *f = got->value[j], *fw = want->value[j];
        const double *d = got->value[j], *dw = want->value[j];
        int64_t n = ad_count(ad_shape_of(t->out[j]), rows);
        double scale = 1;
        for (int64_t i = 0; i < n; i++) {
            double element = fabs(narrow ? (double)fw[i] : dw[i]);
            if (element > scale) scale = element;
        }
        for (int64_t i = 0; i < n; i++) {
            double a = narrow ? (double)f[i] : d[i], b = narrow ? (double)fw[i] : dw[i];
            if (!(fabs(a - b) <= scale * (narrow ? 2e-3 : 1e-10)))
                return failed("%s, %lld rows: output %d, element %lld: replayed %.12g, lazy %.12g",
                              what, (long long)rows, j, (long long)i, a, b);
        }
    }
    return true;
}

static bool same_bits(const trial *t, const ad_program *p, const char *what, int64_t rows,
                      const results *one)
{
    results other = room(t);
    bool ok = true;
    for (int threads = 2; threads <= MAX_THREADS && ok; threads++) {
        ok = replay(t, p, rows, threads, &other);
        for (int j = 0; j < t->noutput && ok; j++)
            ok = !memcmp(one->value[j], other.value[j], bytes_of(t, j, rows)) ||
                 failed("%s, %lld rows: output %d differs in bits with %d threads", what,
                        (long long)rows, j, threads);
    }
    free_results(&other);
    return ok;
}

/* One way of compiling against lazy values. */
static bool check_way(const trial *t, const ad_compile_options *way, const char *what, int64_t rows,
                      const results *want, bool threads)
{
    ad_program *p = ad_compile_with(way, t->ninput, t->in, t->noutput, t->out);
    if (!p) return failed("%s: %s", what, ad_tape_error(t->w.tape));
    if (threads) share_always(p);
    results got = room(t);
    bool ok = replay(t, p, rows, 1, &got) && agree(t, what, rows, &got, want) &&
              (!threads || same_bits(t, p, what, rows, &got));
    free_results(&got);
    ad_program_free(p);
    return ok;
}

static bool check_ways(const trial *t, int64_t rows, const results *want)
{
    static const int64_t sizes[] = { 1, 7, 16, 64, 128 };
    char what[80];
    bool ok =
        check_way(t, &(ad_compile_options){ .without = ~0u }, "without passes", rows, want, false);
    for (int k = 0; ad_pass_name(k) && ok; k++) {
        snprintf(what, sizeof what, "without pass \"%s\"", ad_pass_name(k));
        ok = check_way(t, &(ad_compile_options){ .without = 1u << k }, what, rows, want, false);
    }
    for (int k = 0; k < 5 && ok; k++) {
        snprintf(what, sizeof what, "blocks of %d rows", (int)sizes[k]);
        ok =
            check_way(t, &(ad_compile_options){ .block_rows = sizes[k] }, what, rows, want, k == 1);
    }
    for (int k = 0; k < 2 && ok; k++) {
        snprintf(what, sizeof what, "sums in pieces, blocks of %d rows", (int)sizes[k]);
        ok = check_way(t, &(ad_compile_options){ .block_rows = sizes[k], .divide = true }, what,
                       rows, want, k == 0);
    }
    return ok;
}

/* The first rows of a large batch and the same rows as a small one. */
static bool same_rows(const trial *t, int64_t few, int64_t many, const results *a, const results *b)
{
    for (int j = 0; j < OUTPUTS && !t->w.couples_rows; j++)
        if (ad_has_rows(ad_shape_of(t->out[j])) &&
            memcmp(a->value[j], b->value[j], bytes_of(t, j, few)))
            return failed("a row of output %d depends on its batch mates (%lld or %lld rows)", j,
                          (long long)few, (long long)many);
    return true;
}

/* With native code and without, where then whole arrays are gone through by chunks. */
static bool same_native(const trial *t, ad_program *p, int64_t rows)
{
    ad_program *q = ad_compile_with(&(ad_compile_options){ .interpreted = true, .chunks = true },
                                    t->ninput, t->in, t->noutput, t->out);
    results native = room(t), other = room(t);
    bool ok = q || failed("interpreted: %s", ad_tape_error(t->w.tape));
    native_always(p);
    ok = ok && replay(t, p, rows, 1, &native) && replay(t, q, rows, 1, &other);
    for (int j = 0; j < t->noutput && ok; j++)
        ok = !memcmp(native.value[j], other.value[j], bytes_of(t, j, rows)) ||
             failed("%lld rows: output %d of native code differs in bits", (long long)rows, j);
    ad_program_free(q);
    free_results(&native);
    free_results(&other);
    return ok;
}

static bool check_programs(const trial *t)
{
    static const int64_t choices[] = { 1, 2, 5, 17, 33, 64, 65, 130, MAX_ROWS };
    int64_t few = FIRST_ROWS, many = choices[t->w.recipe.seed % 9];
    results want = room(t), small = room(t), large = room(t);
    ad_program *p = ad_compile(t->ninput, t->in, t->noutput, t->out);
    bool ok = p || failed("%s", ad_tape_error(t->w.tape));
    ok = ok && lazy(t, few, &want) && replay(t, p, few, 1, &small) &&
         agree(t, "every pass", few, &small, &want);
    ok = ok && lazy(t, many, &want) && replay(t, p, many, 1, &large) &&
         agree(t, "every pass", many, &large, &want);
    ok = ok && same_bits(t, p, "every pass", many, &large) &&
         (many < few || same_rows(t, few, many, &small, &large));
    ok = ok && same_native(t, p, 1) && same_native(t, p, many);
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
    if (r.smooth && r.dtype == AD_F64) count_operations(t->w.tape, found->smooth);
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

/* The derivatives of smooth tapes are checked in double. */
static bool derivatives_pass(const trial *t)
{
    trial wide;
    recipe r = t->w.recipe;
    if (r.dtype == AD_F64) return check_derivatives(t);
    r.dtype = AD_F64;
    bool ok = begin(&wide, r) && check_derivatives(&wide) && check_narrow(t, &wide);
    end(&wide);
    return ok;
}

static bool passes(recipe r)
{
    trial t;
    bool ok = begin(&t, r);
    count_operations(t.w.tape, found->tapes);
    ok = ok && (!r.smooth || derivatives_pass(&t)) && check_programs(&t);
    end(&t);
    return ok;
}

/* The recipe of the tests for a seed: every third in single precision, two thirds of the others
 * smooth. */
static recipe recipe_of(uint64_t seed)
{
    start_stream(seed, 1 << 20);
    ad_dtype dtype = seed % 3 ? AD_F64 : AD_F32;
    return (recipe){
        .seed = seed, .dtype = dtype, .smooth = chance(60), .steps = 2 + pick(MAX_STEPS - 1)
    };
}

#endif
