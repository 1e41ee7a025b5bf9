#!/bin/sh
# Every example runs, and its numbers are right: the exact ones where there are such, else what must hold of them.
# usage: examples.sh DIRECTORY_OF_THE_PROGRAMS NAME [KEPT]; of a study, or pages: all programs that show one thing each. KEPT: a new file for what
# the first program tells.
set -eu
examples=$(cd "$1" && pwd)
kept=${3:-}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
# shows PROGRAM ARGUMENTS...: its output goes to the file output.
shows() {
    echo "== $*"
    program=$1
    shift
    "$examples/$program" "$@" >output
    cat output
    if [ -n "$kept" ]; then cp output "$kept" && kept=; fi
}
# near FIELD_OF_LAST_MATCH TOLERANCE WANTED PATTERN: the number in this field of the last line with the pattern.
near() {
    awk -v field="$1" -v tolerance="$2" -v want="$3" -v pattern="$4" '
        index($0, pattern) { got = $field; found = 1 }
        END { gsub(/,/, "", got); d = got - want; if (!found || d > tolerance || d < -tolerance) {
            print "FAILED: \"" pattern "\": " got ", right is " want; exit 1 } }' output
}

case $2 in
pages)
    # x'' = -x - x'/2 by its closed form, and a difference quotient of it by the friction.
    shows first
    near 4 1e-5 -0.07064455 'x(2),'
    near 5 1e-5 -0.58500021 'x(2),'
    near 3 1e-5 0.54335436 'dx(2)'

    # The cup: what the data were made of.
    shows own_loop
    near 6 1e-4 0.1 'step 400'
    near 8 1e-2 20 'step 400'

    shows inputs
    near 3 1e-3 -0.24991 'y(1) ='
    near 5 1e-4 -0.24991 'y(1) ='

    # By hand: H = [1330, 480; 480, 200] at the start.
    shows newton
    near 6 1e-9 2290 'H v by ad_hvp'
    near 7 1e-9 880 'H v by ad_contract'
    near 9 1e-15 0 'step 6'

    # v(1) = c coth(sqrt(g k) + arcoth(20 / c)), c = sqrt(g / k), and its derivatives.
    shows check
    near 2 1e-4 4.49727 'loss'
    near 6 1e-4 0.21217 'x[0]'
    near 6 1e-4 4.76817 'x[1]'

    # After one period the planets are back; energies are -1/(2 a), a = 1.
    shows states
    near 6 1e-7 0 '  1 0'
    near 5 1e-7 1 '  1 0'
    near 5 1e-7 0.5 '  0.5 0'
    near 3 1e-8 -0.5 '  -0.5'

    # Van der Pol's x(10), mu = 5, by SciPy's DOP853 at 1e-13.
    shows statistics
    near 6 1e-8 -1.158701266 'dopri5      1e-10'
    near 6 1e-8 -1.158701266 'dopri8      1e-10'

    shows classify
    near 3 0.05 0.97 'testing accuracy'

    # Abramowitz & Stegun, tables 9.1: J0 and -J1 at 1, the first zero and 10.
    shows opaque
    near 1 1e-8 -0.245935764 '-0.2459'
    near 1 1e-8 -0.043472746 '-0.0434'

    shows weights train "$dir/weights.safetensors"
    near 2 1e-3 0 'loss'
    shows weights use "$dir/weights.safetensors"
    near 2 0.02 0.841 'sin 0.841'
    near 2 0.02 -0.909 'sin -0.909'
    ;;
diffusion_digits)
    # Better than a Gaussian (3.203 bits), and samples that are digits.
    shows diffusion_digits --quick --out "$dir"
    near 2 0.15 2.954 'bits'
    near 5 0.02 0.995 'its accuracy'
    near 3 0.1 0.93 'diffusion, guided'

    # Both kinds of files: 1200 pictures of random greys, of 8x8 pixels with 17 and of 4x4 with 256.
    mkdir optdigits mnist
    awk 'BEGIN { for (i = 0; i < 1200; i++) { for (k = 0; k < 64; k++) printf "%d,", 17 * rand(); print i % 10 } }' >optdigits/optdigits.tra
    cp optdigits/optdigits.tra optdigits/optdigits.tes
    shows diffusion_digits --steps 2 --width 32 --held 20 --data optdigits --out "$dir"
    near 1 0 1200 '8x8 pixels with 17 greys'
    for kind in train t10k; do
        printf '\000\000\010\003\000\000\004\260\000\000\000\004\000\000\000\004' >mnist/$kind-images-idx3-ubyte
        LC_ALL=C awk 'BEGIN { for (i = 0; i < 1200 * 16; i++) printf "%c", 1 + 99 * rand() }' >>mnist/$kind-images-idx3-ubyte
        printf '\000\000\010\001\000\000\004\260' >mnist/$kind-labels-idx1-ubyte
        seq 120 | while read -r _; do printf '\000\001\002\003\004\005\006\007\010\011'; done >>mnist/$kind-labels-idx1-ubyte
    done
    shows diffusion_digits --steps 2 --width 32 --held 20 --data mnist --out "$dir"
    near 1 0 1200 '4x4 pixels with 256 greys'
    if "$examples/diffusion_digits" --data nowhere --out "$dir"; then
        echo "FAILED: there is no data, and no error"
        exit 1
    fi
    ;;
