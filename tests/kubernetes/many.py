"""Many model deployments at once: how long until each has its status, and what the operator needed for it.

No pods: replicas are 0.
"""

import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

NAMESPACE = "many"
BATCH = 100
LOOK_SECONDS = 0.5
ACCOUNT = "system:serviceaccount:naru-system:naru-operator"
SETTLE_SECONDS_MAX = 3600


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
        time.sleep(LOOK_SECONDS)
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


@dataclass
class Needed:
    """What the operator needed for all of them."""

    seconds: float
    milliseconds: list  # of a reconcile: p50, p95, p99
    mebibytes: list  # resident: at the end, and at most
    calls: Counter  # by (verb, resource)


def measure(cluster, count):
    """Makes so many, and then has an operator start that finds them there; what each needed."""
    restart(cluster)
    log, started = cluster.layout.audit_log.stat().st_size, time.monotonic()
    apply(cluster, count)
    settle(cluster, count, SETTLE_SECONDS_MAX)
    made = needed(cluster, time.monotonic() - started, log)
    log, started = cluster.layout.audit_log.stat().st_size, time.monotonic()
    restart(cluster)
    while value(operator_metrics(cluster), "naru_reconcile_total") < count:
        assert time.monotonic() - started < SETTLE_SECONDS_MAX, "the operator does not look at all of them"
        time.sleep(LOOK_SECONDS)
    return {"made": made, "found by a new operator": needed(cluster, time.monotonic() - started, log)}


def restart(client, system="naru-system"):
    """Another operator in the place of the one before, so that it has counted nothing yet."""
    deployment = "deployment/naru-operator"
    client.kubectl("rollout", "restart", deployment, f"--namespace={system}")
    client.kubectl("rollout", "status", deployment, f"--namespace={system}", "--timeout=120s")
    selector = "--selector=app.kubernetes.io/name=naru-operator"
    while len(client.kubectl("get", "pods", f"--namespace={system}", selector, "--output=name").split()) != 1:
        time.sleep(LOOK_SECONDS)


def needed(cluster, seconds, log):
    page = operator_metrics(cluster)
    milliseconds = [1000 * quantile(page, q) for q in (0.5, 0.95, 0.99)]
    return Needed(seconds, milliseconds, operator_memory(cluster), calls(cluster.layout.audit_log, log))


def calls(log, offset):
    """What the operator asked the API server for since the log was so long. Watches count when they begin."""
    found = Counter()
    with open(log) as lines:
        lines.seek(offset)
        for line in lines:
            event = json.loads(line)
            stage = "ResponseStarted" if event["verb"] == "watch" else "ResponseComplete"
            if event["user"].get("username") == ACCOUNT and event["stage"] == stage and "objectRef" in event:
                what = event["objectRef"]
                resource = "/".join(part for part in (what["resource"], what.get("subresource")) if part)
                found[event["verb"], resource] += 1
    return found


def operator_memory(cluster, system="naru-system"):
    """MiB of the operator's process, which runs on this machine: resident now, and at most so far."""
    selector = "--selector=app.kubernetes.io/name=naru-operator"
    pod = cluster.kubectl("get", "pods", f"--namespace={system}", selector, "--output=jsonpath={.items[0].metadata.uid}")
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if pod in (path / "cgroup").read_text() and (path / "cmdline").read_bytes().startswith(b"/naru\0"):
                status = (path / "status").read_text()
                return [int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) / 1024 for name in ("VmRSS", "VmHWM")]
        except OSError:
            continue  # it has ended
    raise AssertionError("the operator's process is not on this machine")
