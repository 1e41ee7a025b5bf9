#!/bin/sh
# What README.md says after "meson install": its very line compiles its program with what was installed, and the program runs. A program that
# uses the C library's mathematics links too. usage: install.sh SOURCE_ROOT BUILD_ROOT
set -eu
source=$1 build=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
meson install -C "$build" --no-rebuild --quiet --destdir "$dir/root"

# The environment stands for an installation in its final place.
pc=$(find "$dir/root" -name costate.pc)
PKG_CONFIG_PATH=$(dirname "$pc")
PKG_CONFIG_SYSROOT_DIR=$dir/root
LD_LIBRARY_PATH=$(dirname "$(find "$dir/root" -name libcostate.so)")
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR LD_LIBRARY_PATH

line=$(sed -n 's/^    \(cc .*costate)\).*/\1/p' "$source/README.md")
[ "$(echo "$line" | wc -l)" = 1 ] && [ -n "$line" ]
# shellcheck disable=SC2016 # literal fences
sed -n '/^```c$/,/^```$/p' "$source/README.md" | sed '/^```/d' >"$dir/pendulum.c"
cd "$dir"
echo "$line"
sh -ec "$line"
./a.out | tee output
grep -q '^dloss/dstiffness \[1\] -\{0,1\}[0-9.]*[1-9]' output

cat >pendulum.c <<'PROGRAM'
#include <costate.h>
#include <math.h>
int main(int argc, char **argv)
{
    (void)argv;
    return ad_valid(ad_scalar(NULL, 0)) || cosh((double)argc) < 1;
}
PROGRAM
sh -ec "$line"
./a.out