ornstein_uhlenbeck)
    # Gradients through stochastic solves beside exact maxima of the likelihood: differences in standard errors.
    shows ornstein_uhlenbeck --quick
    near 6 0.2 0 '  a     '
    near 6 0.2 0 '  m     '
    near 6 0.2 0 '  sigma '
    ;;
latent_sde)
    # The grid that judges the latent SDE against a Kalman filter, and a bound that is below what it bounds.
    shows latent_sde --quick
    filter=$(awk '/by a Kalman filter/ { print $5 }' output)
    near 5 0.01 "$filter" 'the best linear process'
    near 4 40 40.5 'the bound is'
    ;;
ffjord)
    # Beside Gaussians and the density that the stand-in is made of.
    shows ffjord --quick --out "$dir"
    near 4 1e-3 -5.685 'the true density'
    near 3 1e-3 -6.654 'a Gaussian'
    near 2 0.15 -6.2 'free'
    near 2 0.15 -6.27 'RNODE'
    near 2 0.2 -6.48 'OT-Flow'
    ;;
flow_matching)
    # Flows by three ways of training beside the true density; cheapest pairs are shorter, and ways straighter.
    shows flow_matching --quick --out "$dir"
    near 4 0.001 2.8363 'the true density'
    near 4 0.1 2.96 'maximum likelihood'
    near 4 0.1 2.95 'flow matching  '
    near 4 0.1 2.9 'transport matching'
    near 8 0.2 10.25 'flow matching  '
    near 8 0.2 3.03 'transport matching'
    ;;
digits_odenet)
    # Two adjoints that agree, one of them without anything kept.
    shows digits_odenet --quick --out "$dir"
    near 3 0.5 99.2 'ODE-Net'
    near 4 0.01 99.94 'nearest neighbour'
    near 2 0 0 'backsolve '
    near 5 1e-3 3.4e-4 'relative difference'
    ;;
mnist_odenet)
    # The residual network and its continuous twin beside a linear classifier; the solver keeps to its tolerance.
    shows mnist_odenet --quick --out "$dir"
    near 4 0.6 1.2 'linear '
    near 4 0.5 0.3 'ResNet '
    near 4 0.6 0.5 'ODE-Net '
    near 2 2e-4 2.2e-4 '1e-05 '
    ;;
climate)
    # Weather: a learned cycle is far better than the last day over four months, and than the cycle alone over a week.
    shows climate --quick --out "$dir"
    near 3 1e-3 0.506 'two harmonics'
    near 3 0.02 0.384 'neural ODE'
    near 6 0.02 0.399 'neural ODE'
    ;;
latent_ode_mujoco)
    # Gaps in oscillations: straight lines between what is seen, and a training that leaves a quarter of the variance.
    shows latent_ode_mujoco --quick --out "$dir"
    near 14 1e-3 0.0212 'straight lines'
    near 11 0.3 0.56 'latent ODE'
    ;;
shooting)
    # Swing-up: the minimum by SciPy's solve_bvp for Pontryagin's equations (1e-9), J = 0.805471589; 41 knots are 4e-6 above it.
    shows shooting --quick --out "$dir"
    near 3 1e-5 0.805471589 '    41 '
    near 5 5e-3 0 '    41 '
    near 7 1e-4 0.004416 'at the end'
    ;;
neural_cde)
    # Irregular series: better than chance (a third) by far, after a short training.
    shows neural_cde --quick --out "$dir"
    near 3 25 72 '50 %'
    ;;
latent_ode)
    # Spirals: what somebody reaches who knows the curves, and a forecast that is far better than the recurrent network's.
    shows latent_ode --quick --out "$dir"
    near 3 2e-3 0.0414 'curves known'
    near 4 2e-3 0.3029 'curves known'
    near 3 0.25 0.46 'latent ODE  '
    near 5 0.03 0.115 'latent ODE  '
    ;;
hamiltonian)
    # Learned energies: a symplectic method keeps what they are. The textbook is what the driven stand-in is made of.
    shows hamiltonian --quick --out "$dir"
    near 6 0.04 0.031 'hamiltonian           353'
    near 3 0.3 1.3 'plain          implicit_midpoint'
    near 3 0.03 0.03 'hamiltonian    implicit_midpoint'
    near 4 0.01 0.027 'textbook'
    ;;
lagrangian)
    # The true Lagrangian keeps the energy; a learned one keeps it better than a plain field.
    shows lagrangian --quick --out "$dir"
    near 4 0 0 'true'
    near 4 3 7.68 'lagrangian           1313'
    near 4 4 11.38 'plain                1346'
    ;;
ode_rnn)
    # Stays that are made up: better than the value before, and than chance (0.5) by far.
    shows ode_rnn --quick --out "$dir"
    near 7 0.03 0.985 'area under the ROC curve: ODE-RNN'
    near 8 0.03 0.985 'area under the ROC curve: logistic'
    near 7 2 14.9 'mean square error in 0.001: ODE-RNN'
    near 9 0.5 21.5 'mean square error in 0.001: the value before'
    if "$examples/ode_rnn" --data nowhere --out "$dir"; then
        echo "FAILED: there is no data, and no error"
        exit 1
    fi
    ;;
*)
    echo "FAILED: nothing is known of the example $2"
    exit 1
    ;;
esac
