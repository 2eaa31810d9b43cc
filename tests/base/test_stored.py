"""Tables and tensors that are damaged, or made to fill the memory."""

import json

import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from corellarec.base.errors import ArtifactError
from corellarec.base.stored import read_stored, read_tensors

COLUMNS = {"row": pl.Int64(), "logit": pl.Float64()}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "scores.parquet"
    pl.DataFrame({"row": range(500), "logit": [0.5] * 500}).write_parquet(path)
    return path


@pytest.fixture
def tensors(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2, 3), "rows": torch.arange(4)}, path)
    return path


def refused(read, path, *arguments):
    with pytest.raises(ArtifactError, match=r"delete .*; `corellarec run") as error:
        read(path, *arguments)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def damages(whole):
    """Contents that are not the whole one."""
    yield from (b"", whole[:3], whole[: len(whole) // 2], whole[:-9], b"\0" * len(whole))
    for start in range(0, len(whole), 40):
        yield whole[:start] + bytes(40) + whole[start + 40 :]


def test_a_table_is_read_back(table):
    assert read_stored(table, COLUMNS).height == 500


def test_a_damaged_table_is_an_error_of_one_line_or_reads_as_a_table(table):
    messages = []
    for content in damages(table.read_bytes()):
        table.write_bytes(content)
        try:
            assert read_stored(table, COLUMNS).schema == COLUMNS
        except ArtifactError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert not any("\n" in message for message in messages)


def test_another_table_and_missing_values_are_refused(table):
    assert "'logit' holds Float64, not String" in refused(
        read_stored, table, {"logit": pl.String()}
    )
    assert "'more' holds None" in refused(read_stored, table, {"more": pl.String()})
    pl.DataFrame({"row": [1], "logit": [None]}, schema=COLUMNS).write_parquet(table)
    assert "'logit' has missing values" in refused(read_stored, table, COLUMNS)
    refused(read_stored, table.with_name("none.parquet"), COLUMNS)


@pytest.mark.parametrize(
    "bomb",
    [
        pl.DataFrame({"row": [7]}).lazy().select(pl.col("row").repeat_by(10**8).explode()),
        pl.LazyFrame({"text": ["x" * 10**5]}).select(pl.col("text").repeat_by(5000).explode()),
    ],
)
def test_few_bytes_do_not_fill_the_memory(table, bomb):
    bomb.collect().write_parquet(table)
    assert "as no log does" in refused(read_stored, table, {})


def test_tensors_are_read_back(tensors):
    expected = {"weight": torch.empty(2, 3, device="meta"), "rows": torch.arange(4)}
    assert read_tensors(tensors, expected)["weight"].equal(torch.ones(2, 3))
    assert read_tensors(tensors).keys() == expected.keys()


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"weight": (2, 3)}, "a further tensor rows"),
        ({"weight": (2, 3), "rows": (4,), "x": (1,)}, "no tensor x"),
        ({"weight": (10**9, 10**6), "rows": (4,)}, r"weight has the shape \(2, 3\), not \(1000"),
    ],
)
def test_shapes_are_compared_before_anything_is_allocated(tensors, expected, message):
    like = {name: torch.empty(shape, device="meta") for name, shape in expected.items()}
    with pytest.raises(ArtifactError, match=message):
        read_tensors(tensors, like)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([float("nan")]),
        torch.tensor([float("inf")]),
        torch.tensor([1]),
        torch.tensor([1.0]).to(torch.float8_e4m3fn),
    ],
)
def test_weights_are_finite_numbers(tensors, tensor):
    save_file({"weight": tensor}, tensors)
    assert "no finite numbers" in refused(read_tensors, tensors, {"weight": torch.ones(1)})


def test_damaged_tensors_are_an_error_of_one_line(tensors):
    whole = tensors.read_bytes()
    header = json.dumps({f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
                         for i in range(300_000)}).encode()  # fmt: skip
    for content in (
        b"",
        b"abc",
        whole[:-1],
        whole[:20],
        bytes(len(whole)),
        (2**62).to_bytes(8, "little") + b"{}",
        len(header).to_bytes(8, "little") + header,
        whole.replace(b'"F32"', b'"F4 "'),
    ):
        tensors.write_bytes(content)
        refused(read_tensors, tensors)
