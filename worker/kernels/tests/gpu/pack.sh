#!/bin/sh
# Packs what a machine with a GPU, and nothing of ours, runs: test programs with the kernels in them.
#   pack.sh FOLDER      (after `make kernels`)
set -eu
folder=$1
root=$(CDPATH= cd -- "$(dirname -- "$0")/../../../.." && pwd)
cd "$root"
mkdir -p "$folder"
# The names of cargo's programs, as it reports them.
built() { sed -n "s/.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1; }
agreement=$(cargo test --no-run -q --message-format=json -p naru-kernels --features cuda --test agreement | built agreement)
agree=$(cargo build -q --message-format=json -p naru-engine --features cuda --example agree | built agree)
strip -o "$folder/agreement" "$agreement"
strip -o "$folder/agree" "$agree"
cp worker/kernels/tests/gpu/run.sh worker/kernels/tests/gpu/peers.py worker/kernels/tests/gpu/merge.py "$folder"
git rev-parse HEAD >"$folder/commit"
(cd "$folder" && sha256sum agreement agree >sha256)
echo "packed into $folder:"
ls -l "$folder"
