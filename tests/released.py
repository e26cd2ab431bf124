"""The charts of the last release, as users got them: packages in charts/released, replaced by each release."""

import os
import tarfile

import yaml

from serving import BINARIES as PRESENT
from serving import REPOSITORY

FOLDER = REPOSITORY / "charts" / "released"
CHARTS = ("naru-crds", "naru")
# Those of this checkout stand for them, unless those of the release are named: docs/testing.md says how to build them.
BINARIES = REPOSITORY / os.environ.get("NARU_RELEASED_BINARIES", PRESENT)


def package(chart):
    """The path of the chart's package, CHART-VERSION.tgz: there is exactly one."""
    [path] = FOLDER.glob(f"{chart}-[0-9]*.tgz")
    return path


def read(chart):
    """The text of each of the chart's files, by its path in the chart."""
    with tarfile.open(package(chart)) as tar:
        return {member.name.removeprefix(f"{chart}/"): tar.extractfile(member).read().decode() for member in tar}


def version():
    """What was released last; images have it as their tag."""
    return yaml.safe_load(read("naru")["Chart.yaml"])["appVersion"]
