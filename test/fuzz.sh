#!/usr/bin/env bash
# Looks for new inputs, in each fuzz target for the count or time that is the
# argument. The committed inputs are run by go test, so `make test` has the same
# outcome each time; what is found here is committed beside them.
set -euo pipefail
cd "$(dirname "$0")/.."
grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' --exclude-dir=.tools . | while IFS=: read -r file func; do
  echo "$(dirname "$file") ${func#func }"
  out=$(go test -run='^$' -fuzz="^${func#func }\$" -fuzztime="$1" "$(dirname "$file")" 2>&1 </dev/null) || {
    echo "$out"
    exit 1
  }
done
