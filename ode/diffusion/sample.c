/* Sampling: an opaque operation that runs the program of a step as often as there are steps. */
#include "ode/diffusion/sampler.h"
#include "ode/noise/noise.h"
#include <math.h>
#include <stdatomic.h>
#include <string.h>

/* Kinds of runs, each with a program; what a sample does not need has none. */
typedef enum { RUN_STEP, RUN_CORRECT, RUN_AGAIN, RUN_FINISH, RUNS } run_kind;
/* Inputs of all programs: times, state, carried, fresh noise; then arguments, known, mask. */
enum { FROM, TO, BEFORE, STAGE, X = STAGE + ODE_SAMPLER_STAGES, CARRIED, NOISE, PLACED, FIRST };

typedef struct {
    atomic_int references;
    ode_sampling options; /* complete; its variables are not used any more */
    ad_dtype dtype;
    ad_shape shape;
    int noperand; /* arguments, known, mask */
    bool masked;
    double *times; /* [steps + 1], then stages [steps, ODE_SAMPLER_STAGES] */
    double prior;
    ad_program *program[RUNS];
} sampling;

/* ---- the programs ---- */

typedef struct {
    ode_sampler_step step;
    ad_var placed, known, mask;
} recording;

/* Where the mask is 1, what is known takes the place of x, at time t. */
static ad_var replace(const recording *r, ad_var t, bool noisy, ad_var x)
{
    if (!r->mask.tape) return x;
    ad_var alpha, sigma, known = r->known;
    r->step.model->process->kernel(t, r->step.model->process->parameter, &alpha, &sigma);
    if (noisy) known = ad_add(ad_mul(alpha, known), ad_mul(sigma, r->placed));
    return ad_add(ad_mul(r->mask, known), ad_mul(ad_shift(ad_neg(r->mask), 1), x));
}

/* From less noise at `to` back to more at `from`: x_from given x_to. */
static ad_var noise_again(const ode_sampler_step *s)
{
    ode_kernel a = ode_kernel_at(s->model->process, s->from),
               b = ode_kernel_at(s->model->process, s->to);
    ad_var ratio = ad_div(a.alpha, b.alpha);
    ad_var rest = ad_sub(ad_square(a.sigma), ad_square(ad_mul(ratio, b.sigma)));
    return ad_add(ad_mul(ratio, s->x), ad_mul(ad_sqrt(rest), s->noise));
}

static ad_var record(const recording *r, run_kind kind, ad_var *carried)
{
    const ode_sampler_step *s = &r->step;
    const ode_sampler *sampler = s->options->sampler;
    *carried = s->carried;
    switch (kind) {
    case RUN_STEP: return replace(r, s->to, true, sampler->step ? sampler->step(s, carried) : s->x);
    case RUN_CORRECT: return replace(r, s->to, true, sampler->correct(s));
    case RUN_AGAIN: return noise_again(s);
    default:
        return replace(r, s->to, false,
                       s->options->denoise ? ode_model_pair(s->model, s->to, s->x, s->args).data
                                           : s->x);
    }
}

static bool needed(const ode_sampling *o, bool masked, run_kind kind)
{
    switch (kind) {
    case RUN_STEP: return o->sampler->step || masked;
    case RUN_CORRECT: return o->sampler->correct && o->corrections > 0;
    case RUN_AGAIN: return o->resample > 1;
    default: return o->denoise || masked;
    }
}

