"""End to end, through the command line, on a small MovieLens and a tiny language model."""

import json
import re
import shutil
import tomllib
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import log_loss

from command_line import call, options
from corellarec.config import with_settings
from corellarec.evaluation.results import Evaluation
from corellarec.run.records import read_run_config, write_run_config
from data.test_tables import ITEMS, write_log


def metrics_of(result):
    """The metrics of each predictor."""
    return {row["key"]: row["metrics"] for row in result["table"]}


def test_run_fills_the_directory(finished):
    directory, result = finished
    for name in ("config.toml", "metrics.json", "report.html", "cascade/cascade.json",
                 "cascade/adapter/adapter_model.safetensors", "stage1/model.safetensors",
                 "stage2/model.safetensors", "stage3/manifest.json"):  # fmt: skip
        assert (directory / name).is_file(), name
    assert not list(directory.glob("*.progress"))
    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics.pop("sha256")
    assert metrics == result
    assert result["rows"] == result["data"]["splits"]["test"]["rows"]
    assert result["stages"]["stage2"]["history"][-1].keys() >= {
        "llm_log_loss", "crm_log_loss", "align_loss",
    }  # fmt: skip
    assert metrics_of(result)["crm"]["auc"]["value"] > 0.55
    tokens = result["costs"]["layout_tokens"]
    assert result["costs"]["llm_tokens"] < tokens["stream"] < tokens["paper"]


def test_the_report_is_one_file_that_needs_no_other(finished):
    directory, _ = finished
    needs = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            for name, value in attrs:
                if name in ("src", "href", "xlink:href") and not value.startswith("#"):
                    needs.append((tag, value))

    text = (directory / "report.html").read_text()
    Links().feed(text)
    assert needs == []
    assert text.count("<svg") == 8  # AUC and log loss twice, calibration, three stages


def test_resume_of_a_finished_run_does_nothing_again(finished, monkeypatch, capsys, tiny_settings):
    directory, result = finished
    code, out, err = call(monkeypatch, capsys, "run", "--out", directory, "--resume", "--json",
                          *options(tiny_settings))  # fmt: skip
    assert code == 0
    assert err.count("done before") == 3
    again = json.loads(out)
    assert metrics_of(again) == metrics_of(result)


def test_an_existing_run_is_not_overwritten(finished, monkeypatch, capsys, tiny_settings):
    directory, _ = finished
    arguments = ["run", "--out", directory, *options(tiny_settings)]
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "--resume continues it" in err
    code, _, err = call(monkeypatch, capsys, *arguments, "--resume", "--set", "seed=5")
    assert code == 2
    assert "seed was 0, is 5" in err


def test_a_finished_run_takes_another_budget_without_training(finished, monkeypatch, capsys,
                                                               tiny_settings):  # fmt: skip
    directory, result = finished
    before = (directory / "stage3" / "manifest.json").stat().st_mtime_ns
    scores = (directory / "scores" / "test" / "scores.parquet").stat().st_mtime_ns
    for budget in (0.4, 0.2):
        code, out, _ = call(monkeypatch, capsys, "run", "--out", directory, "--resume", "--json",
                            *options([*tiny_settings, f"cascade.budget={budget}"]))  # fmt: skip
        assert code == 0
        assert json.loads(out)["router"]["budget"] == budget
    assert metrics_of(json.loads(out)) == metrics_of(result)
    assert (directory / "stage3" / "manifest.json").stat().st_mtime_ns == before
    assert (directory / "scores" / "test" / "scores.parquet").stat().st_mtime_ns == scores


def test_report_info_and_evaluate(finished, monkeypatch, capsys):
    directory, result = finished
    code, out, _ = call(monkeypatch, capsys, "report", directory)
    assert code == 0
    assert "deployed cascade" in out
    code, out, _ = call(monkeypatch, capsys, "info", directory, "--json")
    found = json.loads(out)["status"]
    steps = ("data", "stage1", "stage2", "stage3", "cascade", "evaluated")
    assert found["done"] == dict.fromkeys(steps, True)
    assert found["skipped"] == {"distilled": "distill.rows = 0"}
    code, out, _ = call(monkeypatch, capsys, "info", directory)
    assert re.search(r"distilled +skipped: distill.rows = 0", out)
    assert "not yet" not in out
    code, out, _ = call(monkeypatch, capsys, "evaluate", directory, "--json")
    assert metrics_of(json.loads(out)) == metrics_of(result)


