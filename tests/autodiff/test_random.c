/* Random tapes: seed after seed passes what random_trials.h asks for, or is shrunk to a tape with
 * as few steps as will fail. Trials run in processes of their own, which leave the seed at work in
 * shared memory, so that crashes and endless loops are told and shrunk as well. test_random
 * [FIRST:COUNT [SHARE/SHARES]] runs the SHARE-th part of these seeds;
 * COSTATE_RANDOM_SEEDS=FIRST:COUNT in the environment asks for others. */
#include "tests/autodiff/random_trials.h"
#include "tests/support.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PART = 100, SECONDS = 30, SECONDS_SHRINKING = 5, FAILED = 3 };

/* What processes share. */
typedef struct {
    findings found;
    uint64_t seed;
    int64_t trials;
} board;
static board *shared;
static uint64_t first_seed = 1, seed_count = PART;

/* ---- processes ---- */

/* Runs action(argument) in a process of its own; what went wrong is in found->failure then. */
static bool in_process(bool (*action)(const void *), const void *argument, bool quiet)
{
    int status = 0;
    found->failure[0] = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) return failed("fork: no process");
    if (child == 0) {
        signal(SIGALRM, SIG_DFL); /* check's own handler would end check's process too */
        if (quiet && !freopen("/dev/null", "w", stderr)) _exit(FAILED);
        exit(action(argument) ? 0 : FAILED);
    }
    if (waitpid(child, &status, 0) != child) return failed("waitpid failed");
    if (WIFSIGNALED(status))
        return failed("signal %d: %s", WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (WEXITSTATUS(status) != 0 && !found->failure[0])
        return failed("exit status %d", WEXITSTATUS(status));
    return WEXITSTATUS(status) == 0;
}

/* An endless loop ends with SIGALRM. */
static bool timed(recipe r, unsigned seconds)
{
    alarm(seconds);
    bool ok = passes(r);
    alarm(0);
    return ok;
}

static bool one_recipe(const void *r) { return timed(*(const recipe *)r, SECONDS_SHRINKING); }
static bool passes_alone(recipe r) { return in_process(one_recipe, &r, true); }

typedef struct {
    uint64_t first, end;
} range;

static bool all_seeds(const void *argument)
{
    const range *seeds = argument;
    for (uint64_t k = seeds->first; k < seeds->end; k++) {
        shared->seed = k;
        if (!timed(recipe_of(k), SECONDS)) return false;
        shared->trials++;
    }
    return true;
}

/* ---- failures ---- */

/* The first steps only, as few as fail, and of these none that can be left out. */
static recipe shrunk(recipe r)
{
    recipe small = r;
    for (small.steps = 0; small.steps < r.steps && passes_alone(small);) small.steps++;
    for (int k = small.steps - 1; k >= 0; k--) {
        recipe less = small;
        less.without |= 1u << k;
        if (!passes_alone(less)) small = less;
    }
    return small;
}

static bool print_tape(const void *r)
{
    trial t;
    alarm(SECONDS_SHRINKING);
    ad_program *p = begin(&t, *(const recipe *)r)
                        ? ad_compile_with(&(ad_compile_options){ .without = ~0u }, t.ninput, t.in,
                                          t.noutput, t.out)
                        : NULL;
    char *text = ad_program_describe(p);
    if (text) fputs(text, stdout);
    free(text);
    ad_program_free(p);
    end(&t);
    return true;
}

static void report(uint64_t seed)
{
    char first[sizeof found->failure];
    recipe r = recipe_of(seed);
    memcpy(first, found->failure, sizeof first);
    printf("seed %llu: %s\n", (unsigned long long)seed, first);
    recipe small = shrunk(r);
    passes_alone(small);
    int left = 0;
    for (int k = 0; k < small.steps; k++) left += !(small.without >> k & 1);
    printf("with %d of %d steps: %s\n", left, r.steps, found->failure);
    in_process(print_tape, &small, true);
    ck_abort_msg("seed %llu: %s (COSTATE_RANDOM_SEEDS=%llu:1)", (unsigned long long)seed, first,
                 (unsigned long long)seed);
}

