#!/bin/bash
set -euo pipefail
mkdir -p "$TEST_UNDECLARED_OUTPUTS_DIR/deep"
echo "found by nobody else" > "$TEST_UNDECLARED_OUTPUTS_DIR/deep/report.txt"
echo "a line about it" > "$TEST_UNDECLARED_OUTPUTS_ANNOTATIONS_DIR/one.part"
# What a test may count on.
[[ -d $TEST_TMPDIR && -w $TEST_TMPDIR && -n $TEST_SRCDIR ]]
