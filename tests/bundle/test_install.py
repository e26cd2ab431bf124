"""A bundle installed where there is no way out: the script runs on a node, its images go through a registry of the site
to the nodes, and the model that it brought along answers."""

import json
import re

import pack
import places
import pytest
import serving
import stores
import weights
from bundle_under_test import only_folder, run_build
from platform_under_test import MODEL, NAMESPACE, SYSTEM, Platform, deployment

from cluster import images, lifecycle
from cluster.failure import Failed

REGISTRY = f"{places.REGISTRY}/site"
PULL = "registry"

pytestmark = [pytest.mark.control, pytest.mark.timeout(600)]


class Site:
    """A cluster of its own with a registry, and the machine from which an administrator installs: its first node."""

    def __init__(self, cluster, directory):
        self.cluster, self.directory = cluster, directory
        self.machine = cluster.nodes["node1"].machine
        self.bundle = self.key = None
        self.trust, _ = weights.make_certificate(directory, "places", [places.REGISTRY])

    def carry(self, signer):
        """What is carried in: the bundle, and by another way the key."""
        run_build(serving.BINARIES, self.directory / "in", "--model", serving.model(serving.SMOLLM2), cache=signer)
        self.bundle = only_folder(self.directory / "in")
        self.key = self.directory / "minisign.pub"
        self.key.write_bytes((signer / "bundle/minisign.pub").read_bytes())

    def serve_registry(self):
        """The site's registry, which knows one user. Its name is the cluster's, so the nodes are told its address."""
        program = stores.ensure().registry
        archive = self.directory / "registry.tar"
        images.pack(program, places.IMAGES["registry"], archive, places.libraries_of(program))
        self.cluster.load(archive)
        configuration = stores.registry_configuration("/data", ":8443", "/etc/registry/htpasswd", "/tls")
        where = f"--namespace={places.NAMESPACE}"
        kubectl = self.cluster.kubectl
        kubectl("create", "namespace", places.NAMESPACE)
        key = self.directory / "places.key"
        kubectl("create", "secret", "tls", "places", f"--cert={self.trust}", f"--key={key}", where)
        kubectl(
            "create", "configmap", "registry", f"--from-literal=registry.yml={configuration}",
            f"--from-literal=htpasswd={stores.HTPASSWD}", where,
        )  # fmt: skip
        objects = [places.pod("registry", places.registry()), places.service("registry")]
        kubectl("apply", where, "--filename=-", text="\n---\n".join(map(json.dumps, objects)))
        kubectl("wait", where, "--for=condition=Ready", "pod/registry", "--timeout=60s")
        address = kubectl("get", "service", "registry", where, "--output=jsonpath={.spec.clusterIP}")
        for node in self.cluster.nodes.values():
            hosts = node.directory / "registries" / places.REGISTRY / "hosts.toml"
            hosts.parent.mkdir(parents=True)
            hosts.write_text(f'[host."https://{address}"]\ncapabilities = ["pull", "resolve"]\nskip_verify = true\n')
        (self.directory / ".curlrc").write_text(f'resolve = "{places.REGISTRY}:443:{address}"\n')

    def run(self, command, *options):
        """The script, on the machine that has no way out."""
        layout = self.cluster.layout
        variables = [f"PATH={layout.bin}:/usr/sbin:/usr/bin:/sbin:/bin", f"KUBECONFIG={layout.kubeconfig}"]
        variables.append(f"CURL_HOME={self.directory}")
        script = [self.bundle / "install.sh", command, "--key", self.key]
        return self.machine.run("env", *variables, "sh", *script, *options)

    def install(self):
        password = self.directory / "password"
        password.write_text(f"{stores.PASSWORD}\n")
        return self.run(
            "install", "--registry", REGISTRY, "--user", stores.USER, "--password-file", password,
            "--ca-file", self.trust, "--", "--set", f"image.pullSecrets[0]={PULL}",
        )  # fmt: skip


