/* Trainings that are killed: at any moment, again and again, and gone on with, they end with the
 * same bits as one that was not. Files that cannot be written leave what was there; files of
 * another training are refused, and the message names what differs. */
#define _GNU_SOURCE
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

enum { EXAMPLES = 60, IN = 3, STEPS = 60, MOST = 512 };

static char directory[64], error[1200];

static const char *in_directory(const char *name)
{
    static char paths[4][256];
    static int k;
    snprintf(paths[k = (k + 1) % 4], sizeof *paths, "%s/%s", directory, name);
    return paths[k];
}

static void enter_directory(void)
{
    snprintf(directory, sizeof directory, "/tmp/costate-checkpoint-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void leave_directory(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", directory);
    ck_assert_int_eq(system(command), 0);
}

/* ---- the training ---------------------------------------------------------------------------- */

typedef struct {
    nn_model *model;
    nn_mlp mlp;
    nn_theta *theta;
    double x[EXAMPLES * IN], y[EXAMPLES];
    nn_array arrays[3];
    nn_metric metric;
    nn_stage stages[2];
    double weight[2];
    const double *factor;
    int64_t kill_after; /* so many steps of this process; 0: never */
} problem;

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    const problem *p = user;
    return nn_mse(nn_mlp_apply(&p->mlp, theta, ad_add(batch[0], batch[2])), batch[1]);
}

static void record(ad_tape *tape, ad_var theta, const ad_var *batch, ad_var *out, void *user)
{
    out[0] = loss(tape, theta, batch, user);
}

static int noise(const nn_step *step, double *const *out, void *user)
{
    (void)user;
    for (int64_t i = 0; i < step->rows * IN; i++) out[2][i] = 0.1 * ad_rng_normal(step->rng);
    return 0;
}

static int kill_me(int64_t step, double value, nn_theta *theta, void *user)
{
    problem *p = user;
    (void)step, (void)value, (void)theta;
    if (p->kill_after > 0 && --p->kill_after == 0) raise(SIGKILL);
    return 0;
}

static problem *make_problem(ad_dtype dtype, int64_t hidden)
{
    problem *p = calloc(1, sizeof *p);
    ad_rng rng = ad_rng_seed(8);
    for (int i = 0; i < EXAMPLES * IN; i++) p->x[i] = ad_rng_normal(&rng);
    for (int i = 0; i < EXAMPLES; i++) p->y[i] = sin(p->x[IN * i]) + 0.2 * ad_rng_normal(&rng);
    p->model = nn_model_new();
    p->mlp = nn_mlp_new(p->model, "net", 3, (int64_t[]){ IN, hidden, 1 }, ad_tanh, NULL);
    p->theta = nn_theta_new(p->model, dtype, &rng);
    p->arrays[0] = nn_array_of(AD_SHAPE(AD_ROWS, IN), p->x);
    p->arrays[1] = nn_array_of(AD_SHAPE(AD_ROWS, 1), p->y);
    p->arrays[2] = nn_array_drawn(AD_SHAPE(AD_ROWS, IN));
    p->metric = (nn_metric){ "rmse", NN_ROOT, false };
    p->stages[0].steps = 25;
    p->stages[1].steps = STEPS - 25;
    p->stages[1].batch = 11;
    return p;
}

static void free_problem(problem *p)
{
    nn_theta_free(p->theta);
    nn_model_free(p->model);
    free(p);
}

static nn_train_options options_of(problem *p)
{
    return (nn_train_options){ .loss = loss,
                               .user = p,
                               .narray = 3,
                               .arrays = p->arrays,
                               .examples = EXAMPLES,
                               .split = { .validation = 0.25 },
                               .draw = noise,
                               .batch = 8,
                               .steps = STEPS,
                               .seed = 2,
                               .threads = 1,
                               .on_step = kill_me,
                               .optimizer = { .rate = 0.02 },
                               .check_gradient = -1,
                               .checkpoint = { .path = in_directory("checkpoint"), .every = 1 } };
}

