/* Hidden stiff modes (watch.c): the field beside the state, in a direction that it has turned. */
#include "ode/march/watch.h"
#include <string.h>

/* Evaluations of the field from one look to the next, at least, and for each one that the look
 * took.
 */
enum { LOOKS_APART = 60, APART_FOR_EACH = 40 };
/* So many steps from one look to the next while a mode limits the steps. */
static const int64_t limited_apart = 10;
/* Parts of the limit: what may lie beyond it for a while; where, within the margin, to look
 * closely. */
static const double beyond = 1.15, close = 0.77;
/* What may add up in steps beyond the limit, as a part of what is allowed at an output. */
static const double beyond_in_sum = 0.5;
/* A mode that is no more than so much steeper than what the step itself shows is looked for half as
 * often: the guard sees it grow. */
static const double hidden = 1.1;
/* Power iterations in one look, at most; and in a short solve, one for so many of its evaluations
 * more than these. As many as the latter are done in all before a look is trusted. */
enum { MOST_ITERATIONS = 16, FEW_ITERATIONS = 4, FOR_AN_ITERATION = 40, FIRST_ITERATIONS = 3 };
/* The relative change that ends them; so do two that stay in a plane. Where they do not end, so
 * many of the last are averaged, an even number, and the angle is that of the plane if it is not
 * much worse. */
static const double converged = 0.05, in_plane = 0.02, beside_plane = 0.3;
enum { MEAN_OF = 8 };
/* Going back, the mode is looked for again in so many iterations, where that is not more work than
 * so many steps. */
enum { ITERATIONS_BACK = 2, FEW_STEPS = 4 };
/* Rows that are looked at more than once: at least, and of large batches a part. */
enum { LEAST_PICKED = 8, PART_PICKED = 16, HALVINGS = 24 };
/* Strains: below the first, one iteration is enough where a few are not to be trusted; above the
 * second, a smaller one has to converge. And the excess of an oscillation as steep as the steepest
 * mode above which all modes are looked at. */
static const double little = 0.5, doubtful = 1.3, hiding = 1.5;
/* The square of the sine of an angle that is none; how much larger than in an iteration |lambda| of
 * a plane may be. */
static const double straight = 1e-5, most_larger = 1.2;

/* Rows that depend on each other are one system. */
static bool are_coupled(const ode_march *m) { return m->system->rows == AD_ROWS_COUPLED; }

/* The tangents' own tolerances: of an element that is zero and has none, a hundredth of rtol of the
 * largest one (of one, if all are zero).
 */
static void set_tolerances(ode_march *m, const void *y)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    double largest = 0;
    for (int64_t i = 0; i < m->cells; i++) largest = fmax(largest, fabs(ode_load(s->dtype, y, i)));
    w->size = largest;
    w->least = 0.01 * m->rtol * (largest > 0 ? largest : 1);
    for (int64_t i = 0; m->each && i < s->width; i++)
        ode_store(s->dtype, w->each.data, i, fmax(m->each[i], w->least));
    ode_store(s->dtype, w->number, 0, fmax(m->atol, w->least));
}

void ode_watch_prepare(ode_march *m, const void *y)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    if (w->prepared) return;
    set_tolerances(m, y);
    memset(w->largest.data, 0, (size_t)m->cells * ode_bytes(s->dtype));
    for (int j = 0; j < s->nstate; j++) {
        char *to = ode_part(s, m->rows, w->direction.data, j);
        const int64_t all = m->rows * s->size[j], n = are_coupled(m) ? all : s->size[j];
        for (int64_t i = 0; i < n; i++) ode_store(s->dtype, to, i, state_weight(s, j, i));
        const size_t bytes = (size_t)n * ode_bytes(s->dtype);
        for (int64_t r = 1; r * n < all; r++) memcpy(to + (size_t)r * bytes, to, bytes);
    }
    w->prepared = true;
}

/* What an iteration finds in a row: squares of the direction before and after, and its products
 * with the latter of the direction itself and of the one before it. */
typedef struct {
    double before, after, along, around;
} sums;

/* Of the last two iterations in a row, the latest first: by how much they multiplied the direction
 * (0: there was none), the cosines of the angles by which they turned it, and by both. */
