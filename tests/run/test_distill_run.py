"""A run whose language model teaches its CRM."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

from command_line import call, options
from corellarec.config import load_config
from corellarec.llm.score import Cost
from corellarec.run import distill, scores
from corellarec.run.prepare import prepare_log
from corellarec.run.stages import drawn_rows, train_stage
from corellarec.run.weights import final_crm
from corellarec.run.workspace import STAGES, Workspace
from corellarec.train.checkpoint import load_tensors


@pytest.fixture
def run(tiny_settings, tmp_path):
    """A run whose stages are done, and which is to teach its CRM."""
    settings = [*tiny_settings, "distill.rows=300", "distill.weights=[0.4, 0.9]"]
    run = Workspace(load_config(settings=settings), tmp_path / "run", Console(quiet=True))
    run.start()
    prepare_log(run)
    for stage in STAGES:
        train_stage(run, stage)
    return run


def answer(run, monkeypatch, logits):
    """Put answers in the LLM's place: a function of row numbers."""

    def score(run, split, count):
        count = count or 10**9
        rows = run.log.rows_of(split)[:count]
        directory = run.directory / "scores" / split
        directory.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(
            {"row": rows.numpy(), "llm_logit": logits(rows).astype(np.float32)}
        ).write_parquet(directory / "scores.parquet")
        return Cost()

    monkeypatch.setattr(distill, "score", score)


def test_a_teacher_that_is_right_keeps_the_labels_and_one_of_noise_blurs_them(run, monkeypatch):
    label = run.log._label.numpy()
    config = run.config
    monkeypatch.setattr(
        run, "config", config.model_copy(
            update={"distill": config.distill.model_copy(update={"rows": "all"})}
        ),
    )  # fmt: skip
    generator = np.random.default_rng(0)
    answer(run, monkeypatch, lambda rows: generator.normal(scale=3, size=len(rows)))
    noise = distill._task(run, 0.9)
    answer(run, monkeypatch, lambda rows: 6.0 * label[rows.numpy()] - 3.0)
    wise = distill._task(run, 0.9)
    train = run.log.rows_of("train")
    truth = run.log.labels(train).float()
    assert (wise.target[train] - truth).abs().mean() < 0.1
    assert (noise.target[train] - truth).abs().mean() > (wise.target[train] - truth).abs().mean()
    assert torch.isnan(wise.target[run.log.rows_of("test")]).all()


def test_the_best_on_validation_stays(run):
    found = distill.distill(run)
    losses = found.validation_log_loss
    assert set(losses) == {"0.0", "0.4", "0.9"}
    assert losses[str(found.weight)] == min(losses.values())
    of_stages = json.loads((run.directory / "stage2" / "manifest.json").read_text())
    assert losses["0.0"] == of_stages["best"]["crm."]
    assert not (run.directory / "distilling").exists()
    assert not list((run.directory / "scores").glob("*.pieces"))
    crm = final_crm(run)[0].state_dict()
    folder = "distilled" if found.weight else "stage2"
    weights = load_tensors(run.directory / folder, "model")
    assert all(torch.equal(weights[f"crm.{name}"], crm[name]) for name in crm)


def test_the_llm_teaches_on_rows_that_it_was_not_tuned_on(run):
    scores.score(run, "train", 300)
    taught = set(scores.llm_logits(run, "train")[0].tolist())
    assert len(taught) == 300
    assert not taught & {*drawn_rows(run, 2)[0].tolist(), *drawn_rows(run, 3)[0].tolist()}


def test_a_killed_scoring_goes_on_where_it_was(run, monkeypatch):
    monkeypatch.setattr(scores, "PIECE", 100)
    scored, whole = [], run.scorer.logits

    def logits(samples, answered):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(len(samples))
        return whole(samples, answered)

    monkeypatch.setattr(run.scorer, "logits", logits)
    with pytest.raises(KeyboardInterrupt):
        scores.score(run, "train", 300)
    monkeypatch.setattr(
        run.scorer, "logits", lambda samples, done: scored.append(0) or whole(samples, done)
    )
    cost = scores.score(run, "train", 300)
    assert scored == [100, 100, 0]
    rows, logit = scores.llm_logits(run, "train")
    assert cost.samples == len(rows) == 300
    samples = [run.log.samples(part) for part in rows.split(100)]
    expected = torch.cat([whole(part, lambda _: None) for part in samples])
    assert logit == pytest.approx(expected.numpy(), abs=1e-4)


def test_distilling_from_the_command_line(tiny_settings, monkeypatch, capsys, tmp_path):
    arguments = ["run", "--out", tmp_path / "run", *options(tiny_settings)]
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 0, err
    more = [*arguments, "--resume", "--json", "--set", "distill.rows=200", "--set",
            "distill.weights=[0.5]"]  # fmt: skip
    code, out, err = call(monkeypatch, capsys, *more)
    assert code == 0, err
    assert "stage 3: done before" in err
    assert "distillation: weight" in err
    assert json.loads(out)["distillation"]["validation_log_loss"].keys() == {"0.0", "0.5"}
