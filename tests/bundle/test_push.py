"""What `install.sh push` does to registries: a real one that asks for a password, and one that gives out tokens."""

import base64
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import serving
import stores
from bundle_under_test import Bundle, path_of_programs

TYPES = {"accept": "application/vnd.oci.image.manifest.v1+json"}


@pytest.fixture
def carried(built, signer, tmp_path):
    """The bundle where it is pushed from, and where the password is."""
    shutil.copytree(built, tmp_path / "carried")
    [key] = (signer / "bundle/minisign.pub").read_text().splitlines()[1:]
    (tmp_path / "password").write_text(f"{stores.PASSWORD}\n")
    return Bundle(tmp_path / "carried", key, path_of_programs(tmp_path / "bin", shutil.which("openssl")))


def push(bundle, registry, *options):
    return bundle.run("push", "--key", bundle.key, "--registry", registry, *options)


def login(bundle):
    return "--user", stores.USER, "--password-file", bundle.folder.parent / "password"


def expected(bundle):
    """Every repository with its tag and the digest of its manifest, as the bundle says it."""
    about = json.loads((bundle.folder / "BUNDLE.json").read_text())
    found = {}
    for name, digest in about["images"].items():
        repository, tag = name.removeprefix("localhost/").rsplit(":", 1)
        found[repository] = (tag, digest)
    tag = about["model"]["tag"]
    manifest = hashlib.sha256((bundle.folder / "registry/model.json").read_bytes()).hexdigest()
    return found | {about["model"]["repository"]: (tag, f"sha256:{manifest}")}


def test_a_registry_that_wants_a_password_gets_everything_once(carried, tools, model, tmp_path):
    address = serving.free_address().replace("127.0.0.1", "localhost")
    server = stores.registry(stores.ensure(), tmp_path, address)
    try:
        serving.until(server.is_up, "the registry listens")
        registry = f"{address}/some/place"
        refused = push(carried, registry)
        assert refused.returncode == 1 and "wants to know who you are" in refused.stderr, refused
        assert "--user" in refused.stderr
        done = push(carried, registry, *login(carried))
        assert done.returncode == 0, done.stderr
        for repository, (tag, digest) in expected(carried).items():
            assert f"{registry}/{repository}:{tag}  {digest}" in done.stdout
            manifest = get(address, f"some/place/{repository}/manifests/{tag}")
            assert manifest.headers["docker-content-digest"] == digest
            for part in (*manifest.json()["layers"], manifest.json()["config"]):
                content = get(address, f"some/place/{repository}/blobs/{part['digest']}").content
                assert part["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        uploads = server.log.read_text().count('"PUT /v2/some/place/')
        assert uploads > 2 * len(expected(carried))
        assert push(carried, registry, *login(carried)).returncode == 0
        again = server.log.read_text().count('"PUT /v2/some/place/') - uploads
        assert again == len(expected(carried)), "manifests alone, whose tags are set once more"
        (tmp_path / "password").write_text('not "this" \\one\n')
        refused = push(carried, registry, *login(carried))
        assert refused.returncode == 1 and "HTTP 401" in refused.stderr, refused.stderr
        assert "not \"this\"" not in refused.stdout + refused.stderr
    finally:
        server.stop()
    gone = push(carried, registry, *login(carried))
    assert gone.returncode == 1 and "does not answer as registries do" in gone.stderr, gone.stderr


def get(address, path):
    answer = httpx.get(f"http://{address}/v2/{path}", auth=(stores.USER, stores.PASSWORD), headers=TYPES)
    assert answer.status_code == 200, answer.text
    return answer


class TokenRegistry:
    """As much of a registry as takes uploads, for who shows the token of that repository. Where to upload it says
    as registries do: without a host, and with a query of its own."""

    def __init__(self):
        self.blobs, self.manifests, self.tokens = {}, {}, {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                status, headers, content = registry.answer(self.command, self.path, self.headers, body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = handle_any

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, method, target, headers, body):
        url, asked = urlsplit(target), parse_qs(urlsplit(target).query)
        if url.path == "/token":
            return self.give_token(headers, asked)
        found = re.fullmatch(r"/v2/(.+)/(blobs|manifests)/(.+)", url.path)
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if not found or self.tokens.get(token) != found[1]:
            challenge = f'Bearer realm="http://{self.host}/token",service="the registry",scope="x"'
            return 401, {"WWW-Authenticate": challenge}, b""
        repository, kind, what = found.groups()
        if kind == "manifests":
            return self.take_manifest(repository, what, body)
        if method == "HEAD":
            return (200 if (repository, what) in self.blobs else 404), {}, b""
        if method == "POST":
            return 202, {"Location": f"/v2/{repository}/blobs/uploads/1?state=a%3Db"}, b""
        [digest] = asked["digest"]
        is_right = asked["state"] == ["a=b"] and digest == f"sha256:{hashlib.sha256(body).hexdigest()}"
        self.blobs[repository, digest] = body
        return (201 if is_right else 400), {}, b""

    def give_token(self, headers, asked):
        login = base64.b64encode(f"{stores.USER}:{stores.PASSWORD}".encode()).decode()
        is_known = headers.get("authorization") == f"Basic {login}"
        if not is_known or asked["service"] != ["the registry"]:
            return 401, {}, b'{"errors": ["who?"]}'
        [scope] = asked["scope"]
        repository = re.fullmatch("repository:(.+):pull,push", scope)[1]
        token = f"t{len(self.tokens)}.a-b_c"
        self.tokens[token] = repository
        return 200, {}, json.dumps({"expires_in": 300, "token": token, "issued_at": "now"}).encode()

    def take_manifest(self, repository, tag, body):
        manifest = json.loads(body)
        parts = [*manifest["layers"], manifest["config"]]
        if missing := [part for part in parts if (repository, part["digest"]) not in self.blobs]:
            return 400, {}, json.dumps(missing).encode()
        self.manifests[repository] = (tag, f"sha256:{hashlib.sha256(body).hexdigest()}")
        return 201, {}, b""


def test_a_registry_that_gives_tokens_gets_everything(carried, tmp_path):
    registry = TokenRegistry()
    done = push(carried, registry.host, *login(carried))
    assert done.returncode == 0, done.stderr
    assert registry.manifests == expected(carried)
    (tmp_path / "password").write_text("wrong\n")
    refused = push(carried, registry.host, *login(carried))
    assert refused.returncode == 1 and "gives no token for naru/operator: HTTP 401" in refused.stderr
    registry.server.shutdown()
    registry.server.server_close()
