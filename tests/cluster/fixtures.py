"""What tests on Kubernetes may ask for. One cluster serves the whole session; each test gets a namespace of its own.

`NARU_TEST_KUBECONFIG` names another cluster to test on. Tests marked `control` need more of a cluster than its API
(its nodes, its API server's process, its audit log, images loaded); on a cluster that is not one of this package's
they are left out, and so are all on a machine that cannot have one. What was left out is said in one line.
"""

import os
import re
import secrets
import signal
from pathlib import Path

import pytest

from . import lifecycle, programs
from .client import Client
from .failure import Failed
from .layout import NUMBERS, Layout

MARKER = "control: needs control of the cluster's nodes, API server or audit log, not only its API"
LEFT_OUT = pytest.StashKey()


def pytest_configure(config):
    # Told to end, as by a time limit of CI, the session still takes its cluster down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("markers", MARKER)


def given():
    """The kubeconfig of the cluster that the user wants to be tested on, if any."""
    return os.environ.get("NARU_TEST_KUBECONFIG")


def number_of(kubeconfig):
    """The number of the cluster of this machine that has this kubeconfig, or nothing."""
    path = Path(kubeconfig).resolve()
    return next((number for number in NUMBERS if Layout(number).kubeconfig == path), None)


def pytest_collection_modifyitems(config, items):
    """Leaves out what cannot run here. In CI all of it must be able to, and fails if it is not."""
    if given() and number_of(given()) is None:
        why = "NARU_TEST_KUBECONFIG names a cluster of which only the API is ours to use"
        leave_out(config, items, why, lambda item: item.get_closest_marker("control"))
    if programs.why_not() and (given() or os.environ.get("CI") != "true"):
        needing = {"tools", "scratch"} if given() else {"tools", "scratch", "cluster"}
        leave_out(config, items, programs.why_not(), lambda item: needing & set(getattr(item, "fixturenames", ())))


def leave_out(config, items, why, which):
    leaving = [item for item in items if which(item)]
    if leaving:
        items[:] = [item for item in items if item not in leaving]
        config.hook.pytest_deselected(items=leaving)
        names = ", ".join(dict.fromkeys(item.name.split("[")[0] for item in leaving))
        config.stash.setdefault(LEFT_OUT, []).append(f"left out ({why}): {names}")


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(LEFT_OUT, ()):
        terminalreporter.write_line(line, yellow=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows with a failure what its namespace looked like."""
    outcome = yield
    report = outcome.get_result()
    used = getattr(item, "funcargs", {})
    if report.when == "call" and report.failed and "namespace" in used:
        try:
            text = used["cluster"].kubectl("get", "pods,events", "--output=wide", "--namespace", used["namespace"])
        except Failed as failure:
            text = str(failure)
        report.sections.append((f"namespace {used['namespace']}", text))


@pytest.fixture(scope="session")
def tools():
    """The programs of the test cluster, Helm and promtool among them."""
    return programs.ensure()


@pytest.fixture(scope="session")
def cluster(request):
    """The cluster that the session's tests share."""
    if not given():
        with lifecycle.fresh(request.getfixturevalue("tools")) as new:
            yield new
    elif (number := number_of(given())) is not None:
        yield lifecycle.Cluster(number, request.getfixturevalue("tools"))
    else:
        yield Client(given())


@pytest.fixture
def namespace(cluster, request):
    """A namespace for one test."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40] + "-" + secrets.token_hex(3)
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def scratch(tools):
    """The number of a cluster that is not there, for tests that bring it up and down themselves."""
    with lifecycle.claimed() as number:
        yield number
