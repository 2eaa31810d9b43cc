import sys
from dataclasses import replace
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from corellarec.base.errors import ConfigError
from corellarec.config import CRM_MODELS, CrmConfig
from corellarec.crm import models
from corellarec.crm.batch import CrmBatch, CrmReader, Distinct
from corellarec.crm.build import build_crm, build_reader
from corellarec.crm.embedding import FusedEmbedding
from corellarec.crm.layers import Dropout
from corellarec.crm.score import crm_logits
from corellarec.data.levels import FIRST
from corellarec.data.log import FeatureLayout, Features, Log, ValueLayout

CPU = torch.device("cpu")


ID = FeatureLayout("id", 5, 1)


def embedded(embedding, users=None, items=None, user_values=None):
    """The fields of users and items of these codes."""
    users = torch.zeros(1, 1, dtype=torch.int32) if users is None else torch.tensor(users)
    items = torch.zeros(1, 1, dtype=torch.int32) if items is None else torch.tensor(items)
    values = torch.zeros(len(users), 0) if user_values is None else user_values
    none = torch.zeros(0)
    batch = CrmBatch(users, values, items, torch.zeros(len(items), 0), none, none, none, none)
    return embedding(batch)


def test_embedding_means_over_present_values_only():
    layout = [ID, FeatureLayout("genres", 4, 3), FeatureLayout("kind", 2, 1)]
    embedding = FusedEmbedding(Features([ID], layout), 2)
    table = nn.init.normal_(embedding.table)[5:]  # behind the users' ids
    _, out = embedded(embedding, items=[[4, 1, 3, 0, 1], [0, 0, 0, 0, 0]])
    torch.testing.assert_close(out[0, 0], table[4])
    torch.testing.assert_close(out[0, 1], table[9 + 1])
    torch.testing.assert_close(out[0, 2], (table[5 + 1] + table[5 + 3]) / 2)
    torch.testing.assert_close(out[1, 0], table[0])
    assert (out[1, 2] == 0).all()


def test_numbers_and_vectors_are_projected():
    values = [ValueLayout("price", 1), ValueLayout("text", 3)]
    embedding = FusedEmbedding(Features([ID], [ID], user_values=values), 2)
    numbers = torch.randn(4, 4)
    out, _ = embedded(embedding, users=[[1]] * 4, user_values=numbers)
    assert out.shape == (4, 3, 2)
    projections: Any = embedding.user.projections
    price, text = projections
    torch.testing.assert_close(out[:, 1], numbers[:, :1] * price.weight.squeeze(1))
    torch.testing.assert_close(out[:, 2], numbers[:, 1:] @ text.weight.T)


def test_large_codes_are_not_rounded():
    """2**24 + 1 is the first whole number that float32 does not hold."""
    large = 2**24 + 1
    rows = pl.DataFrame(
        {"user": [0], "item": [0], "label": [1], "time": [datetime(2024, 1, 1)], "split": [0]},
        schema_overrides={"user": pl.Int32, "item": pl.Int32, "label": pl.Int8, "split": pl.Int8},
    )
    table = pl.DataFrame({"train_rows": [1], "id_code": [large]},
                         schema_overrides={"id_code": pl.Int32})  # fmt: skip
    layout = FeatureLayout("id", large + 1, 1)
    log = Log(rows, table, table, Features([layout], [layout]))
    batch = CrmReader(log, 1, CPU)(log.samples(torch.tensor([0])))
    embedding = FusedEmbedding(Features([ID], [ID]), 2)
    assert embedding.user.numbers(batch.user_codes, 0.0).item() == large
    embedding.item.offsets += large
    assert embedding.item.numbers(batch.item_codes, 0.0).item() == 5 + 2 * large


def test_every_code_of_a_feature_is_within_its_vocabulary(log):
    """In one table for all features, a code too many would be another feature's row."""
    for layouts, codes in (
        (log.features.user, log.user_codes),
        (log.features.item, log.item_codes),
    ):
        largest = codes.max(0).values.split([f.width for f in layouts])
        assert [int(part.max()) for part in largest] == [f.vocabulary - 1 for f in layouts]
        assert codes.min() >= 0


