#!/bin/sh
# structure.sh ROOT: what the tree has to keep to and no compiler checks. The rooms: autodiff includes nothing but itself; ode and nn
# include themselves, autodiff/autodiff.h and autodiff/extension.h; examples include public headers. Inside a room, includes go to the
# same folder or to a lower one. No paths of one machine, no notes to self.
set -u
cd "$1" || exit 1
status=0
fail() {
    echo "$1"
    status=1
}

# One line for every include of the project's own files: room, file, header (both from the top). As the compiler looks for it: beside the
# file, then from the top; what is in neither place is the system's.
includes() {
    { find costate.h autodiff ode nn examples -type f; echo; grep -rE '^[ \t]*#[ \t]*include' autodiff ode nn examples \
        --include='*.[ch]' --include='*.def' --include='*.inc'; } | awk '
        function whole(path,    n, part, i, kept, out) {
            n = split(path, part, "/")
            kept = 0
            for (i = 1; i <= n; i++)
                if (part[i] == "..") kept--
                else if (part[i] != ".") out[++kept] = part[i]
            path = out[1]
            for (i = 2; i <= kept; i++) path = path "/" out[i]
            return path
        }
        listed == 0 && $0 != "" { present[$0] = 1; next }
        $0 == "" { listed = 1; next }
        {
            file = $0
            sub(/:.*/, "", file)
            if (!match($0, /["<][^">]*[">]/)) next
            name = substr($0, RSTART + 1, RLENGTH - 2)
            folder = file
            sub(/[^\/]*$/, "", folder)
            room = file
            sub(/\/.*/, "", room)
            header = whole(folder name)
            if (!(header in present)) header = whole(name)
            if (header in present) print room, file, header
        }'
}

# Of those lines, the ones that leave their room by another way than the public headers.
trespassing() {
    while read -r room file header; do
        case "$room $header" in
        "autodiff autodiff/"* | "ode ode/"* | "nn nn/"* | "examples examples/"*) ;;
        "ode autodiff/autodiff.h" | "ode autodiff/extension.h" | "nn autodiff/autodiff.h" | "nn autodiff/extension.h") ;;
        "examples costate.h" | "examples autodiff/autodiff.h" | "examples autodiff/extension.h" | "examples ode/ode.h" | "examples ode/sde.h" | "examples ode/diffusion.h" | "examples nn/nn.h" | "examples nn/mpi.h") ;;
        *) echo "$file includes $header, which is out of bounds for $room/" ;;
        esac
    done
}

# Storeys: room, then its folders from the lowest up. Folders joined by = are side by side, and do not see each other.
storeys="
autodiff base tape derive=kernels compile native plan run scan
ode noise field step methods march trajectory adjoints solve diffusion
nn base model layers data train mpi
"

# Of the lines of includes, those that go upwards, or to a folder that has no storey. Public headers belong to all storeys.
upwards() {
    awk -v storeys="$storeys" '
        BEGIN {
            rooms = split(storeys, line, "\n")
            for (i = 1; i <= rooms; i++) {
                folders = split(line[i], word, " ")
                for (k = 2; k <= folders; k++) {
                    beside = split(word[k], folder, "=")
                    for (j = 1; j <= beside; j++) storey[word[1] "/" folder[j]] = k
                }
            }
        }
        function place(file,    part) { return split(file, part, "/") > 2 ? part[1] "/" part[2] : "" }
        $1 ~ /^(autodiff|ode|nn)$/ {
            from = place($2)
            to = place($3)
            if (from != "" && !(from in storey)) print $2 " is in a folder without a storey (tests/structure.sh has the table)"
            else if (to == "" || to == from || index(to, $1 "/") != 1) next
            else if (from == "" || !(to in storey) || storey[to] >= storey[from]) print $2 " includes " $3 ", which is not below it"
        }'
}

# Lines of the project's own files that match.
ours() { grep -rnIE --exclude=.git --exclude-dir=.git --exclude-dir='build*' --exclude-dir=out --exclude-dir=subprojects -e "$1" .; }

includes=$(includes)
[ -n "$includes" ] || fail "no include found at all: this test is looking in the wrong place ($PWD)"
trespassing=$(echo "$includes" | trespassing)
[ -z "$trespassing" ] || fail "$trespassing"
upwards=$(echo "$includes" | upwards | sort -u)
[ -z "$upwards" ] || fail "$upwards"
! ours '/wor[k]/|/hom[e]/[a-z]|/roo[t]/|/tm[p]/bash' || fail "paths of one machine (above)"
! ours '(^|[^A-Za-z])(TOD[O]|FIXM[E]|XX[X]|HAC[K])([^A-Za-z]|$)' || fail "notes to self (above): do it, or open an issue"
# Every public function of autodiff/ is called wrongly somewhere.
functions=$(sed -n 's/^[a-z][^#(]*[ *]\(ad_[a-z0-9_]*\)(.*/\1/p' autodiff/autodiff.h autodiff/extension.h | sort -u)
[ -n "$functions" ] || fail "no public function found at all: this test is looking in the wrong place ($PWD)"
for function in $functions; do
    grep -q "\\b$function(" tests/autodiff/test_refused.c || fail "$function is not in tests/autodiff/test_refused.c: what does it do with NULL, or a stale variable?"
done
exit $status
