"""One computer of the cluster, as far as a kernel can play one: a network namespace, a mount namespace and a
cgroup. They live as long as its processes. When the last has ended, the kernel takes back its network and its
mounts, and nothing can be left of them."""

import os
import signal
import subprocess
import time
from pathlib import Path

from . import cgroups
from .failure import Failed, until

# Makes its own process a member of the cgroup, says its id, and becomes the program.
START = 'echo $$ >"$1" && echo $$ >"$2" && shift 2 && exec "$@"'

# The kernel settings that a kubelet wants, and would otherwise set for the whole real machine. It sees these
# in their place, finds them as it wants them, and leaves them alone.
SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}

# What each computer has to itself, because the paths are fixed in its programs: shims' sockets (in /run), links to
# logs, results of CNI, device plugins' sockets. The last two must be there to be hidden; `lifecycle` sees to that.
HIDDEN = (Path("/var/lib/cni"), Path("/var/lib/kubelet"))
SET_UP = """
set -e
mount --no-mtab -t tmpfs -o mode=755 tmpfs /run  # or mount would leave a folder in the /run that it hides
for folder in /var/log $HIDDEN; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
for setting in $SETTINGS; do mount --bind "$DIRECTORY/settings/$setting" "/proc/sys/$setting"; done
mount --make-rshared /
exec "$@"
"""


class Machine:
    """A computer called `name`, whose files are in `directory` and whose processes are in `cgroup`."""

    def __init__(self, name, directory, cgroup, path):
        self.name = name
        self.directory = Path(directory)
        self.cgroup = cgroup
        self.daemons = f"{cgroup}/daemons"
        self.path = path  # where programs are looked for

    def boot(self, holder):
        """Makes the namespaces of a machine that is off. `holder` is a program that does nothing; it holds them."""
        for folder in ("log", "pid"):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        for setting, value in SETTINGS.items():
            file = self.directory / "settings" / setting
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
        cgroups.make(self.daemons)
        environment = {
            "SETTINGS": " ".join(SETTINGS),
            "HIDDEN": " ".join(map(str, HIDDEN)),
            "DIRECTORY": str(self.directory),
        }
        enter = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", SET_UP, "machine"]
        self._launch("holder", [*enter, str(holder)], environment)
        while self._program_of(self._pid("holder")) != Path(holder).name:  # which it becomes when all is set up
            if not self.is_on:
                raise Failed(f"{self.name} could not be set up: {self.log_tail('holder')}")
            time.sleep(0.01)

    def start(self, name, *command):
        """Starts a daemon called `name`, unless it runs; its output goes to its log."""
        if not self.is_running(name):
            self._launch(name, [*self._enter(), *map(str, command)])

    def run(self, *command, text=None):
        """Runs a command to its end, and returns what it printed."""
        result = subprocess.run(
            [*self._enter(), *map(str, command)],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            env=self._environment(),
        )
        if result.returncode != 0:
            raise Failed(f"{self.name}: {' '.join(map(str, command))}: {result.stderr.strip()}")
        return result.stdout

    def is_running(self, name):
        pid = self._pid(name)
        return pid is not None and cgroups.is_member(self.daemons, pid)

    def all_run(self):
        """Whether everything runs that was started, and not stopped since."""
        return self.is_on and all(self.is_running(file.name) for file in (self.directory / "pid").iterdir())

    @property
    def is_on(self):
        return self.is_running("holder")

    def stop(self, name, seconds=5):
        """Asks a daemon to end, ends it if it does not within `seconds`, and waits until it is gone."""
        pid = self._pid(name)
        if pid is None:
            return
        if seconds > 0:
            cgroups.signal_member(self.daemons, pid, signal.SIGTERM)
            try:
                until(lambda: not self.is_running(name), f"{name} ends", seconds)
            except Failed:
                pass  # then the other way
        cgroups.signal_member(self.daemons, pid, signal.SIGKILL)
        until(lambda: not self.is_running(name), f"{self.name}: {name} ends", 20, pause=0.02)
        self._pid_file(name).unlink(missing_ok=True)

    def power_off(self):
        """Ends everything on it at once, as when its cord is pulled. Its disk stays."""
        cgroups.remove(self.cgroup)

    def holder_pid(self):
        pid = self._pid("holder")
        if pid is None or not self.is_on:
            raise Failed(f"{self.name} is off")
        return pid

    def log(self, name):
        return self.directory / "log" / f"{name}.log"

    def log_tail(self, name, lines=8):
        """The last words of a daemon, for messages."""
        try:
            return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def _launch(self, name, command, environment=None):
        self._pid_file(name).unlink(missing_ok=True)
        join = cgroups.join_file(self.daemons)
        with open(self.log(name), "ab") as log:
            # With --fork it is nobody's child, and lives on when this process ends.
            subprocess.run(
                ["setsid", "--fork", "sh", "-c", START, name, str(join), str(self._pid_file(name)), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment() | (environment or {}),
                cwd="/",
                check=True,
            )
        until(lambda: self._pid(name), f"{name} starts on {self.name}", seconds=20, pause=0.005)

    def _enter(self):
        return ["nsenter", "--target", str(self.holder_pid()), "--net", "--mount"]

    def _environment(self):
        return {"PATH": f"{self.path}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.directory), "LANG": "C.UTF-8"}

    def _pid_file(self, name):
        return self.directory / "pid" / name

    def _pid(self, name):
        try:
            text = self._pid_file(name).read_text()
        except FileNotFoundError:
            return None
        return int(text) if text.endswith("\n") else None

    @staticmethod
    def _program_of(pid):
        try:
            return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
        except OSError:
            return None
