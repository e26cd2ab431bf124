"""Layers, images, and the archive that holds them.

The archive is an OCI image layout in a tar file, with docker's `manifest.json` beside it, so that containerd, docker, podman and
skopeo all read the same file. The same input gives the same bytes: entries are sorted and every time is `moment`.
"""

import dataclasses
import datetime
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

from rootfs import USER, with_folders

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Blob:
    """Bytes in the archive, by their digest."""

    media_type: str
    digest: str
    size: int

    @property
    def descriptor(self):
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}

    @property
    def path(self):
        return f"blobs/{self.digest.replace(':', '/')}"


@dataclasses.dataclass(frozen=True)
class Layer:
    """A compressed layer, and the digest of what it decompresses to."""

    blob: Blob
    diff_id: str


@dataclasses.dataclass(frozen=True)
class Image:
    """What one image is called and how it starts."""

    name: str
    title: str
    entrypoint: list
    arguments: list
    environment: list
    layers: list


class _Digesting(io.RawIOBase):
    """Passes bytes on to `target`, and knows the digest and number of what went through."""

    def __init__(self, target):
        super().__init__()
        self.target, self.hash, self.size = target, hashlib.sha256(), 0

    def writable(self):
        return True

    def write(self, data):
        self.target.write(data)
        self.hash.update(data)
        self.size += len(data)
        return len(data)

    @property
    def digest(self):
        return f"sha256:{self.hash.hexdigest()}"


class Store:
    """A folder of blobs that becomes the archive. `moment` (Unix seconds) is the time of everything in it."""

    def __init__(self, folder, moment=0, compression=6):
        self.folder, self.moment, self.compression = Path(folder), moment, compression
        (self.folder / "blobs/sha256").mkdir(parents=True)

    def layer(self, entries):
        """Packs `entries` as one layer."""
        partial = self.folder / "layer.partial"
        with open(partial, "wb") as file:
            outer = _Digesting(file)
            with gzip.GzipFile("", "wb", self.compression, outer, mtime=self.moment) as compressed:
                inner = _Digesting(compressed)
                with tarfile.open(mode="w|", fileobj=inner, format=tarfile.USTAR_FORMAT) as tar:
                    for entry in with_folders(entries):
                        self._add(tar, entry)
        blob = Blob(LAYER_TYPE, outer.digest, outer.size)
        partial.rename(self.folder / blob.path)
        return Layer(blob, inner.digest)

    def image(self, image, architecture, version):
        """Writes the image's configuration and manifest, and returns the manifest's blob and the configuration's."""
        created = datetime.datetime.fromtimestamp(self.moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        config = self._json(CONFIG_TYPE, {
            "created": created,
            "architecture": architecture,
            "os": "linux",
            "config": {
                "User": f"{USER}:{USER}",
                "Entrypoint": image.entrypoint,
                "Cmd": image.arguments,
                "Env": image.environment,
                "WorkingDir": "/",
                "Labels": _labels(image, version),
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in image.layers]},
            "history": [{"created": created, "created_by": "make images"} for _ in image.layers],
        })  # fmt: skip
        manifest = self._json(MANIFEST_TYPE, {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.descriptor,
            "layers": [layer.blob.descriptor for layer in image.layers],
            "annotations": _labels(image, version),
        })  # fmt: skip
        return manifest, config

    def index(self, images, architecture):
        """Names the images, once for OCI and once for docker: [(Image, manifest, config)]."""
        manifests = [
            manifest.descriptor
            | {
                "platform": {"os": "linux", "architecture": architecture},
                "annotations": {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name},
            }
            for image, manifest, _ in images
        ]
        docker = [
            {"Config": config.path, "RepoTags": [image.name], "Layers": [layer.blob.path for layer in image.layers]}
            for image, _, config in images
        ]
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
        for name, value in [
            ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
            ("index.json", index),
            ("manifest.json", docker),
        ]:
            (self.folder / name).write_bytes(_encode(value))

    def archive(self, path):
        """Writes everything into one tar file, which appears at `path` only when it is whole."""
        partial = path.with_name(f"{path.name}.partial")
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for file in sorted(self.folder.rglob("*")):
                info = self._info(str(file.relative_to(self.folder)), 0o755 if file.is_dir() else 0o644)
                if file.is_dir():
                    info.type = tarfile.DIRTYPE
                    tar.addfile(info)
                else:
                    info.size = file.stat().st_size
                    with open(file, "rb") as content:
                        tar.addfile(info, content)
        partial.replace(path)

    def _json(self, media_type, value):
        data = _encode(value)
        blob = Blob(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
        (self.folder / blob.path).write_bytes(data)
        return blob

    def _add(self, tar, entry):
        info = self._info(entry.path.lstrip("/"), entry.mode, entry.owner)
        if entry.is_folder:
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        elif entry.content is not None:
            info.size = len(entry.content)
            tar.addfile(info, io.BytesIO(entry.content))
        else:
            info.size = entry.source.stat().st_size
            with open(entry.source, "rb") as content:
                tar.addfile(info, content)

    def _info(self, name, mode, owner=0):
        info = tarfile.TarInfo(name)
        info.mode, info.uid, info.gid, info.mtime = mode, owner, owner, self.moment
        return info


def file_digest(path):
    """The SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _labels(image, version):
    return {
        "org.opencontainers.image.title": image.title,
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0",
    }


def _encode(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
