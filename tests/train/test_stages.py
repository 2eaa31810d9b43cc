import pytest
import torch

from corellarec.train.stages import draw_rows, take


@pytest.mark.parametrize("split", ["train", "validation"])
def test_chunks_hold_every_row_of_the_split_once(log, split):
    chunks = draw_rows(log, split, 7, seed=1)
    assert torch.cat(chunks).sort().values.tolist() == log.rows_of(split).tolist()
    for chunk in chunks:
        assert len(chunk) <= 7
        assert log.user[chunk].unique().numel() == 1
        assert (chunk[1:] - chunk[:-1] > 0).all()
    assert not torch.equal(torch.cat(chunks), torch.cat(draw_rows(log, split, 7, seed=2)))


def test_take_is_exact_and_stages_do_not_share_rows(log):
    chunks = draw_rows(log, "train", 7, seed=1)
    first, rest = take(chunks, 100)
    second, _ = take(rest, 100)
    assert len(first) == len(second) == 100
    assert not set(first.tolist()) & set(second.tolist())
    everything, rest = take(chunks, 10**9)
    assert len(everything) == len(log.rows_of("train"))
    assert rest == []
    assert len(take([], 5)[0]) == 0
