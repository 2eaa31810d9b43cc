"""The Python interface: what a user types, on tables of three libraries."""

import subprocess
import sys
from dataclasses import replace
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pytest

import corellarec as cr
from corellarec.cascade.lists import FEATURES, ListBlend, ListPolicy, ListValue
from corellarec.cascade.router import Verdict

GENRES = ["Action", "Comedy", "Drama"]


def tables(movielens):
    """The small MovieLens as a user's own tables, ids as numbers."""
    ratings = pl.read_csv(
        movielens / "u.data",
        separator="\t",
        has_header=False,
        new_columns=["user_id", "item_id", "rating", "timestamp"],
    )
    lines = [line.split("|") for line in (movielens / "u.item").read_text("latin-1").splitlines()]
    items = pl.DataFrame(
        {
            "item_id": [int(line[0]) for line in lines],
            "title": [line[1] for line in lines],
            "genre": [GENRES[int(line[0]) % 3] for line in lines],
        }
    )
    lines = [line.split("|") for line in (movielens / "u.user").read_text("latin-1").splitlines()]
    users = pl.DataFrame({"user_id": [int(x[0]) for x in lines], "job": [x[3] for x in lines]})
    return ratings, items, users


@pytest.fixture(scope="module")
def fitted(movielens, tiny_settings, tmp_path_factory):
    """A model and its cascade, fitted on tables."""
    own = [s for s in tiny_settings if not s.startswith("data.")]
    directory = tmp_path_factory.mktemp("api") / "run"
    model = cr.CoReLLa.from_preset("quick", settings=own, directory=directory, quiet=True)
    ratings, items, users = tables(movielens)
    return model, model.fit(ratings, items=items, users=users), ratings


@pytest.fixture
def cascade(fitted):
    """A cascade of its own for each test."""
    return cr.Cascade.load(fitted[0].directory)


