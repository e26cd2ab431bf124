"""Real places that weights come from: a registry of images (Debian's docker-registry), a server that speaks as S3
does (versitygw, built from the Go module in this folder), and a plain server that counts what it is asked for.

The programs are kept in the cache directory, as those of the test cluster are.
"""

import base64
import fcntl
import json
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import boto3
import oras.client
from botocore.config import Config

from cluster import programs

SOURCE = Path(__file__).resolve().parent
VERSITYGW = programs.GoProgram(
    "versitygw", "github.com/versity/versitygw/cmd/versitygw", "4 minutes", source=SOURCE
)  # fmt: skip
PACKAGES = ("docker-registry",)
NEEDED = ("usr/bin/docker-registry",)

USER, PASSWORD = "naru", "word"
# `word`, as htpasswd -B writes it.
HTPASSWD = "naru:$2b$05$abcdefghijklmnopqrstuuQDoL5Sa/TtfS/XN4AY/jgq.HBbO1BTu\n"
KEY, SECRET, REGION = "AKIANARU", "a-secret-of-no-use", "sa-riyadh"


@dataclass(frozen=True)
class Programs:
    registry: Path
    versitygw: Path


def ensure():
    """Makes sure that the programs are there, and returns where."""
    cache = programs.cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        debian = programs.unpack_packages(cache, PACKAGES, NEEDED, "5 MB")
        return Programs(debian / NEEDED[0], programs.build(VERSITYGW, cache))


def registry_configuration(root, address, htpasswd, certificate=None):
    """What the registry is told, as JSON, which is YAML too."""
    http = {"addr": address}
    if certificate:
        http["tls"] = {"certificate": f"{certificate}/tls.crt", "key": f"{certificate}/tls.key"}
    return json.dumps(
        {
            "version": "0.1",
            "log": {"accesslog": {"disabled": False}, "level": "info", "fields": {"service": "registry"}},
            "storage": {"filesystem": {"rootdirectory": str(root)}},
            "http": http,
            "auth": {"htpasswd": {"realm": "naru", "path": str(htpasswd)}},
        }
    )


class Server:
    """A child process that listens."""

    def __init__(self, command, directory, name, address, environment=None):
        self.address = address
        self.log = Path(directory) / f"{name}.log"
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | (environment or {}),
            )  # fmt: skip

    def is_up(self):
        assert self.child.poll() is None, f"it ended:\n{self.log.read_text()[-2000:]}"
        host, port = self.address.rsplit(":", 1)
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def stop(self):
        self.child.terminate()
        self.child.wait(20)


def registry(programs, directory, address):
    """A registry that knows one user."""
    (directory / "htpasswd").write_text(HTPASSWD)
    configuration = directory / "registry.yml"
    configuration.write_text(registry_configuration(directory / "registry", address, directory / "htpasswd"))
    return Server([programs.registry, "serve", configuration], directory, "registry", address)


def bucket_server(programs, directory, address):
    """A server of buckets that knows one key."""
    root = directory / "buckets"
    root.mkdir()
    command = [programs.versitygw, "--port", address, "--region", REGION, "posix", root]
    environment = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    return Server(command, directory, "versitygw", address, environment)


def docker_config(registry, password=PASSWORD):
    """Logins to registries, as docker and Kubernetes write them."""
    return json.dumps({"auths": {registry: {"username": USER, "password": password}}})


def push(address, model, **options):
    """Puts a model into a registry, as `oras push` does."""
    client = oras.client.OrasClient(hostname=address, auth_backend="basic", **options)
    client.auth.set_basic_auth(USER, PASSWORD)
    # At once: a registry that asks first has hung up before so much has been sent.
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    client.set_header("Authorization", f"Basic {login}")
    client.push(target=f"{address}/llm/smollm2:v1", files=[str(model)], disable_path_validation=True, quiet=True)


def upload(url, model, **options):
    """Puts a model into a bucket, as Amazon's own client does."""
    style = Config(s3={"addressing_style": "path"})
    client = boto3.client(
        "s3", endpoint_url=url, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
        config=style, **options,
    )  # fmt: skip
    client.create_bucket(Bucket="weights")
    client.upload_file(str(model), "weights", f"llm/{model.name}")
