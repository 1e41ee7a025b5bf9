/* A forecast of daily weather four months ahead: temperature, humidity, wind and pressure of Delhi.
 *
 * Nobody knows the weather of a day in four months. What can be known is the season, and that an
 * unusual year stays unusual for a while. So the equation relaxes to a cycle that is learned, less
 * or more an anomaly that fades slowly:
 *
 *   x' = r (season(t) + a - x) + network(x - season, a, season's phase),    a' = -l a
 *   x(0) = the last day,   a(0) = s (mean of the last 60 days less their season)
 *
 * for the four series x and their anomalies a. season(t) = sums of two harmonics of the year. All
 * numbers are learned on stretches that begin on every day of the years for training; the horizon
 * grows from two weeks to 114 days in stages of one training. Several networks from different seeds
 * are averaged.
 *
 * It is asked for 114 days from the end of the years for training, and, day after day, for the next
 * week. Plain baselines: the last day; the mean of the same day of the year in the years before;
 * the two harmonics by least squares; those with the mean anomaly of the last 60 days, or with the
 * last day's anomaly fading. */
#include "costate.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    SERIES = 4,
    HARMONICS = 2,
    FEATURES = 1 + 2 * HARMONICS,
    DAYS = 114,
    HISTORY = 60,
    WEEK = 7,
    WEEKS = DAYS - WEEK + 1
};
static const double pi = 3.14159265358979323846;
static const char *const series_name[] = { "temperature", "humidity", "wind", "pressure" };
static const char *const unit[] = { "C", "%", "km/h", "hPa" };

/* Days one after the other. */
typedef struct {
    int64_t n, year;  /* days; the year that is forecast */
    int64_t known;    /* days before it */
    double first;     /* day, counted from 1970-01-01 */
    double *x, *mask; /* [n,SERIES]: standardised; 0 where a number is missing, else 1 */
    double mean[SERIES], sd[SERIES]; /* of the days before the year */
    double harmonics[FEATURES * SERIES];
} weather;

typedef struct {
    nn_model *model;
    nn_mlp network;
    int64_t days; /* horizon */
} problem;

/* ---- the equation ---------------------------------------------------------------------------- */

/* 1, and cosines and sines of the harmonics at days t [...,1]: [...,FEATURES]. */
static ad_var features(ad_var t)
{
    ad_var f[FEATURES] = { ad_ones_like(t) };
    for (int k = 1; k <= HARMONICS; k++) {
        ad_var turn = ad_scale(t, 2 * pi * k / 365.2425);
        f[2 * k - 1] = ad_cos(turn);
        f[2 * k] = ad_sin(turn);
    }
    return ad_concatenate(FEATURES, f, ad_shape_of(t).rank - 1);
}

static ad_var season(const problem *p, ad_var theta, ad_var phase)
{
    return ad_matmul(phase, nn_model_get(p->model, theta, "season"));
}

/* args: theta, the day of the start [rows,1]. y: x, a. */
static ad_var field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const problem *p = user;
    ad_var theta = args[0], phase = features(ad_add(t, args[1]));
    ad_var x = ad_slice(y, 1, 0, SERIES), a = ad_slice(y, 1, SERIES, 2 * SERIES);
    ad_var off = ad_sub(season(p, theta, phase), x);
    ad_var relaxed = ad_mul(ad_add(off, a), ad_exp(nn_model_get(p->model, theta, "rate")));
    ad_var rest = nn_mlp_apply(&p->network, theta, ad_concatenate(AD_VARS(off, a, phase), 1));
    ad_var faded = ad_mul(a, ad_exp(nn_model_get(p->model, theta, "fading")));
    return ad_concatenate(AD_VARS(ad_add(relaxed, rest), ad_neg(faded)), 1);
}

/* x on the days after the start, [rows,days,SERIES]. start: the last day, the mean of the last 60
 * days and of their features [rows,2 SERIES + FEATURES]. */
static ad_var forecast(problem *p, ad_var theta, ad_var start, ad_var day)
{
    ad_var part[3];
    ad_split(start, 1, 3, (const int64_t[]){ SERIES, SERIES, FEATURES }, part);
    ad_var unusual = ad_sub(part[1], season(p, theta, part[2]));
    ad_var a = ad_mul(unusual, nn_model_get(p->model, theta, "share"));
    ad_var y = ode_solve(field, p, ad_concatenate(AD_VARS(part[0], a), 1), AD_VARS(theta, day),
                         ode_linspace(theta.tape, 0, (double)p->days, (int)p->days + 1),
                         &(ode_options){ .method = &ode_rk4, .steps = 1 });
    return ad_slice(ad_slice(y, 1, 1, p->days + 1), 2, 0, SERIES);
}

