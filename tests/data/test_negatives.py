"""Logs without negatives: what is drawn, and that nothing leaks."""

import numpy as np
import polars as pl
import pytest
import torch

from corellarec.base.errors import ConfigError, DataError
from corellarec.config import NegativesConfig, load_config
from corellarec.data.counts import ITEM_ROWS, Counts
from corellarec.data.log import Log
from corellarec.data.negatives import NegativePool, Redraw, with_negatives
from corellarec.data.prepare import build, prepare
from corellarec.data.splits import HISTORY_ONLY


def baskets(tmp_path, seed=0, users=30, items=40, rows=900, **columns):
    """Purchases: baskets of one time, the same item again, some rows twice."""
    generator = np.random.default_rng(seed)
    item = (items * generator.random(rows) ** 2).astype(int)
    table = pl.DataFrame(
        {
            "user": generator.integers(0, users, rows),
            "item": item,
            "time": 1_600_000_000 + 3600 * np.sort(generator.integers(0, rows // 3, rows)),
            "name": [f"Thing {i}" for i in item],
            **columns,
        }
    )
    table = pl.concat([table, table[:20]])
    table.write_csv(tmp_path / "log.csv")
    return table


def data(tmp_path, *settings):
    return load_config(
        settings=[
            f"data.interactions.files={tmp_path / 'log.csv'}",
            "data.interactions.user=user",
            "data.interactions.item=item",
            "data.interactions.time=time",
            "data.interactions.label=implicit",
            "data.items.title=name",
            *settings,
        ]
    ).data


@pytest.fixture
def log(tmp_path):
    baskets(tmp_path)
    prepare(data(tmp_path), tmp_path / "data")
    return Log.load(tmp_path / "data")


@pytest.mark.parametrize("by", ["popularity", "uniform"])
def test_negatives_are_items_that_were_there_and_that_the_user_did_not_take(tmp_path, by):
    table = baskets(tmp_path)
    found = build(data(tmp_path, f"data.negatives.by={by}", "data.min_history=2"))
    facts, rows = found.facts, found.rows
    positive = rows.filter(pl.col("label") == 1)
    assert positive.height == table.n_unique(["user", "item", "time"])
    assert facts.left_out.duplicate_rows == table.height - positive.height
    assert (facts.history, facts.ties, facts.negatives.by) == ("positives", "apart", by)
    drawn = rows.filter(pl.col("label") == 0)
    assert not drawn.is_duplicated().any()
    assert (drawn["split"] < HISTORY_ONLY).all()
    first = dict(positive.group_by("item").agg(pl.col("time").min()).rows())
    taken = {}
    for user, item, split in positive.select("user", "item", "split").rows():
        taken.setdefault((user, item), set()).add(0 if split == HISTORY_ONLY else split)
    later = 0
    for user, item, time, split in drawn.select("user", "item", "time", "split").rows():
        assert first[item] <= time
        assert all(other > split for other in taken.get((user, item), ()))
        later += (user, item) in taken
    assert later  # leaving these out would say what the user takes after training
    groups = rows.group_by("user", "time", "split").agg(
        pl.col("label").sum(), rows=pl.len()
    ).filter(pl.col("split") < HISTORY_ONLY)  # fmt: skip
    assert (groups["rows"] <= 5 * groups["label"]).all()
    assert (groups["rows"] == 5 * groups["label"]).mean() > 0.8
    text = facts.summary()
    assert "drawn negatives by" in text
    assert "seed 0" in text


def test_popular_items_are_drawn_as_often_as_they_were_taken():
    item = np.repeat(np.arange(4, dtype=np.int32), [10, 20, 30, 40])
    user = np.full(100, 7, np.int32)
    time = np.arange(100)[np.random.default_rng(0).permutation(100)]
    asked = np.zeros(40_000, np.int32), np.full(40_000, 1000)
    shares = {}
    for by in ("popularity", "uniform"):
        pool = NegativePool(user, item, time, 4, by)
        drawn = pool.draw(*asked, np.random.default_rng(1))
        shares[by] = np.bincount(drawn) / len(drawn)
    assert shares["popularity"] == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.02)
    assert shares["uniform"] == pytest.approx([0.25] * 4, abs=0.02)


def test_who_took_everything_gets_no_negative():
    pool = NegativePool(
        np.zeros(3, np.int32), np.arange(3, dtype=np.int32), np.arange(3), 3, "uniform"
    )
    generator = np.random.default_rng(0)
    found = pool.draw(np.zeros(2, np.int32), np.array([5, 5]), generator)
    assert found.tolist() == [-1, -1]
    # Before anybody took anything there is nothing to draw; two items are not four.
    other = pool.draw(np.ones(6, np.int32), np.array([-1, 1, 1, 1, 1, 0]), generator,
                      np.array([0, 1, 1, 1, 1, 2]))  # fmt: skip
    assert other[0] == -1
    assert sorted(other[1:5].tolist()) == [-1, -1, 0, 1]
    assert other[5] == 0


def test_the_same_file_gives_the_same_rows_in_any_order(tmp_path):
    table = baskets(tmp_path)
    first = build(data(tmp_path)).rows
    table.sample(fraction=1.0, shuffle=True, seed=3).write_csv(tmp_path / "log.csv")
    assert build(data(tmp_path)).rows.equals(first)
    other = build(data(tmp_path, "data.negatives.seed=1")).rows
    assert other.filter(label=1).equals(first.filter(label=1))
    assert not other.equals(first)


def test_a_group_has_one_history_which_ends_before_its_time(log):
    rows = torch.arange(len(log))
    samples = log.samples(rows)
    for row in rows.tolist():
        same = (log.user == log.user[row]) & (log.time == log.time[row])
        assert samples.end[same].unique().numel() == 1
    assert (log.history_label == 1).all()
    some = samples.end > samples.begin
    last = samples.end[some] - 1
    assert (log.history_user[last] == log.user[some]).all()
    assert (log.history_time[last] < log.time[some]).all()
    # All that the user took before is in it.
    for row in rows[::37].tolist():
        before = (log.history_user == log.user[row]) & (log.history_time < log.time[row])
        assert int(samples.end[row] - samples.begin[row]) == int(before.sum())


def test_ties_apart_in_a_log_with_labels(tmp_path):
    generator = np.random.default_rng(0)
    baskets(tmp_path, clicked=generator.integers(0, 2, 900))
    labels = ["data.interactions.label=clicked", "data.ties=apart"]
    prepare(data(tmp_path, *labels), tmp_path / "d")
    log = Log.load(tmp_path / "d")
    samples = log.samples(torch.arange(len(log)))
    some = samples.end > samples.begin
    assert (log.history_time[samples.end[some] - 1] < log.time[some]).all()
    assert set(log.history_label.tolist()) == {0, 1}


def test_each_epoch_has_other_negatives_in_training_alone(log):
    redraw = Redraw(log)
    first, again, second = redraw(0, 1), redraw(0, 1), redraw(0, 2)
    assert first.item.equal(again.item)
    assert not first.item.equal(second.item)
    changed = first.item != log.item
    drawn = (log.split == 0) & (log._label == 0)
    assert not changed[~drawn].any()
    assert changed[drawn].float().mean() > 0.5
    positive = (log._label == 1) & (log.split == 0)
    taken = set(zip(log.user[positive].tolist(), log.item[positive].tolist(), strict=True))
    events = zip(log.item[positive].tolist(), log.time[positive].tolist(), strict=True)
    since = dict(sorted(events, reverse=True))
    for row in changed.nonzero().squeeze(1).tolist():
        assert (int(log.user[row]), int(first.item[row])) not in taken
        assert since[int(first.item[row])] <= log.time[row]
    labelled = Log(log.rows, log.users, log.items, log.features)
    assert Redraw(labelled)(0, 1) is labelled


def test_counts_tell_nothing_of_what_was_drawn(tmp_path):
    """An item's first row is a positive; without leaving a row out, counts would say so."""
    baskets(tmp_path, users=200, items=400, rows=6000)
    prepare(data(tmp_path), tmp_path / "data")
    log = Log.load(tmp_path / "data")
    assert isinstance(log.statistics, Counts)
    rows = log.rows_of("train")
    label = log.labels(rows).numpy()
    count, _ = log.statistics.rows_before(log.item[rows].numpy().astype(np.int64), rows.numpy())
    new = [float((count[label == one] == 0).mean()) for one in (0, 1)]
    assert new[0] == pytest.approx(new[1], abs=0.02)
    # By hand.
    positive = (log.split == 0) & (log._label == 1)
    for place in range(0, len(rows), 97):
        row = int(rows[place])
        before = positive & (log.item == log.item[row]) & (log.time < log.time[row])
        expected = max(0, int(before.sum()) - (label[place] == 0))
        assert count[place] == expected
    found = log.statistics(log.samples(rows))
    assert found[:, ITEM_ROWS].tolist() == pytest.approx((np.log1p(count) / 5).tolist())
    one = log.candidates(torch.tensor([0]), torch.tensor([3]))
    total = int((positive & (log.item == 3)).sum())
    assert log.statistics(one)[0, ITEM_ROWS].item() == pytest.approx(np.log1p(total) / 5)


@pytest.mark.parametrize("by", ["popularity", "uniform"])
def test_items_without_rows_take_no_share_from_the_others(tmp_path, by):
    baskets(tmp_path)
    logs = []
    for listed in (0, 500):
        names = [f"Thing {i}" for i in range(40)] + [f"Unseen {i}" for i in range(listed)]
        table = pl.DataFrame({"item": range(len(names)), "name": names})
        table.write_csv(tmp_path / "items.csv")
        catalogue = [f"data.items.files={tmp_path / 'items.csv'}", f"data.negatives.by={by}"]
        prepare(data(tmp_path, *catalogue), tmp_path / f"data{listed}")
        logs.append(Log.load(tmp_path / f"data{listed}"))
    few, many = logs
    rows = few.item_train_rows > 0
    assert (rows.sum(), many.items.height) == (few.items.height, few.items.height + 500)
    assert np.exp(few.log_q).sum() == pytest.approx(1)
    assert many.log_q[: few.items.height] == pytest.approx(few.log_q)
    assert (np.exp(many.log_q[few.items.height :]) <= np.exp(few.log_q).min()).all()
    samples = few.samples(few.rows_of("validation"))
    assert many.statistics(samples).equal(few.statistics(samples))
    assert (many.liked[0] == few.liked[0]).all()


def test_digits_are_tenths_of_the_rows_by_popularity(log):
    of_rows, of_items = log.liked
    assert (len(of_rows), len(of_items)) == (len(log), log.items.height)
    count = log.item_train_rows.numpy()
    order = np.argsort(count, kind="stable")
    assert (np.diff(of_items[order]) >= 0).all()
    assert (of_items.min(), of_items.max()) == (0, 9)


def test_a_drawn_negative_is_neither_seen_nor_a_pair_of_the_log(log):
    row = int(((log.split == 2) & (log._label == 0)).nonzero()[-1])
    user, item = log.user[row].long(), log.item[row].long()
    assert int(item) not in log.items_of(int(user))
    pair = log.pairs(user[None], item[None])
    assert pair.row.tolist() == [-1]
    begin, end = log.history_range(user[None])
    assert (pair.begin, pair.end) == (begin, end)
    # What the user does later stays, be it at the moment of that negative.
    new = log.rows[row].select("user", "item", "time").with_columns(label=pl.lit(1, pl.Int8))
    after = log.extended(new, log.users, log.items)
    assert len(after) == len(log) + 1
    assert int(item) in after.items_of(int(user))


def test_ratings_below_the_threshold_are_left_out(movielens):
    config = load_config(settings=[f"data.path={movielens}"]).data
    labelled = build(config)
    implicit = build(config.model_copy(update={"implicit": True}))
    assert implicit.facts.positives == labelled.facts.positives
    below = labelled.facts.rows - labelled.facts.positives
    assert implicit.facts.left_out.negative_rows == below
    assert "negative rows" in implicit.facts.left_out_text
    assert implicit.facts.features.ratings == []
    assert labelled.facts.negatives is None
    assert labelled.facts.negatives_text == ""


def test_events_have_weights_and_those_of_weight_zero_are_left_out(tmp_path):
    kinds = np.random.default_rng(0).choice(["view", "cart", "buy", "scroll"], 900)
    table = baskets(tmp_path, kind=kinds)
    weights = "data.interactions.event_weights={view=1, cart=3, buy=5, scroll=0}"
    config = data(tmp_path, "data.interactions.event=kind", weights)
    prepare(config, tmp_path / "d")
    log = Log.load(tmp_path / "d")
    kept = table.filter(pl.col("kind") != "scroll")
    assert (log._label == 1).sum() == kept.n_unique(["user", "item", "time"])
    assert set(log.rows["weight"].unique()) == {1.0, 3.0, 5.0}
    assert log.weight[log.rows_of("train")].mean() == pytest.approx(1)
    groups = log.rows.group_by("user", "time").agg(
        positive=pl.col("weight").filter(pl.col("label") == 1).unique().sort(),
        drawn=pl.col("weight").filter(pl.col("label") == 0).unique().sort(),
    )
    for positive, drawn in groups.select("positive", "drawn").rows():
        assert set(drawn) <= set(positive)
    later = pl.col("time") + pl.duration(days=9)
    more = log.extended(
        log.rows[:1].select("user", "item", "label", time=later), log.users, log.items
    )
    assert more.rows["weight"].null_count() == 0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("{view=1}", "no weight for .*buy.*weight 0 are left out"),
        ("{view=1, buy=2, hover=1}", "no row has 'hover' in the column 'kind'; found: .*view"),
    ],
)
def test_kinds_of_events_are_all_known(tmp_path, weights, message):
    baskets(tmp_path, kind=np.random.default_rng(0).choice(["view", "buy"], 900))
    settings = ["data.interactions.event=kind", f"data.interactions.event_weights={weights}"]
    with pytest.raises(DataError, match=message):
        build(data(tmp_path, *settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.interactions.event=kind"], "event and event_weights go together"),
        (["data.interactions.positive_values=['a']"], "label = 'implicit' is none"),
        (["data.interactions.label=x", "data.interactions.event=kind",
          "data.interactions.event_weights={a=1}"], "event goes with label = 'implicit'"),
        (["data.interactions.event=kind", "data.interactions.event_weights={a=0}"],
         "a weight above 0"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        data(tmp_path, *settings)


def test_a_log_of_one_item_has_no_negatives(tmp_path):
    baskets(tmp_path, items=1)
    with pytest.raises(DataError, match="no negatives can be drawn for the train split"):
        build(data(tmp_path))


def test_a_bad_line_is_named(tmp_path):
    baskets(tmp_path)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("1,2,never,Thing 2\n,2,1600000000,Thing 2\n1,,1600000000,\n")
    with pytest.raises(DataError, match=r"log\.csv, line 922: time 'never'.*; 3 such .*rows 3$"):
        build(data(tmp_path))
    with pytest.raises(DataError, match=r"and data\.skip_bad_rows allows 2"):
        build(data(tmp_path, "data.skip_bad_rows=2"))
    found = build(data(tmp_path, "data.skip_bad_rows=3"))
    assert found.facts.left_out.bad_rows == 3
    assert "" not in found.users["id"]  # nobody


def test_rows_without_a_split_get_no_negatives():
    rows = pl.DataFrame(
        {"user": [0, 0, 1, 1, 1], "item": [0, 1, 2, 3, 4], "label": 1, "time": range(5),
         "split": [3, 0, 0, 1, 2], "level": 1},
    ).with_columns(pl.col("user", "item").cast(pl.Int32),
                   pl.col("label", "split", "level").cast(pl.Int8))  # fmt: skip
    found = with_negatives(rows, 5, NegativesConfig(per_positive=2))
    drawn = found.filter(label=0)
    assert drawn.filter(split=HISTORY_ONLY).is_empty()
    assert drawn.filter(user=0).is_empty()  # nobody else had taken anything by then
    assert set(drawn.filter(user=1)["item"]) == {0, 1}
