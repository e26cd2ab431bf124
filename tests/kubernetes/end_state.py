"""What there is for a model deployment in the end, without what may differ: numbers, addresses, times."""

import json

from platform_under_test import NAMESPACE, is_ready

KINDS = "statefulsets,services,poddisruptionbudgets,pods"
# Which of the free numbers a replica got, and what follows from it.
NUMBERED = ("naru.dev/replica", "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index")


def end_state(naru, name, namespace=NAMESPACE):
    """One line for each object, sorted; two runs that ended alike have the same. None, when it was deleted."""
    selector = f"--selector=naru.dev/model-deployment={name}"
    owned = naru.get(KINDS, selector, namespace=namespace)["items"]
    lines = [f"{each['kind']} {json.dumps(essence(each), sort_keys=True)}" for each in owned]
    wishes = naru.get("md", f"--field-selector=metadata.name={name}", namespace=namespace)["items"]
    return sorted(lines + [f"ModelDeployment {json.dumps(told(wish), sort_keys=True)}" for wish in wishes])


def essence(found):
    if found["kind"] == "Pod":
        [container] = found["spec"]["containers"]
        return {"image": container["image"], "args": container["args"], "ready": is_ready(found)}
    return without_numbers(found["spec"])


def told(wish):
    """What the status says; `replicas` of the spec is the tests' own."""
    status = wish.get("status", {})
    conditions = {each["type"]: [each["status"], each["reason"]] for each in status.get("conditions", [])}
    counts = {count: status.get(count) for count in ("replicas", "readyReplicas")}
    return counts | {"conditions": conditions, "selector": status.get("selector")}


def without_numbers(part):
    if isinstance(part, dict):
        return {key: without_numbers(value) for key, value in part.items() if key not in NUMBERED}
    return [without_numbers(each) for each in part] if isinstance(part, list) else part
