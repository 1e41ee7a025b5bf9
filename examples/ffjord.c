/* Densities of tables by continuous normalizing flows (FFJORD, Grathwohl et al. 2019,
 * arXiv:1810.01367), here with the exact trace, and what regularisers do to them.
 *
 * A flow dx/dt = F(x, t; w) carries rows of a table to a standard normal; log p(x) = log N(x(1); 0,
 * I) + the integral of tr(dF/dx). Many flows carry the same density, and those that a likelihood
 * alone picks wind and take many evaluations to solve. Costs along the way prefer the straight
 * ones:
 *
 *   free        none: FFJORD
 *   kinetic     a |F|^2: the squared speed
 *   RNODE       a |F|^2 + b |e' dF/dx|^2 (Finlay et al. 2020, arXiv:2002.02798); e is a normal draw
 *               for each row, so that its mean is the squared Frobenius norm of the Jacobian
 *   OT-Flow     F = -grad Phi, where Phi(x, t; w) is a network (Onken et al. 2021,
 *               arXiv:2006.00104): the gradient is recorded in the field, the trace is the exact
 *               Laplacian of Phi. Its costs are a |F|^2 and c |dPhi/dt - |F|^2 / 2|, what the
 *               optimal Phi has zero (the equation of Hamilton, Jacobi, Bellman)
 *
 * A tenth of the rows is held out, another tenth chooses the weights that are used; --folds 10
 * holds out each tenth in turn. Beside them stand Gaussians with a full covariance and mixtures of
 * ten. Columns are standardised by the rows that are not held out; log-densities are of the
 * standardised rows. */
#include "costate.h"
#include "example.h"
#include "mixture.h"
#include "tables.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RANK = 10 };

typedef struct {
    const char *name;
    bool potential;                    /* F = -grad Phi */
    double kinetic, jacobian, bellman; /* weights of the costs: a, b, c */
} variant;

enum { FREE, KINETIC, RNODE, OT_FLOW, VARIANTS };
static const variant variants[VARIANTS] = {
    [FREE] = { "free", false, 0, 0, 0 },
    [KINETIC] = { "kinetic", false, 0.05, 0, 0 },
    [RNODE] = { "RNODE", false, 0.05, 0.05, 0 },
    [OT_FLOW] = { "OT-Flow", true, 0.05, 0, 0.05 },
};

typedef struct {
    const variant *variant;
    const split *data;
    nn_model *model;
    nn_time_mlp network;         /* F, */
    nn_linear open, layer;       /* or of Phi: layers of N, */
    int64_t weights, root, tilt; /* Phi = w . N(s) + |A s|^2 / 2 + b . s at these offsets */
    ode_cnf flow;
    ode_stats stats;
    int64_t evaluations; /* of the field in training */
    nn_theta *average, *best;
    double best_choice;
    int64_t every;    /* updates between two choices */
    ad_tape *choices; /* where the choice is evaluated */
    ad_var choice_theta, choice;
} problem;

/* ---- fields ---------------------------------------------------------------------------------- */

/* log(2 cosh x), whose derivative is tanh x. */
static ad_var log_cosh(ad_var x) { return ad_sub(ad_softplus(ad_scale(x, 2)), x); }

static ad_var part(ad_var theta, int64_t offset, ad_shape shape)
{
    int64_t size = 1;
    for (int i = 0; i < shape.rank; i++) size *= shape.dim[i];
    return ad_reshape(ad_slice(theta, 0, offset, offset + size), shape);
}

/* Phi [rows,1] at s = (x, t): a residual network of two layers, and a quadratic function. */
static ad_var potential(const problem *p, ad_var theta, ad_var t, ad_var x)
{
    const int64_t in = p->data->d + 1, width = p->open.out;
    ad_var s = ad_concatenate(AD_VARS(x, t), 1);
    ad_var first = log_cosh(nn_linear_apply(&p->open, theta, s));
    ad_var second = ad_add(first, log_cosh(nn_linear_apply(&p->layer, theta, first)));
    ad_var net = ad_matmul(second, part(theta, p->weights, AD_SHAPE(width, 1)));
    ad_var root = ad_matmul(s, part(theta, p->root, AD_SHAPE(in, RANK)));
    ad_var quadratic = ad_scale(ad_sum_axis(ad_square(root), 1, true), 0.5);
    return ad_add(net, ad_add(quadratic, ad_matmul(s, part(theta, p->tilt, AD_SHAPE(in, 1)))));
}

