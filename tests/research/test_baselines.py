"""The paper's baselines with a language model: end to end, and their parts."""

import json
import math
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoTokenizer

from command_line import call, options
from corellarec.config import load_config
from corellarec.research.baselines import ctrl, p5
from corellarec.research.baselines.experiment import Experiment
from corellarec.train import loop
from corellarec.train.checkpoint import Progress

SMALL = ["evaluate.test_rows=80", "stage3.learning_rate=0.01", "stage1.epochs=6"]


@pytest.mark.parametrize("name", ["tallrec", "ctrl", "p5"])
def test_a_baseline_from_the_command_line_and_again(
    name, tiny_settings, monkeypatch, capsys, tmp_path
):
    """A killed training goes on; a finished one is printed, and trains nothing."""
    monkeypatch.chdir(tmp_path)
    arguments = ["baseline", name, "--preset", "quick", *options([*tiny_settings, *SMALL])]
    with monkeypatch.context() as patched:
        killed_after_steps(patched, 2)
        with pytest.raises(Killed):
            call(patched, capsys, *arguments)
    code, out, err = call(monkeypatch, capsys, *arguments, "--json")
    assert code == 0, err
    assert "continuing from step 2" in err
    result = json.loads(out)
    directory = tmp_path / "runs" / f"quick-{name}"
    stored = json.loads((directory / "baseline.json").read_text())
    assert stored.pop("sha256")
    assert stored == result
    assert result["rows"] == (64 if name == "tallrec" else 200)
    assert result["test_rows"] == 80
    for metric in ("auc", "log_loss", "accuracy"):
        figure = result["test"][metric]
        assert figure["low"] <= figure["value"] <= figure["high"]
    scores = pl.read_parquet(directory / "scores.parquet")
    assert scores.columns == ["row", "logit"]
    assert scores["logit"].is_finite().all()
    assert not list(directory.glob("*.progress"))
    with monkeypatch.context() as patched:
        killed_after_steps(patched, 0)
        code, again, err = call(patched, capsys, *arguments, "--json")
        assert code == 0, err
        assert json.loads(again) == result
        code, table, _ = call(patched, capsys, *arguments)
        assert code == 0
    assert f"{result['test']['auc']['value']:.4f}" in table
    if name == "p5":
        assert "random weights" in table
    code, _, err = call(monkeypatch, capsys, *arguments, "--rows", 20)
    assert code == 2
    assert "is 20" in err
    # Other intervals: measured again, nothing trained.
    code, out, err = call(monkeypatch, capsys, *arguments, "--set", "evaluate.bootstrap=20",
                          "--json")  # fmt: skip
    assert code == 0, err
    assert "done before" in err
    assert json.loads(out)["test"]["auc"]["value"] == result["test"]["auc"]["value"]


class Killed(Exception):
    pass


