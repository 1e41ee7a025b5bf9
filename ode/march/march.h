/* Internal: the march from step to step. */
#ifndef ODE_MARCH_H
#define ODE_MARCH_H
#include "ode/field/pile.h"
#include "ode/march/path.h"
#include "ode/march/stops.h"
#include "ode/step/unit.h"

/* The end of a step. It moves with the output times by (1 - weight) dtimes[lo] + weight dtimes[hi];
 * lo, hi < 0: such a part does not move.
 */
typedef struct {
    double t, weight;
    int lo, hi;
    bool jump;    /* the field is not smooth here */
    bool closed;  /* no evaluation of the step takes place beyond it */
    bool restart; /* what the method carries is made anew here */
    bool output;  /* given steps: the state here is a result */
} ode_boundary;
/* A tangent of the end, from those of the output times; of the times themselves, it is b->t. */
double ode_boundary_on(const ode_boundary *b, const double *clock);

typedef struct ode_march ode_march;

/* Who receives the steps. slot: memory for the state after step k + 1 (NULL: out of memory);
 * accepted: step k went from a to b, from state y to state next; 0, or -1 with the march's error
 * written. */
typedef struct {
    void *context;
    void *(*slot)(void *context, int64_t k);
    int (*accepted)(void *context, const ode_march *march, int64_t k, const ode_boundary *a,
                    const ode_boundary *b, const void *y, const void *next);
    /* Where step k began, and its state, which is there until the march ends. */
    void *(*state)(void *context, int64_t k, ode_boundary *a);
    void (*rewind)(void *context, int64_t k); /* forgets step k and all after it; NULL: no need */
    /* memory for the residuals of stage i of step k, NULL: drop them; itself may be NULL */
    void *(*keep)(void *context, int64_t k, int i);
    /* memory for the numbers of step k's Brownian path, NULL: drop them; itself may be NULL */
    void *(*numbers)(void *context, int64_t k);
    bool reports; /* the steps are those of the solve as its user sees it: options.on_step */
} ode_sink;

/* Holds the steps of a march within the stability limit (stability.c). */
typedef struct {
    double limit, margin;     /* to h |lambda|; how far within it the next step is to stay */
    double z;                 /* h |lambda| of the attempted step, 0: nothing shows it */
    double most;              /* of the accepted ones */
    int64_t limited, refused; /* accepted steps close to the limit, attempts beyond it */
    double lambda;            /* |lambda| as told last, 0: nothing shows it */
    double told;              /* size of the attempt that did */
    int in_a_row;             /* attempts that told it, since they have to */
    int since;                /* attempts that did not, since */
} ode_guard;
/* Of a march with this tolerance. */
ode_guard ode_guard_begin(const ode_settings *settings, ad_dtype dtype, double rtol);
/* Whether the attempted step, which gave this stiffness, is within the limit. */
bool ode_guard_allows(ode_guard *guard, double h, double stiffness);
/* Whether an attempt of size h has to tell |lambda|: what an earlier one told is old, or not far
 * from the limit. Most attempts need not, and are cheaper. */
bool ode_guard_asks(const ode_guard *guard, double h);
void ode_guard_note(ode_guard *guard, double h, bool told); /* after the attempt */
/* The next attempts have to: the march does not go on as before. */
void ode_guard_forget(ode_guard *guard);
/* What rounding alone can make of the square of two stages' difference, in units of the tolerance:
 * that is no estimate. */
double ode_guard_rounding(const ode_system *system, double rtol);
/* The margin: lambda may grow a little, and the state carries disturbances of the tolerance's size,
 * which the gradient inherits as far as steps do not damp them: the looser the tolerance, the
 * larger it is. Measured on y' = p (cos t - y), p = 10 to 3212: gradients are within a tenth. */
double ode_guard_margin(double rtol);
double ode_guard_factor(const ode_guard *guard); /* how much the next step may be larger */
void ode_guard_accept(ode_guard *guard);

/* What the march of a system needs is compiled: units for stepping. */
/* What the watch takes the eigenvalues of a row from (spectrum.c): the Jacobian, or what it does to
 * a few directions. */
