#!/bin/sh
# Makes sure that what naru is built and tested with is there: Rust, and on Debian a few packages.
# Installs only what is missing. What it cannot install it names in one line.
set -eu

rust_needed=1.95

fail() {
    echo "prerequisites: $*" >&2
    exit 1
}

[ "$(uname -s)" = Linux ] || fail "naru is built on Linux; this is $(uname -s)"

links_c() { printf '#include <stdio.h>\nint main(void){return 0;}\n' | "$1" -x "$2" -o /dev/null - 2>/dev/null; }

missing=
need() { missing="$missing $*"; }
links_c cc c || need gcc libc6-dev
links_c c++ c++ || need g++
python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || need python3 python3-venv
[ -e /etc/ssl/certs/ca-certificates.crt ] || need ca-certificates

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then as_root=; else as_root=sudo; fi
    command -v apt-get >/dev/null || fail "please install:$missing (there is no apt-get here to do it)"
    if [ -n "$as_root" ] && ! sudo -n true 2>/dev/null; then
        fail "please run: sudo apt-get install$missing"
    fi
    echo "prerequisites: installing$missing" >&2
    # shellcheck disable=SC2086
    { $as_root apt-get -q update && $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q install -y --no-install-recommends $missing; } >&2 ||
        fail "apt-get could not install:$missing"
fi

command -v cargo >/dev/null || fail "please install Rust $rust_needed or newer (https://rustup.rs); there is no cargo in PATH"
rust_found=$(rustc --version | cut -d' ' -f2)
[ "$(printf '%s\n%s\n' "$rust_needed" "$rust_found" | sort -V | head -n 1)" = "$rust_needed" ] ||
    fail "naru needs Rust $rust_needed or newer, this is $rust_found; please run: rustup update stable"

# Asked for by name: prerequisites.sh fmt clippy
for component in "$@"; do
    cargo "$component" --version >/dev/null 2>&1 ||
        fail "please install cargo $component: rustup component add $component"
done
