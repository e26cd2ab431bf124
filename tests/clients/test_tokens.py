"""Every line of the test texts becomes the token ids that llama.cpp makes of it."""

import gzip
import json
from pathlib import Path

import httpx
import pytest

import serving

PEERS = serving.REPOSITORY / "tests" / "peers"
TEXTS = {"en": "xquad-en", "ko": "klue-sts-ko", "ar": "xquad-ar", "th": "xquad-th"}
LINES = {"en": 1430, "ko": 1038, "ar": 1430, "th": 1430}


def lines(language):
    """As tests/peers/make_fixture.py walks them."""
    found = []
    for row in Path(PEERS / "text" / f"{TEXTS[language]}.jsonl").read_text(encoding="utf-8").split("\n"):
        if row:
            row = json.loads(row)
            found += [row["context"], *row["questions"]] if "context" in row else [row["a"], row["b"]]
    return found


def check(address, fixture, model):
    texts = {language: lines(language) for language in TEXTS}
    compared = dict.fromkeys(TEXTS, 0)
    wrong = []
    with gzip.open(PEERS / "fixtures" / fixture, "rt") as file, httpx.Client(timeout=60) as http:
        for record in map(json.loads, file):
            if "line" not in record:
                continue
            language, line = record["language"], record["line"]
            body = {"model": model, "prompt": texts[language][line], "add_special_tokens": False}
            ids = http.post(f"{address}/tokenize", json=body).raise_for_status().json()["tokens"]
            compared[language] += 1
            if ids != record["ids"]:
                place = next((i for i, pair in enumerate(zip(ids, record["ids"])) if pair[0] != pair[1]), -1)
                wrong.append(f"{language} line {line}, token {place}")
    assert compared == LINES
    assert not wrong, f"{len(wrong)} lines differ: {wrong[:10]}"


def test_smollm2(worker):
    check(worker.address, "smollm2.jsonl.gz", "smollm2")


@pytest.mark.timeout(400)
def test_qwen(tmp_path):
    worker = serving.Worker(tmp_path, serving.model(serving.QWEN), "--served-name", "qwen").wait_ready()
    try:
        check(worker.address, "qwen2.5-coder.jsonl.gz", "qwen")
    finally:
        worker.stop()
