"""The operator on a real cluster: a model deployment becomes pods that answer, and goes without leaving anything."""

import base64
import json
import os
import signal
import ssl

import httpx
import pack
import pytest
import serving
from cluster.failure import Failed
from serving import until

DEPLOYMENT = """
apiVersion: naru.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  model: {{uri: "{uri}", names: [{served}]}}
  engine: {{kvCacheMemory: 64Mi}}
  resources: {{requests: {{cpu: 50m, memory: {memory}}}, limits: {{cpu: "1"}}}}
  rollout: {{drainSeconds: 10}}
  podTemplate:
    volumes: [{{name: models, mountPath: /models, persistentVolumeClaim: {{claimName: models}}}}]
"""

VOLUME = """
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {namespace}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadOnlyMany]
  storageClassName: ""
  hostPath: {{path: {models}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: models, namespace: {namespace}}}
spec:
  accessModes: [ReadOnlyMany]
  storageClassName: ""
  volumeName: {namespace}
  resources: {{requests: {{storage: 1Gi}}}}
"""

OWNED = "statefulsets,pods,services,poddisruptionbudgets,controllerrevisions,endpointslices"


class Operator(serving.Process):
    """`naru operator` on this machine, that leads in a namespace of its own."""

    def __init__(self, directory, cluster, namespace, worker, name="operator"):
        self.ops = serving.free_address()
        command = [
            "env", f"KUBECONFIG={cluster.kubeconfig}", serving.BINARIES / "naru", "operator",
            "--namespace", namespace, "--worker-image", worker, "--worker-image-pull-policy", "Never",
            "--ops-listen", self.ops, "--control-listen", serving.free_address(), "--webhook-listen", serving.free_address(),
        ]  # fmt: skip
        super().__init__(command, directory, name)

    def metrics(self):
        return httpx.get(f"http://{self.ops}/metrics").text


