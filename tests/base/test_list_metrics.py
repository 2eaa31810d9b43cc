"""Metrics of lists against ranx's figures and RecBole's formulas."""

import json
from pathlib import Path

import numpy as np
import pytest

from corellarec.base.list_metrics import coverage, list_metrics, novelty

# 25 random lists, and what ranx 0.3.21 says of them, which does not go with this project's numpy.
RANX = json.loads(Path(__file__).with_name("ranx.json").read_text("utf-8"))


def random_lists(users=200, places=20, items=60, seed=0):
    generator = np.random.default_rng(seed)
    relevant = generator.integers(1, 30, users)
    hit = np.zeros((users, places), dtype=bool)
    for user, count in enumerate(relevant):
        liked = generator.choice(items, count, replace=False)
        hit[user] = np.isin(generator.permutation(items)[:places], liked)
    return hit, relevant


@pytest.mark.parametrize("k", [1, 5, 10, 20, 30])
def test_metrics_equal_ranx(k):
    ranked = RANX["ranked"]
    relevant = np.array([len(of_user) for of_user in RANX["relevant"]])
    hit = np.array([np.isin(r, of) for r, of in zip(ranked, RANX["relevant"], strict=True)])
    found = list_metrics(hit, relevant, k)
    for name in ("ndcg", "recall", "hit_rate", "mrr"):
        np.testing.assert_allclose(found[name], RANX["metrics"][f"{name}@{k}"], atol=1e-9)
    scaled = found["map"] * np.minimum(relevant, k) / relevant  # ranx divides by all relevant
    np.testing.assert_allclose(scaled, RANX["metrics"][f"map@{k}"], atol=1e-9)


def recbole(hit, relevant):
    """RecBole 1.2.1's evaluator/metrics.py: each metric at every k from 1 to the places."""
    places = hit.shape[1]
    rank = np.arange(1, places + 1)
    least = np.minimum(relevant, places)
    dcg = np.cumsum(np.where(hit, 1 / np.log2(rank + 1), 0), axis=1)
    idcg = np.tile(np.cumsum(1 / np.log2(rank + 1)), (len(hit), 1))
    precision = hit.cumsum(1) / rank
    sum_precision = np.cumsum(precision * hit, axis=1)
    average = np.zeros(hit.shape)
    mrr = np.zeros(hit.shape)
    for row, most in enumerate(least):
        idcg[row, most:] = idcg[row, most - 1]
        ranges = rank.copy()
        ranges[most:] = ranges[most - 1]
        average[row] = sum_precision[row] / ranges
        first = hit[row].argmax()
        mrr[row, first:] = hit[row, first] / (first + 1)
    return {
        "ndcg": dcg / idcg,
        "recall": hit.cumsum(1) / relevant[:, None],
        "hit_rate": (hit.cumsum(1) > 0).astype(float),
        "mrr": mrr,
        "map": average,
    }


@pytest.mark.parametrize("k", [1, 3, 10, 20])
def test_metrics_equal_recbole(k):
    hit, relevant = random_lists()
    expected = recbole(hit, relevant)
    for name, value in list_metrics(hit, relevant, k).items():
        np.testing.assert_allclose(value, expected[name][:, k - 1], atol=1e-9, err_msg=name)


def test_a_list_that_ended_counts_as_one_with_nothing_more():
    hit, relevant = random_lists(places=6)
    padded = np.hstack([hit, np.zeros((len(hit), 14), dtype=bool)])
    for name, value in list_metrics(hit, relevant, 20).items():
        np.testing.assert_allclose(value, list_metrics(padded, relevant, 20)[name])


def test_the_ideal_list_has_one_everywhere():
    hit = np.arange(20)[None] < np.array([[3], [20]])
    for name, value in list_metrics(hit, np.array([3, 40]), 10).items():
        expected = [1.0, 10 / 40] if name == "recall" else [1.0, 1.0]
        np.testing.assert_allclose(value, expected, err_msg=name)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="k must be at least 1"):
        list_metrics(np.zeros((1, 3), dtype=bool), np.array([1]), 0)
    with pytest.raises(ValueError, match="needs a relevant item"):
        list_metrics(np.zeros((1, 3), dtype=bool), np.array([0]), 3)


def test_novelty_is_the_mean_of_the_bits_of_the_items_shown():
    rows = np.array([3, 0, 0, 1])  # with one more each: shares 1/2, 1/8, 1/8, 1/4
    lists = np.array([[0, 1, 3], [3, -1, -1]])
    np.testing.assert_allclose(novelty(lists, rows, 2), [(1 + 3) / 2, 2])
    np.testing.assert_allclose(novelty(lists, rows, 3), [(1 + 3 + 2) / 3, 2])


def test_coverage_counts_every_item_once():
    lists = np.array([[0, 1, 3], [3, -1, -1]])
    assert coverage(lists, 8, 1) == 2 / 8
    assert coverage(lists, 8, 3) == 3 / 8
