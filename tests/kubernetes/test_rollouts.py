"""Templates exchanged on a real cluster: in place, behind a canary, and one that is broken."""

import pytest
import weights
from load import Load
from platform_under_test import NAMESPACE, SIMULATED, deployment, simulated
from serving import until

pytestmark = [pytest.mark.control, pytest.mark.timeout(600)]

# Answers under each load, every one of them compared.
REQUESTS = 100
ENGINE = {"maxContextTokens": 1024, "kvCacheMemory": "112Mi"}


def test_a_broken_template_stops_and_the_old_one_serves_on(naru):
    before = uids(naru)
    with Load(naru, "smollm2", REQUESTS) as load:
        naru.apply(deployment(uri=weights.uri("nothing.gguf")))
        stopped = until(lambda: rollout(naru, "RolloutStopped"), "an end of the exchange", 120)
        assert "does not become ready" in stopped["message"] and "404" in stopped["message"], stopped
        assert before < uids(naru) and condition(naru, "Ready")["status"] == "True"
        naru.apply(deployment())
        until(lambda: rollout(naru, "RolledOut") and uids(naru) == before, "the earlier template, untouched", 60)
    load.judge()
    told = naru.kubectl("events", "--for=modeldeployment/smollm2", f"--namespace={NAMESPACE}")
    assert "RolloutStopped" in told, told


def test_in_place_nothing_is_used_twice_and_requests_wait(naru):
    [before] = uids(naru)
    seen = set()
    rule = {"strategy": "InPlace", "drainSeconds": 60}
    with Load(naru, "smollm2", REQUESTS) as load:
        naru.apply(deployment(engine=ENGINE, rollout=rule))

        def exchanged():
            there = uids(naru)
            seen.add(len(there))
            return before not in there and rollout(naru, "RolledOut") and naru.status()["readyReplicas"] == 1

        until(exchanged, "another replica in the place of the first", 120)
    load.judge()
    assert seen <= {0, 1}, f"{seen} replicas at once"


def test_the_others_wait_for_the_canary(naru):
    naru.apply(simulated("canary", replicas=3))
    naru.until_replicas(3, "canary", namespace=SIMULATED)
    before = uids(naru, "canary", SIMULATED)
    rule = {"canarySeconds": 8, "drainSeconds": 1}
    naru.apply(simulated("canary", replicas=3, engine={"maxSequences": 7}, rollout=rule))

    def proves_itself():
        ready = naru.status("canary", SIMULATED)["readyReplicas"]
        return ready == 4 and rollout(naru, "CanaryServing", "canary", SIMULATED)

    until(proves_itself, "a canary beside the others", 60)
    assert before < uids(naru, "canary", SIMULATED), "the others serve on"
    until(lambda: rollout(naru, "RolledOut", "canary", SIMULATED), "the end of the exchange", 120)
    naru.until_replicas(3, "canary", namespace=SIMULATED)
    assert not before & uids(naru, "canary", SIMULATED)
    naru.kubectl("delete", "md/canary", f"--namespace={SIMULATED}")


def uids(naru, name="smollm2", namespace=NAMESPACE):
    return {pod["metadata"]["uid"] for pod in naru.pods(name, namespace)}


def condition(naru, kind, name="smollm2", namespace=NAMESPACE):
    """The condition, if it speaks of the present generation."""
    found = naru.get("md", name, namespace=namespace)
    every = found.get("status", {}).get("conditions", [])
    return next(
        (each for each in every
         if each["type"] == kind and each["observedGeneration"] == found["metadata"]["generation"]),
        None,
    )  # fmt: skip


def rollout(naru, reason, name="smollm2", namespace=NAMESPACE):
    """How far the exchange is, if that is for this reason."""
    found = condition(naru, "RolledOut", name, namespace)
    return found if found and found["reason"] == reason else None
