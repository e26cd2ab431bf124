"""What a registry has to be given, worked out beforehand, so that the script that uploads it need not read JSON.

A line of `registry/uploads` is `blob REPOSITORY DIGEST FILE` or `manifest REPOSITORY TAG DIGEST MEDIA-TYPE FILE`, in
the order of uploading. A FILE that begins with `images:` is in the archive of images, all others are in the bundle.
"""

import hashlib
import json
import re
import tarfile

import oci
import pack

EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
MODEL_TYPE = "application/vnd.naru.model.v1"
FILE_TYPE = "application/octet-stream"
TITLE = "org.opencontainers.image.title"


def of_images(archive):
    """The uploads of an archive of images: each blob before the manifest that names it."""
    uploads = []
    with tarfile.open(archive) as tar:
        def read(name):
            return json.load(tar.extractfile(name))

        for entry in read("index.json")["manifests"]:
            name, tag = entry["annotations"]["org.opencontainers.image.ref.name"].rsplit(":", 1)
            repository = name.removeprefix(f"{pack.REGISTRY}/")
            manifest = read(path_of(entry))
            for blob in (*manifest["layers"], manifest["config"]):
                uploads.append(("blob", repository, blob["digest"], f"images:{path_of(blob)}"))
            uploads.append(
                ("manifest", repository, tag, entry["digest"], entry["mediaType"], f"images:{path_of(entry)}")
            )
    return uploads


def path_of(blob):
    return f"blobs/{blob['digest'].replace(':', '/')}"


class Artifact:
    """A model as `oras push` makes it of its files: each a layer, with the file's name as its title."""

    def __init__(self, name, files):
        self.files = files
        self.layers = [(file.name, oci.file_digest(file), file.stat().st_size) for file in files]
        self.repository = f"naru/models/{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"
        self.manifest = json.dumps({
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST_TYPE,
            "artifactType": MODEL_TYPE,
            "config": {"mediaType": EMPTY_TYPE, "digest": digest_of(EMPTY), "size": len(EMPTY)},
            "layers": [
                {"mediaType": FILE_TYPE, "digest": f"sha256:{digest}", "size": size, "annotations": {TITLE: title}}
                for title, digest, size in self.layers
            ],
        }).encode()  # fmt: skip

    @property
    def tag(self):
        """Another content has another tag, so that a tag, once used, stays what it was."""
        return digest_of(self.manifest).removeprefix("sha256:")[:12]

    def write(self, bundle):
        folder = bundle / "registry"
        folder.mkdir()
        (folder / "empty.json").write_bytes(EMPTY)
        (folder / "model.json").write_bytes(self.manifest)

    def uploads(self, bundle):
        for file, (_, digest, _) in zip(self.files, self.layers, strict=True):
            yield "blob", self.repository, f"sha256:{digest}", str(file.relative_to(bundle))
        yield "blob", self.repository, digest_of(EMPTY), "registry/empty.json"
        manifest = digest_of(self.manifest)
        yield "manifest", self.repository, self.tag, manifest, oci.MANIFEST_TYPE, "registry/model.json"


def digest_of(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
