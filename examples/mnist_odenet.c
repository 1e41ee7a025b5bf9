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
 * The solver chooses how many evaluations of F a batch needs. The program shows what the paper's
 * figure 3 shows: this number as training goes on, what it does to the error of the solution, and
 * what the gradient takes by the discrete adjoint and by solving back in time. Most of the training
 * takes one step of the classical Runge-Kutta method for the whole solve, which is four
 * evaluations; the last epochs have steps that the solver chooses, as all tests have.
 *
 * Each update sees every digit anew: moved, turned, slanted and scaled a little. The weights that
 * are used are an average over the last updates. The plain baseline is a linear classifier. */
#include "costate.h"
#include "example.h"
#include "odenet.h"
#include <string.h>

static const char *const names[ODENET_KINDS] = { "linear", "ResNet", "ODE-Net" };

typedef struct {
    double error, seconds, processor; /* seconds of an epoch; of the processors */
    int64_t parameters;
} outcome;

/* Trains the network and looks at the digits for testing, which choose nothing, after each epoch:
 * epoch, loss, error, evaluations of F in a solve at 1e-3, and in training. */
static bool learn(const odenet *n, const odenet_settings *s, odenet_data *data, nn_theta *theta,
                  FILE *history, outcome *o)
{
    const int64_t epoch = (data->ntrain + s->batch - 1) / s->batch;
    const int64_t adaptive = n->kind == ODENET_ODE ? s->adaptive : 0;
    ode_stats stats = { 0 }, exact_stats = { 0 };
    odenet_use rough = { n, 0.1, { .method = &ode_rk4, .steps = 1, .stats = &stats } };
    odenet_use fine = { n, 0.1, { .rtol = s->tolerance, .atol = s->tolerance, .stats = &stats } };
    odenet_use exact = { n, 0, { .rtol = 1e-3, .atol = 1e-3, .stats = &exact_stats } };
    const nn_stage stages[] = { { .steps = (s->epochs - adaptive) * epoch, .user = &rough },
                                { .steps = adaptive * epoch, .user = &fine } };
    nn_train_options options = odenet_training(s, data, &exact, epoch);
    options.processes = example_processes();
    options.nstage = adaptive ? 2 : 1;
    options.stages = stages;
    options.optimizer = (nn_optimizer_options){ .algorithm = &nn_adamw,
                                                .rate = s->rate,
                                                .schedule = nn_schedule_one_cycle };
    options.average = 0.998;
    options.label = names[n->kind];
    const double start = odenet_processor_seconds();
    double sum = 0, evaluations = 0;
    nn_trainer *trainer = nn_trainer_new(theta, &options);
    const nn_train_report *report = nn_trainer_report(trainer);
    int result;
    while ((result = nn_trainer_step(trainer)) > 0) {
        sum += report->last_loss / (double)epoch;
        evaluations += (double)stats.evaluations / (double)epoch;
        if (report->steps % epoch) continue;
        fprintf(history, "%lld %.6g %.6g %lld %.3g\n", (long long)(report->steps / epoch), sum,
                100 * report->validation.metrics[0], (long long)exact_stats.evaluations,
                evaluations);
        fflush(history);
        sum = evaluations = 0;
    }
    if (result) example_failed("training", nn_trainer_error(trainer));
    else
        *o = (outcome){ .error = report->validation.metrics[0],
                        .seconds = report->seconds / (double)s->epochs,
                        .processor = (odenet_processor_seconds() - start) / (double)s->epochs,
                        .parameters = nn_model_parameters(n->model) };
    nn_trainer_free(trainer);
    ode_stats_clear(&stats);
    ode_stats_clear(&exact_stats);
    return result == 0;
}

