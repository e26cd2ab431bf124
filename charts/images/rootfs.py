"""What a naru image holds beside its binary: the shared libraries that the binary names, their loader, and a few small files.

Nothing here knows of layers or registries: files go in as `Entry`s, and an image is a list of those.
"""

import dataclasses
import os
import re
import struct
import subprocess
from pathlib import Path

USER = 65532
"""Who every image runs as; the number that distroless images made common."""

GLIBC_OLDEST = (2, 34)
"""Since then the resolver of names is part of libc itself, and nothing is loaded that `ldd` does not list."""

PASSWD = f"root:x:0:0:root:/:/nonexistent\nnaru:x:{USER}:{USER}:naru:/:/nonexistent\n"
GROUP = f"root:x:0:\nnaru:x:{USER}:\n"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
NOTICES = ["libc6", "libgcc-s1", "ca-certificates"]

ELF_MACHINES = {0x3E: "amd64", 0xB7: "arm64"}


class CannotPack(Exception):
    """Why there is no image, in one line for whoever ran the command."""


@dataclasses.dataclass(frozen=True, order=True)
class Entry:
    """One file (`content` or `source`) or folder (neither) of an image."""

    path: str
    mode: int
    owner: int = 0
    content: bytes | None = None
    source: Path | None = None

    @property
    def is_folder(self):
        return self.content is None and self.source is None


def architecture(binary):
    """What an ELF file was built for, in the words of OCI. Refuses what is not a program for Linux."""
    with open(binary, "rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        raise CannotPack(f"{binary} is not a program for Linux")
    (machine,) = struct.unpack_from("<H", head, 18)
    if machine not in ELF_MACHINES:
        raise CannotPack(f"{binary}: built for an unknown machine (ELF {machine:#x})")
    return ELF_MACHINES[machine]


def libraries(ldd_output):
    """The paths in what `ldd` printed: libraries and the loader, but not what the kernel itself maps in."""
    found = set()
    for line in ldd_output.splitlines():
        line = line.strip()
        if line.endswith("not found"):
            raise CannotPack(f"a library is missing: {line.split()[0]}")
        if match := re.search(r"(?:^|=> )(/\S+) \(0x[0-9a-f]+\)$", line):
            found.add(match[1])
    return sorted(found)


def libraries_of(binary):
    """The shared libraries that `binary` names, its loader among them; of a static binary none."""
    done = subprocess.run(
        ["ldd", str(binary)], capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}, check=False
    )
    said = done.stdout + done.stderr
    if "statically linked" in said or "not a dynamic executable" in said:
        return []
    if done.returncode != 0:
        raise CannotPack(f"ldd {binary}: {said.strip()}")
    return libraries(done.stdout)


def check_glibc(version):
    """Refuses a libc (`glibc 2.31`) that would look for more libraries only once it runs."""
    match = re.fullmatch(r"glibc (\d+)\.(\d+).*", version or "")
    if match and (int(match[1]), int(match[2])) < GLIBC_OLDEST:
        raise CannotPack(f"{version} is too old to run without a distribution around it; build on glibc 2.34 or newer")


def stripped(binary, folder):
    """A copy of `binary` in `folder` without the tables for debuggers, four fifths of it; names of functions stay."""
    target = folder / binary.name
    try:
        subprocess.run(["strip", "--strip-debug", "-o", target, binary], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise CannotPack("there is no strip in PATH: install binutils") from None
    except subprocess.CalledProcessError as error:
        raise CannotPack(f"strip {binary}: {error.stderr.strip()}") from None
    return target


def base(binaries, certificates=Path(CERTIFICATES), licence=None):
    """What all images share: the libraries of all binaries, who the user is, whom TLS trusts, where to write."""
    check_glibc(os.confstr("CS_GNU_LIBC_VERSION"))
    if not certificates.is_file():
        raise CannotPack(f"{certificates} is not there: install ca-certificates")
    entries = [
        Entry(CERTIFICATES, 0o644, source=certificates),
        Entry("/etc/passwd", 0o644, content=PASSWD.encode()),
        Entry("/etc/group", 0o644, content=GROUP.encode()),
        Entry("/etc/nsswitch.conf", 0o644, content=b"hosts: files dns\n"),
        Entry("/tmp", 0o1777),
        Entry("/var/cache/naru", 0o755, owner=USER),
        Entry("/var/lib/naru", 0o755, owner=USER),
    ]
    for path in sorted({path for binary in binaries for path in libraries_of(binary)}):
        entries.append(Entry(path, 0o755, source=Path(path).resolve()))
    if licence is not None:
        entries.append(Entry("/usr/share/doc/naru/copyright", 0o644, source=licence))
    for package in NOTICES:
        notice = Path(f"/usr/share/doc/{package}/copyright")
        if notice.is_file():
            entries.append(Entry(str(notice), 0o644, source=notice.resolve()))
    return entries


def program(binary):
    """The binary itself, at the root, under its own name."""
    return [Entry(f"/{binary.name}", 0o755, source=binary)]


def with_folders(entries):
    """`entries` and every folder above them, once each, parents before children."""
    known = {entry.path: entry for entry in entries}
    for entry in entries:
        for parent in list(Path(entry.path).parents)[:-1]:
            known.setdefault(str(parent), Entry(str(parent), 0o755))
    return [known[path] for path in sorted(known)]
