"""The life of one model deployment on a real cluster, in the order it is lived; every step leaves it Ready."""

import json
import os
import signal
import time
from pathlib import Path

import httpx
import many
import pytest
from load import Load
from openai import OpenAI
from platform_under_test import NAMESPACE, SYSTEM, deployment, resource_versions
from serving import until

# Model deployments beside the one that serves.
COUNT = 100

pytestmark = [pytest.mark.control, pytest.mark.timeout(600)]


def test_a_key_opens_the_gateway_and_nothing_else_does(naru):
    client = OpenAI(base_url=naru.gateway, api_key=naru.key, max_retries=0, timeout=60)
    chunks = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0, max_tokens=24, stream=True,
    )  # fmt: skip
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    whole = naru.ask("What is the capital of France?", tokens=24).json()["choices"][0]
    assert text and text == whole["message"]["content"] and whole["finish_reason"] == "length"
    assert naru.ask(key="").status_code == 401
    assert naru.ask(key="naru_" + "x" * 43).status_code == 401
    assert naru.ask(model="nobody").status_code == 404
    assert [model.id for model in client.models.list()] == ["smollm2"]


def test_kubectl_shows_what_one_expects(naru):
    line = naru.kubectl("get", "md", "smollm2", f"--namespace={NAMESPACE}").splitlines()
    assert "READY" in line[0] and "True" in line[1], line
    explained = naru.kubectl("explain", "md.spec.scaling")
    assert "minReplicas" in explained and "maxReplicas" in explained


def test_quiet_changes_nothing(naru):
    # The cluster's own controllers have their last words first.
    before = until(lambda: unchanged(naru, seconds=10), "ten quiet seconds", 120)
    assert unchanged(naru, seconds=60) == before


def test_scaling_under_load_cuts_no_stream(naru):
    with Load(naru.gateway, naru.key, "smollm2", requests_min=100) as load:
        naru.kubectl("scale", "md/smollm2", "--replicas=3", f"--namespace={NAMESPACE}")
        naru.until_replicas(3)
        naru.kubectl("scale", "md/smollm2", "--replicas=1", f"--namespace={NAMESPACE}")
        naru.until_replicas(1)
    load.judge()


def test_a_change_of_the_template_under_load_cuts_no_stream(naru):
    before = {pod["metadata"]["uid"] for pod in naru.pods()}
    with Load(naru.gateway, naru.key, "smollm2", requests_min=100) as load:
        naru.apply(deployment(engine={"maxContextTokens": 1024, "kvCacheMemory": "96Mi"}))

        def replaced():
            pods = {pod["metadata"]["uid"] for pod in naru.pods()}
            return len(pods) == 1 and not pods & before and naru.ready_replicas() == 1

        until(replaced, "another pod in the place of the first", 120)
    load.judge()


def test_a_killed_worker_comes_back_and_waiting_requests_are_answered(naru):
    [pid] = worker_processes(naru)
    os.kill(pid, signal.SIGKILL)
    answer = naru.ask()
    assert answer.status_code == 200, answer.text
    naru.wait_ready()
    assert worker_processes(naru) not in ([], [pid])


def test_the_gateway_answers_while_operator_and_api_server_are_gone(naru, cluster):
    naru.kubectl("scale", "deployment/naru-operator", "--replicas=0", f"--namespace={SYSTEM}")
    naru.kubectl("wait", "--for=delete", "pod", "--selector=app.kubernetes.io/name=naru-operator",
                 f"--namespace={SYSTEM}", "--timeout=60s")  # fmt: skip
    cluster.control.stop_api_server()
    try:
        for _ in range(10):
            answer = naru.ask()
            assert answer.status_code == 200, answer.text
    finally:
        cluster.control.start_api_server()
        cluster.control.wait_api()
    naru.kubectl("scale", "deployment/naru-operator", "--replicas=1", f"--namespace={SYSTEM}")
    naru.kubectl("rollout", "status", "deployment/naru-operator", f"--namespace={SYSTEM}", "--timeout=60s")
    naru.wait_ready()


def test_a_lost_node_is_replaced(naru, cluster):
    [pod] = naru.pods()
    node = pod["spec"]["nodeName"]
    if node == "node1":  # the weights' server lives there: move the replica first
        naru.kubectl("cordon", "node1")
        naru.kubectl("drain", "node1", "--pod-selector=naru.dev/model-deployment=smollm2", "--timeout=120s")
        naru.kubectl("uncordon", "node1")
        naru.wait_ready()
        [pod] = naru.pods()
        node = pod["spec"]["nodeName"]
    cluster.nodes[node].stop()
    try:
        until(lambda: any(p["spec"].get("nodeName") not in (None, node) for p in naru.pods()), "a pod elsewhere", 120)
        until(lambda: answers(naru), "an answer from the other node", 120)
    finally:
        cluster.nodes[node].start()
        cluster.nodes[node].wait_ready()
    naru.until_replicas(1)


def test_a_hundred_model_deployments_get_their_status(naru):
    try:
        many.apply(naru.cluster, COUNT)
        many.settle(naru.cluster, COUNT, 60)
        page = many.operator_metrics(naru.cluster)
        assert many.value(page, "naru_reconcile_total") >= COUNT
        assert many.value(page, "naru_reconcile_errors_total") == 0
    finally:
        naru.kubectl("delete", "namespace", many.NAMESPACE, "--ignore-not-found", "--timeout=120s")


def test_what_is_deleted_leaves_nothing_behind(naru):
    naru.kubectl("delete", "md/smollm2", f"--namespace={NAMESPACE}")
    given = {"configmap/kube-root-ca.crt", "configmap/trust", "serviceaccount/default", "secret/naru-worker-tls"}
    until(lambda: set(naru.owned()) <= given, "nothing but what was there before", 90)
    assert naru.ask().status_code == 404
    naru.apply(deployment())
    naru.wait_ready()
    assert json.loads(naru.ask().text)["choices"]


def unchanged(naru, seconds):
    """The versions of everything, if they stay what they are for so long."""
    before = resource_versions(naru)
    time.sleep(seconds)
    return before if resource_versions(naru) == before else None


def answers(naru):
    """Whether there is an answer; the gateway may have been on the lost node too."""
    try:
        return naru.ask(timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def worker_processes(naru):
    """The processes of the model deployment's workers on this machine: those in its pods' cgroups."""
    pods = [pod["metadata"]["uid"] for pod in naru.pods()]
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_worker = (path / "cmdline").read_bytes().startswith(b"/naru-worker\0")
            if is_worker and any(pod in (path / "cgroup").read_text() for pod in pods):
                found.append(int(path.name))
        except OSError:
            continue  # it has ended
    return sorted(found)
