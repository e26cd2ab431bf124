"""The test cluster is a real Kubernetes: what the other tests rely on, seen from pods, from the host and by its log."""

import contextlib
import functools
import json
import subprocess
import time
import urllib.request

import pytest

from . import images, programs
from .control_plane import GRACE_SECONDS, TOLERATION_SECONDS
from .failure import Failed, until

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def probe(**more):
    """A pod's spec that runs the probe's server."""
    container = {
        "name": "probe",
        "image": images.PROBE,
        "imagePullPolicy": "Never",
        "args": ["serve", ":8080"],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "securityContext": RESTRICTED,
    }
    return {"containers": [container], "terminationGracePeriodSeconds": 1} | more


def on_both_nodes(kind, name, **more):
    """A Deployment or StatefulSet with one pod on each node."""
    labels = {"app": name}
    spread = {
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }
    template = {"metadata": {"labels": labels}, "spec": probe(topologySpreadConstraints=[spread])}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template} | more
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def service(name, **more):
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]} | more
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def apply(cluster, namespace, *objects):
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    cluster.kubectl("apply", "--namespace", namespace, "--filename=-", text=document)


def get(cluster, *arguments):
    return json.loads(cluster.kubectl("get", *arguments, "--output=json"))


def pods_by_node(cluster, namespace, app):
    items = get(cluster, "pods", "--namespace", namespace, "--selector", f"app={app}")["items"]
    return {pod["spec"]["nodeName"]: pod["metadata"]["name"] for pod in items}


def ask(cluster, namespace, pod, *question):
    """What a pod's probe finds out."""
    return cluster.kubectl("exec", "--namespace", namespace, pod, "--", "/probe", *question).strip()


def answers_by_name(cluster, namespace, pod, other):
    """Whether a pod reaches another by its name: DNS hears of names from the API server, and may have yet to hear."""
    try:
        return ask(cluster, namespace, pod, "get", f"http://{other}.web.{namespace}.svc.cluster.local:8080") == other
    except Failed:
        return False