def test_only_touched_rows_have_a_gradient():
    embedding = FusedEmbedding(Features([ID, FeatureLayout("kind", 3, 1)], [ID]), 2)
    codes = torch.tensor([[4, 1], [4, 2], [3, 1]])
    users, items = embedded(embedding, users=codes.tolist(), items=[[2]])
    weight = torch.randn(3, 2, 2)
    ((users * weight).sum() + items.sum()).backward()
    gradient = embedding.table.grad
    assert gradient.is_sparse
    assert sorted(gradient.coalesce().indices()[0].tolist()) == [3, 4, 5 + 1, 5 + 2, 8 + 2]
    expected = torch.zeros(13, 2)
    expected.index_put_((codes + torch.tensor([0, 5]),), weight, accumulate=True)
    expected[8 + 2] = 1.0
    torch.testing.assert_close(gradient.to_dense(), expected)


def test_scoring_reads_the_same_rows_as_training():
    embedding = FusedEmbedding(Features([ID], [ID, FeatureLayout("genres", 4, 2)]), 2)
    codes = {"users": [[1], [3]], "items": [[0, 1, 2], [4, 3, 0], [2, 0, 0]]}
    trained = embedded(embedding, **codes)
    with torch.no_grad():
        scored = embedded(embedding, **codes)
    for one, other in zip(trained, scored, strict=True):
        assert one.requires_grad
        assert torch.equal(one, other)


def test_id_dropout_shows_the_unknown_id_in_training_only():
    embedding = FusedEmbedding(Features([ID], [ID]), 2, id_dropout=0.5)
    table, codes = embedding.table, [[3]] * 400
    torch.manual_seed(0)
    for offset, fields in zip((0, 5), embedded(embedding, codes, codes), strict=True):
        dropped = (fields[:, 0] == table[offset]).all(1)
        assert 120 < dropped.sum() < 280
    embedding.eval()
    for offset, fields in zip((0, 5), embedded(embedding, codes, codes), strict=True):
        assert (fields[:, 0] == table[offset + 3]).all()


def test_reader_gathers_what_the_log_says(log):
    reader = CrmReader(log, 4, CPU)
    rows = torch.from_numpy(np.random.default_rng(0).choice(len(log), 50))
    batch = reader(log.samples(rows))
    for i, row in enumerate(rows.tolist()):
        begin = int(log.user_begin[log.user[row]])
        past = list(range(row - 1, max(begin, row - 4) - 1, -1))
        assert batch.mask[i].sum() == len(past)
        codes = batch.item_codes[batch.history[i, : len(past)]]
        assert (codes == log.item_codes[log.item[past].long()]).all()
        assert batch.level[i, : len(past)].tolist() == log.history_level[past].tolist()
        assert (batch.item_codes[batch.target[i]] == log.item_codes[log.item[row]]).all()
        assert (batch.user_codes[i] == log.user_codes[log.user[row]]).all()


@pytest.mark.parametrize("model", ["dcnv2", "stream"])
def test_a_label_alone_is_read_as_its_most_frequent_rating(log, model):
    """Its own level has no training rows where all of them have ratings."""
    rows = log.rows.with_columns(
        level=pl.when(pl.int_range(pl.len()) % 2 == 0).then("label").otherwise("level")
    )
    labels = Log(rows, log.users, log.items, log.features)
    train = log.rows.filter(pl.col("split") == 0)
    usual = {k: train.filter(label=k)["level"].mode().to_list() for k in (0, 1)}
    samples = log.samples(torch.arange(100))
    for config in (CrmConfig(model=model), CrmConfig(model=model, ratings=False)):
        found, known = (build_reader(config, one, CPU)(samples).level for one in (labels, log))
        changed = found != known
        assert changed.any() == config.ratings
        assert found.min() >= (FIRST if config.ratings else 0)
        assert found.max() <= (6 if config.ratings else 1)
        assert set(found[changed].tolist()) <= {*usual[0], *usual[1]}