def test_importing_loads_neither_torch_nor_polars():
    code = (
        "import corellarec, sys; print(sorted({'torch', 'polars', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_loads_neither_torch_nor_polars():
    code = (
        "import sys; sys.argv = ['corellarec', '--help']\n"
        "from corellarec.cli.entry import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'polars', 'pydantic'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "recommend" in done.stdout


def test_every_public_name_is_there():
    assert {name for name in cr.__all__ if getattr(cr, name) is None} == set()
    assert cr.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        cr.Nothing  # noqa: B018


def test_the_same_tables_from_pandas_and_arrow_continue_the_same_run(fitted, movielens):
    model, _, _ = fitted
    ratings, items, users = tables(movielens)
    for convert in (pl.DataFrame.to_pandas, pl.DataFrame.to_arrow):
        again = cr.CoReLLa(model.workspace.config, directory=model.directory, quiet=True)
        before = (model.directory / "stage3" / "manifest.json").stat().st_mtime_ns
        again.fit(*[convert(ratings)], items=convert(items), users=convert(users))
        assert (model.directory / "stage3" / "manifest.json").stat().st_mtime_ns == before


def test_predict_takes_the_callers_ids_and_keeps_their_columns(cascade):
    pairs = pd.DataFrame({"user": [1, 1, 999], "item": [3, 4, 3], "note": ["a", "b", "c"]})
    found = cascade.predict(pairs)
    assert found.columns == [
        "user", "item", "note", "p", "p_crm", "p_llm", "source", "entropy"
    ]  # fmt: skip
    assert found["user"].to_list() == [1, 1, 999]
    assert found["p"].is_between(0, 1).all()
    assert set(found["source"]) <= {"crm", "blend", "llm"}


def test_a_logged_pair_is_not_told_its_own_label(cascade, fitted):
    """Scored as of its row, through predict as through the run's own scoring."""
    log = cascade.log
    rows = log.rows_of("test")[:200]
    pairs = pl.DataFrame(
        {
            "user": log.users["id"].gather(log.user[rows].numpy()),
            "item": log.items["id"].gather(log.item[rows].numpy()),
        }
    )
    timed = pairs.with_columns(time=log.rows["time"].gather(rows.numpy()))
    latest = pairs.with_row_index().unique(["user", "item"], keep="last", maintain_order=True)
    kept = latest["index"].to_numpy()
    from corellarec.crm.score import crm_logits
    from corellarec.run.weights import final_crm

    workspace = fitted[0].workspace
    logit = crm_logits(*final_crm(workspace), log.samples(rows))
    expected = 1 / (1 + np.exp(-cascade.router.crm(logit.double().numpy())))
    found = cascade.predict(timed)["p_crm"].to_numpy()
    assert found == pytest.approx(expected, abs=2e-2)  # rows of the same second have no order
    found = cascade.predict(pairs)["p_crm"].to_numpy()
    assert found[kept] == pytest.approx(expected[kept], abs=1e-5)


def test_times_that_name_no_zone_are_of_the_log(cascade):
    """Of ``predict`` as of ``observe``; numbers count in UTC."""
    log, zone = cascade.log, "Asia/Tokyo"
    row = int((log.user == 3).nonzero()[20])
    time = log.rows["time"][row]
    pairs = {"user": [log.users["id"][3]] * 20, "item": log.items["id"][:20].to_list()}

    def scored(cascade, time):
        return cascade.predict(pl.DataFrame({**pairs, "time": [time] * 20}))["p_crm"].to_list()

    clock = time.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    of_tokyo = cr.Cascade(
        replace(cascade.recipe, time_zone=zone), log, cascade.models, cascade.adapter
    )
    expected = scored(cascade, time)
    assert scored(of_tokyo, clock) == scored(of_tokyo, str(clock)) == expected
    assert scored(of_tokyo, time) == scored(of_tokyo, int(time.timestamp())) == expected
    assert scored(cascade, clock) != expected
    of_tokyo.observe({"user": ["3"], "item": ["5"], "label": [1], "time": [str(clock)]})
    assert of_tokyo.log.rows.filter(pl.col("split") == 3)["time"].to_list() == [time]


def test_a_policy_of_lists_sends_whole_lists_within_their_budget(cascade, tmp_path):
    users = cascade.log.users["id"][:40].to_list()
    longest = [0.0] * FEATURES.index("log history length") + [1.0]
    weights = (*longest, *[0.0] * (len(FEATURES) - len(longest)))
    policy = ListPolicy(
        length=8,
        budget=0.25,
        blend=ListBlend(0.0, 1.0),
        value=ListValue(weights, 0.0, (-1e9,) * len(FEATURES), (1e9,) * len(FEATURES)),
        threshold=0.0,
        verdict=Verdict(helps=True, routed=30, gain=0.1, bound=0.05),
    )
    of_lists = cr.Cascade(
        replace(cascade.recipe, lists=policy), cascade.log, cascade.models, cascade.adapter
    )
    of_lists.save(tmp_path / "lists")
    again = cr.Cascade.load(tmp_path / "lists")
    assert again.recipe.lists == policy
    alone = replace(cascade.router.rule, verdict=Verdict(False, 0, 0.0, 0.0))
    cascade.router = replace(cascade.router, rules=dict.fromkeys(cascade.router.rules, alone))
    before = cascade.recommend(users, k=12)
    found = again.recommend(users, k=12)
    asked = found.filter(pl.col("source") != "crm")["user"].unique().to_list()
    rows = cascade.log.user_begin.diff()[:40]
    assert 10 <= len(asked) <= 11  # a quarter, and the credit that a meter begins with
    assert set(asked) <= {users[i] for i in rows.argsort(descending=True)[: len(asked) + 2]}
    for user in users:
        own, crm = (table.filter(pl.col("user") == user) for table in (found, before))
        if user not in asked:
            assert own["item"].equals(crm["item"])
            continue
        assert own["source"].to_list() == ["blend"] * 8 + ["crm"] * 4
        assert own["p_llm"][:8].is_sorted(descending=True)
        assert set(own["item"][:8]) == set(crm["item"][:8])
        assert own["item"][8:].equals(crm["item"][8:])


def test_recommend_ranks_what_the_user_has_not_seen(cascade, fitted):
    ratings = fitted[2]
    found = cascade.recommend(users=[1, "2", "stranger"], k=5)
    assert found.columns == ["user", "rank", "item", "p", "p_crm", "p_llm", "source"]
    assert found["user"].to_list() == ["1"] * 5 + ["2"] * 5 + ["stranger"] * 5
    assert found["rank"].to_list() == [1, 2, 3, 4, 5] * 3
    for (_,), one in found.group_by("user"):
        assert one["p"].is_sorted(descending=True)
    for user in (1, 2):
        seen = set(ratings.filter(pl.col("user_id") == user)["item_id"].cast(pl.String))
        assert not seen & set(found.filter(pl.col("user") == str(user))["item"])
    every = cascade.recommend(["1"], k=50, exclude_seen=False)
    assert every.height == 50
    some = cascade.recommend(["1"], k=9, candidates=[3, 4], exclude_seen=False)
    assert set(some["item"]) == {"3", "4"}
    best = cascade.predict({"user": ["stranger"] * 50, "item": every["item"].to_list()})
    assert best["p"].max() == pytest.approx(found.filter(pl.col("user") == "stranger")["p"].max())


def test_recommend_refuses_what_it_cannot_do(cascade):
    with pytest.raises(ValueError, match="k must be at least 1"):
        cascade.recommend(["1"], k=0)
    with pytest.raises(cr.DataError, match="candidate 'none' is not known"):
        cascade.recommend(["1"], candidates=["none"])


def test_observed_events_change_the_answers_and_are_saved(cascade, tmp_path):
    pair = {"user": ["newcomer"], "item": ["5"]}
    before = cascade.predict(pair)["p_crm"].item()
    events = pl.DataFrame(
        {"user": ["newcomer"] * 6, "item": ["1", "2", "3", "4", "6", "7"], "rating": [5] * 6,
         "time": [900_000_000 + i for i in range(6)]}
    )  # fmt: skip
    assert cascade.observe(events) == 6
    assert cascade.observe(events) == 0
    after = cascade.predict(pair)["p_crm"].item()
    assert after != before
    assert "1" not in cascade.recommend(["newcomer"], k=20)["item"].to_list()
    cascade.save(tmp_path / "model")
    again = cr.Cascade.load(tmp_path / "model")
    assert again.predict(pair)["p_crm"].item() == after
    early = again.predict({**pair, "time": [900_000_000]})["p_crm"].item()
    assert early == before


def test_new_users_have_their_features(finished):
    cascade = cr.Cascade.load(finished[0], device="cpu")
    users = pl.DataFrame({"id": ["fresh", "1"], "gender": ["F", "M"], "age": [31, 90]})
    old = cascade.log.users.filter(id="1")
    pair = {"user": ["fresh"], "item": ["3"]}
    before = cascade.predict(pair)["p_crm"].item()
    assert cascade.add_users(users) == 1
    assert cascade.add_users(users) == 0
    assert cascade.predict(pair)["p_crm"].item() != before
    assert cascade.log.users.filter(id="1").equals(old)
    with pytest.raises(cr.DataError, match="no column 'id'"):
        cascade.add_users(pl.DataFrame({"age": [3]}))


def test_new_items_are_scored_by_title_and_features(cascade):
    with pytest.raises(cr.DataError, match="row 1: item 'fresh' is not known"):
        cascade.predict({"user": ["1"], "item": ["fresh"]})
    items = pl.DataFrame({"id": ["fresh", "3"], "title": ["A fresh film (1999)", "no change"],
                          "genre": ["Drama", "Drama"]})  # fmt: skip
    assert cascade.add_items(items) == 1
    found = cascade.predict({"user": ["1"], "item": ["fresh"]})
    assert found["p"].is_between(0, 1).all()
    assert cascade.log.titles[-1] == "A fresh film (1999)"
    assert cascade.log.items.filter(id="3")["title"].item() != "no change"


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"user": ["1"]}, "no column 'item'"),
        ({"user": [1.0], "item": ["3"]}, "'user' holds Float64; ids are text or whole numbers"),
        ({"user": [None, "1"], "item": ["3", "3"]}, "row 1: no user"),
        ({"user": [["1"]], "item": ["3"]}, "'user' holds List"),
        ({"user": ["1"], "item": ["3"], "time": ["soon"]}, "time 'soon' cannot be read"),
        ({"user": ["1"], "item": ["3"], "p": [0.5]}, "rename the column 'p'"),
        (7, "expected a Polars, pandas or Arrow table"),
    ],
)
def test_bad_pairs_are_one_line(cascade, pairs, message):
    with pytest.raises(cr.CorellarecError, match=message) as raised:
        cascade.predict(pairs)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ({"user": ["1"], "item": ["3"]}, "no column 'label'"),
        ({"user": ["1"], "item": ["3"], "label": ["maybe"]}, "label 'maybe' is not 1 or 0"),
        ({"user": ["1"], "item": ["3"], "rating": ["x"]}, "rating 'x' is not a number"),
        ({"user": ["1"], "item": ["x"], "label": [1]}, "item 'x' is not known"),
    ],
)
def test_bad_events_change_nothing(cascade, events, message):
    rows = len(cascade.log)
    with pytest.raises(cr.DataError, match=message):
        cascade.observe(events)
    assert len(cascade.log) == rows


