"""Starts naru's own processes for tests, asks them what they are doing, and ends them.

The binaries are taken from $NARU_BINARIES; the models from the cache directory.
"""

import contextlib
import json
import os
import queue
import random
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx

REPOSITORY = Path(__file__).resolve().parent.parent
BINARIES = REPOSITORY / os.environ.get("NARU_BINARIES", "target/debug")
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
QWEN = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"
START_SECONDS_MAX = 120
STOP_SECONDS_MAX = 60


def model(name):
    """Where a model's weights are. Fails, and does not skip, where they are not."""
    chosen = os.environ.get("NARU_CACHE_DIR")
    cache = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naru"
    path = cache.resolve() / "models" / name
    assert path.is_file(), f"{path} is not there: run `make models`"
    return path


# Nobody is given these for a connection that goes out, nor a node's Services: what is free stays so until it is listened on.
PORTS = range(10_000, 30_000)
next_port = random.choice(PORTS)


def free_address(ports=1):
    """An address of this machine with so many free ports from there, never given twice."""
    global next_port
    while True:
        first = next_port
        next_port += ports
        if next_port >= PORTS.stop:
            next_port = PORTS.start
            continue
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for port in range(first, first + ports):
                probes.enter_context(socket.create_server(("127.0.0.1", port)))
            return f"127.0.0.1:{first}"


def deployment(name, weights, replicas=1, sequences=64, context=2048, drain_seconds=5, kv_cache="512Mi"):
    """A ModelDeployment that serves `weights` as `name`."""
    return f"""---
apiVersion: naru.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: {name}, namespace: default}}
spec:
  model: {{uri: "{Path(weights).as_uri()}"}}
  backend: cpu
  engine: {{maxSequences: {sequences}, maxContextTokens: {context}, kvCacheMemory: {kv_cache}}}
  resources: {{requests: {{cpu: "2"}}}}
  replicas: {replicas}
  rollout: {{drainSeconds: {drain_seconds}}}
"""


def is_ready(ops):
    """Whether a process is ready, by its operations address; not if nothing answers there."""
    try:
        return httpx.get(f"{ops}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def until(condition, what, seconds=60):
    """Waits, polling, until `condition()` is true, and returns what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


class Process:
    """A child process of the test, its standard output as a queue of lines, its standard error in a file."""

    def __init__(self, command, directory, name):
        self.log = Path(directory) / f"{name}.log"
        with open(self.log, "wb") as log:
            # Standard input stays open for as long as the test lives.
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"NARU_LOG": os.environ.get("NARU_LOG", "info")},
            )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def line(self, seconds=START_SECONDS_MAX):
        """The next line of standard output. Fails with the log's last lines if none comes."""
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no line within {seconds} s; the log ends:\n{self.log_tail()}") from None
        assert line is not None, f"it ended with {self.child.wait()}; the log ends:\n{self.log_tail()}"
        return line

    def log_tail(self, lines=15):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, number=signal.SIGTERM):
        """Asks the process to end, and returns its exit code; kills it if it does not."""
        if self.child.poll() is None:
            self.child.send_signal(number)
        try:
            return self.child.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise AssertionError(f"it did not stop; the log ends:\n{self.log_tail()}") from None
        finally:
            self.child.stdin.close()


class Worker(Process):
    """One `naru-worker`."""

    def __init__(self, directory, weights, *options, name="worker"):
        command = [BINARIES / "naru-worker", "--model", weights, "--listen", "127.0.0.1:0"]
        super().__init__([*command, *options], directory, name)
        addresses = json.loads(self.line())
        self.address = addresses["http"]
        self.ops = addresses.get("ops") or self.address

    def wait_ready(self):
        def ready():
            assert self.child.poll() is None, f"it ended; the log ends:\n{self.log_tail()}"
            return httpx.get(f"{self.ops}/readyz").status_code == 200

        until(ready, "the worker is ready", START_SECONDS_MAX)
        return self

    def metrics(self):
        return read_metrics(f"{self.ops}/metrics")

    @property
    def pid(self):
        return self.child.pid


class Platform(Process):
    """`naru up` with what it serves in one file, which a test may edit."""

    def __init__(self, directory, yaml):
        self.file = Path(directory) / "models.yaml"
        self.file.write_text(yaml)
        self.listen, ops = free_address(), free_address()
        self.ops = f"http://{ops}"
        super().__init__(
            [
                BINARIES / "naru", "up", "-f", self.file, "--listen", self.listen,
                "--ops-listen", ops, "--data-dir", Path(directory) / "data",
            ],
            directory,
            "up",
        )  # fmt: skip
        line = self.line()
        assert line == f"ready http://{self.listen}/v1", line
        self.address = line.split()[1]

    def worker_pids(self):
        """The processes of the workers, oldest first."""
        children = Path(f"/proc/{self.child.pid}/task").glob("*/children")
        pids = {int(pid) for path in children for pid in path.read_text().split()}
        return sorted(pid for pid in pids if process_name(pid) == "naru-worker")

    def worker_metrics(self):
        """The metrics of each worker that listens, by process."""
        return {pid: metrics for pid in self.worker_pids() if (metrics := metrics_of(pid))}

    def metrics(self):
        return read_metrics(f"{self.ops}/metrics")

    def write(self, yaml):
        """Replaces the file at once, as editors do."""
        new = self.file.with_suffix(".new")
        new.write_text(yaml)
        new.replace(self.file)


def process_name(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().rsplit("/", 1)[-1]
    return ""


def listening_ports(pid):
    """Ports of 127.0.0.1 on which the process listens."""
    inodes = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor)):
                    inodes.add(match[1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[9] in inodes]


def metrics_of(pid):
    for port in listening_ports(pid):
        with contextlib.suppress(httpx.HTTPError, AssertionError):
            if metrics := read_metrics(f"http://127.0.0.1:{port}/metrics"):
                return metrics
    return None


def read_metrics(url):
    """Prometheus's text format as {name: sum over its labels}, and {name{labels}: value} beside it."""
    response = httpx.get(url, timeout=10)
    assert response.status_code == 200, url
    found = {}
    for line in response.text.splitlines():
        if match := re.fullmatch(r"([A-Za-z_:][\w:]*)(\{.*\})?\s+(\S+)(\s+\d+)?", line):
            name, labels, value = match[1], match[2], float(match[3])
            found[name] = found.get(name, 0.0) + value
            if labels:
                found[name + labels] = value
    return found


def open_descriptors(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident_bytes(pid):
    fields = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", fields)[1]) * 1024
