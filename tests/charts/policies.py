"""Whom the chart's network policies let reach whom, worked out as a cluster's network would: over pods, and the ports of their containers."""

import dataclasses

OUTSIDE = None
"""Who is no pod: clients, the API server."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pod:
    """As much of a pod as policies look at."""

    name: str
    namespace: str
    labels: dict
    ports: frozenset = frozenset()

    @classmethod
    def of(cls, metadata, spec):
        """One of naru's, from what the API server has of it; its name is its part in naru."""
        part = metadata["labels"]["app.kubernetes.io/name"].removeprefix("naru-")
        ports = frozenset(port["containerPort"] for container in spec["containers"] for port in container["ports"])
        return cls(part, metadata["namespace"], metadata["labels"], ports)


def selects(selector, labels):
    """An empty selector selects all."""
    assert set(selector) <= {"matchLabels"}, f"not understood here: {selector}"
    return selector.get("matchLabels", {}).items() <= labels.items()


def of_pod(policies, pod, direction):
    """The policies that count for a pod, whose rules in a direction are then all that is allowed."""
    here = [policy for policy in policies if pod and policy["metadata"]["namespace"] == pod.namespace]
    return [
        policy["spec"] for policy in here
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], pod.labels)
    ]  # fmt: skip


def is_peer(policy_peer, pod):
    """A block of addresses is never a pod's here."""
    if pod is OUTSIDE or "ipBlock" in policy_peer:
        return False
    namespace = {"kubernetes.io/metadata.name": pod.namespace}
    return selects(policy_peer["namespaceSelector"], namespace) and selects(policy_peer.get("podSelector", {}), pod.labels)


def permits(rules, side, other, port):
    """Whether a rule allows `other` on that port; `side` is `from` or `to`, and one without peers is for everybody."""
    return any(
        port in {each["port"] for each in rule["ports"]} and (side not in rule or any(is_peer(peer, other) for peer in rule[side]))
        for rule in rules
    )


def reaches(policies, source, target, port):
    """Whether `source` may open a connection to that port of `target`: what it may leave by, and what the other lets in."""
    leaving, entering = of_pod(policies, source, "Egress"), of_pod(policies, target, "Ingress")
    may_leave = not leaving or any(permits(spec["egress"], "to", target, port) for spec in leaving)
    may_enter = not entering or any(permits(spec["ingress"], "from", source, port) for spec in entering)
    return may_leave and may_enter


def reached(policies, pods):
    """Who reaches whom on which of its ports: of pods, and of who is none."""
    return {
        (source.name if source else "outside", target.name, port)
        for target in pods for port in target.ports
        for source in [OUTSIDE, *pods] if source is not target and reaches(policies, source, target, port)
    }  # fmt: skip


def left_by(policies, pod):
    """The ports by which a pod may reach addresses that are no pod's."""
    rules = [rule for spec in of_pod(policies, pod, "Egress") for rule in spec["egress"]]
    open_to_all = [rule for rule in rules if "to" not in rule or any("ipBlock" in peer for peer in rule["to"])]
    return {port["port"] for rule in open_to_all for port in rule["ports"]}


STRANGER = Pod("stranger", "default", {}, frozenset({8000}))
IMPOSTOR = Pod("impostor", "default", {"app.kubernetes.io/name": "naru-gateway", "app.kubernetes.io/instance": "naru"})
SCRAPER = Pod("scraper", "monitoring", {"app.kubernetes.io/name": "prometheus"})
OTHERS = [STRANGER, IMPOSTOR, SCRAPER]

NEEDED = {
    ("gateway", "operator", 8001),
    ("gateway", "worker", 8000),
    ("operator", "worker", 8001),
    ("scraper", "operator", 9090),
    ("scraper", "gateway", 9090),
    ("scraper", "worker", 9090),
}
"""What naru's own pods and Prometheus ask, as docs/security.md has it."""

LINKS = {8002}
"""Between the ranks of a replica: only workers that have some have the port."""

FOR_ALL = {("gateway", 8080), ("operator", 9443)}
"""Clients are not known, and the API server is no pod."""

ALL = NEEDED | {(source, *there) for there in FOR_ALL for source in ("outside", "stranger", "impostor", "scraper")} | {
    (source, "stranger", 8000) for source in ("outside", "impostor", "scraper")
}  # fmt: skip
"""All that may be reached among naru's pods and OTHERS; what strangers let in is none of naru's business."""


def check(policies, pods):
    """Holds policies against pods: whom they find, ports that pods have, and who then reaches whom."""
    for policy in policies:
        found = [pod for pod in pods if of_pod([policy], pod, "Ingress")]
        assert found, f"{policy['metadata']} finds no pod"
        ruled = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert all(ruled - LINKS == pod.ports - LINKS for pod in found), f"{policy['metadata']['name']} is for ports {ruled}: {found}"
    for pod in pods:
        assert of_pod(policies, pod, "Ingress"), f"no policy finds {pod}"
        assert of_pod(policies, pod, "Egress"), f"no policy finds {pod}"
    between_ranks = {("worker", "worker", port) for pod in pods for port in pod.ports & LINKS}
    assert reached(policies, [*pods, *OTHERS]) == ALL | between_ranks
    assert {pod.name: left_by(policies, pod) for pod in pods} == {"operator": {443, 6443}, "gateway": set(), "worker": {443}}
