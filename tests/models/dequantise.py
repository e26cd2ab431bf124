#!/usr/bin/env python3
"""Makes F32 copies of quantised models, once, beside them in the cache directory.

    dequantise.py [NAME …]     names as in FLOATS; default: all of them

On such a copy naru and llama.cpp both compute in floating point, so that what is left between them is a fault and not
the rounding of either. Every tensor becomes F32 by `gguf`, the reference in Python; the metadata is copied byte for
byte, but for the number that says how the tensors are stored. The same input makes the same file, whose digest is
checked. Run it after fetch.py, with the Python of an environment that has tests/models/requirements.txt.
"""

import hashlib
import os
import struct
import sys
import tempfile
from pathlib import Path

import gguf
import numpy

from fetch import MODELS, Failed, Model, cache_directory, is_present, write_record

FLOATS = {
    "smollm2": Model(
        file="SmolLM2-135M-Instruct.F32.gguf",
        bytes=539_845_696,
        sha256="f0089e79d6755eb5fbbf61cf4a16ba6bd79641f199875d1dc38cef994afdd0fd",
        members=(),
    ),
}

HEADER_BYTES = 24  # magic, version, number of tensors, number of metadata entries
F32 = 0  # as the format of a tensor, and as `general.file_type`


class Output:
    """A file that is digested as it is written."""

    def __init__(self, file):
        self.file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data):
        self.file.write(data)
        self.digest.update(data)
        self.bytes += len(data)

    def pad(self, alignment):
        self.write(bytes(-self.bytes % alignment))


def field_end(field):
    return field.offset + sum(part.nbytes for part in field.parts)


def header_and_metadata(path, reader):
    """The file's first bytes, up to where it lists its tensors."""
    with open(path, "rb") as file:
        head = bytearray(file.read(max(HEADER_BYTES, *map(field_end, reader.fields.values()))))
    # The value of an entry is its last part.
    end = field_end(reader.fields["general.file_type"])
    head[end - 4 : end] = struct.pack("<I", F32)
    return head


def write_floats(path, output):
    """Writes the model at `path` with all its tensors in F32, in their order."""
    reader = gguf.GGUFReader(path)
    output.write(header_and_metadata(path, reader))
    offset = 0
    for tensor in reader.tensors:
        name = tensor.name.encode()
        shape = [int(size) for size in tensor.shape]
        output.write(struct.pack(f"<Q{len(name)}sI", len(name), name, len(shape)))
        output.write(struct.pack(f"<{len(shape)}QIQ", *shape, F32, offset))
        offset += 4 * tensor.n_elements
        offset += -offset % reader.alignment
    for tensor in reader.tensors:
        output.pad(reader.alignment)
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        output.write(numpy.ascontiguousarray(values, "<f4").data.cast("B"))


def make(name, model, path):
    source = path.with_name(MODELS[name].file)
    if not is_present(MODELS[name], source):
        raise Failed(f"{source} is not there: run fetch.py {name}")
    print(f"making {model.file} ({model.bytes / 1e6:.0f} MB)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".float.") as directory:
        whole = Path(directory) / path.name
        with open(whole, "wb") as file:
            output = Output(file)
            write_floats(source, output)
        if output.digest.hexdigest() != model.sha256:
            raise Failed(f"{model.file}: its sha256 is {output.digest.hexdigest()}, not {model.sha256}")
        os.replace(whole, path)
    write_record(model, path)


def main(names):
    unknown = [name for name in names if name not in FLOATS]
    if unknown:
        raise Failed(f"no model called {unknown[0]} is made; there are {', '.join(FLOATS)}")
    for name in names or FLOATS:
        model = FLOATS[name]
        path = cache_directory() / "models" / model.file
        if not is_present(model, path):
            make(name, model, path)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Failed, OSError) as failure:
        sys.exit(f"models: {failure}")
