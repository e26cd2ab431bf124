"""What gateways hear from an operator on a real cluster, and how soon, whatever becomes of the operator's own writes."""

import contextlib
import hashlib
import json
import socket
import time

import pytest
from operator_under_test import Gateway
from serving import until

KEYS = {"old": "naru_old", "new": "naru_new"}


@pytest.fixture
def gateway(platform):
    gateway = Gateway(platform.directory, platform.operator, platform.certificates())
    until(lambda: gateway.metric("naru_gateway_operator_connected"), "the gateway follows the operator")
    yield gateway
    assert gateway.stop() == 0, gateway.log_tail()


@pytest.fixture
def tenant(platform):
    """Gives a tenant exactly these keys."""
    name = platform.namespace

    def give(*keys):
        listed = [{"name": key, "sha256": hashlib.sha256(KEYS[key].encode()).hexdigest()} for key in keys]
        found = {"apiVersion": "naru.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": name}}
        platform.kubectl("apply", "--filename=-", text=json.dumps(found | {"spec": {"keys": listed}}))

    yield give
    platform.kubectl("delete", "tenant", name)


@contextlib.contextmanager
def statefulsets_that_hang(platform):
    """While this lasts the API server asks somebody who never answers before it makes a StatefulSet."""
    with socket.create_server((str(platform.cluster.layout.host_address), 0), backlog=64) as nobody:
        host, port = nobody.getsockname()
        webhook = {
            "name": "nobody.naru.dev",
            "clientConfig": {"url": f"https://{host}:{port}/"},
            "rules": [
                {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["statefulsets"], "operations": ["CREATE"]}
            ],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": platform.namespace}},
            "timeoutSeconds": 30,
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        made = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": platform.namespace},
            "webhooks": [webhook],
        }
        platform.kubectl("apply", "--filename=-", text=json.dumps(made))
        try:
            yield
        finally:
            platform.kubectl("delete", "validatingwebhookconfiguration", platform.namespace)


@pytest.mark.control
def test_a_revoked_key_is_dead_within_a_second_while_writes_hang(platform, gateway, tenant):
    tenant("old", "new")
    until(lambda: gateway.accepts(KEYS["old"]) and gateway.accepts(KEYS["new"]), "both keys are known")
    with statefulsets_that_hang(platform):
        time.sleep(2)  # the API server has heard of whom it is to ask
        platform.apply("smol")
        depth = "naru_workqueue_depth 1\n"
        until(lambda: depth in platform.operator.metrics(), "a write is under way", seconds=10)
        time.sleep(0.5)
        assert depth in platform.operator.metrics(), "and it hangs"
        tenant("new")
        revoked = time.monotonic()
        while gateway.accepts(KEYS["old"]):
            time.sleep(0.01)
        took = time.monotonic() - revoked
        assert depth in platform.operator.metrics(), "it hangs still"
        assert took < 1, f"revoked after {took:.2f} s"
        assert gateway.accepts(KEYS["new"])
    platform.wait_ready("smol")


@pytest.mark.control
def test_a_lease_that_is_deleted_makes_nothing_old(platform, gateway, tenant):
    """The next leader counts on from beyond what gateways hold, so they obey it."""
    epoch = until(lambda: gateway.metric("naru_gateway_snapshot_epoch"), "a snapshot is served")
    for _ in range(2):
        platform.kubectl("delete", "lease", "naru-operator")
        newer = until(lambda: next_epoch(gateway, epoch), "the next leader is followed")
        assert newer < 2**31, "a Lease counts in 31 bits"
        epoch = newer
    tenant("new")
    until(lambda: gateway.accepts(KEYS["new"]), "it hears what changes", seconds=5)
    assert not gateway.metric("naru_gateway_snapshots_refused_total")


def next_epoch(gateway, before):
    found = gateway.metric("naru_gateway_snapshot_epoch")
    return found if found and found > before else None
