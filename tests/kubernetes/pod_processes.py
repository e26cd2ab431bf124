"""The processes of pods of the test's cluster, which all run on this machine: found, killed, held up."""

import contextlib
import os
import random
import secrets
import signal
import threading
from pathlib import Path

OPERATOR = ("/naru", "operator")
GATEWAY = ("/naru", "gateway")
WORKER = ("/naru-worker",)

# What moments are chosen by; a test that failed prints it.
SEED = int(os.environ.get("NARU_SEED") or secrets.randbelow(1 << 32))


def processes(pods, words):
    """The processes in the pods' cgroups whose command line begins with these words, oldest first."""
    uids = [pod["metadata"]["uid"] for pod in pods]
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = tuple((path / "cmdline").read_bytes().decode(errors="replace").split("\0"))
            if command[: len(words)] == words and any(uid in (path / "cgroup").read_text() for uid in uids):
                found.append(int(path.name))
        except OSError:
            continue  # it has ended
    return sorted(found)


def kill(pods, words):
    """Ends them at once, as the kernel does when memory is short."""
    found = processes(pods, words)
    assert found, f"no {' '.join(words)} runs in {[pod['metadata']['name'] for pod in pods]}"
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return found


def moment(what, seconds_max):
    """A moment within so many seconds that the seed chooses, for the test that is called `what`."""
    chosen = random.Random(f"{SEED} {what}").uniform(0, seconds_max)
    print(f"{what}: a fault {chosen:.2f} s after the beginning (NARU_SEED={SEED})")
    return chosen


@contextlib.contextmanager
def killed_meanwhile(what, pods, words, seconds_max):
    """Kills processes once, at a moment of the first seconds of the `with` that the seed chooses."""
    failures = []

    def strike():
        try:
            kill(pods, words)
        except (AssertionError, OSError) as failure:
            failures.append(failure)

    timer = threading.Timer(moment(what, seconds_max), strike)
    timer.start()
    try:
        yield
    finally:
        timer.join()
    assert not failures, failures


@contextlib.contextmanager
def held_up(pids):
    """Processes that do nothing meanwhile, as on a machine that hangs."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