def answer_of(address):
    """What an HTTP server says to the host, or nothing."""
    try:
        with urllib.request.urlopen(f"http://{address}", timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return None


@pytest.fixture
def web(cluster, namespace):
    """A StatefulSet `web` with a pod on each node and a headless Service, and a Service `front` of the same pods."""
    front = service("front", selector={"app": "web"})
    web = on_both_nodes("StatefulSet", "web", serviceName="web", podManagementPolicy="Parallel")
    apply(cluster, namespace, web, service("web", clusterIP="None"), front)
    cluster.kubectl("rollout", "status", "statefulset/web", "--namespace", namespace, "--timeout=60s")
    return namespace


@pytest.mark.control
def test_two_nodes_are_ready_in_two_zones(cluster):
    nodes = {node["metadata"]["name"]: node for node in get(cluster, "nodes")["items"]}
    zones = {name: node["metadata"]["labels"]["topology.kubernetes.io/zone"] for name, node in nodes.items()}
    assert zones == {"node1": "sa-riyadh-1", "node2": "th-bangkok-1"}
    for node in nodes.values():
        assert "node-role.kubernetes.io/worker" in node["metadata"]["labels"]
        assert {each["type"]: each["status"] for each in node["status"]["conditions"]}["Ready"] == "True"


@pytest.mark.control
def test_programs_say_the_version_of_go_mod(cluster):
    versions = json.loads(cluster.kubectl("version", "--output=json"))
    said = {versions[side]["gitVersion"] for side in ("serverVersion", "clientVersion")}
    assert said == {programs.version_of("k8s.io/kubernetes")}
    assert cluster.helm("version", "--short").startswith(programs.version_of("helm.sh/helm/v3"))


def test_pods_of_both_nodes_reach_pods_of_both_nodes_by_name(cluster, web):
    pods = pods_by_node(cluster, web, "web")
    assert set(pods) == {"node1", "node2"} and set(pods.values()) == {"web-0", "web-1"}
    addresses = {
        pod["metadata"]["name"]: pod["status"]["podIP"]
        for pod in get(cluster, "pods", "--namespace", web, "--selector=app=web")["items"]
    }
    for asking in pods.values():
        for answering in pods.values():
            reaches = functools.partial(answers_by_name, cluster, web, asking, answering)
            until(reaches, f"{asking} reaches {answering} by name", seconds=30)
        assert ask(cluster, web, asking, "resolve", "web").split() == sorted(addresses.values())
        with pytest.raises(Failed, match="no such host"):
            ask(cluster, web, asking, "resolve", f"web-2.web.{web}.svc.cluster.local")


def test_a_service_spreads_over_both_nodes(cluster, web):
    for asking in pods_by_node(cluster, web, "web").values():
        answers = set()

        def both_have_answered(asking=asking, answers=answers):
            with contextlib.suppress(Failed):  # a node hears of new endpoints a moment after they are Ready
                answers.add(ask(cluster, web, asking, "get", "http://front"))
            return answers == {"web-0", "web-1"}

        until(both_have_answered, f"both pods answer {asking} through the Service")


@pytest.mark.control
def test_the_host_reaches_services_and_pods(cluster, web):
    front = get(cluster, "service", "front", "--namespace", web)["spec"]["clusterIP"]
    pods = get(cluster, "pods", "--namespace", web, "--selector=app=web")["items"]
    for pod in pods:
        assert answer_of(f"{pod['status']['podIP']}:8080") == pod["metadata"]["name"]
    until(lambda: answer_of(front) in ("web-0", "web-1"), "a pod answers the host through the Service", seconds=10)


@pytest.mark.control
def test_pods_reach_the_host_and_nothing_beyond_it(cluster, web):
    server = subprocess.Popen([cluster.programs.probe, "serve", f"{cluster.layout.host_address}:18080"])
    try:
        for pod in pods_by_node(cluster, web, "web").values():
            until(
                lambda pod=pod: reaches(cluster, web, pod, f"{cluster.layout.host_address}:18080"),
                f"{pod} reaches the host",
                seconds=10,
            )
            # An address that nobody has (RFC 5737); the packet does not get as far as a cable that leaves the machine.
            with pytest.raises(Failed, match="network is unreachable"):
                ask(cluster, web, pod, "connect", "203.0.113.1:443")
    finally:
        server.kill()
        server.wait()


def reaches(cluster, namespace, pod, address):
    try:
        return ask(cluster, namespace, pod, "connect", address) == "connected"
    except Failed:
        return False


def test_the_api_server_reaches_a_webhook_behind_a_service(cluster, web):
    """The probe speaks no TLS; that the API server says so shows that it has reached it, on either node."""
    target = {"name": "front", "namespace": web, "port": 80}
    webhook = {
        "name": "probe.naru.dev",
        "clientConfig": {"service": target},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": web}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 5,
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    apply(cluster, web, kind | {"metadata": {"name": web}, "webhooks": [webhook]})

    def was_asked():
        try:
            cluster.kubectl("create", "configmap", "asked", "--namespace", web, "--dry-run=server")
        except Failed as failure:
            return "server gave HTTP response to HTTPS client" in str(failure)
        return False

    try:
        until(was_asked, "the webhook is asked", seconds=15)
    finally:
        cluster.kubectl("delete", "validatingwebhookconfiguration", web)


def test_accounts_may_do_only_what_they_were_granted(cluster, namespace):
    apply(cluster, namespace, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}})
    someone = f"--as=system:serviceaccount:{namespace}:reader"
    with pytest.raises(Failed, match="cannot list resource .pods."):
        cluster.kubectl("get", "pods", "--namespace", namespace, someone)
    cluster.kubectl("create", "role", "reader", "--verb=list", "--resource=pods", "--namespace", namespace)
    binding = ["rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:reader"]
    cluster.kubectl("create", *binding, "--namespace", namespace)
    cluster.kubectl("get", "pods", "--namespace", namespace, someone)
    with pytest.raises(Failed, match="cannot list resource .secrets."):
        cluster.kubectl("get", "secrets", "--namespace", namespace, someone)