typedef enum { ODE_NO_SPECTRUM, ODE_JACOBIAN, ODE_DIRECTIONS } ode_spectrum_source;
/* The most directions, and the most components whose Jacobian is taken. */
enum { ODE_KRYLOV = 8 };

typedef struct {
    const ode_unit *step, *begin, *field, *tangent, *field_tangent;
    ode_spectrum_source spectrum;
    const ode_unit *jacobian; /* NULL: the watch has no use for it */
    /* a step that does not tell |lambda|, else the same; NULL: step never does */
    const ode_unit *brief;
} ode_march_units;

enum { ODE_TURN = 5 };

/* Looks for what the state does not show of its derivatives (watch.c). */
typedef struct {
    bool on, prepared; /* memory and directions are those of this solve */
    double horizon,
        first_output; /* the whole time of the solve, and that before the first output */
    /* Hidden stiff modes. direction: of the power iteration, in units of the tolerance; largest:
     * |y| so far, by element. */
    ode_buffer direction, largest, moved, slope, rows;
    /* The rows that are looked at, in order, `picked` of them; per-row arguments of these; what
     * their evaluations come to, as a part of one of all rows. */
    ode_buffer picks, gathered;
    int64_t picked, most_picked; /* most: that there is memory for all modes of */
    double part;
    ode_buffer sizes;     /* of the accepted steps */
    int64_t due;          /* evaluations before the next look */
    int64_t since[2];     /* steps taken at the last look but one, and at the last */
    bool looked, certain; /* whether there was a look, and whether the last one left no doubt */
    double reach;         /* a step beyond this size wants a look first */
    double most; /* largest step that the modes allow; until this time no more than it is now */
    double until;
    double tolerated; /* size of steps that need not be taken again */
    double seen;      /* |lambda| that the last accepted step shows, 0: none */
    double lambda;    /* |lambda| of the mode that limits the steps, 0: none */
    double mode[2];   /* the one that did last: real and imaginary part */
    bool accurate;    /* accuracy limits the steps for it, not stability */
    double found;     /* |lambda| that the last look found, or what it is at most; 0: none yet */
    double shown;     /* the largest that accepted steps have shown since */
    /* Power iterations of the last look, and of all. */
    int iterations, turned;
    /* The direction before it was turned, and what the iterations found in each row,
     * [rows,ODE_TURN] (modes.c). */
    ode_buffer earlier, turns;
    double steepest; /* the largest |lambda| that the last look found */
    /* All modes of a row (spectrum.c). */
    ode_spectrum_source spectrum;
    const ode_unit *jacobian_unit; /* NULL: it is not taken */
    ode_runner jacobian;
    ode_buffer jacobians, basis; /* [rows,n,n], and n + 1 directions (krylov.c) */
    bool all;                    /* whether the present look has found all modes */
    int64_t all_since;           /* steps taken at the last one that has */
    bool damped;                 /* the mode that limits the steps is gone at the first output */
    bool again;                  /* the march has gone back */
    /* Blind components. */
    const ode_unit *unit,
        *field_unit; /* of the step and of the field alone; NULL: without probes */
    ode_runner tangent, field_tangent;
    double size;              /* of the largest element at the beginning */
    double least;             /* tolerance where there is none */
    double number[1];         /* atol of the tangents in the call's type */
    double settling[1];       /* size of the step in which what decays fast is gone, likewise */
    ode_buffer each;          /* or that of each element */
    ode_buffer arguments;     /* their directions */
    ode_buffer chosen;        /* 1: an element whose tangents are in question, else 0 */
    int64_t asked;            /* the step at which a probe had the steepest mode looked for */
    double short_apart;       /* evaluations from one short look to the next; 0: none yet */
    bool short_looks;         /* whether they may still be enough */
    bool resolved;            /* the state has been large against its tolerance */
    bool unseen;              /* the arguments did nothing in that step, in some row */
    double silent;            /* an error of the state below it says nothing */
    int said_nothing;         /* attempts in a row whose error said nothing */
    int64_t probe_due, pause; /* steps before the next probe, and between it and the one after */
    int64_t probed; /* the step after the last probed one, or after the last that needed no probe */
    /* size of the step whose tangents were taken last, and the largest that they allow */
    double vetted, allowed;
    double told;                 /* their errors by that size, the larger one */
    int64_t probes, evaluations; /* looks and tangents, and what they took */
} ode_watch;
/* Where the modes of these systems are looked for, and on how many directions at most (krylov.c).
 */
