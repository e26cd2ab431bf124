"""The key that a bundle is signed with, and its signature, both in minisign's format."""

import getpass
import os
import sys
from pathlib import Path

import minisign

PASSPHRASE_FILE = "NARU_BUNDLE_PASSPHRASE_FILE"


class CannotSign(Exception):
    """Why there is no signature, in one line for whoever ran the command."""


def open_key(path):
    """The secret key in `path`, as `minisign -G` or `minisign -G -W` made it. Asks for the passphrase it may need."""
    try:
        key = minisign.SecretKey.from_file(path)
    except OSError as why:
        raise CannotSign(f"the key {path} cannot be read: {why.strerror}") from None
    except minisign.ParseError as why:
        raise CannotSign(f"{path} is no secret key of minisign's: {why}; `minisign -G` makes one") from None
    if key.is_encrypted():
        print(f"{path} is protected by a passphrase; this takes a moment, and 1 GiB of memory", file=sys.stderr)
        try:
            key.decrypt(passphrase_of(path))
        except minisign.Error as why:
            raise CannotSign(f"{path}: {why}") from None
    return key


def passphrase_of(path):
    """What protects the key: the first line of the file that the environment names, else asked for at the terminal."""
    if chosen := os.environ.get(PASSPHRASE_FILE):
        try:
            return (Path(chosen).read_text().splitlines() or [""])[0]
        except OSError as why:
            raise CannotSign(f"{PASSPHRASE_FILE}: {chosen} cannot be read: {why.strerror}") from None
    if not sys.stdin.isatty():
        raise CannotSign(f"{path} is protected by a passphrase, and there is no terminal: put it into a file, "
                         f"and name that by {PASSPHRASE_FILE}")  # fmt: skip
    return getpass.getpass(f"Passphrase of {path}: ")


def own_key(directory):
    """The key of this machine, made when there is none, not protected by a passphrase; and where it lies."""
    path = directory / "minisign.key"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / f".minisign.key.{os.getpid()}"
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(bytes(minisign.KeyPair.generate().secret_key) + b"\n")
        partial.rename(path)
    key = open_key(path)
    path.with_suffix(".pub").write_bytes(bytes(key.get_public_key()) + b"\n")
    return key, path


def public_key(key):
    """The public key, in 56 characters."""
    return key.get_public_key().to_base64().decode()


def sign(key, path, comment):
    """Writes the signature of `path` beside it, over its digest; the comment is signed too. No time is in it."""
    untrusted = f"verify {path.name} with a public key that did not come with it"
    signature = key.sign(path.read_bytes(), trusted_comment=comment, untrusted_comment=untrusted)
    path.with_name(f"{path.name}.minisig").write_bytes(bytes(signature) + b"\n")
