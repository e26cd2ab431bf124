"""`naru status` as a process, with the rights of whoever asks, and the line that says why no node takes a replica."""

import json
import os
import subprocess

import pytest
import serving
import yaml
from platform_under_test import NAMESPACE, deployment
from serving import until

pytestmark = [pytest.mark.control, pytest.mark.timeout(240)]

CHOOSY = "choosy"


def status(*arguments, kubeconfig, code=0):
    """What `naru status` prints; where it should fail, what it says of that."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    command = [serving.BINARIES / "naru", "status", *arguments]
    said = subprocess.run(
        command, env=mine | {"KUBECONFIG": str(kubeconfig)}, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert said.returncode == code, said
    assert (said.stderr == "") == (code == 0), said
    return said.stdout if code == 0 else said.stderr


def shown(naru, name):
    text = status(f"md/{name}", f"--namespace={NAMESPACE}", "--output=json", kubeconfig=naru.cluster.kubeconfig)
    [found] = json.loads(text)["modelDeployments"]
    return found


def answers(naru):
    """Its own word comes first, the kubelet's, which is all that others see, a probe later."""
    found = shown(naru, "smollm2")["replicas"]
    return [replica["phase"] for replica in found] == ["Ready"] and found


def test_one_screen_says_what_serves(naru):
    until(lambda: answers(naru), "the kubelet has seen that the replica is ready", seconds=20)
    text = status("--all-namespaces", kubeconfig=naru.cluster.kubeconfig)
    head, *rows = text.splitlines()
    assert head.split() == ["NAMESPACE", "NAME", "READY", "STATE", "AGE", "RUNNING", "WAITING", "WATTS", "SERVES"]
    [row] = [row.split() for row in rows if row.startswith(f"{NAMESPACE} ")]
    age = row.pop(4)
    assert row == [NAMESPACE, "smollm2", "1/1", "Serving", "0", "0", "-", "smollm2"], text
    assert age[-1] in "smhd"
    assert "WAITS" not in text and "\x1b" not in text, text


def test_one_model_deployment_is_told_in_full(naru):
    text = status("md/smollm2", f"--namespace={NAMESPACE}", kubeconfig=naru.cluster.kubeconfig)
    assert "state     Serving: 1 of 1 replicas answer" in text, text
    [replica] = until(lambda: answers(naru), "the replica is ready", seconds=20)
    [pod] = naru.pods()
    zones = {"node1": "sa-riyadh-1", "node2": "th-bangkok-1"}
    assert replica["phase"] == "Ready" and replica["node"] == pod["spec"]["nodeName"]
    assert replica["zone"] == zones[replica["node"]] and replica["address"] == f"{pod['status']['podIP']}:8000"
    conditions = shown(naru, "smollm2")["conditions"]
    assert {"Ready", "WorkersReady", "WeightsAvailable"} <= {each["type"] for each in conditions}
    wide = status("smollm2", f"--namespace={NAMESPACE}", "--output=wide", kubeconfig=naru.cluster.kubeconfig)
    assert f"{pod['status']['podIP']}:8000" in wide
    read = yaml.safe_load(status("--all-namespaces", "--output=yaml", kubeconfig=naru.cluster.kubeconfig))
    assert "smollm2" in [each["name"] for each in read["modelDeployments"]]


def test_every_node_that_refuses_a_replica_says_why(naru):
    """One by its zone, one by its memory; cordoned, that one says so instead."""
    large = {"requests": {"cpu": "100m", "memory": "900Gi"}}
    naru.apply(deployment(CHOOSY, resources=large, placement={"zones": ["sa-riyadh-1"]}))
    try:

        def line(reason):
            found = shown(naru, CHOOSY)
            message = next((each["message"] for each in found["conditions"] if each["type"] == "Ready"), "")
            return found["reason"] == "Unschedulable" and reason in message and message

        message = until(lambda: line("GiB of memory short"), "the larger wish is refused")
        assert "no node takes it: node1: " in message and "; node2: wrong zone (th-bangkok-1); try: kubectl" in message
        text = status(f"--namespace={NAMESPACE}", kubeconfig=naru.cluster.kubeconfig)
        assert f"md/{CHOOSY} -n {NAMESPACE}: Ready Unschedulable" in text, text
        assert "\n    try: kubectl describe pod" in text, text
        naru.kubectl("cordon", "node1")
        until(lambda: line("node2: wrong zone (th-bangkok-1); node1: cordoned"), "a cordoned node says so")
    finally:
        naru.kubectl("uncordon", "node1")
        naru.kubectl("delete", "md", CHOOSY, f"--namespace={NAMESPACE}", "--timeout=60s")
        naru.wait_ready()


def test_a_viewer_of_one_namespace_sees_what_is_there(naru, tmp_path):
    """With the role `view` alone; what belongs to no namespace is left out, and named."""
    naru.kubectl("create", "serviceaccount", "viewer", f"--namespace={NAMESPACE}")
    try:
        viewer = login(naru, tmp_path, "viewer")
        right = "try: kubectl auth can-i list modeldeployments.naru.dev -n serving"
        assert status(kubeconfig=viewer, code=1).rstrip().endswith(right)
        naru.kubectl(
            "create", "rolebinding", "viewer", "--clusterrole=view", f"--serviceaccount={NAMESPACE}:viewer",
            f"--namespace={NAMESPACE}",
        )  # fmt: skip
        text = until(lambda: granted(viewer), "the right is known")
        assert "smollm2" in text and "Serving" in text, text
        for missing in ("power budgets", "zones of nodes"):
            assert f"{missing} are not shown" in text and "naru-viewer" in text, text
        assert "need the right to get pods/proxy" in text, text
    finally:
        naru.kubectl("delete", "serviceaccount,rolebinding", "viewer", f"--namespace={NAMESPACE}", "--ignore-not-found")


def granted(kubeconfig):
    try:
        return status(kubeconfig=kubeconfig)
    except AssertionError:
        return None


def login(naru, directory, account):
    """A kubeconfig of a service account in the namespace of models."""
    config = yaml.safe_load(naru.cluster.kubeconfig.read_text())
    token = naru.kubectl("create", "token", account, f"--namespace={NAMESPACE}").strip()
    config["users"] = [{"name": account, "user": {"token": token}}]
    context = {"cluster": config["clusters"][0]["name"], "user": account, "namespace": NAMESPACE}
    config |= {"contexts": [{"name": account, "context": context}], "current-context": account}
    path = directory / "viewer.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def test_errors_end_with_what_to_try(naru, tmp_path):
    real = naru.cluster.kubeconfig
    said = status("md/nobody", f"--namespace={NAMESPACE}", kubeconfig=real, code=1)
    assert said.startswith("naru: there is no model deployment nobody in namespace serving"), said
    assert said.rstrip().endswith("try: naru status -n serving"), said
    said = status("--context=other", kubeconfig=real, code=2)
    assert str(real) in said and said.rstrip().endswith("try: kubectl config get-contexts"), said
    config = yaml.safe_load(real.read_text())
    address = serving.free_address()
    config["clusters"][0]["cluster"]["server"] = f"https://{address}"
    nowhere = tmp_path / "nowhere.kubeconfig"
    nowhere.write_text(yaml.safe_dump(config))
    said = status(f"--kubeconfig={nowhere}", kubeconfig=real, code=1)
    assert address in said and str(nowhere) in said and "refused" in said.lower(), said
    assert said.rstrip().endswith(f"try: kubectl cluster-info --kubeconfig {nowhere}"), said
    assert "pod is not shown" in status("pod/x", kubeconfig=real, code=2)
