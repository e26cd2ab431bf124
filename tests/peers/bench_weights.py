#!/usr/bin/env python3
"""naru-worker beside curl and the huggingface_hub client: one file from one server on this machine, in one run.

    bench_weights.py path/to/naru-worker [--rounds N] [--megabytes N] [--directory D]

Prints the tables of docs/benchmarks/weights.md, which says what is measured and how. Run it on a quiet machine, with the
Python of an environment that has tests/peers/requirements-weights.txt.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SLICE = 1 << 20
SLOW_BYTES_PER_SECOND = 40_000_000
REPO, COMMIT, NAME = "bench/weights", "c0ffee" * 6 + "c0ff", "model.gguf"
DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
hf_hub_download(sys.argv[1], sys.argv[2], cache_dir=sys.argv[3])
"""


class Server:
    """Serves one file as the Hugging Face hub does, from the page cache, each connection at most so fast."""

    def __init__(self, path, digest):
        self.path, self.size, self.digest = path, path.stat().st_size, digest
        self.bytes_per_second = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                server.answer(self, None)

            def do_GET(self):
                if self.path.startswith("/api/"):
                    server.list(self)
                else:
                    server.answer(self, self.headers.get("range"))

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.endpoint}/{REPO}/resolve/{COMMIT}/{NAME}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def list(self, handler):
        file = {"rfilename": NAME, "size": self.size, "lfs": {"sha256": self.digest, "size": self.size}}
        body = json.dumps({"id": REPO, "sha": COMMIT, "siblings": [file]}).encode()
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def answer(self, handler, range_header):
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", range_header or "")
        start, end = 0, self.size
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or self.size - 1) + 1, self.size)
        handler.send_response(206 if asked else 200)
        for name, value in {
            "etag": f'"{self.digest}"', "x-repo-commit": COMMIT, "accept-ranges": "bytes", "content-length": end - start,
        }.items():  # fmt: skip
            handler.send_header(name, str(value))
        if asked:
            handler.send_header("content-range", f"bytes {start}-{end - 1}/{self.size}")
        handler.end_headers()
        if handler.command == "GET":
            self.send(handler.connection, start, end)

    def send(self, connection: socket.socket, start, end):
        begun = time.monotonic()
        with open(self.path, "rb") as file:
            for at in range(start, end, SLICE):
                connection.sendfile(file, at, min(SLICE, end - at))
                if self.bytes_per_second:
                    ahead = (at + SLICE - start) / self.bytes_per_second - (time.monotonic() - begun)
                    time.sleep(max(0, ahead))


def curl(server, directory):
    return run(["curl", "--silent", "--fail", "--output", directory / "file", server.url])


def curl_and_digest(server, directory):
    check = 'curl --silent --fail --output "$2" "$1" && sha256sum "$2"'
    return run(["sh", "-c", check, "sh", server.url, directory / "file"])


def hub_client(server, directory):
    environment = {"HF_ENDPOINT": server.endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", DOWNLOAD, REPO, NAME, directory]
    return run(command, environment) - start_of_python()


def start_of_python():
    return run([sys.executable, "-c", "import huggingface_hub.file_download"])


def naru(server, directory):
    return fetch([server.url], directory)


def naru_and_digest(server, directory):
    return fetch([server.url, "--sha256", server.digest], directory)


def fetch(model, directory):
    """What the worker itself says that its fetch took; the file is no model, so that it ends after it."""
    command = [arguments.worker, "--model", *model, "--cache-dir", directory, "--listen", "127.0.0.1:0"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    return progress(done.stderr, "fetch")


def progress(log, what):
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    ends = [line for line in lines if line.get("progress") == what and line.get("state") == "finished"]
    if not ends:
        sys.exit(f"bench: no {what} was finished:\n{log}")
    return ends[-1]["milliseconds"] / 1000


def run(command, environment=None):
    begun = time.monotonic()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, env=os.environ | (environment or {}))
    return time.monotonic() - begun


WAYS = {
    "curl": curl,
    "huggingface_hub": hub_client,
    "naru": naru,
    "curl, then sha256sum": curl_and_digest,
    "naru --sha256": naru_and_digest,
}


def measure(server, rounds):
    """Gigabytes a second of each way, round after round; the first is not counted."""
    rates = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for name, way in WAYS.items():
            with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
                seconds = way(server, Path(directory))
            os.sync()
            if number:
                rates[name].append(server.size / seconds / 1e9)
    return rates


def show(title, rates):
    base = {name: statistics.median(values) for name, values in rates.items()}
    print(f"\n### {title}\n\n| | GB/s | beside curl | beside huggingface_hub |\n| --- | --- | --- | --- |")
    for name, values in rates.items():
        spread = f"{base[name]:.2f} ({min(values):.2f} to {max(values):.2f})"
        peer = "curl, then sha256sum" if "sha256" in name else "curl"
        print(f"| {name} | {spread} | {base[name] / base[peer]:.2f}× | {base[name] / base['huggingface_hub']:.2f}× |")


def load(rounds):
    """The models that are here, from the page cache into memory."""
    chosen = os.environ.get("NARU_CACHE_DIR")
    cache = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naru"
    print("\n### Load\n\n| | GB/s | beside reading it (`cat`) |\n| --- | --- | --- |")
    for path in sorted((cache / "models").glob("*.gguf")):
        loads, reads = [], []
        for number in range(rounds + 1):
            read = run(["cat", path])
            loaded = load_once(path)
            if number:
                loads.append(path.stat().st_size / loaded / 1e9)
                reads.append(path.stat().st_size / read / 1e9)
        ratio = statistics.median(loads) / statistics.median(reads)
        print(f"| {path.name} | {statistics.median(loads):.2f} ({min(loads):.2f} to {max(loads):.2f}) | {ratio:.2f}× |")


def load_once(path):
    command = [arguments.worker, "--model", path, "--listen", "127.0.0.1:0"]
    child = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    log = ""
    for line in child.stderr:
        log += line
        if '"load"' in line and '"finished"' in line:
            break
    child.terminate()
    child.communicate()
    return progress(log, "load")


def make_file(path, megabytes):
    """Bytes by chance, in the page cache. Returns their digest."""
    hasher = hashlib.sha256()
    with open(path, "wb") as file:
        for _ in range(megabytes):
            block = os.urandom(1_000_000)
            hasher.update(block)
            file.write(block)
    return hasher.hexdigest()


def main():
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        path = Path(directory) / NAME
        server = Server(path, make_file(path, arguments.megabytes))
        peers = f"huggingface_hub {importlib.metadata.version('huggingface_hub')}"
        curl_version = subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout.split()[1]
        load_average = os.getloadavg()[0]
        print(f"{arguments.megabytes} MB, {os.cpu_count()} cores, load {load_average:.1f}; curl {curl_version}, {peers}")
        show("Download, as fast as it goes", measure(server, arguments.rounds))
        server.bytes_per_second = SLOW_BYTES_PER_SECOND
        show("Download, 40 MB/s for each connection", measure(server, arguments.rounds))
    load(arguments.rounds)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worker", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--directory", help="where files go; a disk with room for two of them")
    return parser.parse_args()


if __name__ == "__main__":
    if not shutil.which("curl"):
        sys.exit("bench: please install curl")
    arguments = parse()
    main()
