#!/bin/sh
# The program in README.md compiles without warnings as C and as C++, runs, and prints a gradient; every other compiler at hand takes it too.
# usage: readme.sh SOURCE_ROOT BUILD_ROOT COMPILER...
set -eu
source=$1 build=$2
shift 2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# shellcheck disable=SC2016 # literal fences
sed -n '/^```c$/,/^```$/p' "$source/README.md" | sed '/^```/d' >"$dir/readme.c"
cp "$dir/readme.c" "$dir/readme.cpp"
# compiles FILE COMPILER...: without a warning, and the program prints a gradient.
compiles() {
    file=$1
    shift
    "$@" -Wall -Wextra -pedantic -Werror "-I$source" "$dir/$file" -o "$dir/readme" "-L$build" -lcostate "-Wl,-rpath,$build"
    "$dir/readme" | tee "$dir/output"
    grep -q '^dloss/dstiffness \[1\] -\{0,1\}[0-9.]*[1-9]' "$dir/output"
}
compiles readme.c "$@"
for compiler in gcc clang; do
    if command -v $compiler; then compiles readme.c $compiler -std=c11; fi
done
for compiler in g++ clang++; do
    if command -v $compiler; then compiles readme.cpp $compiler -std=c++11; fi
done
