"""What tests of the operator alone may ask for."""

import pack
import pytest
import serving
from operator_under_test import VOLUME, Operator, Platform


@pytest.fixture(scope="module")
def worker_image(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    archive, written = pack.pack(serving.BINARIES, folder, pack.workspace_version(), compression=1)
    cluster.load(archive)
    archive.unlink()
    return next(image.name for image, _ in written if "/worker:" in image.name)


@pytest.fixture
def platform(cluster, namespace, worker_image, tmp_path):
    """The definitions, the weights, and an operator that looks after the cluster."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "--filename", serving.REPOSITORY / "crds")
    models = serving.model(serving.SMOLLM2).parent
    cluster.kubectl("apply", "--filename=-", text=VOLUME.format(namespace=namespace, models=models))
    operator = Operator(tmp_path, cluster, namespace, worker_image)
    yield Platform(cluster, namespace, operator, tmp_path, worker_image)
    code = operator.stop()
    cluster.kubectl("delete", "modeldeployments", "--all", "--namespace", namespace, "--wait=false")
    cluster.kubectl("delete", "persistentvolume", namespace, "--wait=false")
    assert code == 0, operator.log_tail()
