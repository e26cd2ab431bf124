"""A registry of images and a server of buckets inside the cluster, over HTTPS, each with a model in it."""

import json
import re
import subprocess

import urllib3
import weights

import serving
import stores
from cluster import images
from serving import until

NAMESPACE = "places"
REGISTRY, BUCKETS = f"registry.{NAMESPACE}.svc", f"buckets.{NAMESPACE}.svc"
ARTIFACT = f"oci://{REGISTRY}/llm/smollm2:v1"
OBJECT, FOLDER = f"s3://weights/llm/{serving.SMOLLM2}", "s3://weights/llm"
IMAGES = {"registry": "localhost/registry:1", "buckets": "localhost/versitygw:1"}


class Places:
    """Both servers, in a namespace of their own."""

    def __init__(self, cluster, directory):
        self.cluster, self.directory = cluster, directory
        self.programs = stores.ensure()

    def serve(self):
        """Brings them up, and puts the model there by clients of theirs, as a user would."""
        urllib3.disable_warnings()  # the certificate is of names that only the cluster knows
        self.load_images()
        certificate, key = weights.make_certificate(self.directory, "places", [REGISTRY, BUCKETS])
        self.kubectl("create", "namespace", NAMESPACE)
        self.kubectl("create", "secret", "tls", "places", f"--cert={certificate}", f"--key={key}")
        configuration = stores.registry_configuration("/data", ":8443", "/etc/registry/htpasswd", "/tls")
        self.kubectl(
            "create", "configmap", "registry", f"--from-literal=registry.yml={configuration}",
            f"--from-literal=htpasswd={stores.HTPASSWD}",
        )  # fmt: skip
        objects = [pod("registry", registry()), service("registry"), pod("buckets", buckets()), service("buckets")]
        self.kubectl("apply", "--filename=-", text="\n---\n".join(map(json.dumps, objects)))
        self.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        model = serving.model(serving.SMOLLM2)
        stores.push(self.address("registry"), model, tls_verify=False)
        stores.upload(f"https://{self.address('buckets')}", model, verify=False)
        return certificate.read_text()

    def kubectl(self, *arguments, text=None):
        where = [] if arguments[:2] == ("create", "namespace") else [f"--namespace={NAMESPACE}"]
        return self.cluster.kubectl(*arguments, *where, text=text)

    def load_images(self):
        for name, program in (("registry", self.programs.registry), ("buckets", self.programs.versitygw)):
            archive = self.directory / f"{name}.tar"
            images.pack(program, IMAGES[name], archive, libraries_of(program))
            self.cluster.load(archive)
            archive.unlink()

    def address(self, name):
        return self.kubectl("get", "service", name, "--output=jsonpath={.spec.clusterIP}")

    def blob_bytes(self):
        """What the registry has sent of layers so far, by its own log; requests still going on are waited for."""
        # Layers are large: what is small is a manifest or a configuration.
        until(lambda: self.count()[0] == 0, "no blob is being sent", 30)
        return self.count()[1]

    def count(self):
        log = self.kubectl("logs", "registry", "--tail=-1")
        lines = [line for line in log.splitlines() if "/blobs/sha256:" in line and "http.request.method=GET" in line]
        done = [line for line in lines if "response completed" in line]
        written = [int(number) for line in done if (number := find(r"http\.response\.written=(\d+)", line))]
        begun = {find(r"http\.request\.id=(\S+)", line) for line in lines}
        ended = {find(r"http\.request\.id=(\S+)", line) for line in done}
        return len(begun - ended), sum(number for number in written if number > 100_000)


def find(pattern, text):
    found = re.search(pattern, text)
    return found and found[1]


def libraries_of(program):
    """The shared libraries that a program names, with what loads them; of a static one none."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return re.findall(r"(?:=> |^\t)(/\S+)", listed, re.MULTILINE)


def registry():
    return {
        "args": ["serve", "/etc/registry/registry.yml"],
        "volumeMounts": [{"name": "registry", "mountPath": "/etc/registry"}],
    }


def buckets():
    return {
        "args": ["--port", ":8443", "--region", stores.REGION, "--cert", "/tls/tls.crt", "--key", "/tls/tls.key",
                 "posix", "/data"],
        "env": [{"name": "ROOT_ACCESS_KEY", "value": stores.KEY}, {"name": "ROOT_SECRET_KEY", "value": stores.SECRET}],
    }  # fmt: skip


def pod(name, container):
    mounts = [{"name": "data", "mountPath": "/data"}, {"name": "tls", "mountPath": "/tls", "readOnly": True}]
    whole = container | {
        "name": name,
        "image": IMAGES[name],
        "imagePullPolicy": "Never",
        "ports": [{"containerPort": 8443}],
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
        "volumeMounts": mounts + container.get("volumeMounts", []),
    }
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "tls", "secret": {"secretName": "places"}}]
    if name == "registry":
        volumes.append({"name": "registry", "configMap": {"name": "registry"}})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"securityContext": {"runAsUser": 0}, "containers": [whole], "volumes": volumes},
    }


def service(name):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 443, "targetPort": 8443}]},
    }
