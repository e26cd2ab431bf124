"""Replicas of several members on a real cluster: placed together, over both nodes, and failing as one."""

import json
import time

import pytest
import serving
from cluster.failure import Failed
from group_load import LossyLoad
from load import Load
from platform_under_test import NAMESPACE, deployment
from pod_processes import WORKER, kill, processes
from serving import until
from weights import uri

SMALL, LARGE, GPUS = "shards", "stages", "accelerated-groups"
GPU = "nvidia.com/gpu"
# Stated for the product.
NOTICED_SECONDS_MAX, BACK_SECONDS_MAX = 2, 15
# Answers under each load, every one of them compared.
REQUESTS = 16
STREAMS = 4

pytestmark = [pytest.mark.control, pytest.mark.timeout(600)]


def wished(name, cpu, model=serving.SMOLLM2, **spec):
    """A group whose members compute on one thread each."""
    resources = {"requests": {"cpu": cpu, "memory": "200Mi"}, "limits": {"memory": "1Gi"}}
    whole = {"engine": {"maxContextTokens": 1024, "kvCacheMemory": "64Mi"}, "resources": resources}
    return deployment(name, uri(model), **(whole | spec))


@pytest.fixture(scope="module")
def shards(naru):
    """SmolLM2 cut into three, of which no node has room for all."""
    naru.apply(wished(SMALL, "700m", parallelism={"tensor": 3}))
    naru.wait_ready(SMALL, 120)
    yield naru
    naru.kubectl("delete", "md", SMALL, f"--namespace={NAMESPACE}", "--timeout=60s")


def ready(naru, name=SMALL, namespace=NAMESPACE):
    conditions = naru.status(name, namespace).get("conditions", [])
    return next((each for each in conditions if each["type"] == "Ready"), {"status": "", "reason": "", "message": ""})


def pod(naru, member, name=SMALL):
    """The pod of a member of the one replica there is."""
    [found] = [each for each in naru.pods(name) if each["metadata"]["name"].endswith(f"-{member}")]
    return found


def test_a_group_spans_the_nodes_and_answers_by_member_0(shards):
    pods = shards.pods(SMALL)
    assert len(pods) == 3 and {each["spec"]["nodeName"] for each in pods} == {"node1", "node2"}, pods
    answer = shards.ask(model=SMALL)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"], answer.text
    selector = shards.status(SMALL)["selector"]
    counted = shards.get("pods", f"--selector={selector}")["items"]
    assert [each["metadata"]["name"] for each in counted] == [f"{SMALL}-0-0"], "an autoscaler counts replicas"
    assert shards.status(SMALL)["readyReplicas"] == 1


def test_each_rank_is_killed_in_turn_under_load(shards):
    first = f"http://{pod(shards, 0)['status']['podIP']}:9090"
    with LossyLoad(shards, SMALL, REQUESTS, STREAMS) as load:
        for member in (1, 2, 0):
            victim = pod(shards, member)
            others = {rank: processes([pod(shards, rank)], WORKER) for rank in range(3) if rank != member}
            kill([victim], WORKER)
            killed = time.monotonic()
            until(lambda: not serving.is_ready(first), "member 0 is not ready, or gone", NOTICED_SECONDS_MAX)
            name, node = victim["metadata"]["name"], victim["spec"]["nodeName"]
            told = f"rank {member} (pod {name} on node {node})"
            until(lambda: serving.is_ready(first), "the ranks have met again", 60)
            assert time.monotonic() - killed < BACK_SECONDS_MAX, "back too late"
            until(lambda told=told: told in events(shards), f"an event names {told}", 20)
            until(lambda: ready(shards)["status"] == "True", "it is Ready again", 20)
            still = {rank: processes([pod(shards, rank)], WORKER) for rank in others}
            assert still == others, "the others go on"
    load.judge()


def events(naru, name=SMALL, reason="RankFailed"):
    listed = naru.get("events.events.k8s.io")["items"]
    return "\n".join(each["note"] for each in listed
                     if each["regarding"]["name"] == name and each["reason"] == reason)  # fmt: skip


def test_groups_are_exchanged_under_load(shards):
    before = {each["metadata"]["uid"] for each in shards.pods(SMALL)}
    with Load(shards, SMALL, REQUESTS, STREAMS) as load:
        shards.apply(wished(SMALL, "100m", parallelism={"tensor": 3}))

        def exchanged():
            pods = shards.pods(SMALL)
            return len(pods) == 3 and not before & {each["metadata"]["uid"] for each in pods} and ready(shards)

        until(lambda: (found := exchanged()) and found["status"] == "True", "another group", 180)
    load.judge()


def test_a_member_that_is_deleted_cuts_nothing(shards):
    with Load(shards, SMALL, REQUESTS, STREAMS) as load:
        gone = pod(shards, 2)
        shards.kubectl("delete", "pod", gone["metadata"]["name"], f"--namespace={NAMESPACE}", "--wait=false")

        def replaced():
            uids = {each["metadata"]["uid"] for each in shards.pods(SMALL)}
            return len(uids) == 3 and gone["metadata"]["uid"] not in uids and ready(shards)["status"] == "True"

        until(replaced, "a whole group without that pod", 180)
    load.judge()


