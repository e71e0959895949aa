#!/usr/bin/env bash
# Fuzzes the decoder and the framer: each target of crates/wire/fuzz for so many seconds, under AddressSanitizer and with
# debug assertions.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]       default: 600 seconds each of framing, judge, sequences
#
# Runs the tests of the portable twin first. What a run finds lies in
# the target directory, is the next run's start, and is never committed; the seeds in crates/wire/fuzz/corpus are read
# only. Prints executions and coverage. A crash ends its target, is kept under the target directory, and makes the exit
# status 1, after the other targets have run (status 137 of a target: it was killed from outside). Needs a nightly
# toolchain; installs cargo-fuzz into the target directory.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-600}"
[[ "$seconds" =~ ^[0-9]+$ ]] || { echo "usage: scripts/fuzz.sh [SECONDS [TARGET...]]" >&2; exit 2; }
shift $(($# > 0))
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(framing judge sequences)

fuzz_dir=crates/wire/fuzz
target_dir="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
found_dir="$target_dir/fuzz"
# Asking for a toolchain that is not there must not download one.
export RUSTUP_AUTO_INSTALL=0

step() { printf '\n== fuzz: %s\n' "$*"; }

cargo +nightly --version >/dev/null 2>&1 || {
    echo "scripts/fuzz.sh needs a nightly toolchain: rustup toolchain install nightly" >&2
    exit 1
}

# Puts a cargo-fuzz of the series that the manifest is written for on the path. Built without optimization.
add_cargo_fuzz() {
    local root="$target_dir/tools"
    if ! "$root/bin/cargo-fuzz" --version >/dev/null 2>&1; then
        CARGO_TARGET_DIR="$root/build" CARGO_PROFILE_DEV_DEBUG=0 \
            cargo install --quiet --debug --locked --version '^0.13' --root "$root" cargo-fuzz
        rm -rf "$root/build"
    fi
    PATH="$root/bin:$PATH"
}

# The last "name: number" of a log, 0 if there is none.
last_number() {
    grep -o "$1: *[0-9]*" "$2" | tail -n 1 | grep -o '[0-9]*$' || echo 0
}

step "tests of the portable twin"
RUSTFLAGS="--cfg corelane_portable" CARGO_TARGET_DIR="$target_dir/portable" \
    cargo test --quiet --locked -p corelane-wire --lib --tests

add_cargo_fuzz
build=(--fuzz-dir "$fuzz_dir" --target-dir "$found_dir/build")
step "build"
cargo +nightly fuzz build "${build[@]}"

failed=()
summary="$(printf '%-12s %14s %10s %10s %10s' target executions per_second edges features)"
for target in "${targets[@]}"; do
    step "$target, $seconds s"
    corpus="$found_dir/corpus/$target"
    log="$found_dir/$target.log"
    crashes="$found_dir/crashes/$target"
    mkdir -p "$corpus" "$crashes"
    options=(-max_total_time="$seconds" -max_len=4096 -timeout=10 -print_final_stats=1 "-artifact_prefix=$crashes/")
    [ ! -f "$fuzz_dir/$target.dict" ] || options+=("-dict=$fuzz_dir/$target.dict")
    # The first folder takes what is new.
    cargo +nightly fuzz run "${build[@]}" "$target" "$corpus" "$fuzz_dir/corpus/$target" -- "${options[@]}" \
        >"$log" 2>&1 || failed+=("$target (status $?)")
    summary+="$(printf '\n%-12s %14s %10s %10s %10s' "$target" \
        "$(last_number 'stat::number_of_executed_units' "$log")" \
        "$(last_number 'stat::average_exec_per_sec' "$log")" \
        "$(last_number 'cov' "$log")" "$(last_number 'ft' "$log")")"
    grep -E '^(==[0-9]+==ERROR|thread .* panicked|artifact_prefix)' -A 3 "$log" || true
done

step "$seconds s each"
echo "$summary"
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}; logs and inputs in $found_dir" >&2
    exit 1
fi
