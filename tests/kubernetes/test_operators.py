"""Operators, one and several, and what goes on without any: the gateway serves by the last word of who leads."""

import json
import time

import pytest
from load import Load
from platform_under_test import SYSTEM
from pod_processes import OPERATOR, held_up, kill, processes
from release import followers, gateway_metrics, leads, metrics, name, operators, until_one_leads
from serving import until

OUTAGE_SECONDS = 30
# The lease runs for 15 s, and is looked at every 2 s; the rest is for machines that are busy.
TAKE_OVER_SECONDS_MAX = 60
LEASE = ("lease/naru-operator", f"--namespace={SYSTEM}")

pytestmark = [pytest.mark.control, pytest.mark.timeout(600)]


def test_the_gateway_answers_while_api_server_and_operator_are_gone(naru, cluster):
    until_one_leads(naru)
    assert naru.ask().status_code == 200
    [operator] = operators(naru)
    working = processes([operator], OPERATOR)
    cluster.control.stop_api_server()
    try:
        answered = keep_asking(naru, OUTAGE_SECONDS * 2 / 3)
        with held_up(working):
            answered += keep_asking(naru, OUTAGE_SECONDS / 3)
    finally:
        cluster.control.start_api_server()
        cluster.control.wait_api()
    assert answered >= OUTAGE_SECONDS
    # It acts again; the kubelet may have found it held up for too long, and put another process in its place.
    until_one_leads(naru)
    for replicas in (2, 1):
        naru.scale(replicas)
        naru.until_replicas(replicas, seconds=120)


def test_of_two_operators_one_leads_and_the_other_takes_over(naru):
    naru.upgrade("--set=operator.replicas=2")
    first, [second] = until_one_leads(naru)
    until(lambda: (followers(first), followers(second)) == (1, 0), "the gateway follows the one that leads")
    assert lease(naru)["holderIdentity"].startswith(name(first))
    epoch = gateway_metrics(naru)["naru_gateway_snapshot_epoch"]
    with Load(naru, "smollm2", streams=2) as load:
        with held_up(processes([first], OPERATOR)):
            until(lambda: leads(second), "the other one leads", TAKE_OVER_SECONDS_MAX)
            later = until(lambda: follows_later(naru, epoch), "the gateway follows it", 30)
        # It goes on in the belief that it leads, finds that it does not, and is not followed again.
        until(lambda: metrics(first).get("naru_operator_leader") == 0, "it learns that it does not lead")
        assert leads(second)
        until(lambda: (followers(first), followers(second)) == (0, 1), "the gateway stays with the other one")
        assert gateway_metrics(naru)["naru_gateway_snapshot_epoch"] == later
        kill([second], OPERATOR)
        # A process in its place would know that the one before is dead, and lead at once.
        naru.kubectl("delete", "pod", name(second), f"--namespace={SYSTEM}", "--force", "--grace-period=0")
        # The first one, or whoever was put in the place of the second.
        until_one_leads(naru)
        until(lambda: follows_later(naru, later), "the gateway follows it", 30)
    load.judge()
    until_one_leads(naru)
    naru.upgrade("--set=operator.replicas=1")
    until_one_leads(naru)


def keep_asking(naru, seconds):
    """One short question after another for so long; how many were answered, which must be all."""
    answered, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = naru.ask(tokens=4)
        assert answer.status_code == 200, answer.text
        answered += 1
    return answered


def lease(naru):
    return json.loads(naru.kubectl("get", *LEASE, "--output=json"))["spec"]


def follows_later(naru, epoch):
    """The epoch of the leader that the gateway follows, if it is a later one."""
    found = gateway_metrics(naru)
    later = found.get("naru_gateway_snapshot_epoch", 0)
    return later if later > epoch and found["naru_gateway_operator_connected"] == 1 else None