def test_stages_of_shards_answer(naru):
    naru.apply(wished(LARGE, "100m", serving.QWEN, parallelism={"tensor": 2, "pipeline": 2}))
    naru.wait_ready(LARGE, 180)
    answers = {naru.ask(model=LARGE, tokens=16).json()["choices"][0]["message"]["content"] for _ in range(2)}
    assert len(answers) == 1 and "" not in answers, answers
    assert len(naru.pods(LARGE)) == 4
    for each, members in ((2, 2), (4, 1)):
        parallelism = {"tensor": 2, "pipeline": 2, "devicesPerMember": each}
        naru.apply(wished(LARGE, "100m", serving.QWEN, parallelism=parallelism))

        def exchanged(members=members):
            return len(naru.pods(LARGE)) == members and ready(naru, LARGE)["status"] == "True"

        until(exchanged, f"{members} members of {each} ranks", 180)
        assert naru.ask(model=LARGE, tokens=16).json()["choices"][0]["message"]["content"] in answers
    naru.kubectl("delete", "md", LARGE, f"--namespace={NAMESPACE}", "--timeout=60s")


def test_a_cut_that_heads_do_not_take_is_refused_with_those_that_work(shards):
    # Of this model nobody knows anything before a worker has looked at it.
    shards.apply(wished(LARGE, "100m", serving.QWEN, parallelism={"tensor": 4}))
    said = until(lambda: (now := ready(shards, LARGE))["reason"] == "ConfigRefused" and now, "it is refused", 90)
    for words in ("rank ", f"pod {LARGE}-0-", "tensor 4: 4 ranks cannot share 14 query heads", "work: 1, 2"):
        assert words in said["message"], said
    shards.kubectl("delete", "md", LARGE, f"--namespace={NAMESPACE}", "--timeout=60s")
    # Of this one a worker has told.
    with pytest.raises(Failed, match="spec.parallelism.tensor: the model cannot be cut into 2; 1, 3, 9 work"):
        shards.apply(wished(LARGE, "100m", parallelism={"tensor": 2}))


@pytest.fixture
def gpus(naru):
    """Nodes that say they have four GPUs each."""
    naru.make_namespace(GPUS)
    for node in ("node1", "node2"):
        naru.count_devices(node, GPU, "4")
    yield naru
    naru.kubectl("delete", "namespace", GPUS, "--timeout=120s")
    for node in ("node1", "node2"):
        naru.count_devices(node, GPU, None)


def placed(naru, name):
    """How many members of each replica have a node."""
    found = {}
    for each in naru.pods(name, GPUS):
        replica = each["metadata"]["labels"]["naru.dev/replica"]
        found[replica] = found.get(replica, 0) + ("nodeName" in each["spec"])
    return found


def accelerated(name, replicas):
    small = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
    return deployment(
        name, "https://weights.example/m.gguf", {}, GPUS, backend="cuda", parallelism={"tensor": 4},
        replicas=replicas, resources=small, rollout={"drainSeconds": 0},
    )  # fmt: skip


def test_eight_gpus_hold_two_groups_of_four_and_never_a_half(gpus):
    gpus.apply(accelerated("three", 3))
    until(lambda: sorted(placed(gpus, "three").values()) == [0, 4, 4], "two of them have all", 60)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert sorted(placed(gpus, "three").values()) == [0, 4, 4]
        time.sleep(0.2)


def test_a_group_that_others_keep_from_its_room_gives_it_back(gpus):
    holder = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "holder", "namespace": GPUS},
        "spec": {
            "nodeName": "node1", "terminationGracePeriodSeconds": 0, "securityContext": restricted(),
            "containers": [{
                "name": "holder", "image": "localhost/nothing:1", "imagePullPolicy": "Never",
                "resources": {"limits": {GPU: "1"}},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }  # fmt: skip
    gpus.count_devices("node2", GPU, None)
    gpus.count_devices("node1", GPU, "3")
    gpus.apply(accelerated("half", 1))
    why = "4 members have to be placed together, and there is room for 3"
    until(lambda: why in ready(gpus, "half", GPUS)["message"], "what it lacks", 30)
    assert placed(gpus, "half") == {"0": 0}, "until then it takes none"
    gpus.apply(holder)
    gpus.count_devices("node1", GPU, "4")
    until(lambda: placed(gpus, "half") == {"0": 3}, "three find a place, as far as naru knows four do", 60)
    until(lambda: placed(gpus, "half") == {"0": 0}, "none keeps one", 120)
    told = json.dumps(gpus.get("events.events.k8s.io", namespace=GPUS))
    assert "GroupWithdrawn" in told, told


def restricted():
    return {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