/* ---- data ------------------------------------------------------------------------------------ */

static bool weather_new(weather *w, int64_t n)
{
    w->n = n;
    w->x = calloc((size_t)n, SERIES * sizeof *w->x);
    w->mask = calloc((size_t)n, SERIES * sizeof *w->mask);
    if (!w->x || !w->mask) example_failed("weather", NULL);
    return w->x && w->mask;
}

/* Days from 1970-01-01 to January 1 of a year. */
static int64_t new_year(int64_t year)
{
    const int64_t y = year - 1;
    return 365 * (year - 1970) + (y / 4 - 1969 / 4) - (y / 100 - 1969 / 100) +
           (y / 400 - 1969 / 400);
}

/* A number is missing where it cannot be: pressures of 7679 hPa are in the file. */
static void put(weather *w, const nn_table *table)
{
    for (int64_t r = 0; r < table->rows; r++) {
        const double *row = table->data + r * table->columns;
        const int64_t i = (int64_t)(row[0] - w->first);
        for (int k = 0; k < SERIES && i >= 0 && i < w->n; k++) {
            const bool fine = k < 3 || (row[1 + k] > 950 && row[1 + k] < 1050);
            if (!fine || w->mask[i * SERIES + k] != 0) continue;
            w->x[i * SERIES + k] = row[1 + k];
            w->mask[i * SERIES + k] = 1;
        }
    }
}

/* Both files as one series; the day that both have is as in the second. */
static bool read_weather(const char *folder, weather *w)
{
    static const char *const file[] = { "DailyDelhiClimateTrain.csv", "DailyDelhiClimateTest.csv" };
    const nn_csv_column date = { .name = "date", .kind = NN_DAYS };
    nn_table table[2] = { 0 };
    char path[4096], error[512];
    bool fine = true;
    for (int k = 0; fine && k < 2; k++) {
        snprintf(path, sizeof path, "%s/%s", folder, file[k]);
        fine = nn_read_csv(path, &(nn_csv_options){ .ncolumn = 1, .columns = &date }, &table[k],
                           error, sizeof error) == 0;
        if (!fine) example_failed("weather", error);
        else if (table[k].columns != 1 + SERIES) {
            example_failed(path, "has other columns than date and four series");
            fine = false;
        }
    }
    if (fine) {
        w->first = table[0].data[0];
        const double last = table[1].data[(table[1].rows - 1) * table[1].columns];
        fine = last > w->first && weather_new(w, (int64_t)(last - w->first) + 1);
        if (last <= w->first) example_failed(folder, "the test file ends before the other begins");
    }
    for (int k = 2; fine && k-- > 0;) put(w, &table[k]);
    nn_table_clear(&table[0]);
    nn_table_clear(&table[1]);
    return fine;
}

/* A stand-in: a cycle, an anomaly that fades within 100 days, and weather of a few days. */
static bool make_weather(ad_rng *rng, weather *w)
{
    double slow[SERIES] = { 0 }, fast[SERIES] = { 0 };
    w->first = (double)new_year(2013);
    if (!weather_new(w, new_year(2017) - new_year(2013) + DAYS)) return false;
    for (int64_t i = 0; i < w->n; i++)
        for (int k = 0; k < SERIES; k++) {
            const double turn = 2 * pi * ((double)i / 365.2425 + 0.1 * k);
            slow[k] += -slow[k] / 100 + 0.05 * ad_rng_normal(rng);
            fast[k] += -fast[k] / 3 + 0.3 * ad_rng_normal(rng);
            w->x[i * SERIES + k] = sin(turn) + 0.3 * cos(2 * turn) + slow[k] + fast[k];
            w->mask[i * SERIES + k] = 1;
        }
    return true;
}

