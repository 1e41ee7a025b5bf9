/* One's own loop: loss and gradient are compiled once, and run as often as one likes.
 *
 * The temperature y of a cup of coffee falls to the room's (Newton's law of cooling),
 *     y' = -k (y - room),
 * and k and the room's temperature are found from five measurements by gradient descent on the mean
 * squared error. The measurements are exact ones of k = 0.1 a minute and a room of 20 degrees, so
 * the loop must find these. */
#include <costate.h>
#include <math.h>

enum { POINTS = 5, STEPS = 400 };

/* args[0]: k and the room's temperature divided by 100, [2]. */
static ad_var cooling(ad_var t, ad_var y, const ad_var *args, void *user)
{
    ad_var part[2];
    ad_split(args[0], 0, 2, NULL, part);
    (void)t;
    (void)user;
    return ad_neg(ad_mul(part[0], ad_sub(y, ad_scale(part[1], 100))));
}

int main(void)
{
    /* Recording: what is computed, from which inputs. */
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_param(tape, AD_SHAPE(2), NULL);
    ad_var start = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL);
    ad_var measured = ad_input_rows(tape, AD_SHAPE(AD_ROWS, POINTS, 1), 0, NULL);
    ad_var y = ode_solve(cooling, NULL, start, AD_VARS(x), ode_linspace(tape, 0, 40, POINTS), NULL);
    ad_var loss = ad_mean_all(ad_square(ad_sub(y, measured))), gradient;
    ad_grad(loss, AD_VARS(x), &gradient);

    /* Compiling: the program does not need the tape any more. */
    ad_program *program = ad_compile(AD_VARS(x, start, measured), AD_VARS(loss, gradient));
    if (!program) {
        fprintf(stderr, "%s\n", ad_tape_error(tape));
        return 1;
    }
    ad_workspace *workspace = ad_workspace_new(program, 1);
    ad_tape_free(tape);

    /* Running: one row, the cup. */
    double value[] = { 0.05, 0.10 }, cup[] = { 90 }, data[POINTS], error, slope[2];
    for (int i = 0; i < POINTS; i++) data[i] = 20 + 70 * exp(-0.1 * 10 * i);
    for (int step = 0; step <= STEPS; step++) {
        const double *inputs[] = { value, cup, data };
        double *outputs[] = { &error, slope };
        if (ad_run_f64(program, workspace, 1, inputs, outputs)) {
            fprintf(stderr, "%s\n", ad_workspace_error(workspace));
            return 1;
        }
        if (step % 100 == 0)
            printf("step %3d: loss %.3e, k %.4f, room %.3f\n", step, error, value[0],
                   100 * value[1]);
        value[0] -= 3e-6 * slope[0];
        value[1] -= 3e-5 * slope[1];
    }
    ad_workspace_free(workspace);
    ad_program_free(program);
}
