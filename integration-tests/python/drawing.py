"""Draws small pictures and writes them as PNG, with nothing but the standard library."""

import random
import struct
import zlib


def draw(seed: int, width: int = 160, height: int = 120) -> list[bytearray]:
    """Rows of RGB: a gradient with rectangles, another one for each seed."""
    rng = random.Random(seed)

    def colour() -> tuple[int, int, int]:
        return rng.randrange(256), rng.randrange(256), rng.randrange(256)

    top, bottom = colour(), colour()
    rows = []
    for y in range(height):
        mixed = bytes((a * (height - y) + b * y) // height for a, b in zip(top, bottom))
        rows.append(bytearray(mixed * width))
    for _ in range(6):
        fill = bytes(colour())
        left, upper = rng.randrange(width - 20), rng.randrange(height - 20)
        wide, high = rng.randrange(10, width // 2), rng.randrange(10, height // 2)
        right = min(width, left + wide)
        for row in rows[upper : upper + high]:
            row[left * 3 : right * 3] = fill * (right - left)
    return rows


def flipped(rows: list[bytearray]) -> list[bytearray]:
    """Left becomes right."""
    return [bytearray(b"".join(row[i : i + 3] for i in range(len(row) - 3, -1, -3))) for row in rows]


def png(rows: list[bytearray]) -> bytes:
    """The rows as a PNG file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(rows[0]) // 3, len(rows), 8, 2, 0, 0, 0)
    # Each row begins with its filter: none.
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
