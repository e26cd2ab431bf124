"""What the tests of bundles may ask for."""

import fcntl
import shutil

import pytest
from bundle_under_test import Bundle, only_folder, path_of_programs, run_build

from cluster import programs

MINISIGN = """#!/bin/sh
for folder in {tree}/usr/lib/*-linux-gnu; do export LD_LIBRARY_PATH=$folder; done
exec {tree}/usr/bin/minisign "$@"
"""


def unpacked(packages, needed):
    """The tree of Debian's packages that only these tests want, in the cache directory."""
    cache = programs.cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return programs.unpack_packages(cache, packages, needed, "3 MB")


@pytest.fixture(scope="session")
def minisign(tools, tmp_path_factory):
    """minisign itself: the machine's, or Debian's, not installed. Like `tools`, it is there where root runs the tests."""
    if found := shutil.which("minisign"):
        return found
    tree = unpacked(("minisign", "libsodium23"), ("usr/bin/minisign",))
    script = tmp_path_factory.mktemp("minisign") / "minisign"
    script.write_text(MINISIGN.format(tree=tree))
    script.chmod(0o755)
    return str(script)


@pytest.fixture(scope="session")
def shellcheck(tools):
    return shutil.which("shellcheck") or unpacked(("shellcheck",), ("usr/bin/shellcheck",)) / "usr/bin/shellcheck"


@pytest.fixture(scope="session")
def binaries(tmp_path_factory):
    """Two small programs of the machine, under naru's names."""
    folder = tmp_path_factory.mktemp("binaries")
    for name in ("naru", "naru-worker"):
        shutil.copy(shutil.which("ls"), folder / name)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "Tiny_Model.Q4.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 16)
    return path


@pytest.fixture(scope="session")
def signer(tmp_path_factory):
    """A cache directory, in which the machine's own key is made."""
    return tmp_path_factory.mktemp("signer")


@pytest.fixture(scope="session")
def built(binaries, model, signer, tmp_path_factory):
    """A bundle as it was made; tests take copies."""
    out = tmp_path_factory.mktemp("out")
    run_build(binaries, out, "--model", model, cache=signer)
    return only_folder(out)


@pytest.fixture(params=["minisign", "openssl"])
def bundle(request, built, signer, minisign, tmp_path):
    """A copy of it, on a machine that has minisign, or has openssl alone."""
    carried = tmp_path / "carried"
    shutil.copytree(built, carried)
    [key] = (signer / "bundle/minisign.pub").read_text().splitlines()[1:]
    program = minisign if request.param == "minisign" else shutil.which("openssl")
    return Bundle(carried, key, path_of_programs(tmp_path / "bin", program))
