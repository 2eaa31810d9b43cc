import numpy as np
import pytest
import torch
from fuxictr.pytorch.layers import CrossNetV2
from torch import nn

from corellarec.config import CrmConfig
from corellarec.crm.batch import CrmReader
from corellarec.crm.build import build_crm
from corellarec.crm.dcnv2 import CrossNetwork
from corellarec.crm.embedding import FusedEmbedding
from corellarec.crm.history import HistoryPooling
from corellarec.crm.score import crm_logits
from corellarec.data.log import FeatureLayout

CPU = torch.device("cpu")


def test_cross_network_equals_fuxictr():
    torch.manual_seed(0)
    ours, theirs = CrossNetwork(12, 3), CrossNetV2(12, 3)
    theirs.load_state_dict(
        {name.replace("layers", "cross_layers"): w for name, w in ours.state_dict().items()}
    )
    features = torch.randn(5, 12)
    torch.testing.assert_close(ours(features)[-1], theirs(features), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        CrossNetwork(12, 0)


def test_attention_equals_one_sample_at_a_time():
    torch.manual_seed(0)
    pooling = HistoryPooling(4, "attention")
    target, rows = torch.randn(3, 4), torch.randn(3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    found = pooling(target, rows, mask)
    assert pooling.score is not None
    for i in range(3):
        kept = rows[i][mask[i]]
        if not len(kept):
            assert (found[i] == 0).all()
            continue
        score = pooling.score
        first = torch.cat([score.query.weight, score.row.weight, score.product.weight], 1)
        inputs = [torch.cat([target[i], k, target[i] * k]) for k in kept]
        hidden = [(first @ x + score.query.bias).relu() for x in inputs]
        weights = torch.cat([score.out(h) for h in hidden]).softmax(0)
        expected = torch.cat([(weights.unsqueeze(1) * kept).sum(0), kept.mean(0)])
        torch.testing.assert_close(found[i], expected)


def test_embedding_means_over_present_values_only():
    layout = [FeatureLayout("id", 5, 1), FeatureLayout("genres", 4, 3)]
    embedding = FusedEmbedding(layout, 2)
    nn.init.normal_(embedding.table.weight)
    table = embedding.table.weight
    out = embedding(torch.tensor([[4, 1, 3, 0], [0, 0, 0, 0]]))
    torch.testing.assert_close(out[0, 0], table[4])
    torch.testing.assert_close(out[0, 1], (table[5 + 1] + table[5 + 3]) / 2)
    torch.testing.assert_close(out[1, 0], table[0])
    assert (out[1, 1] == 0).all()


def test_id_dropout_shows_the_unknown_id_in_training_only():
    embedding = FusedEmbedding([FeatureLayout("id", 5, 1)], 2, id_dropout=0.5)
    codes = torch.full((400, 1), 3)
    torch.manual_seed(0)
    dropped = (embedding(codes)[:, 0] == embedding.table.weight[0]).all(1)
    assert 120 < dropped.sum() < 280
    embedding.eval()
    assert (embedding(codes)[:, 0] == embedding.table.weight[3]).all()


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
        assert batch.liked[i, : len(past)].tolist() == log.label[past].tolist()
        assert (batch.item_codes[batch.target[i]] == log.item_codes[log.item[row]]).all()
        assert (batch.user_codes[i] == log.user_codes[log.user[row]]).all()


def test_an_unknown_user_has_no_codes(log):
    batch = CrmReader(log, 4, CPU)(log.pairs(torch.tensor([-1]), torch.tensor([2])))
    assert (batch.user_codes == 0).all()
    assert not batch.mask.any()


@pytest.mark.parametrize("history", ["attention", "mean"])
def test_model_names_its_layers_and_scores_alike_in_any_batch(log, history):
    config = CrmConfig(embedding_dim=8, history_length=6, history=history, deep_layers=(16, 8))
    model = build_crm(config, log.user_layout, log.item_layout).eval()
    reader = CrmReader(log, 6, CPU)
    samples = log.samples(torch.arange(200, 260))
    out = model(reader(samples))
    assert set(out.layers) == {"cross1", "cross2", "cross3", "deep1", "deep2"}
    for name, layer in out.layers.items():
        assert layer.shape == (60, model.layer_widths[name])
    alone = torch.cat([crm_logits(model, reader, samples[i : i + 1]) for i in range(60)])
    torch.testing.assert_close(out.logit, alone, atol=1e-6, rtol=1e-5)


def test_the_history_changes_the_answer(log):
    model = build_crm(CrmConfig(embedding_dim=8), log.user_layout, log.item_layout).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    samples = log.samples(log.rows_of("test")[:20])
    with_history = crm_logits(model, CrmReader(log, 10, CPU), samples)
    log_without = type(samples)(samples.user, samples.item, samples.end, samples.end)
    without = crm_logits(model, CrmReader(log, 10, CPU), log_without)
    assert (with_history != without).any()
