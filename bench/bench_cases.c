/* Times costate's cases against the floor of the machine's arithmetic: see docs/performance.md. */
#include "bench.h"
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool bench_failed(const char *name, const char *message)
{
    fprintf(stderr, "bench_cases: %s: %s\n", name, message ? message : "out of memory");
    return false;
}

bool bench_wanted(const char *wanted, const char *group, const char *name)
{
    size_t n = strlen(wanted);
    return !strcmp(wanted, "all") || !strcmp(wanted, group) || !strcmp(wanted, name) ||
           (!strncmp(wanted, name, n) && name[n] == '.');
}

/* ---- printing ---- */

static bool counts(const bench_line *l) { return l->bound == 0 || l->error <= l->bound; }

static void json_number(const char *key, double value)
{
    if (isfinite(value)) printf(", \"%s\": %.6g", key, value);
    else printf(", \"%s\": null", key);
}

static void print_json(const bench_line *l)
{
    printf("{\"case\": \"%s\", \"dtype\": \"%s\", \"threads\": %d", l->name,
           l->dtype == AD_F32 ? "f32" : "f64", l->threads);
    json_number("ms", l->ms);
    if (l->first_ms > 0) json_number("first_ms", l->first_ms);
    if (l->floor_ms > 0) {
        json_number("floor_ms", l->floor_ms);
        json_number("ratio", l->ms / l->floor_ms);
    }
    if (l->must > 0) json_number("must", l->must);
    if (l->over_field > 0) json_number("over_field", l->over_field);
    if (l->must_over_field > 0) json_number("must_over_field", l->must_over_field);
    if (l->limit_ms > 0) json_number("limit_ms", l->limit_ms);
    json_number("peak_gflops", l->peak);
    printf(", \"evaluations\": %lld, \"vjps\": %lld", (long long)l->evaluations,
           (long long)l->vjps);
    printf(", \"floor_evaluations\": %lld, \"floor_vjps\": %lld", (long long)l->floor_evaluations,
           (long long)l->floor_vjps);
    if (l->bound > 0) json_number("error", l->error);
    else printf(", \"error\": null");
    printf(", \"counts\": %s}\n", counts(l) ? "true" : "false");
}

static void print_text(const bench_line *l)
{
    printf("%-18s %s %d  %10.5f ms", l->name, l->dtype == AD_F32 ? "f32" : "f64", l->threads,
           l->ms);
    if (l->first_ms > 0) printf("  first %.3f ms", l->first_ms);
    if (l->floor_ms > 0) printf("  floor %9.5f ms  ratio %5.2f", l->floor_ms, l->ms / l->floor_ms);
    if (l->must > 0) printf(" (%g)", l->must);
    if (l->over_field > 0) printf("  over the field %5.2f", l->over_field);
    if (l->must_over_field > 0) printf(" (%g)", l->must_over_field);
    if (l->limit_ms > 0) printf("  (%g ms)", l->limit_ms);
    if (l->evaluations > 0)
        printf("  evaluations %lld + %lld", (long long)l->evaluations, (long long)l->vjps);
    printf("  peak %.0f", l->peak);
    if (l->bound > 0) printf("  error %.1e", l->error);
    if (l->note) printf(" (%s)", l->note);
    printf("%s\n", counts(l) ? "" : "  does not count: wrong");
}

void bench_print(const bench_options *options, const bench_line *line)
{
    if (options->json) print_json(line);
    else print_text(line);
    fflush(stdout);
}

/* ---- the command line ---- */

static void help(void)
{
    puts("bench_cases [--case NAME]... [--dtype f32|f64] [--threads N] [--repeats N] [--tolerance "
         "X] [--json] [--answers]\n"
         "  --case NAME    a b c d trace compile overhead sde path layers small wide, or one of "
         "them: b.discrete, "
         "b10, c32, trace2.d8, sde2, gru (default: all)\n"
         "  --dtype T      default: the one a case is judged in, f64 for a, f32 for the others\n"
         "  --threads N    default 1; floors are shared out evenly\n"
         "  --repeats N    samples of which the median is taken, default 15\n"
         "  --tolerance X  rtol and atol of the adaptive cases instead of their own\n"
         "  --processor    times are those of the processor, all threads together: for a machine "
         "that "
         "is not idle\n"
         "  --json         one object a line\n"
         "  --answers      print loss and gradient norms in f64 at 1e-12 instead of timing\n"
         "In parentheses: the largest value that is allowed. docs/performance.md explains cases "
         "and floors.");
}

static bool positive(const char *text, int *value)
{
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    *value = (int)n;
    return !errno && end != text && !*end && n >= 1 && n <= 100000;
}

static bool positive_real(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    return end != text && !*end && *value > 0 && isfinite(*value);
}

enum { MAX_WANTED = 32 };

/* 0 to go on, else the exit status plus 1. */
static int read_options(int argc, char **argv, bench_options *o, const char **wanted, int *nwanted)
{
    static const struct option list[] = {
        { "case", 1, NULL, 'c' },      { "dtype", 1, NULL, 'd' },
        { "threads", 1, NULL, 't' },   { "repeats", 1, NULL, 'r' },
        { "tolerance", 1, NULL, 'e' }, { "json", 0, NULL, 'j' },
        { "answers", 0, NULL, 'a' },   { "help", 0, NULL, 'h' },
        { "processor", 0, NULL, 'p' }, { 0 }
    };
    for (int which; (which = getopt_long(argc, argv, "", list, NULL)) != -1;) {
        bool fine = true;
        if (which == 'h') {
            help();
            return 1;
        }
        if (which == 'j') o->json = true;
        else if (which == 'a') o->answers = true;
        else if (which == 'p') bench_use_processor_time();
        else if (which == 'c' && *nwanted < MAX_WANTED) wanted[(*nwanted)++] = optarg;
        else if (which == 'd' && !strcmp(optarg, "f32")) o->dtype = AD_F32;
        else if (which == 'd' && !strcmp(optarg, "f64")) o->dtype = AD_F64;
        else if (which == 't') fine = positive(optarg, &o->threads);
        else if (which == 'r') fine = positive(optarg, &o->repeats);
        else if (which == 'e') fine = positive_real(optarg, &o->tolerance);
        else fine = false;
        if (fine) continue;
        fprintf(stderr, "bench_cases: %s is no good%s; --help explains\n", argv[optind - 1],
                optarg ? " there" : "");
        return 3;
    }
    if (optind < argc)
        fprintf(stderr, "bench_cases: unexpected argument '%s'; --help explains\n", argv[optind]);
    return optind < argc ? 3 : 0;
}

int main(int argc, char **argv)
{
    bench_options options = { .dtype = -1, .threads = 1, .repeats = 15 };
    const char *wanted[MAX_WANTED] = { "all" };
    int nwanted = 0, status = read_options(argc, argv, &options, wanted, &nwanted);
    if (status) return status - 1;
    bool fine = true;
    for (int i = 0; i < nwanted || i == 0; i++) {
        int count = 0;
        fine &= bench_solves(&options, wanted[i], &count);
        if (!options.answers) {
            fine &= bench_traces(&options, wanted[i], &count);
            fine &= bench_programs(&options, wanted[i], &count);
            fine &= bench_stochastic(&options, wanted[i], &count);
            fine &= bench_paths(&options, wanted[i], &count);
            fine &= bench_layers(&options, wanted[i], &count);
            fine &= bench_wide(&options, wanted[i], &count);
            fine &= bench_small(&options, wanted[i], &count);
        }
        if (count == 0) fine = bench_failed(wanted[i], "no such case; --help lists them");
    }
    return fine ? 0 : 1;
}