/* Means and deviations are those of the days before the year. A missing number is the mean. */
static bool standardise(weather *w, int64_t year)
{
    w->year = year;
    w->known = new_year(year) - (int64_t)w->first;
    if (w->known < 2 * 365 || w->known + DAYS > w->n) {
        example_failed("--year", "there are not two years of days before it, or not 114 in it");
        return false;
    }
    for (int k = 0; k < SERIES; k++) {
        double n = 0, sum = 0, square = 0;
        for (int64_t i = k; i < w->known * SERIES; i += SERIES) {
            n += w->mask[i];
            sum += w->mask[i] * w->x[i];
            square += w->mask[i] * w->x[i] * w->x[i];
        }
        w->mean[k] = sum / n;
        w->sd[k] = sqrt(square / n - w->mean[k] * w->mean[k]);
        for (int64_t i = k; i < w->n * SERIES; i += SERIES)
            w->x[i] = w->mask[i] * (w->x[i] - w->mean[k]) / w->sd[k];
    }
    return true;
}

static void features_of(double day, double *f)
{
    f[0] = 1;
    for (int k = 1; k <= HARMONICS; k++) {
        f[2 * k - 1] = cos(2 * pi * k * day / 365.2425);
        f[2 * k] = sin(2 * pi * k * day / 365.2425);
    }
}

/* What a forecast after day i starts from, [2 SERIES + FEATURES]. */
static void start_of(const weather *w, int64_t i, double *start)
{
    memcpy(start, w->x + i * SERIES, SERIES * sizeof *start);
    memset(start + SERIES, 0, (SERIES + FEATURES) * sizeof *start);
    for (int64_t k = i - HISTORY + 1; k <= i; k++) {
        double f[FEATURES];
        features_of(w->first + (double)k, f);
        for (int s = 0; s < SERIES; s++) start[SERIES + s] += w->x[k * SERIES + s] / HISTORY;
        for (int s = 0; s < FEATURES; s++) start[2 * SERIES + s] += f[s] / HISTORY;
    }
}

/* ---- training -------------------------------------------------------------------------------- */

/* batch: starts, their days, days that follow [rows,DAYS,SERIES], which are known. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    problem *p = user;
    (void)tape;
    return nn_weighted_mse(forecast(p, theta, batch[0], batch[1]),
                           ad_slice(batch[2], 1, 0, p->days), ad_slice(batch[3], 1, 0, p->days));
}

/* Of the season alone: batch: days, numbers, mask. */
static ad_var residuals(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return ad_mul(ad_sub(season(user, theta, features(batch[0])), batch[1]), batch[2]);
}

/* The two harmonics by least squares, which are linear: one step. */
static bool fit_season(const problem *p, weather *w)
{
    nn_theta *theta = nn_theta_new(p->model, AD_F64, NULL);
    double *day = malloc((size_t)w->known * sizeof *day);
    char error[512];
    for (int64_t i = 0; day && i < w->known; i++) day[i] = w->first + (double)i;
    const nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), day),
                                nn_array_of(AD_SHAPE(AD_ROWS, SERIES), w->x),
                                nn_array_of(AD_SHAPE(AD_ROWS, SERIES), w->mask) };
    const nn_fit_options options = {
        .loss = residuals, .user = (void *)p, .narray = 3, .arrays = arrays, .examples = w->known
    };
    const bool fine =
        day && nn_levenberg_marquardt(theta, &options, NULL, error, sizeof error) == 0;
    if (!fine) example_failed("season", day ? error : NULL);
    nn_theta_get(theta, "season", FEATURES * SERIES, w->harmonics);
    nn_theta_free(theta);
    free(day);
    return fine;
}

static bool build(problem *p, int64_t width)
{
    p->model = nn_model_new();
    nn_model_add(p->model, "season", AD_SHAPE(FEATURES, SERIES), nn_init_zeros, 1, 1);
    if (width == 0) return !nn_model_error(p->model);
    nn_model_add(p->model, "rate", AD_SHAPE(SERIES), nn_init_zeros, 1, 1);
    nn_model_add(p->model, "fading", AD_SHAPE(SERIES), nn_init_zeros, 1, 1);
    nn_model_add(p->model, "share", AD_SHAPE(SERIES), nn_init_zeros, 1, 1);
    p->network =
        nn_mlp_new(p->model, "network", 3, (int64_t[]){ 2 * SERIES + FEATURES, width, SERIES },
                   ad_tanh, nn_init_xavier_uniform);
    return !nn_model_error(p->model);
}

/* A network trained from a seed, with the season's harmonics as they were fitted; NULL after
 * explaining. */