/* What shows at a process's end only, a leak, need not be the last seed's. */
static uint64_t culprit(const range *seeds)
{
    char first[sizeof found->failure];
    memcpy(first, found->failure, sizeof first);
    for (uint64_t k = seeds->first; k < seeds->end; k++)
        if (!passes_alone(recipe_of(k))) return k;
    memcpy(found->failure, first, sizeof first);
    return shared->seed;
}

/* ---- tests ---- */

START_TEST(test_random_tapes)
{
    range seeds = { first_seed + (uint64_t)_i * PART, first_seed + (uint64_t)(_i + 1) * PART };
    int64_t before = shared->trials;
    if (seeds.end > first_seed + seed_count) seeds.end = first_seed + seed_count;
    if (in_process(all_seeds, &seeds, false)) return;
    report(shared->trials - before == (int64_t)(seeds.end - seeds.first) ? culprit(&seeds)
                                                                         : shared->seed);
}
END_TEST

/* Every operation is in one tape of forty at least, and in one of a hundred where derivatives are
 * compared with differences; and differences decide nearly always. */
START_TEST(test_coverage)
{
    int rarest = 0, rarest_smooth = 0;
    if (seed_count < 2 * PART) return;
    for (int k = 0; k < AD_CODED_OPS; k++) { /* recorded in two, as their codes */
        found->tapes[ad_coded_ops[k].whole] = found->tapes[ad_coded_ops[k].code];
        found->smooth[ad_coded_ops[k].whole] = found->smooth[ad_coded_ops[k].code];
    }
    found->smooth[AD_OP_slope_of_code] = found->smooth[AD_OP_tanh_code]; /* in derivatives only */
    for (int op = 0; op < AD_OP_COUNT; op++) {
        if (found->tapes[op] < found->tapes[rarest]) rarest = op;
        if (found->smooth[op] < found->smooth[rarest_smooth]) rarest_smooth = op;
    }
    printf("%lld tapes, %s in %lld of them, %s in %lld that are compared with differences\n",
           (long long)shared->trials, ad_ops[rarest].name, (long long)found->tapes[rarest],
           ad_ops[rarest_smooth].name, (long long)found->smooth[rarest_smooth]);
    printf("%lld derivatives compared, %lld of them undecided\n", (long long)found->differences,
           (long long)found->unresolved);
    ck_assert_int_ge(found->tapes[rarest] * 40, shared->trials);
    ck_assert_int_ge(found->smooth[rarest_smooth] * 100, shared->trials);
    ck_assert_int_gt(found->differences, shared->trials / 2);
    ck_assert_int_le(found->unresolved * 50, found->differences);
}
END_TEST

/* ---- which seeds ---- */

static void read_seeds(const char *text)
{
    char *colon = NULL;
    first_seed = strtoull(text, &colon, 10);
    seed_count = *colon == ':' ? strtoull(colon + 1, NULL, 10) : 1;
}

static void take_share(const char *text)
{
    char *slash = NULL;
    uint64_t share = strtoull(text, &slash, 10),
             shares = *slash == '/' ? strtoull(slash + 1, NULL, 10) : 1;
    uint64_t begin = (share - 1) * seed_count / shares, end = share * seed_count / shares;
    first_seed += begin;
    seed_count = end - begin;
}

int main(int argc, char **argv)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 1;
    found = &shared->found;
    const char *wanted = getenv("COSTATE_RANDOM_SEEDS");
    if (wanted || argc > 1) read_seeds(wanted ? wanted : argv[1]);
    if (argc > 2) take_share(argv[2]);
    printf("random tapes: seeds %llu to %llu\n", (unsigned long long)first_seed,
           (unsigned long long)(first_seed + seed_count - 1));
    fflush(stdout);
    TCase *t = suite_case("random", "tapes");
    tcase_add_loop_test(t, test_random_tapes, 0, (int)((seed_count + PART - 1) / PART));
    tcase_add_test(t, test_coverage);
    int failures = suite_run();
    munmap(shared, sizeof *shared);
    return failures;
}
