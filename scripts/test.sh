#!/usr/bin/env bash
# Every check this repository has, in the order in which a mistake costs least to find. Stops at the first that fails.
#
# Needs what the README names: Linux, Rust, gcc, make, git, Python 3 with pip. What else it uses it installs into the
# target directory from the package registries; on Debian, as root, it installs pip itself if need be.
set -euo pipefail
cd "$(dirname "$0")/.."

target_dir="$(realpath -m "${CARGO_TARGET_DIR:-target}")"

step() { printf '\n== [%4d s] %s\n' "$SECONDS" "$*"; }

# Whole-server tests talk to the server with a stock CBOR library of another language: prints a Python that has it.
python_with_cbor2() {
    local dir="$target_dir/test-venv"
    if "$dir/bin/python" -c 'import cbor2' 2>/dev/null; then
        :
    elif python3 -m venv "$dir" >&2 && "$dir/bin/python" -m pip install --quiet cbor2 >&2; then
        :
    else
        # Debian ships Python without ensurepip: no environment then, a directory of packages does as well.
        rm -rf "$dir"
        if ! python3 -m pip --version >/dev/null 2>&1; then
            apt-get update -q >&2 && apt-get install -qy python3-pip >&2
        fi
        python3 -m pip install --quiet --target "$dir/packages" cbor2 >&2
        mkdir -p "$dir/bin"
        printf '#!/bin/sh\nPYTHONPATH="%s" exec python3 "$@"\n' "$dir/packages" >"$dir/bin/python"
        chmod +x "$dir/bin/python"
        "$dir/bin/python" -c 'import cbor2'
    fi
    printf '%s\n' "$dir/bin/python"
}

# Prints a cargo-deny of the series that deny.toml is written for. Built without optimization: it runs for a second.
cargo_deny() {
    local root="$target_dir/tools"
    if ! "$root/bin/cargo-deny" --version >/dev/null 2>&1; then
        CARGO_TARGET_DIR="$root/build" CARGO_PROFILE_DEV_DEBUG=0 \
            cargo install --quiet --debug --locked --version '^0.20' --root "$root" cargo-deny >&2
        rm -rf "$root/build"
    fi
    printf '%s\n' "$root/bin/cargo-deny"
}

step "format"
cargo fmt --check
cargo fmt --check --manifest-path crates/wire/fuzz/Cargo.toml

step "clippy, warnings are errors"
cargo clippy --locked --workspace --all-targets -- -D warnings

step "unit, integration and doc tests of the libraries, with debug assertions"
cargo test --locked --workspace --exclude corelane

step "the decoder's portable twin"
RUSTFLAGS="${RUSTFLAGS:-} --cfg corelane_portable" CARGO_TARGET_DIR="$target_dir/portable" \
    cargo test --locked -p corelane-wire --quiet

step "a Python with cbor2 for the whole-server tests"
CORELANE_TEST_PYTHON="$(python_with_cbor2)"
export CORELANE_TEST_PYTHON

step "release build"
cargo build --locked --release

step "whole-server tests, optimized as it is shipped"
cargo test --locked --release -p corelane

step "the load script for a few seconds"
scripts/loadgen.sh --duration 5s --max-loss 0 --max-rejected 0

step "every benchmark once, so that none rots"
cargo bench --locked -p corelane-benches -- --test >"$target_dir/bench-test.log" 2>&1 || { tail -50 "$target_dir/bench-test.log"; exit 1; }

step "documentation, warnings are errors"
RUSTDOCFLAGS=-Dwarnings cargo doc --locked --workspace --no-deps

step "loom, Miri or the sanitizers"
scripts/sanitize.sh

step "cargo-deny"
deny="$(cargo_deny)"

step "licences, bans and sources of every dependency"
"$deny" --locked check --hide-inclusion-graph licenses bans sources

step "advisories"
# The database is a git repository, which a machine without free network cannot reach.
if timeout 60 "$deny" fetch db >/dev/null 2>&1; then
    "$deny" --locked check advisories
else
    echo "SKIPPED: the advisory database cannot be reached from here; run \`cargo deny check advisories\` where it can"
fi

step "all checks passed"
