"""Model files that are broken or strange: `naru-worker` says what is wrong in a line, and ends; it never panics."""

import struct

import pytest

import serving

END_SECONDS_MAX = 60


def refused(tmp_path, model, *options):
    """Runs a worker on `model`, which it must refuse; what it said."""
    worker = serving.Process(
        [serving.BINARIES / "naru-worker", "--model", model, "--listen", "127.0.0.1:0", *options], tmp_path, "worker"
    )
    code = worker.child.wait(END_SECONDS_MAX)
    said = worker.log.read_text(errors="replace")
    assert code == 1, (code, said)
    assert "panicked" not in said, said
    return said


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(architecture="llama", tensors=b"", count=0, version=3, data=b""):
    keys = text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    head = b"GGUF" + struct.pack("<IQQ", version, count, 1) + keys + tensors
    return head + b"\0" * (-len(head) % 32) + data


def tensor(name, shape, kind=0, offset=0):
    dims = b"".join(struct.pack("<Q", size) for size in shape)
    return text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", kind, offset)


FILES = {
    "empty": (b"", ""),
    "not a model": (b"hello " * 100, ""),
    "only the magic": (b"GGUF", ""),
    "a version of the future": (gguf(version=9), "9"),
    "an unknown architecture": (gguf("quantum-goose"), "quantum-goose"),
    "more tensors than bytes": (gguf(count=2**60), ""),
    "a tensor beyond the file": (gguf(tensors=tensor("token_embd.weight", [2**40, 2**20]), count=1), "token_embd"),
    "a tensor of an unknown type": (gguf(tensors=tensor("a", [32], 250), count=1), "250"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model_is_refused(tmp_path, name):
    content, named = FILES[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert named in refused(tmp_path, path)


@pytest.mark.parametrize("part", [0.0001, 0.02, 0.5, 0.9999])
def test_a_truncated_model_is_refused(tmp_path, part):
    whole = serving.model(serving.SMOLLM2).read_bytes()
    path = tmp_path / "model.gguf"
    path.write_bytes(whole[: int(len(whole) * part)])
    refused(tmp_path, path)


def test_a_tensor_of_the_wrong_shape_is_refused_by_name(tmp_path):
    whole = bytearray(serving.model(serving.SMOLLM2).read_bytes())
    name = b"blk.0.attn_q.weight"
    place = whole.index(name) + len(name) + 4
    assert struct.unpack_from("<Q", whole, place)[0] == 576
    struct.pack_into("<Q", whole, place, 544)
    path = tmp_path / "model.gguf"
    path.write_bytes(whole)
    assert "attn_q" in refused(tmp_path, path)


def test_flipped_bytes_in_the_header_never_crash(tmp_path):
    whole = bytearray(serving.model(serving.SMOLLM2).read_bytes())
    path = tmp_path / "model.gguf"
    for place in (4, 8, 16, 24, 40, 200, 5000):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        path.write_bytes(broken)
        worker = serving.Process(
            [serving.BINARIES / "naru-worker", "--model", path, "--listen", "127.0.0.1:0"], tmp_path, f"worker-{place}"
        )
        try:
            worker.child.wait(3)
        except serving.subprocess.TimeoutExpired:
            worker.stop()  # the byte did not matter to it
        assert worker.child.returncode in (0, 1), worker.log_tail()
        assert "panicked" not in worker.log.read_text(errors="replace")


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert "nowhere.gguf" in refused(tmp_path, tmp_path / "nowhere.gguf")


def test_a_digest_that_does_not_match_is_refused(tmp_path):
    assert "sha256" in refused(tmp_path, serving.model(serving.SMOLLM2), "--sha256", "0" * 64).lower().replace("-", "")


def test_bad_usage_ends_with_two(tmp_path):
    for options in (["--nonsense"], ["--model"], [], ["--model", "x", "--listen", "nowhere"]):
        process = serving.Process([serving.BINARIES / "naru-worker", *options], tmp_path, "usage")
        assert process.child.wait(END_SECONDS_MAX) == 2, options