@pytest.fixture(scope="module")
def site(tools, signer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    with lifecycle.fresh(tools) as cluster:
        site = Site(cluster, directory)
        site.serve_registry()
        site.carry(signer)
        yield site


@pytest.fixture(scope="module")
def platform(site):
    """What the site has before: namespaces, and who pulls from the registry there."""
    platform = Platform(site.cluster, site.directory)
    platform.authority = site.trust.read_text()
    platform.make_namespace(SYSTEM)
    platform.prepare_namespaces()
    login = stores.docker_config(places.REGISTRY)
    for namespace in (SYSTEM, NAMESPACE):
        metadata = {"name": PULL, "namespace": namespace}
        kind = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "metadata": metadata}
        platform.apply(kind | {"stringData": {".dockerconfigjson": login}})
    account = json.dumps({"imagePullSecrets": [{"name": PULL}]})
    where = f"--namespace={NAMESPACE}"
    serving.until(lambda: "default" in platform.kubectl("get", "serviceaccounts", where), "the account is there")
    platform.kubectl("patch", "serviceaccount", "default", where, "--patch", account)
    return platform


def test_there_is_no_way_out(site):
    for node in site.cluster.nodes.values():
        assert "default" not in node.machine.run("ip", "route")
        with pytest.raises(Failed, match="unreachable"):
            node.machine.run("ip", "route", "get", "192.0.2.1")


def test_it_is_installed_from_the_bundle_alone_and_the_model_answers(site, platform):
    said = site.install()
    about = json.loads((site.bundle / "BUNDLE.json").read_text())
    digests = {name.split("/")[-1].split(":")[0]: digest for name, digest in about["images"].items()}
    for pod in platform.get("pods", namespace=SYSTEM)["items"]:
        [status] = pod["status"]["containerStatuses"]
        part = pod["metadata"]["labels"]["app.kubernetes.io/name"].removeprefix("naru-")
        assert status["ready"] and status["imageID"] == f"{REGISTRY}/naru/{part}@{digests[part]}"
    # The model, named as the script says.
    [uri] = re.findall(r"uri: (oci://\S+)", said)
    [sha256] = re.findall(r"sha256: (\w+)", said)
    wish = deployment(uri=uri)
    wish["spec"]["model"] |= {"secretName": PULL, "sha256": sha256}
    platform.admit_tenant()
    platform.apply(wish)
    platform.wait_ready()
    answer = platform.ask("Name a river.", tokens=8)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"]
    assert platform.ask(key="wrong").status_code == 401
    [pod] = platform.pods(MODEL)
    assert pod["status"]["containerStatuses"][0]["imageID"] == f"{REGISTRY}/naru/worker@{digests['worker']}"


def test_a_second_install_changes_nothing(site, platform):
    before = running(platform)
    said = site.install()
    assert not re.search(r"naru/\S+  [\d.]+[KM]", said), "no blob is pushed twice"
    assert running(platform) == before
    assert platform.ask().status_code == 200


def running(platform):
    """The pods of the release and of the model, and of which template."""
    pods = [*platform.get("pods", namespace=SYSTEM)["items"], *platform.pods(MODEL)]
    sets = platform.get("deployments", namespace=SYSTEM)["items"]
    return {each["metadata"]["uid"] for each in pods}, {each["metadata"]["generation"] for each in sets}


def test_one_flipped_byte_is_refused_before_anything_is_touched(site):
    [archive] = (site.bundle / "images").iterdir()
    history = site.cluster.helm("history", "naru", f"--namespace={SYSTEM}")
    flip(archive)
    with pytest.raises(Failed) as refused:
        site.install()
    flip(archive)
    assert f"differs from what was signed: images/{archive.name}" in str(refused.value)
    assert site.cluster.helm("history", "naru", f"--namespace={SYSTEM}") == history


def flip(path):
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        [byte] = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def test_without_a_registry_each_node_is_given_the_images(site):
    node = site.cluster.nodes["node2"]
    ctr = f"ctr --address {node.state / 'containerd.sock'}"
    machine, site.machine = site.machine, node.machine
    said = site.run("load", "--ctr", f"{site.cluster.layout.bin}/{ctr}")
    site.machine = machine
    assert "loaded" in said
    listed = node.machine.run(*ctr.split(), "--namespace=k8s.io", "images", "list", "--quiet").split()
    version = pack.workspace_version()
    assert {f"localhost/naru/{part}:{version}" for part in ("operator", "gateway", "worker")} <= set(listed)
