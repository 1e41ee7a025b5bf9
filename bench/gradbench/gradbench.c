/* Times GradBench's programs: value and derivative by costate, by hand and by ADOL-C where it is
 * there, in turn, by the processor's clock on one thread, and checks their answers against each
 * other. bench/gradbench/run.py adds JAX and prints the table. */
#include "../bench.h"
#include "gradbench.h"
#include "peers.h"
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const gb_program *program;
    const char *name;
    int64_t size[GB_SIZES];
    bool adolc; /* its tape fits into the memory of small machines */
} cases[] = {
    { &gb_ode, "ode.10", { 10, 10 }, true },
    { &gb_ode, "ode.100", { 100, 10 }, true },
    { &gb_ode, "ode.1000", { 1000, 10 }, true },
    { &gb_ode, "ode.10000", { 10000, 10 }, true },
    { &gb_lse, "lse.2560", { 2560 }, true },
    { &gb_lse, "lse.80000", { 80000 }, true },
    { &gb_lse, "lse.1280000", { 1280000 }, false },
    { &gb_gmm, "gmm.d2k5", { 2, 5, 1000 }, true },
    { &gb_gmm, "gmm.d10k25", { 10, 25, 1000 }, true },
    { &gb_gmm, "gmm.d32k50", { 32, 50, 1000 }, false },
    { &gb_gmm, "gmm.d64k100", { 64, 100, 1000 }, false },
    { &gb_lstm, "lstm.l2c1024", { 2, 1024, 14 }, true },
    { &gb_lstm, "lstm.l4c4096", { 4, 4096, 14 }, false },
    { &gb_lstm, "lstm.l6c8192", { 6, 8192, 14 }, false },
    { &gb_adjustment, "adjustment.1000", { 1000 }, true },
    { &gb_adjustment, "adjustment.30000", { 30000 }, true },
    { &gb_kmeans, "kmeans.k10", { 10, 1000, 8 }, true },
    { &gb_kmeans, "kmeans.k100", { 100, 1000, 8 }, true },
    { &gb_kmeans, "kmeans.k1000", { 1000, 1000, 8 }, false },
    { &gb_determinant, "determinant.5", { 5 }, true },
    { &gb_determinant, "determinant.7", { 7 }, true },
};
enum { CASES = sizeof cases / sizeof *cases };

double gb_number(int k, int64_t i)
{
    return sin(0.7 * (double)(i % 1013) + 0.13 * (double)(i / 1013 % 997) + 1.3 * k + 0.2);
}

void gb_numbers(int k, int64_t n, double shift, double scale, double *x)
{
    for (int64_t i = 0; i < n; i++) x[i] = shift + scale * gb_number(k, i);
}

/* ---- a case under way ---- */

typedef struct {
    gb_case c;
    const gb_program *program;
    ad_program *compiled;
    ad_workspace *workspace;
    double *answer[3], *work; /* value, then derivative: of costate, by hand, of ADOL-C */
    const char *error;
} trial;

static void run_costate(void *user)
{
    trial *t = user;
    void *out[] = { t->answer[0], t->answer[0] + t->c.nvalue };
    const int64_t rows = t->c.rows ? t->c.rows : 1;
    if (ad_run(t->compiled, t->workspace, rows, (const void *const *)t->c.input, out))
        t->error = ad_workspace_error(t->workspace);
}

static void run_by_hand(void *user)
{
    trial *t = user;
    t->program->by_hand(&t->c, t->answer[1], t->answer[1] + t->c.nvalue, t->work);
}

static void run_adolc(void *user)
{
    trial *t = user;
    gb_adolc_run(&t->c, t->program->name, t->answer[2], t->answer[2] + t->c.nvalue);
}

/* The first input is by rows where the value is. */
static bool compile(trial *t)
{
    gb_case *c = &t->c;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in[GB_INPUTS], out[2];
    for (int k = 0; k < c->ninput; k++) {
        const bool rows = c->rows && (k > 0 || c->nvalue > 1);
        in[k] = rows ? ad_input_rows(tape, AD_SHAPE(AD_ROWS, c->count[k]), 0, (double *)NULL)
                     : ad_param(tape, AD_SHAPE(c->count[k]), (double *)NULL);
    }
    out[0] = t->program->record(c, in);
    if (c->nvalue > 1) out[1] = ad_jacobian(out[0], in[0]);
    else ad_grad(out[0], 1, in, &out[1]);
    t->compiled = ad_compile(c->ninput, in, 2, out);
    t->workspace = ad_workspace_new(t->compiled, 1);
    if (!t->workspace) {
        const char *error = ad_tape_error(tape);
        bench_failed(c->name, error ? error : "out of memory");
    }
    ad_tape_free(tape);
    return t->workspace != NULL;
}

static bool begin(trial *t, int i)
{
    gb_case *c = &t->c;
    *t = (trial){ .program = cases[i].program };
    c->name = cases[i].name;
    memcpy(c->size, cases[i].size, sizeof c->size);
    t->program->plan(c);
    bool fine = true;
    for (int k = 0; k < c->ninput; k++) {
        const bool rows = c->rows && (k > 0 || c->nvalue > 1);
        c->input[k] = calloc((size_t)(c->count[k] * (rows ? c->rows : 1)), sizeof(double));
        fine = fine && c->input[k];
    }
    for (int k = 0; k < 3; k++) {
        t->answer[k] = calloc((size_t)(c->nvalue + c->nderivative), sizeof(double));
        fine = fine && t->answer[k];
    }
    if (t->program->by_hand) {
        t->work = calloc((size_t)t->program->work_size(c) + 1, sizeof(double));
        fine = fine && t->work;
    }
    if (!fine) return bench_failed(c->name, "out of memory");
    t->program->fill(c);
    return compile(t);
}

