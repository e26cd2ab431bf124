"""From the last release to this checkout, under load. The name makes it the first test of the life: the others go on
with what it leaves.

Charts and definitions are those of the release. Its images have the release's tag, and hold this checkout's binaries
unless $NARU_RELEASED_BINARIES names the release's own: every pod is exchanged all the same.
"""

import functools
import json
import time

import pack
import pytest
import released
from load import STREAMS, Load
from platform_under_test import SIMULATED, SYSTEM, simulated
from serving import until

# Answers under load, every one of them compared.
REQUESTS = 200
KINDS = "modeldeployments,tenants,powerbudgets"

pytestmark = [pytest.mark.control, pytest.mark.timeout(600)]


def test_an_upgrade_cuts_no_stream_and_keeps_every_wish(naru_released):
    naru = naru_released
    prepare(naru)
    wishes, addresses = objects(naru, KINDS, "spec"), objects(naru, "services", "spec", "clusterIP")
    assert naru.is_of(released.version()), naru.versions()
    assert of_chart(naru, released.version()), "what the release has made is found by its label"
    with Load(naru, "smollm2", REQUESTS) as load:
        began = time.monotonic()
        naru.upgrade_charts()
        meanwhile = load.answered
        print(f"upgraded within {time.monotonic() - began:.0f} s, with {meanwhile} answers meanwhile")
    load.judge()
    assert meanwhile >= STREAMS, f"only {meanwhile} answers while it was upgraded"
    assert objects(naru, KINDS, "spec") == wishes
    assert addresses.items() <= objects(naru, "services", "spec", "clusterIP").items()
    until(lambda: of_chart(naru, released.version()) == [], "nothing is left of the release's chart", 60)
    assert history(naru)[-1] == ("deployed", f"naru-{pack.workspace_version()}", pack.workspace_version())
    naru.until_replicas(1)
    naru.until_replicas(2, "aside", namespace=SIMULATED)
    naru.kubectl("delete", "md/aside", f"--namespace={SIMULATED}", "--timeout=60s")
    naru.kubectl("delete", "powerbudget/hall", "--timeout=60s")


def prepare(naru):
    """One of each kind."""
    hall = {"apiVersion": "naru.dev/v1alpha1", "kind": "PowerBudget", "metadata": {"name": "hall"}}
    naru.apply(hall | {"spec": {"watts": 1000}})
    until(lambda: naru.get("powerbudget", "hall").get("status"), "the operator's word on the hall")
    naru.apply(simulated("aside", replicas=2, power={"budget": "hall", "maxWattsPerDevice": 100}))
    naru.until_replicas(2, "aside", namespace=SIMULATED)


def objects(naru, kinds, *path):
    """What there is, by kind and name: the uid, by which it is the same one, and what is at a path."""
    found = json.loads(naru.kubectl("get", kinds, "--all-namespaces", "--output=json"))["items"]
    return {
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]):
            (each["metadata"]["uid"], functools.reduce(lambda part, name: part[name], path, each))
        for each in found
    }  # fmt: skip


def of_chart(naru, version):
    """Objects of every kind that a version of the chart has made; but for the history of Deployments, which stays."""
    kinds = set(naru.kubectl("api-resources", "--verbs=list", "--output=name").split())
    kinds -= {"events", "events.events.k8s.io", "replicasets.apps"}
    how = [f"--selector=helm.sh/chart=naru-{version}", "--all-namespaces", "--ignore-not-found", "--output=name"]
    return naru.kubectl("get", ",".join(sorted(kinds)), *how).split()


def history(naru):
    told = json.loads(naru.cluster.helm("history", "naru", f"--namespace={SYSTEM}", "--output=json"))
    return [(each["status"], each["chart"], each["app_version"]) for each in told]
