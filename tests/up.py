#!/usr/bin/env python3
"""What `make up` does once naru is built: starts it with the demo model, waits until it is ready, asks it one
question, prints the answer, and stays until Ctrl-C.

    up.py path/to/naru [option of `naru up` …]
"""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLE = REPOSITORY / "docs" / "examples" / "smollm2.yaml"
QUESTION = "Why is the sky blue?"
ANSWER_SECONDS_MAX = 60


def demo_file():
    """The example, with the path at which the demo model really is, where the user can edit it."""
    chosen = os.environ.get("NARU_CACHE_DIR")
    cache = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naru"
    weights = cache.resolve() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    text, replaced = re.subn(
        r"(\buri:\s*)[^\s}]+", lambda match: match[1] + weights.as_uri(), EXAMPLE.read_text(), count=1
    )
    if not replaced:
        sys.exit(f"up: {EXAMPLE} names no model")
    path = cache / "demo" / EXAMPLE.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def ask(address):
    """Prints the answer to QUESTION as it comes."""
    with urllib.request.urlopen(f"{address}/models", timeout=ANSWER_SECONDS_MAX) as response:
        model = json.load(response)["data"][0]["id"]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 64,
        "temperature": 0,
        "stream": True,
    }
    request = urllib.request.Request(
        f"{address}/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    print(f"\n{model} ◀ {QUESTION}\n{model} ▶ ", end="", flush=True)
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS_MAX) as response:
        for line in response:
            if line.startswith(b"data: {"):
                for choice in json.loads(line[6:]).get("choices", []):
                    print(choice["delta"].get("content") or "", end="", flush=True)
    print("\n", flush=True)


def main(naru, options):
    file = demo_file()
    # In a process group of its own, so that Ctrl-C reaches it once, from here.
    up = subprocess.Popen([naru, "up", "-f", file, *options], stdout=subprocess.PIPE, text=True, process_group=0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: up.terminate())
    for line in up.stdout:
        print(line, end="", flush=True)
        if line.startswith("ready "):
            address = line.split()[1]
            ask(address)
            print(f"naru is up at {address}; edit {file} to change what it serves; Ctrl-C ends it", flush=True)
    return up.wait()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
