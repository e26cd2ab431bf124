"""Weights from real servers, through kills, and what is said when they do not come."""

import hashlib
import json
import os
import random
import subprocess
import time

import httpx
import pytest

import serving
import stores
from serving import until
from stores.counting import Counting

SEED = 20261126


@pytest.fixture(scope="module")
def model():
    return serving.model(serving.SMOLLM2)


@pytest.fixture(scope="module")
def content(model):
    return model.read_bytes()


@pytest.fixture(scope="module")
def places(tools, tmp_path_factory, model):
    """A registry and a server of buckets, each with the model in it, put there by clients of theirs."""
    directory = tmp_path_factory.mktemp("stores")
    programs = stores.ensure()
    registry = stores.registry(programs, directory, serving.free_address())
    buckets = stores.bucket_server(programs, directory, serving.free_address())
    try:
        until(registry.is_up, "the registry listens", 30)
        until(buckets.is_up, "the server of buckets listens", 30)
        stores.push(registry.address, model, insecure=True)
        stores.upload(f"http://{buckets.address}", model)
        yield {"registry": registry, "buckets": buckets}
    finally:
        registry.stop()
        buckets.stop()


def credentials(directory, **files):
    """A directory of secrets, each a file."""
    directory.mkdir()
    for name, content in files.items():
        (directory / name.replace("dockerconfigjson", ".dockerconfigjson")).write_text(content)
    return directory


def keys(buckets, secret=stores.SECRET):
    return {
        "AWS_ENDPOINT_URL": f"http://{buckets.address}", "AWS_REGION": stores.REGION,
        "AWS_ACCESS_KEY_ID": stores.KEY, "AWS_SECRET_ACCESS_KEY": secret,
    }  # fmt: skip


def serve(directory, uri, *options):
    """A worker with a cache of its own."""
    return serving.Worker(directory, uri, "--cache-dir", directory / "cache", "--served-name", "m", *options)


def answers(worker):
    worker.wait_ready()
    body = {"model": "m", "prompt": "The capital of France is", "max_tokens": 2}
    answer = httpx.post(f"{worker.address}/v1/completions", json=body, timeout=60)
    return answer.status_code == 200 and bool(answer.json()["choices"][0]["text"])


def last_words(worker):
    """The exit code, what kind of failure it was, and the words for people."""
    code = worker.child.wait(60)
    lines = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    last = [line for line in lines if line["level"] == "ERROR"][-1]
    return code, last.get("weights_fault"), last["message"]


def weights_in(directory):
    """Everything in the cache that would be served."""
    return [path for path in (directory / "cache").rglob("*.gguf") if not path.name.startswith(".")]


def test_an_artifact_of_a_registry_is_served(places, tmp_path, content):
    registry = places["registry"].address
    secrets = credentials(tmp_path / "secrets", dockerconfigjson=stores.docker_config(registry))
    worker = serve(tmp_path, f"oci://{registry}/llm/smollm2:v1", "--credentials-dir", secrets)
    assert answers(worker)
    assert worker.stop() == 0
    (path,) = weights_in(tmp_path)
    assert path.read_bytes() == content


def test_an_object_and_a_folder_of_a_bucket_are_served(places, tmp_path, model):
    secrets = credentials(tmp_path / "secrets", **keys(places["buckets"]))
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    for uri in (f"s3://weights/llm/{model.name}", "s3://weights/llm/"):
        worker = serve(tmp_path, uri, "--credentials-dir", secrets, "--sha256", digest)
        assert answers(worker), uri
        assert worker.stop() == 0
        assert stores.SECRET not in worker.log.read_text() and "X-Amz" not in worker.log.read_text()


def test_who_may_not_have_weights_is_told(places, tmp_path):
    registry, buckets = places["registry"].address, places["buckets"]
    wrong_login = credentials(tmp_path / "a", dockerconfigjson=stores.docker_config(registry, "wrong"))
    wrong_key = credentials(tmp_path / "b", **keys(buckets, "wrong"))
    right_key = credentials(tmp_path / "c", **keys(buckets))
    right_login = credentials(tmp_path / "d", dockerconfigjson=stores.docker_config(registry))
    for uri, secrets, fault, words in [
        (f"oci://{registry}/llm/smollm2:v1", None, "UNAUTHORIZED", "401"),
        (f"oci://{registry}/llm/smollm2:v1", wrong_login, "UNAUTHORIZED", "401"),
        ("s3://weights/llm/m.gguf", wrong_key, "UNAUTHORIZED", "403"),
        ("s3://weights/llm/nobody.gguf", right_key, "MISSING", "404"),
        ("s3://nowhere/llm/", right_key, "MISSING", "404"),
        (f"oci://{registry}/llm/smollm2:v9", right_login, "MISSING", "404"),
        ("http://127.0.0.1:9/m.gguf", None, "UNREACHABLE", "refuses connections"),
    ]:
        options = ["--credentials-dir", secrets] if secrets else []
        code, found, message = last_words(serve(tmp_path, uri, *options))
        assert (code, found) == (1, f"WEIGHTS_FAULT_{fault}"), (uri, message)
        assert words in message, (uri, message)
        assert weights_in(tmp_path) == []


