"""What `naru up` does when things go wrong beneath it: a worker killed, a file spoilt, a wish changed, an end asked for."""

import json
import os
import signal
import threading
import time

import httpx
import pytest

import serving

ASK = {"model": "smollm2", "messages": [{"role": "user", "content": "Tell me a long story."}], "temperature": 0}


@pytest.fixture
def up(tmp_path):
    platform = serving.Platform(tmp_path, yaml())
    yield platform
    if platform.child.poll() is None:
        platform.stop()


def yaml(**changes):
    return serving.deployment("smollm2", serving.model(serving.SMOLLM2), **changes)


def ready(platform):
    return httpx.get(f"{platform.ops}/readyz").status_code == 200


class Stream(threading.Thread):
    """One streaming request: what came, and how it ended."""

    def __init__(self, address, tokens):
        super().__init__()
        self.body = ASK | {"stream": True, "max_tokens": tokens, "ignore_eos": True}
        self.address = address
        self.text, self.error, self.done = "", None, False
        self.failure = None
        self.started = threading.Event()
        self.start()

    def run(self):
        try:
            with httpx.stream("POST", f"{self.address}/chat/completions", json=self.body, timeout=120) as response:
                if response.status_code != 200:
                    self.error = json.loads(response.read())["error"]
                    return
                for line in response.iter_lines():
                    self.read(line)
        except httpx.HTTPError as failure:
            self.failure = failure
        finally:
            self.started.set()

    def read(self, line):
        if line == "data: [DONE]":
            self.done = True
        elif line.startswith("data: "):
            event = json.loads(line[6:])
            self.error = event.get("error") or self.error
            for choice in event.get("choices", []):
                self.text += choice["delta"].get("content") or ""
            if self.text:
                self.started.set()


def test_a_killed_worker_is_replaced_and_nobody_waits_for_ever(up):
    [pid] = up.worker_pids()
    streams = [Stream(up.address, 1900) for _ in range(4)]
    for stream in streams:
        assert stream.started.wait(60)
    os.kill(pid, signal.SIGKILL)
    # These come while nobody is there; the successor answers them.
    waiting = [Stream(up.address, 8) for _ in range(4)]
    for stream in streams + waiting:
        stream.join(120)
        assert not stream.is_alive(), "a request hangs"
    for stream in streams:
        assert stream.error, (stream.failure, stream.done)
        assert stream.error["type"] == "server_error"
        assert not stream.done
    for stream in waiting:
        assert stream.done and stream.text and not stream.error, (stream.error, stream.failure)
    serving.until(lambda: ready(up), "ready again")
    [successor] = up.worker_pids()
    assert successor != pid


def test_requests_not_yet_answered_are_answered_by_the_successor(tmp_path):
    # One sequence at a time: the others wait in the worker when it dies, and have streamed nothing.
    platform = serving.Platform(tmp_path, yaml(sequences=1))
    try:
        [pid] = platform.worker_pids()
        first = Stream(platform.address, 1900)
        assert first.started.wait(60)
        waiting = [Stream(platform.address, 4) for _ in range(3)]
        time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        for stream in waiting:
            stream.join(120)
            assert stream.done and stream.text, (stream.error, stream.failure)
        first.join(120)
        assert first.error and first.text
    finally:
        platform.stop()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda good: good.replace("replicas: 1", "replicas: -1"), "spec.replicas"),
        (lambda good: good.replace("backend: cpu", "backend: steam"), "spec.backend"),
        (lambda good: good + "  surprise: yes\n", "surprise"),
        (lambda good: good[: len(good) // 2] + ": [", ""),
        (lambda good: "", ""),
    ],
)
def test_a_bad_edit_changes_nothing_and_says_why(up, spoil, said):
    before = up.worker_pids()
    length = len(up.log.read_text())
    up.write(spoil(yaml()))
    serving.until(lambda: said in up.log.read_text()[length:] and len(up.log.read_text()) > length, "it says why", 15)
    time.sleep(1)
    assert up.worker_pids() == before
    assert ready(up)
    assert httpx.post(f"{up.address}/chat/completions", json=ASK | {"max_tokens": 2}).status_code == 200
    # And the next good edit counts again.
    up.write(yaml(replicas=2))
    serving.until(lambda: len(up.worker_pids()) == 2, "the good edit counts")


def test_editing_replicas_scales(up):
    up.write(yaml(replicas=2))
    serving.until(lambda: len(up.worker_pids()) == 2, "two workers")
    serving.until(lambda: len(up.worker_metrics()) == 2, "both listen")
    serving.until(lambda: ready(up), "ready with two")
    # One of two goes while both are busy: nobody notices.
    streams = [Stream(up.address, 64) for _ in range(8)]
    for stream in streams:
        assert stream.started.wait(60)
    up.write(yaml(replicas=1, drain_seconds=30))
    for stream in streams:
        stream.join(120)
        assert stream.done and not stream.error, (stream.error, stream.failure)
    serving.until(lambda: len(up.worker_pids()) == 1, "one worker")
    up.write(yaml(replicas=0))
    serving.until(lambda: not up.worker_pids(), "no worker")


