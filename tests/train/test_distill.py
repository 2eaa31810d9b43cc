"""What the LLM teaches the CRM: targets, the gate, and the step of a run."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from scipy.special import expit

from command_line import call, options
from corellarec.config import load_config
from corellarec.run import run as steps
from corellarec.run.run import STAGES, Run
from corellarec.train.checkpoint import load_tensors
from corellarec.train.distill import Gate, Lesson, soft_targets


def draw(rows=4000, seed=0):
    """A lesson whose LLM knows the truth of popular items and nothing of the others."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(scale=2, size=rows)
    label = (generator.random(rows) < expit(truth)).astype(np.int8)
    count = generator.choice([1.0, 1000.0], rows)
    llm = np.where(count > 1, truth, generator.normal(scale=2, size=rows))
    lesson = Lesson(llm, generator.integers(1, 90, rows) * 1.0, count, generator.random(rows))
    return lesson, label, count > 1


def test_the_gate_opens_where_the_llm_is_better():
    lesson, label, popular = draw()
    gate = Gate(lesson, label, np.zeros(len(label)))(lesson)
    assert ((gate >= 0) & (gate <= 1)).all()
    assert gate[popular].min() > 0.5
    assert gate[popular].mean() > gate[~popular].mean() + 0.1


def test_a_gate_with_one_outcome_is_that_outcome():
    lesson, label, _ = draw(50)
    surely = np.where(label == 1, 30.0, -30.0)
    assert (Gate(lesson, label, surely)(lesson) == 0).all()


def test_targets_lie_between_label_and_answer():
    lesson, label, _ = draw(200)
    gate = np.linspace(0, 1, 200)
    assert soft_targets(label, lesson, gate, 0.0) == pytest.approx(label)
    assert soft_targets(label, lesson, np.ones(200), 1.0) == pytest.approx(expit(lesson.llm_logit))
    half = soft_targets(label, lesson, gate, 0.5)
    low = np.minimum(label, expit(lesson.llm_logit))
    assert ((half >= low) & (half <= np.maximum(label, expit(lesson.llm_logit)))).all()
    assert half[0] == label[0]


@pytest.fixture
def run(tiny_settings, tmp_path):
    """A run whose stages are done, and which is to teach its CRM."""
    settings = [*tiny_settings, "distill.rows=300", "distill.weights=[0.4, 0.9]"]
    run = Run(load_config(settings=settings), tmp_path / "run", Console(quiet=True))
    run.start()
    run.prepare()
    for number in STAGES:
        run.train_stage(number)
    return run


def answer(run, monkeypatch, logits):
    """Put answers in the LLM's place: a function of row numbers."""

    def score(split, count):
        count = count or 10**9
        rows = run.log.rows_of(split)[:count]
        directory = run.directory / "scores" / split
        directory.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(
            {"row": rows.numpy(), "llm_logit": logits(rows).astype(np.float32)}
        ).write_parquet(directory / "scores.parquet")
        return {}

    monkeypatch.setattr(run, "score", score)


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
    plain = run.distil()["validation_log_loss"]["0.0"]
    noise = run._distilling(0.9)
    answer(run, monkeypatch, lambda rows: 6.0 * label[rows.numpy()] - 3.0)
    wise = run._distilling(0.9)
    train = run.log.rows_of("train")
    truth = run.log.labels(train).float()
    assert (wise.target[train] - truth).abs().mean() < 0.1
    assert (noise.target[train] - truth).abs().mean() > (wise.target[train] - truth).abs().mean()
    assert torch.isnan(wise.target[run.log.rows_of("test")]).all()
    assert plain > 0


def test_the_best_on_validation_stays(run):
    found = run.distil()
    losses = found["validation_log_loss"]
    assert set(losses) == {"0.0", "0.4", "0.9"}
    assert losses[str(found["weight"])] == min(losses.values())
    of_stages = json.loads((run.directory / "stage2" / "manifest.json").read_text())
    assert losses["0.0"] == of_stages["best"]["crm."]
    assert not (run.directory / "distilling").exists()
    assert not list((run.directory / "scores").glob("*.pieces"))
    crm = run.trained_crm().state_dict()
    folder = "distilled" if found["weight"] else "stage2"
    weights = load_tensors(run.directory / folder, "model")
    assert all(torch.equal(weights[f"crm.{name}"], crm[name]) for name in crm)


def test_the_llm_teaches_on_rows_that_it_was_not_tuned_on(run):
    run.score("train", 300)
    taught = set(run._scored("train")[0].tolist())
    assert len(taught) == 300
    assert not taught & {*run.drawn(2).tolist(), *run.drawn(3).tolist()}


def test_a_killed_scoring_goes_on_where_it_was(run, monkeypatch):
    monkeypatch.setattr(steps, "PIECE", 100)
    scored, whole = [], run.scorer.logits

    def logits(samples, answered):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(len(samples))
        return whole(samples, answered)

    monkeypatch.setattr(run.scorer, "logits", logits)
    with pytest.raises(KeyboardInterrupt):
        run.score("train", 300)
    monkeypatch.setattr(
        run.scorer, "logits", lambda samples, done: scored.append(0) or whole(samples, done)
    )
    cost = run.score("train", 300)
    assert scored == [100, 100, 0]
    rows, logit = run._scored("train")
    assert cost["samples"] == len(rows) == 300
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
    assert "taught by the LLM: weight" in err
    assert json.loads(out)["distilled"]["validation_log_loss"].keys() == {"0.0", "0.5"}