/* Records the programs on a tape of their own. */
static bool compile(sampling *p, const ode_diffusion *model, ad_tape *target, int nargs,
                    const ad_var *operand)
{
    ad_tape *tape = ad_tape_new(p->dtype);
    ad_var in[FIRST + 64 + 2], out[2];
    if (!tape) return false;
    ad_tape_set_traced(tape, "a sampler records the network once and replays it: a network cannot "
                             "look at values");
    for (int i = 0; i < X; i++) in[i] = ad_input(tape, AD_SHAPE(1, 1), NULL);
    for (int i = X; i < FIRST; i++) in[i] = ad_input_rows(tape, p->shape, 0, NULL);
    for (int i = 0; i < p->noperand; i++) {
        ad_shape s = ad_shape_of(operand[i]);
        in[FIRST + i] = ad_has_rows(s) ? ad_input_rows(tape, s, 0, NULL) : ad_param(tape, s, NULL);
    }
    recording r = { .step = { .model = model,
                              .options = &p->options,
                              .args = in + FIRST,
                              .x = in[X],
                              .from = in[FROM],
                              .to = in[TO],
                              .before = in[BEFORE],
                              .carried = in[CARRIED],
                              .noise = in[NOISE] },
                    .placed = in[PLACED] };
    for (int i = 0; i < ODE_SAMPLER_STAGES; i++) r.step.stage[i] = in[STAGE + i];
    if (p->masked) {
        r.known = in[FIRST + nargs];
        r.mask = in[FIRST + nargs + 1];
    }
    for (int kind = 0; kind < RUNS && !ad_tape_error(tape); kind++) {
        if (!needed(&p->options, p->masked, kind)) continue;
        out[0] = record(&r, kind, &out[1]);
        p->program[kind] = ad_compile(FIRST + p->noperand, in, 2, out);
    }
    const char *error = ad_tape_error(tape);
    if (error) ad_fail(target, "ode_diffusion_sample: %s", error);
    ad_tape_free(tape);
    return !error;
}

/* ---- times ---- */

/* The times of these lambdas, between the model's ends, by bisection. */
static int times_of(const ode_diffusion *m, int64_t n, const double *lambda, double *t)
{
    double *work = malloc((size_t)n * 4 * sizeof *work);
    double *low = work, *high = work + n, *alpha = work + 2 * n, *sigma = work + 3 * n;
    for (int64_t i = 0; work && i < n; i++) {
        low[i] = m->t_min;
        high[i] = m->t_max;
    }
    int failed = !work;
    for (int round = 0; round < 60 && !failed; round++) {
        for (int64_t i = 0; i < n; i++) t[i] = low[i] + (high[i] - low[i]) / 2;
        failed = ode_model_numbers(m->process, n, t, alpha, sigma);
        for (int64_t i = 0; i < n && !failed; i++)
            *(log(alpha[i] / sigma[i]) > lambda[i] ? &low[i] : &high[i]) = t[i];
    }
    free(work);
    return failed;
}

static bool choose_times(sampling *p, const ode_diffusion *m, ad_tape *tape)
{
    const ode_sampling *o = &p->options;
    int64_t n = o->steps, stages = n * ODE_SAMPLER_STAGES;
    p->times = malloc((size_t)(n + 1 + stages) * sizeof *p->times);
    double *lambda = malloc((size_t)(n + 1 + stages) * sizeof *lambda), alpha[2], sigma[2];
    double *work = malloc((size_t)(n + 1) * 2 * sizeof *work);
    bool fine = p->times && lambda && work &&
                !ode_model_numbers(m->process, 2, (double[]){ m->t_max, m->t_min }, alpha, sigma);
    if (fine && !(alpha[0] > 1e-12)) {
        ad_fail(tape,
                "ode_diffusion_sample: nothing is left of the data at t = %g, where samplers would "
                "divide by alpha = 0; take a smaller t_max, or ode_diffusion_decode",
                m->t_max);
        fine = false;
    }
    bool by_lambda =
        o->spacing == ODE_SPACING_LOG_SNR || (o->spacing == ODE_SPACING_OWN && o->sampler->log_snr);
    for (int64_t i = 0; fine && i <= n; i++) {
        double part = (double)i / (double)n;
        p->times[i] = m->t_max + (m->t_min - m->t_max) * part;
        lambda[i] = log(alpha[0] / sigma[0]) * (1 - part) + log(alpha[1] / sigma[1]) * part;
    }
    if (fine && by_lambda) fine = !times_of(m, n + 1, lambda, p->times);
    if (fine) {
        p->prior = sigma[0];
        p->times[0] = m->t_max;
        p->times[n] = m->t_min;
        fine = !ode_model_numbers(m->process, n + 1, p->times, work, work + n + 1);
    }
    for (int64_t i = 0; fine && i < n; i++)
        for (int k = 0; k < ODE_SAMPLER_STAGES; k++) {
            double a = log(work[i] / work[n + 1 + i]), b = log(work[i + 1] / work[n + 2 + i]);
            lambda[i * ODE_SAMPLER_STAGES + k] = a + (b - a) * o->sampler->part[k];
        }
    if (fine) fine = !times_of(m, stages, lambda, p->times + n + 1);
    free(lambda);
    free(work);
    return fine;
}

