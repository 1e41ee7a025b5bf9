#!/bin/sh
# The program in README.md compiles without warnings, runs, and prints a gradient. usage: readme.sh SOURCE_ROOT BUILD_ROOT COMPILER...
set -eu
source=$1 build=$2
shift 2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# shellcheck disable=SC2016 # literal fences
sed -n '/^```c$/,/^```$/p' "$source/README.md" | sed '/^```/d' >"$dir/readme.c"
"$@" -Wall -Wextra -Wno-unused-parameter "-I$source" "$dir/readme.c" -o "$dir/readme" "-L$build" -lcostate "-Wl,-rpath,$build" 2>"$dir/warnings"
cat "$dir/warnings"
test ! -s "$dir/warnings"
"$dir/readme" | tee "$dir/output"
grep -q '^dloss/dstiffness \[1\] -\{0,1\}[0-9.]*[1-9]' "$dir/output"
