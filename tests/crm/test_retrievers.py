"""Retrievers against their papers' formulas and RecBole's computation, written out."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from corellarec.crm.retrievers.ease import ease
from corellarec.crm.retrievers.item_knn import item_knn
from corellarec.crm.retrievers.retriever import DAY, retriever
from corellarec.data.ranking import positive_items, positive_rows, ranking_task


@pytest.fixture(scope="module")
def matrix():
    generator = np.random.default_rng(3)
    taste = generator.random((60, 3)) @ generator.random((3, 40))
    found = (generator.random(taste.shape) < taste / 3).astype(float)
    found[:, 7] = 0.0  # an item that no one took
    return found


@pytest.mark.parametrize("penalty", [0.5, 100.0])
def test_ease_is_the_closed_form_as_recbole_computes_it(matrix, penalty):
    """RecBole 1.2.1, model/general_recommender/ease.py, in float64."""
    inverse = np.linalg.inv(matrix.T @ matrix + penalty * np.identity(matrix.shape[1]))
    expected = inverse / (-np.diag(inverse))
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(ease(csr_array(matrix), penalty), expected, atol=1e-9)


def test_ease_cannot_be_improved(matrix):
    """The derivative of the loss is zero but on the diagonal (Steck 2019, equation 6)."""
    weights = ease(csr_array(matrix), 10.0)
    slope = matrix.T @ (matrix @ weights - matrix) + 10.0 * weights
    np.fill_diagonal(slope, 0.0)
    assert np.abs(slope).max() < 1e-8


def recbole_item_knn(matrix, k, shrink):
    """RecBole 1.2.1's ComputeSimilarity with method 'item', one item after another."""
    items = matrix.shape[1]
    norm = np.sqrt(np.power(matrix, 2).sum(0))
    found = np.zeros((items, items))
    for target in range(items):
        like = matrix.T @ matrix[:, target]
        like[target] = 0.0
        like = like * (1 / (norm[target] * norm + shrink + 1e-6))
        nearest = (-like).argpartition(k - 1)[:k]
        found[nearest, target] = like[nearest]
    return found


@pytest.mark.parametrize(("neighbours", "shrink"), [(40, 0), (10, 0), (5, 20)])
def test_item_knn_equals_recbole(matrix, neighbours, shrink):
    found = item_knn(csr_array(matrix), neighbours, shrink).toarray()
    expected = recbole_item_knn(matrix, neighbours, shrink)
    # Of neighbours that are alike, either may be kept: their similarities are the same.
    np.testing.assert_allclose(np.sort(found, 0), np.sort(expected, 0), atol=1e-9)
    same = found != 0
    np.testing.assert_allclose(found[same & (expected != 0)], expected[same & (expected != 0)])
    assert ((found > 0).sum(0) <= neighbours).all()
    assert (np.diag(found) == 0).all()


def test_more_neighbours_than_items_are_all(matrix):
    found = item_knn(csr_array(matrix), 1000, 0.0).toarray()
    np.testing.assert_allclose(found, item_knn(csr_array(matrix), 40, 0.0).toarray())


@pytest.fixture(scope="module")
def task(log):
    return ranking_task(log, "test", "test")


def test_popularity_counts_positive_rows(task):
    scores = retriever("popularity", {}, task.log, task.cut).scores(task.user)
    assert (scores == positive_rows(task.log)).all()


def test_recent_popularity_is_that_of_the_last_days(task):
    days = 0.5
    scores = retriever("recent", {"days": days}, task.log, task.cut).scores(task.user)
    lately = positive_rows(task.log, int(task.cut - days * DAY))
    assert 0 < lately.sum() < positive_rows(task.log).sum()
    assert (np.floor(scores) == lately).all()
    # Among items with equal counts the more popular one is first.
    whole = positive_rows(task.log)
    order = np.lexsort((whole, lately))
    assert (np.diff(scores[0][order]) >= 0).all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [("ease", {"penalty": 20.0}), ("item-knn", {"neighbours": 10, "shrink": 5.0})],
)
def test_scores_are_sums_over_what_the_user_took(task, name, settings):
    found = retriever(name, settings, task.log, task.cut)
    positives = positive_items(task.log)
    weights = (
        ease(positives, settings["penalty"])
        if name == "ease"
        else item_knn(positives, 10, 5.0).toarray()
    )
    everyone = np.arange(task.log.users.height)
    scores, taken = found.scores(everyone), positives.toarray()
    some = taken.any(1)
    np.testing.assert_allclose(scores[some], taken[some] @ weights, atol=1e-9)
    assert (~some).any()  # and who took nothing gets what is popular
    assert (scores[~some] == positive_rows(task.log)).all()