@pytest.fixture(scope="module")
def worker_image(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    archive, written = pack.pack(serving.BINARIES, folder, pack.workspace_version(), compression=1)
    cluster.load(archive)
    archive.unlink()
    return next(image.name for image, _ in written if "/worker:" in image.name)


@pytest.fixture
def platform(cluster, namespace, worker_image, tmp_path):
    """The definitions, the weights, and an operator that looks after the cluster."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "--filename", serving.REPOSITORY / "crds")
    models = serving.model(serving.SMOLLM2).parent
    cluster.kubectl("apply", "--filename=-", text=VOLUME.format(namespace=namespace, models=models))
    operator = Operator(tmp_path, cluster, namespace, worker_image)
    yield Platform(cluster, namespace, operator, tmp_path, worker_image)
    code = operator.stop()
    cluster.kubectl("delete", "modeldeployments", "--all", "--namespace", namespace, "--wait=false")
    cluster.kubectl("delete", "persistentvolume", namespace, "--wait=false")
    assert code == 0, operator.log_tail()


class Platform:
    def __init__(self, cluster, namespace, operator, directory, worker_image):
        self.cluster, self.namespace, self.operator = cluster, namespace, operator
        self.directory, self.worker_image = directory, worker_image

    def kubectl(self, *arguments, text=None):
        return self.cluster.kubectl(*arguments, "--namespace", self.namespace, text=text)

    def apply(self, name, uri=f"file:///models/{serving.SMOLLM2}", memory="64Mi", served=None):
        served = served or f"{self.namespace}-{name}"
        words = {"name": name, "uri": uri, "memory": memory, "served": served, "namespace": self.namespace}
        self.kubectl("apply", "--filename=-", text=DEPLOYMENT.format(**words))

    def wait_ready(self, name):
        self.kubectl("wait", "--for=condition=Ready", f"modeldeployment/{name}", "--timeout=120s")

    def wait_count(self, name, count):
        for field in ("readyReplicas", "replicas"):
            condition = f"--for=jsonpath={{.status.{field}}}={count}"
            self.kubectl("wait", condition, f"modeldeployment/{name}", "--timeout=120s")

    def ready(self, name):
        """The condition Ready, or nothing yet."""
        status = json.loads(self.kubectl("get", "modeldeployment", name, "--output=json")).get("status", {})
        return next((c for c in status.get("conditions", []) if c["type"] == "Ready"), None)

    def versions(self):
        kinds = "modeldeployments,statefulsets,pods,services,poddisruptionbudgets"
        items = json.loads(self.kubectl("get", kinds, "--output=json"))["items"]
        return {(i["kind"], i["metadata"]["name"]): i["metadata"]["resourceVersion"] for i in items}

    def pods(self):
        return json.loads(self.kubectl("get", "pods", "--output=json"))["items"]

    def ask(self, pod, model):
        """Asks a worker as a gateway does: with the gateway's certificate, and sure of the worker's."""
        request = {"model": model, "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
        secret = json.loads(self.kubectl("get", "secret", "naru-gateway-tls", "--output=json"))["data"]
        for name, content in secret.items():
            (self.directory / name).write_bytes(base64.b64decode(content))
        context = ssl.create_default_context(cafile=self.directory / "ca.crt")
        context.load_cert_chain(self.directory / "tls.crt", self.directory / "tls.key")
        url = f"https://{pod['status']['podIP']}:8000/v1/completions"
        with httpx.Client(verify=context, timeout=60) as client:
            return client.post(url, json=request, extensions={"sni_hostname": "worker.naru.internal"})

    def owned(self):
        found = self.kubectl("get", OWNED, "--selector=app.kubernetes.io/managed-by=naru", "--output=name")
        return found.split()


@pytest.mark.control
def test_a_model_deployment_lives(platform):
    """From apply to an answer, three replicas and back, a crash, and nothing left in the end."""
    platform.apply("smol")
    platform.wait_ready("smol")
    (pod,) = platform.pods()
    answer = platform.ask(pod, f"{platform.namespace}-smol")
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"].strip(), answer.text

    platform.kubectl("scale", "modeldeployment/smol", "--replicas=3")
    platform.wait_count("smol", 3)
    platform.kubectl("scale", "modeldeployment/smol", "--replicas=1")
    platform.wait_count("smol", 1)
    until(lambda: len(platform.pods()) == 1, "two replicas are gone")
    assert platform.pods()[0]["metadata"]["name"] == "smol-0-0", "the youngest go first"

    restarts = platform.pods()[0]["status"]["containerStatuses"][0]["restartCount"]
    os.kill(worker_of(f"{platform.namespace}-smol"), signal.SIGKILL)
    until(lambda: platform.pods()[0]["status"]["containerStatuses"][0]["restartCount"] > restarts, "it is restarted")
    platform.wait_ready("smol")

    platform.kubectl("delete", "modeldeployment/smol")
    until(lambda: not platform.owned(), "nothing that was made for it is left")
    assert "naru_reconcile_errors_total 0" in platform.operator.metrics()


@pytest.mark.control
def test_looking_twice_changes_nothing(platform):
    platform.apply("quiet")
    platform.wait_ready("quiet")
    # The kubelet and the controllers of the cluster have their own last words at first.
    until(lambda: stays(platform), "the operator looks at everything again and writes nothing", seconds=150)


@pytest.mark.control
def test_trouble_becomes_a_reason(platform):
    """Each kind of trouble ends in a condition that names it."""
    platform.apply("first", served=f"{platform.namespace}-name")
    platform.wait_ready("first")
    platform.apply("second", served=f"{platform.namespace}-name")
    platform.apply("large", memory="900Gi")
    platform.apply("empty", uri="file:///models/nothing.gguf")
    for name, reason in [("second", "NameTaken"), ("large", "Unschedulable"), ("empty", "WeightsMissing")]:
        found = until(lambda name=name, reason=reason: has_reason(platform, name, reason), f"{name}: {reason}")
        assert found["status"] == "False" and found["message"], found


@pytest.mark.control
def test_a_second_operator_takes_over(platform):
    """One that is killed leaves its lease to run out; what runs goes on, and is looked after again."""
    platform.apply("smol")
    platform.wait_ready("smol")
    second = Operator(
        platform.directory, platform.cluster, platform.namespace, platform.worker_image, name="second"
    )  # fmt: skip
    try:
        until(lambda: "naru_operator_leader 0" in metrics_or_nothing(second), "the second one waits")
        platform.operator.child.kill()
        until(lambda: "naru_operator_leader 1" in metrics_or_nothing(second), "the second one leads", seconds=40)
        platform.kubectl("scale", "modeldeployment/smol", "--replicas=2")
        platform.wait_count("smol", 2)
    finally:
        code = second.stop()
    assert code == 0, second.log_tail()
    # What the fixture ends is one that lives.
    platform.operator.__init__(platform.directory, platform.cluster, platform.namespace, platform.worker_image)
    until(lambda: "naru_operator_leader 1" in metrics_or_nothing(platform.operator), "the lease was given back")


def metrics_or_nothing(operator):
    try:
        return operator.metrics()
    except httpx.TransportError:
        return ""


def has_reason(platform, name, reason):
    try:
        ready = platform.ready(name)
    except Failed:
        return None
    return ready if ready and ready["reason"] == reason else None


def reconciles(operator):
    line = next(line for line in operator.metrics().splitlines() if line.startswith("naru_reconcile_total "))
    return float(line.split()[1])


def stays(platform):
    """Whether everything has the version that it had before the operator looked again."""
    before, done = platform.versions(), reconciles(platform.operator)
    until(lambda: reconciles(platform.operator) > done, "the operator has looked again")
    return platform.versions() == before


def worker_of(served_name):
    """The process of the worker that serves this name; pods of the test's cluster run on this machine."""
    for path in os.listdir("/proc"):
        if path.isdigit():
            try:
                with open(f"/proc/{path}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if served_name.encode() in words and words[0].endswith(b"naru-worker"):
                return int(path)
    raise AssertionError(f"no worker serves {served_name}")
