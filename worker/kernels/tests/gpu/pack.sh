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
agree=$(cargo build -q --message-format=json -p naru-engine --features cuda --example agree | built agree)
worker=$(cargo build -q --message-format=json -p naru-worker | built naru-worker)
# The same without machine code: what it runs it compiles by itself.
bare=$(NARU_CACHE_DIR=$(mktemp -d) cargo test --no-run -q --message-format=json -p naru-kernels --features cuda --test agreement | built agreement)
strip -o "$folder/agreement-bare" "$bare"
agreement=$(cargo test --no-run -q --message-format=json -p naru-kernels --features cuda --test agreement | built agreement)
strip -o "$folder/agreement" "$agreement"
strip -o "$folder/naru-worker" "$worker"
strip -o "$folder/agree" "$agree"
cp worker/kernels/tests/gpu/run.sh worker/kernels/tests/gpu/peers.py worker/kernels/tests/gpu/merge.py \
    worker/kernels/tests/gpu/load.py worker/kernels/tests/gpu/ranks.py "$folder"
# Text in four languages and what it was answered, as tokens of SmolLM2.
python3 - <<'END' >"$folder/SmolLM2-135M-Instruct.Q4_1.texts"
import gzip, json
records = [json.loads(line) for line in gzip.open("tests/peers/fixtures/smollm2.jsonl.gz", "rt", encoding="utf-8")][1:]
lines = {(one["language"], one["line"]): one["ids"] for one in records if "line" in one}
for one in records:
    if "greedy" in one:
        print(*lines[one["language"], one["prompt"]], *(token["id"] for token in one["greedy"]))
END
git rev-parse HEAD >"$folder/commit"
(cd "$folder" && sha256sum agreement agreement-bare agree naru-worker >sha256)
echo "packed into $folder:"
ls -l "$folder"
