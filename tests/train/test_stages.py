import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import log_loss
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils._python_dispatch import TorchDispatchMode

from corellarec.base.errors import ConfigError
from corellarec.base.metrics import entropy, sigmoid
from corellarec.config import load_config
from corellarec.crm.batch import CrmReader
from corellarec.crm.build import build_crm
from corellarec.crm.model import CrmOutput
from corellarec.llm.layout import StreamLayout
from corellarec.llm.load import AnswerModel, LlmOutput, load_model
from corellarec.llm.template import load_template
from corellarec.train.checkpoint import Progress
from corellarec.train.loop import train
from corellarec.train.stages import (
    CrmExamples,
    CrmStageModel,
    CrmTask,
    LlmStageModel,
    draw_rows,
    least_confident,
    quality,
    rating_loss,
    take,
)


def test_the_loss_of_ratings_is_the_cross_entropy_of_those_that_are_known():
    answers = torch.randn(6, 5)
    out = LlmOutput(torch.zeros(6), answers, {})
    level, weight = torch.tensor([2, 0, 6, 4, 1, 3]), torch.tensor([1.0, 3.0, 2.0, 0.5, 1.0, 1.0])
    log_p = answers.log_softmax(1)
    each = torch.stack([-log_p[0, 0], -log_p[2, 4], -log_p[3, 2], -log_p[5, 1]])
    torch.testing.assert_close(rating_loss(out, level, None), each.sum() / 6)
    expected = (each * torch.tensor([1.0, 2.0, 0.5, 1.0])).sum() / 6
    torch.testing.assert_close(rating_loss(out, level, weight), expected)


@pytest.mark.parametrize(("template", "has_ratings"), [("movies-rated", True), ("movies", False)])
def test_the_language_model_is_tuned_towards_ratings(log, tiny_llm, template, has_ratings):
    model, tokenizer = load_model(str(tiny_llm), torch.float32, torch.device("cpu"))
    layout = StreamLayout(log, tokenizer, load_template(template).stream, 5, 12)
    llm = AnswerModel(model, layout.answers, negatives=layout.negatives)
    rows = log.rows_of("train")[:12]
    batch = llm.batch(layout.encode(log.samples(rows)))
    models = [LlmStageModel(llm, log, rows, weight) for weight in (0.0, 1.0)]
    losses = [float(model(batch).loss.detach()) for model in models]
    assert (losses[1] > losses[0] + 0.1) == has_ratings
    out = llm(batch)
    label = log.labels(rows)[batch.sample]
    torch.testing.assert_close(
        torch.tensor(losses[0]), binary_cross_entropy_with_logits(out.logit, label.float())
    )


@pytest.mark.parametrize("split", ["train", "validation"])
def test_chunks_hold_every_row_of_the_split_once(log, split):
    chunks = draw_rows(log, split, 7, seed=1)
    assert torch.cat(chunks).sort().values.tolist() == log.rows_of(split).tolist()
    for chunk in chunks:
        assert len(chunk) <= 7
        assert log.user[chunk].unique().numel() == 1
        assert (chunk[1:] - chunk[:-1] > 0).all()
    assert not torch.equal(torch.cat(chunks), torch.cat(draw_rows(log, split, 7, seed=2)))


def test_take_is_exact_and_stages_do_not_share_rows(log):
    chunks = draw_rows(log, "train", 7, seed=1)
    first, rest = take(chunks, 100)
    second, _ = take(rest, 100)
    assert len(first) == len(second) == 100
    assert not set(first.tolist()) & set(second.tolist())
    everything, rest = take(chunks, 10**9)
    assert len(everything) == len(log.rows_of("train"))
    assert rest == []
    assert len(take([], 5)[0]) == 0


def test_the_least_confident_windows_come_first(log):
    chunks = draw_rows(log, "train", 7, seed=1)
    logit = torch.linspace(-3, 3, len(log))[torch.randperm(len(log))]
    ordered = least_confident(chunks, logit)
    doubt = [float(entropy(sigmoid(logit[c].double().numpy())).mean()) for c in ordered]
    assert doubt == sorted(doubt, reverse=True)
    assert sorted(c[0].item() for c in ordered) == sorted(c[0].item() for c in chunks)


class _Stage1(TorchDispatchMode):
    """Stage 1 of an epoch, and how often it waits for a number from the device."""

    def __init__(self, log, batch_size, folder):
        super().__init__()
        self.waits = 0
        config = load_config(settings=["crm.model=dcnv2", "crm.embedding_dim=4", "stage1.epochs=1",
                                       f"stage1.batch_size={batch_size}"])  # fmt: skip
        reader = CrmReader(log, 10, torch.device("cpu"))
        torch.manual_seed(0)
        crm = build_crm(config.crm, log.features, torch.device("cpu"))
        task = CrmTask(crm, reader, log, config.stage1, seed=0)
        with self:
            self.state = train(
                task,
                config.stage1,
                progress=Progress(folder / str(batch_size), "k"),
                seed=0,
                accelerator=Accelerator(cpu=True),
            )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.waits += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_no_step_waits_for_a_number(log, tmp_path):
    few, many = _Stage1(log, 512, tmp_path), _Stage1(log, 64, tmp_path)
    assert many.state.step >= 6 * few.state.step
    assert many.waits == few.waits


class _Answers(torch.nn.Module):
    """A CRM that gives the answers it is given."""

    def forward(self, inputs):
        logit, ratings = inputs
        return CrmOutput(logit, {}, ratings)


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.5, 2.0, 0.5])])
def test_ratings_are_learned_where_they_are_known(weight):
    """Beside scikit-learn: which of three levels each row's rating is above; one row has none."""
    torch.manual_seed(0)
    logit, ratings = torch.randn(4), torch.randn(4, 2)
    label, level = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([2, 4, 3, 1], dtype=torch.int8)
    weights = np.ones(4) if weight is None else weight.numpy()
    above = np.array([[0, 0], [1, 1], [1, 0]])
    expected = log_loss(label, sigmoid(logit.numpy()), sample_weight=weights) * weights.mean()
    rating = log_loss(
        above.ravel(), sigmoid(ratings[:3].flatten().numpy()), sample_weight=weights[:3].repeat(2)
    )
    expected += 0.5 * rating * weights[:3].sum() / 4
    examples = CrmExamples((logit, ratings), label, weight, level)
    loss, parts = CrmStageModel(_Answers(), rating_weight=0.5)(examples)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert set(parts) == {"label_loss", "rating_loss"}
    without = CrmExamples((logit, None), label, weight, level)
    loss, parts = CrmStageModel(_Answers(), rating_weight=0.5)(without)
    assert float(loss) == pytest.approx(float(expected - 0.5 * rating * weights[:3].sum() / 4))
    assert parts == {}


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_diverged_training_is_an_error(odd):
    label = torch.tensor([0, 1])
    assert quality("crm", label, torch.tensor([-1.0, 1.0]))["crm_auc"] == 1
    with pytest.raises(ConfigError, match="diverged: the CRM's answers .* lower the learning_rate"):
        quality("crm", label, torch.tensor([0.0, odd]))
