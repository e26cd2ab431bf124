"""Writes all that an installation without internet needs into one directory, and signs it.

    build.py --binaries target/release --out target/bundle [--key minisign.key] [--model FILE-or-DIRECTORY]

Only `SHA256SUMS` is signed; it names every other file with its digest. The same input and key give the same bytes.
README.md beside this file, which is in the bundle too, says what is where.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import sign

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "charts/images"))

import oci  # noqa: E402
import pack  # noqa: E402
import registry  # noqa: E402
import rootfs  # noqa: E402

COPIED = ("LICENSE", "charts/naru", "charts/naru-crds", "crds", "docs")
OWN = ("README.md", "install.sh")
SUMS = "SHA256SUMS"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def say(text):
    print(f"bundle: {text}", file=sys.stderr, flush=True)


def build(binaries, out, key, model=None, compression=6):
    """Writes the bundle into a folder of `out`, named by version and architecture, and returns where it is."""
    version, architecture = pack.workspace_version(), rootfs.architecture(program(binaries))
    name = f"naru-{version}-{architecture}"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".bundle-") as directory:
        bundle = Path(directory) / name
        bundle.mkdir()
        about = {"name": "naru", "version": version, "architecture": architecture} | commit()
        say("charts, definitions, documents")
        copy_texts(bundle)
        say("images")
        archive, images = pack.pack(binaries, bundle / "images", version, compression=compression)
        about["images"] = {image.name: digest for image, digest in images}
        uploads = registry.of_images(archive)
        if model:
            say(f"the model {model}")
            about["model"], of_model = add_model(bundle, model)
            uploads += of_model
        write(bundle / "registry/uploads", "".join(f"{' '.join(upload)}\n" for upload in uploads))
        write(bundle / "BUNDLE.json", json.dumps(about, indent=1) + "\n")
        seal(bundle, key, about)
        replace(bundle, out / name)
    return out / name


def program(binaries):
    path = binaries / "naru"
    if not path.is_file():
        raise rootfs.CannotPack(f"{path} is not there: build it first, or name another folder with --binaries")
    return path


def commit():
    """What the bundle was made of, where that is a git checkout; `changed`: and of what was not committed."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "changed": None}
    return {"commit": head, "changed": bool(changes)}


def copy_texts(bundle):
    """What is copied as it is. Hidden files and what editors leave are not meant to be installed."""
    here = Path(__file__).resolve().parent
    for source in (REPOSITORY / name for name in COPIED):
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.is_file() and not path.name.startswith(".") and not path.name.endswith(("~", ".orig")):
                copy(path, bundle / path.relative_to(REPOSITORY))
    for name in OWN:
        copy(here / name, bundle / name)
    (bundle / "install.sh").chmod(0o755)


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def add_model(bundle, model):
    """Copies a model (a file, or the files of a directory), and returns what it is, and how a registry is given it."""
    if not model.exists():
        raise rootfs.CannotPack(f"the model {model} is not there")
    sources = [model]
    if model.is_dir():
        sources = sorted(path for path in model.iterdir() if path.is_file() and not path.name.startswith("."))
    if not sources:
        raise rootfs.CannotPack(f"there is no file in the model's directory {model}")
    if odd := [path.name for path in (model, *sources) if not SAFE_NAME.fullmatch(path.name)]:
        raise rootfs.CannotPack(f"a model's file may not be called {odd[0]!r}: letters, digits and . _ + - only")
    folder = bundle / "models" / (model.name if model.is_dir() else "")
    for source in sources:
        say(f"  {source.name} ({source.stat().st_size / 1e6:.1f} MB)")
        copy(source, folder / source.name)
    files = [folder / source.name for source in sources]
    artifact = registry.Artifact(model.name if model.is_dir() else model.stem, files)
    artifact.write(bundle)
    about = {"repository": artifact.repository, "tag": artifact.tag}
    return about | {"files": {name: digest for name, digest, _ in artifact.layers}}, artifact.uploads(bundle)


def seal(bundle, key, about):
    """Lists every file with its digest, and signs the list."""
    say("digests and signature")
    files = sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file())
    write(bundle / SUMS, "".join(f"{oci.file_digest(bundle / name)}  {name}\n" for name in files))
    made_of = (about["commit"] or "unknown")[:12] + (" and changes" if about["changed"] else "")
    sign.sign(key, bundle / SUMS, f"naru {about['version']} {about['architecture']}, commit {made_of}")


def replace(new, target):
    """Puts the finished bundle in the place of an earlier one."""
    if target.exists():
        target.rename(new.with_name("earlier"))  # goes with the temporary directory
    new.rename(target)


def report(bundle, key):
    """What was made, how large it is, and what one does next."""
    total = 0
    for part in sorted(bundle.iterdir()):
        files = [path for path in part.rglob("*") if path.is_file()] if part.is_dir() else [part]
        size = sum(path.stat().st_size for path in files)
        total += size
        yield f"  {size / 1e3:12,.1f} kB  {part.name}{'/' if part.is_dir() else ''}"
    yield f"  {total / 1e3:12,.1f} kB  {bundle}"
    yield ""
    yield f"public key: {sign.public_key(key)}"
    yield "Give it to who installs by another way than the bundle: who could change one on the way could change both."
    yield "There, in the bundle (docs/operating.md, \"Without internet\"):"
    yield f"  sh install.sh verify --key {sign.public_key(key)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binaries", type=Path, required=True, help="where naru and naru-worker are")
    parser.add_argument("--out", type=Path, required=True, help="the folder that the bundle is made in")
    parser.add_argument("--key", type=Path, help="a secret key of minisign's; default: one of this machine, made once")
    parser.add_argument("--model", type=Path, help="a model to take along: a file, or a directory")
    parser.add_argument("--fast", action="store_true", help="compress less: for bundles that do not leave the machine")
    arguments = parser.parse_args()
    try:
        if arguments.key:
            key = sign.open_key(arguments.key)
        else:
            key, path = sign.own_key(cache_directory() / "bundle")
            say(f"no KEY: signed with this machine's own key {path}, which no passphrase protects")
        compression = 1 if arguments.fast else 6
        bundle = build(arguments.binaries, arguments.out, key, arguments.model, compression)
    except (rootfs.CannotPack, sign.CannotSign, OSError) as why:
        print(f"bundle: {why}", file=sys.stderr)
        return 1
    print("\n".join(report(bundle, key)))
    return 0


def cache_directory():
    """As in naru itself: $NARU_CACHE_DIR, else $XDG_CACHE_HOME/naru, else ~/.cache/naru."""
    if chosen := os.environ.get("NARU_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naru"


if __name__ == "__main__":
    sys.exit(main())
