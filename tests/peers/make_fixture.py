#!/usr/bin/env python3
"""Asks the peer (llama.cpp, as packaged by xllamacpp) what naru should say, and writes it down.

For one model: the token ids of every line of tests/peers/text, and for 40 prompts picked from those lines by seed,
ten in each of four languages, the peer's 32 greedy tokens with the logarithm of the probability of each and of its
nearest rivals. Nothing is filtered: what the seed picks is what is written.

    make_fixture.py MODEL.gguf tests/peers/fixtures/NAME.jsonl.gz [--float]

--float is for an F32 copy of a quantised model: the peer then keeps keys and values as F32, without flash attention, and
so computes all in floating point; and only the lines that prompts are made of are written, since the quantised model's
fixture has the ids of all.

`tests/tests/peer.rs` reads the result. Run it again only when a model, a text or the peer's version changes.
"""

import gzip
import hashlib
import importlib.metadata
import json
import random
import sys
import urllib.request
from pathlib import Path

SEED = 20261122
PROMPTS_PER_LANGUAGE = 10
GREEDY_TOKENS = 32
RIVALS = 8
LANGUAGES = {"en": "xquad-en", "ko": "klue-sts-ko", "ar": "xquad-ar", "th": "xquad-th"}
TEXT = Path(__file__).parent / "text"


def lines(language):
    """Every text of one language, in the order of the file; the test walks the file the same way."""
    for row in (TEXT / f"{LANGUAGES[language]}.jsonl").read_text(encoding="utf-8").split("\n"):
        if not row:
            continue
        row = json.loads(row)
        if "context" in row:
            yield row["context"]
            yield from row["questions"]
        else:
            yield row["a"]
            yield row["b"]


class Peer:
    """llama.cpp's own HTTP server in this process."""

    def __init__(self, model, floats):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.n_ctx = 8192
        params.n_parallel = 1
        params.cpuparams.n_threads = 2
        params.cpuparams_batch.n_threads = 2
        params.verbosity = 0
        if floats:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(params)

    def post(self, path, body):
        request = urllib.request.Request(
            self.server.listening_address + path,
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.load(response)

    def tokenize(self, text):
        body = {"content": text, "add_special": False, "parse_special": False}
        return self.post("/tokenize", body)["tokens"]

    def greedy(self, prompt):
        """The peer's next GREEDY_TOKENS most probable tokens, an end-of-text token being a token like the others.

        The peer reports no probabilities for a token that ends inside a character, or that ends the text. But those
        it reports are from before any bias, so each step asks for one token, biased to one harmless letter, and the
        first of the reported rivals is the greedy token. The prompt cache makes that an ordinary decoding step.
        """
        letter = self.tokenize("a")[0]
        steps = []
        while len(steps) < GREEDY_TOKENS:
            answer = self.post(
                "/completion",
                {
                    "prompt": prompt + [step["id"] for step in steps],
                    "n_predict": 1,
                    "temperature": 0,
                    "logit_bias": [[letter, 1000]],
                    "n_probs": RIVALS,
                    "cache_prompt": True,
                },
            )
            [sampled] = answer["completion_probabilities"]
            rivals = [[top["id"], round(top["logprob"], 5)] for top in sampled["top_logprobs"]]
            steps.append({"id": rivals[0][0], "logprob": rivals[0][1], "rivals": rivals[1:]})
        return steps


def main(model, output, floats):
    peer = Peer(model, floats)
    picker = random.Random(SEED)
    with open(model, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    records = [
        {
            "model": Path(model).name,
            "sha256": digest,
            "peer": f"xllamacpp {importlib.metadata.version('xllamacpp')}",
            "seed": SEED,
        }
    ]
    for language in LANGUAGES:
        tokens = [peer.tokenize(text) for text in lines(language)]
        print(f"{language}: {len(tokens)} lines, {sum(map(len, tokens))} tokens", file=sys.stderr)
        prompts = sorted(picker.sample(range(len(tokens)), PROMPTS_PER_LANGUAGE))
        for line in prompts if floats else range(len(tokens)):
            records.append({"language": language, "line": line, "ids": tokens[line]})
        for line in prompts:
            steps = peer.greedy(tokens[line])
            records.append({"language": language, "prompt": line, "greedy": steps})
    # No name and no time in the header, so that the same answers make the same file.
    with open(output, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        for record in records:
            file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["--float"]):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], floats=len(sys.argv) == 4)
