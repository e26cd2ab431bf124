"""The life of a release on a real cluster, in the order it is lived: installed, upgraded, rolled back, taken away.

And what the operator did meanwhile, by the API server's audit log, beside what it may do.
"""

import contextlib
import json

import policies
import pytest
import roles
from charts_under_test import NAMESPACE
from release_under_test import SAFE, SERVING, Asking, everything, model_deployment, of_an_earlier_version
from serving import until

pytestmark = pytest.mark.control

OPERATOR = f"system:serviceaccount:{NAMESPACE}:naru-operator"
GATEWAY = f"system:serviceaccount:{NAMESPACE}:naru-gateway"


def test_a_key_opens_the_gateway_and_nothing_else_does(release):
    answer = release.ask()
    assert answer.status_code == 200, answer.text
    assert answer.json()["system_fingerprint"].startswith("sim-")
    assert release.ask(key="naru_" + "x" * 43).status_code == 401


def test_the_notes_say_what_comes_next_and_no_more(release):
    """The key that everything here is asked with came from their first command."""
    assert "not defined yet" not in release.notes, "the definitions are there"
    assert "kubectl wait --for=condition=Ready md/" in release.notes
    assert f"kubectl -n {NAMESPACE} port-forward svc/naru-gateway 8080:80" in release.notes


def test_network_policies_find_the_pods_and_their_ports(release):
    """As the API server has them; that nobody gets past is the network's work, and the tests' own enforces none."""
    found = json.loads(release.cluster.kubectl("get", "pods,networkpolicies", "--all-namespaces", "--output=json"))["items"]
    names = ("naru-operator", "naru-gateway", "naru-worker")
    pods = [each for each in found if each["metadata"].get("labels", {}).get("app.kubernetes.io/name") in names]
    pods = [policies.Pod.of(each["metadata"], each["spec"]) for each in pods if each["kind"] == "Pod"]
    assert len([pod for pod in pods if pod.namespace == SERVING]) >= len(("steady", "moving", "lost"))
    policies.check([each for each in found if each["kind"] == "NetworkPolicy"], pods)


def test_an_upgrade_replaces_pods_and_cuts_nobody_off(release):
    before, workers = of_the_release(release), release.pods("naru-worker", SERVING)
    authority = release.get("secret", "naru-ca")["data"]
    with Asking(release) as asking:
        release.upgrade()
        until(lambda: len(of_the_release(release)) == len(before), "the pods before are gone", 60)
        # Certificates of another lifetime are of another authority, as soon as the new operator leads.
        until(lambda: release.get("secret", "naru-ca")["data"] != authority, "another authority is introduced", 60)
    asking.judge()
    after = of_the_release(release)
    assert not set(before) & set(after), "every pod of the release is another"
    said = [word for words in after.values() for word in words]
    assert {"--certificate-lifetime=2h", "--drain-seconds=30"} <= set(said)
    assert set(release.pods("naru-worker", SERVING)) == set(workers), "workers go on"


def test_a_rollback_brings_back_what_was(release):
    with Asking(release) as asking:
        release.rollback()
        until(lambda: len(of_the_release(release)) == 2, "the pods before are gone", 60)
    asking.judge()
    said = [word for words in of_the_release(release).values() for word in words]
    assert {"--certificate-lifetime=24h", "--drain-seconds=100"} <= set(said)
    history = json.loads(release.cluster.helm("history", "naru", f"--namespace={NAMESPACE}", "--output=json"))
    assert [each["status"] for each in history] == ["superseded", "superseded", "deployed"]


def test_replicas_come_and_go_and_come_again(release):
    with Asking(release) as asking:
        for replicas in (2, 1, 2, 1):
            release.scale("moving", replicas)
    asking.judge()
    told = json.loads(release.cluster.kubectl("get", "events.v1.events.k8s.io", f"--namespace={SERVING}", "--output=json"))
    counts = [event.get("series", {}).get("count", 1) for event in told["items"] if event.get("reason") == "Scaled"]
    assert max(counts) >= 2, "what happens again is told once, and counted"


