"""What the tests of the charts may ask for."""

import pytest
from charts_under_test import Helm
from cluster import programs


@pytest.fixture(scope="session")
def tools():
    """The programs of the test cluster, Helm among them; built the first time."""
    return programs.ensure()


@pytest.fixture(scope="session")
def helm(tools):
    return Helm(tools.helm)


@pytest.fixture(scope="session")
def promtool(tools):
    return tools.debian / "usr/bin/promtool"
