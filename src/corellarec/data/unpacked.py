"""Compressed files that would unpack to far more than they are: refused before they are read."""

import gzip
from pathlib import Path
from typing import BinaryIO

from corellarec.base.errors import DataError

RATIO = 100  # bytes of a byte, above which a file is none that a person packed; text has 3 to 20
MOST_RATIO = 1032  # of gzip
PIECE = 1 << 20
ZST_FRAME, ZST_BLOCK = 0xFD2FB528, 128 << 10  # magic number; most bytes that one block unpacks to


def check_size(place: object, unpacked: int, packed: int, most_mb: int) -> None:
    """Refuse what unpacks to more than ``most_mb`` MiB and more than 100 times its size.

    Args:
        place: What messages call it.
        unpacked: Bytes, or as many as are known of.
        packed: Bytes.
        most_mb: ``data.max_unpacked_mb``.

    Raises:
        DataError: If it does.
    """
    if unpacked > max(most_mb << 20, RATIO * packed):
        raise DataError(
            f"{place}: {packed:,} bytes unpack to more than {unpacked >> 20:,} MiB, more than "
            f"{RATIO} times as much: if that is right, raise data.max_unpacked_mb ({most_mb})"
        )


def check_unpacked(path: Path, most_mb: int) -> None:
    """Refuse a ``.gz`` or ``.zst`` file that :func:`check_size` refuses; others pass.

    Of a large ``.gz`` file with nothing unusual in it, the first part is unpacked, four times
    ``most_mb`` MiB, and the rest is trusted.

    Raises:
        DataError: If it is one, or cannot be unpacked.
    """
    size = path.stat().st_size
    match path.suffix.lower():
        case ".zst":
            with path.open("rb") as file:
                check_size(path, _zst_size(file), size, most_mb)
        case ".gz" if MOST_RATIO * size > most_mb << 20:
            with path.open("rb") as packed, gzip.open(packed) as file:
                unpacked = 0
                while unpacked < most_mb << 22 and (piece := file.read(PIECE)):
                    unpacked += len(piece)
                    check_size(path, unpacked, packed.tell(), most_mb)


def _zst_size(file: BinaryIO) -> int:
    """Most bytes that a ``.zst`` file unpacks to, by the headers of its blocks (RFC 8878)."""
    found = 0
    while len(magic := file.read(4)) == 4:
        number = int.from_bytes(magic, "little")
        if number >> 4 == 0x184D2A5:  # a frame to skip
            file.seek(int.from_bytes(file.read(4), "little"), 1)
            continue
        head = file.read(1)
        if number != ZST_FRAME or not head:
            break  # damaged: who reads it will say so
        one_segment = head[0] >> 5 & 1
        content = (one_segment, 2, 4, 8)[head[0] >> 6]
        file.seek((not one_segment) + (0, 1, 2, 4)[head[0] & 3] + content, 1)
        last = False
        while not last and len(block := file.read(3)) == 3:
            header = int.from_bytes(block, "little")
            last, kind, size = header & 1 == 1, header >> 1 & 3, header >> 3
            found += ZST_BLOCK if kind == 2 else size
            file.seek(1 if kind == 1 else size, 1)
        if head[0] >> 2 & 1:
            file.seek(4, 1)  # a checksum
    return found
