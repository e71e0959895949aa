#!/usr/bin/env bash
# Runs the tests of the crates that carry unsafe code or shared memory under the checkers this machine has:
#
#   1. loom: every interleaving of small models of the ring, with every value a relaxed load may return. It models the
#      fences; it is what proves their order, and needs no nightly.
#   2. Miri or the compiler's sanitizers, where there is a nightly; else it says what it skips.
#
# Exits non-zero when a checker finds something. Takes about five minutes on two cores with nothing built yet, then one.
set -euo pipefail
cd "$(dirname "$0")/.."

# One line a check: a crate, a sanitizer, whether Miri takes its place where the nightly has it, and, if not all tests of the
# crate are to run, the part of their names that the others lack.
#
# thread: ThreadSanitizer does not model `fence`. The ring's slots are atomics, which never race, so it cannot raise a
# false alarm over them, and cannot see a fence that is missing either: that is loom's part. What it does find is memory
# that two threads reach without any atomics, for example a page of the lane that both ends hold (Miri leaves the lane's
# tests out).
# address: for code on one thread, where the danger is a pointer out of bounds or into freed memory.
#
# A shard is io_uring and glommio, which Miri cannot run; the sanitizers run whole shards, with connections. Lanes of boxes
# (for pages, and for events) keep them in atomic cells of a dependency that turns pointers into integers, which Miri
# refuses.
checks="
corelane-telemetry thread miri
corelane-telemetry thread sanitizer lane
corelane-pool address miri
corelane-wire address miri
corelane-shard thread sanitizer
corelane-shard address sanitizer
"

target_dir="${CARGO_TARGET_DIR:-target}/sanitize"
# Asking for a toolchain that is not there must not download one.
export RUSTUP_AUTO_INSTALL=0

step() { printf '\n== sanitize: %s\n' "$*"; }

step "loom, corelane-telemetry"
RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$target_dir/loom" CARGO_PROFILE_RELEASE_LTO=off \
    cargo test -p corelane-telemetry --release --test loom

# Interpreted code is some hundred times slower: the random tests get few cases.
run_miri() {
    MIRIFLAGS="-Zmiri-disable-isolation" PROPTEST_CASES="${PROPTEST_CASES:-4}" CARGO_TARGET_DIR="$target_dir/miri" \
        cargo +nightly miri test -p "$1" --lib --tests
}

# `std` comes compiled without the sanitizer, so ThreadSanitizer misses what orders the test harness's own accesses and
# calls them races. The same holds for the fence with which the last owner of an Arc begins to drop it. Nothing else is
# hushed: with two test threads or more, the main thread runs the harness alone.
thread_suppressions="race:std::rt::lang_start
race:test::event::CompletedTest
race:drop_slow"
# A test in which a receive ring forgets its buffers on purpose, because the kernel may still write to them.
leak_suppressions="leak:unless_an_operation_may_still_fill_them"

run_sanitizer() {
    local package="$1" sanitizer="$2" filter="$3" dir="$target_dir/$2"
    mkdir -p "$dir"
    printf '%s\n' "$thread_suppressions" >"$dir/suppressions"
    printf '%s\n' "$leak_suppressions" >"$dir/leak_suppressions"
    # With an explicit target, build scripts and procedural macros stay without the sanitizer.
    RUSTFLAGS="-Zsanitizer=$sanitizer -Cunsafe-allow-abi-mismatch=sanitizer" CARGO_TARGET_DIR="$dir" \
        TSAN_OPTIONS="suppressions=$(realpath "$dir")/suppressions" \
        LSAN_OPTIONS="suppressions=$(realpath "$dir")/leak_suppressions" PROPTEST_CASES="${PROPTEST_CASES:-64}" \
        cargo +nightly test -p "$package" --lib --tests --target "$host" -- --test-threads=2 "$filter"
}

if ! cargo +nightly --version >/dev/null 2>&1; then
    step "SKIPPED Miri and the sanitizers: no nightly toolchain (rustup toolchain install nightly --component miri)"
    exit 0
fi
host="$(rustc +nightly -vV | sed -n 's/^host: //p')"
has_miri="$(cargo +nightly miri --version 2>/dev/null || true)"

while read -r package sanitizer tool filter; do
    [ -n "$package" ] || continue
    if [ "$tool" = miri ] && [ -n "$has_miri" ]; then
        step "Miri, $package"
        run_miri "$package"
    else
        step "$sanitizer sanitizer, $package $filter"
        run_sanitizer "$package" "$sanitizer" "$filter"
    fi
done <<<"$checks"
step "passed"
