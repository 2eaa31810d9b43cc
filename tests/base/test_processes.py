import pytest
import torch

from corellarec.base.processes import in_rounds, parts_of_step


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("sizes", [[5], [4, 1], [3, 3, 3], [1]])
def test_every_entry_of_a_step_counts_once(sizes, processes):
    numbers = torch.arange(sum(sizes))
    shares = [parts_of_step(numbers.split(sizes), rank, processes) for rank in range(processes)]
    counted = torch.cat([part for share in shares for part, counts in share if counts])
    assert counted.sort().values.tolist() == numbers.tolist()
    assert len({len(share) for share in shares}) == 1
    assert all(len(part) for share in shares for part, _ in share)


def test_batches_stay_whole_where_there_are_enough():
    assert parts_of_step(["abc", "d", "ef"], 0, 1) == [("abc", True), ("d", True), ("ef", True)]
    assert parts_of_step(["abc", "d", "ef"], 1, 3) == [("d", True)]


class Rank:
    def __init__(self, number, of):
        self.process_index, self.num_processes = number, of


def test_rounds_hold_every_batch_once():
    shares = [list(in_rounds("abcde", Rank(number, 3))) for number in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert sorted(batch for share in shares for batch, counts, _ in share if counts) == [*"abcde"]
    assert list(in_rounds("ab", None)) == [("a", True, "a"), ("b", True, "b")]
