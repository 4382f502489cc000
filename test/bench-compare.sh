#!/usr/bin/env bash
# Puts what a reading costs (decode, fold) and what a picture costs (build,
# encode) beside another commit, six rounds each, by benchstat.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${1:-}" ] || {
  echo "which commit to compare with? make bench-compare BASE=<commit or tag>"
  exit 1
}
test/tools.sh benchstat
base=.tools/base
git worktree remove --force $base 2>/dev/null || true
git worktree add --quiet --detach $base "$1"
trap 'git worktree remove --force $base' EXIT
rm -f .tools/base.txt .tools/this.txt
measure() {
  go test -run '^$' -bench '^Benchmark(JobsPage|RunnersPage|Fold|Counters|ListedAndFleet|Publish|Scrape)$' -benchmem -benchtime 0.3s \
    ./internal/gitlab ./internal/ledger ./internal/inventory ./collector
}
for round in 1 2 3 4 5 6; do
  echo "round $round of 6"
  (cd $base && measure) >>.tools/base.txt
  measure >>.tools/this.txt
done
cd .tools
./benchstat base.txt this.txt