def test_a_run_made_on_a_gpu_can_be_looked_at_without_one(finished, monkeypatch, capsys, tmp_path):
    directory = tmp_path / "r"
    shutil.copytree(finished[0], directory)
    config = with_settings(read_run_config(directory), {"device": "cuda"})
    write_run_config(directory, config)
    metrics = Evaluation.from_json((directory / "metrics.json").read_text())
    metrics = replace(metrics, settings=config.model_dump(mode="json"))
    metrics.save(directory / "metrics.json")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in ("info", "report"):
        code, out, err = call(monkeypatch, capsys, command, directory)
        assert code == 0, err
        assert "deployed cascade" in out


def test_predict_writes_all_columns(finished, monkeypatch, capsys, tmp_path):
    directory, _ = finished
    pairs = pl.DataFrame({"user": ["1", "1", "nobody"], "item": ["3", "4", "3"], "note": [1, 2, 3]})
    pairs.write_csv(tmp_path / "in.csv")
    pairs.write_parquet(tmp_path / "in.parquet")
    for suffix in ("csv", "parquet"):
        code, out, _ = call(monkeypatch, capsys, "predict", directory, tmp_path / f"in.{suffix}",
                            "-o", tmp_path / f"out.{suffix}", "--json")  # fmt: skip
        assert code == 0
        assert json.loads(out)["unknown_users"] == 1
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found.columns == ["user", "item", "note", "p", "p_crm", "p_llm", "source", "entropy"]
    assert found["user"].to_list() == ["1", "1", "nobody"]
    assert found["p"].is_between(0, 1).all()
    assert (found["source"] == "crm").all()  # validation shows no gain from a random model
    assert found["p_llm"].is_null().all()
    assert (found["p"] == found["p_crm"]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,movie\n1,2\n", "no column 'item'; found: user, movie"),
        ("user,item\n1,2\n1,none\n", "row 2: item 'none' is not known; 1 such"),
        ("user,item,p\n1,2,3\n", "rename the column 'p'"),
        ("", "cannot be read"),
    ],
)
def test_bad_pairs(finished, monkeypatch, capsys, tmp_path, text, message):
    (tmp_path / "in.csv").write_text(text)
    code, _, err = call(monkeypatch, capsys, "predict", finished[0], tmp_path / "in.csv",
                        "-o", tmp_path / "out.csv")  # fmt: skip
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


def test_a_flipped_byte_is_found(tiny_settings, monkeypatch, capsys, tmp_path):
    arguments = ["--out", tmp_path / "r", *options(tiny_settings)]
    assert call(monkeypatch, capsys, "train", "--stage", 1, *arguments)[0] == 0
    path = tmp_path / "r" / "stage1" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, _, err = call(monkeypatch, capsys, "train", "--stage", 2, *arguments)
    assert code == 2
    assert "stage1/model.safetensors has changed since it was written" in err
    assert not (tmp_path / "r" / "stage2").exists()


def test_stages_go_in_order(tiny_settings, monkeypatch, capsys, tmp_path):
    arguments = ["--out", tmp_path / "r", *options(tiny_settings)]
    code, _, err = call(monkeypatch, capsys, "train", "--stage", 3, *arguments)
    assert code == 2
    assert "stage2 is not there" in err
    code, _, err = call(monkeypatch, capsys, "evaluate", tmp_path / "r")
    assert code == 2


def test_stages_can_be_left_out_and_the_papers_prompt_used(
    tiny_settings, monkeypatch, capsys, tmp_path
):
    settings = [*tiny_settings, "stage2.rows=0", "llm.layout=paper", "cascade.combine=replace"]
    code, out, _ = call(monkeypatch, capsys, "run", "--out", tmp_path / "r", "--json",
                        *options(settings))  # fmt: skip
    assert code == 0
    found = json.loads(out)
    assert list(found["stages"]) == ["stage1", "stage3"]
    assert list(found["costs"]["layout_tokens"]) == ["paper"]


