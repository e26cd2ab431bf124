#!/bin/sh
# Replays the committed corpus of every fuzz target, and then fuzzes: run.sh SECONDS, shared among the targets.
# Runs on stable Rust. An input that breaks something is written to tests/fuzz/artifacts and named.
set -eu

seconds=${1:?usage: run.sh SECONDS}
version=0.13.2
cd "$(dirname "$0")"
cache=${NARU_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/naru}
target=${CARGO_TARGET_DIR:-../../target}/fuzz
export CARGO_TARGET_DIR="$target"

if ! "$cache/cargo/bin/cargo-fuzz" --version 2>/dev/null | grep -q " $version\$"; then
    cargo install --quiet --locked --root "$cache/cargo" --target-dir "$target/install" "cargo-fuzz@$version" || {
        echo "fuzz: cargo could not install cargo-fuzz $version: is the crate registry reachable?" >&2
        exit 1
    }
fi

fuzz() {
    "$cache/cargo/bin/cargo-fuzz" "$@"
}

targets=$(fuzz list --fuzz-dir .)
count=$(echo "$targets" | wc -l)
# To the fuzzer 0 means for ever.
each=$((seconds / count > 0 ? seconds / count : 1))
fuzz build --fuzz-dir . --target-dir "$target" --sanitizer none >&2
for name in $targets; do
    # What is found on the way goes to the first directory, outside the checkout; the second is the committed one.
    mkdir -p "$target/corpus/$name" artifacts
    fuzz run --fuzz-dir . --target-dir "$target" --sanitizer none "$name" \
        "$target/corpus/$name" "corpus/$name" -- \
        -max_total_time="$each" -timeout=10 -rss_limit_mb=2048 -print_final_stats=0 -verbosity=0 >&2
    echo "fuzz: $name: $(ls "corpus/$name" | wc -l) inputs replayed, then fuzzed for $each s, nothing broke"
done
