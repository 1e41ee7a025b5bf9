/* Handwritten digits by an ODE-Net and by its twin, a residual network (Chen et al. 2018,
 * arXiv:1806.07366, section 3 and table 1).
 *
 * Both make an image [rows,S,S,1] a state [rows,s,s,64] by two convolutions with a stride of 2, and
 * read the class off the mean over the s x s places of what comes out of the middle:
 *
 *   ResNet      six blocks h <- h + G_k(h), each with weights of its own
 *   ODE-Net     dh/dt = F(h, t; w) from t = 0 to 1
 *
 * F and G_k are two convolutions 3x3 between group norms (Wu & He 2018, arXiv:1803.08494). In F the
 * time is one more channel of what is convolved; since that channel has the same value everywhere,
 * its share of the result is t times the convolution of ones, which depends on weights alone and is
 * computed once a solve.
 *
 * The solver chooses how many evaluations of F a batch needs, and the program shows what the paper's
 * figure 3 shows: how this number grows as training goes on, what it does to the error of the
 * solution, and what the gradient takes by the discrete adjoint and by solving back in time.
 *
 * Each update sees every digit anew: moved, turned, slanted and scaled a little. The weights that
 * are used are an average over the last updates. The plain baseline is a linear classifier. */
#include "costate.h"
#include "digits.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 6, TOLERANCES = 5, COMPARED = 256 };

typedef struct {
    const nn_model *model;
    int64_t channels, groups, scale, shift;
} norm;

typedef struct {
    norm first, second;
    nn_conv one, two;
} block;

typedef enum { LINEAR, RES_NET, ODE_NET, NETS } net;
static const char *const names[NETS] = { [LINEAR] = "linear", [RES_NET] = "ResNet", [ODE_NET] = "ODE-Net" };

typedef struct {
    net net;
    digit_set digits; /* for training, and behind them for testing */
    int64_t ntrain;
    int64_t channels;
    nn_model *model;
    nn_conv down[2];
    norm between, last;
    block res[BLOCKS], ode;
    nn_conv time[2]; /* of the channel that the time is */
    norm out;        /* of F */
    nn_linear linear;
    ode_options solver;
    ode_stats stats;
    double smoothing; /* of the labels */
    double bend;      /* how much the digits are moved */
} problem;

/* ---- the networks ---------------------------------------------------------------------------- */

static norm norm_new(nn_model *model, const char *name, int64_t channels)
{
    char full[64];
    norm n = { .model = model, .channels = channels, .groups = channels < 32 ? channels : 32 };
    snprintf(full, sizeof full, "%s.weight", name);
    n.scale = nn_model_add(model, full, AD_SHAPE(channels), nn_init_ones, 1, 1);
    snprintf(full, sizeof full, "%s.bias", name);
    n.shift = nn_model_add(model, full, AD_SHAPE(channels), nn_init_zeros, 1, 1);
    return n;
}

/* The mean over each group, for each of its channels: x [rows,h,w,channels] -> [rows,1,1,channels]. */
static ad_var group_mean(const norm *n, ad_var x)
{
    const int64_t c = n->channels, g = n->groups;
    ad_var mean = ad_mean(x, 2, (int[]){ 1, 2 }, false);
    mean = ad_mean(ad_reshape(mean, AD_SHAPE(AD_ROWS, g, c / g)), 1, (int[]){ 2 }, true);
    mean = ad_broadcast(mean, AD_SHAPE(AD_ROWS, g, c / g));
    return ad_reshape(mean, AD_SHAPE(AD_ROWS, 1, 1, c));
}

static ad_var norm_apply(const norm *n, ad_var theta, ad_var x)
{
    ad_var centred = ad_sub(x, group_mean(n, x));
    ad_var scale = ad_pow_scalar(ad_shift(group_mean(n, ad_square(centred)), 1e-5), -0.5);
    scale = ad_mul(scale, ad_slice(theta, 0, n->scale, n->scale + n->channels));
    return ad_add(ad_mul(centred, scale), ad_slice(theta, 0, n->shift, n->shift + n->channels));
}

static nn_conv conv_new(nn_model *model, const char *name, int64_t in, int64_t out, bool unbiased)
{
    const nn_conv_options same = { .sweep = { .before = { 1, 1 }, .after = { 1, 1 } },
                                   .unbiased = unbiased };
    return nn_conv2d_new(model, name, in, out, 3, 3, &same);
}