/* ---- running ---- */

typedef struct {
    ad_workspace *workspace[RUNS];
    ode_noise *noise;
    void *buffer;
    size_t size;
} running;

static void *state_new(void *data)
{
    (void)data;
    return calloc(1, sizeof(running));
}

static void state_free(void *state)
{
    running *s = state;
    for (int i = 0; i < RUNS; i++) ad_workspace_free(s->workspace[i]);
    ode_noise_close(s->noise);
    free(s->buffer);
    free(s);
}

static void retain(void *data) { atomic_fetch_add(&((sampling *)data)->references, 1); }

static void release(void *data)
{
    sampling *p = data;
    if (atomic_fetch_sub(&p->references, 1) > 1) return;
    for (int i = 0; i < RUNS; i++) ad_program_free(p->program[i]);
    free(p->times);
    free(p);
}

/* One evaluation: arrays, and where it is. */
typedef struct {
    const sampling *p;
    running *s;
    const ad_opaque_call *call;
    const void *in[FIRST + 64 + 2];
    char *array[6]; /* x and carried, twice; fresh noise, twice */
    double time[X];
    char cell[X][sizeof(double)];
    int64_t draws, elements;
    int now; /* which x and carried are the latest */
} evaluation;

static int fail(const ad_opaque_call *call, const char *text)
{
    snprintf(call->error, call->error_size, "%s", text);
    return -1;
}

static double element(const evaluation *e, int64_t i)
{
    const char *x = e->array[e->now];
    return e->p->dtype == AD_F64 ? ((const double *)x)[i] : ((const float *)x)[i];
}

static void set_time(evaluation *e, int which, double t)
{
    if (e->p->dtype == AD_F64) memcpy(e->cell[which], &t, sizeof t);
    else memcpy(e->cell[which], &(float){ (float)t }, sizeof(float));
    e->time[which] = t;
}

/* Runs a program on x; what is not finite is an error. */
static int run(evaluation *e, run_kind kind)
{
    const sampling *p = e->p;
    const ad_opaque_call *call = e->call;
    if (!p->program[kind]) return 0;
    if (!e->s->workspace[kind])
        e->s->workspace[kind] = ad_workspace_new(p->program[kind], call->threads);
    if (!e->s->workspace[kind]) return fail(call, "out of memory");
    bool fresh = kind != RUN_STEP || p->options.sampler->fresh || p->options.eta > 0;
    for (int k = 0; k < 2; k++) {
        void *out = e->array[4 + k];
        if (!(k == 0 ? fresh : p->masked && kind != RUN_AGAIN) || kind == RUN_FINISH) continue;
        double a = (double)e->draws++;
        if (ode_noise_step(e->s->noise, a, a + 1, &out, call->error, call->error_size)) return -1;
    }
    int next = 1 - e->now;
    e->in[X] = e->array[e->now];
    e->in[CARRIED] = e->array[2 + e->now];
    void *out[2] = { e->array[next], e->array[2 + next] };
    if (ad_run(p->program[kind], e->s->workspace[kind], call->rows, e->in, out)) {
        snprintf(call->error, call->error_size, "t = %g to %g: %s", e->time[FROM], e->time[TO],
                 ad_workspace_error(e->s->workspace[kind]));
        return -1;
    }
    e->now = next;
    double sum = 0;
    for (int64_t i = 0; i < e->elements; i++) sum += element(e, i) * 0;
    if (sum == 0) return 0;
    int64_t bad = 0, d = ad_row_size(p->shape);
    while (bad + 1 < e->elements && isfinite(element(e, bad))) bad++;
    snprintf(call->error, call->error_size,
             "the sample is not finite after the step from t = %g to %g: row %lld, component %lld",
             e->time[FROM], e->time[TO], (long long)(bad / d), (long long)(bad % d));
    return -1;
}

