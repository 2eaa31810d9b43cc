import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit
from sklearn import metrics as sklearn_metrics

from corellarec.base import metrics

logits = hnp.arrays(np.float64, 60, elements=st.floats(-8, 8).map(lambda x: round(x, 3)))
labels = hnp.arrays(np.int8, 60, elements=st.integers(0, 1))


@given(logits, labels)
def test_equal_to_scikit_learn(logit, label):
    p = expit(logit)
    expected = sklearn_metrics.log_loss(label, p, labels=[0, 1])
    assert np.isclose(metrics.log_loss(label, p), expected)
    assert metrics.accuracy(label, p) == sklearn_metrics.accuracy_score(label, p >= 0.5)


@given(logits, labels)
def test_auc_is_unchanged_by_monotone_maps(logit, label):
    before, after = metrics.auc(label, logit), metrics.auc(label, 3 * logit - 1)
    assert np.isclose(before, after, equal_nan=True)
    assert np.isnan(before) == (label.min() == label.max())


def test_entropy_is_highest_at_one_half():
    p = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    found = metrics.entropy(p)
    assert found.argmax() == 2
    assert np.isclose(found[2], np.log(2))
    assert np.allclose(found, found[::-1])
    assert np.isfinite(found).all()


def test_calibration_error_by_hand():
    label = np.array([0, 0, 0, 1, 1, 1, 1, 1], dtype=np.int8)
    p = np.array([0.3, 0.5, 0.3, 0.5, 0.9, 0.7, 0.9, 0.7])
    # Bins of {.3, .5} and {.7, .9}. The first: gaps .3, .5, .3, -.5, mean .15, variance of the
    # mean .2025 / 4; the second: gaps -.1, -.3, -.1, -.3, mean -.2, variance .0133 / 4.
    first, second = (np.array(gaps) for gaps in ([0.3, 0.5, 0.3, -0.5], [-0.1, -0.3, -0.1, -0.3]))
    squares = [x.mean() ** 2 - x.var(ddof=1) / 4 for x in (first, second)]
    assert np.isclose(metrics.calibration_error(label, p, bins=2), np.sqrt(sum(squares) / 2))
    assert metrics.calibration_error(label, label.astype(float)) == 0


def test_calibration_error_takes_a_users_rows_together():
    label = np.array([1, 1, 0, 0] * 2, dtype=np.int8)
    p = np.full(8, 0.1)
    user = np.array([1, 1, 2, 2, 3, 3, 4, 4])
    of_users = np.array([-1.8, 0.2, -1.8, 0.2])  # sums of gaps
    expected = np.sqrt(0.4**2 - of_users.var(ddof=1) * 4 / 8**2)
    assert np.isclose(metrics.calibration_error(label, p, user), expected)
    assert metrics.calibration_error(label, p) > expected  # as if eight were independent


def test_equal_predictions_share_a_bin():
    assert metrics.calibration_bins(np.full(9, 0.3), bins=3).tolist() == [0] * 9
    assert metrics.calibration_bins(np.arange(6.0), bins=3).tolist() == [0, 0, 1, 1, 2, 2]
    # Sorted by user, the halves of a constant differ in their labels, but not for what it says.
    label = np.repeat([0, 1], 50).astype(np.int8)
    assert metrics.calibration_error(label, np.full(100, 0.5)) == 0