/* args: theta, and where there is a cost the normal draws e [rows,d]. */
static ad_var field(ad_var t, ad_var x, const ad_var *args, void *user)
{
    const problem *p = user;
    if (!p->variant->potential) return nn_time_mlp_apply(&p->network, args[0], t, x);
    ad_var phi = potential(p, args[0], t, x), one = ad_ones_like(phi), gradient;
    ad_vjp(1, &phi, &one, 1, &x, &gradient);
    return ad_neg(gradient);
}

static ad_var row_square(ad_var x) { return ad_sum_axis(ad_square(x), 1, true); }

static ad_var cost(ad_var t, ad_var x, const ad_var *args, void *user)
{
    const problem *p = user;
    const variant *v = p->variant;
    ad_var speed = field(t, x, args, user), squared = row_square(speed);
    ad_var sum = ad_scale(squared, v->kinetic);
    if (v->jacobian > 0) {
        ad_var pulled;
        ad_vjp(1, &speed, &args[1], 1, &x, &pulled);
        sum = ad_add(sum, ad_scale(row_square(pulled), v->jacobian));
    }
    if (v->bellman > 0) {
        ad_var phi = potential(p, args[0], t, x), one = ad_ones_like(t), rate;
        ad_jvp(1, &t, &one, 1, &phi, &rate);
        ad_var off = ad_abs(ad_sub(rate, ad_scale(squared, 0.5)));
        sum = ad_add(sum, ad_scale(off, v->bellman));
    }
    return sum;
}

/* ---- training -------------------------------------------------------------------------------- */

/* batch: rows [rows,d], normal draws [rows,d]. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    (void)tape;
    if (!(p->variant->kinetic > 0))
        return ad_neg(ad_mean_all(ode_cnf_log_density(&p->flow, batch[0], AD_VARS(theta))));
    ad_var q,
        log_p = ode_cnf_log_density_cost(&p->flow, cost, batch[0], AD_VARS(theta, batch[1]), &q);
    return ad_mean_all(ad_sub(q, log_p));
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    const problem *p = user;
    for (int64_t i = 0; i < step->rows * p->data->d; i++) out[1][i] = ad_rng_normal(step->rng);
    return 0;
}

static bool build(problem *p, int64_t width, double tolerance)
{
    const int64_t d = p->data->d;
    p->model = nn_model_new();
    if (p->variant->potential) {
        p->open = nn_linear_new(p->model, "open", d + 1, width, NULL);
        p->layer = nn_linear_new(p->model, "layer", width, width, NULL);
        p->weights = nn_model_add(p->model, "weights", AD_SHAPE(width, 1), nn_init_zeros, width, 1);
        p->root = nn_model_add(p->model, "root", AD_SHAPE(d + 1, RANK), nn_init_xavier_uniform,
                               d + 1, RANK);
        p->tilt = nn_model_add(p->model, "tilt", AD_SHAPE(d + 1, 1), nn_init_zeros, d + 1, 1);
    } else
        p->network = nn_time_mlp_new(p->model, "field", NN_CONCAT_SQUASH, 4,
                                     (int64_t[]){ d, width, width, d }, ad_tanh, NULL);
    p->flow =
        (ode_cnf){ field, p, 1, { .rtol = tolerance, .atol = tolerance, .stats = &p->stats } };
    return !nn_model_error(p->model);
}

/* Minus the mean log-density of rows as a function of theta. */
static ad_var record_nll(const problem *p, ad_tape *tape, ad_var theta, double tolerance,
                         ode_stats *stats, int which)
{
    ode_cnf flow = p->flow;
    flow.options = (ode_options){ .rtol = tolerance, .atol = tolerance, .stats = stats };
    ad_var rows =
        ad_input_rows(tape, AD_SHAPE(AD_ROWS, p->data->d), p->data->n[which], p->data->rows[which]);
    return ad_neg(ad_mean_all(ode_cnf_log_density(&flow, rows, AD_VARS(theta))));
}