ode_spectrum_source ode_spectrum_of(const ode_system *system, const ode_method *method);
int64_t ode_krylov_size(const ode_system *system);
/* For a solve over times of these lengths; after ode_march_open. 0, or -1 with the march's error
 * written. */
int ode_watch_open(ode_march *march, const ode_march_units *units, double horizon,
                   double first_output);
void ode_watch_close(ode_watch *watch);
/* Adds what it holds to the account, which says for how many rows; the march is as
 * ode_march_account has it. */
void ode_watch_account(const ode_march *march, const ode_march_units *units,
                       ad_opaque_account *account);
/* Whether the attempted step will do: 1; 0: no, and by what factor its size is to change; -1 with
 * the march's error written. */
int ode_watch_step(ode_march *march, const ode_boundary *a, const ode_boundary *b, const void *y,
                   const void *next, double ratio, double *factor);
/* After a step that will not do: the first one since the last probe, which may be as bad; -1: none.
 */
int64_t ode_watch_doubtful(const ode_march *march);
/* Notes the step and the |h lambda| that is known of it. */
int ode_watch_accept(ode_march *march, double size); /* 0, or -1 with the march's error written */
/* At the beginning and after an accepted step, which ended at a with state y; the next one is to be
 * of size h. *back: the first step that has to be taken again (then the derivative there,
 * march->slope[0], is to be computed anew), or -1: none. 0, or -1 with the march's error written.
 */
int ode_watch_look(ode_march *march, const ode_sink *sink, const ode_boundary *a, int direction,
                   const void *y, double h, int64_t *back);
void ode_watch_rewind(ode_march *march); /* the march has gone back to march->steps */
/* Before the last step of a solve: whether there was no look at the field, which is due now. */
bool ode_watch_end(ode_watch *watch);
double ode_watch_limit(const ode_watch *watch);

/* Where the given arguments of a system come from: at writes those at time t, one array after the
 * other; 0, or -1 with the march's error written. */
typedef struct {
    void *context;
    int (*at)(void *context, double t, void *arguments);
} ode_given;

enum { ODE_MARCH_NUMBERS = 16 + (1 + ODE_MAX_STAGES) * ODE_MAX_CLOCKS };
struct ode_march {
    ode_system *system;
    const ode_settings *settings;
    const ode_method *method;
    ode_stops stops;
    double rtol, atol;
    const double
        *each; /* absolute tolerances of the elements of a row, all states in order; NULL: atol */
    bool adaptive, dense, quadrature, norm; /* norm: quadratures are in the error norm */
    bool slopes;     /* adaptive: steps are given the field at their beginning */
    ode_path *path;  /* of stochastic systems; borrowed */
    ode_given given; /* of systems that have such arguments */
    const ode_unit *brief_unit;
    ode_runner step, brief, begin, field; /* brief: opened when first run */
    /* Before and after the attempted step: slope: the field (of adaptive steps); carry: what the
     * method carries; rate, size: quadratures' rates, and their sizes so far. k: stages; increment:
     * quadratures'; inputs: given arguments, by evaluation. */
    ode_buffer slope[2], carry[2], rate[2], size[2], k, increment, inputs, work, atols;
    int64_t rows, cells;              /* cells: rows x width */
    double number[ODE_MARCH_NUMBERS]; /* scalars in the call's type: tolerances, results, times */
    /* of a tangent system: from [1] on, tangents of the output times */
    const double *clock[ODE_MAX_CLOCKS];
    int64_t steps, rejected, evaluations, counts[3];
    int64_t ringing; /* accepted steps in which an element of the state alternates */
    /* The row whose implicit stages the latest attempt did not find, or -1, and why
     * (ode_newton_end). */
    int64_t failed_row;
    int failed_how;
    int64_t blurred; /* the latest steps, so many, are too short for a field that reads the time */
    ode_status status; /* of the march in progress, or of the latest one */
    double reached;    /* time of the latest accepted state */
    double ratio;      /* adaptive: error of the latest attempt in units of the tolerance */
    ode_control control;
    ode_guard guard;
    ode_watch watch;
    int threads;
    char *error;
    size_t error_size;
};

