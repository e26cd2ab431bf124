"""Certificates of a few seconds' life, under load: what is renewed is not noticed by who asks."""

import time

import pytest
from load import Load
from platform_under_test import SIMULATED, simulated
from release import gateways, metrics, until_one_leads
from serving import until

LIFETIME_SECONDS = 12  # renewed after 8
ROTATIONS = 3
WITHIN_SECONDS = 30
EXPIRES = "naru_certificate_expiry_timestamp_seconds"
MODEL = "rotated"

pytestmark = [pytest.mark.control, pytest.mark.timeout(600)]


def test_certificates_rotate_three_times_in_half_a_minute_and_no_request_fails(naru):
    naru.apply(simulated(MODEL))
    naru.until_replicas(1, MODEL, namespace=SIMULATED)
    with Load(naru, MODEL) as load:
        # Another lifetime is another authority, too.
        naru.upgrade("--set=operator.replicas=1", f"--set=operator.certificateLifetime={LIFETIME_SECONDS}s")
        who = parties(naru)
        until(lambda: all(map(is_short, expiries(who).values())), "everybody's certificate is a short one", 60)
        seen = rotations(naru, who)
    load.judge()
    assert all(len(expiries) > ROTATIONS for expiries in seen.values()), seen
    assert load.answered > 100


def rotations(naru, who):
    """The certificates that everybody has in turn, meanwhile proving each to new connections."""
    seen = {role: set() for role in who}
    replicas, deadline = 1, time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < deadline:
        for role, expiry in expiries(who).items():
            seen[role].add(expiry)
        # Connections that stay open prove nothing anew; those to another replica do.
        wished = 1 + len(seen["gateway"]) % 2
        if wished != replicas:
            replicas = wished
            naru.scale(replicas, MODEL, SIMULATED)
        time.sleep(0.5)
    return seen


def parties(naru):
    """Who has certificates: of workers, the one that stays whatever the number of replicas."""
    leader, _ = until_one_leads(naru)
    [gateway], [worker] = gateways(naru), naru.pods(MODEL, SIMULATED)
    return {"operator": leader, "gateway": gateway, "worker": worker}


def expiries(who):
    """When the certificates in use end, in Unix seconds."""
    return {role: metrics(pod).get(EXPIRES, 0) for role, pod in who.items()}


def is_short(expiry):
    return 0 < expiry <= time.time() + LIFETIME_SECONDS
