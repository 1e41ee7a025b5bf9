#!/bin/sh
# Data pointers carry their type: pointers to float and to double and NULL are taken, anything else does not compile, in C and in C++, with
# every compiler at hand. usage: typed.sh SOURCE_ROOT
set -u
source=$1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
fail() {
    echo "FAILED: $1"
    status=1
}
cat >"$work/pointers.txt" <<'PROGRAM'
#include <costate.h>
typedef struct {
    float *f;
    double *d;
    void *v;
    const void *cv;
    int *i;
    char *c;
    double **dd;
    long n;
} pointers;
void use(ad_tape *tape, pointers p, ad_program *program, ad_workspace *workspace);
void use(ad_tape *tape, pointers p, ad_program *program, ad_workspace *workspace)
{
    static const double wide[] = { 1, 2 };
    static const float narrow[] = { 1, 2 };
    float *narrow_out[] = { p.f };
    const float *narrow_in[] = { narrow };
    ad_shape shape = AD_SHAPE(2), rows = AD_SHAPE(AD_ROWS, 2);
    ad_var x = ad_param(tape, shape, wide), y = ad_concatenate(AD_VARS(x, ad_input(tape, shape, narrow)), 0);
    ad_input_rows(tape, rows, 1, p.d);
    ad_set(ad_input(tape, AD_SCALAR, NULL), 0, p.f);
    ad_constant(tape, shape, narrow);
    nn_array arrays[] = { nn_array_of(rows, narrow), nn_array_of(rows, p.d), nn_array_drawn(rows) };
    (void)arrays;
    ad_param(tape, shape, NULL);
    ad_input_rows(tape, rows, 0, NULL);
    ad_grad(y, AD_VARS(x), &y);
    ad_run_f32(program, workspace, 1, narrow_in, narrow_out);
    TRY;
}
PROGRAM
# compiles COMPILER:LANGUAGE:STANDARD STATEMENT
compiles() {
    compiler=${1%%:*} rest=${1#*:}
    "$compiler" -x "${rest%:*}" -std="${rest#*:}" -Wall -Wextra -Wpedantic -Werror "-I$source" -fsyntax-only "-DTRY=$2" "$work/pointers.txt"
}
languages=0
for pair in gcc:c:c11 g++:c++:c++11 clang:c:c11 clang++:c++:c++11; do
    command -v "${pair%%:*}" >/dev/null || continue
    languages=$((languages + 1))
    compiles "$pair" '(void)0' || fail "pointers to data with $pair"
    for pointer in v cv i c dd n; do
        for call in "ad_param(tape, shape, p.$pointer)" "ad_input(tape, shape, p.$pointer)" "ad_input_rows(tape, rows, 1, p.$pointer)" \
            "ad_set(x, 1, p.$pointer)" "ad_constant(tape, shape, p.$pointer)" "nn_array_of(rows, p.$pointer)"; do
            compiles "$pair" "$call" 2>/dev/null && fail "$pair takes $call"
        done
    done
    compiles "$pair" 'ad_run_f64(program, workspace, 1, narrow_in, narrow_out)' 2>/dev/null && fail "$pair runs floats as doubles"
done
[ "$languages" -gt 0 ] || fail "no compiler was found"
compiles gcc:c:c11 'ad_param(tape, shape, (double[]){ 1, 2 })' || fail "array literals as data"
if command -v g++ >/dev/null; then
    compiles g++:c++:c++11 'ad_grad(ad_concatenate({ x, ad_param(tape, shape, nullptr) }, 0), { x }, &y)' || fail "lists in braces"
fi
exit $status
