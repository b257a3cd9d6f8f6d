"""The vectors that are measured with: files that both `omma bench` and the bare library read."""

import gzip
import pathlib
import struct

from .cluster import OMMA, RELEASE, WORK, run

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")


class Dataset:
    """Vectors to store and to search for."""

    def __init__(self, name, base, queries, count, dimension):
        self.name, self.base, self.queries, self.count, self.dimension = name, base, queries, count, dimension

    def flags(self):
        return ["--vectors", self.base, "--query-vectors", self.queries]

    def bare(self, *flags):
        """The library alone on the same vectors."""
        return run(RELEASE / "examples/bare_usearch", self.base, self.queries, *flags)


def written(name, flags):
    base, queries = WORK / f"{name}.base.fvecs", WORK / f"{name}.queries.fvecs"
    made = run(OMMA, "bench", "write", *flags, base, queries, "--json")
    return Dataset(name, base, queries, made["vectors"], made["dimension"])


def clustered(count, dimension, queries):
    """Unit vectors around 300 centres; the same seed, so that fewer are the first of more."""
    flags = ["--count", count, "--dimension", dimension, "--queries", queries]
    return written(f"clustered {count} x {dimension}", flags)


def fashion(queries):
    """Fashion-MNIST out of Debian's package; None where it is not installed."""
    found = {path.name.split(".")[0]: path for path in FASHION.rglob("*-images-idx3-ubyte*")} if FASHION.exists() else {}
    if len(found) < 2:
        return None
    files = []
    for part in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        path = WORK / f"{part}.npy"
        path.write_bytes(npy(found[part]))
        files.append(path)
    return written("Fashion-MNIST", ["--vectors", files[0], "--query-vectors", files[1], "--queries", queries])


def npy(path):
    """An IDX file of bytes, plain or compressed, as NumPy's format."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    _, count, height, width = struct.unpack(">4I", raw[:16])
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, {height * width}), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + raw[16:]
