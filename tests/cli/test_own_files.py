"""Files that nobody here wrote: from ``init-data`` to ``report.html`` without editing a file."""

import json
import shutil
import tomllib

import numpy as np
import polars as pl
import pytest

from command_line import call, options
from corellarec.config import load_config
from corellarec.data.prepare import build

USERS, MOVIES, ROWS = 40, 60, 900
GENRES = ("Drama", "Comedy|Romance", "Horror|Sci-Fi|Thriller")


def movietweetings():
    """A log in the columns of MovieTweetings: ratings 0 to 10, most of them high."""
    generator = np.random.default_rng(0)
    movie, start = generator.integers(0, MOVIES, ROWS), 1_362_000_000
    rating = generator.normal(6.5 + movie % 3, 2, ROWS).round().clip(0, 10).astype(int)
    ratings = pl.DataFrame(
        {
            "user_id": generator.integers(1, USERS + 1, ROWS).astype(str),
            "movie_id": [f"{8 + 37 * number:07d}" for number in movie],
            "rating": rating,
            "rating_timestamp": start + np.sort(generator.integers(0, 40_000_000, ROWS)),
        }
    )  # fmt: skip
    movies = pl.DataFrame(
        {
            "movie_id": [f"{8 + 37 * number:07d}" for number in range(MOVIES)],
            "movie_title": [f"Film: Part {number} ({1950 + number})" for number in range(MOVIES)],
            "genres": [GENRES[number % 3] for number in range(MOVIES)],
        }
    )
    users = pl.DataFrame(
        {"id": range(1, USERS + 1), "twitter": [177_651_718 + 9_001 * n for n in range(USERS)]}
    )
    return ratings, movies, users


def write_movietweetings(folder, spelling):
    folder.mkdir()
    ratings, movies, users = movietweetings()
    if spelling == "csv":
        ratings.write_csv(folder / "ratings.csv")
        movies.write_csv(folder / "movies.csv")
        return folder
    for name, table in (("ratings", ratings), ("movies", movies), ("users", users)):
        lines = ("::".join(map(str, row)) for row in table.rows())
        (folder / f"{name}.{spelling}").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("spelling", ["dat", "txt", "csv"])
