#!/bin/sh
# circles.sh LIBRARY: files of the static library must not need each other in a circle. Each symbol that a file needs is an arrow to
# the file that defines it. Files that need nothing (any more) are taken away until none is left, or only circles and what leads there.
set -eu
nm -A -g "$1" 2>/dev/null | awk '
    # archive:member.o:address kind symbol, or archive:member.o: U symbol
    {
        split($1, place, ":")
        file = place[2]
        sub(/\.c\.o$|\.o$/, "", file)
        kind = $(NF - 1)
        symbol = $NF
        if (kind == "U") needs[file, ++count[file]] = symbol
        else if (kind ~ /[TDRBC]/) home[symbol] = file
        files[file] = 1
    }
    END {
        for (file in files) {
            total++
            for (k = 1; k <= count[file]; k++) {
                other = home[needs[file, k]]
                if (other != "" && other != file) arrow[file, other] = needs[file, k]
            }
        }
        if (total < 50) {
            print "only " total + 0 " files found in the library: this test is looking in the wrong place"
            exit 1
        }
        do {
            taken = 0
            for (file in files) {
                free = 1
                for (other in files) if ((file, other) in arrow) free = 0
                if (!free) continue
                delete files[file]
                taken = 1
            }
        } while (taken)
        # Of what is left, files that nobody needs only lead to a circle.
        do {
            taken = 0
            for (file in files) {
                needed = 0
                for (other in files) if ((other, file) in arrow) needed = 1
                if (needed) continue
                delete files[file]
                taken = 1
            }
        } while (taken)
        for (file in files)
            for (other in files)
                if ((file, other) in arrow) {
                    print "circle: " file " needs " other " (" arrow[file, other] ")"
                    found = 1
                }
        exit found
    }'
