/* Steps that are too large for the cotangent that they carry (turning.h).
 *
 * Of the cotangent a, the change over a step, by its size, is a velocity. What changes slowly has
 * velocities that are about equal, what decays has one that shrinks; neither makes a large angle.
 * Along an oscillation of frequency w the velocities of two neighbouring steps differ by
 * 2 sin(w h / 2) of their size, h the distance of the steps' middles. Before there are two of them,
 * a itself is compared. From the angle of a step and the method's R follows what it does to an
 * oscillation. Errors of steps fade as the velocity over the size of a does: those along a mode
 * that has decayed do not count, nor when another mode has come up; where all of a decays they
 * stay.
 *
 * Of large batches some rows are looked at: their gradients have more often than not the same
 * faults, and all are one sum. */
#include "ode/adjoints/turning.h"
#include "ode/march/watch.h"
#include <complex.h>
#include <math.h>
#include <string.h>

/* So many rows and up to twice as many. */
enum { FEW_ROWS = 64 };
/* Up to this angle, of which the table has equal parts. */
static const double most_angle = 6.4;
/* Angles below it are not looked at: any method of an order above one holds them. */
static const double least_angle = 0.5;
/* A cotangent that grows more than by the first over a step that the error of the state allowed, is
 * more often in a mode that the method does not hold, unless it holds this growth within the
 * second.
 */
static const double most_growth = 2.7, well_held = 1e-5;
/* Part of the cotangent's size that still counts as its size a step on, of steps as they were
 * taken. */
static const double fading = 0.8;

/* What has been so many times as fast is still there: velocities vary where modes add up. */
static const double faded = 8;

/* Numbers of each row: the sum over steps of what is left of relative errors; the latest velocity,
 * and the largest over the size that still counts; the largest size that does. */
enum { R_SUM, R_LATEST, R_PEAK, R_ENVELOPE, R_NUMBERS };
enum { TURNING_ARRAYS = 3 };

static int64_t stride_of(int64_t rows) { return rows < 2 * FEW_ROWS ? 1 : rows / FEW_ROWS; }

static int list_arrays(ode_turning *t, const ode_system *s, int64_t nrows, ode_buffer_part *list)
{
    const int64_t stride = stride_of(nrows), rows = (nrows + stride - 1) / stride;
    list[0] = (ode_buffer_part){ &t->change, (size_t)(rows * s->width) * ode_bytes(s->dtype) };
    list[1] = (ode_buffer_part){ &t->by_row, R_NUMBERS * (size_t)rows * sizeof(double) };
    list[2] = (ode_buffer_part){ &t->at_largest, list[0].bytes };
    return TURNING_ARRAYS;
}

/* Given steps are as the user wants them. */
static bool applies(const ode_problem *p)
{
    const ode_settings *set = &p->settings;
    return set->adaptive && set->costate_drift < INFINITY && set->degree > 0 && p->system->trace &&
           !p->system->order;
}

void ode_turning_account(const ode_adjoint_plan *d, ad_opaque_account *a)
{
    ode_turning none = { 0 };
    ode_buffer_part list[TURNING_ARRAYS];
    if (applies(d->problem))
        ode_account_buffers(a, list_arrays(&none, d->problem->system, a->rows, list), list);
}

/* The growth in a step that says nothing: most_growth, or more where the method holds that well. */
static double largest_held(const ode_march *m)
{
    double growth = most_growth;
    while (ode_deviation(m, log(1.1 * growth)) < well_held) growth *= 1.1;
    return growth;
}

int ode_turning_open(ode_turning *t, const ode_adjoint_run *run)
{
    const ode_problem *p = run->plan->problem;
    const int64_t nrows = run->call->rows;
    ode_buffer_part list[TURNING_ARRAYS];
    t->system = NULL;
    if (run->searching || (run->call->refine && !run->halved) || !applies(p)) return 0;
    if (!ode_buffers_need(list_arrays(t, p->system, nrows, list), list))
        return ode_call_fail(run->call, "out of memory");
    t->system = p->system;
    t->stride = stride_of(nrows);
    t->rows = (nrows + t->stride - 1) / t->stride;
    t->known = 0;
    t->halved = run->halved;
    t->fading = run->halved ? sqrt(fading) : fading;
    t->largest = t->apart = 0;
    if (!run->halved) t->largest_at = NAN;
    memset(t->by_row.data, 0, list[1].bytes);
    memset(t->change.data, 0, list[0].bytes);
    for (int i = 0; !t->has_errors && i < ODE_TURNING_ANGLES; i++)
        t->error[i] = ode_deviation(&run->forward->march, I * most_angle * i / ODE_TURNING_ANGLES);
    if (!t->has_errors) t->held = largest_held(&run->forward->march);
    t->has_errors = true;
    return 0;
}