static block block_new(nn_model *model, const char *name, int64_t channels, bool unbiased)
{
    char part[4][64];
    static const char *const parts[4] = { "norm1", "conv1", "norm2", "conv2" };
    for (int i = 0; i < 4; i++) snprintf(part[i], sizeof part[i], "%s.%s", name, parts[i]);
    return (block){ .first = norm_new(model, part[0], channels),
                    .one = conv_new(model, part[1], channels, channels, unbiased),
                    .second = norm_new(model, part[2], channels),
                    .two = conv_new(model, part[3], channels, channels, unbiased) };
}

static void build(problem *p)
{
    const nn_conv_options stride = { .sweep = { .stride = { 2, 2 } } };
    nn_model *m = p->model = nn_model_new();
    const int64_t c = p->channels;
    if (p->net == LINEAR) {
        p->linear = nn_linear_new(m, "linear", p->digits.pixels, DIGITS, NULL);
        return;
    }
    p->down[0] = nn_conv2d_new(m, "down.0", 1, c, 4, 4, &stride);
    p->between = norm_new(m, "down.norm", c);
    p->down[1] = nn_conv2d_new(m, "down.1", c, c, 3, 3, &stride);
    for (int i = 0; p->net == RES_NET && i < BLOCKS; i++) {
        char name[32];
        snprintf(name, sizeof name, "block.%d", i);
        p->res[i] = block_new(m, name, c, true);
    }
    if (p->net == ODE_NET) {
        p->ode = block_new(m, "field", c, false);
        p->time[0] = conv_new(m, "field.time1", 1, c, true);
        p->time[1] = conv_new(m, "field.time2", 1, c, true);
        p->out = norm_new(m, "field.norm3", c);
    }
    p->last = norm_new(m, "norm", c);
    p->linear = nn_linear_new(m, "linear", c, DIGITS, NULL);
}

/* t times what ones become: [1,s,s,channels]. */
static ad_var of_time(const nn_conv *c, ad_var theta, ad_var t, ad_shape state)
{
    ad_var ones = ad_fill(theta.tape, AD_SHAPE(state.dim[1], state.dim[2], 1), 1);
    return ad_mul(t, nn_conv_apply(c, theta, ones));
}

/* args[0] is theta. */
static ad_var field(ad_var t, ad_var h, const ad_var *args, void *user)
{
    const problem *p = user;
    const block *b = &p->ode;
    ad_var theta = args[0];
    ad_var x = ad_relu(norm_apply(&b->first, theta, h));
    x = ad_add(nn_conv_apply(&b->one, theta, x), of_time(&p->time[0], theta, t, ad_shape_of(h)));
    x = ad_relu(norm_apply(&b->second, theta, x));
    x = ad_add(nn_conv_apply(&b->two, theta, x), of_time(&p->time[1], theta, t, ad_shape_of(h)));
    return norm_apply(&p->out, theta, x);
}

static ad_var residual(const block *b, ad_var theta, ad_var h)
{
    ad_var x = nn_conv_apply(&b->one, theta, ad_relu(norm_apply(&b->first, theta, h)));
    return ad_add(h, nn_conv_apply(&b->two, theta, ad_relu(norm_apply(&b->second, theta, x))));
}

/* grey [rows,pixels], 0 .. levels - 1. */
static ad_var logits(const problem *p, ad_var theta, ad_var grey, const ode_options *solver)
{
    ad_var x = ad_scale(grey, 1.0 / (p->digits.levels - 1));
    if (p->net == LINEAR) return nn_linear_apply(&p->linear, theta, x);
    x = ad_reshape(x, AD_SHAPE(AD_ROWS, p->digits.side, p->digits.side, 1));
    ad_var h = nn_conv_apply(&p->down[0], theta, x);
    h = nn_conv_apply(&p->down[1], theta, ad_relu(norm_apply(&p->between, theta, h)));
    for (int i = 0; p->net == RES_NET && i < BLOCKS; i++) h = residual(&p->res[i], theta, h);
    if (p->net == ODE_NET)
        h = ode_solve_final(field, (void *)p, h, AD_VARS(theta), ode_interval(theta.tape, 0, 1),
                            solver);
    h = ad_mean(ad_relu(norm_apply(&p->last, theta, h)), 2, (int[]){ 1, 2 }, false);
    return nn_linear_apply(&p->linear, theta, h);
}

/* ---- training -------------------------------------------------------------------------------- */