/* After every update: the average of the weights; now and then, whether it is the best so far. */
static int choose(int64_t step, double value, nn_theta *theta, void *user)
{
    problem *p = user;
    (void)value;
    p->evaluations += p->stats.evaluations;
    if (nn_theta_average(p->average, theta, fmax(0.01, 1 / (double)step))) return 1;
    if (step % p->every) return 0;
    const float *data = nn_theta_f32(p->average, NULL);
    float nll;
    float *result = &nll;
    if (ad_evaluate_f32(1, &p->choice_theta, &data, p->data->n[CHOICE], 1, &p->choice, &result))
        return 1;
    if (!(nll < p->best_choice)) return 0;
    p->best_choice = nll;
    nn_theta_free(p->best);
    p->best = nn_theta_copy(p->average);
    return 0;
}

typedef struct {
    double held_out, seconds, evaluations, evaluations_after, round_trip;
    int64_t parameters;
} outcome;

/* What the trained flow is worth, solved more exactly than in training. */
static bool measure(problem *p, const nn_theta *theta, outcome *o)
{
    ode_stats stats = { 0 };
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var w = nn_theta_param(tape, theta);
    o->held_out = ad_item(record_nll(p, tape, w, 1e-5, &stats, TEST));
    o->evaluations_after = (double)stats.evaluations;
    ode_cnf flow = p->flow;
    flow.options = (ode_options){ .rtol = 1e-5, .atol = 1e-5 };
    ad_var x =
        ad_input_rows(tape, AD_SHAPE(AD_ROWS, p->data->d), p->data->n[TEST], p->data->rows[TEST]);
    ad_var back = ode_cnf_sample(&flow, ode_cnf_encode(&flow, x, AD_VARS(w)), AD_VARS(w));
    o->round_trip = ad_item(ad_reduce_max(ad_abs(ad_sub(back, x)), 0, NULL, false));
    const bool fine = !ad_tape_error(tape);
    if (!fine) example_failed("the flow", ad_tape_error(tape));
    ad_tape_free(tape);
    ode_stats_clear(&stats);
    return fine;
}

/* For the picture: as many samples as there are held-out rows, and the ways of the first of these
 * to the base. */
enum { WAYS = 40, TIMES = 41 };
typedef struct {
    double *samples; /* [n[TEST],d] */
    double *ways;    /* [WAYS,TIMES,d] */
} shown;

static bool show(problem *p, const nn_theta *theta, ad_rng *rng, shown *out)
{
    const int64_t n = p->data->n[TEST], d = p->data->d;
    for (int64_t i = 0; i < n * d; i++) out->samples[i] = ad_rng_normal(rng);
    ad_tape *tape = ad_tape_new(AD_F32), *other = ad_tape_new(AD_F32);
    const ode_options tight = { .rtol = 1e-5, .atol = 1e-5 };
    ode_cnf flow = p->flow;
    flow.options = tight;
    ad_var w = nn_theta_param(tape, theta),
           z = ad_input_rows(tape, AD_SHAPE(AD_ROWS, d), n, out->samples);
    bool fine = ad_get(ode_cnf_sample(&flow, z, AD_VARS(w)), out->samples) == 0;
    if (!fine) example_failed("samples", ad_tape_error(tape));
    ad_tape_free(tape);
    w = nn_theta_param(other, theta);
    ad_var x = ad_input_rows(other, AD_SHAPE(AD_ROWS, d), WAYS, p->data->rows[TEST]);
    ad_var ways = ode_solve(field, p, x, AD_VARS(w), ode_linspace(other, 0, 1, TIMES), &tight);
    if (fine && ad_get(ways, out->ways)) {
        example_failed("ways", ad_tape_error(other));
        fine = false;
    }
    ad_tape_free(other);
    return fine;
}

typedef struct {
    int64_t steps, batch, width, seed, threads;
    double rate, tolerance;
} settings;

