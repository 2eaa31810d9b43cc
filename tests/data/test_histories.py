"""A log with other histories is scored as the log itself where the histories are the log's."""

import gc
import weakref

import numpy as np
import pytest
import torch

from corellarec.config import load_config
from corellarec.crm.build import build_crm, build_reader
from corellarec.crm.score import crm_logits
from corellarec.data.histories import History, history_of, over
from corellarec.data.log import Log, Samples
from corellarec.data.prepare import prepare

CPU = torch.device("cpu")
SETTINGS = {
    "stream": ["crm.model=stream", "crm.stream.window=8"],
    "dcnv2": ["crm.history_length=6"],
    "statistics": ["crm.statistics=true"],
    "positives": ["data.history=positives"],
}


def view(log, users):
    """The log over the histories of some users, and samples of all items for each."""
    histories = [history_of(log, user) for user in users]
    ends = np.cumsum([len(one) for one in histories])
    begins = ends - [len(one) for one in histories]
    items = log.items.height
    samples = Samples(
        torch.tensor(users).repeat_interleave(items),
        torch.arange(items).repeat(len(users)),
        torch.from_numpy(begins).repeat_interleave(items),
        torch.from_numpy(ends).repeat_interleave(items),
        torch.full((items * len(users),), -1),
    )
    return over(log, histories), samples


@pytest.mark.parametrize("name", SETTINGS)
def test_a_view_of_the_same_histories_gives_the_same_logits(name, movielens, tmp_path):
    config = load_config(settings=[f"data.path={movielens}", *SETTINGS[name]])
    prepare(config.data, tmp_path / "data")
    log = Log.load(tmp_path / "data")
    torch.manual_seed(1)
    crm = build_crm(config.crm, log.features, CPU).eval()
    reader = build_reader(config.crm, log, CPU)
    users = [7, 0, 39]
    other, samples = view(log, users)
    found = crm_logits(crm, reader.over(other), samples)
    own = log.candidates(samples.user, samples.item)
    torch.testing.assert_close(found, crm_logits(crm, reader, own), atol=1e-6, rtol=1e-6)
    assert found.std() > 0


@pytest.mark.parametrize("model", ["stream", "dcnv2"])
def test_users_without_history_have_the_answer_of_a_new_user(model, log):
    config = load_config(settings=[f"crm.model={model}"]).crm
    torch.manual_seed(1)
    crm = build_crm(config, log.features, CPU).eval()
    reader = build_reader(config, log, CPU)
    item, new = torch.arange(5), torch.full((5,), -1)
    none = torch.zeros(5, dtype=torch.int64)
    empty = history_of(log, 0)[:0]
    found = crm_logits(crm, reader.over(over(log, [empty])), Samples(new, item, none, none, new))
    expected = crm_logits(crm, reader, log.candidates(new, item))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_later_rows_change_an_answer_as_observed_rows_do(log):
    config = load_config(settings=["crm.model=stream"]).crm
    torch.manual_seed(1)
    crm = build_crm(config, log.features, CPU).eval()
    own = history_of(log, 3)
    later = History(
        np.append(own.item, np.int32(11)),
        np.append(own.label, np.int8(1)),
        np.append(own.level, np.int8(3)),
        np.append(own.time, own.time[-1] + 1),
        np.append(own.row, -1),
    )
    times = log.rows["time"]
    row = log.rows.filter(log.rows["user"] == 3)[-1].with_columns(
        item=11, label=1, level=3, time=times.filter(log.rows["user"] == 3)[-1:].dt.offset_by("1us")
    )
    row = row.cast({"item": log.rows.schema["item"], "label": log.rows.schema["label"],
                    "level": log.rows.schema["level"]}).drop("split")  # fmt: skip
    extended = log.extended(row, log.users, log.items)
    item, user = torch.arange(50), torch.full((50,), 3)
    end = torch.full((50,), len(later))
    samples = Samples(user, item, torch.zeros_like(end), end, torch.full((50,), -1))
    reader = build_reader(config, log, CPU)
    found = crm_logits(crm, reader.over(over(log, [later])), samples)
    expected = crm_logits(crm, build_reader(config, extended, CPU), extended.candidates(user, item))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    before = crm_logits(crm, reader, log.candidates(user, item))
    assert not torch.allclose(found, before, atol=1e-4)


def test_a_view_shares_the_items_and_goes_as_soon_as_it_is_used(log, monkeypatch):
    assert len(log.statistics(log.samples(torch.arange(3)))) == 3
    read = []
    monkeypatch.setattr("corellarec.data.statistics.item_categories", read.append)
    gc.disable()
    try:
        fresh, samples = view(log, [0, 1])
        fresh.statistics(samples)
        gone = weakref.ref(fresh)
        del fresh
        assert gone() is None
    finally:
        gc.enable()
    assert not read
