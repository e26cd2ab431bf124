"""An operator on this machine that looks after a real cluster, and a gateway that follows it."""

import base64
import json
import ssl

import httpx
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
        self.ops, self.control = serving.free_address(), serving.free_address()
        command = [
            "env", f"KUBECONFIG={cluster.kubeconfig}", serving.BINARIES / "naru", "operator",
            "--namespace", namespace, "--worker-image", worker, "--worker-image-pull-policy", "Never",
            "--ops-listen", self.ops, "--control-listen", self.control, "--webhook-listen", serving.free_address(),
        ]  # fmt: skip
        super().__init__(command, directory, name)

    def metrics(self):
        return httpx.get(f"http://{self.ops}/metrics").text


class Gateway(serving.Process):
    """`naru gateway` on this machine, that follows an operator and proves who it is."""

    def __init__(self, directory, operator, certificates):
        self.address, self.ops = serving.free_address(), serving.free_address()
        command = [
            serving.BINARIES / "naru", "gateway", "--operator", operator.control, "--tls-dir", certificates,
            "--listen", self.address, "--ops-listen", self.ops, "--data-dir", directory / "gateway",
        ]  # fmt: skip
        super().__init__(command, directory, "gateway")

    def metric(self, name):
        """The value of a metric, or nothing yet."""
        try:
            found = serving.read_metrics(f"http://{self.ops}/metrics")
        except httpx.TransportError:
            return None
        return found.get(name)

    def accepts(self, key):
        answer = httpx.get(f"http://{self.address}/v1/models", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code in (200, 401), answer.text
        return answer.status_code == 200


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
        certificates = self.certificates()
        context = ssl.create_default_context(cafile=certificates / "ca.crt")
        context.load_cert_chain(certificates / "tls.crt", certificates / "tls.key")
        url = f"https://{pod['status']['podIP']}:8000/v1/completions"
        with httpx.Client(verify=context, timeout=60) as client:
            return client.post(url, json=request, extensions={"sni_hostname": "worker.naru.internal"})

    def certificates(self):
        """The folder in which a gateway finds who it is."""
        folder = self.directory / "certificates"
        folder.mkdir(exist_ok=True)
        secret = until(self._gateway_secret, "the operator has issued the gateway's certificate")
        for name, content in secret.items():
            (folder / name).write_bytes(base64.b64decode(content))
        return folder

    def _gateway_secret(self):
        found = self.kubectl("get", "secret", "naru-gateway-tls", "--ignore-not-found", "--output=json")
        return found and json.loads(found)["data"]

    def has_reason(self, name, reason):
        """The condition Ready, if it has this reason."""
        try:
            ready = self.ready(name)
        except Failed:
            return None
        return ready if ready and ready["reason"] == reason else None

    def owned(self):
        found = self.kubectl("get", OWNED, "--selector=app.kubernetes.io/managed-by=naru", "--output=name")
        return found.split()


def metrics_or_nothing(operator):
    try:
        return operator.metrics()
    except httpx.TransportError:
        return ""