def test_evaluate_on_the_runs_own_test_rows_gives_the_runs_figures(fitted, cascade, movielens):
    model, _, _ratings = fitted
    of_run = model.evaluate()
    log = cascade.log
    rows = log.rows_of("test").numpy()
    test = pl.DataFrame(
        {
            "user": log.users["id"].gather(log.user[rows].numpy()),
            "item": log.items["id"].gather(log.item[rows].numpy()),
            "label": log.rows["label"].gather(rows),
            "time": log.rows["time"].gather(rows),
        }
    )
    found = cr.evaluate(cascade, test, bootstrap=30)
    assert found.rows == of_run.rows == len(rows)
    for key in ("crm_calibrated", "llm_calibrated", "cascade"):
        for metric, figure in of_run.row(key).metrics.items():
            again = found.row(key).metrics[metric].value
            assert again == pytest.approx(figure.value, abs=1e-4, nan_ok=True), (key, metric)
    frame = found.to_frame()
    assert frame.filter(pl.col("predictor") == "cascade")["auc"].is_between(0, 1).all()


def test_evaluate_saves_a_report(fitted, cascade, tmp_path):
    ratings = fitted[2]
    test = ratings.tail(200).rename({"user_id": "user", "item_id": "item", "timestamp": "time"})
    found = cr.evaluate(cascade, test, rows=60, bootstrap=20)
    assert found.rows == 60
    found.save(tmp_path / "report.html")
    assert "<svg" in (tmp_path / "report.html").read_text("utf-8")