/* Different trainings: type, optimiser, stages, averages, worker, how often. */
enum { WAYS = 4 };
static ad_dtype type_of(int way) { return way % 2 ? AD_F64 : AD_F32; }
static nn_train_options way_of(problem *p, int way)
{
    nn_train_options o = options_of(p);
    if (way == 1) {
        o.nstage = 2;
        o.stages = p->stages;
        o.optimizer.schedule = nn_schedule_cosine;
        o.checkpoint.every = 4;
        o.checkpoint.keep = 3;
    }
    if (way == 2) {
        o.average = 0.9;
        o.worker = true;
        o.checkpoint.every = 3;
        o.validation.nmetric = 1;
        o.validation.metrics = &p->metric;
        o.validation.record = record;
        o.validation.watch = "rmse";
        o.validation.every = 2;
    }
    if (way == 3) {
        o.optimizer = (nn_optimizer_options){ .algorithm = &nn_sgd, .rate = 0.3, .momentum = 0.9 };
        o.validation.patience = 3;
        o.micro_batch = 3;
    }
    return o;
}

/* A process that trains, from the checkpoint where there is one, and leaves theta in "theta". It is
 * killed after so many of its steps, or by its parent after so many microseconds. Whether it came
 * to its end. */
static bool train_in_child(int way, int64_t kill_after, unsigned microseconds)
{
    fflush(NULL);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        problem *p = make_problem(type_of(way), 16);
        nn_train_options o = way_of(p, way);
        p->kill_after = kill_after;
        o.log.path = in_directory("log.csv");
        bool fine = !nn_train(p->theta, &o, NULL, error, sizeof error) &&
                    !nn_save(in_directory("theta"), p->theta, error, sizeof error);
        if (!fine) fprintf(stderr, "%s\n", error);
        _exit(fine ? 0 : 1);
    }
    if (microseconds > 0) {
        usleep(microseconds);
        kill(child, SIGKILL);
    }
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) ck_assert_int_eq(WTERMSIG(status), SIGKILL);
    else ck_assert_int_eq(WEXITSTATUS(status), 0);
    return WIFEXITED(status);
}

static size_t read_file(const char *name, char *text, size_t size)
{
    FILE *f = fopen(in_directory(name), "rb");
    ck_assert_msg(f != NULL, "%s", name);
    size_t n = fread(text, 1, size - 1, f);
    fclose(f);
    text[n] = 0;
    return n;
}

/* The log without its last column, the seconds. */
static void read_log(char *text, size_t size)
{
    static char all[20000];
    size_t n = 0;
    read_file("log.csv", all, sizeof all);
    for (char *line = strtok(all, "\n"); line; line = strtok(NULL, "\n")) {
        char *last = strrchr(line, ',');
        ck_assert_ptr_nonnull(last);
        n += (size_t)snprintf(text + n, size - n, "%.*s\n", (int)(last - line), line);
    }
}

START_TEST(killed)
{
    int way = _i % WAYS;
    bool by_parent = _i >= WAYS;
    static char theta[2][8000], log[2][20000];
    size_t size[2];
    int kills = 0;
    ad_rng rng = ad_rng_seed((uint64_t)_i);
    for (int run = 0; run < 2; run++) {
        enter_directory();
        if (run == 0) ck_assert(train_in_child(way, 0, 0));
        else {
            /* A process that is killed before its first checkpoint makes no way, so time grows. */
            unsigned time = 1000;
            while (!train_in_child(way, by_parent ? 0 : 4 + (int64_t)ad_rng_below(&rng, 9),
                                   by_parent ? time + (unsigned)ad_rng_below(&rng, 4000) : 0)) {
                kills++;
                time += 200;
            }
            if (!by_parent) ck_assert_int_ge(kills, way == 3 ? 2 : 4); /* it stops early */
        }
        size[run] = read_file("theta", theta[run], sizeof *theta);
        read_log(log[run], sizeof *log);
        if (way == 1) {
            ck_assert_int_eq(access(in_directory("checkpoint.2"), F_OK), 0);
            ck_assert_int_ne(access(in_directory("checkpoint.3"), F_OK), 0);
        }
        leave_directory();
    }
    ck_assert_uint_gt(size[0], 300);
    ck_assert_uint_eq(size[0], size[1]);
    ck_assert_mem_eq(theta[0], theta[1], size[0]);
    ck_assert_str_eq(log[0], log[1]);
}
END_TEST

