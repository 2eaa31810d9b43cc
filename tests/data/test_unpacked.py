import gzip
import zipfile

import pytest

from corellarec.base.errors import DataError
from corellarec.config import parse_config
from corellarec.data import raw
from corellarec.data.raw import Folder
from corellarec.data.sources.recognise import source_files
from corellarec.data.unpacked import check_unpacked

MIB = 1 << 20


def zst_of_zeros(blocks):
    """A Zstandard frame whose blocks each repeat one byte 128 KiB times."""
    header = bytes.fromhex("28b52ffd") + bytes([0b0000_0000, 0b0101_1000])
    return header + b"".join(
        ((128 << 10) << 3 | 1 << 1 | (number == blocks - 1)).to_bytes(3, "little") + b"\0"
        for number in range(blocks)
    )


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_file_that_unpacks_to_far_more_is_refused_and_the_limit_can_be_raised(ending, tmp_path):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(gzip.compress(bytes(4 * MIB)) if ending == "gz" else zst_of_zeros(32))
    with pytest.raises(DataError, match="raise data.max_unpacked_mb .2.$"):
        check_unpacked(path, 2)
    check_unpacked(path, 4)


def test_text_passes_whatever_its_size(tmp_path):
    text = "".join(f"{n * 7919 % 10007},{n}\n" for n in range(300_000)).encode()
    (tmp_path / "x.gz").write_bytes(gzip.compress(text))
    check_unpacked(tmp_path / "x.gz", 1)
    (tmp_path / "x.csv").write_bytes(b"plain")
    check_unpacked(tmp_path / "x.csv", 1)


def test_a_member_of_a_zip_likewise(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("u.data", bytes(4 * MIB))
    with pytest.raises(DataError, match=r"x.zip: u.data: .* raise data.max_unpacked_mb"):
        Folder(tmp_path / "x.zip", 2).read("u.data")
    assert len(Folder(tmp_path / "x.zip", 4).read("u.data")) == 4 * MIB


def test_a_directory_of_all_kinds_of_things_is_left_before_anything_is_read(tmp_path, monkeypatch):
    for number in range(30):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file").write_text("x")
    settings = parse_config({"data": {"path": str(tmp_path)}}).data
    with pytest.raises(DataError, match="no log in a known layout"):
        source_files(settings)
    monkeypatch.setattr(raw, "MOST_ENTRIES", 50)
    with pytest.raises(DataError, match="more than 50 files: give data.path the directory"):
        source_files(settings)