static void end(trial *t)
{
    for (int k = 0; k < GB_INPUTS; k++) free(t->c.input[k]);
    for (int k = 0; k < 3; k++) free(t->answer[k]);
    free(t->work);
    ad_workspace_free(t->workspace);
    ad_program_free(t->compiled);
}

/* ---- answers ---- */

/* The largest difference of n numbers, relative to the largest of them. */
static double difference(int64_t n, const double *a, const double *b)
{
    double most = 0, off = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i])) return INFINITY;
        most = fmax(most, fabs(b[i]));
        off = fmax(off, fabs(a[i] - b[i]));
    }
    return most > 0 ? off / most : off;
}

static double error_of(const trial *t, int k)
{
    const gb_case *c = &t->c;
    return fmax(difference(c->nvalue, t->answer[0], t->answer[k]),
                difference(c->nderivative, t->answer[0] + c->nvalue, t->answer[k] + c->nvalue));
}

static void print(const trial *t, const char *by, double ms, double error)
{
    printf("{\"case\": \"%s\", \"by\": \"%s\", \"ms\": %.6g", t->c.name, by, ms);
    if (error >= 0) printf(", \"error\": %.3g", error);
    printf("}\n");
}

static bool measure(trial *t, int repeats, bool adolc)
{
    const bool hand = t->program->by_hand;
    bench_job job[3] = { { .run = run_costate, .user = t } };
    int n = 1, of[3] = { 0 };
    double peak;
    static const char *const names[] = { "costate", "hand", "adolc" };
    if (hand) {
        of[n] = 1;
        job[n++] = (bench_job){ .run = run_by_hand, .user = t };
    }
    if (adolc && gb_adolc_start(&t->c, t->program->name)) {
        of[n] = 2;
        job[n++] = (bench_job){ .run = run_adolc, .user = t };
    }
    if (!bench_measure(repeats, AD_F64, n, job, &peak))
        return bench_failed(t->c.name, "out of memory");
    if (t->error) return bench_failed(t->c.name, t->error);
    for (int i = 0; i < n; i++) print(t, names[of[i]], job[i].ms, of[i] ? error_of(t, of[i]) : -1);
    fflush(stdout);
    return true;
}

/* ---- for peers in other processes ---- */

static bool write_numbers(FILE *f, int64_t n, const double *x)
{
    return fwrite(x, sizeof *x, (size_t)n, f) == (size_t)n;
}

/* The inputs, the value and the derivative, one after the other, and what they are as a line. */
static bool write(trial *t, const char *folder)
{
    const gb_case *c = &t->c;
    char path[1024];
    run_costate(t);
    if (t->error) return bench_failed(c->name, t->error);
    snprintf(path, sizeof path, "%s/%s", folder, c->name);
    FILE *f = fopen(path, "wb");
    bool fine = f != NULL;
    printf("{\"case\": \"%s\", \"program\": \"%s\", \"size\": [%lld, %lld, %lld], \"inputs\": [",
           c->name, t->program->name, (long long)c->size[0], (long long)c->size[1],
           (long long)c->size[2]);
    for (int k = 0; k < c->ninput && fine; k++) {
        const bool rows = c->rows && (k > 0 || c->nvalue > 1);
        const int64_t n = c->count[k] * (rows ? c->rows : 1);
        printf("%s%lld", k ? ", " : "", (long long)n);
        fine = write_numbers(f, n, c->input[k]);
    }
    printf("], \"value\": %lld, \"derivative\": %lld}\n", (long long)c->nvalue,
           (long long)c->nderivative);
    fine = fine && write_numbers(f, c->nvalue + c->nderivative, t->answer[0]);
    if (f) fine = fclose(f) == 0 && fine;
    return fine || bench_failed(c->name, "cannot write its numbers");
}

static bool one(int i, int repeats, const char *folder)
{
    trial t;
    bool fine = begin(&t, i);
    if (fine) fine = folder ? write(&t, folder) : measure(&t, repeats, cases[i].adolc);
    end(&t);
    return fine;
}

bool bench_failed(const char *name, const char *message)
{
    fprintf(stderr, "bench_gradbench: %s: %s\n", name, message);
    return false;
}

int main(int argc, char **argv)
{
    static const struct option list[] = { { "case", 1, NULL, 'c' },
                                          { "repeats", 1, NULL, 'r' },
                                          { "write", 1, NULL, 'w' },
                                          { "help", 0, NULL, 'h' },
                                          { 0 } };
    const char *wanted = "", *folder = NULL;
    int repeats = 15, count = 0;
    for (int which; (which = getopt_long(argc, argv, "", list, NULL)) != -1;) {
        if (which == 'c') wanted = optarg;
        else if (which == 'r') repeats = atoi(optarg);
        else if (which == 'w') folder = optarg;
        else {
            puts("bench_gradbench [--case BEGINNING] [--repeats N] [--write FOLDER]\n"
                 "  --case BEGINNING  of the names of cases: ode, gmm.d10 (default: all)\n"
                 "  --repeats N       samples of which the median is taken, default 15\n"
                 "  --write FOLDER    writes inputs and answers for peers instead of timing");
            return which == 'h' ? 0 : 2;
        }
    }
    bench_use_processor_time();
    bool fine = repeats > 0;
    for (int i = 0; i < CASES; i++) {
        if (strncmp(cases[i].name, wanted, strlen(wanted))) continue;
        fine &= one(i, repeats, folder);
        count++;
    }
    if (count == 0) bench_failed(wanted, "no such case; --help explains");
    return fine && count ? 0 : 1;
}