/* ---- files that cannot be written ------------------------------------------------------------ */

static int train(problem *p, nn_train_options o, nn_train_report *report)
{
    error[0] = 0;
    return nn_train(p->theta, &o, report, error, sizeof error);
}

static int stop_at_20(int64_t step, double value, nn_theta *theta, void *user)
{
    (void)value, (void)theta, (void)user;
    return step == 20;
}

/* From the fifth step on no file can become longer than a few bytes. */
static int no_room(int64_t step, double value, nn_theta *theta, void *user)
{
    (void)value, (void)theta, (void)user;
    struct rlimit limit = { 500, RLIM_INFINITY };
    if (step == 5) setrlimit(RLIMIT_FSIZE, &limit);
    return 0;
}

START_TEST(full_disk)
{
    static char before[40000], after[40000];
    enter_directory();
    problem *p = make_problem(AD_F64, 16);
    nn_train_options o = options_of(p);
    nn_train_report report;
    signal(SIGXFSZ, SIG_IGN);
    o.on_step = no_room;
    ck_assert_int_eq(train(p, o, &report), -1);
    ck_assert_msg(strstr(error, "nn_train: checkpoint after step 5: ") == error &&
                      strstr(error, "cannot be written: File too large; one that was there before "
                                    "is left as it was; theta is as after step 5"),
                  "%s", error);
    struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
    setrlimit(RLIMIT_FSIZE, &limit);
    /* The one before is whole, and the training goes on from it. */
    size_t n = read_file("checkpoint", before, sizeof before);
    o.on_step = NULL;
    ck_assert_msg(train(p, o, &report) == 0, "%s", error);
    ck_assert_int_eq(report.resumed, 4);
    ck_assert_int_eq(report.steps, STEPS);
    ck_assert_uint_eq(read_file("checkpoint", after, sizeof after) > 0, n > 0);
    ck_assert_int_eq(access(in_directory("checkpoint.tmp"), F_OK), -1);
    /* A directory that is not there is found before the first step. */
    o.checkpoint.path = in_directory("nowhere/checkpoint");
    o.on_step = NULL;
    ck_assert_int_eq(train(p, o, &report), -1);
    ck_assert_int_eq(report.steps, 0);
    ck_assert_msg(strstr(error, "checkpoint after step 0: ") &&
                      strstr(error, "cannot be written: No such file or directory"),
                  "%s", error);
    o.checkpoint.path = NULL;
    o.log.path = in_directory("nowhere/log.csv");
    ck_assert_int_eq(train(p, o, &report), -1);
    ck_assert_msg(strstr(error, "log.csv: cannot be written: No such file"), "%s", error);
    free_problem(p);
    leave_directory();
}
END_TEST

/* ---- checkpoints of other trainings ---------------------------------------------------------- */

static void has(const char *expected)
{
    ck_assert_msg(strstr(error, expected) != NULL, "'%s' is not in '%s'", expected, error);
}

