"""Training on a log without negatives: they are new each epoch; kinds of events have weights."""

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from corellarec.config import NegativesConfig, Stage3Config, load_config
from corellarec.crm.build import build_crm, build_reader
from corellarec.data.log import Log
from corellarec.data.prepare import prepare
from corellarec.llm.layout import StreamLayout
from corellarec.llm.load import AnswerModel, load_model, load_tokenizer
from corellarec.llm.score import LlmScorer
from corellarec.llm.sequence import tokens_read
from corellarec.llm.template import load_template
from corellarec.train.stages import CrmTask, LlmStageModel, LlmTask, draw_rows, take

CPU = torch.device("cpu")
CRMS = {
    "fields": ["crm.model=dcnv2", "crm.embedding_dim=4", "crm.statistics=true"],
    "stream": ["crm.model=stream", "crm.stream.width=8", "crm.stream.window=10"],
}


@pytest.fixture(scope="module")
def log(movielens, tmp_path_factory):
    directory = tmp_path_factory.mktemp("implicit") / "data"
    settings = [f"data.path={movielens}", "data.implicit=true"]
    prepare(load_config(settings=settings).data, directory)
    return Log.load(directory)


def task_of(log, crm, target=None, seed=0):
    config = load_config(settings=[*CRMS[crm], "stage1.batch_size=256"])
    torch.manual_seed(0)
    model = build_crm(config.crm, log.features, CPU)
    return CrmTask(model, build_reader(config.crm, log, CPU), log, config.stage1, seed, target)


def read(task, epoch):
    """An epoch's log, and its batches."""
    batches = [task.read(rows) for rows in task.batches(epoch)]
    return task.drawn, batches


@pytest.mark.parametrize("crm", list(CRMS))
def test_negatives_are_new_each_epoch_and_follow_from_seed_and_epoch(log, crm):
    task = task_of(log, crm)
    logs, epochs = zip(*(read(task, epoch) for epoch in (0, 1, 1)), strict=True)
    assert len({len(batches) for batches in epochs}) == 1
    assert not logs[0].item.equal(logs[1].item)
    assert logs[1].item.equal(logs[2].item)
    assert not read(task_of(log, crm, seed=1), 1)[0].item.equal(logs[1].item)
    for one, other in zip(epochs[1], read(task_of(log, crm), 1)[1], strict=True):
        assert all(a is b is None or a.equal(b) for a, b in zip(one[0], other[0], strict=True))
        assert one[1].equal(other[1])
    labels = torch.cat([examples.target for examples in epochs[0]])
    assert labels.mean() == pytest.approx(0.2, abs=0.01)
    assert task.validation.equal(log.rows_of("validation"))  # which are as they were drawn
    loss, _ = task.model(epochs[0][0])
    loss.backward()
    assert torch.isfinite(loss)
    measured = task.validate()
    assert 0 < measured["crm_auc"] < 1


def test_targets_belong_to_the_rows_as_they_are(log):
    target = torch.full((len(log),), 0.5)
    drawn, batches = read(task_of(log, "stream", target), 3)
    assert drawn is log
    assert (batches[0].target == 0.5).all()


def test_a_kind_of_events_multiplies_the_loss(log):
    heavy = log.rows.with_columns(
        weight=pl.when(pl.col("user") % 2 == 0).then(3.0).otherwise(1.0).cast(pl.Float32)
    )
    weighted = Log(heavy, log.users, log.items, log.features, "positives", "apart",
                   NegativesConfig())  # fmt: skip
    task = task_of(weighted, "fields")
    rows = task.batches(0)[0]
    batch = inputs, label, weight, _ = task.read(rows)
    user = weighted.user[rows]
    assert (weight[user % 2 == 0] / weight[user % 2 == 1].unique() == 3).all()
    task.model.eval()
    logit = task.model.crm(inputs).logit
    loss = binary_cross_entropy_with_logits(logit, label, reduction="none")
    assert task.model(batch).loss.item() == pytest.approx((loss * weight).mean().item())
    assert read(task_of(log, "fields"), 0)[1][0].weight is None


def test_the_stream_of_a_group_is_the_same_for_all_its_items(log, tiny_llm):
    """No line of a row's sequence before it is of the row's own time."""
    tokenizer = load_tokenizer(str(tiny_llm))
    template = load_template("movies-liked").stream
    layout = StreamLayout(log, tokenizer, template, history_length=5, window=20)
    digits, _ = log.liked
    rows = torch.cat([log.rows_of("validation")[:60], log.rows_of("train")[:60]])
    samples = log.samples(rows)
    read = {}
    for sequence in layout.encode(samples):
        whole = sequence.whole()
        for place, sample in zip(whole.places, whole.samples, strict=True):
            read[int(sample)] = tokenizer.decode(whole.ids[: place + 1])
    assert sorted(read) == list(range(len(rows)))
    no = template.no + "\n"
    for sample, text in read.items():
        row = int(rows[sample])
        lines = text.splitlines()
        title = log.titles[int(log.item[row])]
        assert lines[-1] == f"{digits[row]} {title} ->"
        assert no not in text  # the stream holds what the user did
        own = (log.user == log.user[row]) & (log._label == 1) & (log.time < log.time[row])
        before = [log.titles[item] for item in log.item[own].tolist()]
        shown = [line.removesuffix(" -> Yes").split(" ", 1)[1] for line in lines[1:-1]]
        assert shown == before[len(before) - len(shown) :]
        assert len(shown) >= min(5, len(before))
    assert np.unique(digits).tolist() == list(range(10))


def test_negatives_stay_with_their_stream_where_batches_are_shuffled(log, tiny_llm):
    model, tokenizer = load_model(str(tiny_llm), torch.float32, CPU)
    layout = StreamLayout(log, tokenizer, load_template("items-taken").stream, 5, 20)
    rows, _ = take(draw_rows(log, "train", 15, seed=0), 300)
    answers = AnswerModel(model, layout.answers)
    config = Stage3Config(tokens_per_batch=2000)
    scorer = LlmScorer(answers, layout, 4096)
    task = LlmTask(LlmStageModel(answers, log, rows), scorer, config, rows, seed=0)
    batches = [task.read(part) for part in task.batches(0)]
    assert len(batches) > 3
    read = tokens_read(layout.encode(log.samples(rows)))
    assert sum(batch.tokens for batch in batches) == read
    assert torch.cat([batch.sample for batch in batches]).sort().values.equal(torch.arange(300))
    label = log.labels(rows).float()
    for batch in batches[:2]:
        expected = binary_cross_entropy_with_logits(answers(batch).logit, label[batch.sample])
        assert task.model(batch).loss.item() == pytest.approx(expected.item())