static nn_theta *train(const problem *p, const weather *w, int64_t steps, double rate, double decay,
                       uint64_t seed)
{
    const int64_t rows = w->known - HISTORY - 14;
    double *start = malloc((size_t)rows * (2 * SERIES + FEATURES) * sizeof *start),
           *day = malloc((size_t)rows * sizeof *day),
           *after = calloc((size_t)rows, DAYS * SERIES * sizeof *after),
           *mask = calloc((size_t)rows, DAYS * SERIES * sizeof *mask);
    problem part[3];
    nn_stage stages[3];
    const int64_t grown[] = { 14, 45, DAYS };
    for (int k = 0; k < 3; k++) {
        part[k] = *p;
        part[k].days = grown[k];
        stages[k] = (nn_stage){ .steps = steps / 3, .user = &part[k] };
    }
    for (int64_t r = 0; start && day && after && mask && r < rows; r++) {
        const int64_t i = r + HISTORY - 1, left = w->known - i - 1, n = left < DAYS ? left : DAYS;
        start_of(w, i, start + r * (2 * SERIES + FEATURES));
        day[r] = w->first + (double)i;
        memcpy(after + r * DAYS * SERIES, w->x + (i + 1) * SERIES,
               (size_t)n * SERIES * sizeof *day);
        memcpy(mask + r * DAYS * SERIES, w->mask + (i + 1) * SERIES,
               (size_t)n * SERIES * sizeof *day);
    }
    const nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 2 * SERIES + FEATURES), start),
                                nn_array_of(AD_SHAPE(AD_ROWS, 1), day),
                                nn_array_of(AD_SHAPE(AD_ROWS, DAYS, SERIES), after),
                                nn_array_of(AD_SHAPE(AD_ROWS, DAYS, SERIES), mask) };
    const nn_train_options options = { .processes = example_processes(),
                                       .loss = loss,
                                       .narray = 4,
                                       .arrays = arrays,
                                       .examples = rows,
                                       .batch = 64,
                                       .nstage = 3,
                                       .stages = stages,
                                       .optimizer = { .algorithm = &nn_adamw,
                                                      .rate = rate,
                                                      .weight_decay = decay,
                                                      .clip_norm = 1,
                                                      .schedule = nn_schedule_cosine },
                                       .seed = seed,
                                       .label = "training" };
    ad_rng rng = ad_rng_seed(seed);
    nn_theta *theta = nn_theta_new(p->model, AD_F64, &rng);
    nn_theta_set(theta, "season", FEATURES * SERIES, w->harmonics);
    nn_theta_init(theta, "rate", nn_init_zeros, 1, log(0.3), &rng);
    nn_theta_init(theta, "fading", nn_init_zeros, 1, -log(60), &rng);
    nn_theta_init(theta, "share", nn_init_zeros, 1, 0.7, &rng);
    nn_theta_init(theta, "network.1.weight", nn_init_xavier_uniform, 0.1, 0, &rng);
    char error[512] = "out of memory";
    const bool fine =
        start && day && after && mask && nn_train(theta, &options, NULL, error, sizeof error) == 0;
    free(start);
    free(day);
    free(after);
    free(mask);
    if (fine) return theta;
    example_failed("training", error);
    nn_theta_free(theta);
    return NULL;
}

/* Forecasts of `days` days each after `rows` days one after the other, the first of them the last
 * one before the year: adds share times them to out [rows,days,SERIES]. */
static bool predict(problem *p, const weather *w, const nn_theta *theta, int64_t rows, double share,
                    double *out)
{
    const int64_t each = p->days * SERIES;
    double *start = malloc((size_t)rows * (2 * SERIES + FEATURES) * sizeof *start),
           *day = malloc((size_t)rows * sizeof *day),
           *y = malloc((size_t)(rows * each) * sizeof *y);
    ad_tape *tape = ad_tape_new(AD_F64);
    for (int64_t r = 0; start && day && y && r < rows; r++) {
        start_of(w, w->known - 1 + r, start + r * (2 * SERIES + FEATURES));
        day[r] = w->first + (double)(w->known - 1 + r);
    }
    bool fine = start && day && y;
    if (fine) {
        ad_var s = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2 * SERIES + FEATURES), rows, start),
               t = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), rows, day);
        fine = ad_get(forecast(p, nn_theta_param(tape, theta), s, t), y) == 0;
    }
    if (!fine) example_failed("forecast", ad_tape_error(tape));
    for (int64_t i = 0; fine && i < rows * each; i++) out[i] += share * y[i];
    ad_tape_free(tape);
    free(start);
    free(day);
    free(y);
    return fine;
}

