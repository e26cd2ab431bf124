"""The charts against a real API server, with the neighbours' kinds in it."""

from pathlib import Path

import pytest
import yaml
from charts_under_test import CHARTS
from cluster import lifecycle, programs
from neighbours import prometheus_operator

NAMESPACE = "naru-system"
EVERYTHING = [
    "--set=monitoring.podMonitors.enabled=true",
    "--set=monitoring.rules.enabled=true",
    "--set=monitoring.dashboards.enabled=true",
]


@pytest.fixture(scope="module")
def cluster(tools):
    """A cluster of this module's own, because naru is installed once in a cluster; with the neighbours' kinds."""
    with lifecycle.fresh(tools) as cluster:
        for path in prometheus_operator(programs.find_go()):
            cluster.kubectl("apply", "--server-side", "--filename", path)
        cluster.kubectl("create", "namespace", NAMESPACE)
        # Nothing may run there that the strictest of the standards refuses.
        cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield cluster


@pytest.fixture(scope="module")
def definitions(cluster):
    cluster.helm("install", "naru-crds", CHARTS / "naru-crds", "--namespace", NAMESPACE, "--wait")


@pytest.mark.usefixtures("definitions")
@pytest.mark.parametrize("options", [[], EVERYTHING], ids=["defaults", "everything"])
def test_the_api_server_takes_every_object(cluster, helm, options):
    rendered = helm.run("template", "naru", CHARTS / "naru", "--namespace", NAMESPACE, *options).stdout
    said = cluster.kubectl("apply", "--dry-run=server", "--filename=-", text=rendered)
    objects = [found for found in yaml.safe_load_all(rendered) if found]
    assert len(said.splitlines()) == len(objects)
    assert all(line.endswith("created (server dry run)") for line in said.splitlines()), said
    # Also by server-side apply, which refuses fields that its schema does not know.
    cluster.kubectl("apply", "--server-side", "--dry-run=server", "--filename=-", text=rendered)


@pytest.mark.usefixtures("definitions")
def test_the_definitions_stay_when_their_release_goes(cluster):
    ours = {path.stem for path in (CHARTS / "naru-crds/files").glob("*.yaml")}
    cluster.helm("uninstall", "naru-crds", "--namespace", NAMESPACE, "--wait")
    names = cluster.kubectl("get", "crds", "--output=jsonpath={.items[*].metadata.name}").split()
    kept = {f"naru.dev_{name.removesuffix('.naru.dev')}" for name in names if name.endswith(".naru.dev")}
    assert kept == ours
    # The next installation finds them and takes them over.
    cluster.helm("install", "naru-crds", CHARTS / "naru-crds", "--namespace", NAMESPACE, "--wait")


def test_plain_kubectl_takes_the_definitions_too(cluster):
    for path in sorted((CHARTS / "naru-crds/files").glob("*.yaml")):
        cluster.kubectl("apply", "--filename", path)
        for wanted in ("Established", "NamesAccepted"):
            name = yaml.safe_load(Path(path).read_text())["metadata"]["name"]
            cluster.kubectl("wait", f"--for=condition={wanted}", f"crd/{name}", "--timeout=30s")
