"""naru on the session's cluster: images, charts, a server of weights, one tenant, one model.

The tests of this folder are one life, lived in the order of files and tests; each leaves the model Ready.
"""

import pack
import pytest
import serving
import weights
from platform_under_test import Platform, deployment


@pytest.fixture(scope="package")
def naru(cluster, tmp_path_factory):
    """naru installed, one tenant admitted, SmolLM2 served by one replica; afterwards all of it is taken away."""
    directory = tmp_path_factory.mktemp("naru")
    version = pack.workspace_version()
    archive, _ = pack.pack(serving.BINARIES, directory, version, compression=1)
    cluster.load(archive)
    archive.unlink()
    platform = Platform(cluster, directory, version)
    platform.authority = weights.serve(cluster, directory)
    platform.install()
    platform.admit_tenant()
    platform.prepare_namespaces()
    platform.apply(deployment())
    platform.wait_ready()
    yield platform
    platform.remove()
