"""Minutes of mixed load on a worker, many of its streams left by their clients; afterwards no KV block may be in use.

load.py WORKER MODEL OUT.json [SECONDS] [ARGUMENT_OF_THE_WORKER ...]
"""

import http.client
import json
import os
import random
import re
import subprocess
import sys
import threading
import time

STREAMS = 48
SEED = 11


class Load:
    """What all clients share."""

    def __init__(self, port: int, deadline: float) -> None:
        self.port, self.deadline = port, deadline
        self.lock = threading.Lock()
        self.totals = {"finished": 0, "left": 0, "turned away": 0, "tokens": 0}
        self.failures: list[str] = []

    def count(self, what: str, by: int = 1) -> None:
        with self.lock:
            self.totals[what] += by

    def client(self, seed: int) -> None:
        """Asks until time is up."""
        draw = random.Random(seed)
        while time.monotonic() < self.deadline and not self.failures:
            try:
                self.one(draw)
            except Exception as error:  # noqa: BLE001 — whatever it is, the run has failed
                self.failures.append(f"{type(error).__name__}: {error}")

    def one(self, draw: random.Random) -> None:
        """One stream: read to the end, or left after some chunks."""
        leave_after = draw.choice([None, None, 0, draw.randint(1, 40)])
        body = {"prompt": "word " * draw.choice([1, 20, 150, 700]) + str(draw.random()), "max_tokens": draw.randint(1, 120),
                "temperature": draw.choice([0, 0.8, 1.5]), "top_p": draw.choice([1, 0.9]), "n": draw.choice([1, 1, 1, 2]),
                "presence_penalty": draw.choice([0, 0.5]), "logprobs": draw.choice([None, 3]),
                "seed": draw.randint(0, 1 << 30), "stream": True, "model": "m"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status in (429, 503):
                self.count("turned away")
                time.sleep(0.1)
                return
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {response.read()[:300]!r}")
            chunks = 0
            for line in response:
                if line == b"data: [DONE]\n":
                    self.count("finished")
                    return
                if line.startswith(b"data: "):
                    if "error" in json.loads(line[6:]):
                        raise RuntimeError(line[:300])
                    chunks += 1
                    self.count("tokens")
                    if leave_after is not None and chunks >= leave_after:
                        self.count("left")
                        return
            raise RuntimeError("the stream broke off")
        finally:
            connection.close()


def page(port: int) -> dict[str, float]:
    """The worker's metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return {name: float(value) for name, value in re.findall(r"^(naru_\S+) (\S+)$", text, re.MULTILINE)}


def single_stream(port: int, tokens: int) -> float:
    """Tokens per second of one stream alone."""
    body = {"prompt": "Once upon a time", "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "model": "m"}
    found = []
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        begin = time.monotonic()
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        used = json.loads(connection.getresponse().read())["usage"]["completion_tokens"]
        found.append(used / (time.monotonic() - begin))
    return max(found)


def main() -> int:
    worker, model, out = sys.argv[1:4]
    seconds = float(sys.argv[4]) if len(sys.argv) > 4 else 180
    command = [worker, "--model", model, "--served-name", "m", "--listen", "127.0.0.1:0", *sys.argv[5:]]
    begin = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"NARU_LOG": "warn"}) as process:
        port = int(json.loads(process.stdout.readline())["http"].rsplit(":", 1)[1])
        while not page(port).get("naru_kv_blocks{state=\"free\"}") and process.poll() is None:
            time.sleep(0.02)
        ready = time.monotonic() - begin
        alone = single_stream(port, 200)
        load = Load(port, time.monotonic() + seconds)
        clients = [threading.Thread(target=load.client, args=(SEED + i,)) for i in range(STREAMS)]
        for client in clients:
            client.start()
        watts, most_used = [], 0.0
        while time.monotonic() < load.deadline and not load.failures:
            time.sleep(1)
            now = page(port)
            watts += [value for name, value in now.items() if name.startswith("naru_worker_gpu_watts")]
            most_used = max(most_used, now.get("naru_kv_blocks{state=\"used\"}", 0))
        for client in clients:
            client.join()
        # A stream that was left is found out at its next token.
        until = time.monotonic() + 10
        while page(port).get("naru_kv_blocks{state=\"used\"}") and time.monotonic() < until:
            time.sleep(0.1)
        end = page(port)
        process.terminate()
        code = process.wait(30)
    blocks = {name: value for name, value in end.items() if name.startswith("naru_kv_blocks")}
    result = {"seconds": seconds, "ready_seconds": round(ready, 3), "streams": STREAMS, **load.totals,
              "tokens_per_second": round(load.totals["tokens"] / seconds, 1), "alone_tokens_per_second": round(alone, 1),
              "most_blocks_used": most_used, "blocks_at_the_end": blocks, "exit_code": code, "failures": load.failures[:5],
              "watts_mean": round(sum(watts) / len(watts), 1) if watts else None,
              "readings": {name: value for name, value in end.items() if name.startswith("naru_worker_gpu")}}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    print(json.dumps(result, indent=1))
    is_clean = not blocks.get('naru_kv_blocks{state="used"}') and most_used > 0
    return 0 if is_clean and code == 0 and not load.failures else 1


if __name__ == "__main__":
    sys.exit(main())
