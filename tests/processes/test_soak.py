"""Sixty-four streams at once for a while, many of them left by their clients; afterwards nothing may be left over.

Twenty seconds in `make test`, five minutes in `make soak` (NARU_SOAK_SECONDS).
"""

import asyncio
import json
import os
import random
import time

import httpx
import pytest

import serving

SECONDS = int(os.environ.get("NARU_SOAK_SECONDS", "20"))
STREAMS = 64
SEED = 11
# After the first rounds every buffer has its size. What a page cache or an allocator may keep beyond that:
GROWTH_BYTES_MAX = 48 << 20


async def one(http, random, totals):
    """One request: read to the end, or left after a few chunks, or left before the first."""
    leave_after = random.choice([None, None, 0, random.randint(1, 20)])
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "word " * random.randint(1, 60) + str(random.random())}],
        "max_tokens": random.randint(1, 60),
        "temperature": random.choice([0, 1]),
        "seed": random.randint(0, 1 << 30),
        "n": random.choice([1, 1, 1, 2]),
        "stream": True,
    }
    try:
        timeout = 0.05 if leave_after == 0 else 120
        async with http.stream("POST", "/chat/completions", json=body, timeout=timeout) as response:
            chunks = 0
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    totals["finished"] += 1
                    return
                if line.startswith("data: "):
                    assert response.status_code == 200 and "error" not in json.loads(line[6:]), line
                    chunks += 1
                    if leave_after is not None and chunks >= leave_after:
                        totals["left"] += 1
                        return
            assert response.status_code in (429, 503), response.status_code
            totals["turned away"] += 1
            await asyncio.sleep(0.2)
    except httpx.TimeoutException:
        assert leave_after == 0, "a request that was not to be left timed out"
        totals["left"] += 1


async def load(address, seconds, totals):
    deadline = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=STREAMS, max_keepalive_connections=STREAMS)
    async with httpx.AsyncClient(base_url=address, limits=limits) as http:

        async def stream(number):
            chosen = random.Random(SEED * 1000 + number)
            while time.monotonic() < deadline:
                await one(http, chosen, totals)

        await asyncio.gather(*(stream(number) for number in range(STREAMS)))


def settled(platform):
    """Whether nothing runs, nothing waits and no block is used."""
    metrics = list(platform.worker_metrics().values())
    return metrics and all(
        m["naru_requests_running"] == 0 and m["naru_requests_waiting"] == 0 and used_blocks(m) == 0 for m in metrics
    )


def used_blocks(metrics):
    return metrics['naru_kv_blocks{state="used"}']


def footprint(platform):
    pids = [platform.child.pid, *platform.worker_pids()]
    return {pid: (serving.open_descriptors(pid), serving.resident_bytes(pid)) for pid in pids}


@pytest.mark.timeout(SECONDS * 2 + 240)
def test_nothing_is_left_of_many_streams(tmp_path):
    # Small, so that the first round fills it: what the prefix cache keeps is memory in use, not memory lost.
    yaml = serving.deployment("smollm2", serving.model(serving.SMOLLM2), sequences=64, kv_cache="128Mi")
    platform = serving.Platform(tmp_path, yaml)
    try:
        totals = {"finished": 0, "left": 0, "turned away": 0}
        # First for a third of the time, so that buffers have grown to what they need.
        asyncio.run(load(platform.address, SECONDS / 3, totals))
        serving.until(lambda: settled(platform), "nothing is in use after the first round")
        before = footprint(platform)
        asyncio.run(load(platform.address, SECONDS, totals))
        serving.until(lambda: settled(platform), "nothing is in use afterwards")
        serving.until(
            lambda: all(footprint(platform)[pid][0] <= most + STREAMS for pid, (most, _) in before.items()),
            "file descriptors are closed again, but for idle connections between gateway and worker",
            20,
        )
        after = footprint(platform)
        print(f"soak: {SECONDS} s, {totals}, before {before}, after {after}")
        assert totals["finished"] >= SECONDS and totals["left"] >= SECONDS, totals
        assert after.keys() == before.keys(), "a process was replaced"
        for pid, (_, resident) in after.items():
            assert resident - before[pid][1] < GROWTH_BYTES_MAX, (before, after)
    finally:
        assert platform.stop() == 0, platform.log_tail()