/* batch: classes, greys. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    (void)tape;
    return nn_cross_entropy(logits(p, theta, batch[1], &p->solver),
                            nn_smooth_classes(batch[0], DIGITS, p->smoothing));
}

static int after(int64_t step, double value, nn_theta *theta, void *user)
{
    problem *p = user;
    (void)theta;
    if (step % 50 == 0)
        printf("%lld %.6g evals %lld steps %lld+%lld probes %lld vjps %lld stored %.1f MB\n", (long long)step, value,
            (long long)p->stats.evaluations, (long long)p->stats.steps, (long long)p->stats.rejected,
            (long long)p->stats.probe_evaluations, (long long)p->stats.vjps, p->stats.stored_bytes/1e6);
    return 0;
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    const problem *p = user;
    const int64_t n = p->digits.pixels;
    for (int64_t i = 0; i < step->rows; i++) {
        const double *grey = p->digits.grey + step->examples[i] * n;
        if (step->part == NN_TRAINING) digits_bend(&p->digits, step->rng, p->bend, grey, out[1] + i * n);
        else memcpy(out[1] + i * n, grey, (size_t)n * sizeof *grey);
    }
    return 0;
}

int main(int argc, char **argv)
{
    int64_t epochs = 1, batch = 128, seed = 1, threads = 0, which = ODE_NET, limit = 0;
    double rate = 3e-3, tolerance = 1e-2, fixed = 0;
    const char *data = NULL, *directory = "out", *method = "dopri5";
    bool quick = false;
    static problem p = { .bend = 1, .smoothing = 0.1, .channels = 64 };
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &data, "folder" },
        { "net", EXAMPLE_INTEGER, &which, "" },
        { "epochs", EXAMPLE_INTEGER, &epochs, "passes over the digits for training" },
        { "limit", EXAMPLE_INTEGER, &limit, "steps" },
        { "batch", EXAMPLE_INTEGER, &batch, "digits an update" },
        { "channels", EXAMPLE_INTEGER, &p.channels, "of the state" },
        { "rate", EXAMPLE_NUMBER, &rate, "largest learning rate" },
        { "bend", EXAMPLE_NUMBER, &p.bend, "how much digits are moved in training; 0: not at all" },
        { "tolerance", EXAMPLE_NUMBER, &tolerance, "of the solver in training" },
        { "fixed", EXAMPLE_NUMBER, &fixed, "fixed steps" },
        { "method", EXAMPLE_TEXT, &method, "" },
        { "seed", EXAMPLE_INTEGER, &seed, "of everything that is drawn" },
        { "threads", EXAMPLE_INTEGER, &threads, "0: all cores" },
        { "quick", EXAMPLE_FLAG, &quick, "a small network, trained for seconds" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(argc, argv, "Classifies handwritten digits with an ODE.", options);
    if (done) return done - 1;
    ad_rng rng = ad_rng_seed((uint64_t)seed);
    digit_set test;
    bool fine = digits_read(data, &p.digits, &test);
    if (!fine) return 1;
    p.net = (net)which;
    p.ntrain = p.digits.n;
    p.solver = (ode_options){ .rtol = tolerance, .atol = tolerance, .stats = &p.stats };
    if (fixed > 0) { p.solver.rtol = p.solver.atol = 0; p.solver.steps = (int64_t)fixed; }
    p.solver.method = ode_method_find(method);
    build(&p);
    nn_theta *theta = nn_theta_new(p.model, AD_F32, &rng);
    printf("%s: %lld parameters\n", names[p.net], (long long)nn_model_parameters(p.model));
    const nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), p.digits.digit),
                                nn_array_drawn(AD_SHAPE(AD_ROWS, p.digits.pixels)) };
    int64_t steps = epochs * (p.ntrain / batch);
    if (limit) steps = limit;
    const nn_train_options train = {
        .loss = loss,
        .user = &p,
        .narray = 2,
        .arrays = arrays,
        .examples = p.digits.n,
        .draw = draw,
        .worker = true,
        .batch = batch,
        .steps = steps,
        .optimizer = { .algorithm = &nn_adamw, .rate = rate, .schedule = nn_schedule_one_cycle },
        .seed = (uint64_t)seed,
        .threads = (int)threads,
        .on_step = after
    };
    nn_train_report report;
    char error[512];
    fine = nn_train(theta, &train, &report, error, sizeof error) == 0;
    if (!fine) return example_failed("training", error);
    printf("%lld steps, %.1f s, %.1f ms a step, %.0f images/s, loss %g, %s\n", (long long)steps, report.seconds, 1e3*report.seconds/(double)steps,(double)(steps*batch)/report.seconds, report.last_loss, report.warning);
    return 0;
}
