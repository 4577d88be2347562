#!/bin/bash
# The list that an action made of the tree artifact, and the tree itself among the runfiles.
set -euo pipefail

expected="./barley/row 1/line.txt holds 'and oats and rye'
./barley/row 3/line.txt holds ''
./empty.txt holds ''
./rye/row 2/line.txt holds 'and barley'"
actual=$(cat sheaves/inventory.txt)
if [[ $actual != "$expected" ]]; then
    printf 'expected:\n%s\nbut the inventory reads:\n%s\n' "$expected" "$actual"
    exit 1
fi
[[ -f sheaves/field/empty.txt && ! -s sheaves/field/empty.txt ]]
[[ $(cat "sheaves/field/rye/row 2/line.txt") == "and barley" ]]
echo "sheaves_test: the tree is complete"
