"""The programs that a cluster runs: where they are, and how they come there.

Kubernetes, CoreDNS, Helm and two small ones of our own are built from the Go module in this folder, whose go.sum
pins every line of them. etcd, containerd, runc, the CNI plugins and Prometheus are taken out of Debian's packages,
which are not installed: no service starts, and what the machine has already stays as it is. All of it is kept
in the cache directory under the digest of what it was made from.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .failure import Failed

SOURCE = Path(__file__).resolve().parent
GO_NEEDED = "1.26"
PROGRESS_SECONDS = 15
INSTALLED = {"ip": "iproute2", "nft": "nftables", "openssl": "openssl"}  # small tools, and no service among them
ADMIN = ":/usr/sbin:/sbin"  # which `su` without a dash leaves out of PATH
UNPACKED = ("containerd", "runc", "containernetworking-plugins", "etcd-server", "prometheus")
NEEDED = ("usr/bin/containerd", "usr/bin/etcd", "usr/bin/promtool", "usr/lib/cni/ptp", "usr/sbin/runc")


@dataclass(frozen=True)
class GoProgram:
    """One program of a Go module, and how long its build takes on two cores when nothing is built yet."""

    name: str
    package: str
    minutes: str
    settings: tuple = ()  # of (variable, value), set by the linker
    source: Path = SOURCE  # the module

    @property
    def flags(self):
        variables = "".join(f" -X {variable}={value}" for variable, value in self.settings)
        return ["-trimpath", "-ldflags", f"-s -w{variables}"]


@dataclass(frozen=True)
class Programs:
    """Where each program is."""

    kubernetes: Path
    coredns: Path
    helm: Path
    pause: Path
    probe: Path
    debian: Path  # the tree of Debian's packages

    @property
    def path(self):
        return f"{self.debian}/usr/sbin:{self.debian}/usr/bin"

    @property
    def cni(self):
        return self.debian / "usr/lib/cni"

    def for_people(self):
        """What a user of the cluster wants to call, by name."""
        names = ("ctr", "prometheus", "promtool")
        debian = {name: self.debian / "usr/bin" / name for name in names}
        return {"kubectl": self.kubernetes, "helm": self.helm} | debian

    @property
    def fingerprint(self):
        return digest(*(str(path).encode() for path in vars(self).values()))


def say(text):
    print(f"cluster: {text}", file=sys.stderr, flush=True)


def cache_directory():
    """As in naru itself: $NARU_CACHE_DIR, else $XDG_CACHE_HOME/naru, else ~/.cache/naru; in it, `cluster`."""
    chosen = os.environ.get("NARU_CACHE_DIR")
    cache = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naru"
    return cache.resolve() / "cluster"


def ensure():
    """Makes sure that every program is there, and returns where."""
    refuse_machines_that_cannot()
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:  # a second caller waits, and then finds everything there
        fcntl.flock(lock, fcntl.LOCK_EX)
        for half_made in cache.glob(".*"):  # by a run that was killed
            shutil.rmtree(half_made)
        install_tools()
        debian = unpack_packages(cache)
        built = {program.name: build(program, cache) for program in go_programs()}
    return Programs(debian=debian, **built)


def why_not():
    """Why this machine cannot run a cluster, or nothing."""
    if platform.system() != "Linux":
        return f"a test cluster needs Linux; this is {platform.system()}"
    if os.geteuid() != 0:
        return "a test cluster needs root (namespaces, mounts, cgroups): run it with sudo"
    return None


def refuse_machines_that_cannot():
    if reason := why_not():
        raise Failed(reason)


# --- Debian's packages


def install_tools():
    """Installs the small tools that are missing."""
    places = f"{os.environ.get('PATH', '')}{ADMIN}"
    missing = [package for tool, package in INSTALLED.items() if not shutil.which(tool, path=places)]
    if missing:
        say(f"installing {' '.join(missing)}")
        apt_get(missing, "update")
        apt_get(missing, "install", "--yes", "--no-install-recommends", *missing)


def unpack_packages(cache, packages=UNPACKED, needed=NEEDED, size="63 MB"):
    """The tree of Debian's packages: downloaded and checked by apt, unpacked into the cache, not installed."""
    release = Path("/etc/os-release").read_bytes() if Path("/etc/os-release").exists() else b""
    tree = cache / f"debian-{digest(' '.join(packages).encode(), release, platform.machine().encode())}"
    if not tree.exists():
        say(f"fetching {', '.join(packages)} from Debian ({size})")
        apt_get(packages, "update")
        with tempfile.TemporaryDirectory(dir=cache, prefix=".debian.") as directory:
            apt_get(packages, "--option=APT::Sandbox::User=root", "download", *packages, directory=directory)
            unpacked = Path(directory) / "tree"
            for package in Path(directory).glob("*.deb"):
                run(["dpkg-deb", "--extract", str(package), str(unpacked)], f"unpacking {package.name}")
            for program in needed:
                if not (unpacked / program).exists():
                    raise Failed(f"the packages of this release have no {program}; those of Debian 12 have")
            unpacked.rename(tree)
    return tree