static void write_picture(const char *directory)
{
    FILE *f = example_file(directory, "mnist_odenet.gp");
    if (!f) return;
    fputs("set terminal pngcairo size 1000,760 font 'sans,11'\nset output 'mnist_odenet.png'\n"
          "set multiplot layout 2,2\nset tics scale 0.5\nset xlabel 'epoch'\n"
          "set title 'test error, %'\nset logscale y\n"
          "plot 'mnist_odenet_ODE-Net.dat' using 1:3 with linespoints pt 7 lc rgb '#884422' title "
          "'ODE-Net', 'mnist_odenet_ResNet.dat' using 1:3 with linespoints pt 5 lc rgb '#446688' "
          "title 'ResNet'\n"
          "unset logscale\nset yrange [0:*]\nset key left center\n"
          "set title 'evaluations of F in a solve'\n"
          "plot 'mnist_odenet_ODE-Net.dat' using 1:4 with linespoints pt 7 lc rgb '#884422' title "
          "'testing, at 1e-3', '' using 1:5 with linespoints pt 5 lc rgb '#446688' title "
          "'training'\n"
          "set xlabel 'evaluations of F in a solve'\nset xrange [0:*]\nset yrange [*:*]\n"
          "set logscale y\nset format y '10^{%L}'\nunset key\n"
          "set title 'relative error of the solution, at 1e-1 to 1e-5'\n"
          "plot 'mnist_odenet_solves.dat' using 3:2 with linespoints pt 7 lc rgb '#884422'\n"
          "unset logscale\nunset format\nset key top left\nset yrange [0:*]\n"
          "set title 'evaluations and products for the gradient'\n"
          "plot 'mnist_odenet_solves.dat' using 3:4 with linespoints pt 7 lc rgb '#884422' title "
          "'discrete adjoint', '' using 3:5 with linespoints pt 5 lc rgb '#446688' title "
          "'solving back'\n",
          f);
    fclose(f);
    example_picture(directory, "mnist_odenet");
}

/* Trains the network, writes its history and its weights; of the ODE-Net, what its solver does
 * then. */
static bool train(const odenet *n, const odenet_settings *s, odenet_data *data, nn_theta *theta,
                  const char *directory, outcome *o)
{
    char file[64], path[4096], error[512];
    snprintf(file, sizeof file, "mnist_odenet_%s.dat", names[n->kind]);
    FILE *history = example_file(directory, file);
    bool fine = history && learn(n, s, data, theta, history, o);
    if (history) fclose(history);
    if (fine && n->kind == ODENET_ODE) {
        FILE *f = example_file(directory, "mnist_odenet_solves.dat");
        fine = f && odenet_compare(n, theta, &data->all, f);
        if (f) fclose(f);
    }
    snprintf(path, sizeof path, "%s/mnist_odenet_%s.safetensors", directory, names[n->kind]);
    if (fine && nn_save(path, theta, error, sizeof error)) fine = !example_failed("weights", error);
    return fine;
}

static bool study(odenet_kind kind, odenet_data *data, int64_t channels, const odenet_settings *s,
                  const char *directory, outcome *o)
{
    odenet n = {
        .kind = kind, .side = data->all.side, .levels = data->all.levels, .channels = channels
    };
    ad_rng rng = ad_rng_seed((uint64_t)s->seed);
    odenet_build(&n);
    if (nn_model_error(n.model)) return !example_failed("model", nn_model_error(n.model));
    nn_theta *theta = nn_theta_new(n.model, AD_F32, &rng);
    data->bend = kind == ODENET_LINEAR ? 0 : s->bend;
    const bool fine = s->timed > 0 || s->until > 0 ? odenet_time_updates(&n, s, data, theta)
                                                   : train(&n, s, data, theta, directory, o);
    nn_theta_free(theta);
    nn_model_free(n.model);
    return fine;
}

