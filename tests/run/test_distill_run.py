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
from corellarec.run.members import train_members
from corellarec.run.prepare import prepare_log
from corellarec.run.stages import drawn_rows, train_stage
from corellarec.run.weights import final_networks
from corellarec.run.workspace import STAGES, Workspace
from corellarec.train.checkpoint import load_tensors

MEMBER = """crm.members=[{crm={model="fm"}, stage1={epochs=3}}]"""


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


def test_targets_lie_between_label_and_answer(run, monkeypatch):
    label = run.log.labels(run.log.rows_of("train")).float()
    answer(run, monkeypatch, lambda rows: 3.0 * run.log._label.numpy()[rows.numpy()] - 1.5)
    train, (full, half) = run.log.rows_of("train"), (distill.targets(run, w) for w in (1.0, 0.5))
    taught = torch.arange(300)  # those that have an answer
    assert (full[train][taught] > 0).all()
    assert ((full[train] > 0.5) == (label > 0.5))[taught].all()
    torch.testing.assert_close(half[train][taught], (label + full[train])[taught] / 2)
    assert half[train][300:].equal(label[300:])
    assert full[run.log.rows_of("test")].isnan().all()


@pytest.fixture
def several(run):
    """The same run with a second network in its CRM."""
    members = load_config(settings=[MEMBER]).crm.members
    crm = run.config.crm.model_copy(update={"members": members})
    run.config = run.config.model_copy(update={"crm": crm})
    train_members(run)
    return run


def test_of_each_network_the_best_on_validation_stays(several):
    run, found = several, distill.distill(several)
    assert [one.network for one in found] == ["dcnv2", "fm"]
    networks, steps = final_networks(run), ("distilled", "distilled-member1")
    for one, network, step, before in zip(
        found, networks, steps, ("stage2", "member1"), strict=True
    ):
        losses = one.validation_log_loss
        assert set(losses) == {"0.0", "0.4", "0.9"}
        assert losses[str(one.weight)] == min(losses.values())
        of_before = json.loads((run.directory / before / "manifest.json").read_text())
        assert losses["0.0"] == of_before["best"]["crm."]
        weights = load_tensors(run.directory / (step if one.weight else before), "model")
        state = network.state_dict()
        assert all(torch.equal(weights[f"crm.{name}"], state[name]) for name in state)
    assert not (run.directory / "distilling").exists()
    assert not list((run.directory / "scores").glob("*.pieces"))
    assert distill.distill(run) == found


def test_a_good_teacher_is_kept_and_makes_each_network_better(several, monkeypatch):
    """The LLM knows the rate of each item in all rows, validation's and test's among them."""
    teach = several.config.distill.model_copy(update={"rows": "all"})
    several.config = several.config.model_copy(update={"distill": teach})
    log, label = several.log, several.log._label.double()
    rate = torch.zeros(log.items.height, dtype=torch.double).scatter_add_(0, log.item.long(), label)
    rate /= torch.bincount(log.item.long(), minlength=log.items.height).clip(1)
    logit = rate.clip(0.05, 0.95).logit().numpy()
    answer(several, monkeypatch, lambda rows: logit[log.item[rows].numpy()])
    for one in distill.distill(several):
        assert one.weight > 0
        assert one.validation_log_loss[str(one.weight)] < one.validation_log_loss["0.0"]


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
    assert "distillation, stream: weight" in " ".join(err.split())
    [found] = json.loads(out)["distillation"]
    assert found["network"] == "stream"
    assert found["validation_log_loss"].keys() == {"0.0", "0.5"}