def test_an_adapter_is_used_as_it_is(
    finished, tiny_settings, movielens, monkeypatch, capsys, tmp_path
):
    directory, _ = finished
    tuned = tmp_path / "tuned"
    code, out, err = call(monkeypatch, capsys, "adapter", directory, tuned, "--json")
    assert code == 0, err
    assert json.loads(out)["rows"] == {"stage2": 200, "stage3": 200}
    assert json.loads(out)["data"] == {"name": movielens.name}  # not where this machine keeps it
    given = ["--adapter", tuned, *options(tiny_settings)]
    code, out, err = call(monkeypatch, capsys, "run", "--out", tmp_path / "r", "--json", *given)
    assert code == 0, err
    assert list(json.loads(out)["stages"]) == ["stage1"]
    before, after = (
        pl.read_parquet(run / "scores" / "test" / "scores.parquet").sort("row")["llm_logit"]
        for run in (directory, tmp_path / "r")
    )
    assert (before - after).abs().max() < 0.02  # bfloat16
    for wrong, message in (
        ("llm.title_year=true", "tuned with another llm.title_year: set llm.title_year = false"),
        ("llm.template=books", 'tuned with another llm.template: set llm.template = "movies'),
        ("data.split=[0.5, 0.2, 0.3]", "it may have seen what it would be measured on"),
        ("llm.adapter=pretrained", "tuned with another llm.model"),
        ("llm.adapter=nowhere", "nowhere is not there"),
    ):
        given = ["--adapter", tuned, *options([*tiny_settings, wrong])]
        if wrong.startswith("llm.adapter"):
            given = options([*tiny_settings, wrong])
        out = tmp_path / wrong.replace(" ", "")
        code, _, err = call(monkeypatch, capsys, "run", "--out", out, *given)
        assert (code, message in err) == (2, True), f"{wrong}: {err}"


def test_models_are_listed(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "models", "--json")
    assert code == 0
    found = {one["name"]: one for one in json.loads(out)["models"]}
    assert found["llama-2-7b-chat"]["source"] == "meta-llama/Llama-2-7b-chat-hf"
    code, out, _ = call(monkeypatch, capsys, "models")
    assert all(one["source"] in out for one in found.values())


def test_hard_rows_all_rows_and_part_of_the_blocks(tiny_settings, monkeypatch, capsys, tmp_path):
    settings = [*tiny_settings, "stage2.subset=uncertain", "stage3.rows=all", "llm.lora.blocks=1",
                "stage2.accumulate=2", "stage3.accumulate=3", "llm.checkpointing=true"]  # fmt: skip
    code, out, err = call(monkeypatch, capsys, "run", "--out", tmp_path / "r", "--json",
                          *options(settings))  # fmt: skip
    assert code == 0, err
    stages = json.loads(out)["stages"]
    assert stages["stage3"]["step"] > stages["stage2"]["step"]
    settings = [*tiny_settings, "stage2.rows=all"]
    code, _, err = call(monkeypatch, capsys, "run", "--out", tmp_path / "s", *options(settings))
    assert code == 2
    assert 'stage2.rows, or set stage3.rows = "all"' in err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("align.pairs=[['last', 'deep9']]", "align.pairs: the CRM has no layer 'deep9'"),
        ("align.pairs=[['9', 'deep1']]", "align.pairs: the language model has no layer '9'"),
        ("data.path=/nowhere", "/nowhere is not there"),
        ("llm.model=/nowhere", "is no directory, .gguf file"),
        ("llm.template=/nowhere", "llm.template: '/nowhere' is neither a readable file"),
    ],
)
def test_wrong_settings_end_with_one_line(tiny_settings, monkeypatch, capsys, tmp_path, setting,
                                          message):  # fmt: skip
    code, out, err = call(monkeypatch, capsys, "run", "--out", tmp_path / "r",
                          *options([*tiny_settings, setting]))  # fmt: skip
    assert code == 2
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert out == ""