/* Fresh noise of a sample: most draws that there can be. */
static int64_t most_draws(const ode_sampling *o)
{
    return 2 * o->steps * o->resample * (2 + o->corrections) + 2;
}

static int step(evaluation *e, int64_t i)
{
    const sampling *p = e->p;
    const ode_sampling *o = &p->options;
    const double *t = p->times, *stage = t + o->steps + 1 + i * ODE_SAMPLER_STAGES;
    set_time(e, FROM, t[i]);
    set_time(e, TO, t[i + 1]);
    for (int k = 0; k < ODE_SAMPLER_STAGES; k++) set_time(e, STAGE + k, stage[k]);
    for (int again = 0; again < o->resample; again++) {
        set_time(e, BEFORE, i && !again ? t[i - 1] : t[i]);
        if (again && run(e, RUN_AGAIN)) return -1;
        if (run(e, RUN_STEP)) return -1;
        for (int k = 0; k < o->corrections; k++)
            if (run(e, RUN_CORRECT)) return -1;
    }
    return 0;
}

static int forward(void *data, void *state, const ad_opaque_call *call)
{
    const sampling *p = data;
    running *s = state;
    evaluation e = { .p = p, .s = s, .call = call, .elements = ad_count(p->shape, call->rows) };
    size_t bytes = p->dtype == AD_F64 ? sizeof(double) : sizeof(float);
    size_t size = (size_t)e.elements * bytes;
    if (s->size < 6 * size) {
        free(s->buffer);
        s->size = 6 * size;
        s->buffer = malloc(s->size);
        if (!s->buffer) s->size = 0;
        if (!s->buffer) return fail(call, "out of memory");
    }
    memset(s->buffer, 0, 6 * size);
    for (int i = 0; i < 6; i++) e.array[i] = (char *)s->buffer + (size_t)i * size;
    for (int i = 0; i < X; i++) e.in[i] = e.cell[i];
    e.in[NOISE] = e.array[4];
    e.in[PLACED] = e.array[5];
    for (int i = 0; i < p->noperand; i++) e.in[FIRST + i] = call->in[1 + i];
    const ode_noise_settings settings = { .seed = p->options.seed,
                                          .dtype = p->dtype,
                                          .rows = call->rows,
                                          .m = ad_row_size(p->shape),
                                          .groups = 1,
                                          .t1 = (double)most_draws(&p->options),
                                          .cells = most_draws(&p->options),
                                          .threads = call->threads };
    if (ode_noise_open(&s->noise, &settings, call->error, call->error_size)) return -1;
    for (int64_t i = 0; i < e.elements; i++) {
        if (p->dtype == AD_F64)
            ((double *)e.array[0])[i] = p->prior * ((const double *)call->in[0])[i];
        else ((float *)e.array[0])[i] = (float)p->prior * ((const float *)call->in[0])[i];
    }
    for (int64_t i = 0; i < p->options.steps; i++)
        if (step(&e, i)) return -1;
    if (run(&e, RUN_FINISH)) return -1;
    memcpy(call->out[0], e.array[e.now], size);
    return 0;
}

/* ---- recording ---- */

static bool complain(ad_tape *tape, const char *text)
{
    ad_fail(tape, "ode_diffusion_sample: %s", text);
    return false;
}

static ode_sampling complete(const ode_sampling *options)
{
    ode_sampling o = { 0 };
    if (options) o = *options;
    if (!o.sampler) o.sampler = &ode_dpm_pp_2m;
    if (!o.steps) o.steps = 20;
    if (!o.corrections) o.corrections = o.sampler->corrections;
    if (o.ratio == 0) o.ratio = o.sampler->ratio;
    if (!o.resample) o.resample = 1;
    return o;
}

int64_t ode_sampling_evaluations(const ode_sampling *options)
{
    ode_sampling o = complete(options);
    return o.steps * o.resample * (o.sampler->evaluations + o.corrections) + o.denoise;
}

