#!/usr/bin/env bash
# Attacks and faults against a real server, each row with its figure: the table of docs/operations.md, played in full.
#
#   scripts/chaos.sh [ROW...]        a ROW is a part of a test's name; default: all of them
#
# Loopback and own network namespaces only (the row with a cut link needs root). Ends by itself, after some fifteen minutes.
# The tests play the same rows small.
set -euo pipefail
cd "$(dirname "$0")/.."

log="$(mktemp)"
trap 'rm -f "$log"' EXIT

# 5 000 peers and twice as many sockets.
ulimit -n "$(ulimit -Hn)"
cargo test --locked --release -p corelane --test alone --no-run
status=0
# The other tests of that program are not rows.
CORELANE_CHAOS=full cargo test --locked --release -p corelane --test alone -- \
    --test-threads 1 --nocapture --skip allocations:: --skip memory:: "$@" 2>&1 |
    tee "$log" | grep -E '^(test |CHAOS|SKIPPED|thread .* panicked)' || status=1
grep -qE '^test result: FAILED' "$log" && status=1

echo
echo "| attack | held |"
echo "| --- | --- |"
grep -oE 'CHAOS \| .*' "$log" | sed 's/^CHAOS \(.*\)$/\1 |/'
exit "$status"
