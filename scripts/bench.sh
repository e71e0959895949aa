#!/usr/bin/env bash
# Every benchmark, then one table of ratios: what is required, what is aimed at, what was measured. It is printed and put
# into docs/benchmarks.md, with the machine and the date.
#
# Every number is a ratio against a baseline of the same run. The servers run on the first core that this process may use
# and the senders on the last, so that a machine with one core measures nothing; others' work on either core spoils it.
set -euo pipefail
cd "$(dirname "$0")/.."

results="$(realpath -m "${CARGO_TARGET_DIR:-target}")/bench"
rm -rf "$results"
export CRITERION_HOME="$results/criterion" CORELANE_BENCH_RESULTS="$results"

step() { printf '\n== [%4d s] %s\n' "$SECONDS" "$*"; }

load="$(cut -d' ' -f1 /proc/loadavg)"
revision="$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"

step "build"
cargo bench --locked --package corelane-benches --no-run

for bench in decode telemetry_ring pool rollup stream_throughput; do
    step "$bench"
    cargo bench --locked --package corelane-benches --bench "$bench" -- --quiet
done

step "table"
cargo run --locked --quiet --release --package corelane-benches --bin bench-table -- \
    "$results" docs/benchmarks.md "$revision" "$load"
