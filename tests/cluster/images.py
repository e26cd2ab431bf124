"""Container images of one program each, packed without a registry, and archives brought into a containerd."""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

PAUSE = "localhost/pause:1"
PROBE = "localhost/probe:1"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def pack(program, name, archive, libraries=()):
    """Writes the archive of an image called `name` that holds nothing but a program, and runs it.

    One that is not static is given the `libraries` that it needs, each at the path where it is here.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        add(tar, Path(name).name.split(":")[0], Path(program).read_bytes(), mode=0o755)
        for library in map(str, libraries):
            add(tar, library.lstrip("/"), Path(library).read_bytes(), mode=0o755)
    entry = "/" + Path(name).name.split(":")[0]
    configuration = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": [entry], "User": "65532"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        add(tar, "manifest.json", json.dumps(manifest).encode())
        add(tar, "config.json", json.dumps(configuration).encode())
        add(tar, "layer.tar", layer.getvalue())


def add(tar, name, content, mode=0o644):
    """Adds a file, the same every time: no owner, no date."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
