"""What `make images` writes: an archive that holds what it says, twice the same, and that runs with nothing around it."""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import oci
import pack
import pytest
import rootfs

LDD = """\
\tlinux-vdso.so.1 (0x00007ffc5d5f2000)
\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f2c1a000000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f2c19e00000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f2c1a200000)
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive of two small programs of the machine, under naru's names: (path, [(image, digest)])."""
    return pack.pack(programs(tmp_path_factory.mktemp("binaries")), tmp_path_factory.mktemp("out"), "1.2.3")


def programs(folder):
    for name in ("naru", "naru-worker"):
        shutil.copy(shutil.which("ls"), folder / name)
    return folder


def read(path):
    """Every file of a tar archive, by name."""
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def blob(files, descriptor):
    data = files[f"blobs/{descriptor['digest'].replace(':', '/')}"]
    assert len(data) == descriptor["size"]
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == descriptor["digest"]
    return data


def images(path):
    """By name: the configuration, and the members of the root file system."""
    files, found = read(path), {}
    for entry in json.loads(files["index.json"])["manifests"]:
        manifest = json.loads(blob(files, entry))
        config = json.loads(blob(files, manifest["config"]))
        members = {}
        for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
            data = gzip.decompress(blob(files, layer))
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == diff_id
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                members |= {member.name: member for member in tar}
        found[entry["annotations"]["org.opencontainers.image.ref.name"]] = (config, members)
    return found


def test_it_names_three_images_by_version(archive):
    path, written = archive
    names = [f"localhost/naru/{title}:1.2.3" for title in ("operator", "gateway", "worker")]
    assert [image.name for image, _ in written] == names
    assert list(images(path)) == names
    assert path.name == f"naru-images-1.2.3-{rootfs.architecture(shutil.which('ls'))}.tar"


def test_containerd_and_docker_find_the_same_images(archive):
    files = read(archive[0])
    entries = json.loads(files["index.json"])["manifests"]
    docker = json.loads(files["manifest.json"])
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    for entry, row in zip(entries, docker, strict=True):
        assert row["RepoTags"] == [entry["annotations"]["io.containerd.image.name"]]
        manifest = json.loads(blob(files, entry))
        assert files[row["Config"]] == blob(files, manifest["config"])
        assert [files[path] for path in row["Layers"]] == [blob(files, layer) for layer in manifest["layers"]]


def test_nobody_is_root(archive):
    for config, members in images(archive[0]).values():
        assert config["config"]["User"] == "65532:65532"
        assert not [name for name, member in members.items() if member.mode & 0o6000], "set-user-id"
        writable = {name for name, member in members.items() if member.mode & 0o002 or member.uid != 0}
        assert writable == {"tmp", "var/cache/naru", "var/lib/naru"}


def test_each_starts_its_own_binary(archive):
    starts = {
        name.split("/")[-1].split(":")[0]: (config["config"]["Entrypoint"], config["config"]["Cmd"])
        for name, (config, members) in images(archive[0]).items()
        if config["config"]["Entrypoint"][0].lstrip("/") in members
    }
    assert starts == {
        "operator": (["/naru"], ["operator"]),
        "gateway": (["/naru"], ["gateway"]),
        "worker": (["/naru-worker"], []),
    }


def test_there_is_no_shell_and_no_second_program(archive):
    for config, members in images(archive[0]).values():
        programs = [
            name
            for name, member in members.items()
            if member.isfile() and member.mode & 0o111 and ".so" not in name.rsplit("/", 1)[-1]
        ]
        assert programs == [config["config"]["Entrypoint"][0].lstrip("/")]


def test_the_same_binaries_give_the_same_bytes(archive, tmp_path):
    again = programs(tmp_path)
    for name in ("naru", "naru-worker"):
        os.utime(again / name, (1, 1))
    path, _ = pack.pack(again, tmp_path / "out", "1.2.3")
    assert path.read_bytes() == archive[0].read_bytes()


def test_layers_that_are_equal_are_there_once(archive):
    with tarfile.open(archive[0]) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))
    # The base and two programs for all; three configurations, three manifests.
    assert len([name for name in names if name.startswith("blobs/sha256/")]) == 3 + 3 + 3


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_a_program_runs_with_nothing_around_it(archive, tmp_path):
    files = read(archive[0])
    manifest = json.loads(blob(files, json.loads(files["index.json"])["manifests"][0]))
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob(files, layer)))) as tar:
            tar.extractall(tmp_path, filter="tar")
    tmp_path.chmod(0o755)
    done = subprocess.run(["chroot", "--userspec=65532:65532", tmp_path, "/naru", "/var/lib"], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"naru\n"


def test_the_report_says_how_to_push(archive):
    text = "\n".join(pack.report(*archive))
    for image, digest in archive[1]:
        assert f"{image.name}  {digest}" in text
        assert f"oci-archive:{archive[0]}:{image.name} docker://$REGISTRY/" in text
    assert oci.file_digest(archive[0]) in text


def test_ldd_is_read_without_what_the_kernel_maps():
    assert rootfs.libraries(LDD) == [
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib/x86_64-linux-gnu/libgcc_s.so.1",
        "/lib64/ld-linux-x86-64.so.2",
    ]


def refusal(call, *arguments):
    with pytest.raises(rootfs.CannotPack) as refused:
        call(*arguments)
    return str(refused.value)


def test_what_cannot_be_packed_is_named(tmp_path):
    assert "a library is missing: libx.so.1" in refusal(rootfs.libraries, "\tlibx.so.1 => not found")
    assert "naru is not there: build it first" in refusal(pack.pack, tmp_path, tmp_path, "1")
    script = tmp_path / "naru"
    script.write_text("#!/bin/sh\n# not a program for Linux\n")
    (tmp_path / "naru-worker").write_text("")
    assert f"{script} is not a program for Linux" == refusal(pack.pack, tmp_path, tmp_path, "1")
    assert "glibc 2.31 is too old" in refusal(rootfs.check_glibc, "glibc 2.31")
    assert not list(Path(tmp_path).glob("*.tar*"))


def test_tables_for_debuggers_stay_behind(tmp_path):
    source = tmp_path / "main.c"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["cc", "-g", "-o", tmp_path / "main", source], check=True)
    (tmp_path / "out").mkdir()
    packed = rootfs.stripped(tmp_path / "main", tmp_path / "out")
    sections = subprocess.run(["readelf", "--sections", "--wide", packed], check=True, capture_output=True, text=True).stdout
    assert ".debug_info" not in sections
    assert ".symtab" in sections
    assert subprocess.run([packed]).returncode == 0


@pytest.mark.parametrize("version", ["glibc 2.34", "glibc 3.0", "", None])
def test_a_libc_that_will_do(version):
    rootfs.check_glibc(version)


def test_a_static_program_needs_no_libraries(tmp_path):
    source = tmp_path / "main.c"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["cc", "-static", "-o", tmp_path / "main", source], check=True)
    assert rootfs.libraries_of(tmp_path / "main") == []