def test_a_class_of_ones_own_is_imported_only_if_it_is_trusted(fitted, tmp_path):
    import json

    from corellarec.base.artifacts import writing

    cr.Cascade.load(fitted[0].directory).save(tmp_path / "model")
    recipe = json.loads((tmp_path / "model" / "cascade.json").read_text())
    recipe["crm"]["model"] = "os:system"
    with writing(tmp_path / "hostile") as folder:
        for name in ("crm.safetensors", "rows.parquet", "users.parquet", "items.parquet"):
            (folder / name).write_bytes((tmp_path / "model" / name).read_bytes())
        (folder / "cascade.json").write_text(json.dumps(recipe))
    with pytest.raises(cr.ConfigError, match="if you trust it, pass trust='os:system'"):
        cr.Cascade.load(tmp_path / "hostile")


def test_fit_refuses_columns_and_tables_it_cannot_use(tmp_path):
    model = cr.CoReLLa.from_preset("quick", directory=tmp_path / "r", quiet=True)
    log = pl.DataFrame({"u": [1], "item": [2], "rating": [3], "time": [4]})
    with pytest.raises(cr.ConfigError, match="unknown role 'buyer'"):
        model.fit(log, columns={"buyer": "u"})
    with pytest.raises(cr.ConfigError, match="go with interactions"):
        model.fit(items=log)
    with pytest.raises(cr.DataError, match="is not there"):
        model.fit("/nowhere.csv")
