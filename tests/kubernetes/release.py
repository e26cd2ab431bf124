"""The release's own pods, the operators and gateways: what they count, and which of the operators leads."""

import httpx
import serving
from platform_under_test import SYSTEM
from pod_processes import OPERATOR, processes
from serving import until

# The port on which gateways follow the operator that leads.
CONTROL_PORT = 8001
ESTABLISHED = "01"


def operators(naru):
    return running(naru, "naru-operator")


def gateways(naru):
    return running(naru, "naru-gateway")


def running(naru, name):
    """The pods of a part of the release, but for those on their way out."""
    found = naru.get("pods", f"--selector=app.kubernetes.io/name={name}", namespace=SYSTEM)["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def name(pod):
    return pod["metadata"]["name"]


def metrics(pod):
    """What a pod counts; nothing while it does not answer."""
    try:
        return serving.read_metrics(f"http://{pod['status']['podIP']}:9090/metrics")
    except (KeyError, httpx.TransportError):
        return {}


def gateway_metrics(naru):
    [gateway] = gateways(naru)
    return metrics(gateway)


def leads(pod):
    return metrics(pod).get("naru_operator_leader") == 1


def until_one_leads(naru, seconds=60):
    """Waits until exactly one operator leads, and returns it and the others."""

    def found():
        pods = operators(naru)
        leading = [pod for pod in pods if leads(pod)]
        return (leading[0], [pod for pod in pods if pod is not leading[0]]) if len(leading) == 1 else None

    return until(found, "one operator leads", seconds)


def followers(pod):
    """How many connections of gateways an operator holds."""
    [pid] = processes([pod], OPERATOR)
    found = 0
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}") as file:
            rows = [line.split() for line in file.read().splitlines()[1:]]
        found += sum(row[3] == ESTABLISHED and int(row[1].rsplit(":", 1)[1], 16) == CONTROL_PORT for row in rows)
    return found