def test_movietweetings_from_init_data_to_a_report(
    tiny_settings, monkeypatch, capsys, tmp_path, spelling
):
    folder, toml = write_movietweetings(tmp_path / "mt", spelling), tmp_path / "mine.toml"
    code, _, err = call(monkeypatch, capsys, "init-data", folder, "-o", toml)
    assert code == 0, err
    assert "what the columns are taken for" in err
    assert "0000008" in err  # a sample value
    data = load_config(files=[toml]).data
    ratings, movies, _ = movietweetings()
    assert data.positive_rating == 8  # of 0 to 10
    facts = build(data).facts
    assert (facts.rows, facts.users) == (ROWS, USERS)
    assert facts.positives == (ratings["rating"] >= 8).sum()
    assert facts.untitled_items == 0
    prepared = build(data).items
    assert set(prepared["title"]) <= set(movies["movie_title"])
    assert list(data.items.multi.values()) == ["|"]
    if spelling != "csv":
        assert data.users.files == str(folder / f"users.{spelling}")
        assert data.users.categorical == data.users.numeric == ()  # the second column holds ids
    if spelling == "txt":
        return
    own = [setting for setting in tiny_settings if not setting.startswith("data.")]
    with (folder / f"ratings.{spelling}").open("a") as file:
        file.write("a line that is none\n")
    arguments = ["run", "--config", toml, "--out", tmp_path / "run", *options(own)]
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "leave them out with --skip-bad-rows 1" in err
    code, _, err = call(monkeypatch, capsys, *arguments, "--skip-bad-rows", 1)
    assert code == 0, err
    assert (tmp_path / "run" / "report.html").is_file()
    assert "calls your items" not in err
    if spelling == "dat":
        return
    # The run's own settings, with others on top.
    code, out, err = call(monkeypatch, capsys, "run", "--resume", "--out", tmp_path / "run",
                          "--set", "cascade.budget=0.5", "--json")  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["router"]["budget"] == 0.5
    assert err.count("done before") == 3
    code, _, err = call(monkeypatch, capsys, "run", "--resume", "--out", tmp_path / "run",
                        "--set", "data.interactions.user=movie_id")  # fmt: skip
    assert code == 2
    assert "data.interactions.user was 'user_id', is 'movie_id'" in err
    # Pairs in the log's own columns.
    ratings.head(9).write_csv(tmp_path / "pairs.csv")
    code, _, err = call(monkeypatch, capsys, "predict", tmp_path / "run", tmp_path / "pairs.csv",
                        "-o", tmp_path / "scored.csv")  # fmt: skip
    assert code == 0, err
    scored = pl.read_csv(tmp_path / "scored.csv")
    assert scored.columns[:5] == [*ratings.columns, "p"]
    assert scored["p"].is_between(0, 1).all()
    # Later rows and new items, in the log's own columns, too.
    ratings.head(9).with_columns(rating_timestamp=pl.col("rating_timestamp") + 10**8).write_csv(
        tmp_path / "later.csv"
    )
    movies.head(2).with_columns(movie_id=pl.Series(["new1", "new2"])).write_csv(
        tmp_path / "new.csv"
    )
    pairs = ratings.head(2).with_columns(movie_id=pl.Series(["new1", "new2"]))
    pairs.write_csv(tmp_path / "pairs.csv")
    again = ["predict", tmp_path / "run", tmp_path / "pairs.csv", "-o", tmp_path / "scored.csv"]
    code, _, err = call(monkeypatch, capsys, *again, "--events", tmp_path / "later.csv",
                        "--items", tmp_path / "new.csv")  # fmt: skip
    assert code == 0, err
    assert "9 new interactions from" in err
    assert "2 new items from" in err
    # Ours, still; and what is neither is said in the log's words.
    ours = pl.DataFrame({"user": ["u"], "item": ["new1"], "label": [1]})
    ours.write_csv(tmp_path / "later.csv")
    code, _, err = call(monkeypatch, capsys, *again, "--events", tmp_path / "later.csv",
                        "--items", tmp_path / "new.csv")  # fmt: skip
    assert code == 0, err
    assert "1 new interactions from" in err
    ours.drop("label").write_csv(tmp_path / "later.csv")
    code, _, err = call(monkeypatch, capsys, *again, "--events", tmp_path / "later.csv")
    assert code == 2
    assert "no column 'user_id'" in err


@pytest.mark.parametrize("spelling", ["dat", "csv"])
def test_names_of_a_known_layout_with_other_columns_lead_to_init_data(
    monkeypatch, capsys, tmp_path, spelling
):
    folder = write_movietweetings(tmp_path / "mt", spelling)
    (folder / "users.dat").unlink(missing_ok=True)  # then only the ratings above 5 tell
    code, _, err = call(monkeypatch, capsys, "data", "check", "--set", f"data.path={folder}")
    assert code == 2
    assert f"corellarec init-data {folder}" in err


def test_a_layout_can_be_forced(monkeypatch, capsys, tmp_path):
    folder, toml = write_movietweetings(tmp_path / "mt", "dat"), tmp_path / "mine.toml"
    code, _, err = call(monkeypatch, capsys, "init-data", folder, "-o", toml, "--as", "movielens")
    assert code == 0, err
    data = load_config(files=[toml]).data
    assert (data.layout, data.positive_rating) == ("movielens", 8)
    facts = build(data).facts
    assert (facts.rows, facts.untitled_items) == (ROWS, 0)
    assert [field.name for field in facts.features.user] == ["user_id"]  # none of MovieLens's
    code, _, err = call(monkeypatch, capsys, "init-data", folder, "-o", toml, "--as", "amazon",
                        "--overwrite")  # fmt: skip
    assert code == 2
    assert "no meta_CATEGORY" in err


def test_init_data_works_on_a_known_layout(movielens, monkeypatch, capsys, tmp_path):
    toml = tmp_path / "mine.toml"
    code, _, err = call(monkeypatch, capsys, "init-data", movielens, "-o", toml)
    assert code == 0, err
    written = tomllib.loads(toml.read_text())
    assert written["data"]["path"] == str(movielens)
    assert written["llm"] == {"template": "movies-rated"}
    code, _, err = call(monkeypatch, capsys, "data", "check", "--config", toml)
    assert code == 0, err