/* Trains one variant on one split; out may be NULL. */
static bool learn(const variant *v, const split *data, const settings *s, shown *out, outcome *o)
{
    problem p = { .variant = v, .data = data, .best_choice = INFINITY };
    ad_rng rng = ad_rng_seed((uint64_t)s->seed);
    char error[512];
    /* The Laplacian of Phi costs width^2 d operations, the trace of F width^2. */
    if (!build(&p, v->potential ? s->width / 2 : s->width, s->tolerance)) {
        example_failed("model", nn_model_error(p.model));
        return false;
    }
    nn_theta *theta = nn_theta_new(p.model, AD_F32, &rng);
    p.average = nn_theta_copy(theta);
    p.best = nn_theta_copy(theta);
    p.every = s->steps < 50 ? 1 : 25;
    p.choices = ad_tape_new(AD_F32);
    p.choice_theta = nn_theta_param(p.choices, theta);
    p.choice = record_nll(&p, p.choices, p.choice_theta, 1e-4, NULL, CHOICE);
    /* A small last layer: the flow begins near the identity. */
    if (!v->potential) {
        const nn_linear *last = &p.network.layer[p.network.nlayer - 1].linear;
        float *weight = nn_theta_f32(theta, NULL) + last->weight;
        for (int64_t i = 0; i < last->in * last->out; i++) weight[i] *= 0.1f;
    }
    const nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, data->d), data->rows[TRAIN]),
                                nn_array_drawn(AD_SHAPE(AD_ROWS, data->d)) };
    const nn_train_options options = {
        .processes = example_processes(),
        .loss = loss,
        .user = &p,
        .narray = 2,
        .arrays = arrays,
        .examples = data->n[TRAIN],
        .draw = draw,
        .batch = s->batch,
        .steps = s->steps,
        .optimizer = { .rate = s->rate, .clip_norm = 5, .schedule = nn_schedule_cosine },
        .seed = (uint64_t)s->seed,
        .threads = (int)s->threads,
        .label = v->name,
        .on_step = choose
    };
    nn_train_report report;
    bool fine = nn_train(theta, &options, &report, error, sizeof error) == 0;
    if (!fine) example_failed("training", error);
    if (fine && report.steps < s->steps) {
        example_failed("choice of weights", ad_tape_error(p.choices));
        fine = false;
    }
    if (fine) {
        o->parameters = nn_model_parameters(p.model);
        o->seconds = report.seconds;
        o->evaluations = (double)p.evaluations / (double)s->steps;
        fine = measure(&p, p.best, o) && (!out || show(&p, p.best, &rng, out));
    }
    ad_tape_free(p.choices);
    nn_theta_free(theta);
    nn_theta_free(p.average);
    nn_theta_free(p.best);
    nn_model_free(p.model);
    ode_stats_clear(&p.stats);
    return fine;
}

/* ---- plain baselines --------------------------------------------------------------------------
 */

/* The mean log-density of the held-out rows under a mixture that is fitted to all others. Each row
 * begins at the component of the nearest of the first rows, one for each component. */
static bool fit_gaussians(const split *s, int components, double *mean)
{
    const int64_t n = s->n[CHOICE] + s->n[TRAIN];
    const bool many = components > 1;
    mixture m;
    double *log_p = malloc((size_t)s->n[TEST] * sizeof *log_p),
           *begin = malloc((size_t)n * sizeof *begin);
    for (int64_t i = 0; begin && i < n; i++) {
        const double *row = s->rows[CHOICE] + i * s->d;
        double least = INFINITY;
        for (int c = 0; c < components; c++) {
            double distance = 0;
            for (int64_t k = 0; k < s->d; k++)
                distance += pow(row[k] - s->rows[CHOICE][c * s->d + k], 2);
            if (distance < least) begin[i] = c;
            least = fmin(least, distance);
        }
    }
    bool fine = log_p && begin &&
                mixture_fit(&m, components, many ? 0.05 : 0, many ? 50 : 0, n, s->d,
                            s->rows[CHOICE], begin) &&
                mixture_log_density(&m, s->n[TEST], s->rows[TEST], log_p);
    *mean = 0;
    for (int64_t i = 0; fine && i < s->n[TEST]; i++) *mean += log_p[i] / (double)s->n[TEST];
    mixture_clear(&m);
    free(log_p);
    free(begin);
    return fine;
}

/* ---- output ---------------------------------------------------------------------------------- */

static bool write_points(const char *directory, const char *name, int64_t n, int64_t d,
                         const double *rows)
{
    FILE *f = example_file(directory, name);
    if (!f) return false;
    for (int64_t i = 0; i < n * d; i++) fprintf(f, "%.6g%s", rows[i], i % d == d - 1 ? "\n" : " ");
    return fclose(f) == 0;
}