/* ---- plain baselines ------------------------------------------------------------------------- */

/* What series k is `ahead` days after day i. */
typedef double (*baseline)(const weather *w, int64_t i, int64_t ahead, int k);

static double last_day(const weather *w, int64_t i, int64_t ahead, int k)
{
    (void)ahead;
    return w->x[i * SERIES + k];
}

/* The mean of the same day of the year in the years before. */
static double same_day(const weather *w, int64_t i, int64_t ahead, int k)
{
    const int64_t of_year = i + ahead - w->known;
    double sum = 0, n = 0;
    for (int64_t year = w->year - 1; new_year(year) >= (int64_t)w->first; year--) {
        const int64_t at = (new_year(year) - (int64_t)w->first + of_year) * SERIES + k;
        sum += w->mask[at] * w->x[at];
        n += w->mask[at];
    }
    return n > 0 ? sum / n : 0;
}

static double harmonics_at(const weather *w, int64_t i, int k)
{
    double f[FEATURES], sum = 0;
    features_of(w->first + (double)i, f);
    for (int j = 0; j < FEATURES; j++) sum += f[j] * w->harmonics[j * SERIES + k];
    return sum;
}

static double two_harmonics(const weather *w, int64_t i, int64_t ahead, int k)
{
    return harmonics_at(w, i + ahead, k);
}

static double unusual_days(const weather *w, int64_t i, int64_t ahead, int k)
{
    double unusual = 0;
    for (int64_t j = i - HISTORY + 1; j <= i; j++)
        unusual += (w->x[j * SERIES + k] - harmonics_at(w, j, k)) / HISTORY;
    return harmonics_at(w, i + ahead, k) + unusual;
}

/* The anomaly of the last day fades as its correlation from day to day says. */
static double autoregression(const weather *w, int64_t i, int64_t ahead, int k)
{
    double together = 0, square = 0, before = 0, now = 0;
    for (int64_t j = 0; j < w->known; j++) {
        now = w->mask[j * SERIES + k] * (w->x[j * SERIES + k] - harmonics_at(w, j, k));
        together += now * before;
        square += now * now;
        before = now;
    }
    now = w->mask[i * SERIES + k] * (w->x[i * SERIES + k] - harmonics_at(w, i, k));
    return harmonics_at(w, i + ahead, k) + now * pow(together / square, (double)ahead);
}

static const struct {
    const char *name;
    baseline forecast;
} plain[] = { { "the last day", last_day },
              { "the same day of other years", same_day },
              { "two harmonics", two_harmonics },
              { "harmonics, mean of 60 days", unusual_days },
              { "harmonics, autoregression", autoregression } };
enum { PLAIN = sizeof plain / sizeof *plain };

/* Root mean square errors in the series' units, of the neural ODE's forecasts [rows,days,SERIES]
 * and of plain ones. */
static void compare(const weather *w, int64_t rows, int64_t days, const double *ours)
{
    printf("%-30s", "");
    for (int k = 0; k < SERIES; k++) printf(" %11s", series_name[k]);
    printf("\n%-30s", "");
    for (int k = 0; k < SERIES; k++) printf(" %11s", unit[k]);
    for (int b = 0; b <= PLAIN; b++) {
        printf("\n%-30s", b < PLAIN ? plain[b].name : "neural ODE");
        for (int k = 0; k < SERIES; k++) {
            double n = 0, sum = 0;
            for (int64_t r = 0; r < rows; r++)
                for (int64_t d = 0; d < days; d++) {
                    const int64_t from = w->known - 1 + r, at = (from + d + 1) * SERIES + k;
                    const double said = b < PLAIN ? plain[b].forecast(w, from, d + 1, k)
                                                  : ours[(r * days + d) * SERIES + k];
                    sum += w->mask[at] * (said - w->x[at]) * (said - w->x[at]);
                    n += w->mask[at];
                }
            printf(" %11.3f", w->sd[k] * sqrt(sum / n));
        }
    }
    printf("\n");
}

