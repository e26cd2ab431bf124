"""One replica as several workers that share one GPU, or one processor, beside one worker alone.

ranks.py WORKER MODEL OUT.json [ARGUMENT_OF_THE_WORKER ...]

Each rank is a process; values go over the host and TCP. Teacher-forced over some text, the most likely tokens must be one
worker's at 97 % of the positions and the given tokens' log-probabilities 0.05 apart at most on average: products on a GPU
depend on how many rows there are. On a processor all is equal. Says what a token takes, too.
"""

import http.client
import json
import socket
import subprocess
import sys
import time

TEXT = (
    "The ferry crosses the river every morning at six. On the near side people wait with baskets, bicycles and goats; on "
    "the far side is a market that closes at noon. The ferryman has three children, and the eldest counts the passengers. "
    "In winter the river is wide and brown, and the crossing takes half an hour; in summer a child could wade it. "
    "A bridge was promised in 1961, in 1974 and in 1998. Its first pillar stands in the reeds, and herons nest on it."
)
AGREED_MIN, APART_NATS_MAX = 0.97, 0.05
START_SECONDS_MAX = 120
SHORT_TOKENS, LONG_TOKENS = 8, 72


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Replica:
    """One worker for each rank, and the address of the first. None of it is left when a `with` is over."""

    def __init__(self, worker: str, model: str, tensor: int, pipeline: int, arguments: list[str]) -> None:
        ranks = tensor * pipeline
        self.children, ports = [], free_ports(ranks + 1)
        self.port, links = ports[0], [f"127.0.0.1:{port}" for port in ports[1:]]
        for member in range(ranks):
            command = [worker, "--model", model, "--served-name", "m", *arguments]
            command += ["--max-context-tokens", "1024", "--kv-cache-memory", "256Mi"]
            command += ["--listen", f"127.0.0.1:{self.port if member == 0 else 0}"]
            if ranks > 1:
                command += ["--tensor", str(tensor), "--pipeline", str(pipeline), "--members", ",".join(links)]
                command += ["--member", str(member), "--links-listen", links[member]]
            self.children.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))

    def __enter__(self) -> "Replica":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.terminate()
        for child in self.children:
            child.wait(60)

    def is_refused(self) -> bool:
        """Waits until it answers; whether the model cannot be cut so."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            codes = [child.poll() for child in self.children]
            if 2 in codes:
                return True
            if any(code is not None for code in codes):
                raise RuntimeError(f"workers ended with {codes}")
            try:
                if self.ask(prompt="a", max_tokens=1)[0] == 200:
                    return False
            except OSError:
                pass
            time.sleep(0.2)
        raise RuntimeError("it did not become ready")

    def ask(self, **fields: object) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            body = json.dumps({"model": "m", "temperature": 0, "ignore_eos": True, **fields})
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def forced(self) -> list[tuple[str, float]]:
        """The most likely token, and the log-probability of the one that is there, at each position of the text."""
        status, answer = self.ask(prompt=TEXT, echo=True, max_tokens=0, logprobs=1)
        if status != 200:
            raise RuntimeError(f"{status}: {answer}")
        told = answer["choices"][0]["logprobs"]
        pairs = zip(told["top_logprobs"][1:], told["token_logprobs"][1:], strict=True)
        return [(max(top, key=top.get), own) for top, own in pairs]

    def token_milliseconds(self) -> float:
        seconds = []
        for tokens in (SHORT_TOKENS, LONG_TOKENS):
            begin = time.monotonic()
            self.ask(prompt=TEXT[:200], max_tokens=tokens)
            seconds.append(time.monotonic() - begin)
        return (seconds[1] - seconds[0]) / (LONG_TOKENS - SHORT_TOKENS) * 1000


def main() -> int:
    worker, model, out, *arguments = sys.argv[1:]
    found, failed, expected = [], False, []
    for tensor, pipeline in [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (2, 2), (3, 2)]:
        with Replica(worker, model, tensor, pipeline, arguments) as replica:
            one = {"tensor": tensor, "pipeline": pipeline, "is_refused": replica.is_refused()}
            # Heads may stand in the way of tensor ranks alone; anything else that ends so is a failure.
            failed |= one["is_refused"] and tensor == 1
            if not one["is_refused"]:
                said = replica.forced()
                expected = expected or said
                pairs = list(zip(said, expected, strict=True))
                one["agreed"] = round(sum(a[0] == b[0] for a, b in pairs) / len(pairs), 4)
                one["apart_nats"] = round(sum(abs(a[1] - b[1]) for a, b in pairs) / len(pairs), 5)
                one["token_milliseconds"] = round(replica.token_milliseconds(), 2)
                failed |= one["agreed"] < AGREED_MIN or one["apart_nats"] > APART_NATS_MAX
        print(one, flush=True)
        found.append(one)
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"model": model.rsplit("/", 1)[-1], "cuts": found}, file, indent=1)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