def test_a_restricted_namespace_takes_only_restricted_pods(cluster, namespace):
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": probe()}
    loose = json.loads(json.dumps(pod))
    del loose["spec"]["containers"][0]["securityContext"]
    with pytest.raises(Failed, match='violates PodSecurity "restricted'):
        apply(cluster, namespace, loose)
    apply(cluster, namespace, pod)
    cluster.kubectl("wait", "--for=condition=Ready", "pod/probe", "--namespace", namespace, "--timeout=30s")
    token = ask(cluster, namespace, "probe", "read", "/var/run/secrets/kubernetes.io/serviceaccount/token")
    assert token.count(".") == 2, "a signed token is mounted"


@pytest.mark.control
def test_the_audit_log_has_every_request(cluster, namespace):
    cluster.kubectl("create", "configmap", "noted", "--namespace", namespace)

    def noted():
        for line in cluster.layout.audit_log.read_text().splitlines():
            event = json.loads(line) if namespace in line else {}
            reference = event.get("objectRef", {})
            if event.get("verb") == "create" and reference.get("resource") == "configmaps":
                if (reference["namespace"], reference.get("name")) == (namespace, "noted"):
                    return event["user"]["username"], event["responseStatus"]["code"]
        return None

    assert until(noted, "the request is in the audit log", seconds=10) == ("admin", 201)


@pytest.mark.control
def test_an_archive_is_loaded_on_both_nodes(cluster, namespace, tmp_path):
    name, archive = f"localhost/{namespace}/probe:7", tmp_path / "image.tar"
    images.pack(cluster.programs.probe, name, archive)
    assert cluster.load(archive) == [name]
    deployment = on_both_nodes("Deployment", "loaded")
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = name
    apply(cluster, namespace, deployment)
    cluster.kubectl("rollout", "status", "deployment/loaded", "--namespace", namespace, "--timeout=60s")
    assert set(pods_by_node(cluster, namespace, "loaded")) == {"node1", "node2"}


@pytest.mark.control
def test_a_lost_node_is_noticed_and_comes_back(cluster, web):
    node = cluster.nodes["node2"]
    lost = pods_by_node(cluster, web, "web")["node2"]

    def is_told_to_go():
        pod = get(cluster, "pod", lost, "--namespace", web)
        return "deletionTimestamp" in pod["metadata"]

    node.stop()
    try:
        until(lambda: not node.is_ready(), "node2 is NotReady", seconds=GRACE_SECONDS + 15)
        until(is_told_to_go, "its pod is told to go", seconds=TOLERATION_SECONDS + 15)
    finally:
        node.start()
        node.wait_ready()
    cluster.kubectl("rollout", "status", "statefulset/web", "--namespace", web, "--timeout=60s")
    for pod in pods_by_node(cluster, web, "web").values():
        reaches = functools.partial(answers_by_name, cluster, web, pod, lost)
        until(reaches, f"{pod} reaches {lost} by name", seconds=30)


@pytest.mark.control
def test_pods_outlive_their_kubelet(cluster, web):
    node, pod = cluster.nodes["node2"], pods_by_node(cluster, web, "web")["node2"]
    address = get(cluster, "pod", pod, "--namespace", web)["status"]["podIP"]
    node.stop_kubelet()
    try:
        assert answer_of(f"{address}:8080") == pod
    finally:
        node.start_kubelet()
        node.wait_ready()
    assert get(cluster, "pod", pod, "--namespace", web)["status"]["containerStatuses"][0]["restartCount"] == 0


@pytest.mark.control
def test_pods_answer_while_the_api_server_is_gone(cluster, web):
    front = get(cluster, "service", "front", "--namespace", web)["spec"]["clusterIP"]
    until(lambda: answer_of(front), "the host reaches the Service", seconds=10)
    cluster.control.stop_api_server()
    try:
        stopped = time.monotonic()
        with pytest.raises(Failed, match="refused"):
            cluster.kubectl("get", "nodes")
        while time.monotonic() < stopped + 3:
            assert answer_of(front) in ("web-0", "web-1")
    finally:
        cluster.control.start_api_server()
        cluster.control.wait_api()

    reaches = functools.partial(answers_by_name, cluster, web, "web-0", "web-1")
    until(reaches, "pods reach each other by name again", seconds=30)
