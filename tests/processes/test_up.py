"""What `make up` runs after building: it answers its question, stays up, and ends when it is told to."""

import signal
import sys

import httpx

import serving


def test_the_demo_answers_and_ends_cleanly(tmp_path):
    serving.model(serving.SMOLLM2)
    listen, ops = serving.free_address(), serving.free_address()
    up = serving.Process(
        [
            sys.executable, serving.REPOSITORY / "tests" / "up.py", serving.BINARIES / "naru",
            "--listen", listen, "--ops-listen", ops, "--data-dir", tmp_path / "data",
        ],
        tmp_path,
        "up",
    )  # fmt: skip
    said = []
    while not said or not said[-1].startswith("naru is up"):
        said.append(up.line())
    assert f"ready http://{listen}/v1" in said
    assert any("sky" in line.split("▶")[-1] for line in said), said
    assert httpx.get(f"http://{listen}/v1/models").status_code == 200
    assert up.stop(signal.SIGINT) == 0