/* Sums of squares over a row, in double, as those of floats may overflow: of what came later and
 * earlier, of the change, of the one before, and of their difference as velocities. */
typedef struct {
    double later, earlier, change, before, difference;
} sums;

#define ADD(T)                                                                                     \
    do {                                                                                           \
        const T *l = later, *e = earlier;                                                          \
        T *last = change;                                                                          \
        const T part = (T)ratio;                                                                   \
        double sum[5] = { 0 };                                                                     \
        for (int64_t i = 0; i < n; i++) {                                                          \
            const T d = e[i] - l[i], b = last[i] * part, c = d - b;                                \
            last[i] = d;                                                                           \
            sum[0] += (double)l[i] * (double)l[i];                                                 \
            sum[1] += (double)e[i] * (double)e[i];                                                 \
            sum[2] += (double)d * (double)d;                                                       \
            sum[3] += (double)b * (double)b;                                                       \
            sum[4] += (double)c * (double)c;                                                       \
        }                                                                                          \
        s->later += sum[0];                                                                        \
        s->earlier += sum[1];                                                                      \
        s->change += sum[2];                                                                       \
        s->before += sum[3];                                                                       \
        s->difference += sum[4];                                                                   \
    } while (0)

static void add(ad_dtype dtype, int64_t n, double ratio, const void *later, const void *earlier,
                void *change, sums *s)
{
    if (dtype == AD_F32) ADD(float);
    else ADD(double);
}

/* The k-th row that is looked at: one of each `stride`, in no order that a batch may have. */
static int64_t row_of(const ode_turning *t, int64_t nrows, int64_t k)
{
    const int64_t first = k * t->stride, n = nrows - first < t->stride ? nrows - first : t->stride;
    return first + (int64_t)((uint64_t)(k + 1) * 0x9e3779b97f4a7c15 >> 33) % n;
}

/* The sums of the k-th row that is looked at, whose changes are kept. */
static sums sums_of_row(const ode_turning *t, int64_t nrows, int64_t k, double ratio,
                        const char *later, const char *earlier)
{
    const ode_system *s = t->system;
    const size_t one = ode_bytes(s->dtype);
    char *change = (char *)t->change.data + (size_t)(k * s->width) * one;
    sums x = { 0 };
    int64_t first = 0;
    const int64_t row = row_of(t, nrows, k);
    for (int j = 0; j < s->nstate; first += nrows * s->size[j++]) {
        const size_t at = (size_t)(first + row * s->size[j]) * one;
        add(s->dtype, s->size[j], ratio, later + at, earlier + at, change, &x);
        change += (size_t)s->size[j] * one;
    }
    return x;
}

/* Keeps the rows that are looked at where they are largest, `size` all together; or compares. */
static void look_at_largest(ode_turning *t, int64_t nrows, double time, const char *a, double size)
{
    const ode_system *s = t->system;
    const size_t one = ode_bytes(s->dtype);
    const bool here = t->halved ? time == t->largest_at : size >= t->largest;
    t->largest = fmax(t->largest, size);
    if (!here) return;
    double off = 0, all = 0;
    char *kept = t->at_largest.data;
    int64_t first = 0;
    for (int j = 0; j < s->nstate; first += nrows * s->size[j++])
        for (int64_t k = 0; k < t->rows; k++) {
            const char *row = a + (size_t)(first + row_of(t, nrows, k) * s->size[j]) * one;
            for (int64_t i = 0; t->halved && i < s->size[j]; i++) {
                const double x = ode_load(s->dtype, row, i), y = ode_load(s->dtype, kept, i);
                off += (x - y) * (x - y);
                all += y * y;
            }
            if (!t->halved) memcpy(kept, row, (size_t)s->size[j] * one);
            kept += (size_t)s->size[j] * one;
        }
    if (t->halved) t->apart = off > 0 ? sqrt(off / all) : 0;
    else t->largest_at = time;
}

/* The sum of squares of the k-th row that is looked at. */
static double square_of_row(const ode_turning *t, int64_t nrows, int64_t k, const void *a)
{
    const ode_system *s = t->system;
    const int64_t row = row_of(t, nrows, k);
    double sum = 0;
    int64_t first = 0;
    for (int j = 0; j < s->nstate; first += nrows * s->size[j++])
        for (int64_t i = 0; i < s->size[j]; i++) {
            const double x = ode_load(s->dtype, a, first + row * s->size[j] + i);
            sum += x * x;
        }
    return sum;
}

/* What a growth in a step says, by squares. */
static double error_of_growth(const ode_turning *t, double later, double earlier)
{
    const bool tells = later > 0 && earlier > t->held * t->held * later;
    return tells ? log(earlier / later) / 2 : 0;
}

