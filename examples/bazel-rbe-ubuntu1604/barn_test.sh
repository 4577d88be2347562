#!/bin/bash
# Looks at what was built, and at where it runs.
set -euo pipefail

[[ $(<inventory.txt) == "4 crops" ]]
. /etc/os-release
echo "system: $PRETTY_NAME"
# An action gets no privilege and no network but its own loopback.
sandboxed=no
if grep -q '^NoNewPrivs:[[:space:]]*1$' /proc/self/status && ! grep -q eth /proc/net/dev; then
    sandboxed=yes
fi
echo "sandboxed: $sandboxed"