/* quadrature: 0, or ODE_QUADRATURE, and ODE_QUADRATURE_NORM with it for adaptive steps that their
 * errors bound too. */
bool ode_march_compile(ode_march_units *units, ode_system *system, const ode_settings *settings,
                       bool adaptive, bool dense, int quadrature, const ode_residuals *residuals,
                       ad_tape *tape);

void ode_march_close(ode_march *march);
/* Counts and status of a new march; ode_march_open does it too. */
void ode_march_clear(ode_march *march);
/* Prepares for a solve with so many rows; args: all arguments, shared: shared values. 0, or -1 with
 * the march's error written. */
int ode_march_open(ode_march *march, const ode_march_units *units, int64_t rows, int threads,
                   const void *const *args, void *const *shared);
/* Adds what a march holds once it is open to the account, which says for how many rows: one that is
 * all zeros but for what says how it goes (system, settings, method, each, adaptive, dense,
 * quadrature, norm). */
void ode_march_account(ode_march *march, const ode_march_units *units, ad_opaque_account *account);
/* How many steps there are at most where they are given, between n times (NULL: not known before);
 * -1: that is not known. */
int64_t ode_march_count(const ode_march *march, int n, const double *times);
/* From times[0] to times[n - 1]: fixed steps end at all of the times, adaptive ones at the last. y:
 * the first state. */
int ode_march_run(ode_march *march, int n, const double *times, void *y, const ode_sink *sink);
/* The two loops behind that: over equal or replayed steps, and over steps that the error chooses.
 */
int ode_march_fixed(ode_march *march, void *y, const ode_sink *sink);
int ode_march_replay(ode_march *march, void *y, const ode_sink *sink);
/* The boundaries of the steps of such a march, before it is run from times[0] to times[n - 1]: how
 * many steps there are (at most max_steps and one), or -1 with the march's error written. */
int64_t ode_march_boundaries(ode_march *march, int n, const double *times, ode_buffer *boundaries);
int ode_march_adaptive(ode_march *march, void *y, const ode_sink *sink);
/* Over n steps between boundaries b [n + 1], which another march has found. */
int ode_march_follow(ode_march *march, int64_t n, const ode_boundary *b, void *y,
                     const ode_sink *sink);
/* Runs the step program from a, state y, to b, state next. */
int ode_march_attempt(ode_march *march, const ode_sink *sink, const ode_boundary *a,
                      ode_boundary *b, const void *y, void *next);
/* Of the latest attempt: its error in units of the tolerance, infinite when anything is not finite;
 * its stiffness, or what an earlier one told of it. */
double ode_march_error(const ode_march *march);
double ode_march_stiffness(const ode_march *march);
/* Whether the user's norm made a NaN of the latest attempt, whose state is finite. */
bool ode_march_norm_is_nan(const ode_march *march);
/* Hands it to the sink. */
int ode_march_accept(ode_march *march, const ode_sink *sink, const ode_boundary *a,
                     const ode_boundary *b, const void *y, const void *next);
/* Memory for the residuals of evaluation i of the step to be taken, or NULL. */
void *ode_march_keep(const ode_march *march, const ode_sink *sink, int i);
/* Makes what the method carries from the state y at a, for steps like the one from a to b. 0, or -1
 * with the march's error written. */
int ode_march_begin(ode_march *march, const ode_boundary *a, const ode_boundary *b, const void *y);
/* One step without error control (of an adaptive march: with the field at its
 * beginning in slope[0]). *y moves
 * on. */
int ode_march_step(ode_march *march, const ode_sink *sink, const ode_boundary *a, ode_boundary *b,
                   void **y);
/* As ode_march_run, and for refine > 0 once more, with each step that it took divided into
 * 2^refine; the sink receives only the latter. */
