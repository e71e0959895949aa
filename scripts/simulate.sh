#!/usr/bin/env bash
# Whole shards on a simulated kernel, network and clock: seeds one after the other, until time is up or one fails.
#
#   scripts/simulate.sh [--seconds N]     so long (default: 60), from a first seed that differs each time
#   scripts/simulate.sh --from SEED       from this seed on
#   scripts/simulate.sh --seed SEED       this seed alone: it fails at the same step each time
#
# Prints seeds, steps, connections and simulated hours a minute; a seed that fails, its step and what was wrong, and exits
# with 1. Debug assertions are on.
set -euo pipefail
cd "$(dirname "$0")/.."

case " $* " in
*" --seed "* | *" --from "*) first=() ;;
*) first=(--from "$(date +%s)000") ;;
esac
exec cargo run --locked --quiet --package corelane-simulator --example simulate -- "${first[@]}" "$@"
