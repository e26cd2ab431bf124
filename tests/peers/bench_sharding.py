#!/usr/bin/env python3
"""One replica as several ranks, on this machine: what a decode step takes and of what, beside what a simple model says.

    bench_sharding.py path/to/naru-worker [--rounds N] [--models smollm2,qwen2.5-coder] [--plain]

Prints the tables of docs/benchmarks/sharding.md, which says what is measured and how. Run it on a quiet machine, with the
Python of an environment that has tests/requirements.txt. Without the `openssl` command, or with --plain, links have no TLS.
"""

import argparse
import http.client
import json
import os
import random
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODELS = {
    # File, layers, values of a hidden state, words; splits that its heads allow.
    "smollm2": ("SmolLM2-135M-Instruct.Q4_1.gguf", 30, 576, 49152, [(1, 1), (3, 1), (1, 2), (1, 3)]),
    "qwen2.5-coder": ("Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf", 24, 896, 151936, [(1, 1), (2, 1), (1, 2), (1, 3)]),
}
SHORT_TOKENS, LONG_TOKENS = 8, 136
STEPS = LONG_TOKENS - SHORT_TOKENS
PROMPT_TOKENS = 512
SEED = 3
START_SECONDS_MAX = 120
PARTS = ("compute", "wait", "link")
MIB = 1 << 20


def model_path(file):
    chosen = os.environ.get("NARU_CACHE_DIR")
    cache = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naru"
    path = cache / "models" / file
    if not path.is_file():
        sys.exit(f"bench: {path} is not there: run `make models`")
    return path


def certificates(directory):
    """A directory for --tls-dir, and the context of a client that workers believe to be a gateway."""

    def openssl(*words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca, ca_key = directory / "ca.crt", directory / "ca.key"
    openssl("req", "-x509", *key, "-keyout", ca_key, "-out", ca, "-subj", "/CN=bench", "-days", 2)
    for role in ("worker", "gateway"):
        (directory / role).mkdir()
        made = {name: directory / role / f"tls.{name}" for name in ("crt", "key", "csr", "ext")}
        names = f"subjectAltName=DNS:{role}.naru.internal\nextendedKeyUsage=clientAuth,serverAuth\n"
        made["ext"].write_text(names + "basicConstraints=CA:FALSE\n")
        openssl("req", *key, "-keyout", made["key"], "-out", made["csr"], "-subj", f"/CN={role}")
        signed = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", 2, "-extfile", made["ext"]]
        openssl("x509", "-req", "-in", made["csr"], *signed, "-out", made["crt"])
        shutil.copy(ca, directory / role / "ca.crt")
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    context.load_cert_chain(directory / "gateway" / "tls.crt", directory / "gateway" / "tls.key")
    return directory / "worker", context


class Replica:
    """One replica: a process of one thread for each rank."""

    def __init__(self, worker, model, tensor, pipeline, tls):
        self.context = tls and tls[1]
        ranks = tensor * pipeline
        ports = free_ports(ranks)
        members = ",".join(f"127.0.0.1:{port}" for port in ports)
        self.children = []
        for member in range(ranks):
            command = [worker, "--model", model, "--threads", "1", "--listen", "127.0.0.1:0", "--served-name", "m"]
            command += ["--ops-listen", "127.0.0.1:0", "--max-context-tokens", "2048", "--kv-cache-memory", "64Mi"]
            command += ["--max-sequences", "8", "--exit-with-stdin"]
            if tls:
                command += ["--tls-dir", tls[0]]
            if ranks > 1:
                command += ["--tensor", tensor, "--pipeline", pipeline, "--member", member, "--members", members]
                command += ["--links-listen", f"127.0.0.1:{ports[member]}"]
            child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self.children.append(child)
        said = [json.loads(child.stdout.readline()) for child in self.children]
        self.http = said[0]["http"].split("://")[1]
        self.ops = [each["ops"].split("://")[1] for each in said]
        deadline = time.monotonic() + START_SECONDS_MAX
        while not all(self.is_ready(address) for address in self.ops):
            if time.monotonic() > deadline or any(child.poll() is not None for child in self.children):
                self.stop()
                sys.exit(f"bench: tensor {tensor}, pipeline {pipeline}: the ranks did not meet")
            time.sleep(0.05)

    @staticmethod
    def is_ready(address):
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200

    def ask(self, tokens, prompt=range(100, 108)):
        """Seconds until so many tokens were answered."""
        body = {"model": "m", "prompt": list(prompt), "max_tokens": tokens, "temperature": 0}
        kind = http.client.HTTPSConnection if self.context else http.client.HTTPConnection
        connection = kind(self.http, timeout=600, **({"context": self.context} if self.context else {}))
        begin = time.monotonic()
        body |= {"ignore_eos": True}
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        seconds = time.monotonic() - begin
        if answer.status != 200 or json.loads(text)["usage"]["completion_tokens"] != tokens:
            sys.exit(f"bench: {answer.status} {text[:300]}")
        return seconds

    def spent(self):
        """By rank: seconds of each part since the process began."""
        found = []
        for address in self.ops:
            connection = http.client.HTTPConnection(address, timeout=10)
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            line = r'naru_rank_step_seconds_sum\{part="%s",rank="\d+"\} (\S+)'
            read = {part: re.search(line % part, text) for part in PARTS}
            found.append({part: float(match[1]) if match else 0.0 for part, match in read.items()})
        return found

    def round(self):
        """Seconds of a decode step, and by rank of its parts."""
        start, short = self.spent(), self.ask(SHORT_TOKENS)
        middle, long = self.spent(), self.ask(LONG_TOKENS)
        end = self.spent()
        step = (long - short) / STEPS
        ranks = zip(start, middle, end, strict=True)
        return step, [{part: (c[part] - 2 * b[part] + a[part]) / STEPS for part in PARTS} for a, b, c in ranks]

    def prompt(self, chance):
        """Seconds until the only token after a prompt that nobody has seen before."""
        return self.ask(1, [chance.randrange(1000, 40000) for _ in range(PROMPT_TOKENS)])

    def memory(self):
        """By rank: bytes of its own, and of mapped files, that are in memory."""
        found = []
        for child in self.children:
            status = Path(f"/proc/{child.pid}/status").read_text()
            read = {name: int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) << 10 for name in ("RssAnon", "RssFile")}
            found.append((read["RssAnon"], read["RssFile"]))
        return found

    def stop(self):
        for child in self.children:
            child.kill()
        for child in self.children:
            child.wait()