static bool is_zero(const ode_turning *t, int64_t nrows, const void *a)
{
    for (int64_t k = 0; k < t->rows; k++)
        if (square_of_row(t, nrows, k, a) != 0) return false;
    return true;
}

static void pass_outputs(ode_turning *t, int64_t nrows, double from, const void *later,
                         const void *inside, const void *earlier)
{
    t->known = 0;
    double *sum = t->by_row.data, *envelope = sum + R_ENVELOPE * t->rows, later_all = 0, all = 0;
    for (int64_t k = 0; k < t->rows; k++) {
        const double before = sqrt(square_of_row(t, nrows, k, later)) +
                              sqrt(square_of_row(t, nrows, k, inside)),
                     after = square_of_row(t, nrows, k, earlier);
        later_all += before * before;
        all += after;
        envelope[k] = fmax(t->fading * fmax(envelope[k], before), sqrt(after));
        sum[k] += error_of_growth(t, before * before, after);
    }
    t->largest = t->fading * fmax(t->largest, sqrt(later_all));
    look_at_largest(t, nrows, from, earlier, sqrt(all));
}

/* The angle between two vectors of the same size that differ by so much of it. */
static double angle_of(double difference) { return 2 * asin(fmin(1, difference / 2)); }

/* About the relative error that a step makes of a row's cotangent of this size, from the angle by
 * which it turns and the change of it. */
static double error_of_turn(const ode_turning *t, double angle, double change, double size)
{
    if (!(angle > least_angle)) return 0;
    const int i = (int)fmin(ODE_TURNING_ANGLES - 1, ODE_TURNING_ANGLES * angle / most_angle);
    const double amplitude = change / (2 * sin(fmin(angle, M_PI) / 2));
    return t->error[i] * fmin(1, amplitude / size);
}

void ode_turning_pass(ode_turning *t, int64_t nrows, double from, double to, const void *later,
                      const void *inside, const void *earlier)
{
    if (!t->system) return;
    if (inside && !is_zero(t, nrows, inside)) {
        pass_outputs(t, nrows, from, later, inside, earlier);
        return;
    }
    const double h = to - from, now = fabs(h), then = fabs(t->h), ratio = t->known ? now / then : 0;
    double *sum = t->by_row.data, *latest = sum + t->rows, *peak = latest + t->rows,
           *envelope = peak + t->rows, later_all = 0, all = 0;
    for (int64_t k = 0; k < t->rows; k++) {
        const sums x = sums_of_row(t, nrows, k, ratio, later, earlier);
        const double size = sqrt(fmax(x.later, x.earlier)), change = sqrt(x.change),
                     before = latest[k], velocity = change / now, pace = velocity / size;
        later_all += x.later;
        all += x.earlier;
        envelope[k] = fmax(t->fading * fmax(envelope[k], sqrt(x.later)), sqrt(x.earlier));
        if (!isfinite(pace)) continue;
        const double left = faded * pace;
        if (left < peak[k]) sum[k] *= left / peak[k];
        peak[k] = fmax(pace, fmin(peak[k], left));
        latest[k] = velocity;
        if (!(change > 0)) continue;
        double error = error_of_growth(t, x.later, x.earlier);
        if (!t->known) {
            error += error_of_turn(t, angle_of(change / size), change, size);
        } else {
            const double apart = sqrt(x.difference / fmax(x.change, x.before)),
                         rate = 2 * angle_of(apart) / (now + then);
            error += error_of_turn(t, rate * now, change, size);
            /* The first change had none before it. */
            if (t->known == 1)
                sum[k] = fmax(sum[k], error_of_turn(t, rate * then, before * then, size));
        }
        sum[k] += error;
    }
    t->h = h;
    t->known++;
    t->largest = t->fading * fmax(t->largest, sqrt(later_all));
    look_at_largest(t, nrows, from, earlier, sqrt(all));
}

double ode_turning_error(const ode_turning *t, double *envelope, double *apart)
{
    double wrong = 0, all = 0;
    *envelope = *apart = 0;
    if (!t->system) return 0;
    const double *sum = t->by_row.data, *size = sum + R_ENVELOPE * t->rows;
    for (int64_t k = 0; k < t->rows; k++) {
        wrong += pow(fmin(1, sum[k]) * size[k], 2);
        all += size[k] * size[k];
    }
    *envelope = sqrt(all * (double)t->stride);
    *apart = t->apart;
    return all > 0 ? sqrt(wrong / all) : 0;
}

void ode_turning_close(ode_turning *t)
{
    ode_buffer_free(&t->change);
    ode_buffer_free(&t->by_row);
    ode_buffer_free(&t->at_largest);
}
