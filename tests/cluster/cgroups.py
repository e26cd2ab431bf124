"""Cgroups, of version 1, 2 or both mounted beside each other, as this machine has them.

Each process of a cluster is put into a cgroup of the cluster's before it does anything else, and its children inherit
it. So what the cluster started can be told from everything else, also after whoever started it was killed.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from .failure import Failed, until

KILL_SECONDS_MAX = 30


def hierarchies():
    """Where each cgroup hierarchy is mounted."""
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = [Path(row[1]) for row in rows if row[2] in ("cgroup", "cgroup2")]
    if not found:
        raise Failed("no cgroup file system is mounted on this machine")
    return found


def tracker():
    """The one hierarchy by which processes are told apart: `pids` of version 1, else version 2."""
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for row in rows:
        if row[2] == "cgroup" and "pids" in row[3].split(","):
            return Path(row[1])
    return next(Path(row[1]) for row in rows if row[2] == "cgroup2")


def make(name):
    """Makes the cgroup `name` (a path) in every hierarchy."""
    for root in hierarchies():
        path = root
        for part in Path(name).parts:
            hand_down_controllers(path)
            path = path / part
            path.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1 leaves them empty, and then nothing may run
                value = path / setting
                if value.exists() and not value.read_text().strip() and (root / "cpuset.cpu_exclusive").exists():
                    value.write_text((path.parent / setting).read_text())


def hand_down_controllers(path):
    """In version 2, lets the cgroups below `path` have every controller that it has itself."""
    controllers = path / "cgroup.controllers"
    for name in controllers.read_text().split() if controllers.exists() else ():
        with contextlib.suppress(OSError):  # the kernel keeps some to itself
            (path / "cgroup.subtree_control").write_text(f"+{name}")


def join_file(name):
    """The file to write one's process id to, to be in the cgroup `name`."""
    return tracker() / name / "cgroup.procs"


def processes(name):
    """The ids of all processes in the cgroup `name` and below."""
    found = set()
    for folder, _, _ in os.walk(tracker() / name):
        with contextlib.suppress(OSError):  # it has gone
            found.update(int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split())
    return found


def kill(name):
    """Ends every process in the cgroup `name` and below, at once, and waits until they are gone."""
    deadline = time.monotonic() + KILL_SECONDS_MAX
    while pids := processes(name):
        if time.monotonic() > deadline:
            raise Failed(f"{', '.join(map(describe, sorted(pids)))}: not gone {KILL_SECONDS_MAX} s after SIGKILL")
        for pid in pids:
            signal_member(name, pid, signal.SIGKILL)
        time.sleep(0.02)


def signal_member(name, pid, number):
    """Signals a process, if it is (still) in the cgroup `name`. Another that got its id is never met."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if is_member(name, pid):
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def is_member(name, pid):
    """Whether a process is in the cgroup `name` or below."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return False
    paths = [Path(line.split(":", 2)[2]) for line in lines]
    return any(path.is_relative_to(f"/{name}") for path in paths)


def describe(pid):
    try:
        return f"{pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except OSError:
        return str(pid)


def remove(name):
    """Ends what is in the cgroup `name` and below, and removes them in every hierarchy."""
    kill(name)
    for root in hierarchies():
        until(lambda root=root: try_remove(root, name), f"{root / name} can be removed", KILL_SECONDS_MAX)


def try_remove(root, name):
    for folder, _, _ in os.walk(root / name, topdown=False):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError:  # its last process is on its way out, or a late one on its way in
            kill(name)
            return False
    return True


def exist(name):
    return any((root / name).exists() for root in hierarchies())
