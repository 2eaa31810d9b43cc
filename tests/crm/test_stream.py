"""The stream CRM: windows over a user's events, and one pass that answers them all."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from corellarec.config import CrmConfig
from corellarec.crm.build import build_crm, build_reader
from corellarec.crm.score import crm_logits
from corellarec.crm.windows import StreamReader, window_starts
from corellarec.data.log import Log
from small import write_movielens

CPU = torch.device("cpu")
CONFIG = CrmConfig(model="stream", stream={"width": 8, "window": 10})


@pytest.fixture(scope="module")
def model(log) -> Any:
    torch.manual_seed(0)
    model = build_crm(CONFIG, log.features, CPU).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def test_one_pass_equals_one_row_at_a_time(log, model):
    reader = build_reader(CONFIG, log, CPU)
    every = log.samples(torch.arange(len(log)))
    assert (every.end - every.begin).max() > 30  # several windows
    at_once = crm_logits(model, reader, every)
    rows = torch.arange(0, len(log), 7)
    one_by_one = torch.cat([crm_logits(model, reader, log.samples(rows[i : i + 1]))
                            for i in range(len(rows))])  # fmt: skip
    torch.testing.assert_close(at_once[rows], one_by_one, atol=1e-5, rtol=1e-5)
    assert at_once.std() > 0.1


def test_candidates_after_one_history_are_answered_in_one_window(log, model):
    reader = build_reader(CONFIG, log, CPU)
    user = torch.full((20,), 3)
    candidates = log.candidates(user, torch.arange(20))
    batch = reader(candidates)
    assert batch.target.shape == (1, 20)
    alone = torch.cat([crm_logits(model, reader, candidates[i : i + 1]) for i in range(20)])
    torch.testing.assert_close(crm_logits(model, reader, candidates), alone, atol=1e-5, rtol=1e-5)


def test_no_row_sees_its_own_answer_or_a_later_one(log, model):
    """A user's answers from a row on, in another order: the rows up to it keep their logits."""
    in_training = [user for user in range(log.users.height)
                   if (log.split[log.user == user] == 0).all()]  # fmt: skip
    user = max(in_training, key=lambda user: int((log.user == user).sum()))
    rows = (log.user == user).nonzero().squeeze(1)
    half = len(rows) // 2
    order = list(range(len(log)))
    order[int(rows[half]) : int(rows[-1]) + 1] = rows[half:].flip(0).tolist()
    answers = log.rows[order].select("label", "level")  # as many of each: no mean over all changes
    assert (answers["level"] != log.rows["level"]).any()
    other = Log(log.rows.with_columns(answers), log.users, log.items, log.features)
    before, after = (
        crm_logits(model, build_reader(CONFIG, one, CPU), one.samples(rows)) for one in (log, other)
    )
    torch.testing.assert_close(before[: half + 1], after[: half + 1], atol=1e-5, rtol=1e-5)
    assert (before[half + 1 :] - after[half + 1 :]).abs().max() > 1e-3


def test_it_answers_about_every_rating_but_the_highest(log, model):
    reader = build_reader(CONFIG, log, CPU)
    out = model(reader(log.samples(torch.arange(30))))
    assert log.features.ratings == [1, 2, 3, 4, 5]
    assert out.ratings.shape == (30, 4)
    labels = CONFIG.model_copy(update={"ratings": False})
    alone = build_crm(labels, log.features, CPU)
    batch = build_reader(labels, log, CPU)(log.samples(torch.arange(30)))
    assert alone(batch).ratings is None


def test_windows_begin_at_halves():
    length = torch.arange(40)
    start = window_starts(length, 10)
    read = length - start
    assert (start[:11] == 0).all()
    assert (start % 5 == 0).all()
    assert read.max() == 10
    assert read[11:].min() == 6


def test_a_window_holds_what_the_log_says(log):
    reader = StreamReader(log, 10, CPU)
    rows = torch.from_numpy(np.random.default_rng(1).choice(len(log), 50, replace=False))
    samples = log.samples(rows)
    batch = reader(samples)
    width = batch.target.shape[1]
    for i, row in enumerate(rows.tolist()):
        window, slot = divmod(int(batch.place[i]), width)
        count = int(batch.position[window, slot])
        past = torch.arange(row - count, row)
        codes = batch.item_codes[batch.event[window, :count]]
        assert (codes == log.item_codes[log.item[past].long()]).all()
        assert batch.level[window, :count].tolist() == log.history_level[past].tolist()
        assert count >= min(6, row - int(samples.begin[i]))
        target = batch.item_codes[batch.target[window, slot]]
        assert (target == log.item_codes[log.item[row].long()]).all()
        assert (batch.user_codes[window] == log.user_codes[log.user[row].long()]).all()


@pytest.mark.parametrize("size", [7, 64, 5000])
def test_parts_hold_every_sample_once_whatever_is_drawn(log, size):
    reader, samples = StreamReader(log, 10, CPU), log.samples(log.rows_of("train"))
    counts = set()
    for seed in (None, 0, 1, 2):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        parts = reader.parts(samples, size, generator)
        assert torch.cat(parts).sort().values.tolist() == list(range(len(samples)))
        assert max(map(len, parts)) < 2 * size
        counts.add(len(parts))
    assert len(counts) == 1
    assert reader.parts(samples[:0], size) == []


def test_unknown_users_and_items_without_rows_are_scored(log, model):
    reader = build_reader(CONFIG, log, CPU)
    pairs = log.pairs(torch.tensor([-1, -1, 2]), torch.tensor([4, 5, 4]))
    logit = crm_logits(model, reader, pairs)
    assert torch.isfinite(logit).all()
    assert len(set(logit.tolist())) == 3


def test_stars_in_the_history_change_the_answer(log, model):
    """Two and one star are both a no, and not the same."""
    assert len(log.features.ratings) == 5
    reader = build_reader(CONFIG, log, CPU)
    samples = log.samples(log.rows_of("test")[:50])
    before = crm_logits(model, reader, samples)
    rows = log.rows.with_columns(level=log.rows["level"].replace({2: 3}))
    other = Log(rows, log.users, log.items, log.features)
    after = crm_logits(model, build_reader(CONFIG, other, CPU), samples)
    assert (before - after).abs().max() > 1e-3


def test_training_learns(tmp_path):
    """A few epochs on a log with a signal beat the rate of positives on validation."""
    from accelerate import Accelerator

    from corellarec.config import Stage1Config, load_config
    from corellarec.data.prepare import prepare
    from corellarec.train.checkpoint import Progress
    from corellarec.train.loop import train
    from corellarec.train.stages import CrmTask

    path = write_movielens(tmp_path / "ml-100k")
    prepare(load_config(settings=[f"data.path={path}"]).data, tmp_path / "data")
    log = Log.load(tmp_path / "data")
    settings = Stage1Config(epochs=6, batch_size=128)
    torch.manual_seed(0)
    crm = build_crm(replace_stream(width=16), log.features, CPU)
    task = CrmTask(crm, build_reader(CONFIG, log, CPU), log, settings, 0)
    before = task.validate()
    state = train(task, settings, progress=Progress(tmp_path / "p", "x"), seed=0,
                  accelerator=Accelerator(cpu=True))  # fmt: skip
    assert state.best["crm."] < before["crm_log_loss"]
    assert task.validate()["crm_auc"] > 0.6


def replace_stream(**settings):
    return CONFIG.model_copy(update={"stream": CONFIG.stream.model_copy(update=settings)})


def test_samples_can_be_cut(log):
    samples = log.samples(torch.arange(10))
    assert replace(samples, begin=samples.end)[2:4].row.tolist() == [2, 3]