def apt_get(packages, *arguments, directory=None):
    if not shutil.which("apt-get"):
        raise Failed(f"please install {' '.join(packages)}: there is no apt-get here to do it")
    command = ["apt-get", "--quiet", "--quiet", *arguments]
    run(command, f"apt-get could not get {' '.join(packages)}", directory)


def run(command, what, directory=None):
    environment = os.environ | {
        "DEBIAN_FRONTEND": "noninteractive",
        "PATH": f"{os.environ.get('PATH', '')}{ADMIN}",
    }
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=directory, env=environment
    )
    if result.returncode != 0:
        last = (result.stderr.strip() or result.stdout.strip() or f"exit code {result.returncode}").splitlines()[-1]
        raise Failed(f"{what}: {last}")


# --- the Go module


def go_programs():
    """What is built, the quickest first. The versions that the programs give for themselves are go.mod's."""
    kubernetes, helm = version_of("k8s.io/kubernetes"), version_of("helm.sh/helm/v3")
    major, minor = kubernetes.lstrip("v").split(".")[:2]
    base = "k8s.io/component-base/version"
    charts = "helm.sh/helm/v3/pkg/chartutil"
    return (
        GoProgram("pause", "./pause", "1 minute"),
        GoProgram("probe", "./probe", "1 minute"),
        GoProgram("coredns", "./coredns", "3 minutes"),
        GoProgram(
            "helm",
            "helm.sh/helm/v3/cmd/helm",
            "2 minutes",
            (
                ("helm.sh/helm/v3/internal/version.version", helm),
                (f"{charts}.k8sVersionMajor", major),
                (f"{charts}.k8sVersionMinor", minor),
            ),
        ),
        GoProgram(
            "kubernetes",
            "./kubernetes",
            "10 minutes",
            ((f"{base}.gitVersion", kubernetes), (f"{base}.gitMajor", major), (f"{base}.gitMinor", minor)),
        ),
    )


def version_of(module):
    found = re.search(rf"^\s*{re.escape(module)} (v\S+)", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    return found[1]


def build(program, cache):
    """The path of a program of the Go module, which is built if it is not there yet."""
    module = program.source
    sources = sorted((module / program.package).glob("*.go")) if program.package.startswith("./") else []
    texts = [path.read_bytes() for path in (module / "go.mod", module / "go.sum", *sources)]
    built = cache / f"{program.name}-{digest(*texts, ' '.join(program.flags).encode(), platform.machine().encode())}"
    if not built.exists():
        go = find_go()
        say(f"building {program.name}, once (about {program.minutes} on two idle cores, when nothing is built yet)")
        with tempfile.TemporaryDirectory(dir=cache, prefix=".build.") as directory:
            output = Path(directory) / program.name
            compile_program(go, program, output)
            output.rename(built)  # whole, or not at all
    return built


def find_go():
    """The `go` command, new enough to build the module."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    advice = f"please install Go {GO_NEEDED} or newer (https://go.dev/dl)"
    if not go:
        raise Failed(f"{advice}; there is no go in PATH")
    result = subprocess.run([go, "env", "GOVERSION"], cwd=SOURCE, capture_output=True, text=True, env=go_environment())
    if result.returncode != 0:
        raise Failed(f"{advice}; the one in PATH says: {(result.stderr.strip().splitlines() or [''])[-1]}")
    return go


def go_environment():
    return os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def compile_program(go, program, output):
    """Builds, saying how far it is."""
    say(f"{program.name}: looking at what there is to build, and fetching what is missing of it")
    stale = ["-f", "{{if .Stale}}{{.ImportPath}}{{end}}"]
    listed = subprocess.run(
        [go, "list", "-deps", *program.flags, *stale, program.package],
        cwd=program.source, capture_output=True, text=True, env=go_environment(),
    )  # fmt: skip
    if listed.returncode != 0:
        raise Failed(f"go could not list {program.package}: {(listed.stderr.strip().splitlines() or [''])[-1]}")
    total = len(listed.stdout.split())
    child = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", go, "build", "-v", *program.flags, "-o", str(output), program.package],
        cwd=program.source, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=go_environment(),
    )  # fmt: skip
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(child.stderr), daemon=True)
    reader.start()
    started = time.monotonic()
    while child.poll() is None:
        try:
            child.wait(PROGRESS_SECONDS)
        except subprocess.TimeoutExpired:
            elapsed = int(time.monotonic() - started)
            say(f"{program.name}: {len(lines)} of {total} packages after {elapsed // 60}:{elapsed % 60:02} min")
    reader.join()
    if child.returncode != 0:
        raise Failed(f"go could not build {program.package}:\n{''.join(lines[-10:])}")


def digest(*texts):
    return hashlib.sha256(b"".join(hashlib.sha256(text).digest() for text in texts)).hexdigest()[:16]
