#!/bin/sh
# The examples that train on rows: first by one process, with all that examples.sh knows of them, then by two. What two tell is what one tells with
# the same batches, up to what rounding makes of some hundred updates; of stochastic solves, where each process has paths of its own, up to the
# noise of these.
# usage: mpi_examples.sh DIRECTORY_OF_THE_PROGRAMS NAME
set -eu
examples=$(cd "$1" && pwd)
alone=$(cd "$(dirname "$0")" && pwd)/examples.sh
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none # containers forbid it
export OMPI_MCA_mpi_yield_when_idle=1 # who waits leaves a processor to who works
export OMPI_MCA_plm_rsh_agent=sh # nothing is started on other machines, where there is no ssh either

# both PROGRAM ARGUMENTS...: by one process and by two.
both() {
    echo "== $*"
    program=$1
    shift
    if [ "$program" = cnf_2d ]; then
        "$examples/$program" "$@" --out "$dir" >one 2>messages || { cat messages && exit 1; }
    else
        "$alone" "$examples" "$program" "$dir/one"
    fi
    mpirun -np 2 "$examples/$program" "$@" --out "$dir" >two 2>messages || { cat messages && exit 1; }
}
# same FIELD TOLERANCE PATTERN: the number in this field of the last line with the pattern, by both.
same() {
    for output in one two; do
        awk -v field="$1" -v pattern="$3" 'index($0, pattern) { got = $field } END { gsub(/,/, "", got); print got }' $output
    done >numbers
    awk -v tolerance="$2" -v pattern="$3" '{ x[NR] = $1 } END { d = x[1] - x[2]
        if (x[1] == "" || d > tolerance || d < -tolerance) {
            print "FAILED: \"" pattern "\": " x[1] " by one process, " x[2] " by two"; exit 1 } }' numbers
}

case $2 in
cnf_2d)
    both cnf_2d --steps 10 --batch 64 --threads 1
    same 3 0.002 'the flow '
    ;;
digits_odenet)
    both digits_odenet --quick --threads 1
    same 3 0.3 'ODE-Net'
    ;;
mnist_odenet)
    both mnist_odenet --quick --threads 1
    same 4 1.5 'ODE-Net '
    ;;
neural_cde)
    both neural_cde --quick
    same 3 8 '50 %'
    ;;
latent_ode_mujoco)
    both latent_ode_mujoco --quick
    same 11 0.02 'latent ODE'
    ;;
latent_ode)
    both latent_ode --quick --threads 1
    same 5 0.005 'latent ODE  '
    ;;
ode_rnn)
    both ode_rnn --quick --threads 1
    same 7 0.02 'mean square error in 0.001: ODE-RNN'
    ;;
climate)
    both climate --quick
    same 3 0.002 'neural ODE'
    ;;
hamiltonian)
    both hamiltonian --quick
    same 6 5e-4 'hamiltonian           353'
    ;;
lagrangian)
    both lagrangian --quick
    same 6 5e-4 'lagrangian            353'
    ;;
ffjord)
    both ffjord --quick --threads 1
    same 2 0.02 'RNODE'
    same 2 0.02 'OT-Flow'
    ;;
flow_matching)
    both flow_matching --quick --threads 1
    same 4 0.02 'maximum likelihood'
    same 4 0.02 'transport matching'
    ;;
diffusion_digits)
    both diffusion_digits --quick --threads 1
    same 2 0.05 'bits'
    ;;
ornstein_uhlenbeck)
    both ornstein_uhlenbeck --quick --threads 1
    same 4 0.01 '  sigma '
    ;;
latent_sde)
    both latent_sde --quick --threads 1
    same 4 2 'latent SDE, exact'
    ;;
*)
    echo "FAILED: nothing is known of the example $2"
    exit 1
    ;;
esac
