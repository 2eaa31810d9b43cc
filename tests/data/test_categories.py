"""What a history says of the categories of an item."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from corellarec.data.categories import CategorySums, item_categories
from corellarec.data.log import Samples
from corellarec.data.statistics import STATISTICS, USER_PRIOR, Statistics

CATEGORY = [i for i, name in enumerate(STATISTICS) if name.startswith("category")]


def test_sums_are_those_of_rows_that_share_a_category():
    generator = np.random.default_rng(0)
    categories = torch.from_numpy(generator.integers(-1, 6, (9, 3)))
    item = torch.from_numpy(generator.integers(0, 9, 40).astype(np.int32))
    values = torch.from_numpy(generator.normal(size=(40, 2)))
    begin = torch.from_numpy(generator.integers(0, 40, 60))
    end = torch.from_numpy(generator.integers(begin.numpy(), 41))
    target = torch.from_numpy(generator.integers(0, 9, 60))
    samples = Samples(target, target, begin, end, torch.full((60,), -1))
    found = CategorySums(categories, item, values)(samples)
    for i in range(60):
        expected = np.zeros(3)
        for row in range(begin[i], end[i]):
            own, of_row = categories[target[i]].tolist(), categories[item[row]].tolist()
            shared = sum(of_row.count(one) for one in own if one >= 0)
            expected += shared * np.array([1, *values[row].tolist()])
        assert found[i].numpy() == pytest.approx(expected)


def test_items_without_categories_have_none():
    sums = CategorySums(torch.full((2, 1), -1), torch.zeros(3, dtype=torch.int32), torch.ones(3, 1))
    one = Samples(*torch.tensor([[0], [1], [0], [3], [-1]]))
    assert sums(one).tolist() == [[0, 0]]
    sums = CategorySums(torch.zeros(2, 0, dtype=torch.long), torch.zeros(3, dtype=torch.int32),
                        torch.ones(3, 1))  # fmt: skip
    assert sums(one).tolist() == [[0, 0]]


def test_categories_have_numbers_of_their_own_over_all_features(log):
    codes, found = log.item_codes, item_categories(log)
    assert found.shape == (len(codes), codes.shape[1] - 1)
    assert torch.equal(found < 0, codes[:, 1:] == 0)
    begin = 1
    numbers = []
    for feature in log.features.item[1:]:
        column = found[:, begin - 1 : begin - 1 + feature.width]
        numbers.append(set(column[column >= 0].tolist()))
        begin += feature.width
    assert sum(len(one) for one in numbers) == len(set().union(*numbers))


def test_a_row_knows_its_user_s_taste_in_its_categories_before_it(log):
    rows = torch.arange(len(log))
    found = log.statistics(log.samples(rows))
    seen, categories = 0, item_categories(log)
    for row in range(0, len(log), 37):
        samples = log.samples(torch.tensor([row]))
        own = categories[samples.item[0]]
        before = range(int(samples.begin), int(samples.end))
        shared = [
            int((categories[log.item[i]].unsqueeze(1) == own[own >= 0]).sum()) for i in before
        ]
        seen += sum(shared) > 0
        liked = sum(n * int(log.history_label[i]) for n, i in zip(shared, before, strict=True))
        rate = log.statistics.rate
        share = (int(log.history_label[samples.begin[0] : row].sum()) + USER_PRIOR * rate) / (
            len(before) + USER_PRIOR
        )
        of_category = (liked + USER_PRIOR * share) / (sum(shared) + USER_PRIOR)
        odds = np.log(of_category / (1 - of_category)) - np.log(share / (1 - share))
        expected = [odds, np.log1p(sum(shared)) / 5]
        assert found[row, CATEGORY][:2].numpy() == pytest.approx(expected, abs=1e-5)
    assert seen > 10


def test_what_was_kept_is_what_is_computed(log):
    rows = torch.arange(len(log))
    fresh, kept = Statistics(log), Statistics(log)
    samples = log.samples(rows)
    with torch.inference_mode():
        kept(samples[torch.arange(0, len(rows), 2)])
    expected = fresh(samples)
    assert torch.equal(kept(samples), expected)
    assert torch.equal(kept(samples), expected)
    # The same rows after another history, as ties in time and empty windows have it.
    for other in (
        replace(samples, end=(samples.end - 1).maximum(samples.begin)),
        replace(samples, begin=samples.end),
    ):
        new, shared = replace(other, row=torch.full_like(other.row, -1)), CATEGORY[:3]
        assert torch.equal(kept(other)[:, shared], fresh(new)[:, shared])
        kept = Statistics(log)
        kept(other)
        assert torch.equal(kept(samples), expected)
