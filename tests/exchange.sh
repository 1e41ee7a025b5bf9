#!/bin/sh
# exchange.sh PACKAGE PROGRAM: files that go to and fro between costate and that package of Python. Skipped (77) where python3, or the
# program that COSTATE_PYTHON names, does not have it.
set -u
python=${COSTATE_PYTHON:-python3}
for package in numpy "$1"; do
    "$python" -c "import $package" 2>/dev/null && continue
    echo "SKIPPED: $python has no $package (COSTATE_PYTHON=... names another python)"
    exit 77
done
exec "$python" "$(dirname "$0")/exchange.py" "$@"
