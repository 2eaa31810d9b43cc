"""The bootstrap against its definition, and AUC by user against scikit-learn."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from corellarec.base import bootstrap as bootstrap_module
from corellarec.base import metrics
from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.base.metrics import METRICS

ALL = (*METRICS, "uauc")


def draw(seed, rows=400, users=23, levels=None):
    generator = np.random.default_rng(seed)
    user = generator.integers(0, users, rows) * 7
    p = generator.random(rows)
    if levels:
        p = np.round(p * levels) / levels
    label = (generator.random(rows) < p).astype(np.int8)
    return user, label, p


def rows_of(bootstrap, user):
    """The rows of each resample, one by one."""
    users = np.unique(user)
    for count in np.concatenate([block for _, block in bootstrap._counts()]).astype(int):
        yield np.concatenate([np.flatnonzero(user == u) for u, n in zip(users, count, strict=True)
                              for _ in range(n)])  # fmt: skip


@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("metric", ["auc", "log_loss", "accuracy"])
def test_each_resample_is_the_metric_of_its_rows(metric, levels):
    user, label, p = draw(0, levels=levels)
    bootstrap = Bootstrap(user, 20, seed=1)
    expected = [METRICS[metric](label[rows], p[rows]) for rows in rows_of(bootstrap, user)]
    assert bootstrap(metric, label, p) == pytest.approx(expected, abs=1e-12)


def test_some_of_the_rows_are_resampled_alike():
    user, label, p = draw(2)
    bootstrap, part = Bootstrap(user, 20, seed=3), p > 0.4
    expected = []
    for rows in rows_of(bootstrap, user):
        rows = rows[part[rows]]
        expected.append(metrics.auc(label[rows], p[rows]))
    assert bootstrap.of(part)("auc", label[part], p[part]) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10_000), st.sampled_from([None, 3]))
def test_auc_of_users(seed, levels):
    user, label, p = draw(seed, rows=80, users=12, levels=levels)
    expected = []
    for one in np.unique(user):
        mine = user == one
        both = 0 < label[mine].mean() < 1
        expected.append(roc_auc_score(label[mine], p[mine]) if both else np.nan)
    found = metrics.user_aucs(label, p, user)
    assert found == pytest.approx(np.array(expected), abs=1e-12, nan_ok=True)
    assert metrics.uauc(label, p, user) == pytest.approx(np.nanmean(expected))


@pytest.mark.parametrize("kept", [True, False])
def test_blocks_change_no_bit(monkeypatch, kept):
    user, label, p = draw(4, levels=9)
    if not kept:
        monkeypatch.setattr(bootstrap_module, "MAX_KEPT", 0)
    part, whole = p > 0.4, Bootstrap(user, 50, seed=3)
    expected = {m: (whole(m, label, p), whole.of(part)(m, label[part], p[part])) for m in ALL}
    monkeypatch.setattr(bootstrap_module, "BLOCK", 23 * 8)
    blocks = Bootstrap(user, 50, seed=3)
    assert sum(1 for _ in blocks._counts()) == 7
    for metric, (of_all, of_part) in expected.items():
        assert np.array_equal(blocks(metric, label, p), of_all)
        assert np.array_equal(blocks.of(part)(metric, label[part], p[part]), of_part)
    if kept:
        counts = np.random.default_rng(3).multinomial(23, np.full(23, 1 / 23), 50)
        assert np.array_equal(np.concatenate([block for _, block in blocks._counts()]), counts)


def test_what_is_drawn_again_is_a_bootstrap_too(monkeypatch):
    user, label, p = draw(6)
    monkeypatch.setattr(bootstrap_module, "MAX_KEPT", 0)
    bootstrap = Bootstrap(user, 20, seed=1)
    counts = np.concatenate([block for _, block in bootstrap._counts()])
    assert (counts.sum(1) == 23).all()
    assert len(np.unique(counts, axis=0)) == 20
    expected = [metrics.auc(label[rows], p[rows]) for rows in rows_of(bootstrap, user)]
    assert bootstrap("auc", label, p) == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
def test_a_million_users_take_little_memory():
    generator = np.random.default_rng(0)
    user, p = np.arange(1_000_000), generator.random(1_000_000)
    label = (generator.random(1_000_000) < p).astype(np.int8)
    tracemalloc.start()
    low, high = interval(Bootstrap(user, 1000, seed=0)("log_loss", label, p))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5e9
    error = metrics.losses(label, p).std() / 1000
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_uauc_resamples_its_own_value():
    user, label, p = draw(5, rows=4000, users=80)
    low, high = interval(Bootstrap(user, 200, seed=0)("uauc", label, p))
    assert low < metrics.uauc(label, p, user) < high


@pytest.mark.parametrize(("bias", "truth"), [(0.0, 0.0), (0.06, 0.06)])
def test_intervals_of_the_calibration_error_hold_the_truth_and_the_estimate(bias, truth):
    held, estimates, plain = 0, [], []
    for seed in range(100):
        user, label, p = draw(seed, rows=1500, users=100)
        shown = p + bias  # wrong by the same amount everywhere
        low, high = interval(Bootstrap(user, 200, seed)("calibration_error", label, shown))
        estimates.append(metrics.calibration_error(label, shown, user))
        assert low <= estimates[-1] <= high
        held += low <= truth <= high
        bins = metrics.calibration_bins(shown)
        plain.append(np.mean([abs((shown - label)[bins == one].mean()) for one in range(15)]))
    assert held >= 88  # of 100; 95 expected
    assert np.mean(np.square(estimates)) == pytest.approx(truth**2, abs=4e-4)
    if not truth:
        assert np.median(estimates) < 0.01 < 0.02 < np.median(plain)


def test_calibration_without_noise_has_no_width():
    user, label = np.arange(40), np.tile([0, 1], 20).astype(np.int8)
    assert (Bootstrap(user, 9, seed=0)("calibration_error", label, label * 1.0) == 0).all()


def test_nothing_to_measure_is_nan():
    user, p = np.array([1, 1, 2]), np.array([0.1, 0.2, 0.3])
    alike = np.ones(3, dtype=np.int8)
    bootstrap = Bootstrap(user, 5, seed=0)
    assert np.isnan(bootstrap("auc", alike, p)).all()
    assert np.isnan(bootstrap("uauc", alike, p)).all()
    assert np.isnan(metrics.uauc(alike, p, user))
    with pytest.raises(ValueError, match="no metric named 'gini'"):
        bootstrap("gini", alike, p)
