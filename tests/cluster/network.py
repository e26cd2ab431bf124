"""The cables between the cluster's machines and the host.

A switch stands on the control plane's machine, and everything is plugged into it: each node, and the host. No
machine has a route to anything else, so nothing can leave. The host's own firewall and forwarding have no part in it.
"""

import json
import subprocess

from .failure import Failed, until

SWITCH = "switch"


def plug_in_host(layout, control):
    """Joins the host and the control plane's machine, and makes that the switch."""
    link = layout.host_link
    on_host(
        f"link add {link} type veth peer name host netns {control.holder_pid()}",
        f"addr add {layout.host_address}/{layout.network.prefixlen} dev {link}",
        f"link set {link} up",
        f"route add {layout.services} via {layout.nodes[0].address} dev {link}",
        *(f"route add {node.pods} via {node.address} dev {link}" for node in layout.nodes),
    )
    inside(
        control,
        "link set lo up",
        f"link add {SWITCH} type bridge",
        f"addr add {layout.control_address}/{layout.network.prefixlen} dev {SWITCH}",
        f"link set {SWITCH} up",
        f"link set host master {SWITCH} up",
        *(f"route add {node.pods} via {node.address} dev {SWITCH}" for node in layout.nodes),
    )


def plug_in_node(layout, node, machine, control):
    """Joins a node to the switch, and teaches it where its neighbours' pods are."""
    inside(
        control,
        f"link add {node.name} type veth peer name eth0 netns {machine.holder_pid()}",
        f"link set {node.name} master {SWITCH} up",
    )
    inside(
        machine,
        "link set lo up",
        f"addr add {node.address}/{layout.network.prefixlen} dev eth0",
        "link set eth0 up",
        # A service's address must have a route, or connect() gives up before it is rewritten to a pod's.
        f"route add {layout.services} dev eth0",
        *(f"route add {other.pods} via {other.address} dev eth0" for other in layout.nodes if other != node),
    )
    machine.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")


def unplug_host(layout):
    """Removes the host's end, its address and its routes, if they are there. The kernel may do so at the same time,
    when the other end's namespace goes."""
    subprocess.run(["ip", "link", "del", layout.host_link], capture_output=True)
    until(lambda: not has_link(layout.host_link), f"the link {layout.host_link} is gone", seconds=20)


def has_link(name):
    return subprocess.run(["ip", "link", "show", name], capture_output=True).returncode == 0


def refuse_overlaps(layout):
    """Fails if the host already has a way to one of the cluster's networks: it would be cut off."""
    listed = subprocess.run(["ip", "-json", "-4", "route", "show"], capture_output=True, text=True, check=True)
    for route in json.loads(listed.stdout or "[]"):
        if route["dst"] == "default":
            continue
        for network in (layout.network, layout.services, layout.pods):
            if network.overlaps(type(network)(route["dst"], strict=False)):
                raise Failed(
                    f"the route to {route['dst']} (dev {route.get('dev')}) overlaps the test cluster's {network}; "
                    "another number has other networks: NARU_CLUSTER_NUMBER=1"
                )


def on_host(*commands):
    result = subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), capture_output=True, text=True)
    if result.returncode != 0:
        raise Failed(f"the host's network could not be set up: {result.stderr.strip()}")


def inside(machine, *commands):
    machine.run("ip", "-batch", "-", text="\n".join(commands))