def test_an_unknown_user_has_no_codes(log):
    batch = CrmReader(log, 4, CPU)(log.pairs(torch.tensor([-1]), torch.tensor([2])))
    assert (batch.user_codes == 0).all()
    assert not batch.mask.any()


OWN = """
from torch import nn
from corellarec.crm.model import CrmOutput

class Popularity(nn.Module):
    layer_widths = {"item": 4}

    def __init__(self, features, scale=1.0):
        super().__init__()
        self.items = nn.Embedding(features.item[0].vocabulary, 4)
        self.scale = scale

    def forward(self, batch):
        item = self.items(batch.item_codes[batch.target, 0].long())
        return CrmOutput(self.scale * item.sum(1), {"item": item})
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The current directory has a module with a CRM of the user's own."""
    (tmp_path / "ours.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield "ours:Popularity"
    sys.modules.pop("ours", None)


def small(model, **more):
    return CrmConfig(
        model=model, embedding_dim=8, history_length=6, deep_layers=(16, 8), dtype="float32",
        stream={"width": 8, "window": 6}, **more,
    )  # fmt: skip


@pytest.mark.parametrize("name", [*CRM_MODELS, "own"])
def test_models_name_their_layers_and_score_alike_in_any_batch(log, name, own):
    config = small(own if name == "own" else name)
    torch.manual_seed(0)
    model: Any = build_crm(config, log.features, CPU).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    reader = build_reader(config, log, CPU)
    samples = log.samples(torch.arange(200, 260))
    out = model(reader(samples))
    assert out.logit.std() > 0
    assert {name: layer.shape for name, layer in out.layers.items()} == {
        name: (60, width) for name, width in model.layer_widths.items()
    }
    alone = torch.cat([crm_logits(model, reader, samples[i : i + 1]) for i in range(60)])
    torch.testing.assert_close(out.logit, alone, atol=1e-5, rtol=1e-5)


def test_every_file_of_an_architecture_is_a_model():
    files = {path.stem for path in Path(models.__file__).parent.glob("*.py")}
    with_one = {
        f for f in files if hasattr(import_module(f"{models.__name__}.{f}"), "ARCHITECTURE")
    }
    assert with_one == set(CRM_MODELS)


@pytest.mark.parametrize("name", CRM_MODELS)
def test_the_history_changes_the_answer(log, name):
    config = small(name)
    model = build_crm(config, log.features, CPU).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    reader = build_reader(config, log, CPU)
    samples = log.samples(log.rows_of("test")[:20])
    with_history = crm_logits(model, reader, samples)
    without = crm_logits(model, reader, replace(samples, begin=samples.end))
    assert (with_history != without).any()


@pytest.mark.parametrize("name", ["lr", "dcnv2", "deepfm"])
def test_statistics_are_a_field(log, name):
    """An item's training rows before a row change its answer where ``crm.statistics`` is on."""
    config = small(name, statistics=True)
    torch.manual_seed(0)
    model: Any = build_crm(config, log.features, CPU).eval()
    plain: Any = build_crm(small(name), log.features, CPU)
    assert model.encoder.fields == plain.encoder.fields + 1
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    reader, samples = build_reader(config, log, CPU), log.samples(torch.arange(50))
    batch = reader(samples)
    assert (batch.statistics == log.statistics(samples)).all()
    moved = batch._replace(statistics=batch.statistics + 1)
    assert (model(batch).logit != model(moved).logit).all()
    assert build_reader(small(name), log, CPU)(samples).statistics is None


@pytest.mark.parametrize("name", ["dcnv2", "bst", "autoint", "stream"])
def test_bf16_products_are_close(log, name):
    torch.manual_seed(0)
    config = small(name)
    model = build_crm(config, log.features, CPU).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    other = build_crm(config.model_copy(update={"dtype": "bfloat16"}), log.features, CPU).eval()
    other.load_state_dict(model.state_dict())
    reader, samples = build_reader(config, log, CPU), log.samples(log.rows_of("test"))
    precise, rounded = (crm_logits(m, reader, samples).sigmoid() for m in (model, other))
    assert 0 < (precise - rounded).abs().max() < 0.02


def test_low_rank_and_stacked_are_settings(log):
    config = small("dcnv2", dcnv2={"rank": 4, "structure": "stacked", "cross_layers": 1})
    model: Any = build_crm(config, log.features, CPU)
    assert set(model.layer_widths) == {"cross1", "deep1", "deep2"}
    assert model.network.head.in_features == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model": "autoint", "autoint": {"heads": 3}},
            r"crm \(autoint\): heads \(3\) must divide",
        ),
        ({"model": "stream", "stream": {"heads": 3}}, "heads .3. must divide the width .64."),
        ({"model": "bst", "embedding_dim": 9}, "heads .2. must divide the embedding's width .9."),
        ({"model": "no_such:Model"}, "cannot be made: ModuleNotFoundError: No module named"),
        ({"model": "torch:Tensors"}, "cannot be made: AttributeError"),
        ({"model": "torch.nn:Identity"}, "must be a torch module with the attribute layer_widths"),
    ],
)
def test_models_that_cannot_be_made(log, settings, message):
    with pytest.raises(ConfigError, match=message):
        build_crm(CrmConfig(**settings), log.features, CPU)


