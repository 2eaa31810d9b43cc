import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corellarec.base.errors import ArtifactError
from corellarec.data.log import Log


@settings(deadline=None)
@given(data=st.data())
def test_a_history_is_the_users_own_earlier_rows(log, data):
    row = data.draw(st.integers(0, len(log) - 1))
    samples = log.samples(torch.tensor([row]))
    begin, end = int(samples.begin), int(samples.end)
    assert begin <= end == row  # the row itself is not in its history
    assert (log.user[begin:end] == log.user[row]).all()
    assert (log.time[begin:end] <= log.time[row]).all()
    earlier = (log.user == log.user[row]) & (torch.arange(len(log)) < row)
    assert earlier.sum() == end - begin


def test_code_matrix_holds_every_value_once(log):
    names = [feature.name for feature in log.features.item]
    start = sum(f.width for f in log.features.item[: names.index("genres")])
    width = log.features.item[names.index("genres")].width
    for item, codes in enumerate(log.items["genres_code"].to_list()):
        found = log.item_codes[item, start : start + width].tolist()
        assert found == codes
        assert len([c for c in found if c]) == len(log.items["genres"][item])


@settings(deadline=None)
@given(data=st.data())
def test_a_history_of_positives_is_the_users_earlier_likes(log, data):
    likes = Log(log.rows, log.users, log.items, log.features, "positives")
    row = data.draw(st.integers(0, len(log) - 1))
    samples = likes.samples(torch.tensor([row]))
    earlier = (log.user == log.user[row]) & (torch.arange(len(log)) < row) & (log._label == 1)
    window = slice(int(samples.begin), int(samples.end))
    assert likes.history_item[window].tolist() == log.item[earlier].tolist()
    assert (likes.history_label[window] == 1).all()
    begin, end = likes.history_range(log.user[row : row + 1].long())
    assert end - begin == ((log.user == log.user[row]) & (log._label == 1)).sum()


def test_missing_log_is_an_artifact_error(tmp_path):
    with pytest.raises(ArtifactError, match="is not there"):
        Log.load(tmp_path / "none")


def test_labels_of_test_rows_are_read_through_one_door(log):
    rows = torch.cat([log.rows_of("validation")[:3], log.rows_of("test")[:1]])
    with pytest.raises(ValueError, match="labels of test rows"):
        log.labels(rows)
    assert log.labels(rows[:3]).tolist() == log.history_label[rows[:3]].tolist()
    before = len(log.opened)
    assert log.test_labels(rows[3:], "a test").tolist() == log.history_label[rows[3:]].tolist()
    assert log.opened[before:] == ["a test"]


@pytest.mark.parametrize("history", ["all", "positives"])
def test_a_pair_is_scored_as_of_its_time_or_of_its_own_row(log, history):
    log = Log(log.rows, log.users, log.items, log.features, history)
    rows = torch.arange(0, len(log), 7)
    user, item = log.user[rows].long(), log.item[rows].long()
    expected = log.samples(rows)
    timed = log.pairs(user, item, log.time[rows])
    own = log.pairs(user, item)
    for i, row in enumerate(rows.tolist()):
        before = (log.history_user == user[i]) & (log.history_time < log.time[row])
        assert int(timed.end[i] - timed.begin[i]) == int(before.sum())
        same = (log.user == user[i]) & (log.item == item[i])
        latest = int(same.nonzero().max())
        assert own.end[i] == log.samples(torch.tensor([latest])).end[0]
    assert (own.begin == expected.begin).all()


def test_a_pair_that_is_not_in_the_log_has_all_rows_as_history(log):
    user = torch.tensor([0, 3, -1])
    met = {(int(u), int(i)) for u, i in zip(log.user, log.item, strict=True)}
    item = torch.tensor(
        [next(i for i in range(log.items.height) if (int(u), i) not in met) for u in user]
    )
    found = log.pairs(user, item)
    counts = [int((log.user == u).sum()) for u in user[:2]]
    assert (found.end - found.begin).tolist() == [*counts, 0]
