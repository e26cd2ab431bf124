"""What the tests of the charts may ask for."""

import neighbours
import pack
import pytest
import serving
from charts_under_test import CHARTS, NAMESPACE, Helm
from cluster import lifecycle, programs
from release_under_test import Release


@pytest.fixture(scope="session")
def helm(tools):
    return Helm(tools.helm)


@pytest.fixture(scope="session")
def promtool(tools):
    return tools.debian / "usr/bin/promtool"


@pytest.fixture(scope="session")
def own_cluster(tools):
    """A cluster for these tests alone, because naru is installed once in a cluster; with the neighbours' kinds."""
    with lifecycle.fresh(tools) as cluster:
        for path in neighbours.definitions(programs.find_go()):
            cluster.kubectl("apply", "--server-side", "--filename", path)
        cluster.kubectl("create", "namespace", NAMESPACE)
        # Nothing may run there that the strictest of the standards refuses.
        cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield cluster


@pytest.fixture(scope="session")
def definitions(own_cluster):
    own_cluster.helm("install", "naru-crds", CHARTS / "naru-crds", "--namespace", NAMESPACE, "--wait")


@pytest.fixture(scope="session")
def images(own_cluster, tmp_path_factory):
    """The images of this checkout's binaries, on every node."""
    folder, version = tmp_path_factory.mktemp("images"), pack.workspace_version()
    archive, written = pack.pack(serving.BINARIES, folder, version, compression=1)
    own_cluster.load(archive)
    archive.unlink()
    return [image.name for image, _ in written]


@pytest.fixture(scope="session")
def release(own_cluster, definitions, images):
    """naru installed, with a tenant and model deployments; the last test of its life takes it away."""
    installed = Release(own_cluster)
    installed.install()
    return installed