int main(int argc, char **argv)
{
    odenet_settings s = {
        .epochs = 6, .adaptive = 1, .seed = 1, .rate = 3e-3, .bend = 0.7, .tolerance = 1e-2
    };
    int64_t channels = 64;
    const char *data = NULL, *directory = "out", *only = NULL;
    bool quick = false;
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &data,
          "folder that has MNIST's files in mnist; else digits are drawn" },
        { "only", EXAMPLE_TEXT, &only, "one of linear, ResNet, ODE-Net; else all" },
        { "epochs", EXAMPLE_INTEGER, &s.epochs, "passes over the digits for training" },
        { "adaptive", EXAMPLE_INTEGER, &s.adaptive,
          "the last so many of them with steps that the solver chooses; before, one step of rk4" },
        { "tolerance", EXAMPLE_NUMBER, &s.tolerance, "of the solver in these epochs" },
        { "batch", EXAMPLE_INTEGER, &s.batch,
          "digits an update; 0: 128 of MNIST, 32 of the stand-in" },
        { "channels", EXAMPLE_INTEGER, &channels, "of the state, a multiple of 4" },
        { "rate", EXAMPLE_NUMBER, &s.rate, "largest learning rate, of one cycle" },
        { "bend", EXAMPLE_NUMBER, &s.bend, "how much digits are moved in training; 0: not at all" },
        { "seed", EXAMPLE_INTEGER, &s.seed, "of everything that is drawn" },
        { "threads", EXAMPLE_INTEGER, &s.threads, "0: all cores" },
        { "time", EXAMPLE_INTEGER, &s.timed, "only times so many updates of the ODE-Net" },
        { "until", EXAMPLE_NUMBER, &s.until,
          "only times updates until so many per cent of the digits for testing are wrong" },
        { "quick", EXAMPLE_FLAG, &quick, "small networks, trained for seconds" },
        { "out", EXAMPLE_TEXT, &directory,
          "directory of the picture, the weights and the numbers" },
        { 0 }
    };
    int done =
        example_options(argc, argv, "Classifies handwritten digits with an ODE-Net.", options);
    if (done) return done - 1;
    if (quick) {
        s.epochs = 8;
        s.adaptive = 2;
        channels = 16;
    }
    if (s.batch == 0) s.batch = data ? 128 : 32;
    if (s.epochs < 1 || s.batch < 1 || s.adaptive < 0 || s.adaptive >= s.epochs)
        return example_failed("--epochs, --adaptive", "at least one epoch is of fixed steps");
    if (channels < 4 || channels % 4) return example_failed("--channels", "is a multiple of 4");
    int known = !only;
    for (int k = 0; k < ODENET_KINDS; k++) known |= only && !strcmp(only, names[k]);
    if (!known) return example_failed("--only", "is none of linear, ResNet, ODE-Net");
    if (!example_directory(directory)) return 1;
    digit_set digits = { 0 }, test = { 0 };
    odenet_data sets = { 0 };
    char folder[4096];
    ad_rng rng = ad_rng_seed((uint64_t)s.seed);
    snprintf(folder, sizeof folder, "%s/mnist", data ? data : "");
    if (!(data ? digits_read(folder, &digits, &test)
               : digits_draw(&rng, 3000, 2, &digits) && digits_draw(&rng, 1000, 2, &test)))
        return 1;
    if (!data) printf("data: a stand-in, digits drawn by this program (--data reads MNIST)\n");
    if (!odenet_data_new(&sets, &digits, &test)) return 1;
    if (sets.ntrain < ODENET_COMPARED) return example_failed("data", "there are too few digits");
    printf("%lld digits for training, %lld for testing, %dx%d pixels; %lld epochs\n",
           (long long)sets.ntrain, (long long)(sets.all.n - sets.ntrain), sets.all.side,
           sets.all.side, (long long)s.epochs);
    fflush(stdout);
    if (s.timed > 0 || s.until > 0)
        return study(ODENET_ODE, &sets, channels, &s, directory, NULL) ? 0 : 1;
    for (int k = 0; k < ODENET_KINDS; k++) {
        outcome result = { 0 };
        if (only && strcmp(only, names[k])) continue;
        if (!study((odenet_kind)k, &sets, channels, &s, directory, &result)) return 1;
        printf("%-8s test error %5.2f %%, %7lld parameters, %6.1f s an epoch (%.1f of the "
               "processors)\n",
               names[k], 100 * result.error, (long long)result.parameters, result.seconds,
               result.processor);
        fflush(stdout);
    }
    if (!only) write_picture(directory);
    odenet_data_clear(&sets);
    return 0;
}