/* Time and the columns along each way; a blank line after each. */
static bool write_ways(const char *directory, const char *name, int64_t d, const double *ways)
{
    FILE *f = example_file(directory, name);
    if (!f) return false;
    for (int64_t i = 0; i < WAYS * TIMES; i++) {
        const double t = (double)(i % TIMES) / (TIMES - 1);
        fprintf(f, "%.4g", t);
        for (int64_t k = 0; k < d; k++) fprintf(f, " %.6g", ways[i * d + k]);
        fprintf(f, i % TIMES == TIMES - 1 ? "\n\n" : "\n");
    }
    return fclose(f) == 0;
}

/* The columns of the picture: two of the table, numbers from 1. */
typedef struct {
    int x, y;
} columns;

static void write_picture(const char *directory, const char *title, columns c)
{
    FILE *f = example_file(directory, "ffjord.gp");
    if (!f) return;
    fprintf(f,
            "set terminal pngcairo size 1000,900 font 'sans,11'\nset output 'ffjord.png'\n"
            "set multiplot layout 2,2\nunset key\nset tics scale 0.5\n"
            "set xlabel 'column %d'\nset ylabel 'column %d'\nset xrange [-3:4]\nset yrange "
            "[-3:4]\n"
            "set title '%s: held-out rows'\n"
            "plot 'ffjord_data.dat' using %d:%d with points pt 7 ps 0.4 lc rgb '#446688'\n"
            "set title 'samples of the flow (RNODE)'\n"
            "plot 'ffjord_samples.dat' using %d:%d with points pt 7 ps 0.4 lc rgb '#884422'\n"
            "set xlabel 't'\nset xrange [0:1]\n",
            c.x, c.y, title, c.x, c.y, c.x, c.y);
    static const char *const names[2] = { "free", "RNODE" };
    for (int k = 0; k < 2; k++)
        fprintf(f,
                "set title 'ways from the data to the base: %s'\n"
                "plot 'ffjord_%s.dat' using 1:%d with lines lc rgb '#60446688'\n",
                names[k], names[k], c.y + 1);
    fclose(f);
    example_picture(directory, "ffjord");
}

/* Mean and deviation over the folds. */
typedef struct {
    double sum, squares;
} figure;

static void add(figure *f, double value)
{
    f->sum += value;
    f->squares += value * value;
}

static void print_line(const char *name, const figure *f, int64_t folds, const outcome *sum)
{
    const double n = (double)folds, mean = f->sum / n;
    printf("%-22s %9.3f", name, mean);
    if (folds > 1) printf(" +- %5.3f", sqrt(fmax(f->squares / n - mean * mean, 0) / (n - 1)));
    if (sum)
        printf(" %10lld %12.1f %12.1f %8.1f %12.1e", (long long)sum->parameters,
               sum->evaluations / n, sum->evaluations_after / n, sum->seconds / n, sum->round_trip);
    printf("\n");
}

