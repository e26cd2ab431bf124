"""The faults that docs/operating.md lists: how each comes about, what its condition then says, and the way out.

`FAULTS` is the one list. `test_faults.py` brings every one of them about; `test_fault_table.py` holds the page to it.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import serving
import weights
from platform_under_test import deployment, simulated
from pod_processes import WORKER, processes
from serving import until

NAMESPACE, FULL, CROWDED, STRICT = "faults", "faults-full", "faults-crowded", "faults-strict"
# Where faulty ones run, and which node is harmed.
NODE, HARMED = "node1", "node2"
MODEL = serving.SMOLLM2
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GPU = "example.com/gpu"
# What is called so is a class of a handler that no node has.
LACKING = "lacking"
KEPT_IMAGE = "localhost/kept:1"


@dataclass(frozen=True)
class Fault:
    """One way in which a condition comes to give a reason."""

    reason: str
    # As the page shows it; `…` stands for what differs from case to case.
    message: str
    # The model deployment that says it, and what is made before it.
    wishes: Callable[[], list]
    # Which condition says it.
    kind: str = "Ready"
    status: str = "False"
    # What is done beside, when `wishes` are there.
    provoke: Callable = lambda _: None
    # The way out; `None`: there is none that is cheap to show.
    mend: Callable | None = None
    # Told apart from others of the same reason; the page has the one without.
    way: str = ""

    @property
    def id(self):
        return self.reason + (f"-{self.way}" if self.way else "")


# --- model deployments


def idle(called, namespace=NAMESPACE, uri="sim://default", node=NODE, pod=None, **spec):
    """A simulated one on the node that is not harmed."""
    wish = simulated(called, namespace, uri, **({"rollout": {"drainSeconds": 1}} | spec))
    wish["spec"]["podTemplate"] = {"nodeSelector": {"kubernetes.io/hostname": node}} | (pod or {})
    return wish


def loading(called, uri, namespace=NAMESPACE, sha256=None, limit="512Mi"):
    """One with weights, that trusts their server."""
    wish = deployment(
        called, uri, None, namespace,
        engine={"maxContextTokens": 256, "kvCacheMemory": "16Mi"}, rollout={"drainSeconds": 1},
        resources={"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": limit}},
    )  # fmt: skip
    wish["spec"]["podTemplate"] |= {"nodeSelector": {"kubernetes.io/hostname": NODE}}
    if sha256:
        wish["spec"]["model"]["sha256"] = sha256
    return wish


def grouped(called):
    """One of two members, a stage each."""
    wish = loading(called, from_server(MODEL))
    wish["spec"]["parallelism"] = {"pipeline": 2}
    return wish


def accelerated(called, **accelerator):
    small = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
    return deployment(
        called, "https://weights.example/m.gguf", {}, NAMESPACE, backend="cuda",
        accelerator={"resource": GPU} | accelerator, resources=small, rollout={"drainSeconds": 1},
    )  # fmt: skip


def from_server(path):
    return weights.uri(path)


def mounting(called, **source):
    return idle(called, pod={"volumes": [{"name": "given", "mountPath": "/given", **source}]})


def of_variable(called):
    secret = {"secretKeyRef": {"name": called, "key": "HF_TOKEN"}}
    return idle(called, pod={"env": [{"name": "HF_TOKEN", "valueFrom": secret}]})


def powered(called, budget, replicas=1):
    return idle(called, replicas=replicas, power={"budget": budget, "maxWattsPerDevice": 300})


# --- what is done beside


def apply(*wishes):
    return lambda naru: naru.apply(*wishes)


def make(kind, called):
    return lambda naru: naru.kubectl(
        "create", *kind, called, "--from-literal=HF_TOKEN=hf_none", f"--namespace={NAMESPACE}"
    )  # fmt: skip


def drop(what, namespace=NAMESPACE):
    return lambda naru: naru.kubectl("delete", *what, f"--namespace={namespace}")


def budget(called, watts):
    metadata = {"name": called}
    return {"apiVersion": "naru.dev/v1alpha1", "kind": "PowerBudget", "metadata": metadata, "spec": {"watts": watts}}


def worker_ends(called, member=0):
    """A member's process is ended as often as it takes until the kubelet waits before it starts another."""

    def provoke(naru):
        naru.wait_ready(called, namespace=NAMESPACE)

        def waits():
            pods = [pod for pod in naru.pods(called, NAMESPACE) if pod["metadata"]["name"].endswith(f"-{member}")]
            for pid in processes(pods, WORKER):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            statuses = [each for pod in pods for each in pod["status"]["containerStatuses"]]
            return any(each["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff" for each in statuses)

        until(waits, "the kubelet waits before it starts the worker again", 90)

    return provoke


def template_breaks(called):
    """The replica of another template finds no node, and does not get long to."""

    def provoke(naru):
        naru.wait_ready(called, namespace=NAMESPACE)
        rollout = {"drainSeconds": 1, "progressDeadlineSeconds": 1}
        naru.apply(idle(called, resources={"requests": {"memory": "900Gi"}}, rollout=rollout))

    return provoke


def image_goes(called):
    """The node finds the worker's image no more by its name."""

    def provoke(naru):
        naru.wait_ready("nodelost", namespace=NAMESPACE)  # it runs from the same
        naru.cluster.nodes[HARMED].rename_image(worker_image(naru), KEPT_IMAGE)
        naru.scale(1, called, NAMESPACE)

    return provoke


def image_comes(naru):
    naru.cluster.nodes[HARMED].rename_image(KEPT_IMAGE, worker_image(naru))


def worker_image(naru):
    pod = naru.pods("nametaken", NAMESPACE)[0]
    return pod["spec"]["containers"][0]["image"]


def node_goes(called):
    def provoke(naru):
        naru.wait_ready(called, namespace=NAMESPACE)
        naru.cluster.nodes[HARMED].stop()

    return provoke


def node_comes(naru):
    naru.cluster.nodes[HARMED].start()
    naru.cluster.nodes[HARMED].wait_ready()


def many_ask(called):
    """So many at once, and so slowly answered, that one replica is not enough for a while."""

    def provoke(naru):
        naru.wait_ready(called, namespace=NAMESPACE)

        def ask():
            with contextlib.suppress(httpx.HTTPError):
                naru.ask(model=called, tokens=400)

        for _ in range(6):
            threading.Thread(target=ask, daemon=True).start()

    return provoke


def scaled(called, maximum):
    targets = {"queuedTokensPerReplica": 10}
    return idle(
        called, uri="sim://default?speed=0.05", engine={"maxSequences": 1, "maxContextTokens": 1024},
        scaling={"minReplicas": 1, "maxReplicas": maximum, "targets": targets},
    )  # fmt: skip


def disk_grows(naru):
    naru.cluster.nodes[NODE].machine.run("mount", "-o", "remount,size=256m", naru.directory / FULL)


WEIGHTS = "WeightsAvailable"
FETCHING = "fetching https://weights.weights.svc"
WAITS = "0 of 1 replicas answer; replica 0"
ENDED = f"{WAITS} ended … times and is started again after a wait"
BIG = {"requests": {"memory": "900Gi"}}

# In the order in which they are looked for: what harms a node comes last, and is put right first.
FAULTS = [
    Fault(
        "Unschedulable",
        f"{WAITS} cannot start: no node takes it: node1: … GiB of memory short; …",
        lambda: [idle("unschedulable", resources=BIG)],
        mend=apply(idle("unschedulable")),
    ),
    Fault(
        "MountMissing",
        f'{WAITS} cannot start: MountVolume.SetUp failed for volume "…" : secret "…" not found',
        lambda: [mounting("mountmissing", secret={"secretName": "mountmissing"})],
        mend=make(["secret", "generic"], "mountmissing"),
    ),
    Fault(
        "MountMissing",
        f'{WAITS} cannot start: MountVolume.SetUp failed for volume "given" : configmap "mountmissing-map" not found',
        lambda: [mounting("mountmissing-map", configMap={"name": "mountmissing-map"})],
        mend=make(["configmap"], "mountmissing-map"),
        way="map",
    ),
    Fault(
        "MountMissing",
        f'{WAITS} cannot start: secret "mountmissing-env" not found',
        lambda: [of_variable("mountmissing-env")],
        mend=make(["secret", "generic"], "mountmissing-env"),
        way="env",
    ),
    Fault(
        "QuotaExceeded",
        f'{WAITS} cannot start: pods "…" is forbidden: exceeded quota: …, requested: pods=1, used: pods=…, '
        "limited: pods=…",
        lambda: [idle("quotaexceeded", CROWDED)],
        mend=drop(["resourcequota", "rule"], CROWDED),
    ),
    Fault(
        "Refused",
        f'{WAITS} cannot start: pods "…" is forbidden: minimum memory usage per Container is …, but request is …',
        lambda: [idle("refused", STRICT)],
        mend=drop(["limitrange", "rule"], STRICT),
    ),
    Fault(
        "Refused",
        f'{WAITS} cannot start: Failed to create pod sandbox: … no runtime for "lacking" is configured',
        lambda: [accelerated("refused-node", runtimeClassName=LACKING)],
        way="node",
    ),
    Fault(
        "ConfigRefused",
        f"{ENDED}: `…` is no profile that can be simulated: use …",
        lambda: [idle("configrefused", uri="sim://nobody")],
        mend=apply(idle("configrefused")),
    ),
    Fault(
        "NoUsableGpu",
        f"{ENDED}: no usable GPU: libcuda.so.1 cannot be loaded; is NVIDIA's driver on this machine?; …",
        lambda: [accelerated("nousablegpu")],
    ),
    Fault(
        "OutOfMemoryKilled",
        f"{ENDED}: the worker used more memory than resources.limits.memory allows",
        lambda: [loading("outofmemorykilled", from_server(MODEL), limit="48Mi")],
        mend=apply(loading("outofmemorykilled", from_server(MODEL))),
    ),
    Fault(
        "WeightsMissing",
        f"{FETCHING}/…: 404, no such file; check its name and the revision",
        lambda: [loading("weightsmissing", from_server("nothing.gguf"))],
        WEIGHTS,
        mend=apply(loading("weightsmissing", from_server(MODEL))),
    ),
    Fault(
        "WeightsUnauthorized",
        f"{FETCHING}/…: 401, a token or login is needed; …",
        lambda: [loading("weightsunauthorized", from_server(f"401/{MODEL}"))],
        WEIGHTS,
    ),
    Fault(
        "WeightsUnreachable",
        "fetching https://…: the name of the host is not known; check the address and the DNS, or set HTTPS_PROXY: …",
        lambda: [loading("weightsunreachable", "https://nobody.invalid/m.gguf")],
        WEIGHTS,
        mend=apply(loading("weightsunreachable", from_server(MODEL))),
    ),
    Fault(
        "WeightsUnreachable",
        f"{FETCHING}/cut/{MODEL}: the network failed; try again, what has come is kept: …",
        lambda: [loading("weightsunreachable-cut", from_server(f"cut/{MODEL}"))],
        WEIGHTS,
        way="cut",
    ),
    Fault(
        "WeightsCorrupt",
        "/var/cache/naru/… has the SHA-256 …, not …; if it was fetched it was deleted: check the digest and the "
        "address",
        lambda: [loading("weightscorrupt", from_server(MODEL), sha256="0" * 64)],
        WEIGHTS,
        mend=apply(loading("weightscorrupt", from_server(MODEL), sha256=DIGEST)),
    ),
    Fault(
        "WeightsCorrupt",
        "opening the model: reading /var/cache/naru/…: the file ends inside its data: …; it was thrown away: upload "
        "the whole file",
        lambda: [loading("weightscorrupt-half", from_server(f"half/{MODEL}"))],
        WEIGHTS,
        way="half",
    ),
    Fault(
        "DiskFull",
        "the disk of /var/cache/naru/… is full (… bytes are needed); …",
        lambda: [loading("diskfull", from_server(MODEL), FULL)],
        WEIGHTS,
        mend=disk_grows,
    ),
    Fault(
        "ScaledToZero",
        "no replica is wished",
        lambda: [idle("scaledtozero", replicas=0)],
        mend=lambda naru: naru.scale(1, "scaledtozero", NAMESPACE),
    ),
    Fault(
        "NameTaken",
        'the served name "…" is taken by …/…',
        lambda: [idle("nametaken-too", model={"uri": "sim://default", "names": ["nametaken"]}), idle("nametaken")],
        mend=apply(idle("nametaken-too")),
    ),
    Fault(
        "SpecInvalid",
        'spec.model.uri: "…" must start with file:///, hf://, https://, oci://, s3://, pvc:// or sim://, and have no '
        "space in it",
        # One that does not break a line, as web pages have them, is no space to the API server.
        lambda: [idle("specinvalid", uri="sim://default\u00a0")],
        mend=apply(idle("specinvalid")),
    ),
    Fault(
        "LimitedByMaximum",
        "the load asks for more than 1 replicas",
        lambda: [scaled("limitedbymaximum", 1)],
        "ScalingActive",
        status="True",
        provoke=many_ask("limitedbymaximum"),
    ),
    Fault(
        "PowerBudgetFull",
        "1 of 2 replicas fit: one more takes 300 W, and budget … lacks 100 W; room comes with that much more",
        lambda: [powered("powerbudgetfull", "faults-small", 2), budget("faults-small", 500)],
        "PowerFits",
        mend=apply(budget("faults-small", 600)),
    ),
    Fault(
        "PowerInfeasible",
        "no replica fits: each takes 300 W, and budget … has 200 W, of which overhead takes 0 W",
        lambda: [powered("powerinfeasible", "faults-tiny"), budget("faults-tiny", 200)],
        "PowerFits",
        mend=apply(budget("faults-tiny", 300)),
    ),
    Fault(
        "PowerBudgetInvalid",
        "there is no PowerBudget …; what runs goes on, and nothing more is started",
        lambda: [powered("powerbudgetinvalid", "faults-none")],
        "PowerFits",
        mend=apply(budget("faults-none", 300)),
    ),
    Fault(
        "BackingOff",
        f"{ENDED}: the worker ended with exit code 137",
        lambda: [idle("backingoff")],
        provoke=worker_ends("backingoff"),
        mend=lambda _: None,
    ),
    Fault(
        "RankFailed",
        "0 of 1 replicas answer; replica 0 lost rank 1 (pod …-0-1 on node …): the worker ended with exit code 137; its "
        "other ranks wait for it",
        lambda: [grouped("rankfailed")],
        provoke=worker_ends("rankfailed", member=1),
        mend=lambda _: None,
    ),
    Fault(
        "RolloutStopped",
        "0 of 1 replicas are of the present template and answer; 1 of older ones do; replica … does not become "
        "ready: …",
        lambda: [idle("rolloutstopped")],
        "RolledOut",
        provoke=template_breaks("rolloutstopped"),
        mend=apply(idle("rolloutstopped")),
    ),
    Fault(
        "ImageMissing",
        f'{WAITS} cannot start: image …: Container image "…" is not present with pull policy of Never',
        lambda: [idle("imagemissing", node=HARMED, replicas=0)],
        provoke=image_goes("imagemissing"),
        mend=image_comes,
    ),
    Fault(
        "NodeLost",
        f"{WAITS} is started elsewhere: node … does not answer",
        lambda: [idle("nodelost", node=HARMED)],
        provoke=node_goes("nodelost"),
        mend=node_comes,
    ),
]

# What only `naru up` says, of the memory of its machine; its log has the conditions.
ON_ONE_MACHINE = Fault(
    "InsufficientMemory",
    "0 of 1 replicas answer; the next one waits until its memory request is free",
    lambda: [simulated("insufficientmemory", "default", resources={"requests": {"memory": "900Ti"}})],
)


def shown(fault):
    """The model deployment that says it: its name and namespace."""
    metadata = fault.wishes()[0]["metadata"]
    return metadata["name"], metadata["namespace"]