def test_requests_are_spread_over_ready_workers(up):
    up.write(yaml(replicas=2))
    serving.until(lambda: len(up.worker_metrics()) == 2 and ready(up), "two workers")
    serving.until(
        lambda: all(m.get("naru_requests_running") is not None for m in up.worker_metrics().values()), "both answer"
    )
    time.sleep(2)
    streams = [Stream(up.address, 300) for _ in range(8)]
    for stream in streams:
        assert stream.started.wait(60)
    running = [metrics["naru_requests_running"] for metrics in up.worker_metrics().values()]
    for stream in streams:
        stream.join(180)
        assert stream.done
    assert min(running) >= 2, running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_lets_running_streams_finish(tmp_path, number):
    platform = serving.Platform(tmp_path, yaml(drain_seconds=60))
    pids = platform.worker_pids()
    stream = Stream(platform.address, 150)
    assert stream.started.wait(60)
    platform.child.send_signal(number)
    time.sleep(0.3)
    refused = Stream(platform.address, 4)
    refused.join(30)
    assert not refused.done, "a new request is not taken any more"
    stream.join(60)
    assert stream.done and not stream.error, (stream.error, stream.failure)
    assert platform.child.wait(30) == 0, platform.log_tail()
    assert not [pid for pid in pids if serving.process_name(pid) == "naru-worker"]


def test_the_end_does_not_wait_longer_than_drain_seconds(tmp_path):
    platform = serving.Platform(tmp_path, yaml(drain_seconds=1))
    stream = Stream(platform.address, 1900)
    assert stream.started.wait(60)
    started = time.monotonic()
    assert platform.stop() == 0, platform.log_tail()
    assert time.monotonic() - started < 15
    stream.join(30)
    assert not stream.done


def test_workers_end_when_naru_up_is_killed(tmp_path):
    platform = serving.Platform(tmp_path, yaml())
    pids = platform.worker_pids()
    platform.child.kill()
    platform.child.wait()
    serving.until(lambda: not [p for p in pids if serving.process_name(p) == "naru-worker"], "workers end too", 15)


def test_a_worker_that_keeps_failing_is_tried_less_and_less(tmp_path):
    missing = tmp_path / "missing.gguf"
    yaml = serving.deployment("missing", missing)
    file = tmp_path / "models.yaml"
    file.write_text(yaml)
    command = [serving.BINARIES / "naru", "up", "-f", file, "--listen", serving.free_address()]
    up = serving.Process([*command, "--ops-listen", serving.free_address(), "--data-dir", tmp_path / "d"], tmp_path, "up")
    serving.until(lambda: "missing.gguf" in up.log.read_text(), "it says which file", 30)
    assert up.child.poll() is None, "it goes on trying"
    assert up.stop() == 0


def test_a_worker_without_a_gpu_is_called_that(tmp_path):
    """It says so before it looks for weights, of which there are none."""
    file = tmp_path / "models.yaml"
    file.write_text(serving.deployment("gpu", tmp_path / "missing.gguf").replace("backend: cpu", "backend: cuda"))
    none = "CUDA_VISIBLE_DEVICES="  # on a machine that has some
    command = ["env", none, serving.BINARIES / "naru", "up", "-f", file, "--listen", serving.free_address()]
    up = serving.Process([*command, "--ops-listen", serving.free_address(), "--data-dir", tmp_path / "d"], tmp_path, "up")
    serving.until(lambda: "NoUsableGpu" in up.log.read_text(), "it says why", 30)
    assert "no usable GPU: " in up.log.read_text() and "missing.gguf" not in up.log.read_text()
    assert up.stop() == 0


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("kind: [", ""),
        ("apiVersion: naru.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: a}\nspec: {}\n", "spec.model"),
        ("apiVersion: naru.dev/v1alpha1\nkind: Wish\nmetadata: {name: a}\n", "Wish"),
    ],
)
def test_a_bad_file_ends_with_two_and_says_where(tmp_path, yaml, said):
    file = tmp_path / "models.yaml"
    file.write_text(yaml)
    up = serving.Process([serving.BINARIES / "naru", "up", "-f", file], tmp_path, "up")
    assert up.child.wait(30) == 2
    assert said in up.log.read_text()


def test_an_address_for_all_the_world_needs_tenants(tmp_path):
    file = tmp_path / "models.yaml"
    file.write_text(yaml())
    up = serving.Process([serving.BINARIES / "naru", "up", "-f", file, "--listen", "0.0.0.0:0"], tmp_path, "up")
    assert up.child.wait(30) == 2
    assert "0.0.0.0" in up.log.read_text()
