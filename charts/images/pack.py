"""Packs naru's binaries into one archive of three images: operator, gateway and worker.

    pack.py --binaries target/release --out target/images

Each image is a binary, the shared libraries that it names and a handful of small files, from scratch: no shell, no package
manager, no user but 65532. The archive loads without a registry, and the same binaries give the same digests.
"""

import argparse
import os
import sys
import tempfile
import tomllib
from pathlib import Path

import oci
import rootfs

REPOSITORY = Path(__file__).resolve().parents[2]

REGISTRY = "localhost"
"""What images are called before they are pushed: under this name no cluster asks a stranger's registry for them."""


def workspace_version():
    """The version of everything in the repository."""
    manifest = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())
    return manifest["workspace"]["package"]["version"]


def pack(binaries, out, version, moment=0, compression=6, registry=REGISTRY):
    """Writes the archive into the folder `out`; returns its path and [(image, digest of its manifest)]."""
    control, worker = binaries / "naru", binaries / "naru-worker"
    for binary in (control, worker):
        if not binary.is_file():
            raise rootfs.CannotPack(f"{binary} is not there: build it first, or name another folder with --binaries")
    architecture = rootfs.architecture(control)
    if rootfs.architecture(worker) != architecture:
        raise rootfs.CannotPack(f"{control} and {worker} are built for different machines")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".pack-") as folder:
        control, worker = (rootfs.stripped(binary, Path(folder)) for binary in (control, worker))
        store = oci.Store(Path(folder) / "archive", moment, compression)
        base = store.layer(rootfs.base([control, worker], licence=REPOSITORY / "LICENSE"))
        naru, naru_worker = store.layer(rootfs.program(control)), store.layer(rootfs.program(worker))
        images = [
            oci.Image(f"{registry}/naru/{title}:{version}", f"naru {title}", *start, environment, [base, layer])
            for title, start, environment, layer in [
                ("operator", (["/naru"], ["operator"]), [], naru),
                ("gateway", (["/naru"], ["gateway"]), [], naru),
                ("worker", (["/naru-worker"], []), ["NARU_CACHE_DIR=/var/cache/naru"], naru_worker),
            ]
        ]
        written = [(image, *store.image(image, architecture, version)) for image in images]
        store.index(written, architecture)
        path = out / f"naru-images-{version}-{architecture}.tar"
        store.archive(path)
    return path, [(image, manifest.digest) for image, manifest, _ in written]


def report(path, images):
    """What was made, and what one does next."""
    yield f"{path}  {path.stat().st_size / 1e6:.1f} MB"
    yield f"sha256:{oci.file_digest(path)}"
    for image, digest in images:
        yield f"  {image.name}  {digest}"
    yield ""
    yield "Load it where pods run:"
    yield f"  ctr -n k8s.io image import {path}      # or: docker load -i, podman load -i"
    yield "Or push it; the digests stay as they are:"
    for image, _ in images:
        target = image.name.removeprefix(f"{REGISTRY}/")
        yield f"  skopeo copy --preserve-digests oci-archive:{path}:{image.name} docker://$REGISTRY/{target}"
    yield "and tell the chart: --set image.registry=$REGISTRY"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("NARU_BINARIES", "target/release")
    parser.add_argument("--binaries", type=Path, default=Path(default), help="where naru and naru-worker are")
    parser.add_argument("--out", type=Path, default=Path("target/images"), help="the folder of the archive")
    parser.add_argument("--version", default=workspace_version(), help="the images' tag; default: the workspace's version")
    parser.add_argument("--fast", action="store_true", help="compress less: for archives that do not leave the machine")
    arguments = parser.parse_args()
    moment = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    try:
        path, images = pack(
            arguments.binaries, arguments.out, arguments.version, moment, compression=1 if arguments.fast else 6
        )
    except rootfs.CannotPack as why:
        print(f"pack: {why}", file=sys.stderr)
        return 1
    print("\n".join(report(path, images)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
