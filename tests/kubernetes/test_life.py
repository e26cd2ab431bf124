"""The life of one model deployment on a real cluster, in the order it is lived; every step leaves it Ready."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import many
import pytest
from end_state import end_state
from load import Load
from openai import OpenAI
from platform_under_test import NAMESPACE, SELECTOR, SIMULATED, deployment, resource_versions, simulated
from pod_processes import OPERATOR, WORKER, kill, killed_meanwhile, processes
from release import operators, until_one_leads
from serving import until

# Model deployments beside the one that serves.
COUNT = 100
# Answers under each load, every one of them compared.
REQUESTS = 200
# Requests at once, three times what one replica of `burst` computes together.
BURST = 12
# After so long without a wish only quiet may follow.
SETTLE_SECONDS_MAX = 30
QUIET_SECONDS = 60
# Within this time after a pass began the operator is killed.
KILL_SECONDS_MAX = 6

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


def test_a_request_wakes_what_sleeps_and_a_burst_adds_replicas(naru):
    sleepy = {"minReplicas": 0, "maxReplicas": 1, "idleSecondsBeforeZero": 3}
    steady = {"minReplicas": 1, "maxReplicas": 3, "targets": {"queuedTokensPerReplica": 100}}
    few = {"maxSequences": 4, "maxContextTokens": 1024}
    naru.apply(
        simulated("sleeper", scaling=sleepy),
        simulated("burst", uri="sim://default?speed=0.5", engine=few, scaling=steady),
    )
    naru.until_replicas(1, "burst", namespace=SIMULATED)
    naru.kubectl("wait", "--for=condition=ScalingActive", "md/sleeper", f"--namespace={SIMULATED}", "--timeout=30s")
    assert naru.pods("sleeper", SIMULATED) == []
    answer = naru.ask(model="sleeper")
    assert answer.status_code == 200, answer.text
    assert decisions(naru, "sleeper")[-1] == (0, 1, "Woken")
    with ThreadPoolExecutor(BURST) as pool:
        asked = [pool.submit(naru.ask, model="burst", tokens=400) for _ in range(BURST)]
        naru.until_replicas(3, "burst", namespace=SIMULATED)
        answers = [each.result() for each in asked]
    assert all(answer.status_code == 200 for answer in answers), [answer.text for answer in answers]
    more = [each for each in decisions(naru, "burst") if each[1] > each[0] > 0]
    assert more[-1][1] == 3 and {reason for _, _, reason in more} <= {"QueueTooLong", "SequencesTaken"}, more
    naru.until_replicas(0, "sleeper", namespace=SIMULATED)
    assert decisions(naru, "sleeper")[-1] == (1, 0, "Idle")


def test_quiet_changes_nothing_and_fights_nobody(naru):
    naru.apply(simulated("scaled", NAMESPACE), simulated("autoscaled", NAMESPACE))
    naru.scale(2, "scaled")
    apply_replicas(naru, "autoscaled", 2, "hpa")
    for name in ("scaled", "autoscaled"):
        naru.until_replicas(2, name)
    stays_quiet(naru)
    for name in ("scaled", "autoscaled"):
        assert naru.get("md", name)["spec"]["replicas"] == 2
    assert "hpa" in owners_of_replicas(naru, "autoscaled")
    naru.kubectl("delete", "md/scaled", "md/autoscaled", f"--namespace={NAMESPACE}", "--timeout=60s")


def test_scaling_under_load_cuts_no_stream_though_the_operator_dies(naru):
    before = end_state(naru, "smollm2")
    with Load(naru, "smollm2", REQUESTS) as load, operator_killed(naru, "scaling"):
        naru.scale(3)
        naru.until_replicas(3, seconds=120)
        naru.scale(1)
        naru.until_replicas(1, seconds=120)
    load.judge()
    until_one_leads(naru)
    ends_as(naru, before)


def test_another_template_and_two_drains_under_load_cut_no_stream_though_the_operator_dies(naru):
    before = {pod["metadata"]["uid"] for pod in naru.pods()}
    with Load(naru, "smollm2", REQUESTS) as load:
        # While no operator answers, the API server takes no wish; so it has this one before.
        naru.apply(deployment(engine={"maxContextTokens": 1024, "kvCacheMemory": "96Mi"}))
        with operator_killed(naru, "template"):

            def replaced():
                pods = {pod["metadata"]["uid"] for pod in naru.pods()}
                counts = [naru.status()[count] for count in ("replicas", "readyReplicas", "updatedReplicas")]
                return len(pods) == 1 and not pods & before and counts == [1, 1, 1]

            until(replaced, "another pod in the place of the first", 120)
        changed = end_state(naru, "smollm2")
        # There and back: each time it is the last replica that answers.
        for _ in range(2):
            drain_its_node(naru)
    load.judge()
    until_one_leads(naru)
    ends_as(naru, changed)


def test_a_killed_worker_comes_back_and_waiting_requests_are_answered(naru):
    killed = kill(naru.pods(), WORKER)
    answer = naru.ask()
    assert answer.status_code == 200, answer.text
    naru.wait_ready()
    assert processes(naru.pods(), WORKER) not in ([], killed)


def test_a_lost_node_is_replaced(naru, cluster):
    [pod] = naru.pods()
    if pod["spec"]["nodeName"] == "node1":  # the weights' server lives there: move the replica first
        drain_its_node(naru)
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


def test_after_a_burst_replicas_go_one_by_one(naru):
    # A leader that takes over measures anew how long the load has been low.
    naru.until_replicas(1, "burst", seconds=180, namespace=SIMULATED)
    assert decisions(naru, "burst")[-2:] == [(3, 2, "LoadLow"), (2, 1, "LoadLow")]


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


def stays_quiet(naru):
    """Waits for a minute in which nothing gets another version; the cluster's own controllers have their last words."""
    began = since = time.monotonic()
    before = resource_versions(naru)
    while time.monotonic() - since < QUIET_SECONDS:
        time.sleep(5)
        found = resource_versions(naru)
        changed = {name for name, version in found.items() ^ before.items()}
        if changed:
            assert time.monotonic() - began < SETTLE_SECONDS_MAX, f"{changed} changed after {SETTLE_SECONDS_MAX} s"
            before, since = found, time.monotonic()


