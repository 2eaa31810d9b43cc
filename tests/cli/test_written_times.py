"""Times written as in one's own log, in every file that a run is given later."""

import polars as pl
import pytest

from command_line import call, options
from corellarec.cascade.cascade import Cascade
from data.test_tables import write_log

FORM, ZONE = "%d/%m/%Y %H:%M", "Asia/Tokyo"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log whose times have the day first, on the clocks of Tokyo, without their zone.

    Users rate as they did before, so that a history tells something.
    """
    folder = tmp_path_factory.mktemp("own")
    log = write_log(folder, 900).drop("event")
    habit = pl.col("who").str.slice(1).cast(pl.Int64) % 4 + 1
    log = log.with_columns(stars=habit + pl.col("stars") % 2)
    clock = pl.from_epoch("when").dt.replace_time_zone("UTC").dt.convert_time_zone(ZONE)
    log.with_columns(clock.dt.strftime(FORM)).write_csv(folder / "log.csv")
    return folder


def test_files_of_later_read_times_as_the_log(folder, tiny_settings, monkeypatch, capsys, tmp_path):
    toml, run = tmp_path / "mine.toml", tmp_path / "run"
    code, _, err = call(monkeypatch, capsys, "init-data", folder, "-o", toml)
    assert code == 0, err
    own = [setting for setting in tiny_settings if not setting.startswith("data.")]
    code, _, err = call(monkeypatch, capsys, "run", "--config", toml, "--out", run,
                        *options([*own, f"data.interactions.time_zone={ZONE}"]))  # fmt: skip
    assert code == 0, err
    log = pl.read_csv(folder / "log.csv").filter(pl.int_range(pl.len()) > 300).head(60)
    rows = pl.read_parquet(run / "data" / "rows.parquet").sort("time")["time"][301:361]
    logged = log.select("who", "sku", "when")
    utc = logged.select(user="who", item="sku", time=rows.cast(pl.String))
    logged.write_csv(tmp_path / "logged.csv")
    utc.write_csv(tmp_path / "utc.csv")
    logged.rename({"who": "user", "sku": "item", "when": "time"}).write_parquet(
        tmp_path / "ours.parquet"
    )

    def predict(name):
        code, _, err = call(monkeypatch, capsys, "predict", run, tmp_path / name,
                            "-o", tmp_path / "scored.parquet")  # fmt: skip
        assert code == 0, err
        return pl.read_parquet(tmp_path / "scored.parquet")["p_crm"].to_list()

    expected = predict("utc.csv")
    assert predict("logged.csv") == predict("ours.parquet") == expected
    utc.drop("time").write_csv(tmp_path / "late.csv")
    assert predict("late.csv") != expected  # the times matter
    code, _, err = call(monkeypatch, capsys, "score", run, tmp_path / "ours.parquet",
                        tmp_path / "job")  # fmt: skip
    assert code == 0, err
    scored = pl.read_parquet(tmp_path / "job" / "*.parquet")  # in another order
    assert sorted(scored["p_crm"]) == pytest.approx(sorted(expected), abs=1e-5)
    cascade = Cascade.load(run)
    event = {"user": ["w1"], "item": ["s2"], "label": [1], "time": ["01/02/2024 09:00"]}
    assert cascade.observe(event) == 1
    assert str(cascade.log.rows["time"].max()) == "2024-02-01 00:00:00+00:00"
    # In the log's own columns: nothing allows a bad row there.
    later = tmp_path / "later.csv"
    for when, message in (
        ("2024-02-01", f"time '2024-02-01' is not a time in the format \"{FORM}\" (data.inter"),
        ("", "line 2: time '' is not"),
    ):
        later.write_text(f"who,sku,stars,when\nw1,s2,5,{when}\n")
        code, _, err = call(monkeypatch, capsys, "predict", run, tmp_path / "utc.csv",
                            "-o", tmp_path / "none.csv", "--events", later)  # fmt: skip
        assert code == 2
        assert message in err
        assert err.endswith("1 such row(s) in all: correct them, or leave them out\n")
    # What fits neither the log's format nor another.
    event = {**event, "time": ["13/13/2024 09:00"]}
    pl.DataFrame(event).drop("label").write_csv(tmp_path / "bad.csv")
    pl.DataFrame(event).drop("label").write_parquet(tmp_path / "bad.parquet")
    pl.DataFrame(event).write_csv(tmp_path / "events.csv")
    for arguments in (
        ["predict", run, tmp_path / "bad.csv", "-o", tmp_path / "none.csv"],
        ["score", run, tmp_path / "bad.parquet", tmp_path / "none"],
        ["predict", run, tmp_path / "utc.csv", "-o", tmp_path / "none.csv", "--events",
         tmp_path / "events.csv"],
    ):  # fmt: skip
        code, _, err = call(monkeypatch, capsys, *arguments)
        assert code == 2
        assert "row 1: time '13/13/2024 09:00' cannot be read as a time" in err
        assert f'time_format = "{FORM}"' in err