static bool check(const ode_sampling *o, ad_var z)
{
    ad_tape *tape = z.tape;
    if (o->steps < 1 || o->steps > 1000000)
        return complain(tape, "options.steps must be from 1 to a million");
    if ((int)o->spacing < 0 || o->spacing >= ODE_SPACINGS)
        return complain(tape, "options.spacing is none of ode_spacing");
    if (!(o->eta >= 0 && o->eta <= 1)) return complain(tape, "options.eta must be from 0 to 1");
    if (o->eta > 0 && !o->sampler->takes_eta)
        return complain(tape, "options.eta is for ode_ddim alone");
    if (o->corrections < 0 || o->corrections > 10000)
        return complain(tape, "options.corrections must be from 0 to 10000");
    if (o->corrections && !o->sampler->correct)
        return complain(tape, "options.corrections are for ode_predictor_corrector and "
                              "ode_annealed_langevin");
    if (!(o->ratio >= 0 && isfinite(o->ratio)))
        return complain(tape, "options.ratio must not be negative");
    if (o->resample < 1 || o->resample > 10000)
        return complain(tape, "options.resample must be from 1 to 10000");
    if (!o->mask.tape != !o->known.tape)
        return complain(tape, "options.known and options.mask must both be given, or neither");
    if (!o->mask.tape && o->resample > 1)
        return complain(tape, "options.resample is for inpainting: it needs known and mask");
    ad_shape want = ad_shape_of(z), row = AD_SHAPE(want.dim[1]);
    const ad_var two[2] = { o->known, o->mask };
    for (int i = 0; o->mask.tape && i < 2; i++) {
        if (two[i].tape != tape || !ad_valid(two[i]) ||
            (!ad_same_shape(ad_shape_of(two[i]), want) && !ad_same_shape(ad_shape_of(two[i]), row)))
            return complain(tape, "options.known and options.mask must be variables of z's tape "
                                  "with shape [rows,d] or [d]");
    }
    return true;
}

static const ad_opaque_class class_ = { .name = "ode_diffusion_sample",
                                        .forward = forward,
                                        .state_new = state_new,
                                        .state_free = state_free,
                                        .retain = retain,
                                        .release = release };

ad_var ode_diffusion_sample(const ode_diffusion *model, ad_var z, int nargs, const ad_var *args,
                            const ode_sampling *options)
{
    static const char caller[] = "ode_diffusion_sample";
    ad_var x = ad_none(z.tape), operand[1 + 64 + 2];
    ode_diffusion m;
    ode_sampling o = complete(options);
    if (!ode_model_complete(model, caller, z.tape, &m) || !ode_model_points(caller, "z", NULL, z) ||
        !check(&o, z))
        return x;
    if (nargs < 0 || nargs > 64 || (nargs && !args)) {
        complain(z.tape, "there may be 0 to 64 arguments, and args may be NULL only without any");
        return x;
    }
    operand[0] = z;
    for (int i = 0; i < nargs; i++) operand[1 + i] = args[i];
    bool masked = o.mask.tape != NULL;
    operand[1 + nargs] = o.known;
    operand[2 + nargs] = o.mask;
    int noperand = nargs + (masked ? 2 : 0);
    for (int i = 0; i < nargs; i++) {
        if (args[i].tape == z.tape && ad_valid(args[i])) continue;
        ad_fail(z.tape, "%s: argument %d is not a valid variable of z's tape", caller, i);
        return x;
    }
    sampling *p = calloc(1, sizeof *p);
    if (p) {
        atomic_init(&p->references, 1);
        p->options = o;
        p->dtype = ad_tape_dtype(z.tape);
        p->shape = ad_shape_of(z);
        p->noperand = noperand;
        p->masked = masked;
    }
    if (!p || !choose_times(p, &m, z.tape) || !compile(p, &m, z.tape, nargs, operand + 1)) {
        if (!ad_tape_error(z.tape)) complain(z.tape, "out of memory");
        if (p) release(p);
        return x;
    }
    ad_shape shape = p->shape;
    ad_opaque(z.tape, &class_, p, 1 + noperand, operand, 1, &shape, &x);
    return x;
}
