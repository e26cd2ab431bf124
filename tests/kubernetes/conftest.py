"""naru on the session's cluster: images, charts, a server of weights, one tenant, one model.

The tests of this folder are one life, lived in the order of files and tests; each leaves the model Ready. It begins
with the charts of the last release, which the first test upgrades to those of this checkout.
"""

import pack
import pytest
import released
import serving
import weights
from platform_under_test import RELEASED, Platform, deployment


@pytest.fixture(scope="package")
def naru_released(cluster, tmp_path_factory):
    """naru as it was released last, one tenant admitted, SmolLM2 served by one replica; taken away in the end."""
    platform = Platform(cluster, tmp_path_factory.mktemp("naru"))
    platform.load_images(released.BINARIES, released.version())
    platform.load_images(serving.BINARIES, pack.workspace_version())
    platform.authority = weights.serve(cluster, platform.directory)
    platform.install(RELEASED)
    platform.admit_tenant()
    platform.prepare_namespaces()
    platform.apply(deployment())
    platform.wait_ready()
    yield platform
    platform.remove()


@pytest.fixture(scope="package")
def naru(naru_released):
    """The same, upgraded to this checkout: by the test of that, and where that was not chosen, here."""
    if not naru_released.is_of(pack.workspace_version()):
        naru_released.upgrade_charts()
    return naru_released
