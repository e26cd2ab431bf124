"""Backend cuda on a node that only says it has GPUs: what pods get, and what is said where none is of use."""

import contextlib
import time

import pytest
from platform_under_test import deployment
from serving import until

NAMESPACE = "accelerated"
NAME, LATE = "gpu", "late"
GPU = "nvidia.com/gpu"
PRODUCT = "NVIDIA-FAKE-80GB"
NODE = "node1"
RUNTIME = "fake-nvidia"
TAINT = f"{GPU}=present:NoSchedule"

pytestmark = [pytest.mark.control, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def gpus(naru):
    """A node that counts two GPUs, is labelled and tainted as such nodes are, and a RuntimeClass that is no other."""
    naru.make_namespace(NAMESPACE)
    handler = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": RUNTIME}, "handler": "runc"}
    naru.apply(handler)
    naru.count_devices(NODE, GPU, "2")
    naru.kubectl("label", "node", NODE, f"{GPU}.product={PRODUCT}")
    naru.kubectl("taint", "node", NODE, TAINT)
    yield naru
    naru.kubectl("taint", "node", NODE, f"{TAINT}-")
    naru.kubectl("label", "node", NODE, f"{GPU}.product-")
    naru.count_devices(NODE, GPU, None)
    naru.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")
    naru.kubectl("delete", "runtimeclass", RUNTIME)


def accelerated(name, replicas=1, **accelerator):
    """Its weights are nowhere: they are not asked for."""
    small = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
    return deployment(
        name, "https://weights.example/m.gguf", {}, NAMESPACE,
        backend="cuda", accelerator=accelerator, replicas=replicas, resources=small, rollout={"drainSeconds": 0},
    )  # fmt: skip


@contextlib.contextmanager
def wished(naru, *arguments, **accelerator):
    name = arguments[0]
    naru.apply(accelerated(*arguments, **accelerator))
    try:
        yield
    finally:
        naru.kubectl("delete", "md", name, f"--namespace={NAMESPACE}", "--timeout=60s")
        until(lambda: not naru.pods(name, NAMESPACE), "its pods are gone")


def ready(naru, name):
    conditions = naru.status(name, NAMESPACE).get("conditions", [])
    return next((each for each in conditions if each["type"] == "Ready"), {"reason": "", "message": ""})


def restarts(naru, name):
    statuses = [status for pod in naru.pods(name, NAMESPACE) for status in pod["status"].get("containerStatuses", [])]
    return min((status["restartCount"] for status in statuses), default=0)


def last_words(pod):
    status = pod["status"]["containerStatuses"][0]
    ended = [state["terminated"] for state in (status["state"], status["lastState"]) if "terminated" in state]
    return ended and ended[0]


def test_a_pod_gets_a_gpu_and_its_worker_says_why_it_is_of_no_use(gpus):
    with wished(gpus, NAME, 2, product=PRODUCT, runtimeClassName=RUNTIME):
        said = until(lambda: (found := ready(gpus, NAME))["reason"] == "NoUsableGpu" and found, "the reason", 60)
        for words in ("no usable GPU: ", "device plugin", "accelerator.runtimeClassName", "try: kubectl describe pod"):
            assert words in said["message"], said
        pods = until(lambda: len(found := gpus.pods(NAME, NAMESPACE)) == 2 and all(map(last_words, found)) and found,
                     "both have ended once")  # fmt: skip
        for pod in pods:
            check_pod(pod)
            ended = last_words(pod)
            assert ended["exitCode"] == 2 and "NO_USABLE_GPU" in ended["message"], ended
        stays(gpus, "NoUsableGpu", until_restarts=2)
        # The first two have both.
        with wished(gpus, LATE):
            line = f"{NODE}: insufficient {GPU}: 1 short, 2 of 2 taken; node2: no {GPU}"
            until(lambda: refused(gpus, LATE, line), "the third says what is missing")
    with wished(gpus, LATE, 1, product="NVIDIA-OF-NOBODY"):
        line = f"{NODE}: no label {GPU}.product=NVIDIA-OF-NOBODY; node2: no {GPU}"
        until(lambda: refused(gpus, LATE, line), "the label is named")
    with wished(gpus, LATE, 1, runtimeClassName="of-nobody"):
        found = until(lambda: (now := ready(gpus, LATE))["reason"] == "Refused" and now, "it is refused")
        assert 'RuntimeClass "of-nobody" not found' in found["message"], found


def check_pod(pod):
    spec = pod["spec"]
    container = spec["containers"][0]
    assert spec["nodeName"] == NODE
    assert spec["nodeSelector"] == {f"{GPU}.product": PRODUCT}
    assert spec["runtimeClassName"] == RUNTIME
    assert container["resources"]["limits"][GPU] == container["resources"]["requests"][GPU] == "1"
    assert {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute,utility"} in container["env"]
    assert not any(variable["name"] == "NVIDIA_VISIBLE_DEVICES" for variable in container["env"])
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == "naru-shm"]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert {"name": "naru-shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert ["--backend", "cuda"] == container["args"][:2]


def stays(naru, reason, until_restarts):
    """The reason does not come and go with the starts that Kubernetes tries."""
    deadline = time.monotonic() + 90
    while restarts(naru, NAME) < until_restarts:
        found = ready(naru, NAME)
        assert found["reason"] == reason, found
        assert time.monotonic() < deadline, "Kubernetes starts it again"
        time.sleep(0.1)


def refused(naru, name, line):
    found = ready(naru, name)
    return found["reason"] == "Unschedulable" and line in found["message"]
