#!/bin/sh
# package.sh PREFIX: the installation in PREFIX, wherever that was moved, as its users meet it, found through pkg-config alone. Every
# installed header compiles by itself as C and as C++, without warnings, with each compiler at hand; every function and object the headers
# declare is in the shared library, and nothing but the public prefixes; a C and a C++ program link with the shared and with the static
# library, and run.
set -u
prefix=$(cd "$1" && pwd) || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
fail() {
    echo "FAILED: $1"
    status=1
}

PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name costate.pc)")
export PKG_CONFIG_PATH
cflags=$(pkg-config --define-prefix --cflags costate) || exit 1
shared=$(pkg-config --define-prefix --libs costate)
static=$(pkg-config --define-prefix --static --libs costate)
libdir=$(pkg-config --define-prefix --variable=libdir costate)
headers=$(cd "$prefix/include/costate" && find . -name '*.h' | sed 's,^\./,,')
[ "$(pkg-config --define-prefix --modversion costate)" = 0.1.0 ] || fail "version of the pkg-config file"
for header in costate.h autodiff/autodiff.h autodiff/typed.h autodiff/extension.h ode/ode.h ode/sde.h ode/diffusion.h nn/nn.h nn/activations.h nn/attention.h nn/convolution.h nn/data.h nn/dropout.h nn/files.h nn/fit.h nn/layers.h nn/losses.h nn/model.h nn/normalisation.h nn/optimizers.h nn/parallel.h nn/residual.h nn/train.h; do
    [ -f "$prefix/include/costate/$header" ] || fail "$header is not installed"
done

strict="-Wall -Wextra -Wpedantic -Werror"
# compile COMPILER LANGUAGE STANDARD FILE...; the flags are lists of words.
# shellcheck disable=SC2086
compile() {
    compiler=$1 language=$2 standard=$3
    shift 3
    "$compiler" -x "$language" -std="$standard" $strict $cflags "$@"
}

compilers=0
for pair in gcc:c:c11 g++:c++:c++11 clang:c:c11 clang++:c++:c++11; do
    compiler=${pair%%:*} rest=${pair#*:}
    command -v "$compiler" >/dev/null || continue
    compilers=$((compilers + 1))
    for header in $headers; do
        printf '#include <%s>\n#include <%s>\n' "$header" "$header" >"$work/header.txt"
        compile "$compiler" "${rest%:*}" "${rest#*:}" -fsyntax-only "$work/header.txt" || fail "$header with $compiler"
    done
done
[ "$compilers" -ge 2 ] || fail "a C and a C++ compiler are needed"

# What the headers declare, against what the library exports.
echo '#include <costate.h>
#include <autodiff/extension.h>' >"$work/all.c"
compile gcc c c11 -E "$work/all.c" | sed -n '/^# /!p' | tr '\n' ' ' |
    sed 's/([^()]*)/()/g; s/([^()]*)/()/g; s/{[^{}]*}/{}/g; s/{[^{}]*}/{}/g; s/;/;\n/g' >"$work/declarations"
{
    grep -v typedef "$work/declarations" | grep -oE '\b(ad|ode|sde|nn)_[a-z0-9_]+ *\(' | tr -d ' ('
    grep '^ *extern' "$work/declarations" | grep -v '(' | sed 's/^[^,;]* \**\([a-z0-9_]*[,;]\)/\1/' | grep -oE '(ad|ode|sde|nn)_[a-z0-9_]+'
} | sort -u >"$work/declared"
nm -D --defined-only "$libdir/libcostate.so" | awk '$2 != "A" { print $3 }' | sort -u >"$work/exported"
[ "$(wc -l <"$work/declared")" -gt 100 ] || fail "fewer than 100 declarations found in the headers"
missing=$(comm -23 "$work/declared" "$work/exported")
[ -z "$missing" ] || fail "declared in a header, not in the library: $(echo "$missing" | tr '\n' ' ')"
foreign=$(grep -vE '^(ad|ode|sde|nn)_' "$work/exported")
[ -z "$foreign" ] || fail "exported without a public prefix: $(echo "$foreign" | tr '\n' ' ')"

# The same program in both languages: dy/dt = -y from 1 to exp(-1), and its derivative by y(0), which is the same number.
cat >"$work/program.txt" <<'PROGRAM'
#include <costate.h>
#include <math.h>
#include <stdio.h>
static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_neg(y);
}
int main(void)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_shape shape;
    ad_var y0, y1, slope;
    double one = 1;
    shape.rank = 2, shape.dim[0] = AD_ROWS, shape.dim[1] = 1;
    y0 = ad_input_rows(tape, shape, 1, &one);
    y1 = ode_solve_final(decay, NULL, y0, 0, NULL, ode_interval(tape, 0, 1), NULL);
    ad_grad(ad_sum_all(y1), 1, &y0, &slope);
    printf("y(1) = %.6f, dy(1)/dy(0) = %.6f, %s\n", ad_item(y1), ad_item(slope), nn_optimizer_name(&nn_adam));
    if (ad_tape_error(tape)) printf("%s\n", ad_tape_error(tape));
    one = fabs(ad_item(y1) - exp(-1.0)) + fabs(ad_item(slope) - exp(-1.0));
    ad_tape_free(tape);
    return !(one < 1e-4);
}
PROGRAM
# program LANGUAGE COMPILER STANDARD KIND LIBRARIES: builds, runs, and looks at what it was linked with.
# shellcheck disable=SC2086
program() {
    name="$work/program-$1-$4"
    if ! compile "$2" "$1" "$3" -c -o "$name.o" "$work/program.txt" || ! "$2" -o "$name" "$name.o" $5; then
        fail "$1 program with the $4 library: build"
        return
    fi
    if readelf -d "$name" | grep -q libcostate; then kind=shared; else kind=static; fi
    [ "$kind" = "$4" ] || fail "$1 program meant to be $4 is $kind"
    LD_LIBRARY_PATH="$libdir" "$name" || fail "$1 program with the $4 library: run"
}
program c gcc c11 shared "$shared"
program c++ g++ c++11 shared "$shared"
rm -f "$libdir"/libcostate.so*
program c gcc c11 static "$static"
program c++ g++ c++11 static "$static"
exit $status
