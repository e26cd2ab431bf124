"""What tests on Kubernetes may ask for. One cluster serves the whole session; each test gets a namespace of its own.

`NARU_TEST_KUBECONFIG` names another cluster to test on. Tests marked `control` need more of a cluster than its API
(its nodes, its API server's process, its audit log, images loaded); on a cluster that is not one of this package's
they are left out, and so are all on a machine that cannot have one. What was left out is said in one line.
"""

import os
import re
import secrets
from pathlib import Path

import pytest

from . import lifecycle, programs
from .client import Client
from .failure import Failed
from .layout import NUMBERS, Layout

MARKER = "control: needs control of the cluster's nodes, API server or audit log, not only its API"
LEFT_OUT = pytest.StashKey()


def pytest_configure(config):
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
    needing = [item for item in items if {"cluster", "scratch"} & set(getattr(item, "fixturenames", ()))]
    if given():
        if number_of(given()) is not None:
            return
        reason = "NARU_TEST_KUBECONFIG names a cluster of which only the API is ours to use"
        leaving = [item for item in needing if item.get_closest_marker("control")]
    else:
        reason = programs.why_not()
        leaving = needing if reason and os.environ.get("CI") != "true" else []
    if leaving:
        items[:] = [item for item in items if item not in leaving]
        config.hook.pytest_deselected(items=leaving)
        config.stash[LEFT_OUT] = f"left out ({reason}): {', '.join(item.name for item in leaving)}"


def pytest_terminal_summary(terminalreporter, config):
    if LEFT_OUT in config.stash:
        terminalreporter.write_line(config.stash[LEFT_OUT], yellow=True)


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
def cluster():
    """The cluster that the session's tests share."""
    if not given():
        with lifecycle.fresh(programs.ensure()) as new:
            yield new
    elif (number := number_of(given())) is not None:
        yield lifecycle.Cluster(number, programs.ensure())
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
def scratch():
    """The number of a cluster that is not there, for tests that bring it up and down themselves."""
    programs.ensure()
    with lifecycle.claimed() as number:
        yield number
