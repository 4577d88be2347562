#!/bin/bash
# The binary, found among the test's runfiles, reads the file that lies beside it there.
set -euo pipefail

expected=$'barley  3\nrye     2\noats    1\nwords of 3 letters or more'
actual=$(./harvest field.txt)
if [[ $actual != "$expected" ]]; then
    printf 'expected:\n%s\nbut harvest printed:\n%s\n' "$expected" "$actual"
    exit 1
fi
echo "harvest_test: the table is right"
