"""Joins what the parts of a run found into RESULTS/result.json.

merge.py PACKED RESULTS
"""

import datetime
import json
import pathlib
import sys


def read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def timing(one: dict, ceilings: dict[str, float], peers: dict[tuple[str, str], dict]) -> dict:
    """A timing with its share of what the device can do, and PyTorch's time beside it."""
    out = dict(one)
    out["gigabytes_per_second"] = round(one["bytes"] / one["seconds"] / 1e9, 1)
    out["teraflop_per_second"] = round(one["flop"] / one["seconds"] / 1e12, 2)
    if ceilings:
        least = max(one["bytes"] / ceilings["copy_gigabytes_per_second"] / 1e9,
                    one["flop"] / ceilings["matmul_teraflop_per_second"] / 1e12)
        out["share_of_roofline"] = round(least / one["seconds"], 3)
    peer = peers.get((one["op"], one["case"]))
    if peer:
        out["peer"] = peer["what"]
        out["peer_seconds"] = peer["seconds"]
        out["times_as_fast_as_peer"] = round(peer["seconds"] / one["seconds"], 2)
    return out


def main() -> None:
    packed, results = map(pathlib.Path, sys.argv[1:3])
    name, driver, memory, clock, memory_clock = (
        (results / "device.csv").read_text(encoding="utf-8").splitlines()[0].split(", "))
    kernels, peers = read(results / "kernels.json"), read(results / "peers.json")
    by_case = {(one["op"], one["case"]): one for one in peers.get("peers", [])}
    ops: dict[str, dict] = {}
    for one in kernels.get("comparisons", []):
        op = ops.setdefault(one["op"], {"cases": 0, "passed": 0, "worst_share_of_bound": 0.0, "relative_error": 0.0})
        op["cases"] += 1
        op["passed"] += one["passed"]
        for key in ("worst_share_of_bound", "relative_error"):
            op[key] = max(op[key], one[key] if one[key] is not None else float("inf"))
    result = {
        "device": name, "driver": driver, "memory": memory, "max_sm_clock": clock, "max_memory_clock": memory_clock,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": (packed / "commit").read_text(encoding="utf-8").strip(),
        "sha256": dict(reversed(line.split()) for line in (packed / "sha256").read_text().splitlines()),
        "parts": {path.stem: int(path.read_text()) for path in sorted(results.glob("*.status"))},
        "ceilings": peers.get("ceilings", {}), "torch": peers.get("torch"),
        "models": [read(path) for path in sorted(results.glob("model-*.json"))],
        "ranks": [read(path) for path in sorted(results.glob("ranks-*.json"))],
        "loads": [read(path) for path in sorted(results.glob("load-*.json"))],
        "kernels": ops,
        "timings": [timing(one, peers.get("ceilings", {}), by_case) for one in kernels.get("timings", [])],
    }
    (results / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for one in result["timings"]:
        print(f"{one['op']:10} {one['case']:38} {one['seconds'] * 1e6:9.1f} us {one['gigabytes_per_second']:7.0f} GB/s "
              f"{one['teraflop_per_second']:7.1f} TFLOP/s {one.get('share_of_roofline', 0) * 100:5.1f} % "
              f"{one.get('times_as_fast_as_peer', '')}")


if __name__ == "__main__":
    main()
