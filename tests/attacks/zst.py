"""Zstandard without a library: content kept as it is, in raw blocks."""

import struct

MAGIC, BLOCK = 0xFD2FB528, 1 << 16


def compress(content: bytes) -> bytes:
    """One frame of raw blocks, as RFC 8878 describes it."""
    header = struct.pack("<IBQ", MAGIC, 0b1110_0000, len(content))  # one segment, its length
    blocks = [content[i : i + BLOCK] for i in range(0, len(content), BLOCK)] or [b""]
    return header + b"".join(
        (len(block) << 3 | (number == len(blocks) - 1)).to_bytes(3, "little") + block
        for number, block in enumerate(blocks)
    )