def test_what_an_earlier_version_made_is_cleared_away(release):
    kept = [release.get(*what, namespace=SERVING) for what in (("service", "steady-members"), ("pdb", "steady"))]
    strays = [of_an_earlier_version(each) for each in kept]
    release.apply(*strays)
    names = [f"{each['kind']} {SERVING} {each['metadata']['name']}" for each in strays]
    until(lambda: everything(release.cluster).isdisjoint(names), "the strays are gone", 60)
    for each in kept:
        again = release.get(each["kind"], each["metadata"]["name"], namespace=SERVING)
        assert again["metadata"]["uid"] == each["metadata"]["uid"], "what is wished stays"


def test_members_of_a_replica_are_let_through_to_nodes_together(release):
    """There are no weights for them: nothing is asked of it but to be placed."""
    wish = model_deployment("members", SAFE)
    wish["spec"] |= {"model": {"uri": "file:///nothing.gguf"}, "backend": "cpu", "parallelism": {"pipeline": 2}}
    release.apply(wish)

    def placed():
        selector = "--selector=naru.dev/model-deployment=members"
        pods = release.get("pods", selector, namespace=SERVING)["items"]
        return len(pods) == 2 and all("nodeName" in pod["spec"] for pod in pods)

    until(placed, "both members have a node", 60)
    release.cluster.kubectl("delete", "md/members", f"--namespace={SERVING}", "--timeout=60s")


def test_a_lease_that_somebody_deleted_is_made_again(release):
    release.cluster.kubectl("delete", "lease", "naru-operator", f"--namespace={NAMESPACE}")
    until(lambda: "Lease naru-system naru-operator" in everything(release.cluster), "the Lease is there again", 60)
    release.scale("moving", 2)


def test_a_pod_on_a_lost_node_does_not_stand_in_the_way(release):
    node = release.cluster.nodes["node2"]
    node.stop()
    try:
        with Asking(release) as asking:
            release.cluster.kubectl("wait", "--for=condition=Ready=Unknown", "node/node2", "--timeout=60s")
            release.cluster.kubectl("scale", "md/lost", "--replicas=0", f"--namespace={SERVING}")
            until(lambda: f"Pod {SERVING} lost-0-0" not in everything(release.cluster), "its pod is forgotten", 60)
        asking.judge()
    finally:
        node.start()
        node.wait_ready()


def test_an_uninstall_leaves_nothing_and_nothing_was_forbidden(release):
    assert roles.done(release.audit(), OPERATOR)[1] == set(), "refused while the release was there"
    release.grants = granted(release)
    release.uninstall()
    release.cluster.kubectl("delete", "namespace", SERVING, "--timeout=90s")
    with contextlib.suppress(AssertionError):
        until(lambda: everything(release.cluster) <= release.before, "the collector of garbage has been there", 60)
    assert everything(release.cluster) - release.before == set(), "this is left"
    # Helm takes the roles away with the pods: an operator that is told to end then may not give its Lease back, which
    # is gone too. It had been granted all that it was refused.
    _, refused = roles.done(release.audit(), OPERATOR)
    assert roles.ungranted(refused, release.grants) == set()


def test_everything_that_the_operator_did_is_granted_and_every_grant_was_needed(release):
    acts, _ = roles.done(release.audit(), OPERATOR)
    assert roles.ungranted(acts, release.grants) == set()
    assert roles.unused(release.grants, acts) == set()


def test_the_gateway_asked_the_api_server_for_nothing(release):
    assert roles.done(release.audit(), GATEWAY) == (set(), set())


def of_the_release(release):
    return release.pods("naru-operator") | release.pods("naru-gateway")


def granted(release):
    """What the operator may do, by what the API server has."""
    kinds = "clusterroles,clusterrolebindings,roles,rolebindings"
    found = json.loads(release.cluster.kubectl("get", kinds, "--all-namespaces", "--output=json"))
    return roles.held(found["items"], "naru-operator", NAMESPACE)
