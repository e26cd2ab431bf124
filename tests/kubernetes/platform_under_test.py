"""naru on a cluster, as its users see it: installed with Helm, asked through its Service, looked at with kubectl."""

import functools
import json
import re
import subprocess
from pathlib import Path

import httpx
import pack
import yaml

import released
import serving
import weights
from serving import REPOSITORY, until

SYSTEM = "naru-system"
NAMESPACE = "serving"
# What is served there is simulated.
SIMULATED = "simulated"
TENANT = "saudi"
MODEL = "smollm2"
SELECTOR = f"naru.dev/model-deployment={MODEL}"
# The pods of a naru, by the label app.kubernetes.io/name.
PARTS = ("naru-operator", "naru-gateway", "naru-worker")
PRESENT = {chart: REPOSITORY / "charts" / chart for chart in released.CHARTS}
RELEASED = {chart: released.package(chart) for chart in released.CHARTS}
EXCHANGED_SECONDS_MAX = 240


class Platform:
    """The release, the tenant's key, and the model deployment under test."""

    def __init__(self, cluster, directory):
        self.cluster, self.directory = cluster, Path(directory)
        self.key = None
        self.authority = None

    def kubectl(self, *arguments, text=None):
        return self.cluster.kubectl(*arguments, text=text)

    def get(self, *arguments, namespace=NAMESPACE):
        return json.loads(self.kubectl("get", *arguments, f"--namespace={namespace}", "--output=json"))

    def load_images(self, binaries, version):
        """Brings the images of binaries to the nodes, under a version's tag."""
        archive, _ = pack.pack(binaries, self.directory, version, compression=1)
        self.cluster.load(archive)
        archive.unlink()

    def install(self, charts=PRESENT):
        """What a platform team does: two charts. Definitions that others left are gone before."""
        self.forget_definitions()
        self.make_namespace(SYSTEM)
        self.cluster.helm("install", "naru-crds", charts["naru-crds"])
        how = ["upgrade", "--install", "--wait", "--timeout=90s", "--set=image.pullPolicy=Never"]
        self.cluster.helm(*how, "naru", charts["naru"], f"--namespace={SYSTEM}")

    def forget_definitions(self):
        for namespace in ("default", SYSTEM):
            self.cluster.helm("uninstall", "naru-crds", f"--namespace={namespace}", "--ignore-not-found")
        names = [f"{kind}.naru.dev" for kind in ("modeldeployments", "tenants", "powerbudgets")]
        self.kubectl("delete", "crds", *names, "--ignore-not-found", "--timeout=60s")

    def versions(self):
        """The tags of the images of all pods, those on their way out too: {part: {tag}}."""
        selector = f"--selector=app.kubernetes.io/name in ({','.join(PARTS)})"
        pods = json.loads(self.kubectl("get", "pods", "--all-namespaces", selector, "--output=json"))["items"]
        found = {part: set() for part in PARTS}
        for pod in pods:
            [container] = pod["spec"]["containers"]
            found[pod["metadata"]["labels"]["app.kubernetes.io/name"]].add(container["image"].rpartition(":")[2])
        return found

    def is_of(self, version):
        """Whether everything that runs is of this version, and of no other."""
        return all(tags == {version} for tags in self.versions().values())

    def upgrade_charts(self):
        """From the last release to this checkout; returns when every pod is of it."""
        self._as_documented("upgrade", pack.workspace_version())

    def roll_back(self):
        """From this checkout to the last release, unless anything else was upgraded in between."""
        self._as_documented("rollback", released.version())

    def _as_documented(self, verb, version):
        """Runs the commands of that section of docs/operating.md from the root of the repository."""
        _, section = (REPOSITORY / "docs/operating.md").read_text().split("\n### Upgrade, roll back, uninstall\n")
        commands = re.findall(f"^helm {verb} .+$", section.split("\n### ")[0], re.MULTILINE)
        assert commands, f"docs/operating.md has no helm {verb}"
        for command in commands:
            words = [REPOSITORY / word if word.startswith("charts/") else word for word in command.split()[1:]]
            self.cluster.helm(*words)
        until(lambda: self.is_of(version), f"every pod is of {version}", EXCHANGED_SECONDS_MAX)

    def upgrade(self, *options):
        """Other values for what is installed; returns when it runs so."""
        how = ["upgrade", "--reset-then-reuse-values", "--wait", "--timeout=90s"]
        self.cluster.helm(*how, "naru", PRESENT["naru"], f"--namespace={SYSTEM}", *options)

    def remove(self):
        """What a platform team does in the end: wishes first, then the release, then the definitions."""
        self.kubectl("delete", "modeldeployments", "--all", "--all-namespaces", "--timeout=90s")
        self.kubectl("delete", "tenants", "--all", "--timeout=60s")
        self.cluster.helm("uninstall", "naru", f"--namespace={SYSTEM}", "--wait", "--timeout=90s")
        self.kubectl("delete", "namespace", NAMESPACE, SIMULATED, weights.NAMESPACE, "--timeout=120s")
        self.forget_definitions()

    def make_namespace(self, name):
        """A namespace in which nothing may run that the strictest of the standards refuses."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.kubectl("label", "namespace", name, "--overwrite", "pod-security.kubernetes.io/enforce=restricted")

    def admit_tenant(self):
        """A Tenant with a new key, as `naru key create` gives it."""
        command = [serving.BINARIES / "naru", "key", "create", "--name", "test", "--tenant", TENANT]
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        text = said.stdout + said.stderr
        self.key = re.search(r"naru_[A-Za-z0-9_-]{43}", text)[0]
        digest = re.search(r"\b[0-9a-f]{64}\b", text)[0]
        self.apply(tenant(TENANT, [{"name": "test", "sha256": digest}]))

    def apply(self, *objects):
        self.kubectl("apply", "--filename=-", text="\n---\n".join(map(json.dumps, objects)))

    def prepare_namespaces(self):
        """Where models are served; workers of the first can be told to trust the server of weights."""
        self.make_namespace(NAMESPACE)
        self.make_namespace(SIMULATED)
        trust = self.directory / "ca.crt"
        trust.write_text(self.authority)
        self.kubectl("create", "configmap", "trust", f"--from-file={trust}", f"--namespace={NAMESPACE}")

    def wait_ready(self, name=MODEL, seconds=120, namespace=NAMESPACE):
        self.kubectl(
            "wait", "--for=condition=Ready", f"md/{name}", f"--namespace={namespace}", f"--timeout={seconds}s"
        )

    def scale(self, replicas, name=MODEL, namespace=NAMESPACE):
        self.kubectl("scale", f"md/{name}", f"--replicas={replicas}", f"--namespace={namespace}")

    @functools.cached_property
    def gateway(self):
        service = self.get("service", "naru-gateway", namespace=SYSTEM)
        return f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}/v1"

    def ask(self, prompt="Name a river.", tokens=8, key=None, model=MODEL, timeout=120):
        """One short answer, not streamed: the HTTP response, whatever it says."""
        body = {
            "model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0,
        }  # fmt: skip
        key = self.key if key is None else key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.post(f"{self.gateway}/chat/completions", json=body, headers=headers, timeout=timeout)

    def pods(self, name=MODEL, namespace=NAMESPACE):
        return self.get("pods", f"--selector=naru.dev/model-deployment={name}", namespace=namespace)["items"]

    def status(self, name=MODEL, namespace=NAMESPACE):
        return self.get("md", name, namespace=namespace).get("status", {})

    def until_replicas(self, wished, name=MODEL, seconds=90, namespace=NAMESPACE):
        """Waits until exactly `wished` replicas exist and answer."""

        def settled():
            pods = self.pods(name, namespace)
            ready = self.status(name, namespace).get("readyReplicas", 0)
            return ready == wished == len(pods) and all(map(is_ready, pods))

        until(settled, f"{wished} replicas of {name}", seconds)

    def count_devices(self, node, resource, number):
        """What a device plugin does by way of the kubelet; without a number the node has counted none."""
        there = resource in self.get("node", node)["status"]["capacity"]
        if number is None and not there:
            return
        places = [f"/status/{part}/{resource.replace('/', '~1')}" for part in ("capacity", "allocatable")]
        patch = [{"op": "remove", "path": place} if number is None else {"op": "add", "path": place, "value": number}
                 for place in places]  # fmt: skip
        self.kubectl("patch", "node", node, "--subresource=status", "--type=json", f"--patch={json.dumps(patch)}")

    def owned(self):
        """Everything in the namespace but Events, of every kind that the API server lists."""
        kinds = self.kubectl("api-resources", "--verbs=list", "--namespaced", "--output=name").split()
        kinds = [kind for kind in kinds if kind not in ("events", "events.events.k8s.io")]
        listed = self.kubectl("get", ",".join(kinds), f"--namespace={NAMESPACE}", "--output=name", "--ignore-not-found")
        return sorted(listed.split())


def is_ready(pod):
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def tenant(name, keys, **spec):
    return {
        "apiVersion": "naru.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": {"keys": keys} | spec,
    }


def deployment(name=MODEL, uri=None, pod_template=None, namespace=NAMESPACE, **spec):
    """A ModelDeployment; by default of SmolLM2, which two threads answer from."""
    trusting = {
        "env": [{"name": "SSL_CERT_FILE", "value": "/etc/trust/ca.crt"}],
        "volumes": [{"name": "trust", "mountPath": "/etc/trust", "configMap": {"name": "trust"}}],
    }
    whole = {
        "model": {"uri": uri or weights.uri(serving.SMOLLM2)},
        "engine": {"maxContextTokens": 1024, "kvCacheMemory": "128Mi"},
        "resources": {"requests": {"cpu": "200m", "memory": "400Mi"}, "limits": {"memory": "1Gi"}},
        "podTemplate": trusting if pod_template is None else pod_template,
        "rollout": {"drainSeconds": 60},
    }
    return {
        "apiVersion": "naru.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": whole | spec,
    }


def simulated(name, namespace=SIMULATED, uri="sim://default", **spec):
    """A ModelDeployment without weights, whose answers take the time that an accelerator would."""
    small = {"requests": {"cpu": "20m", "memory": "64Mi"}}
    engine = {"maxContextTokens": 1024}
    whole = {"backend": "sim", "resources": small, "engine": engine, "rollout": {"drainSeconds": 20}}
    return deployment(name, uri, {}, namespace, **(whole | spec))


def resource_versions(platform):
    """Of everything that naru owns in the namespace, and of the model deployments themselves."""
    kinds = "modeldeployments,statefulsets,services,poddisruptionbudgets,pods"
    found = yaml.safe_load(platform.kubectl("get", kinds, f"--namespace={NAMESPACE}", "--output=yaml"))["items"]
    return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["resourceVersion"] for each in found}