def test_a_log_of_ten_read_with_the_threshold_of_five_is_warned_of(monkeypatch, capsys, tmp_path):
    folder, toml = write_movietweetings(tmp_path / "mt", "csv"), tmp_path / "mine.toml"
    call(monkeypatch, capsys, "init-data", folder, "-o", toml)
    arguments = ["data", "check", "--config", toml]
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 0
    assert "rows are positive" not in err
    code, _, err = call(monkeypatch, capsys, *arguments, "--set", "data.positive_rating=4")
    assert code == 0
    assert "ratings go from" in err
    assert "with 8 it would be" in err


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"user": ["1.0"], "item": ["3"]}, "user '1.0' is not known, but '1' is"),
        ({"user": ["1"], "item": ["3.0"]}, "item '3.0' is not known, but '3' is"),
        ({"user": [1.0], "item": ["3"]}, "'user' holds Float64; ids are text or whole numbers"),
        ({"user": [["1"]], "item": ["3"]}, "'user' holds List(String)"),
        ({"user": ["1", None], "item": ["3", "3"]}, "row 2: no user; 1 such row(s)"),
    ],
)
def test_ids_that_no_log_has(finished, monkeypatch, capsys, tmp_path, pairs, message):
    source, output = tmp_path / "pairs.parquet", tmp_path / "scored.parquet"
    pl.DataFrame(pairs).write_parquet(source)
    code, _, err = call(monkeypatch, capsys, "predict", finished[0], source, "-o", output)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize("side", ["user", "item"])
def test_ids_that_went_through_floats_are_no_new_ones(
    finished, monkeypatch, capsys, tmp_path, side
):
    """Interactions of theirs would be histories of users that nobody asks about."""
    pairs, later = tmp_path / "pairs.csv", tmp_path / "later.csv"
    pairs.write_text("user,item\n1,3\n")
    event = {"user": "1", "item": "3"}
    event[side] += ".0"
    later.write_text(f"user,item,label\n{event['user']},{event['item']},1\n")
    predict = ["predict", finished[0], pairs, "-o", tmp_path / "scored.csv"]
    code, _, err = call(monkeypatch, capsys, *predict, "--events", later)
    assert code == 2
    assert f"{side} {event[side]!r} is not known, but '{event[side][:-2]}' is" in err
    if side == "item":
        later.write_text("item,title\n3.0,Film 3\n")
        code, _, err = call(monkeypatch, capsys, *predict, "--items", later)
    else:
        code, _, err = call(monkeypatch, capsys, "recommend", finished[0], "--user", "1.0")
    assert code == 2
    assert f"write the column {side!r} as whole numbers or text" in err


def test_recommendations_of_a_user_whom_the_log_lacks_say_so(finished, monkeypatch, capsys):
    asked = ["recommend", finished[0], "--user", "1", "--user", "nobody", "-k", 2]
    code, out, err = call(monkeypatch, capsys, *asked)
    assert code == 0
    assert "nobody" in out
    assert err.splitlines()[-1] == "not in the log, ranked as new users: nobody"


def test_the_input_is_not_overwritten(finished, monkeypatch, capsys, tmp_path):
    source = tmp_path / "pairs.csv"
    source.write_text("user,item\n1,3\n")
    code, _, err = call(monkeypatch, capsys, "predict", finished[0], source, "-o", source)
    assert code == 2
    assert "is the input" in err
    assert source.read_text() == "user,item\n1,3\n"


def test_a_run_goes_on_from_its_directory_alone(finished, monkeypatch, capsys, tmp_path):
    directory = shutil.copytree(finished[0], tmp_path / "run")
    code, out, err = call(monkeypatch, capsys, "run", "--resume", "--out", directory, "--json")
    assert code == 0, err
    assert err.count("done before") == 3
    assert json.loads(out)["settings"]["stage1"]["epochs"] == 3  # as in the run, not the preset
