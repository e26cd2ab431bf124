"""How long users wait on a cluster, and what many model deployments ask of the operator.

    bench_kubernetes.py path/to/binaries [--rounds 5] [--count 1000]

Brings up a cluster of its own with naru and a server of weights, and prints the tables of
docs/benchmarks/kubernetes.md, which says how they are measured.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def waits(naru, rounds):
    """Seconds of each round: apply to Ready, scale to two Ready replicas."""
    from platform_under_test import NAMESPACE, deployment

    found = {"apply to Ready": [], "scale to a second replica that answers": []}
    for _ in range(rounds):
        started = time.monotonic()
        naru.apply(deployment())
        naru.wait_ready()
        assert naru.ask(tokens=1).status_code == 200
        found["apply to Ready"].append(time.monotonic() - started)
        started = time.monotonic()
        naru.kubectl("scale", "md/smollm2", "--replicas=2", f"--namespace={NAMESPACE}")
        naru.until_replicas(2)
        found["scale to a second replica that answers"].append(time.monotonic() - started)
        naru.kubectl("delete", "md/smollm2", f"--namespace={NAMESPACE}", "--wait=true")
        naru.kubectl("wait", "--for=delete", "pods", "--all", f"--namespace={NAMESPACE}", "--timeout=90s")
    return found


def print_waits(found):
    print("| | median | smallest to largest |\n| --- | --- | --- |")
    for what, seconds in found.items():
        print(f"| {what} | {statistics.median(seconds):.1f} s | {min(seconds):.1f} to {max(seconds):.1f} s |")


def print_many(count, when):
    """`when`: what was found when they were made, and when an operator started that finds them there."""
    print(f"\n| {count} model deployments | " + " | ".join(when) + " |")
    print("| --- | " + " | ".join("---" for _ in when) + " |")
    rows = {
        "until each is as it should be": lambda found: f"{found.seconds:.1f} s",
        "reconcile p50 / p95 / p99, at most": lambda found: " / ".join(f"{ms:g}" for ms in found.milliseconds) + " ms",
        "operator, resident, at the end and at most": lambda found: " / ".join(f"{mib:.0f}" for mib in found.mebibytes) + " MiB",
        "calls to the API server for each": lambda found: f"{sum(found.calls.values()) / count:.2f}",
    }
    for what, show in rows.items():
        print(f"| {what} | " + " | ".join(show(found) for found in when.values()) + " |")
    often = sorted({kind for found in when.values() for kind, calls in found.calls.items() if calls >= count / 2})
    for kind in often:
        print(f"| … {' '.join(kind)} | " + " | ".join(f"{found.calls[kind] / count:.2f}" for found in when.values()) + " |")
    rest = [sum(calls for kind, calls in found.calls.items() if kind not in often) for found in when.values()]
    cells = " | ".join(f"{calls} in all" for calls in rest)
    print(f"| … all others: the election, certificates, lists and watches | {cells} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binaries", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    os.environ["NARU_BINARIES"] = str(options.binaries.resolve())
    sys.path[:0] = [str(TESTS), str(TESTS.parent / "charts" / "images")]
    import many
    import pack
    import weights
    from cluster import lifecycle, programs
    from platform_under_test import Platform

    with lifecycle.fresh(programs.ensure()) as cluster, tempfile.TemporaryDirectory() as directory:
        naru = Platform(cluster, directory)
        naru.load_images(options.binaries, pack.workspace_version())
        naru.authority = weights.serve(cluster, Path(directory))
        naru.install()
        naru.admit_tenant()
        naru.prepare_namespaces()
        print_waits(waits(naru, options.rounds))
        print_many(options.count, many.measure(cluster, options.count))


if __name__ == "__main__":
    main()