START_TEST(others)
{
    enter_directory();
    problem *p = make_problem(AD_F64, 16);
    nn_train_options good = options_of(p), o;
    nn_train_report report;
    good.on_step = stop_at_20;
    ck_assert_msg(train(p, good, &report) == 0, "%s", error);
    ck_assert_int_eq(report.steps, 20);
    double before[MOST], after[MOST];
    int64_t n = nn_theta_size(p->theta);
    ck_assert_int_eq(nn_theta_get(p->theta, NULL, n, before), 0);

    o = good;
    o.optimizer.algorithm = &nn_sgd;
    ck_assert_int_eq(train(p, o, NULL), -1);
    has("is the checkpoint of another training: the optimiser is 'adam' there, and 'sgd' here");
    o = good;
    o.batch = 9;
    ck_assert_int_eq(train(p, o, NULL), -1);
    has("options.batch is '8' there, and '9' here");
    o = good;
    o.examples = 50;
    ck_assert_int_eq(train(p, o, NULL), -1);
    has("the number of examples is '60' there, and '50' here");
    o = good;
    o.seed = 3;
    ck_assert_int_eq(train(p, o, NULL), -1);
    has("options.seed is '2' there, and '3' here");
    o = good;
    o.average = 0.9;
    ck_assert_int_eq(train(p, o, NULL), -1);
    has("it has no 'average.net");
    o = good;
    o.split.validation = 0;
    ck_assert_int_eq(train(p, o, NULL), -1);
    has("the number of examples for training is '45' there, and '60' here");
    o = good;
    o.steps = 10;
    ck_assert_int_eq(train(p, o, NULL), -1);
    has("was written after step 20, but this training has 10");
    problem *wide = make_problem(AD_F64, 17);
    o = good;
    o.user = wide;
    ck_assert_int_eq(train(wide, o, NULL), -1);
    has(" is f64 [");
    problem *single = make_problem(AD_F32, 16);
    o.user = single;
    ck_assert_int_eq(train(single, o, NULL), -1);
    has("theta's type is 'f64' there, and 'f32' here");

    ck_assert_int_eq(nn_theta_get(p->theta, NULL, n, after), 0);
    ck_assert_mem_eq(before, after, (size_t)n * sizeof *before);
    /* Weights alone, half a file, no file at all; then anew. */
    static char text[40000];
    size_t size = read_file("checkpoint", text, sizeof text);
    ck_assert_int_eq(nn_save(good.checkpoint.path, p->theta, error, sizeof error), 0);
    ck_assert_int_eq(train(p, good, NULL), -1);
    has("is no checkpoint of a training");
    FILE *f = fopen(good.checkpoint.path, "wb");
    fwrite(text, 1, size / 2, f);
    fclose(f);
    ck_assert_int_eq(train(p, good, NULL), -1);
    has("going on from a checkpoint: ");
    char *version = memmem(text, size, "costate checkpoint 1", 20);
    ck_assert_ptr_nonnull(version);
    version[19] = '9';
    f = fopen(good.checkpoint.path, "wb");
    fwrite(text, 1, size, f);
    fclose(f);
    ck_assert_int_eq(train(p, good, NULL), -1);
    has("the format is 'costate checkpoint 9' there, and 'costate checkpoint 1' here");
    o = good;
    o.checkpoint.fresh = true;
    ck_assert_msg(train(p, o, &report) == 0, "%s", error);
    ck_assert_int_eq(report.resumed, 0);
    free_problem(p);
    free_problem(wide);
    free_problem(single);
    leave_directory();
}
END_TEST

/* More steps than were planned, without a schedule: the same as all of them at once. */
START_TEST(more_steps)
{
    double once[MOST], twice[MOST];
    nn_train_report report;
    for (int run = 0; run < 2; run++) {
        enter_directory();
        problem *p = make_problem(AD_F64, 16);
        nn_train_options o = options_of(p);
        o.validation.keep_last = true;
        int64_t n = nn_theta_size(p->theta);
        o.steps = run ? 20 : STEPS;
        ck_assert_msg(train(p, o, &report) == 0, "%s", error);
        o.steps = STEPS;
        if (run) ck_assert_msg(train(p, o, &report) == 0, "%s", error);
        ck_assert_int_eq(report.resumed, run ? 20 : 0);
        ck_assert_int_eq(nn_theta_get(p->theta, NULL, n, run ? twice : once), 0);
        if (run) ck_assert_mem_eq(once, twice, (size_t)n * sizeof *once);
        free_problem(p);
        leave_directory();
    }
}
END_TEST

