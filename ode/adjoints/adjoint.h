/* Internal: adjoints of solves. An adjoint is a const object (struct ode_adjoint, settings.h): it
 * says what it needs of the trajectory, plans what it will run when it is recorded, and runs. What
 * all have in common is here: the recorded operation with its operands and results by name, shared
 * values, statistics, and what is said of gradients that are not finite. */
#ifndef ODE_ADJOINT_H
#define ODE_ADJOINT_H
#include "ode/trajectory/asked.h"
#include "ode/trajectory/outputs.h"

/* A recorded adjoint of a solve, or of an asking for its state at other times. Its operands: the
 * solve's token and operands (problem.h), (asked times, by all clocks), solutions [n], cotangents
 * of those that have one. Its results: cotangents of those operands that need one, in their order,
 * in one table. */
struct ode_adjoint_plan {
    atomic_int references;
    ode_problem *problem;
    char called[64]; /* "ode_solve_final's adjoint", for messages */
    bool has[ODE_MAX_JOINT];
    int nresults, result[ODE_MAX_OPERANDS]; /* the operand, after the token, that each is of */
    bool need_times;          /* of either kind: those of the solve, those that it is asked for */
    uint64_t need;            /* arguments */
    ode_asked asked;          /* n == 0: the solutions are at the solve's times; owned */
    const ode_unit *prologue; /* its VJP */
    void *own;                /* the adjoint's: adjoint->own bytes, owned */
};
/* Operands that it shares with its solve or asking. */
static inline int ode_adjoint_operands(const ode_adjoint_plan *d)
{
    return ode_operands(d->problem) + (d->asked.n ? d->problem->system->nclocks : 0);
}
/* Records the adjoint of the problem's options as an operation: the VJP rule of solves, and of
 * askings (asked not NULL: the last of in[nin] are their times). token: the solve's. */
void ode_adjoint_record(ode_problem *p, const ode_asked *asked, ad_var token, int nin,
                        const ad_var *in, const ad_var *out, const ad_var *ybar, const bool *need,
                        ad_var *xbar);

/* Run it, as an ad_opaque_class has it (run.c); data: the plan. */
void *ode_adjoint_state_new(void *data);
void ode_adjoint_state_free(void *state);
int ode_adjoint_run_back(void *data, void *state, const ad_opaque_call *call);
void ode_adjoint_account(void *data, ad_opaque_account *account);

/* The operands and results of a call by name. */
typedef struct {
    const void *const *y0, *const *args, *const *y;
    const void *const *asked, *ybar[ODE_MAX_JOINT];
    void *y0bar[ODE_MAX_JOINT], *argbar[ODE_MAX_ARGS];
    void *timesbar[ODE_MAX_CLOCKS], *askedbar[ODE_MAX_CLOCKS];
} ode_adjoint_call;

/* The times of the solutions, in the order in which the solve passes them; of a solve that ended
 * before its last time those that it reached. */
typedef struct {
    int n, all; /* reached, and all that there are */
    const double *t;
    const int *place; /* of each in the arrays of solutions; -1: it is not in them */
    int places;       /* in those arrays */
    double *bar;      /* cotangents of the times: [n] by each clock */
} ode_adjoint_outputs;

/* A run of an adjoint. The shared part prepares it, and finishes it: cotangents of shared values
 * are pulled back to the arguments, those of times and the statistics written. In between the
 * adjoint delivers y0bar and argbar of per-row arguments (zeros before), adds to shared_bar and
 * times_bar, and fills its statistics. */
struct ode_adjoint_run {
    const ode_adjoint_plan *plan;
    const ad_opaque_call *call;
    ode_forward *forward; /* the solve's */
    ode_adjoint_call c;
    void **shared_bar; /* by shared value; NULL where nobody asks */
    double *times_bar; /* [ntimes] by each clock */
    ode_adjoint_outputs out;
    bool searching;   /* a second run, over a gradient that is not finite: for the step */
    bool halved;      /* a second run, with all steps halved: to compare with */
    ode_stats *stats; /* the backward part: zeros before */
    /* Zeros before: about how wrong the results are, by signs on the way; the size of the state's
     * cotangent at the first time, or of the oscillation that it is in. Of the two runs of a
     * comparison, those of the one with steps halved, and by what part the cotangents of the two
     * differ where that oscillation was largest. */
    double doubt, envelope, apart;
    void *memory; /* the adjoint's: adjoint->memory bytes, kept from run to run */
};
/* Elements of result i; 0: nobody asks for it. */
static inline int64_t ode_result_size(const ad_opaque_call *call, int i)
{
    const ad_shape shape = call->out_shape[i];
    return shape.rank < 0 ? 0 : ad_count(shape, call->rows);
}
/* Adds the cotangents of the solutions at output i to a slot. */
void ode_adjoint_add_output(const ode_adjoint_run *run, int i, void *slot);
int ode_call_fail(const ad_opaque_call *call, const char *reason); /* writes the call's error; -1 */
/* What is doubtful in the results, as the call's warning, if it takes any: 0; else it is its error:
 * -1. */
int ode_call_doubt(const ad_opaque_call *call, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 2, 3)))
#endif
    ;

/* Gradients that are not finite (finite.c). Whether all that the run delivers is finite. */
bool ode_results_finite(const ode_adjoint_run *run);
/* Whether a cotangent that came in is not finite: then the error is written. */
bool ode_blame_cotangents(const ode_adjoint_run *run);
/* Whether something is not finite among the state's cotangents (NULL: not looked at), those of the
 * arguments and shared values, and times' (if they are to be looked at): then text says what. */
bool ode_name_nonfinite(const ode_adjoint_run *run, const void *state, bool times, char *text,
                        size_t size);
/* What the last part of an adjoint, from the shared values to the arguments, has spoilt: writes the
 * error; -1. */
int ode_blame_arguments(const ode_adjoint_run *run);

#endif