typedef struct {
    ode_buffer bounds;
    ode_pile states;
} ode_refinement; /* memory for that */
void ode_refinement_free(ode_refinement *memory);
int ode_march_run_refined(ode_march *march, int n, const double *times, void *y,
                          const ode_sink *sink, int refine, ode_refinement *memory);
/* Its errors, and what solves inside the field doubt, are those of the call. */
void ode_march_answers_to(ode_march *march, const ad_opaque_call *call);
/* f(t, y) into dy, rates of quadratures into rate, residuals into kept (NULL: none). side: -1 the
 * limit from before t in the direction of the march, 1 from after, 0 at t. 0; 1: the field is not
 * finite there, which a look that only probes may pass over; -1: anything else, memory that is
 * short above all, which nobody may. Both with the march's error written. */
int ode_march_field(ode_march *march, double t, int side, const void *y, void *dy, void *rate,
                    void *kept);
/* The same of the rows that the watch has picked, y and dy have no others; not finite: without an
 * error. */
int ode_march_field_of_picked(ode_march *march, double t, int side, const void *y, void *dy);
/* Points a runner, at the arguments of all rows now, at those of the picked rows. */
void ode_point_at_picked(ode_march *march, ode_runner *runner);
/* Counts so many evaluations of the field for these. */
void ode_count_picked(ode_march *march, int64_t evaluations);
/* What error is allowed at an element of a slot where the state is of this size: atol + rtol |size|
 * (tolerance.c). */
double ode_tolerance(const ode_march *march, int64_t element, double size);
/* The largest |x - y| in units of the tolerance at y, over n elements of a slot from `first` on. */
double ode_march_distance(const ode_march *march, int64_t first, int64_t n, const void *x,
                          const void *y);
/* A size for the first step, from f(t0, y) in slope[0]; 0: none is small enough; below 0: the
 * march's error is written. */
double ode_first_step(ode_march *march, double t0, double t1, const void *y);
/* Writes the error of the call in progress (the operation's name comes before it); -1. */
int ode_fail(ode_march *march, ode_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Tells options.on_step of the step from a to b, which has been accepted. */
int ode_march_report(ode_march *march, const ode_boundary *a, const ode_boundary *b,
                     const void *next);
/* The first element that is not finite of the attempted step: its state, or the derivative at its
 * end. -1: there is none. */
int64_t ode_march_nonfinite(const ode_march *march, const void *next, bool *derivative);
/* Write the error of an adaptive march that cannot go on from state y (failures.c), and return -1:
 * because the attempted step of size h to `next`, with this error in units of the tolerance, was
 * rejected and is the smallest; because max_steps attempts have been made. */
int ode_fail_small(ode_march *march, double t, double h, double ratio, const void *y,
                   const void *next);
int ode_fail_many(ode_march *march, double t, double t1, double h, const void *y);
/* ---- times (times.c) ---- */

/* The number of the type after t (direction > 0) or before it. */
double ode_next_time(ad_dtype dtype, double t, double direction);
/* What a field of the type sees as t: on a side of it (1: after, -1: before) the next number there,
 * else (0) the nearest. */
double ode_time_beside(ad_dtype dtype, double t, int side);
/* How far the next double is from t. */
double ode_spacing(double t);
double ode_type_spacing(ad_dtype dtype,
                        double t); /* of the numbers that a field of this type sees as times */
int ode_fail_memory(ode_march *march);
int ode_fail_blurred(ode_march *march, double from, double to);
/* By each clock, the size of the step from a to b, and the times of n evaluations at c:
 * t[n * clocks]. clock: of a tangent system, from [1] on, tangents of the output times. */
void ode_step_times(const ode_system *system, const double *const *clock, int n, const double *c,
                    const ode_boundary *a, const ode_boundary *b, double *size, double *t);
/* t in the step from a to b, rounded to the type; at a jump the nearest number on the step's own
 * side. */
double ode_stage_time(ad_dtype dtype, double t, const ode_boundary *a, const ode_boundary *b);
/* Where in the step to b, in parts of its size, the evaluation at t + c h takes place: at c, but
 * not beyond b where it is closed. */
double ode_stage_part(double c, const ode_boundary *b);

#endif
