"""How long users wait on a cluster: from `kubectl apply` to Ready, and from `kubectl scale` to a second replica that answers.

    times.py path/to/binaries [--rounds 5]

Brings up a cluster of its own with naru and a server of weights, and prints a table.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def measure(naru, rounds):
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binaries", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ["NARU_BINARIES"] = str(options.binaries.resolve())
    sys.path[:0] = [str(TESTS), str(TESTS.parent / "charts" / "images")]
    import pack
    import weights
    from cluster import lifecycle, programs
    from platform_under_test import Platform

    with lifecycle.fresh(programs.ensure()) as cluster, tempfile.TemporaryDirectory() as directory:
        archive, _ = pack.pack(options.binaries, Path(directory), pack.workspace_version(), compression=1)
        cluster.load(archive)
        naru = Platform(cluster, directory, pack.workspace_version())
        naru.authority = weights.serve(cluster, Path(directory))
        naru.install()
        naru.admit_tenant()
        naru.prepare_namespace()
        print("| | median | smallest to largest |\n| --- | --- | --- |")
        for what, seconds in measure(naru, options.rounds).items():
            print(f"| {what} | {statistics.median(seconds):.1f} s | {min(seconds):.1f} to {max(seconds):.1f} s |")


if __name__ == "__main__":
    main()
