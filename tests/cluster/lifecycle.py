"""A whole cluster: up, down, and what a test may do with it.

Down needs to know nothing of what happened before: processes are found by their cgroup, the network and the mounts
go with the processes, and the rest has fixed names. So it also undoes an `up` that was killed anywhere.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import cgroups, images, network, programs
from .client import Client
from .control_plane import ControlPlane
from .failure import Failed, until
from .layout import FOR_TESTS, LOCKS, STATE, Layout
from .machine import HIDDEN
from .node import Node
from .pki import Authority

MADE = STATE / "made"  # lists the folders outside of STATE that were made


class Cluster(Client):
    """One cluster of this machine, whether it is up or not."""

    def __init__(self, number, found):
        self.layout = Layout(number)
        super().__init__(self.layout.kubeconfig, self.layout.bin.joinpath, {"KUBECACHEDIR": str(self.layout.cache)})
        self.programs = found
        self.authority = Authority(self.layout.directory / "pki")
        self.control = ControlPlane(self.layout, found, self.authority)
        self.nodes = {
            place.name: Node(place, self.layout, found, self.authority, self.control) for place in self.layout.nodes
        }

    def load(self, archive):
        """Brings an archive's images to every node, and returns their names."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda node: node.load(archive), self.nodes.values()))[0]

    def is_up(self):
        """Whether it was brought up, and everything of it still runs and, soon at least, is ready."""
        if not self.layout.marker.exists():
            return False
        if not all(each.machine.all_run() for each in (self.control, *self.nodes.values())):
            return False
        try:
            self.control.wait_api()
            for node in self.nodes.values():
                node.wait_ready()
        except Failed:
            return False
        return True

    def is_current(self):
        """Whether what is up is what this code would bring up."""
        return self.layout.marker.read_text() == fingerprint(self.programs)

    def up(self):
        """Brings it up, unless it is up; anything less than that is taken down first. Returns whether it was."""
        with locked(self.layout.name):
            was_up = self.is_up()
            if not was_up:
                take_down(self.layout)
                network.refuse_overlaps(self.layout)
                self._bring_up()
            return was_up

    def down(self):
        """Takes it down, and leaves nothing of it."""
        with locked(self.layout.name):
            take_down(self.layout)

    def _bring_up(self):
        make_folders(self.layout)
        with ThreadPoolExecutor() as pool:
            keys = pool.submit(self.authority.issue_all, self.layout)
            self.control.machine.boot(self.programs.pause)
            network.plug_in_host(self.layout, self.control.machine)
            packed = pool.submit(self._pack_images)
            keys.result()
            self.control.start_storage_and_api()
            self._write_kubeconfig()
            starting = [pool.submit(self._start_node, node, packed) for node in self.nodes.values()]
            self.control.wait_api()
            self.control.start_controllers()
            for each in starting:
                each.result()
        self._furnish()
        self.layout.marker.write_text(fingerprint(self.programs))

    def _start_node(self, node, packed):
        node.start()
        for archive in packed.result():
            node.load(archive)

    def _pack_images(self):
        archives = []
        for program, name in ((self.programs.pause, images.PAUSE), (self.programs.probe, images.PROBE)):
            archives.append(self.layout.directory / f"{Path(name).name}.tar")
            images.pack(program, name, archives[-1])
        return archives

    def _furnish(self):
        """What every cluster has: a DNS, names for its nodes' roles, an account in each namespace."""
        self.kubectl("apply", "--filename", str(programs.SOURCE / "coredns" / "role.yaml"))
        self.control.start_dns()
        for node in self.nodes.values():
            node.wait_ready()
            role = {"metadata": {"labels": {"node-role.kubernetes.io/worker": ""}}}
            patch = ("PATCH", f"/api/v1/nodes/{node.name}", role, "application/merge-patch+json")
            until(lambda patch=patch: self.control.request(*patch), f"{node.name} has its role")
        self.control.wait_controllers()
        self.control.wait_dns()

    def _write_kubeconfig(self):
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(self.authority.kubeconfig("admin", self.layout.api_url))
        self.layout.bin.mkdir()
        for name, path in self.programs.for_people().items():
            (self.layout.bin / name).symlink_to(path)


def take_down(layout):
    """Leaves nothing of a cluster: no process, mount, namespace, link, route, cgroup or file."""
    cgroups.remove(layout.cgroup)
    network.unplug_host(layout)
    if layout.directory.exists():
        shutil.rmtree(layout.directory)
    with locked("naru-cluster"):
        if STATE.exists() and not any(path.name.isdigit() for path in STATE.iterdir()):
            for folder in MADE.read_text().splitlines() if MADE.exists() else ():
                with contextlib.suppress(OSError):  # it has gone, or somebody else has come to use it
                    Path(folder).rmdir()
            MADE.unlink(missing_ok=True)
            STATE.rmdir()


def make_folders(layout):
    """Makes the cluster's own folder, and those that machines hide; remembers which of these were not there."""
    with locked("naru-cluster"):
        layout.directory.mkdir(parents=True, mode=0o700)
        missing = [folder for folder in HIDDEN if not folder.exists()]
        with open(MADE, "a") as made:
            made.writelines(f"{folder}\n" for folder in missing)
        for folder in missing:
            folder.mkdir(parents=True)


def remains(layout):
    """What there is of a cluster, in words; nothing after `down`."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = [f"process {cgroups.describe(pid)}" for pid in sorted(cgroups.processes(layout.cgroup))]
    found += [f"mount {path}" for path in mounts if Path(path).is_relative_to(layout.directory)]
    found += [f"link {layout.host_link}"] if network.has_link(layout.host_link) else []
    found += [f"cgroup {layout.cgroup}"] if cgroups.exist(layout.cgroup) else []
    found += [f"folder {layout.directory}"] if layout.directory.exists() else []
    return found


def fingerprint(found):
    """Changes when a cluster that is up is no longer what this code would bring up."""
    sources = sorted(path for path in programs.SOURCE.rglob("*") if path.suffix in (".py", ".yaml"))
    text = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in sources if "test" not in path.name)
    return hashlib.sha256((text + found.fingerprint).encode()).hexdigest()


@contextlib.contextmanager
def locked(name):
    """Holds the lock `name` of this machine. Nothing is left of it when nobody holds it."""
    file = acquire(name, wait=True)
    try:
        yield
    finally:
        release(name, file)


def acquire(name, wait):
    LOCKS.mkdir(parents=True, exist_ok=True)
    path = LOCKS / f"{name}.lock"
    while True:
        file = open(path, "w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # whoever held it before has removed it


def release(name, file):
    (LOCKS / f"{name}.lock").unlink(missing_ok=True)
    file.close()


@contextlib.contextmanager
def claimed():
    """The number of a cluster that nobody else uses, for as long as the `with` lasts. What a killed run has left
    there is gone."""
    for number in FOR_TESTS:
        layout = Layout(number)
        if file := acquire(f"{layout.name}-owner", wait=False):
            break
    else:
        raise Failed(f"all of the {len(FOR_TESTS)} clusters that tests may have on one machine are in use")
    try:
        with locked(layout.name):
            take_down(layout)
        yield number
    finally:
        with locked(layout.name):
            take_down(layout)
        release(f"{layout.name}-owner", file)


@contextlib.contextmanager
def fresh(found):
    """A new cluster, for as long as the `with` lasts."""
    with claimed() as number:
        cluster = Cluster(number, found)
        cluster.up()
        yield cluster
