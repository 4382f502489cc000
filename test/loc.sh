#!/usr/bin/env bash
# Lines of product code by package, without tests, the simulator and test/.
# test/loc.sh [commit]: of a commit instead of the working tree.
set -euo pipefail
cd "$(git -C "$(dirname "$0")" rev-parse --show-toplevel)"
if [ $# -gt 0 ]; then list() { git ls-tree -r --name-only "$1"; }; show() { git show "$1:$2"; }
else list() { git ls-files --cached --others --exclude-standard; }; show() { cat "$2"; }; fi
commit=${1:-}
list "$commit" | grep '\.go$' | grep -vE '_test\.go$|^test/|^internal/gitlabsim/|/testdata/' | while read -r file; do
  if [ -n "$commit" ] || [ -f "$file" ]; then echo "$(dirname "$file") $(show "$commit" "$file" | wc -l)"; fi
done | awk '{n[$1] += $2; sum += $2} END {for (p in n) printf "%7d %s\n", n[p], p; printf "%7d total\n", sum}' | sort -k2
