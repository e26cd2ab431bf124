"""Power budgets on a real cluster: what they hold back, what makes room, what a schedule takes away in time."""

import json
import re
import time

import many
import pytest
from load import Load
from platform_under_test import NAMESPACE, SYSTEM, simulated
from serving import until

NAME = "powered"
WATTS = 300
DRAIN_SECONDS = 5
# Drain time, grace, the time to be gone, slack: as long before a step a drain begins.
LEAD_SECONDS = DRAIN_SECONDS + 25

pytestmark = [pytest.mark.control, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def power(naru):
    """A hall for two replicas inside a site with more, and a simulated model that wishes for one."""
    naru.apply(budget("site", 5000))
    # The webhook looks a parent up in what it has seen so far.
    until(lambda: naru.get("powerbudget", "site").get("status"), "the operator's word on the site")
    naru.apply(budget("hall", 700, overheadWatts=50, parent="site"))
    until(lambda: naru.get("powerbudget", "hall").get("status"), "the operator's word on the hall")
    naru.apply(powered(NAME))
    naru.wait_ready(NAME)
    yield naru
    naru.kubectl("delete", f"md/{NAME}", f"--namespace={NAMESPACE}", "--ignore-not-found", "--timeout=60s")
    naru.kubectl("delete", "powerbudgets", "hall", "site", "--timeout=30s")


def test_a_burst_is_held_at_what_fits_and_says_why(power):
    power.scale(3, NAME)
    power.until_replicas(2, NAME)
    fits = condition(power, "PowerFits")
    assert (fits["status"], fits["reason"]) == ("False", "PowerBudgetFull"), fits
    words = "2 of 3 replicas fit: one more takes 300 W, and budget hall lacks 250 W; room comes with that much more"
    assert fits["message"].startswith(words) and "try: kubectl get powerbudgets" in fits["message"], fits
    ready = condition(power, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "PowerBudgetFull"), ready
    assert power.status(NAME)["power"] == {"chargedWatts": 600, "enforcement": "advisory"}
    events = ("get", "events", f"--namespace={NAMESPACE}", f"--field-selector=involvedObject.name={NAME}")
    until(lambda: "PowerBudgetFull" in power.kubectl(*events), "an event that says so")
    assert stays(power, 2, seconds=5)


def test_kubectl_shows_watts_charged_and_headroom(power):
    head, *lines = power.kubectl("get", "powerbudgets").splitlines()
    assert re.split(r"\s{2,}", head.strip()) == ["NAME", "WATTS", "CHARGED", "HEADROOM", "HOLDS", "PARENT", "AGE"]
    shown = {line.split()[0]: line.split()[1:] for line in lines}
    assert shown["hall"][:5] == ["700", "600", "50", "True", "site"]
    assert shown["site"][:4] == ["5000", "600", "4350", "True"]
    page = many.operator_metrics(power.cluster)
    for name, watts in (("budget", 700), ("charged", 600), ("headroom", 50)):
        assert f'naru_power_{name}_watts{{budget="hall"}} {watts}' in page


def test_another_operator_knows_what_is_charged(power):
    power.kubectl("rollout", "restart", "deployment/naru-operator", f"--namespace={SYSTEM}")
    power.kubectl("rollout", "status", "deployment/naru-operator", f"--namespace={SYSTEM}", "--timeout=90s")
    assert stays(power, 2, seconds=10)


def test_more_watts_bring_the_third(power):
    patch(power, "hall", watts=1000)
    power.until_replicas(3, NAME)
    assert condition(power, "PowerFits")["status"] == "True"
    assert condition(power, "Ready")["status"] == "True"


def test_parent_and_child_both_bind(power):
    patch(power, "site", watts=700)
    power.until_replicas(2, NAME)
    assert "budget site lacks 250 W" in condition(power, "PowerFits")["message"]
    patch(power, "hall", watts=700)
    patch(power, "site", watts=5000)
    until(lambda: "budget hall lacks" in condition(power, "PowerFits")["message"], "now the hall binds")
    assert stays(power, 2, seconds=3)
    patch(power, "hall", watts=1000)
    power.until_replicas(3, NAME)


def test_a_step_of_the_schedule_takes_one_away_before_it_begins_and_cuts_no_stream(power):
    step = -(-(time.time() + LEAD_SECONDS + 15) // 60) * 60
    begin, end = (time.strftime("%H:%M", time.gmtime(at)) for at in (step, step + 3600))
    patch(power, "hall", schedule=[{"from": begin, "to": end, "watts": 700}])
    with Load(power, NAME, requests_min=50) as load:
        time.sleep(max(0.0, step - LEAD_SECONDS - 3 - time.time()))
        assert status(power, "hall")["chargedWatts"] == 900, "it is kept until it has to go"
        until(lambda: status(power, "hall")["chargedWatts"] == 600, "one is gone", LEAD_SECONDS + 3)
        assert time.time() < step, "before the step begins"
        until(lambda: status(power, "hall")["watts"] == 700, "the step is there", 60)
    load.judge()
    power.until_replicas(2, NAME)
    patch(power, "hall", schedule=[])
    power.until_replicas(3, NAME)


def test_the_higher_priority_has_room_first(power):
    power.apply(powered("first", replicas=2, priority=5))
    power.until_replicas(2, "first")
    power.until_replicas(1, NAME)
    assert f"or with fewer replicas of {NAMESPACE}/first" in condition(power, "PowerFits")["message"]
    power.kubectl("delete", "md/first", f"--namespace={NAMESPACE}", "--timeout=60s")
    power.until_replicas(3, NAME)


def test_nothing_is_charged_once_all_are_gone(power):
    power.kubectl("delete", f"md/{NAME}", f"--namespace={NAMESPACE}", "--timeout=60s")
    until(lambda: status(power, "hall")["chargedWatts"] == 0 and not power.pods(NAME), "no charge", 60)


def powered(name, replicas=1, priority=0):
    """A simulated model whose replicas are charged to the hall."""
    power = {"budget": "hall", "maxWattsPerDevice": WATTS, "priority": priority}
    return simulated(name, NAMESPACE, replicas=replicas, power=power, rollout={"drainSeconds": DRAIN_SECONDS})


def condition(power, kind, name=NAME):
    return next(each for each in power.status(name)["conditions"] if each["type"] == kind)


def budget(name, watts, **spec):
    metadata = {"name": name}
    return {
        "apiVersion": "naru.dev/v1alpha1", "kind": "PowerBudget", "metadata": metadata, "spec": {"watts": watts} | spec,
    }  # fmt: skip


def patch(power, name, **spec):
    power.kubectl("patch", "powerbudget", name, "--type=merge", f"--patch={json.dumps({'spec': spec})}")


def status(power, name):
    return power.get("powerbudget", name)["status"]


def stays(power, count, seconds):
    """Whether there are never more pods than these for so long, and in the end just these."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if len(power.pods(NAME)) > count:
            return False
        time.sleep(0.2)
    return len(power.pods(NAME)) == count
