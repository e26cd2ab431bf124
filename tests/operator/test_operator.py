"""The operator on a real cluster: a model deployment becomes pods that answer, and goes without leaving anything."""

import os
import signal

import pytest
from operator_under_test import Operator, metrics_or_nothing
from serving import until


@pytest.mark.control
def test_a_model_deployment_lives(platform):
    """From apply to an answer, three replicas and back, a crash, and nothing left in the end."""
    platform.apply("smol")
    platform.wait_ready("smol")
    (pod,) = platform.pods()
    answer = platform.ask(pod, f"{platform.namespace}-smol")
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"].strip(), answer.text

    platform.kubectl("scale", "modeldeployment/smol", "--replicas=3")
    platform.wait_count("smol", 3)
    platform.kubectl("scale", "modeldeployment/smol", "--replicas=1")
    platform.wait_count("smol", 1)
    until(lambda: len(platform.pods()) == 1, "two replicas are gone")
    assert platform.pods()[0]["metadata"]["name"] == "smol-0-0", "the youngest go first"

    restarts = platform.pods()[0]["status"]["containerStatuses"][0]["restartCount"]
    os.kill(worker_of(f"{platform.namespace}-smol"), signal.SIGKILL)
    until(lambda: platform.pods()[0]["status"]["containerStatuses"][0]["restartCount"] > restarts, "it is restarted")
    platform.wait_ready("smol")

    platform.kubectl("delete", "modeldeployment/smol")
    until(lambda: not platform.owned(), "nothing that was made for it is left")
    assert "naru_reconcile_errors_total 0" in platform.operator.metrics()


@pytest.mark.control
def test_looking_twice_changes_nothing(platform):
    platform.apply("quiet")
    platform.wait_ready("quiet")
    # The kubelet and the controllers of the cluster have their own last words at first.
    until(lambda: stays(platform), "the operator looks at everything again and writes nothing", seconds=150)


@pytest.mark.control
def test_trouble_becomes_a_reason(platform):
    """Each kind of trouble ends in a condition that names it."""
    platform.apply("first", served=f"{platform.namespace}-name")
    platform.wait_ready("first")
    platform.apply("second", served=f"{platform.namespace}-name")
    platform.apply("large", memory="900Gi")
    platform.apply("empty", uri="file:///models/nothing.gguf")
    for name, reason in [("second", "NameTaken"), ("large", "Unschedulable"), ("empty", "WeightsMissing")]:
        found = until(lambda name=name, reason=reason: platform.has_reason(name, reason), f"{name}: {reason}")
        assert found["status"] == "False" and found["message"], found


@pytest.mark.control
def test_a_pod_that_must_not_be_made_becomes_a_reason(platform):
    """What only events of the StatefulSet tell; once the rule is gone, the replica comes."""
    rules = {
        "QuotaExceeded": "{apiVersion: v1, kind: ResourceQuota, metadata: {name: rule}, spec: {hard: {pods: 0}}}",
        "Refused": "{apiVersion: v1, kind: LimitRange, metadata: {name: rule}, "
        "spec: {limits: [{type: Container, min: {memory: 1Gi}}]}}",
    }
    for reason, rule in rules.items():
        name = reason.lower()
        platform.kubectl("apply", "--filename=-", text=rule)
        platform.apply(name)
        found = until(lambda name=name, reason=reason: platform.has_reason(name, reason), f"{name}: {reason}")
        assert found["status"] == "False" and "forbidden" in found["message"], found
        platform.kubectl("delete", "--filename=-", text=rule)
        platform.wait_ready(name)


@pytest.mark.control
def test_a_second_operator_takes_over(platform):
    """One that is killed leaves its lease to run out; what runs goes on, and is looked after again."""
    platform.apply("smol")
    platform.wait_ready("smol")
    second = Operator(
        platform.directory, platform.cluster, platform.namespace, platform.worker_image, name="second"
    )  # fmt: skip
    try:
        until(lambda: "naru_operator_leader 0" in metrics_or_nothing(second), "the second one waits")
        platform.operator.child.kill()
        until(lambda: "naru_operator_leader 1" in metrics_or_nothing(second), "the second one leads", seconds=40)
        platform.kubectl("scale", "modeldeployment/smol", "--replicas=2")
        platform.wait_count("smol", 2)
    finally:
        code = second.stop()
    assert code == 0, second.log_tail()
    # What the fixture ends is one that lives.
    platform.operator.__init__(platform.directory, platform.cluster, platform.namespace, platform.worker_image)
    until(lambda: "naru_operator_leader 1" in metrics_or_nothing(platform.operator), "the lease was given back")


def reconciles(operator):
    line = next(line for line in operator.metrics().splitlines() if line.startswith("naru_reconcile_total "))
    return float(line.split()[1])


def stays(platform):
    """Whether everything has the version that it had before the operator looked again."""
    before, done = platform.versions(), reconciles(platform.operator)
    until(lambda: reconciles(platform.operator) > done, "the operator has looked again")
    return platform.versions() == before


def worker_of(served_name):
    """The process of the worker that serves this name; pods of the test's cluster run on this machine."""
    for path in os.listdir("/proc"):
        if path.isdigit():
            try:
                with open(f"/proc/{path}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if served_name.encode() in words and words[0].endswith(b"naru-worker"):
                return int(path)
    raise AssertionError(f"no worker serves {served_name}")