def free_ports(count):
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Links:
    """What `bench-links` measures, read between its sizes."""

    def __init__(self, worker, tls):
        found = json.loads(subprocess.run([worker, "bench-links", "--json"], check=True, capture_output=True).stdout)
        name = "processes, TCP with TLS" if tls else "processes, TCP"
        self.rows = next(table["rows"] for table in found["measured"] if table["between"] == name)

    def seconds(self, operation, size):
        rows = [row for row in self.rows if row["operation"] == operation]
        points = [(row["bytes"], row["seconds_p50"]) for row in rows]
        for (low, fast), (high, slow) in zip(points, points[1:], strict=False):
            if size <= high:
                return fast + (slow - fast) * max(0, size - low) / (high - low)
        return points[-1][1] * size / points[-1][0]


def predict(whole, model, tensor, pipeline, links, cores):
    """Seconds of a step if computing shares evenly, cores are shared by the ranks of a stage, and nobody waits."""
    _, layers, hidden, words, _ = model
    compute = whole / tensor * max(1, tensor / cores)
    sums = 2 * layers * links.seconds("all_reduce", hidden * 8) * (tensor - 1) if tensor > 1 else 0
    hops = (pipeline - 1) * links.seconds("send_receive", hidden * 4)
    others = tensor - 1 if pipeline == 1 else tensor
    logits = others * links.seconds("send_receive", words // tensor * 4) if tensor * pipeline > 1 else 0
    return compute, sums + hops + logits


def show(name, model, worker, rounds, tls):
    links, whole, whole_prompt, cores = Links(worker, tls), None, None, os.cpu_count()
    steps, others, chance = [], [], random.Random(SEED)
    for tensor, pipeline in model[4]:
        replica = Replica(worker, model_path(model[0]), tensor, pipeline, tls)
        try:
            replica.round()
            measured = [replica.round() for _ in range(rounds)]
            prompts = [replica.prompt(chance) for _ in range(rounds + 1)][1:]
            held = replica.memory()
        finally:
            replica.stop()
        seconds = [step for step, _ in measured]
        step = statistics.median(seconds)
        prompt = statistics.median(prompts)
        whole, whole_prompt = whole or step, whole_prompt or prompt
        compute, link = predict(whole, model, tensor, pipeline, links, cores)
        by_rank = list(zip(*(ranks for _, ranks in measured), strict=True))
        split = {part: [statistics.median(each[part] for each in rank) for rank in by_rank] for part in PARTS}
        label = "1 rank" if tensor * pipeline == 1 else f"tensor {tensor}" if tensor > 1 else f"pipeline {pipeline}"
        parts = ["; ".join(map(ms, ranks)) if len(ranks) > 1 else "" for ranks in split.values()]
        spread = f"{ms(step)} ({ms(min(seconds))} to {ms(max(seconds))})"
        model_says = f"{ms(compute + link)} = {ms(compute)} + {ms(link)}"
        ratio = f"{step / (compute + link):.2f}×"
        steps.append(f"| {label} | {spread} | {' | '.join(parts)} | {model_says} | {ratio} |")
        prompt_spread = f"{prompt * 1e3:.0f} ({min(prompts) * 1e3:.0f} to {max(prompts) * 1e3:.0f})"
        times = f"{whole_prompt / prompt:.2f}×"
        memory = "; ".join(f"{own / MIB:.0f} + {file / MIB:.0f}" for own, file in held)
        others.append(f"| {label} | {prompt_spread} | {times} | {memory} |")
        print(f"  {name}, {label}: {spread} ms; prompt {prompt_spread} ms", file=sys.stderr)
    print(f"\n### {model[0]}\n")
    print("| | step, ms | computing, by rank | waiting | link | model: computing + link | measured ÷ model |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(steps))
    what = f"a prompt of {PROMPT_TOKENS} tokens, ms | one rank ÷ that"
    print(f"\n| | {what} | memory of each rank, MiB: its own + mapped files |\n| --- | --- | --- | --- |")
    print("\n".join(others))


def ms(seconds):
    return f"{seconds * 1e3:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("worker", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--plain", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        has_tls = not chosen.plain and shutil.which("openssl")
        tls = certificates(Path(directory)) if has_tls else None
        load, links = os.getloadavg()[0], "with TLS" if tls else "without TLS"
        print(f"{os.cpu_count()} cores, load {load:.1f}; links {links}; {chosen.rounds} rounds")
        for name in chosen.models.split(","):
            show(name, MODELS[name], chosen.worker, chosen.rounds, tls)
    links = subprocess.run([chosen.worker, "bench-links"], check=True, capture_output=True, text=True).stdout
    print(f"\n```\n{links}```")


if __name__ == "__main__":
    main()