def test_a_fetch_that_is_killed_goes_on_where_it_was(tmp_path, content):
    """Killed at twelve moments by chance: nothing half-written is served, nothing whole is fetched again."""
    moments = random.Random(SEED)
    digest = hashlib.sha256(content).hexdigest()
    server = Counting(content, bytes_per_second=4_000_000)
    whole = []
    for _ in range(12):
        worker = serve(tmp_path, server.url, "--sha256", digest)
        time.sleep(moments.uniform(0.05, 0.5))
        worker.child.kill()
        worker.child.wait()
        assert weights_in(tmp_path) == [], "it is not whole yet"
        again = [asked for asked in server.take_ranges() if any(overlaps(asked, part) for part in whole)]
        assert not again, f"asked for again: {again}, whole were {whole}"
        whole = noted(tmp_path)
    assert whole, "something came"
    server.bytes_per_second = None
    worker = serve(tmp_path, server.url, "--sha256", digest)
    assert answers(worker)
    assert worker.stop() == 0
    asked = sum(end - start for start, end in server.take_ranges())
    assert asked == len(content) - sum(end - start for start, end in merged(whole))
    (path,) = weights_in(tmp_path)
    assert path.read_bytes() == content
    server.stop()


def noted(directory):
    """What the record beside the part file says is there."""
    lines = [path.read_text() for path in (directory / "cache").rglob(".*.part.map")]
    rows = lines[0].rsplit("\n", 1)[0].splitlines()[1:] if lines else []
    return [tuple(map(int, row.split())) for row in rows if "?" not in row]


def overlaps(one, other):
    return one[0] < other[1] and other[0] < one[1]


def merged(parts):
    found = []
    for start, end in sorted(parts):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def test_two_workers_fetch_once(tmp_path, content):
    server = Counting(content, bytes_per_second=20_000_000)
    first, second = (
        serving.Worker(tmp_path, server.url, "--cache-dir", tmp_path / "cache", "--served-name", "m", name=name)
        for name in ("first", "second")
    )
    assert answers(first) and answers(second)
    assert first.stop() == 0 and second.stop() == 0
    assert sum(end - start for start, end in server.take_ranges()) == len(content)
    server.stop()


def test_other_bytes_than_wished_are_not_served(tmp_path, content):
    server = Counting(content)
    code, fault, message = last_words(serve(tmp_path, server.url, "--sha256", "0" * 64))
    assert (code, fault) == (1, "WEIGHTS_FAULT_CORRUPT"), message
    assert hashlib.sha256(content).hexdigest() in message
    assert weights_in(tmp_path) == []
    server.stop()


def test_what_breaks_off_is_thrown_away_so_that_a_whole_file_is_found(tmp_path, content):
    """Half a file, and a page in the place of one; then the file itself, at the same address."""
    server = Counting(content[: len(content) // 2])
    for spoilt in (server.content, b"<html>log in first</html>" * 100):
        server.content = spoilt
        code, fault, message = last_words(serve(tmp_path, server.url))
        assert (code, fault) == (1, "WEIGHTS_FAULT_CORRUPT"), message
        assert "thrown away" in message and weights_in(tmp_path) == [], message
    server.content = content
    worker = serve(tmp_path, server.url)
    assert answers(worker)
    assert worker.stop() == 0
    server.stop()


def test_what_was_not_fetched_is_left_where_it_is(tmp_path, content):
    path = tmp_path / "half.gguf"
    path.write_bytes(content[: len(content) // 2])
    code, fault, message = last_words(serve(tmp_path, path))
    assert (code, fault) == (1, None) and "thrown away" not in message, message
    assert path.exists()


def test_a_full_disk_is_known_before_anything_is_fetched(tmp_path, content):
    server = Counting(content)
    cache = tmp_path / "small"
    cache.mkdir()
    mount = 'mount -t tmpfs -o size=40m small "$1" && shift && exec "$@"'
    alone = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *alone, "--mount", "sh", "-c", mount, "sh", cache, serving.BINARIES / "naru-worker"]
    command += ["--model", server.url, "--cache-dir", cache, "--listen", "127.0.0.1:0"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "WEIGHTS_FAULT_NO_SPACE" in done.stderr and str(len(content)) in done.stderr, done.stderr
    # The first answer was asked for, and no more.
    assert len(server.take_ranges()) == 1
    server.stop()
