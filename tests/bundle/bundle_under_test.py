"""Bundles as `make bundle` makes them, and what an administrator does with one."""

import contextlib
import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from serving import REPOSITORY

HERE = REPOSITORY / "charts/bundle"
# All that the script calls of a machine, openssl and minisign aside.
CALLED = (
    "sh", "awk", "base64", "cat", "cp", "curl", "cut", "dirname", "du", "find", "grep", "head", "mkdir", "mktemp", "od",
    "rm", "sed", "sha256sum", "sort", "stty", "tail", "tar", "tr", "wc",
)  # fmt: skip


@functools.cache
def python():
    """The Python that signs, in an environment of its own, as `make bundle` has it."""
    command = [REPOSITORY / "tests/python.sh", "bundle", HERE / "requirements.txt"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def run_build(binaries, out, *options, cache, environment=None, checked=True):
    """Runs what `make bundle` runs, with keys under `cache`; the result of the process."""
    command = [python(), "-B", HERE / "build.py", "--binaries", binaries, "--out", out, "--fast", *options]
    variables = os.environ | {"NARU_CACHE_DIR": str(cache)} | (environment or {})
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=variables, stdin=subprocess.DEVNULL
    )  # fmt: skip
    assert not checked or done.returncode == 0, done.stderr
    return done


def only_folder(out):
    [folder] = Path(out).iterdir()
    return folder


def path_of_programs(folder, *more):
    """A folder to be the whole PATH: what the script needs, and nothing else of the machine but `more`."""
    folder.mkdir()
    for name in CALLED:
        (folder / name).symlink_to(shutil.which(name))
    for program in more:
        (folder / Path(program).name).symlink_to(program)
    return folder


@dataclass
class Bundle:
    """A bundle that was carried to where it is installed, and the programs there."""

    folder: Path
    key: str
    path: Path

    def run(self, *arguments, environment=None):
        command = ["sh", self.folder / "install.sh", *arguments]
        variables = {"PATH": str(self.path), "HOME": "/nonexistent"} | (environment or {})
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=variables, stdin=subprocess.DEVNULL, cwd="/"
        )  # fmt: skip

    def verify(self, key=None):
        return self.run("verify", "--key", key or self.key)

    def check_it_holds(self):
        done = self.verify()
        assert done.returncode == 0, done.stderr
        return done.stdout

    def check_refused(self, *words, key=None):
        """It is refused, in words that name what is wrong and what to do."""
        done = self.verify(key)
        assert done.returncode == 1, done.stdout
        assert all(word in done.stderr for word in words), (words, done.stderr)
        assert "next: " in done.stderr
        return done.stderr

    @contextlib.contextmanager
    def flipped(self, name, position):
        """One bit of one byte of a file is another."""
        path = self.folder / name
        original = path.read_bytes()
        content = bytearray(original)
        content[position] ^= 1
        path.write_bytes(content)
        yield
        path.write_bytes(original)


def content_of(folder):
    """Every file of a folder, by name: its bytes, and whether it may be run."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o777) for path in files}