def killed_after_steps(monkeypatch, steps):
    """Every step is followed by a checkpoint; after so many the training is interrupted."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    step, taken = loop.LazyAdamW.step, []

    def counted(self, *arguments):
        if len(taken) == steps:
            raise Killed
        taken.append(1)
        return step(self, *arguments)

    monkeypatch.setattr(loop.LazyAdamW, "step", counted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tallrex"], "no baseline named 'tallrex'; there are: tallrec, ctrl, p5"),
        (["tallrec", "--rows", "0"], "--rows: expected a number from 1, or all; found '0'"),
        (["p5", "--rows", "many"], "--rows: expected a number from 1, or all; found 'many'"),
        (["ctrl", "--model", "x/y"], "--model is for p5"),
        (["ctrl", "--set", "llm.adapter=pretrained"], "llm.adapter"),
        (["p5", "--model", "nowhere"], "--model: 'nowhere' is no directory"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(
    arguments, message, tiny_settings, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, "baseline", *arguments, *options(tiny_settings))
    assert code == 2
    assert message in err
    assert err.count("error:") == 1


def test_the_directory_of_a_run_is_left_alone(tiny_settings, monkeypatch, capsys, tmp_path):
    settings = [*options(tiny_settings), "--out", tmp_path / "r"]
    assert call(monkeypatch, capsys, "prepare", *settings)[0] == 0
    code, _, err = call(monkeypatch, capsys, "baseline", "ctrl", *settings)
    assert code == 2
    assert "holds a run" in err


def experiment(name, settings, folder, rows=200):
    found = Experiment(
        load_config(settings=settings), name, rows, None, folder, Console(quiet=True)
    )
    found.start()
    return found


# TALLRec


def test_tallrec_learns(tiny_settings, monkeypatch, capsys, tmp_path):
    """A random Llama tuned on all rows fits them better than the share of positives does."""
    settings = [*tiny_settings, "stage3.learning_rate=0.02", "stage3.epochs=2",
                "evaluate.test_rows=40"]  # fmt: skip
    code, out, err = call(monkeypatch, capsys, "baseline", "tallrec", "--rows", 160, "--json",
                          "--out", tmp_path / "t", *options(settings))  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["config"]["llm"]["layout"] == "paper"
    history = json.loads((tmp_path / "t" / "tuned" / "manifest.json").read_text())["history"]
    assert min(one["llm_log_loss"] for one in history[1:]) < history[0]["llm_log_loss"] - 0.02


# CTRL


def reference_loss(text, crm, subspaces, temperature):
    """InfoNCE in loops over samples and sub-vectors."""
    n, width = text.shape
    part = width // subspaces

    def cut(vector):
        return [vector[k * part : (k + 1) * part] for k in range(subspaces)]

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    def similarity(a, b):
        return sum(max(cosine(x, y) for y in cut(b)) for x in cut(a)) / temperature

    total = 0.0
    for one, other in ((text, crm), (crm, text)):
        for i in range(n):
            row = [similarity(one[i], other[j]) for j in range(n)]
            total += math.log(sum(math.exp(s) for s in row)) - row[i]
    return total / (2 * n)


@pytest.mark.parametrize("subspaces", [1, 2, 4])
def test_the_contrastive_loss_is_the_reference_in_loops(subspaces):
    torch.manual_seed(subspaces)
    text, crm = torch.randn(7, 12).double(), torch.randn(7, 12).double()
    loss = ctrl.contrastive_loss(text, crm, subspaces, 0.3)
    assert float(loss) == pytest.approx(reference_loss(text, crm, subspaces, 0.3), abs=1e-12)


def test_one_subspace_is_plain_infonce():
    torch.manual_seed(0)
    text, crm = torch.randn(9, 8), torch.randn(9, 8)
    cosine = torch.cosine_similarity(text.unsqueeze(1), crm.unsqueeze(0), dim=2) / 0.1
    same = torch.arange(9)
    cross_entropy = torch.nn.functional.cross_entropy
    plain = (cross_entropy(cosine, same) + cross_entropy(cosine.T, same)) / 2
    torch.testing.assert_close(ctrl.contrastive_loss(text, crm, 1, 0.1), plain)
    assert ctrl.contrastive_loss(text, crm, 4, 0.1) != pytest.approx(float(plain))


def test_ctrl_aligns_tunes_from_there_and_answers_with_the_crm(
    tiny_settings, monkeypatch, tmp_path
):
    settings = [*tiny_settings, "stage2.tokens_per_batch=600", "stage2.epochs=6",
                "stage1.epochs=8", "stage2.learning_rate=0.01"]  # fmt: skip
    here = experiment("ctrl", settings, tmp_path, rows=400)
    begun = []
    original = loop.trainable_state

    def watched(model):
        state = original(model)
        if not begun or begun[-1] is not model:
            begun.append(model)
            starts.append({name: tensor.clone() for name, tensor in state.items()})
        return state

    starts = []
    monkeypatch.setattr(loop, "trainable_state", watched)
    trained = ctrl.ctrl(here)
    facts = json.loads((tmp_path / "aligned" / "manifest.json").read_text())
    assert facts["best"][""] < facts["history"][0]["contrastive_loss"] - 0.04
    aligned = load_file(tmp_path / "aligned" / "model.safetensors")
    assert any(name.startswith("llm.") for name in aligned)
    assert len(starts) == 2
    fresh, tuning = starts
    for name, tensor in tuning.items():
        assert torch.equal(tensor, aligned[name]), name
    assert any(not torch.equal(fresh[name], tuning[name]) for name in tuning)
    tuned = load_file(tmp_path / "tuned" / "model.safetensors")
    assert any(not torch.equal(tuned[name], tuning[name]) for name in tuning)
    result = here.measure(trained)
    assert result.test["auc"].value > 0.55


def test_ctrl_needs_a_layer_to_align(tiny_settings, tmp_path, monkeypatch, capsys):
    settings = [s for s in tiny_settings if not s.startswith("crm.")]
    scores = tmp_path / "s.csv"
    scores.write_text("user,item,score\n")
    code, _, err = call(monkeypatch, capsys, "baseline", "ctrl", "--out", tmp_path / "r",
                        *options([*settings, "crm.model=external",
                                  f"crm.external.scores={scores}"]))  # fmt: skip
    assert code == 2
    assert "crm.model is 'external'" in err
    crm = SimpleNamespace(layer_widths={})
    with pytest.raises(ctrl.ConfigError, match="names none"):
        ctrl.ContrastiveModel(None, crm, None, None)  # pyright: ignore


# P5


@pytest.fixture
def small_p5(tiny_settings, log, tiny_llm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    torch.manual_seed(0)
    network = p5.small_t5(tokenizer)
    prompts = p5.P5Prompts(log, tokenizer, load_config(settings=tiny_settings).llm)
    return network, prompts


def test_padding_changes_no_answer(small_p5, log):
    network, prompts = small_p5
    rows = log.rows_of("train")[:60:3]
    model = p5.P5Model(network, prompts.answers, log.labels(rows))
    samples = log.samples(rows)
    together = p5.P5Scorer(model, prompts, 100_000).logits(samples)
    alone = p5.P5Scorer(model, prompts, 1).logits(samples)
    (batch,) = prompts.batches(samples, 100_000)
    assert (batch.mask == 0).any()
    assert all(bool((one.mask == 1).all()) for one in prompts.batches(samples, 1))
    assert together.std() > 1e-3
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_prompt_holds_the_user_the_history_and_the_target_alone(small_p5, log):
    _, prompts = small_p5
    row = int(log.rows_of("train")[8])
    samples = log.samples(torch.tensor([row]))
    text = prompts.text(*(int(c) for c in (samples.user, samples.begin, samples.end, samples.item)))
    user = log.users["id"][int(log.user[row])]
    assert text.startswith(f"User user_{user} has rated: ")
    assert text.endswith("Answer:")
    assert text.count("liked)") == min(5, int(samples.end - samples.begin))
    assert f"Will the user like {log.titles[int(log.item[row])]}?" in text


def test_p5_fits_its_training_rows(small_p5, log, tmp_path):
    network, prompts = small_p5
    rows = log.rows_of("train")[:20]
    model = p5.P5Model(network, prompts.answers, log.labels(rows))
    scorer = p5.P5Scorer(model, prompts, 1500)
    task = p5.P5Task(model, scorer, log, rows, rows, seed=0)
    config = load_config(settings=["stage2.epochs=12", "stage2.patience=12"]).stage2
    state = loop.train(task, config, progress=Progress(tmp_path, "k"), seed=0,
                       accelerator=Accelerator(cpu=True))  # fmt: skip
    assert state.best["model."] < state.history[0]["p5_log_loss"] - 0.03
    losses = [one["loss"] for one in state.history[1:]]
    assert losses[-1] < losses[0]


def test_p5_takes_a_pretrained_model(small_p5, tiny_llm, tiny_settings, monkeypatch, capsys,
                                     tmp_path):  # fmt: skip
    network, _ = small_p5
    network.save_pretrained(tmp_path / "t5")
    AutoTokenizer.from_pretrained(tiny_llm).save_pretrained(tmp_path / "t5")
    settings = options([*tiny_settings, "evaluate.test_rows=30"])
    arguments = ["baseline", "p5", "--out", tmp_path / "r", "--rows", 30, "--json", *settings]
    code, out, err = call(monkeypatch, capsys, *arguments, "--model", tmp_path / "t5")
    assert code == 0, err
    assert json.loads(out)["model"] == str(tmp_path / "t5")
    code, _, err = call(monkeypatch, capsys, *arguments, "--out", tmp_path / "s", "--model",
                        tiny_llm)  # fmt: skip
    assert code == 2
    assert "--model" in err
    assert "cannot be loaded" in err