static void write_picture(const char *directory, const weather *w, const double *ours)
{
    FILE *f = example_file(directory, "climate.dat");
    for (int64_t i = -120; f && i < DAYS; i++) {
        fprintf(f, "%lld", (long long)i + 1);
        for (int k = 0; k < SERIES; k++) {
            const int64_t at = (w->known + i) * SERIES + k;
            const double value[] = { w->mask[at] > 0 ? w->x[at] : NAN,
                                     i < 0 ? NAN : ours[i * SERIES + k],
                                     i < 0 ? NAN : same_day(w, w->known - 1, i + 1, k) };
            for (int c = 0; c < 3; c++) fprintf(f, " %.6g", w->mean[k] + w->sd[k] * value[c]);
        }
        fprintf(f, "\n");
    }
    if (f) fclose(f);
    f = example_file(directory, "climate.gp");
    if (!f) return;
    fprintf(f,
            "set terminal pngcairo size 1000,640 font 'sans,11'\nset output 'climate.png'\n"
            "set multiplot layout 2,2\nset tics scale 0.5\nset grid lc rgb '#dddddd'\n"
            "set xlabel 'day of %lld'\nset xrange [-120:%d]\nunset key\n",
            (long long)w->year, DAYS);
    for (int k = 0; k < SERIES; k++)
        fprintf(f,
                "set title '%s (%s)'\n%s"
                "plot 'climate.dat' using 1:%d with points pt 7 ps 0.3 lc rgb '#888888' title "
                "'measured', \\\n"
                "     '' using 1:%d with lines lc rgb '#88aa44' title 'same day of other years', "
                "\\\n"
                "     '' using 1:%d with lines lw 2 lc rgb '#d62728' title 'neural ODE'\n",
                series_name[k], unit[k], k == 1 ? "set key bottom left\n" : "unset key\n",
                2 + 3 * k, 4 + 3 * k, 3 + 3 * k);
    fclose(f);
    example_picture(directory, "climate");
}

int main(int argc, char **argv)
{
    int64_t steps = 900, seeds = 5, width = 8, year = 2017;
    double rate = 2e-3, decay = 0.1;
    const char *data = NULL, *directory = "out";
    bool quick = false;
    static weather w;
    static double ours[DAYS * SERIES], weekly[WEEKS * WEEK * SERIES];
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &data,
          "folder of DailyDelhiClimateTrain.csv and DailyDelhiClimateTest.csv" },
        { "year", EXAMPLE_INTEGER, &year, "forecast its first 114 days from the years before" },
        { "steps", EXAMPLE_INTEGER, &steps, "updates by AdamW" },
        { "seeds", EXAMPLE_INTEGER, &seeds, "networks that are averaged" },
        { "width", EXAMPLE_INTEGER, &width, "of the hidden layer" },
        { "rate", EXAMPLE_NUMBER, &rate, "learning rate at the start; it falls along a cosine" },
        { "decay", EXAMPLE_NUMBER, &decay, "of the weights" },
        { "quick", EXAMPLE_FLAG, &quick, "one small network, trained for seconds" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(argc, argv, "Forecasts four months of weather.", options);
    if (done) return done - 1;
    if (width < 1 || seeds < 1) return example_failed("--width, --seeds", "must be at least 1");
    if (!example_directory(directory)) return 1;
    if (quick) {
        steps = 90;
        seeds = 1;
    }
    ad_rng rng = ad_rng_seed(1);
    if (!(data ? read_weather(data, &w) : make_weather(&rng, &w)) || !standardise(&w, year))
        return 1;
    if (!data) printf("data: a stand-in, weather made by this program (--data reads Delhi's)\n");
    problem cycle = { 0 }, p = { .days = DAYS };
    if (!build(&cycle, 0) || !build(&p, width))
        return example_failed("model", p.model ? nn_model_error(p.model) : NULL);
    if (!fit_season(&cycle, &w)) return 1;
    problem week = p;
    week.days = WEEK;
    for (int64_t seed = 1; seed <= seeds; seed++) {
        nn_theta *theta = train(&p, &w, steps, rate, decay, (uint64_t)seed);
        if (!theta || !predict(&p, &w, theta, 1, 1 / (double)seeds, ours) ||
            !predict(&week, &w, theta, WEEKS, 1 / (double)seeds, weekly))
            return 1;
        nn_theta_free(theta);
    }
    printf("the first %d days of %lld, from %lld days before: root mean square errors\n", DAYS,
           (long long)year, (long long)w.known);
    compare(&w, 1, DAYS, ours);
    printf("the week after each of these days: root mean square errors\n");
    compare(&w, WEEKS, WEEK, weekly);
    write_picture(directory, &w, ours);
    nn_model_free(cycle.model);
    nn_model_free(p.model);
    free(w.x);
    free(w.mask);
    return 0;
}
