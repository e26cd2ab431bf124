"""The chart's network policies, held against the pods that the chart renders and those that the operator makes."""

import copy
import dataclasses
import json

import policies
import pytest
from charts_under_test import NAMESPACE
from policies import Pod

ON = ["--set=networkPolicies.enabled=true", "--set=networkPolicies.workerNamespaces={served}"]
WORKER = Pod(
    "worker",
    "served",
    {"app.kubernetes.io/name": "naru-worker", "app.kubernetes.io/managed-by": "naru"},
    frozenset({8000, 8001, 9090}),
)
MEMBER = dataclasses.replace(WORKER, ports=WORKER.ports | policies.LINKS)
"""As the operator makes them, the second for a replica of several; in the life of a release the same is asked of live ones."""


def rendered(helm, *options):
    """The policies, and naru's pods."""
    objects = helm.template("naru", *ON, *options)
    deployments = [found for found in objects if found["kind"] == "Deployment"]
    templates = [found["spec"]["template"] for found in deployments]
    pods = [Pod.of(template["metadata"] | {"namespace": NAMESPACE}, template["spec"]) for template in templates]
    return [found for found in objects if found["kind"] == "NetworkPolicy"], [*pods, WORKER, MEMBER]


def test_each_reaches_whom_it_needs_and_nobody_else(helm):
    policies.check(*rendered(helm))


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_rule_that_is_missing_or_too_wide_is_seen(helm, direction):
    """The check itself: it holds of these policies, and of none that differs from them in one rule."""
    found, pods = rendered(helm)
    for policy in found:
        for index, rule in enumerate(policy["spec"][direction]):
            if rule["ports"][0]["port"] == 53:
                continue
            without, wide = copy.deepcopy(policy), copy.deepcopy(policy)
            del without["spec"][direction][index]
            wide["spec"][direction][index] = {"ports": rule["ports"]}
            for other in [without] + ([wide] if wide != policy else []):
                changed = [other if each is policy else each for each in found]
                with pytest.raises(AssertionError):
                    policies.check(changed, pods)


def test_a_policy_beside_the_pods_is_seen(helm):
    found, pods = rendered(helm)
    with pytest.raises(AssertionError, match="no policy finds"):
        policies.check(found[1:], pods)
    with pytest.raises(AssertionError, match="finds no pod"):
        policies.check(found, pods[:-2])


def test_names_are_asked_for_by_all_of_them_and_of_nobody_else(helm):
    found, _ = rendered(helm)
    for policy in found:
        [names] = [rule for rule in policy["spec"]["egress"] if {"port": 53, "protocol": "UDP"} in rule["ports"]]
        assert names["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}]


def test_clients_can_be_narrowed_and_without_a_webhook_its_port_is_shut(helm):
    from_monitoring = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    clients = f"--set-json=networkPolicies.clients={json.dumps(from_monitoring)}"
    found, pods = rendered(helm, clients, "--set=webhook.enabled=false")
    reached = policies.reached(found, [*pods, *policies.OTHERS])
    assert {(source, port) for source, target, port in reached if target == "gateway"} == {("scraper", 8080), ("scraper", 9090)}
    assert {(source, port) for source, target, port in reached if target == "operator"} == {("gateway", 8001), ("scraper", 9090)}


def test_scrapers_may_be_nobody(helm):
    found, pods = rendered(helm, "--set-json=networkPolicies.scrapers=[]")
    assert not [port for _, target, port in policies.reached(found, [*pods, *policies.OTHERS]) if port == 9090]


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("http://collector.traces:4319/", 4319), ("http://collector.traces", 4317), ("http://10.0.0.7:4317", 4317)],
)
def test_traces_may_leave_where_a_collector_is_named(helm, endpoint, port):
    found, pods = rendered(helm, f"--set=traces.endpoint={endpoint}")
    left = {pod.name: policies.left_by(found, pod) for pod in pods}
    assert left == {"operator": {443, 6443, port}, "gateway": {port}, "worker": {443}}


def test_weights_may_come_from_one_address_alone(helm):
    mirror = {"ipBlock": {"cidr": "192.0.2.10/32"}}
    found, _ = rendered(helm, f"--set-json=networkPolicies.weights={json.dumps({'peers': [mirror], 'ports': [8443]})}")
    [worker] = [policy for policy in found if policy["metadata"]["name"] == "naru-worker"]
    assert {"to": [mirror], "ports": [{"port": 8443}]} in worker["spec"]["egress"]
