"""`naru bench links`: what joins ranks, measured on this machine, for people and for programs."""

import json
import os
import subprocess

import pytest

import serving

KINDS = ["threads of one process", "processes, TCP", "processes, TCP with TLS"]
OPERATIONS = {"all_reduce", "broadcast", "send_receive"}


def bench(*options, worker=serving.BINARIES / "naru-worker"):
    environment = os.environ | {"NARU_WORKER": str(worker)}
    command = [serving.BINARIES / "naru", "bench", "links", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_every_way_to_join_ranks_is_measured_at_every_size():
    done = bench("--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [table["between"] for table in found["measured"]] == KINDS and found["ranks"] == 2
    assert "not measured" in found["nccl"], "what is left out is said"
    for table in found["measured"]:
        rows = table["rows"]
        sizes = {row["bytes"] for row in rows}
        assert (min(sizes), max(sizes)) == (8, 4 << 20) and len(rows) == len(sizes) * len(OPERATIONS)
        assert {row["operation"] for row in rows} == OPERATIONS
        for row in rows:
            assert 0 < row["seconds_min"] <= row["seconds_p50"] <= row["seconds_p99"], row
            assert row["bytes_per_second"] == pytest.approx(row["bytes"] / row["seconds_p50"]), row


def test_people_read_a_table():
    done = bench()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line in KINDS] == KINDS
    assert sum(line.startswith("   8 KiB") for line in lines) == len(KINDS), done.stdout


NO_WORKERS = [("/nowhere/naru-worker", 2, "does not exist"), ("/bin/false", 1, "exit status: 1")]


@pytest.mark.parametrize(("worker", "code", "why"), NO_WORKERS)
def test_a_worker_that_cannot_measure_is_named(worker, code, why):
    done = bench(worker=worker)
    assert done.returncode == code and worker in done.stderr and why in done.stderr, done.stderr