int main(int argc, char **argv)
{
    settings s = { 1500, 256, 128, 1, 0, 5e-3, 1e-3 };
    int64_t folds = 1;
    const char *data = NULL, *name = "wine", *directory = "out";
    bool quick = false;
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &data,
          "folder of winequality-red.csv and magic04.data (UCI); else a table is made" },
        { "table", EXAMPLE_TEXT, &name, "of the folder: wine or magic" },
        { "folds", EXAMPLE_INTEGER, &folds, "so many tenths are held out, one after the other" },
        { "steps", EXAMPLE_INTEGER, &s.steps, "updates by Adam" },
        { "batch", EXAMPLE_INTEGER, &s.batch, "rows an update" },
        { "width", EXAMPLE_INTEGER, &s.width, "of the hidden layers (of Phi: half of it)" },
        { "rate", EXAMPLE_NUMBER, &s.rate, "learning rate at the start; it falls along a cosine" },
        { "tolerance", EXAMPLE_NUMBER, &s.tolerance, "of the solver in training" },
        { "seed", EXAMPLE_INTEGER, &s.seed, "of everything that is drawn" },
        { "threads", EXAMPLE_INTEGER, &s.threads, "0: all cores" },
        { "quick", EXAMPLE_FLAG, &quick, "small networks, trained for seconds" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(
        argc, argv, "Learns the density of a table by continuous normalizing flows.", options);
    if (done) return done - 1;
    if (folds < 1 || folds > FOLDS) return example_failed("--folds", "must be between 1 and 10");
    if (strcmp(name, "wine") && strcmp(name, "magic"))
        return example_failed("--table", "is wine or magic");
    if (s.steps < 1 || s.width < 2) return example_failed("--steps, --width", "are too small");
    if (!example_directory(directory)) return 1;
    if (quick) {
        s.steps = 300;
        s.width = 32;
    }
    table t = { 0 };
    ad_rng rng = ad_rng_seed((uint64_t)s.seed);
    if (!(data ? table_read(data, name, &t) : table_make(&rng, &t))) return 1;
    if (data) printf("data: %s (UCI)\n", name);
    else printf("data: a stand-in, made by this program (--data reads real tables)\n");
    printf("%lld rows of %lld numbers, %lld tenths held out in turn; %lld updates of %lld rows\n",
           (long long)t.n, (long long)t.d, (long long)folds, (long long)s.steps,
           (long long)s.batch);
    fflush(stdout);
    table_shuffle(&rng, &t);

    figure gaussian = { 0 }, ten = { 0 }, truth = { 0 }, flows[VARIANTS] = { { 0 } };
    outcome sums[VARIANTS] = { { 0 } };
    for (int64_t fold = 0; fold < folds; fold++) {
        split part;
        double mean;
        if (!table_split(&t, fold, &part)) return example_failed("memory", NULL);
        if (!fit_gaussians(&part, 1, &mean)) return 1;
        add(&gaussian, mean);
        if (!fit_gaussians(&part, 10, &mean)) return 1;
        add(&ten, mean);
        add(&truth, t.truth + part.log_scale);
        shown out = { malloc((size_t)(part.n[TEST] * t.d) * sizeof(double)),
                      malloc((size_t)(WAYS * TIMES * t.d) * sizeof(double)) };
        if (!out.samples || !out.ways) return example_failed("memory", NULL);
        for (int v = 0; v < VARIANTS; v++) {
            outcome o = { 0 };
            const bool drawn = fold == 0 && (v == FREE || v == RNODE);
            if (!learn(&variants[v], &part, &s, drawn ? &out : NULL, &o)) return 1;
            add(&flows[v], -o.held_out);
            sums[v].parameters = o.parameters;
            sums[v].evaluations += o.evaluations;
            sums[v].evaluations_after += o.evaluations_after;
            sums[v].seconds += o.seconds;
            sums[v].round_trip = fmax(sums[v].round_trip, o.round_trip);
            if (drawn && !write_ways(directory, v == FREE ? "ffjord_free.dat" : "ffjord_RNODE.dat",
                                     t.d, out.ways))
                return 1;
        }
        if (fold == 0 &&
            (!write_points(directory, "ffjord_data.dat", part.n[TEST], t.d, part.rows[TEST]) ||
             !write_points(directory, "ffjord_samples.dat", part.n[TEST], t.d, out.samples)))
            return 1;
        free(out.samples);
        free(out.ways);
        free(part.rows[TEST]);
    }
    printf("mean log-density of the held-out rows (nats, standardised); evaluations of the field a "
           "solve in training\nand at 1e-5; seconds of training; largest error of encoding and "
           "decoding held-out rows\n%-22s %9s%s %10s %12s %12s %8s %12s\n",
           "", "log p", folds > 1 ? "         " : "", "parameters", "in training", "at 1e-5",
           "seconds", "round trip");
    print_line("a Gaussian", &gaussian, folds, NULL);
    print_line("ten Gaussians", &ten, folds, NULL);
    for (int v = 0; v < VARIANTS; v++) print_line(variants[v].name, &flows[v], folds, &sums[v]);
    if (!data) print_line("the true density", &truth, folds, NULL);
    const columns c =
        data ? strcmp(name, "wine") ? (columns){ 4, 9 } : (columns){ 6, 7 } : (columns){ 1, 2 };
    write_picture(directory, data ? name : "stand-in", c);
    free(t.rows);
    return 0;
}