def test_prepare_reports_and_a_second_time_does_nothing(movielens, monkeypatch, capsys, tmp_path):
    arguments = ["prepare", "--set", f"data.path={movielens}", "--out", tmp_path / "run"]
    code, out, _err = call(monkeypatch, capsys, *arguments)
    assert code == 0
    for word in ("rows ", "users ", "positives ", "cold users", "left out", "MiB of memory"):
        assert word in out
    code, out, _ = call(monkeypatch, capsys, *arguments)
    assert "already prepared" in out
    code, out, _ = call(monkeypatch, capsys, *arguments, "--json")
    facts = json.loads(out)
    assert facts["up_to_date"] is True
    assert {"rows", "users", "items", "positives", "splits", "left_out"} <= facts.keys()


def test_bad_rows_stop_a_preparation_until_they_are_allowed(
    movielens, monkeypatch, capsys, tmp_path
):
    folder = tmp_path / "ml"
    shutil.copytree(movielens, folder)
    rows = (folder / "u.data").read_text().splitlines()
    rows[4], rows[8] = "1\t1\tbad\t5", "1\t1"
    (folder / "u.data").write_text("\n".join(rows) + "\n")
    arguments = ["prepare", "--set", f"data.path={folder}", "--out", tmp_path / "run"]
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "u.data, line 5: rating 'bad' is not a number; 2 such row(s) in all" in err
    assert not (tmp_path / "run" / "data").exists()
    code, out, err = call(monkeypatch, capsys, *arguments, "--skip-bad-rows", 2)
    assert code == 0
    assert "2 bad rows" in out