/* Stopped by on_step, and gone on with: theta and the log are those of one training. What the log
 * has beyond the checkpoint, of steps after it, is cut off. */
static int stop_at_18(int64_t step, double value, nn_theta *theta, void *user)
{
    (void)value, (void)theta, (void)user;
    return step == 18; /* the end of an epoch, with a validation in any case */
}

START_TEST(stopped)
{
    double once[MOST], twice[MOST];
    static char log[2][20000];
    nn_train_report report;
    for (int run = 0; run < 2; run++) {
        enter_directory();
        problem *p = make_problem(AD_F64, 16);
        nn_train_options o = options_of(p);
        int64_t n = nn_theta_size(p->theta);
        o.log = (nn_log){ .path = in_directory("log.csv"), .every = 1 };
        o.validation.keep_last = true;
        o.on_step = run ? stop_at_18 : NULL;
        ck_assert_msg(train(p, o, &report) == 0, "%s", error);
        ck_assert_int_eq(report.steps, run ? 18 : STEPS);
        if (run) {
            FILE *f = fopen(o.log.path, "a");
            fputs("19,4,0.5,,1\n20,4,0.", f); /* the last line was not finished */
            fclose(f);
            o.on_step = NULL;
            ck_assert_msg(train(p, o, &report) == 0, "%s", error);
            ck_assert_int_eq(report.resumed, 18);
            ck_assert_int_eq(report.steps, STEPS);
        }
        ck_assert_int_eq(nn_theta_get(p->theta, NULL, n, run ? twice : once), 0);
        if (run) ck_assert_mem_eq(once, twice, (size_t)n * sizeof *once);
        read_log(log[run], sizeof *log);
        if (run == 0) {
            /* A log that is shorter than it was then is refused. */
            o.steps = STEPS + 10;
            ck_assert_int_eq(truncate(o.log.path, 100), 0);
            ck_assert_int_eq(train(p, o, &report), -1);
            ck_assert_msg(strstr(error, "log.csv is shorter than it was when"), "%s", error);
        }
        free_problem(p);
        leave_directory();
    }
    ck_assert_str_eq(log[0], log[1]);
}
END_TEST

/* What a killed process left beside the file goes away with the next write; what a living one
 * writes, and what has another name, stays. */
START_TEST(left_behind)
{
    enter_directory();
    pid_t gone = fork();
    if (gone == 0) _exit(0);
    ck_assert_int_eq(waitpid(gone, NULL, 0), gone);
    char name[4][40];
    snprintf(name[0], sizeof *name, "checkpoint.tmp-%ld-0", (long)gone);
    snprintf(name[1], sizeof *name, "checkpoint.tmp-%ld-7", (long)getppid());
    snprintf(name[2], sizeof *name, "other.tmp-%ld-0", (long)gone);
    snprintf(name[3], sizeof *name, "checkpoint.tmp-%ld-old", (long)gone);
    for (int i = 0; i < 4; i++) fclose(fopen(in_directory(name[i]), "w"));
    problem *p = make_problem(AD_F64, 4);
    nn_train_options o = options_of(p);
    o.steps = 1;
    ck_assert_msg(train(p, o, NULL) == 0, "%s", error);
    for (int i = 0; i < 4; i++) ck_assert_int_eq(access(in_directory(name[i]), F_OK), i ? 0 : -1);
    free_problem(p);
    leave_directory();
}
END_TEST

int main(void)
{
    TCase *c = suite_case("checkpoint", "checkpoint");
    tcase_add_loop_test(c, killed, 0, 2 * WAYS);
    tcase_add_test(c, full_disk);
    tcase_add_test(c, others);
    tcase_add_test(c, more_steps);
    tcase_add_test(c, stopped);
    tcase_add_test(c, left_behind);
    return suite_run();
}
