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
    label = np.array([0, 1, 1, 1], dtype=np.int8)
    p = np.array([0.2, 0.4, 0.9, 0.7])
    # Bins [.2, .4] and [.7, .9]: |.3 - .5| and |.8 - 1|.
    assert np.isclose(metrics.calibration_error(label, p, bins=2), 0.2)
    assert metrics.calibration_error(label, label.astype(float)) == 0