typedef struct {
    double growth[2], cosine[2], around;
} turn;
_Static_assert(sizeof(turn) == ODE_TURN * sizeof(double), "the watch has room for the turns");

/* Which rows are picked is for each look to say; it begins with all. */
static void pick_all(ode_march *m)
{
    int64_t *rows = m->watch.picks.data;
    for (int64_t r = 0; r < m->rows; r++) rows[r] = r;
    m->watch.picked = m->rows;
}

int64_t ode_most_picked(const ode_system *s, int64_t rows)
{
    const int64_t n = rows / PART_PICKED > LEAST_PICKED ? rows / PART_PICKED : LEAST_PICKED;
    return rows < 2 * n || !s->trace || s->rows != AD_ROWS_APART ? rows : n;
}

static int64_t systems(const ode_march *m) { return are_coupled(m) ? 1 : m->watch.picked; }
static double elements_of_system(const ode_march *m)
{
    return (double)m->system->width * (are_coupled(m) ? (double)m->rows : 1);
}

/* Moves the state of the picked rows in their directions. */
#define MOVE(T)                                                                                    \
    do {                                                                                           \
        const T *state = y, *turned = w->direction.data;                                           \
        T *largest = w->largest.data, *moved = w->moved.data;                                      \
        for (ode_run c = ode_first_run(m); c.j < s->nstate; ode_next_run(m, &c))                   \
            for (int64_t i = 0; i < c.n; i++) {                                                    \
                const double x = state[c.at + i], size = x < 0 ? -x : x, last = largest[c.at + i], \
                             most = size > last ? size : last,                                     \
                             scale = ode_scale(scales, each ? each[c.column + i] : atol, most);    \
                largest[c.at + i] = (T)most;                                                       \
                moved[c.part + i] = (T)(x + scale * turned[c.at + i]);                             \
            }                                                                                      \
    } while (0)

/* What the field has made of that, in units of the tolerances: sums by row. What it was and what it
 * is take the places of the moved state and of its slope. */
#define COMPARE(T)                                                                                 \
    do {                                                                                           \
        const T *state = y, *largest = w->largest.data, *here = m->slope[0].data,                  \
                *last = w->earlier.data;                                                           \
        T *moved = w->moved.data, *there = w->slope.data;                                          \
        for (ode_run c = ode_first_run(m); c.j < s->nstate; ode_next_run(m, &c)) {                 \
            sums *row = &of[are_coupled(m) ? 0 : c.k], sum = *row;                                 \
            for (int64_t i = 0; i < c.n; i++) {                                                    \
                const double scale = ode_scale(scales, each ? each[c.column + i] : atol,           \
                                               largest[c.at + i]),                                 \
                             unit = scale > 0 ? 1 / scale : 0,                                     \
                             before = ((double)moved[c.part + i] - state[c.at + i]) * unit,        \
                             after =                                                               \
                                 ((double)there[c.part + i] - here[c.at + i]) * unit * direction;  \
                sum.before += before * before;                                                     \
                sum.after += after * after;                                                        \
                sum.along += before * after;                                                       \
                sum.around += last[c.at + i] * after;                                              \
                moved[c.part + i] = (T)before;                                                     \
                there[c.part + i] = (T)after;                                                      \
            }                                                                                      \
            *row = sum;                                                                            \
        }                                                                                          \
    } while (0)

