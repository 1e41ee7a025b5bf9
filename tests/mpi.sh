#!/bin/sh
# Training by one, two and four processes: the same result to rounding, from run to run to the bit; a process that dies ends the job, and the
# checkpoint is whole. usage: mpi.sh PROGRAM
set -eu
ranks=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none # containers forbid it
export OMPI_MCA_plm_rsh_agent=sh # nothing is started on other machines, where there is no ssh either

# run N NAME ARGUMENTS...: N processes, with a directory of their own; their output goes to the file NAME.
run() {
    n=$1 name=$2
    shift 2
    mkdir -p "$dir/$name.d"
    mpirun -np "$n" "$ranks" "$dir/$name.d" "$@" >"$dir/$name"
}
run 1 one
run 2 two
run 4 four
run 4 again
cat "$dir/one" "$dir/two" "$dir/four" "$dir/again"
cmp "$dir/four" "$dir/again"
awk '{ loss = $4; sum = $6 } NR == 1 { first = loss; whole = sum }
    loss / first - 1 > 1e-9 || first / loss - 1 > 1e-9 || sum - whole > 1e-9 || whole - sum > 1e-9 { print "FAILED: ranks change the result"; exit 1 }' \
    "$dir/one" "$dir/two" "$dir/four"

if run 4 death die 2>"$dir/message"; then
    echo "FAILED: a process died, and the job did not fail"
    exit 1
fi
grep -qi 'signal 9' "$dir/message" || { cat "$dir/message" && exit 1; }
rm -f "$dir/death"
run 4 death
cat "$dir/death"
grep -q '^resumed [56]0 ' "$dir/death"
[ "$(cut -d ' ' -f 3- "$dir/death")" = "$(cut -d ' ' -f 3- "$dir/four")" ] || { echo "FAILED: going on gives another result" && exit 1; }
