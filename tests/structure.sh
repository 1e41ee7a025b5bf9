#!/bin/sh
# structure.sh ROOT: what the tree has to keep to and no compiler checks. The rooms: autodiff includes nothing but itself; ode and nn
# include themselves, autodiff/autodiff.h and autodiff/extension.h; examples include public headers. No paths of one machine, no
# notes to self.
set -u
cd "$1" || exit 1
status=0
fail() {
    echo "$1"
    status=1
}

# may ROOM HEADER: whether files of the room may include the header (a path from the top).
may() {
    case "$1 $2" in
    "autodiff autodiff/"* | "ode ode/"* | "nn nn/"* | "examples examples/"*) ;;
    "ode autodiff/autodiff.h" | "ode autodiff/extension.h" | "nn autodiff/autodiff.h" | "nn autodiff/extension.h") ;;
    "examples costate.h" | "examples autodiff/autodiff.h" | "examples autodiff/extension.h" | "examples ode/ode.h" | "examples nn/nn.h") ;;
    *) return 1 ;;
    esac
}

seen=0
for room in autodiff ode nn examples; do
    for file in $(find "$room" -name '*.[ch]' -o -name '*.def' -o -name '*.inc'); do
        for name in $(sed -n 's/^[ \t]*#[ \t]*include[ \t]*["<]\([^">]*\)[">].*/\1/p' "$file"); do
            # As the compiler looks for it: beside the file, then from the top; what is in neither place is the system's.
            header=$(realpath -m --relative-to=. "$(dirname "$file")/$name")
            [ -e "$header" ] || header=$(realpath -m --relative-to=. "$name")
            [ -e "$header" ] || continue
            seen=$((seen + 1))
            may "$room" "$header" || fail "$file includes $header, which is out of bounds for $room/"
        done
    done
done
[ "$seen" -gt 0 ] || fail "no include found at all: this test is looking in the wrong place ($PWD)"

# ours PATTERN: lines of the project's own files that match.
ours() { grep -rnIE --exclude-dir=.git --exclude-dir='build*' --exclude-dir=out --exclude-dir=subprojects -e "$1" .; }

! ours '/wor[k]/|/hom[e]/[a-z]|/roo[t]/|/tm[p]/bash' || fail "paths of one machine (above)"
! ours '(TOD[O]|FIXM[E]|XX[X]|HAC[K])([^A-Za-z]|$)' || fail "notes to self (above): do it, or open an issue"
exit $status
