"""Many model deployments at once: how long until each has its status, and what the operator needed for it.

    many.py KUBECONFIG [--count 1000]

On a cluster with naru installed. Prints one row of a table. No pods: replicas are 0.
"""

import argparse
import json
import re
import time

NAMESPACE = "many"
BATCH = 100


def manifests(first, last):
    for number in range(first, last):
        yield json.dumps({
            "apiVersion": "naru.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": f"many-{number}", "namespace": NAMESPACE},
            "spec": {"model": {"uri": "sim://default"}, "backend": "sim", "replicas": 0},
        })  # fmt: skip


def apply(client, count):
    client.kubectl("create", "namespace", NAMESPACE)
    for first in range(0, count, BATCH):
        text = "\n---\n".join(manifests(first, min(first + BATCH, count)))
        client.kubectl("create", "--filename=-", text=text)


def with_status(client):
    """How many of them have a Ready condition for the generation that was written."""
    found = json.loads(client.kubectl("get", "md", f"--namespace={NAMESPACE}", "--output=json", "--chunk-size=500"))
    return sum(bool(each.get("status", {}).get("conditions")) for each in found["items"])


def settle(client, count, seconds=300):
    """Seconds until every one has its status."""
    started = time.monotonic()
    while with_status(client) < count:
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"{with_status(client)} of {count} have a status after {seconds} s")
        time.sleep(0.5)
    return time.monotonic() - started


def operator_metrics(client, system="naru-system"):
    """The metrics page of the operator's pod, through the API server."""
    names = client.kubectl(
        "get", "pods", f"--namespace={system}", "--selector=app.kubernetes.io/name=naru-operator", "--output=name"
    ).split()
    path = f"/api/v1/namespaces/{system}/pods/{names[0].removeprefix('pod/')}:9090/proxy/metrics"
    return client.kubectl("get", "--raw", path)


def quantile(page, q, name="naru_reconcile_duration_seconds"):
    """The upper bound of the bucket in which the quantile lies."""
    counts = {}
    for bound, value in re.findall(rf'^{name}_bucket{{.*?le="([^"]+)".*?}} (\S+)$', page, re.MULTILINE):
        counts[float(bound)] = counts.get(float(bound), 0) + float(value)
    total = max(counts.values())
    return min(bound for bound, below in counts.items() if below >= q * total)


def value(page, name):
    return sum(float(found) for found in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE))


def main():
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from cluster.client import Client

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kubeconfig")
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    client = Client(options.kubeconfig)
    started = time.monotonic()
    try:
        apply(client, options.count)
        written = time.monotonic() - started
        settled = written + settle(client, options.count, 3600)
        page = operator_metrics(client)
        memory = value(page, "process_resident_memory_bytes") / (1 << 20)
        quantiles = " / ".join(f"{1000 * quantile(page, q):g}" for q in (0.5, 0.95, 0.99))
        print(f"| {options.count} | {written:.1f} | {settled:.1f} | {quantiles} | {memory:.0f} |")
    finally:
        client.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=600s")


if __name__ == "__main__":
    main()