def decisions(naru, name):
    """What naru has decided of late on the number of replicas, the newest last; each with words for people."""
    said = naru.status(name, SIMULATED).get("scaling", [])
    assert all(each["message"] and each["time"] for each in said), said
    return [(each["from"], each["to"], each["reason"]) for each in said]


def answers(naru):
    """Whether there is an answer; the gateway may have been on the lost node too."""
    try:
        return naru.ask(timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def operator_killed(naru, what):
    """Kills the operator at a moment that the seed chooses."""
    return killed_meanwhile(what, operators(naru), OPERATOR, KILL_SECONDS_MAX)


def ends_as(naru, expected):
    """Waits until everything is as it was expected to become, and shows what is not."""
    deadline = time.monotonic() + 60
    while (found := end_state(naru, "smollm2")) != expected and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == expected


def drain_its_node(naru):
    """What an administrator does to the node of the only replica, which is on another one afterwards."""
    [pod] = naru.pods()
    node = pod["spec"]["nodeName"]
    try:
        naru.kubectl("drain", node, f"--pod-selector={SELECTOR}", "--delete-emptydir-data", "--timeout=120s")
        naru.until_replicas(1)
    finally:
        naru.kubectl("uncordon", node)
    [pod] = naru.pods()
    assert pod["spec"]["nodeName"] != node


def apply_replicas(naru, name, replicas, manager):
    """What an autoscaler does: it takes the number of replicas over, and nothing else."""
    whole = deployment(name)
    wish = {key: whole[key] for key in ("apiVersion", "kind", "metadata")} | {"spec": {"replicas": replicas}}
    how = ["--server-side", "--force-conflicts", f"--field-manager={manager}", "--filename=-"]
    naru.kubectl("apply", *how, text=json.dumps(wish))


def owners_of_replicas(naru, name):
    """Who has written the number of replicas, by their own account."""
    found = naru.get("md", name, "--show-managed-fields")["metadata"]["managedFields"]
    return {each["manager"] for each in found if "f:replicas" in each["fieldsV1"].get("f:spec", {})}
