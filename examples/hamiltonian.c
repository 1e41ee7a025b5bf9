/* A network for the energy of a pendulum, and its equations of motion by differentiation
 * (Hamiltonian neural networks, Greydanus, Dzamba, Yosinski 2019, arXiv:1906.01563).
 *
 *   q' = dH/dp,    p' = -dH/dq + force,    H = p^2 / 2 + network(cos q, sin q, p)
 *
 * The field is a derivative that the tape makes, and the training differentiates it again, through
 * the solve. As the inertia of a pendulum is constant, p is the speed, in units of it. A torque
 * that is measured and a friction that is learned act on p, as Zhong, Dey, Chakraborty 2020 have it
 * (arXiv:1909.12077).
 *
 * Where there is neither, the field keeps H, and a symplectic method, the implicit midpoint rule,
 * keeps nearly H for as long as one likes, in steps so large that others lose or gain energy. A
 * plain neural ODE of the same size has no such number to keep. */
#include "example.h"
#include "pendulum.h"

/* y: q, p. */
static ad_var hamiltonian(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const pendulum_net *net = user;
    ad_var q = ad_slice(y, 1, 0, 1), p = ad_slice(y, 1, 1, 2), slope;
    ad_var kinetic = ad_scale(ad_square(p), 0.5);
    ad_var energy = ad_add(kinetic, pendulum_network(net, args[0], q, p)),
           one = ad_ones_like(energy);
    ad_vjp(1, &energy, &one, 1, &y, &slope);
    ad_var by_q = ad_slice(slope, 1, 0, 1), by_p = ad_slice(slope, 1, 1, 2);
    ad_var force = pendulum_force(net, t, by_p, args);
    return ad_concatenate(AD_VARS(by_p, ad_sub(force, by_q)), 1);
}

int main(int argc, char **argv)
{
    pendulum_options o = {
        .directory = "out", .picture = "hamiltonian", .width = 32, .steps = 2400, .seed = 1
    };
    bool quick = false;
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &o.data,
          "folder of simple_energy_shaping_measured.csv and simple_sysid_measured.csv" },
        { "width", EXAMPLE_INTEGER, &o.width, "of the two hidden layers" },
        { "steps", EXAMPLE_INTEGER, &o.steps, "updates by AdamW of each field" },
        { "seed", EXAMPLE_INTEGER, &o.seed, "of everything that is drawn" },
        { "quick", EXAMPLE_FLAG, &quick, "a small network, trained for seconds" },
        { "out", EXAMPLE_TEXT, &o.directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(argc, argv, "Learns the energy of a pendulum.", options);
    if (done) return done - 1;
    if (quick) {
        o.width = 16;
        o.steps = 300;
    }
    return pendulum_study("hamiltonian", hamiltonian, 1, &o);
}
