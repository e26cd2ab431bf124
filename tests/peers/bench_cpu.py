#!/usr/bin/env python3
"""naru-worker beside llama.cpp's server, on this machine's processor, in one run, over HTTP with one client.

    bench_cpu.py path/to/naru-worker [--rounds N] [--models smollm2,qwen2.5-coder]

Prints the tables of docs/benchmarks/cpu.md, which says what is measured and how. Run it on a quiet machine, with the Python
of an environment that has tests/peers/requirements.txt.
"""

import argparse
import http.client
import importlib.metadata
import json
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

THREADS = 2
STREAMS = 8
SHORT_TOKENS, LONG_TOKENS = 8, 136
PREFILL_TOKENS = 512
STREAM_TOKENS = 96
CONTEXT = 2048
COLD_STARTS = 11
SEED = 3
START_SECONDS_MAX = 120
MODELS = {
    "smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "qwen2.5-coder": "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
}
FLAGS = ["avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8"]


def model_path(name):
    chosen = os.environ.get("NARU_CACHE_DIR")
    cache = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naru"
    path = cache / "models" / MODELS[name]
    if not path.is_file():
        sys.exit(f"bench: {path} is not there: run `make models`")
    return path


class Server:
    """A server in a process of its own, held still while another one is measured."""

    def __init__(self, name, command):
        self.name = name
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.address = json.loads(self.child.stdout.readline())["http"].removeprefix("http://")
        deadline = time.monotonic() + START_SECONDS_MAX
        while self.ask([1, 2, 3], 1) is None:
            if time.monotonic() > deadline or self.child.poll() is not None:
                sys.exit(f"bench: {name} did not start")
            time.sleep(0.05)
        self.child.send_signal(signal.SIGSTOP)

    def __enter__(self):
        self.child.send_signal(signal.SIGCONT)
        return self

    def __exit__(self, *_):
        self.child.send_signal(signal.SIGSTOP)

    def end(self):
        self.child.send_signal(signal.SIGCONT)
        self.child.terminate()
        self.child.wait()

    def ask(self, prompt, tokens):
        """Seconds that one streamed greedy completion takes, or None where the server is not ready yet."""
        body = {
            "model": "bench",
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        started = time.perf_counter()
        connection = http.client.HTTPConnection(self.address, timeout=600)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            lines = response.read().split(b"\n")
        except OSError:
            return None
        finally:
            connection.close()
        seconds = time.perf_counter() - started
        if response.status == 503:
            return None
        events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
        if response.status != 200 or not events or "error" in events[-1]:
            sys.exit(f"bench: {self.name} answered {response.status}: {lines[:3]}")
        usage = next(event["usage"] for event in reversed(events) if event.get("usage"))
        if usage["completion_tokens"] != tokens or usage["prompt_tokens"] != len(prompt):
            sys.exit(f"bench: {self.name} computed {usage} where {len(prompt)} and {tokens} were asked for")
        return seconds


def start_naru(worker, model):
    command = [worker, "--model", model_path(model), "--served-name", "bench", "--threads", THREADS]
    command += ["--listen", "127.0.0.1:0", "--max-sequences", STREAMS, "--max-context-tokens", CONTEXT]
    return Server("naru", [str(part) for part in command])


def start_peer(model, flash_attention):
    command = [sys.executable, __file__, "--peer", str(model_path(model)), str(int(flash_attention))]
    return Server(f"llama.cpp, flash attention {'on' if flash_attention else 'off'}", command)


def serve_peer(model, flash_attention):
    """llama.cpp's own server, set up for speed on this machine; runs until it is ended."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = CONTEXT * STREAMS
    params.n_parallel = STREAMS
    params.cpuparams.n_threads = THREADS
    params.cpuparams_batch.n_threads = THREADS
    kinds = xllamacpp.llama_flash_attn_type
    on, off = kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED, kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.flash_attn_type = on if flash_attention else off
    params.cache_ram_mib = 0  # keeping prompts for later would only cost it time here
    params.model_alias = {"bench"}
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(json.dumps({"http": server.listening_address}), flush=True)
    signal.pause()


class Prompts:
    """Token ids that nobody has seen before: no cache can help."""

    def __init__(self):
        self.random = random.Random(SEED)

    def of(self, tokens):
        return [self.random.randrange(1000, 40000) for _ in range(tokens)]


def decode(server, prompts):
    """Tokens per second of one stream: what 128 more tokens cost, so that prompt and connection do not count."""
    short = server.ask(prompts.of(16), SHORT_TOKENS)
    long = server.ask(prompts.of(16), LONG_TOKENS)
    return (LONG_TOKENS - SHORT_TOKENS) / (long - short)


def prefill(server, prompts):
    """Prompt tokens per second, until the first and only token of the answer has come."""
    return PREFILL_TOKENS / server.ask(prompts.of(PREFILL_TOKENS), 1)


def parallel(server, prompts):
    """Tokens per second of all streams together, prompts included."""
    threads = [
        threading.Thread(target=server.ask, args=(prompts.of(16), STREAM_TOKENS)) for _ in range(STREAMS)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return STREAMS * STREAM_TOKENS / (time.perf_counter() - started)


MEASURES = {
    "decode, 1 stream": decode,
    f"prefill, {PREFILL_TOKENS} tokens": prefill,
    f"decode, {STREAMS} streams": parallel,
}


def compare(worker, model, rounds):
    """Rows of the table: what, naru's median, the peer's better median, their ratio."""
    servers = [start_naru(worker, model), start_peer(model, True), start_peer(model, False)]
    found = {(server.name, measure): [] for server in servers for measure in MEASURES}
    try:
        prompts = Prompts()
        for number in range(rounds + 1):
            for measure, run in MEASURES.items():
                for server in servers:
                    with server:
                        rate = run(server, prompts)
                    # The first round only warms up.
                    if number:
                        found[server.name, measure].append(rate)
    finally:
        for server in servers:
            server.end()
    rows = []
    for measure in MEASURES:
        ours = found["naru", measure]
        peers = [found[server.name, measure] for server in servers[1:]]
        best = max(peers, key=statistics.median)
        rows.append((measure, ours, best, statistics.median(ours) / statistics.median(best)))
    return rows


def cold_start(worker, model):
    """Milliseconds from the start of the process to the first chunk with text, the file in the page cache."""
    command = [str(worker), "--model", str(model_path(model)), "--served-name", "bench", "--threads", str(THREADS)]
    started = time.perf_counter()
    child = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    address = json.loads(child.stdout.readline())["http"].removeprefix("http://")
    body = json.dumps({
        "model": "bench", "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 16, "temperature": 0, "stream": True,
    })  # fmt: skip
    try:
        while True:
            connection = http.client.HTTPConnection(address, timeout=60)
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status == 200:
                break
            response.read()
            connection.close()
            time.sleep(0.002)
        for line in response:
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    return 1000 * (time.perf_counter() - started)
        sys.exit("bench: no text came")
    finally:
        child.kill()
        child.wait()


def describe_machine():
    cpu = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", cpu)
    flags = re.search(r"flags\s*: (.*)", cpu)
    has = [flag for flag in FLAGS if flag in (flags[1].split() if flags else [])]
    load = os.getloadavg()[0]
    return (
        f"{name[1] if name else platform.machine()}, {os.cpu_count()} logical cores, {THREADS} threads used; {', '.join(has)}; "
        f"load average at the start {load:.1f}; {time.strftime('%Y-%m-%d')}"
    )


def describe_peer():
    import xllamacpp

    return f"xllamacpp {importlib.metadata.version('xllamacpp')}: {xllamacpp.get_system_info().strip(' |')}"


def spread(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worker", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default=",".join(MODELS))
    options = parser.parse_args()
    print(f"Machine: {describe_machine()}\n\nPeer: {describe_peer()}\n")
    for model in options.models.split(","):
        print(f"### {MODELS[model]}\n")
        print("| | naru, tokens/s | llama.cpp, tokens/s | ratio |\n| --- | --- | --- | --- |")
        for measure, ours, peers, ratio in compare(options.worker, model, options.rounds):
            print(f"| {measure} | {spread(ours)} | {spread(peers)} | **{ratio:.2f}×** |")
        print(flush=True)
    cold_start(options.worker, "smollm2")
    times = [cold_start(options.worker, "smollm2") for _ in range(COLD_STARTS)]
    print(f"Cold start, SmolLM2, page cache warm: {spread(times)} ms to the first chunk with text.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        serve_peer(sys.argv[2], sys.argv[3] == "1")
    else:
        main()