def test_data_check_writes_nothing(movielens, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = ["data", "check", "--set", f"data.path={movielens}"]
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 0
    assert "rows" in out
    assert "warning" in err
    facts = json.loads(call(monkeypatch, capsys, *arguments, "--json")[1])
    assert facts["warnings"] == [] or isinstance(facts["warnings"][0], str)
    assert not list(tmp_path.iterdir())


def test_from_own_files_to_a_run(tiny_settings, monkeypatch, capsys, tmp_path):
    """init-data, check and a run on a log of positives-only histories and untitled items."""
    write_log(tmp_path, rows=900).rename(
        {"who": "user_id", "sku": "item_id", "when": "timestamp", "stars": "rating"}
    ).write_csv(tmp_path / "log.csv")
    named = ITEMS.rename({"sku": "item_id", "name": "title"})
    named.with_columns(title=pl.when(pl.col("item_id") != "s4").then(pl.col("title"))).write_csv(
        tmp_path / "items.csv"
    )
    toml = tmp_path / "own.toml"
    code, _, err = call(monkeypatch, capsys, "init-data", tmp_path, "-o", toml)
    assert code == 0, err
    assert f"corellarec data check --config {toml}" in err
    assert tomllib.loads(toml.read_text())["llm"] == {"template": "items-rated"}
    code, _, err = call(monkeypatch, capsys, "init-data", tmp_path, "-o", toml)
    assert code == 2
    assert "--overwrite" in err
    code, _, err = call(monkeypatch, capsys, "data", "check", "--config", toml)
    assert code == 0
    assert "1 of 24 items (4%) have no title" in err
    own = [s for s in tiny_settings if not s.startswith("data.")]
    code, out, err = call(
        monkeypatch, capsys, "run", "--config", toml, "--out", tmp_path / "run",
        *options([*own, "llm.template=movies", "data.history=positives", "data.min_history=2"]),
        "--json",
    )  # fmt: skip
    assert code == 0, err
    assert "llm.template = 'movies' calls your items movies" in err
    result = json.loads(out)
    assert result["data"]["rows"] == 900 - 2 * 20
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("user,item\nw1,s4\nw2,s5\nnew,s6\n")
    code, _, err = call(
        monkeypatch, capsys, "predict", tmp_path / "run", pairs, "-o", tmp_path / "scored.csv"
    )
    assert code == 0, err
    assert pl.read_csv(tmp_path / "scored.csv")["p"].is_between(0, 1).all()


def test_an_external_crm_from_export_to_prediction(tiny_settings, monkeypatch, capsys, tmp_path):
    """The rows go out, come back with scores, and everything but the CRM's own stages works."""
    own = [s for s in tiny_settings if not s.startswith(("crm.", "stage1."))]
    rows = tmp_path / "rows.parquet"
    code, _, err = call(monkeypatch, capsys, "data", "export", "-o", rows, *options(own))
    assert code == 0, err
    table = pl.read_parquet(rows)
    assert table["split"].unique().sort().to_list() == ["test", "train", "validation"]
    train = table.filter(pl.col("split") == "train")
    liked = train.group_by("item").agg(score=(pl.col("label").sum() + 1) / (pl.len() + 2))
    scored = table.filter(pl.col("split") != "train").join(liked, on="item", how="left")
    scored = scored.with_columns(pl.col("score").fill_null(0.5))
    scored.write_parquet(tmp_path / "scores.parquet")
    settings = [*own, "crm.model=external", f"crm.external.scores={tmp_path}/scores.parquet"]
    arguments = ["run", "--out", tmp_path / "r", "--resume", "--json", *options(settings)]
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 0, err
    for stage in (1, 2):
        assert f"stage {stage}: skipped (the CRM is external)" in err
    result = json.loads(out)
    assert list(result["stages"]) == ["stage3"]
    assert result["costs"]["crm_ms"] is None
    test = scored.filter(pl.col("split") == "test")
    expected = log_loss(test["label"].to_numpy(), test["score"].to_numpy())
    assert metrics_of(result)["crm"]["log_loss"]["value"] == pytest.approx(expected, abs=1e-5)
    # Better scores under the same name: the cascade is fitted again, nothing is trained.
    trained = (tmp_path / "r" / "stage3" / "manifest.json").stat().st_mtime_ns
    scored.with_columns(score=0.2 + 0.6 * pl.col("label")).write_parquet(
        tmp_path / "scores.parquet"
    )
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 0, err
    assert metrics_of(json.loads(out))["crm"]["auc"]["value"] == 1.0
    assert (tmp_path / "r" / "stage3" / "manifest.json").stat().st_mtime_ns == trained
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("user,item\n1,3\n")
    predict = ["predict", tmp_path / "r", pairs, "-o", tmp_path / "out.csv"]
    code, _, err = call(monkeypatch, capsys, *predict)
    assert code == 2
    assert "no column 'score'" in err
    pairs.write_text("user,item,score\n1,3,0.8\n")
    code, _, err = call(monkeypatch, capsys, *predict)
    assert code == 0, err
    assert pl.read_csv(tmp_path / "out.csv")["p_crm"][0] > 0.5


def test_title_vectors_become_a_feature(tiny_settings, monkeypatch, capsys, tmp_path):
    path = tmp_path / "vectors.parquet"
    code, _, err = call(
        monkeypatch, capsys, "data", "title-vectors", "-o", path, *options(tiny_settings)
    )
    assert code == 0, err
    found = pl.read_parquet(path)
    assert found.schema["vector"].shape == (32,)  # pyright: ignore[reportAttributeAccessIssue]
    settings = [*tiny_settings, f"data.item_vectors={path}"]
    code, _out, err = call(monkeypatch, capsys, "train", "--stage", 1, "--out", tmp_path / "r",
                          "--json", *options(settings))  # fmt: skip
    assert code == 0, err
    weights = load_file(tmp_path / "r" / "stage1" / "model.safetensors")
    assert weights["crm.embedding.item.projections.0.weight"].shape == (64, 32)


def test_a_presets_variant_has_a_directory_of_its_own(monkeypatch, capsys, tmp_path, tiny_settings):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, "prepare", "--preset", "ml-100k/din",
                        *options(tiny_settings))  # fmt: skip
    assert code == 0, err
    assert 'model = "din"' in (tmp_path / "runs" / "ml-100k-din" / "config.toml").read_text()
