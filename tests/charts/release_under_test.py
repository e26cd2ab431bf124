"""naru as a release on a cluster: what a platform team does with Helm, and what its users see meanwhile."""

import copy
import json
import re
import threading

import httpx
import yaml
from charts_under_test import CHARTS, NAMESPACE
from serving import until

SERVING = "served"
TENANT = "demo"
ZONE = "topology.kubernetes.io/zone"
SAFE, LOST = {ZONE: "sa-riyadh-1"}, {ZONE: "th-bangkok-1"}
"""Where the release is, and where a node will be lost."""

VALUES = {
    "image": {"pullPolicy": "Never"},
    "operator": {"nodeSelector": SAFE},
    "gateway": {"nodeSelector": SAFE},
    "monitoring": {
        "podMonitors": {"enabled": True, "interval": "1s"},
        "rules": {"enabled": True},
        "dashboards": {"enabled": True},
    },
    "networkPolicies": {"enabled": True, "workerNamespaces": [SERVING]},
}
CHANGED = {"operator": {"certificateLifetime": "2h"}, "gateway": {"drainSeconds": 30}}
"""What an upgrade changes: both pods, and the certificates of everybody."""

ANSWERS_MIN = 10

TRANSIENT = {"events", "events.events.k8s.io"}


class Release:
    """The release, a tenant with a key, and model deployments that answer without weights."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.before = everything(cluster)
        self.key = self.gateway = self.notes = ""

    def install(self):
        self.cluster.kubectl("create", "namespace", SERVING)
        self.cluster.kubectl("label", "namespace", SERVING, "pod-security.kubernetes.io/enforce=restricted")
        self.notes = self._helm("install", VALUES)
        self._make_key()
        service = self.get("service", "naru-gateway")
        self.gateway = f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}/v1"
        hall = {"apiVersion": "naru.dev/v1alpha1", "kind": "PowerBudget", "metadata": {"name": "hall"}}
        self.apply(hall | {"spec": {"watts": 5000}})
        self.apply(model_deployment("steady", SAFE), model_deployment("moving", SAFE), model_deployment("lost", LOST))
        self.cluster.kubectl("wait", "--for=condition=Ready", "md", "--all", f"--namespace={SERVING}", "--timeout=90s")
        # Gateways hear of it a moment later.
        until(lambda: self.ask().status_code == 200, "an answer through the gateway", 30)

    def upgrade(self):
        self._helm("upgrade", {part: VALUES[part] | CHANGED.get(part, {}) for part in VALUES})

    def rollback(self):
        self.cluster.helm("rollback", "naru", f"--namespace={NAMESPACE}", "--wait", "--timeout=90s")

    def _helm(self, verb, values):
        how = [verb, "naru", CHARTS / "naru", f"--namespace={NAMESPACE}", "--wait", "--timeout=90s", "--values=-"]
        return self.cluster.helm(*how, text=yaml.safe_dump(values))

    def _make_key(self):
        """By the command that the notes of the release give."""
        [command] = re.findall(r"^ +kubectl (.* key create .*)$", self.notes, re.MULTILINE)
        self.key, entry = self.cluster.kubectl(*command.split()).split("\n\n", 1)
        spec = {"keys": yaml.safe_load(entry)}
        self.apply({"apiVersion": "naru.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": TENANT}, "spec": spec})

    def apply(self, *objects):
        self.cluster.kubectl("apply", "--filename=-", text="\n---\n".join(map(json.dumps, objects)))

    def get(self, *what, namespace=NAMESPACE):
        return json.loads(self.cluster.kubectl("get", *what, f"--namespace={namespace}", "--output=json"))

    def pods(self, name, namespace=NAMESPACE):
        """The pods that stay, by uid: what their one container is told."""
        found = self.get("pods", f"--selector=app.kubernetes.io/name={name}", namespace=namespace)["items"]
        staying = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return {pod["metadata"]["uid"]: pod["spec"]["containers"][0]["args"] for pod in staying}

    def scale(self, name, replicas):
        """Has a model deployment so many replicas, and waits until it has."""
        self.cluster.kubectl("scale", f"md/{name}", f"--replicas={replicas}", f"--namespace={SERVING}")

        def settled():
            status = self.get("md", name, namespace=SERVING)["status"]
            return status.get("replicas", 0) == status.get("readyReplicas", 0) == replicas

        until(settled, f"{replicas} replicas of {name}", 60)

    def ask(self, model="steady", prompt="Name a river.", key=None):
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 8}
        headers = {"authorization": f"Bearer {self.key if key is None else key}"}
        return httpx.post(f"{self.gateway}/chat/completions", json=body, headers=headers, timeout=30)

    def uninstall(self):
        """What docs/operating.md says, but for the definitions."""
        self.cluster.kubectl("delete", "md", "--all", f"--namespace={SERVING}", "--timeout=90s")
        self.cluster.kubectl("delete", "tenants,powerbudgets", "--all", "--timeout=60s")
        self.cluster.helm("uninstall", "naru", f"--namespace={NAMESPACE}", "--wait", "--timeout=120s")

    def audit(self):
        """The lines of the API server's log so far."""
        return self.cluster.layout.audit_log.read_text().splitlines()


class Asking:
    """Asks one question after the other for as long as a `with` lasts, and judges every answer."""

    PAUSE_SECONDS = 0.05

    def __init__(self, release):
        self.release, self.answered, self.failures = release, 0, []
        self._enough = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._enough.set()
        self._thread.join()

    def _ask(self):
        while not self._enough.wait(self.PAUSE_SECONDS):
            try:
                answer = self.release.ask()
                if answer.status_code != 200:
                    self.failures.append(f"{answer.status_code}: {answer.text}")
                self.answered += 1
            except httpx.HTTPError as failure:
                self.failures.append(f"{type(failure).__name__}: {failure}")

    def judge(self):
        assert self.answered >= ANSWERS_MIN, f"only {self.answered} answers"
        assert not self.failures, f"{len(self.failures)} of {self.answered}: {self.failures[:5]}"


def model_deployment(name, where):
    """A worker that pretends: it needs no weights, and is ready at once."""
    spec = {
        "model": {"uri": "sim://default?speed=10"},
        "backend": "sim",
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
        "placement": {"zones": [where[ZONE]]},
        "rollout": {"drainSeconds": 5},
    }
    return {
        "apiVersion": "naru.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": SERVING},
        "spec": spec,
    }


def of_an_earlier_version(kept):
    """What a naru that named things otherwise would have made beside `kept`."""
    metadata = kept["metadata"]
    labels, owners = metadata["labels"], metadata["ownerReferences"]
    stray = {"name": f"{metadata['name']}-old", "namespace": metadata["namespace"], "labels": labels}
    spec = copy.deepcopy(kept["spec"])
    return {
        "apiVersion": kept["apiVersion"], "kind": kept["kind"], "spec": spec,
        "metadata": stray | {"ownerReferences": owners},
    }  # fmt: skip


def everything(cluster):
    """Every object of the cluster, of each kind that can be listed, but for what only tells of others."""
    kinds = set(cluster.kubectl("api-resources", "--verbs=list", "--output=name").split()) - TRANSIENT
    columns = "--output=custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name"
    said = cluster.kubectl("get", ",".join(sorted(kinds)), "--all-namespaces", "--no-headers", columns)
    return {" ".join(line.split()) for line in said.splitlines()}
