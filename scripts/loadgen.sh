#!/usr/bin/env bash
# Load against a corelane server, measured on both sides: `corelane load`, with a server of its own unless one is named.
#
#   scripts/loadgen.sh                            80 Mbit/s (10 000 frames/s of 1 KB), 64 connections, 60 s
#   scripts/loadgen.sh --duration 30m             the same for longer; every flag of `corelane load` is passed on
#   scripts/loadgen.sh --target HOST:7600 [--control HOST:9600]     a server elsewhere
#   scripts/loadgen.sh --soak                     twice 30 minutes, or --duration: that load and irregular frames with
#                                                 bursts, both held against the limits that a server promises to keep
#   scripts/loadgen.sh --help                     the flags
#
# Prints one table a run and names the report beside it: HTML, JSON and an HdrHistogram log in the target directory's
# `load/`, or in the directory that CORELANE_LOAD_RESULTS names. Exit code 1 when a limit is broken or a frame is lost.
set -euo pipefail
cd "$(dirname "$0")/.."

target_dir="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
results="$(realpath -m "${CORELANE_LOAD_RESULTS:-$target_dir/load}")"
corelane="$target_dir/release/corelane"

has_target=no
soak=no
wants_help=no
flags=()
for flag in "$@"; do
    case "$flag" in
    --soak) soak=yes; continue ;;
    -h | --help) wants_help=yes ;;
    --target | --target=*) has_target=yes ;;
    esac
    flags+=("$flag")
done

cargo build --locked --quiet --release --package corelane
[ "$wants_help" = no ] || exec "$corelane" load --help
mkdir -p "$results"

# The core that a server of its own has its control plane on, so that the load takes no time from a data core.
on_last_core=()
cores="$(taskset -cp $$ | sed 's/.*: //')"
[ "$has_target" = yes ] || [[ "$cores" =~ ^[0-9]+$ ]] || on_last_core=(taskset -c "${cores##*[,-]}")

server=
server_flags=()
log="$(mktemp -d)"
stop_server() {
    [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true
    server=
}
trap 'stop_server; rm -rf "$log"' EXIT

# Settings in CORELANE_... variables, but for the ports, are the server's.
start_server() {
    : >"$log/ready"
    "$corelane" serve --listen 127.0.0.1:0 --control 127.0.0.1:0 >"$log/ready" 2>"$log/errors" &
    server=$!
    until grep -q '^corelane ready' "$log/ready"; do
        kill -0 "$server" 2>/dev/null || { cat "$log/errors" >&2; exit 1; }
        sleep 0.05
    done
    server_flags=(--target "$(sed -n 's/.* listen=\([^ ]*\).*/\1/p' "$log/ready")"
        --control "$(sed -n 's/.* control=\([^ ]*\).*/\1/p' "$log/ready")")
}

# run NAME FLAG...: one load, with its own server.
run() {
    local name="$1" status=0
    shift
    [ "$has_target" = yes ] || start_server
    "${on_last_core[@]}" "$corelane" load "${server_flags[@]}" --json "$results/$name.json" --hdr "$results/$name.hlog" \
        --html "$results/$name.html" "$@" || status=$?
    stop_server
    echo "report: $results/$name.html"
    return "$status"
}

if [ "$soak" = no ]; then
    run load "${flags[@]}"
    exit
fi

limits=(--max-loss 0 --max-rejected 0 --max-rss 140MB --max-rss-slope 2MB --max-allocs-per-second 1000 --max-cpu-spread 3)
status=0
echo "== steady"
run soak-steady --duration 30m "${limits[@]}" --max-p99 8ms "${flags[@]}" || status=1
echo
echo "== irregular"
run soak-irregular --duration 30m --mix irregular --burst 10x1s/30s "${limits[@]}" "${flags[@]}" || status=1
exit "$status"
