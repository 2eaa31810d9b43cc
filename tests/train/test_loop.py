import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from corellarec.base.errors import ArtifactError
from corellarec.config import CRM_MODELS, CrmConfig, LoraConfig, StageConfig
from corellarec.crm.build import build_crm
from corellarec.llm.load import AnswerModel, load_model
from corellarec.llm.lora import add_adapter
from corellarec.train import loop
from corellarec.train.checkpoint import Progress, load_trainable, trainable_state
from corellarec.train.loop import learning_rate_factor, train


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))

    def forward(self, batch):
        x, y = batch
        loss = (self.net(x).squeeze(1) - y).square().mean()
        return loss, {"half": loss.detach() / 2}


class Normalised(Regression):
    """A network whose batch normalisation keeps statistics, in buffers and nowhere else."""

    def __init__(self):
        super().__init__()
        self.net[1] = nn.BatchNorm1d(8, affine=False)


class Task:
    """Stops the process, in a manner of speaking, after ``die_after`` validations."""

    def __init__(self, die_after=99, worse=False, model=Regression):
        self.model = model()
        self.parameter_groups = [{"params": list(self.model.parameters()), "lr": 0.01}]
        self.selection = {"net.": "loss"}
        self.die_after, self.worse, self.validations = die_after, worse, 0
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(64, 3, generator=generator)
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5])

    def batches(self, epoch):
        order = torch.randperm(64, generator=torch.Generator().manual_seed(epoch))
        return order.split(8)

    def size(self, part):
        return len(part)

    def read(self, part):
        return self.x[part], self.y[part]

    def validate(self):
        self.validations += 1
        if self.validations > self.die_after:
            raise KeyboardInterrupt
        with torch.no_grad():
            loss = float((self.model.net(self.x).squeeze(1) - self.y).square().mean())
        return {"loss": float(self.validations) if self.worse else loss}


CONFIG = StageConfig(epochs=4, evaluations=2, weight_decay=0.01)


def run(task, directory, key="k", config=CONFIG):
    return train(
        task,
        config,
        progress=Progress(directory, key),
        seed=3,
        accelerator=Accelerator(cpu=True),
    )


@pytest.mark.parametrize("model", [Regression, Normalised])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_that_was_killed_ends_like_one_that_was_not(tmp_path, monkeypatch, accumulate, model):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    config = CONFIG.model_copy(update={"accumulate": accumulate})
    whole, cut = Task(model=model), Task(die_after=4, model=model)
    state = run(whole, tmp_path / "a", config=config)
    with pytest.raises(KeyboardInterrupt):
        run(cut, tmp_path / "b", config=config)
    again = Task(model=model)
    continued = run(again, tmp_path / "b", config=config)
    assert again.validations < whole.validations
    assert continued.best == pytest.approx(state.best)
    assert continued.best_step == state.best_step
    torch.testing.assert_close(whole.model.state_dict(), again.model.state_dict(),
                               atol=1e-6, rtol=1e-5)  # fmt: skip


def test_the_best_weights_keep_the_statistics_they_were_validated_with(tmp_path):
    task = Task(worse=True, model=Normalised)
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    run(task, tmp_path / "p")
    for name, tensor in task.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_statistics_are_kept_in_checkpoints_and_restored():
    trained, fresh = Normalised(), Normalised()
    trained.net(torch.randn(32, 3) + 5)
    state = trainable_state(trained)
    assert {"net.1.running_mean", "net.1.running_var", "net.1.num_batches_tracked"} < state.keys()
    load_trainable(fresh, state, "here")
    assert torch.equal(fresh.net[1].running_mean, trained.net[1].running_mean)
    assert fresh.net[1].num_batches_tracked == 1
    without = {name: tensor for name, tensor in state.items() if "running" not in name}
    with pytest.raises(ArtifactError, match="does not fit .*running_mean"):
        load_trainable(fresh, without, "here")


@pytest.mark.parametrize("name", CRM_MODELS)
def test_states_of_the_crms_are_their_parameters(log, name):
    model = build_crm(CrmConfig(model=name, embedding_dim=8), log.features, torch.device("cpu"))
    assert trainable_state(model).keys() == dict(model.named_parameters()).keys()


def test_buffers_of_the_language_model_are_left_out(tiny_llm):
    model, _ = load_model(str(tiny_llm), torch.float32, torch.device("cpu"))
    model.register_buffer("constant", torch.ones(3))
    answer_model = AnswerModel(add_adapter(model, LoraConfig(rank=2)), (5, 6))
    for module in (answer_model, nn.ModuleDict({"llm": answer_model})):
        assert all("lora" in name for name in trainable_state(module))


def test_checkpoints_of_another_key_or_damaged_ones_are_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(Task(die_after=4), tmp_path / "p")
    assert Progress(tmp_path / "p", "other").newest() is None
    directory, facts = Progress(tmp_path / "p", "k").newest()
    assert facts["step"] > 0
    content = bytearray((directory / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (directory / "model.safetensors").write_bytes(content)
    assert Progress(tmp_path / "p", "k").newest() is None


def test_best_weights_and_patience(tmp_path):
    task = Task(worse=True)
    before = [p.detach().clone() for p in task.model.parameters()]
    state = run(task, tmp_path / "p", config=CONFIG.model_copy(update={"patience": 2}))
    assert state.step < 32
    assert len(state.history) == 3
    assert state.best_step == {"net.": 0}
    for one, other in zip(before, task.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_learns_and_logs(tmp_path):
    task = Task()
    state = run(task, tmp_path / "p")
    assert state.step == 32
    assert [record["step"] for record in state.history] == [0, 4, 8, 12, 16, 20, 24, 28, 32]
    assert state.best["net."] < state.history[0]["loss"]
    assert state.history[1]["half"] > 0


def test_learning_rate_counts_steps():
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert factors.index(max(factors)) in (9, 10)
    assert factors[99] == pytest.approx(0.1, abs=0.01)
    assert factors[55] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 2)))


def test_the_schedule_ends_where_training_ends_whatever_the_batch_size(tmp_path, monkeypatch):
    """A schedule that counts samples, or epochs, would be elsewhere after half as many steps."""
    rates = []
    monkeypatch.setattr(loop, "clip_gradients", lambda parameters, norm: None)

    def noted(optimizer, closure=None):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, closure)

    step = loop.LazyAdamW.step
    monkeypatch.setattr(loop.LazyAdamW, "step", noted)
    run(Task(), tmp_path / "p")
    assert rates == [0.01 * learning_rate_factor(i, 32, CONFIG.warmup) for i in range(32)]


def test_a_state_of_another_shape_is_refused():
    with pytest.raises(ArtifactError, match="does not fit"):
        load_trainable(nn.Linear(2, 2), {"weight": torch.zeros(2, 2)}, "here")
    state = {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}
    with pytest.raises(ArtifactError, match=r"here: weight has shape \(3, 2\)"):
        load_trainable(nn.Linear(2, 2), state, "here")


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path):
    class Halves(Task):
        def batches(self, epoch):
            return [half for batch in super().batches(epoch) for half in batch.split(4)]

    whole, halves = Task(), Halves()
    for task in (whole, halves):
        task.model.net[2].p = 0.0
    run(whole, tmp_path / "a")
    state = run(halves, tmp_path / "b", config=CONFIG.model_copy(update={"accumulate": 2}))
    assert state.step == 4 * 8
    for a, b in zip(whole.model.parameters(), halves.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
