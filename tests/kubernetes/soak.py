"""The longer matrix: each party is lost in the middle of each phase of a model deployment's life, and the end is the
same as if nothing had happened.

`make soak` runs it; `make test` takes only files whose names begin with test_.
"""

import functools
import random
import time
from dataclasses import dataclass

import httpx
import pytest
from cluster.failure import Failed
from end_state import end_state
from load import Load
from platform_under_test import SIMULATED, SYSTEM, is_ready, simulated
from pod_processes import GATEWAY, OPERATOR, SEED, WORKER, kill, moment, processes
from release import gateways, operators, until_one_leads
from serving import until

MODEL = "matrix"
# A replica takes a second to load, so that there is a middle to be hit.
URI = "sim://default?load-seconds=1"
# A phase without faults takes little longer.
PHASE_SECONDS = 3
CONVERGE_SECONDS_MAX = 240
# Answers under load, every one of them compared.
REQUESTS = 200
PARTS = {"naru-operator": OPERATOR, "naru-gateway": GATEWAY}

pytestmark = [pytest.mark.control, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Phase:
    """What is done with so many replicas (none: there is no model deployment), and how many there are in the end."""

    name: str
    before: int
    after: int

    def begin(self, naru):
        if self.name == "creating":
            insist(naru, wish(self.after))
        elif self.name == "deleting":
            naru.kubectl("delete", f"md/{MODEL}", f"--namespace={SIMULATED}", "--wait=false")
        elif self.name == "another template":
            insist(naru, wish(self.after, maxContextTokens=512))
        else:
            naru.scale(self.after, MODEL, SIMULATED)


PHASES = [
    Phase("creating", 0, 2),
    Phase("scaling up", 1, 3),
    Phase("scaling down", 3, 1),
    Phase("another template", 2, 2),
    Phase("deleting", 2, 0),
]


def wish(replicas, **engine):
    return simulated(MODEL, uri=URI, replicas=replicas, engine={"maxContextTokens": 1024} | engine)


def prepare(naru, phase):
    """What a phase begins with."""
    wait_for(naru, "naru-operator")
    naru.kubectl("delete", f"md/{MODEL}", f"--namespace={SIMULATED}", "--ignore-not-found", "--timeout=90s")
    until(lambda: not end_state(naru, MODEL, SIMULATED), "nothing is left of the phase before", 90)
    if phase.before:
        insist(naru, wish(phase.before))
        naru.until_replicas(phase.before, MODEL, namespace=SIMULATED)


def insist(naru, wish):
    """Applies a wish again until it is taken: the API server asks the operator, which may just have been lost."""

    def taken():
        try:
            return naru.apply(wish) is None
        except Failed:
            return False

    until(taken, "the API server takes the wish", 60)


def wait_for(naru, part):
    naru.kubectl("rollout", "status", f"deployment/{part}", f"--namespace={SYSTEM}", "--timeout=170s")


def converge(naru, phase, expected):
    """Waits for the expected end, and shows what differs if it does not come."""
    deadline = time.monotonic() + CONVERGE_SECONDS_MAX
    while (found := end_state(naru, MODEL, SIMULATED)) != expected and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == expected


def answers(naru, phase):
    """Waits until the gateway knows how the phase ended."""
    wanted = 200 if phase.after else 404
    until(lambda: answer(naru) == wanted, f"the gateway answers {wanted}", 90)


def answer(naru):
    """The status of an answer; none, while the gateway is gone."""
    try:
        return naru.ask(model=MODEL).status_code
    except httpx.TransportError:
        return None


@pytest.fixture(scope="module")
def undisturbed(naru):
    """Says how a phase ends when nothing happens, having tried it once."""

    @functools.cache
    def ending(phase):
        prepare(naru, phase)
        phase.begin(naru)
        if phase.after:
            until(lambda: is_settled(naru, phase), f"{phase.name} ends", 90)
        else:
            until(lambda: not end_state(naru, MODEL, SIMULATED), f"{phase.name} ends", 90)
        return end_state(naru, MODEL, SIMULATED)

    return ending


def is_settled(naru, phase):
    """Whether as many replicas answer as there are in the end, and there are none besides, of any other template."""
    found = naru.get("statefulsets,pods", f"--selector=naru.dev/model-deployment={MODEL}", namespace=SIMULATED)["items"]
    pods = [each for each in found if each["kind"] == "Pod"]
    is_new = phase.name != "another template" or all("512" in str(each["spec"]) for each in found)
    ready = naru.status(MODEL, SIMULATED).get("readyReplicas", 0)
    return is_new and len(found) == 2 * phase.after == 2 * ready and all(map(is_ready, pods))


def test_the_last_release_comes_back_and_goes_again(naru):
    with Load(naru, "smollm2", REQUESTS) as load:
        naru.roll_back()
        naru.upgrade_charts()
    load.judge()
    naru.until_replicas(1)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_part_of_the_release_is_killed(naru, undisturbed, phase, part):
    expected = undisturbed(phase)
    # A new pod: one that died often waits before it is started again.
    naru.kubectl("rollout", "restart", f"deployment/{part}", f"--namespace={SYSTEM}")
    wait_for(naru, part)
    until_one_leads(naru)
    prepare(naru, phase)
    victims = operators(naru) if part == "naru-operator" else gateways(naru)
    phase.begin(naru)
    time.sleep(moment(f"{part} killed while {phase.name}", PHASE_SECONDS))
    kill(victims, PARTS[part])
    converge(naru, phase, expected)
    answers(naru, phase)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_worker_is_killed(naru, undisturbed, phase):
    expected = undisturbed(phase)
    prepare(naru, phase)
    phase.begin(naru)
    time.sleep(moment(f"worker killed while {phase.name}", PHASE_SECONDS))
    running = [pod for pod in naru.pods(MODEL, SIMULATED) if processes([pod], WORKER)]
    if running:
        kill([random.Random(f"{SEED} worker {phase.name}").choice(running)], WORKER)
    assert running or phase.name in ("creating", "deleting"), "there was no worker to kill"
    converge(naru, phase, expected)
    answers(naru, phase)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_node_is_lost(naru, cluster, undisturbed, phase):
    expected = undisturbed(phase)
    node = cluster.nodes[random.Random(f"{SEED} node {phase.name}").choice(sorted(cluster.nodes))]
    prepare(naru, phase)
    phase.begin(naru)
    time.sleep(moment(f"{node.name} lost while {phase.name}", PHASE_SECONDS))
    node.stop()
    try:
        until(lambda: not node.is_ready(), f"the loss of {node.name} is noticed", 60)
        # Pods that are deleted on a node that is gone stay until it is back. Nobody is asked yet: this machine
        # reaches Services by way of node1.
        if phase.after:
            converge(naru, phase, expected)
    finally:
        node.start()
        node.wait_ready()
    converge(naru, phase, expected)
    answers(naru, phase)
    until_one_leads(naru)