def test_own_model_takes_options(log, own):
    model = build_crm(CrmConfig(model=own, options={"scale": 3.0}), log.features, CPU)
    assert model.scale == 3.0
    with pytest.raises(ConfigError, match="unexpected keyword argument 'scales'"):
        build_crm(CrmConfig(model=own, options={"scales": 3.0}), log.features, CPU)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("return logit", "returned Tensor: forward returns CrmOutput"),
        ("return CrmOutput(logit[:, None], {})", r"shape \(4, 1\) for 4 samples: expected \(4,\)"),
        ("return CrmOutput(logit, {}, logit)", r"ratings of the shape \(4,\) for 4 samples"),
        ("return CrmOutput(logit, {})", "no layer 'hidden'"),
        ("return CrmOutput(logit / 0, {'hidden': logit[:, None]})", "no finite number"),
    ],
)
def test_own_model_that_returns_something_else(log, tmp_path, monkeypatch, answer, message):
    (tmp_path / f"mine{abs(hash(answer))}.py").write_text(
        "import torch\nfrom corellarec.crm.model import CrmOutput\n\n"
        "class Mine(torch.nn.Module):\n"
        "    def __init__(self, features):\n"
        "        super().__init__()\n"
        "        self.layer_widths = {'hidden': 1}\n"
        "    def forward(self, batch):\n"
        "        logit = torch.zeros(len(batch.target))\n"
        f"        {answer}\n"
    )
    monkeypatch.chdir(tmp_path)
    config = CrmConfig(model=f"mine{abs(hash(answer))}:Mine")
    model = build_crm(config, log.features, CPU)
    batch = build_reader(config, log, CPU)(log.samples(torch.arange(4)))
    with pytest.raises(ConfigError, match=message):
        model(batch)


def test_dropout_drops_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    ones = torch.ones(300, 333, requires_grad=True)
    for share in (0.1, 0.5):
        out = Dropout(share).train()(ones)
        assert (out == 0).float().mean() == pytest.approx(share, abs=0.01)
        assert out.mean().item() == pytest.approx(1.0, abs=0.01)
        (gradient,) = torch.autograd.grad(out.sum(), ones)
        assert torch.equal(gradient, out)
        assert torch.equal(Dropout(share).eval()(ones), ones)
    # Neighbours fall independently: they share a draw of random bits, but not the bits.
    pairs = (Dropout(0.5).train()(ones) == 0).flatten()[:99_900].view(-1, 2).all(1)
    assert pairs.float().mean() == pytest.approx(0.25, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_distinct(numbers):
    found = torch.tensor(numbers)
    distinct, place = Distinct(41, CPU)(found)
    assert distinct.tolist() == sorted(set(numbers))
    assert torch.equal(distinct[place], found)
