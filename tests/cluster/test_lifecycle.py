"""Up and down, and what is left when they are killed. Each test has a cluster of its own, beside the session's."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from . import cgroups, lifecycle
from .failure import until
from .layout import NUMBERS, Layout
from .machine import SETTINGS, Machine

pytestmark = pytest.mark.control
CTL = Path(__file__).resolve().parent / "ctl"
POD = """apiVersion: v1
kind: Pod
metadata: {name: memory}
spec:
  containers:
  - name: probe
    image: localhost/probe:1
    args: [serve, ":8080"]
    volumeMounts: [{name: memory, mountPath: /memory}]
  volumes: [{name: memory, emptyDir: {medium: Memory}}]
"""


def ctl(number, *arguments):
    return subprocess.Popen(
        [sys.executable, CTL, "--number", str(number), *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(child):
    output, errors = child.communicate(timeout=200)
    assert child.returncode == 0, errors
    return output


def look(number):
    """What a cluster may leave on a machine, as far as it does not belong to another cluster."""
    others = tuple(Layout(other).name for other in NUMBERS if other != number)

    def listed(command):
        return subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout.splitlines()

    def of_this(names):
        return sorted(name for name in names if not name.startswith(others))

    mentioning = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "cgroup").read_bytes()
        except OSError:
            continue
        if str(Layout(number).directory).encode() in text or f"/{Layout(number).name}/".encode() in text:
            mentioning.append(process.name)
    return {
        "processes": mentioning,
        "mounts": listed("cat /proc/self/mounts"),
        "named network namespaces": listed("ip netns list"),
        "links": [line for line in listed("ip -oneline link show") if f" {Layout(number).host_link}" in line],
        "routes": [line for line in listed("ip route show table all") if Layout(number).host_link in line],
        "firewall": listed("nft list ruleset"),
        "cgroups": {str(root): of_this(path.name for path in root.iterdir()) for root in cgroups.hierarchies()},
        "settings": [Path("/proc/sys", name).read_text() for name in (*SETTINGS, "net/ipv4/ip_forward")],
        "files": {folder: of_this(os.listdir(folder)) for folder in ("/run", "/run/lock", "/var/lib")},
        "directory": Layout(number).directory.exists(),
    }


def nothing_is_left(number, before):
    """Dead processes stand in /proc until the machine's first process has buried them."""

    def as_before():
        after = look(number)
        left = {what: (before[what], after[what]) for what in before if before[what] != after[what]}
        assert set(left) <= {"processes"}, left
        return not left

    until(as_before, "the last process is gone", seconds=20)


def test_down_leaves_nothing(scratch, tools):
    before = look(scratch)
    exports = finish(ctl(scratch, "up"))
    cluster = lifecycle.Cluster(scratch, tools)
    assert f"export KUBECONFIG={cluster.kubeconfig} " in exports
    cluster.kubectl("apply", "--filename=-", text=POD)
    cluster.kubectl("wait", "--for=condition=Ready", "pod/memory", "--timeout=30s")
    assert lifecycle.remains(cluster.layout) and look(scratch) != before
    finish(ctl(scratch, "down"))
    assert lifecycle.remains(cluster.layout) == []
    nothing_is_left(scratch, before)
    finish(ctl(scratch, "down"))


def test_up_twice_is_up_once(scratch):
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: finish(ctl(scratch, "up")), range(2)))
    assert both[0] == both[1]
    daemons = {file: file.read_text() for file in Layout(scratch).directory.glob("*/pid/*")}
    finish(ctl(scratch, "up"))
    assert len(daemons) == 14
    assert {file: file.read_text() for file in Layout(scratch).directory.glob("*/pid/*")} == daemons


def test_up_copes_with_an_up_that_was_killed(scratch, tools):
    """Killed as soon as each of these exists, from the first machine to the last daemon."""
    directory = Layout(scratch).directory
    for seen in ("control/pid/holder", "control/pid/kube-apiserver", "node2/pid/kubelet", "control/pid/coredns"):
        child = ctl(scratch, "up")
        until((directory / seen).exists, f"{seen} is there", seconds=100, pause=0.002)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert cgroups.processes(Layout(scratch).cgroup), "something was left running"
    finish(ctl(scratch, "up"))
    cluster = lifecycle.Cluster(scratch, tools)
    assert cluster.is_up() and cluster.kubectl("get", "nodes").count(" Ready ") == 2


def test_down_copes_with_a_down_that_was_killed(scratch):
    before = look(scratch)
    finish(ctl(scratch, "up"))
    child = ctl(scratch, "down")
    until(lambda: not (Layout(scratch).marker).exists(), "it has begun to remove files", seconds=30, pause=0.0005)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    finish(ctl(scratch, "down"))
    nothing_is_left(scratch, before)


def test_only_its_own_processes_are_ended(scratch, tools, tmp_path):
    """A process whose id stands in a pid file, but which the cluster did not start, is left alone."""
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        machine = Machine("machine", tmp_path, f"{Layout(scratch).cgroup}/machine", tools.path)
        machine.boot(tools.pause)
        (tmp_path / "pid" / "daemon").write_text(f"{stranger.pid}\n")
        assert not machine.is_running("daemon")
        machine.stop("daemon")
        machine.power_off()
        assert not machine.is_on and stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