/* The new directions, of one in each element on average. */
#define TURN(T)                                                                                    \
    do {                                                                                           \
        const T *moved = w->moved.data, *there = w->slope.data;                                    \
        T *last = w->earlier.data, *next = w->direction.data;                                      \
        for (ode_run c = ode_first_run(m); c.j < s->nstate; ode_next_run(m, &c)) {                 \
            const sums *row = &of[are_coupled(m) ? 0 : c.k];                                       \
            if (!(row->after > 0 && isfinite((T)sqrt(row->after)))) continue;                      \
            const T by_before = (T)sqrt(width / row->before),                                      \
                    by_after = (T)sqrt(width / row->after);                                        \
            for (int64_t i = 0; i < c.n; i++) {                                                    \
                last[c.at + i] = moved[c.part + i] * by_before;                                    \
                next[c.at + i] = there[c.part + i] * by_after;                                     \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* One power iteration in each system, a row that is picked or all of them, which turns the
 * direction. As ode_march_field_of_picked. */
static int iterate(ode_march *m, const ode_boundary *a, int direction, const void *y)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    const ode_scales scales = ode_scales_of(m);
    const double *each = m->each, atol = m->atol, width = elements_of_system(m);
    if (s->dtype == AD_F32) MOVE(float);
    else MOVE(double);
    int failed =
        ode_march_field_of_picked(m, a->t, a->jump ? direction : 0, w->moved.data, w->slope.data);
    if (failed) return failed;
    sums *of = w->rows.data;
    memset(of, 0, (size_t)systems(m) * sizeof *of);
    if (s->dtype == AD_F32) {
        COMPARE(float);
        TURN(float);
    } else {
        COMPARE(double);
        TURN(double);
    }
    return 0;
}

/* Notes an iteration: the largest growth in it, and in it and the one before it. What the field
 * does to an oscillation in one iteration depends on the units of the components, x' = v,
 * v' = -w^2 x; two iterations tell the mode. */
static void note(ode_march *m, double *growth, double *pair)
{
    const sums *of = m->watch.rows.data;
    turn *turns = m->watch.turns.data;
    const int64_t *rows = m->watch.picks.data;
    double width = elements_of_system(m);
    *growth = *pair = 0;
    for (int64_t r = 0; r < systems(m); r++) {
        turn *t = &turns[rows[r]];
        t->growth[1] = t->growth[0];
        t->cosine[1] = t->cosine[0];
        t->growth[0] = 0;
        if (!(of[r].before > 0 && of[r].after > 0 && isfinite(of[r].after))) continue;
        t->growth[0] = sqrt(of[r].after / of[r].before);
        t->cosine[0] = of[r].along / sqrt(of[r].before * of[r].after);
        t->around = of[r].around / sqrt(width * of[r].after);
        *growth = fmax(*growth, t->growth[0]);
        *pair = fmax(*pair, sqrt(t->growth[0] * t->growth[1]));
    }
}

/* The mode that shows in two iterations: e_0, e_1 = J e_0 / g_1 and e_2 = J e_1 / g_2, unit
 * vectors, are in the plane of a pair of complex modes, where
 * J^2 e_0 = 2 Re lambda J e_0 - |lambda|^2 e_0. *left: the part of e_2 that is not in the plane of
 * the others, 1: that is not known. */
static double complex mode_of(const turn *t, double *left)
{
    double c = t->cosine[1], along = t->cosine[0], outside = 1 - c * c,
           product = t->growth[0] * t->growth[1], pair = sqrt(product);
    *left = 1;
    if (!(pair > 0)) return t->growth[0] * along;
    if (outside < straight) return c * along < 0 ? I * pair : copysign(pair, along);
    double on_last = (along - c * t->around) / outside,
           on_first = (t->around - c * along) / outside;
    double real = on_last * t->growth[0] / 2, square = real * real + on_first * product;
    double complex mode =
        square < 0 ? real + I * sqrt(-square) : real + copysign(sqrt(square), real);
    if (cabs(mode) > most_larger * fmax(t->growth[0], pair)) return copysign(t->growth[0], along);
    *left = sqrt(fmax(0, 1 - on_last * along - on_first * t->around));
    return mode;
}

/* Whether two iterations were in a plane, or along a line. */
static bool shows(const turn *t, double left)
{
    const double *c = t->cosine;
    return left <= beside_plane || fmax(1 - c[0] * c[0], 1 - c[1] * c[1]) < straight;
}

static int64_t count_above(const double *x, int64_t n, double than)
{
    int64_t count = 0;
    for (int64_t r = 0; r < n; r++) count += x[r] > than;
    return count;
}

/* By how much steps of size h strain what two iterations have shown in a row. In a random direction
 * a row shows a mode much steeper than those of the others; one that does not show yet may be the
 * worst that is as steep. */
static double strain_of_row(const ode_march *m, const turn *t, double h)
{
    double left;
    const double complex mode = mode_of(t, &left);
    const double steepest = sqrt(t->growth[0] * t->growth[1]);
    const double strain =
        ode_strain(m, shows(t, left) ? mode : I * steepest, fmin(h, m->watch.horizon));
    return isnan(strain) ? 0 : fmin(strain, DBL_MAX);
}

/* After two iterations in all rows: those that steps of size h strain most, in order; of rows that
 * are alike, the first. One iteration tells nothing: a row of slow oscillations whose components
 * differ in size can grow more in it than one of a fast mode. */
static void pick_most_strained(ode_march *m, double h)
{
    ode_watch *w = &m->watch;
    const int64_t n = ode_most_picked(m->system, m->rows);
    if (w->picked == n || w->turned < 2) return;
    const turn *turns = w->turns.data;
    double *strain = w->rows.data, most = 0;
    for (int64_t r = 0; r < m->rows; r++) {
        strain[r] = strain_of_row(m, &turns[r], h);
        most = fmax(most, strain[r]);
    }
    double least = most > 0 ? -most : -1; /* below all, in units of the largest */
    for (int i = 0; i < HALVINGS; i++) {
        const double middle = (least + most) / 2;
        *(count_above(strain, m->rows, middle) > n ? &least : &most) = middle;
    }
    int64_t *rows = w->picks.data, left_over = n - count_above(strain, m->rows, most);
    w->picked = 0;
    for (int64_t r = 0; r < m->rows; r++)
        if (strain[r] > most || (strain[r] > least && left_over-- > 0)) rows[w->picked++] = r;
}

/* Of the modes that show in the picked rows, the one that steps of this size strain most. */
static double complex most_strained(const ode_march *m, double h, double *left)
{
    const ode_watch *w = &m->watch;
    const turn *turns = w->turns.data;
    const int64_t *rows = w->picks.data;
    double complex most = mode_of(&turns[rows[0]], left);
    double strain = systems(m) > 1 ? ode_excess(m, most, h) : 0;
    for (int64_t k = 1; k < systems(m); k++) {
        double other_left;
        double complex other = mode_of(&turns[rows[k]], &other_left);
        double other_strain = ode_excess(m, other, h);
        if (!(other_strain > strain)) continue;
        strain = other_strain;
        most = other;
        *left = other_left;
    }
    return most;
}

/* In a look before a step of this size. */
static int most_iterations(const ode_march *m, const ode_boundary *a, double h)
{
    double end = m->stops.times[m->stops.ntimes - 1];
    double taken = (double)m->evaluations + fabs(end - a->t) / h * m->method->times;
    return (int)fmin(MOST_ITERATIONS, FEW_ITERATIONS + taken / FOR_AN_ITERATION);
}

/* Whether steps of size h are close to a mode's limit, or beyond it. */
static bool is_close(const ode_march *m, double complex mode, double h)
{
    return ode_strain(m, mode, fmin(h / close, m->watch.horizon)) > 1;
}

/* Whether a mode so steep may hide an oscillation that steps of size h put wrong. Not if the
 * solution moves as fast within the limit of stability: its error has chosen the steps. */
static bool may_hide(const ode_march *m, double steepest, double h)
{
    bool shown = hidden * m->watch.shown >= steepest &&
                 h * steepest * m->guard.margin < close * m->guard.limit;
    return !shown && ode_excess(m, I * steepest, h / close) > hiding;
}

/* By power iterations, and by eigenvalues where what they find may hide another mode. As
 * ode_find_steepest. */
static int turn_to_steepest(ode_march *m, const ode_boundary *a, int direction, const void *y,
                            double h, double complex *found)
{
    ode_watch *w = &m->watch;
    double complex known = w->mode[0] + I * w->mode[1], before = known;
    int most = most_iterations(m, a, h), mean_of = most < 2 * MEAN_OF ? most / 4 * 2 : MEAN_OF;
    double size = h / close, product = 0, left = 1, growth, pair = 0;
    bool doubt = false, limiting = w->lambda > 0 && w->accurate,
         explicit = isfinite(m->guard.limit);
    *found = 0;
    w->iterations = 0;
    for (int i = 0; i < most; i++) {
        double last_pair = pair;
        int failed = iterate(m, a, direction, y);
        if (failed) return failed < 0 ? -1 : 0;
        w->iterations++;
        w->turned++;
        note(m, &growth, &pair);
        *found = I * fmax(pair, i < 2 ? growth : last_pair); /* the worst that it can be */
        double strain = ode_strain(m, *found, size);
        bool trusted = w->turned >= FIRST_ITERATIONS;
        doubt = doubt || (limiting && i == 0) || (i > 1 && strain > doubtful);
        if (!doubt && strain <= (trusted ? 1 : little)) return 0;
        pick_most_strained(m, size);
        if (explicit && (limiting || may_hide(m, pair, h))) {
            int all = ode_find_in_spectrum(m, a, direction, y, size, found);
            if (all < 0) return -1;
            w->iterations += all * (1 + (int)ode_krylov_size(m->system));
            if (all) return is_close(m, *found, h);
        }
        if (w->picked > ode_most_picked(m->system, m->rows)) continue; /* a second one tells more */
        double complex mode = most_strained(m, size, &left);
        /* Nothing is as good as known of a mode of size 0: one iteration turns an oscillation
         * square, and its component along itself is none. */
        if ((trusted && i > 0 && left <= in_plane) ||
            cabs(mode - before) < converged * cabs(mode)) {
            *found = mode;
            return ode_strain(m, mode, size) > 1;
        }
        before = mode;
        if (i >= most - mean_of) product += log(growth);
    }
    *found = (left <= beside_plane ? before / cabs(before) : I) * exp(product / mean_of);
    return ode_strain(m, *found, size) > 1;
}

int ode_find_steepest(ode_march *m, const ode_boundary *a, int direction, const void *y, double h,
                      double complex *found)
{
    ode_watch *w = &m->watch;
    double complex turned;
    ode_watch_prepare(m, y);
    pick_all(m);
    int known =
        isfinite(m->guard.limit) ? 0 : ode_find_in_spectrum(m, a, direction, y, h / close, found);
    if (known < 0) return -1;
    /* Eigenvalues of the method's Jacobian take as long as half of these, about. */
    w->iterations = (int)ode_krylov_size(m->system) / (w->spectrum == ODE_JACOBIAN ? 2 : 1);
    /* What the arguments do along the steepest mode is asked of stiff steps. */
    if (known && fmin(h, w->horizon) * w->steepest <= 1) return is_close(m, *found, h);
    int steep = turn_to_steepest(m, a, direction, y, h, known ? &turned : found);
    if (steep < 0) return -1;
    if (known) return is_close(m, *found, h);
    w->steepest = cabs(*found);
    return steep;
}

void ode_limit_steps(ode_march *m, const ode_boundary *a, int direction, double complex found)
{
    ode_watch *w = &m->watch;
    double before = w->most, stable = m->guard.limit / (m->guard.margin * cabs(found));
    w->most = ode_largest_step(m, found);
    w->accurate = w->most < stable;
    w->tolerated = beyond * (w->accurate ? w->most : m->guard.margin * stable);
    w->lambda = cabs(found);
    w->mode[0] = creal(found);
    w->mode[1] = cimag(found);
    w->damped = ode_is_spent(m, found);
    w->reach = INFINITY;
    bool shown = hidden * w->seen >= w->lambda;
    w->due = m->evaluations + (shown ? 2 : 1) * limited_apart * m->method->times;
    if (direction * (a->t - w->until) < 0) w->most = fmin(w->most, before);
}

void ode_watch_rewind(ode_march *m)
{
    m->watch.probe_due = m->watch.probed = m->steps;
    m->watch.pause = 1;
    m->watch.again = true;
}

/* The first step since a look that has to be taken again for a mode, or -1. Where the solution
 * shows it, it may have changed since the look before, which found |lambda| = earlier. */
static int64_t first_beyond(const ode_march *m, int64_t from, double complex found, double earlier)
{
    const ode_watch *w = &m->watch;
    const double *sizes = w->sizes.data;
    int64_t first = -1;
    double lambda = cabs(found), change = 1, sum = 0;
    if (w->accurate && 2 * w->shown > lambda && earlier > 0 && earlier < lambda)
        change = sqrt(earlier / lambda);
    if (w->accurate && change == 1 && w->since[0] < from) from = w->since[0];
    for (int64_t k = from; k < m->steps; k++) {
        if (first < 0 && sizes[k] * change > w->tolerated) first = k;
        if (w->accurate) sum += ode_stray(m, found * change, sizes[k]);
    }
    return w->accurate && sum < beyond_in_sum ? -1 : first;
}

/* Whether step k, where it began, is beyond the limit of the mode that shows there. -1: the march's
 * error is written. */
static int is_beyond(ode_march *m, const ode_sink *sink, int direction, int64_t k)
{
    ode_watch *w = &m->watch;
    ode_boundary a;
    const void *y = sink->state(sink->context, k, &a);
    double size = ((const double *)w->sizes.data)[k], left, growth, pair;
    double complex mode;
    int failed = 0;
    if (w->spectrum != ODE_JACOBIAN) {
        w->evaluations++;
        failed = ode_march_field(m, a.t, a.jump ? direction : 0, y, m->slope[0].data, NULL, NULL);
        if (failed) return failed;
    }
    int known = ode_find_in_spectrum(m, &a, direction, y, size, &mode);
    if (known) return known < 0 ? -1 : size > beyond * ode_largest_step(m, mode);
    for (int i = 0; i < ITERATIONS_BACK; i++) {
        failed = iterate(m, &a, direction, y);
        if (failed) return failed;
        note(m, &growth, &pair);
    }
    mode = most_strained(m, size, &left);
    return size > beyond * ode_largest_step(m, mode);
}

/* The mode was found after the last of the steps from first on; it need not have been there all the
 * time. The step to go back to: no step before it that was looked at is beyond the limit. -1: the
 * march's error is written. */
static int64_t back_to(ode_march *m, const ode_sink *sink, int direction, int64_t first)
{
    int64_t fine = first, bad = m->steps;
    if (bad - fine <= FEW_STEPS) return first;
    int there = is_beyond(m, sink, direction, first);
    if (there) return there < 0 ? -1 : first;
    while (bad - fine > FEW_STEPS) {
        int64_t middle = fine + (bad - fine) / 2;
        there = is_beyond(m, sink, direction, middle);
        if (there < 0) return -1;
        *(there ? &bad : &fine) = middle;
    }
    return fine;
}

int ode_watch_look(ode_march *m, const ode_sink *sink, const ode_boundary *a, int direction,
                   const void *y, double h, int64_t *back)
{
    ode_watch *w = &m->watch;
    const double *sizes = w->sizes.data;
    *back = -1;
    if (!w->on || (m->evaluations < w->due && h <= w->reach)) return 0;
    int64_t from = w->since[w->certain];
    w->probes++;
    double complex found;
    /* What few iterations have told is no bound. */
    double earlier = w->turned >= FIRST_ITERATIONS ? w->found : 0, largest = h;
    for (int64_t k = 0; w->since[1] == 0 && k < m->steps; k++) largest = fmax(largest, sizes[k]);
    w->looked = true;
    w->all = false;
    int steep = ode_find_steepest(m, a, direction, y, largest, &found);
    if (steep < 0) return -1;
    if (w->all && w->all_since < from) from = w->all_since;
    w->certain = steep;
    if (w->certain) {
        ode_limit_steps(m, a, direction, found);
        int64_t first = first_beyond(m, from, found, earlier);
        if (first >= 0 && (*back = back_to(m, sink, direction, first)) < 0) return -1;
    } else {
        double strain = ode_strain(m, found, h / close);
        w->lambda = 0;
        if (direction * (a->t - w->until) >= 0) w->most = INFINITY;
        w->reach = strain > 0 ? fmax(2 * h, h / strain) : INFINITY;
        int apart = APART_FOR_EACH * w->iterations;
        w->due = m->evaluations + (apart > LOOKS_APART ? apart : LOOKS_APART);
    }
    w->found = w->steepest;
    w->shown = 0;
    w->since[0] = w->since[1];
    w->since[1] = *back < 0 ? m->steps : *back;
    if (w->all) w->all_since = w->since[1];
    if (*back < 0) return 0;
    w->since[0] = *back;
    w->until = a->t;
    return 0;
}
