"""Every network equals a well-known implementation, its weights copied, to 1e-5."""

import sys
import types
import zipfile
from typing import Any

import pytest
import torch
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.layers.sequence import AttentionSequencePoolingLayer
from deepctr_torch.models import DCN, AutoInt, DCNMix, DeepFM, FiBiNET, xDeepFM
from fuxictr.pytorch.layers import (
    BilinearInteraction,
    CompressedInteractionNet,
    CrossNetMix,
    CrossNetV2,
    DIN_Attention,
    InnerProductInteraction,
    MLP_Block,
    SqueezeExcitation,
)
from torch import nn

from corellarec.base.cache import cache_dir, download_wheel
from corellarec.base.errors import FetchError
from corellarec.crm import history
from corellarec.crm.layers import attend
from corellarec.crm.models import autoint, dcnv2, deepfm, fibinet, fignn, finalmlp, fm, xdeepfm
from corellarec.crm.models.deep import DeepNetwork
from corellarec.data.fetch import RECBOLE

FIELDS, DIM, BATCH = 6, 8, 40
DEEP = (16, 12)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def copy(ours, theirs):
    """Copy parameters of the same shapes in the order given."""
    with torch.no_grad():
        for own, other in zip(ours, theirs, strict=True):
            own.copy_(other.reshape(own.shape))


class Peer:
    """A DeepCTR-Torch model on random rows: its fields, its linear part, its probabilities."""

    def __init__(self, kind, **options):
        columns = [SparseFeat(f"f{i}", 10 + i, embedding_dim=DIM) for i in range(FIELDS)]
        self.model = kind(columns, columns, init_std=0.5, **options).eval()
        for parameter in self.model.parameters():
            nn.init.normal_(parameter, std=0.4)
        self.codes = torch.stack([torch.randint(10 + i, (BATCH,)) for i in range(FIELDS)], 1)
        tables = self.model.embedding_dict
        found = [tables[f"f{i}"](self.codes[:, i]) for i in range(FIELDS)]
        self.fields = torch.stack(found, 1).detach()
        with torch.no_grad():
            self.linear = self.model.linear_model(self.codes.float()).squeeze(1)
            self.p = self.model(self.codes.float()).squeeze(1)
            self.bias = self.model.out.bias

    def check(self, network, with_linear=True):
        with torch.no_grad():
            logit = network.eval()(self.fields).logit + self.linear * with_linear + self.bias
        same(logit.sigmoid(), self.p)
        assert self.p.std() > 0.02, "nothing was compared"


def copy_deep(ours, theirs):
    for layer, other in zip(ours.layers, theirs.linears, strict=True):
        copy(layer[0].parameters(), other.parameters())


def test_fm():
    peer, network = Peer(DeepFM, dnn_hidden_units=()), fm.FM(DIM)
    peer.check(network)
    product = InnerProductInteraction(FIELDS, output="product_sum")
    same(network(peer.fields).logit, product(peer.fields).squeeze(1))


def test_deepfm():
    peer = Peer(DeepFM, dnn_hidden_units=DEEP)
    network = deepfm.DeepFM(FIELDS, DIM, deep_layers=DEEP, dropout=0.3)
    copy_deep(network.deep, peer.model.dnn)
    copy([network.head.weight, network.head.bias], [peer.model.dnn_linear.weight, torch.zeros(1)])
    peer.check(network)


def test_xdeepfm():
    cin = (10, 6)
    options = {"cin_split_half": False, "cin_activation": "linear", "cin_layer_size": cin}
    peer = Peer(xDeepFM, dnn_hidden_units=DEEP, **options)
    network = xdeepfm.XDeepFM(FIELDS, DIM, cin_layers=cin, deep_layers=DEEP, dropout=0.3)
    for layer, other in zip(network.cin.layers, peer.model.cin.conv1ds, strict=True):
        # Ours reads the products as (first layer, hidden), theirs as (hidden, first layer).
        weight = other.weight.squeeze(2).unflatten(1, (-1, FIELDS)).transpose(1, 2)
        copy(layer.parameters(), [weight, other.bias])
    copy_deep(network.deep, peer.model.dnn)
    head = torch.cat([peer.model.cin_linear.weight, peer.model.dnn_linear.weight], 1)
    copy(network.head.parameters(), [head, torch.zeros(1)])
    peer.check(network)


def test_compressed_interactions_equal_fuxictr():
    ours = xdeepfm.CompressedInteractionNetwork(FIELDS, (5, 4))
    theirs = CompressedInteractionNet(FIELDS, [5, 4])
    for layer, other in zip(ours.layers, theirs.cin_layer.values(), strict=True):
        copy(layer.parameters(), other.parameters())
    fields = torch.randn(BATCH, FIELDS, DIM)
    same(theirs.fc(torch.cat(ours(fields), 1)), theirs(fields))


@pytest.mark.parametrize("deep", [DEEP, ()])
def test_autoint(deep):
    peer = Peer(AutoInt, att_layer_num=2, att_head_num=2, dnn_hidden_units=deep)
    network: Any = autoint.AutoInt(
        FIELDS, DIM, layers=2, width=DIM, heads=2, deep_layers=deep, dropout=0.3
    )
    for layer, other in zip(network.layers, peer.model.int_layers, strict=True):
        parts = [other.W_Query, other.W_key, other.W_Value, other.W_Res]
        copy([layer.project.weight], [torch.cat([part.T for part in parts])])
    if deep:
        copy_deep(network.deep, peer.model.dnn)
    copy(network.head.parameters(), [peer.model.dnn_linear.weight, torch.zeros(1)])
    peer.check(network)


def test_fibinet():
    peer = Peer(FiBiNET, bilinear_type="each", reduction_ratio=3, dnn_hidden_units=DEEP)
    network = fibinet.FiBiNET(FIELDS, DIM, reduction=3, deep_layers=DEEP, dropout=0.3)
    excitation = peer.model.SE.excitation
    copy(network.senet.parameters(), [excitation[0].weight, excitation[2].weight])
    bilinear = torch.stack([layer.weight.T for layer in peer.model.Bilinear.bilinear])
    copy([network.bilinear.weight], [bilinear])
    copy_deep(network.deep, peer.model.dnn)
    # Theirs puts the weighed pairs first.
    deep: Any = network.deep
    first = deep.layers[0][0].weight
    copy([first], [first.detach().unflatten(1, (2, -1)).flip(1).flatten(1)])
    copy(network.head.parameters(), [peer.model.dnn_linear.weight, torch.zeros(1)])
    peer.check(network)


def test_fibinet_layers_equal_fuxictr():
    fields = torch.randn(BATCH, FIELDS, DIM)
    ours, theirs = fibinet.SqueezeExcitation(FIELDS, 3), SqueezeExcitation(FIELDS, 3)
    copy(ours.parameters(), theirs.parameters())
    same(ours(fields), theirs(fields))
    ours = fibinet.BilinearInteraction(FIELDS, DIM)
    theirs = BilinearInteraction(FIELDS, DIM, "field_each")
    copy(ours.parameters(), theirs.parameters())
    same(ours(fields), theirs(fields))


def test_dcnv2():
    peer = Peer(DCN, cross_num=3, cross_parameterization="matrix", dnn_hidden_units=DEEP)
    network = dcnv2.DCNv2(FIELDS, DIM, cross_layers=3, deep_layers=DEEP, dropout=0.3)
    cross = peer.model.crossnet
    for layer, kernel, bias in zip(network.cross.layers, cross.kernels, cross.bias, strict=True):
        copy(layer.parameters(), [kernel, bias])
    copy_deep(network.deep, peer.model.dnn)
    copy(network.head.parameters(), [peer.model.dnn_linear.weight, torch.zeros(1)])
    peer.check(network)


def copy_low_rank(ours, inward, inner, outward, bias, gates):
    """Their experts come as ``(experts, width, rank)`` and ``(experts, rank, rank)``."""
    for number in range(len(ours.inward)):
        copy([ours.inward[number].weight], [inward[number].transpose(1, 2).flatten(0, 1)])
        copy([ours.inner[number]], [inner[number]])
        copy([ours.outward[number].weight], [outward[number].permute(1, 0, 2).flatten(1)])
        copy([ours.bias[number]], [bias[number]])
    copy([ours.gate.weight], [torch.cat([gate.weight for gate in gates])])


def test_dcnv2_of_low_rank():
    peer = Peer(DCNMix, cross_num=2, low_rank=5, num_experts=3, dnn_hidden_units=DEEP)
    network = dcnv2.DCNv2(
        FIELDS, DIM, cross_layers=2, deep_layers=DEEP, dropout=0.3, rank=5, experts=3
    )
    cross = peer.model.crossnet
    copy_low_rank(network.cross, cross.V_list, cross.C_list, cross.U_list, cross.bias, cross.gating)
    copy_deep(network.deep, peer.model.dnn)
    copy(network.head.parameters(), [peer.model.dnn_linear.weight, torch.zeros(1)])
    peer.check(network)


def test_cross_networks_equal_fuxictr():
    features = torch.randn(BATCH, 12)
    ours, theirs = dcnv2.CrossNetwork(12, 3), CrossNetV2(12, 3)
    copy(ours.parameters(), theirs.parameters())
    same(ours(features)[-1], theirs(features))
    ours, theirs = dcnv2.LowRankCrossNetwork(12, 2, 4, 3), CrossNetMix(12, 2, 4, 3)
    copy_low_rank(ours, theirs.V_list, theirs.C_list, theirs.U_list, theirs.bias, theirs.gating)
    same(ours(features)[-1], theirs(features))
    with pytest.raises(ValueError, match="at least 1, found 0"):
        dcnv2.CrossNetwork(12, 0)


def test_a_stacked_dcnv2_is_the_deep_part_of_the_crossed_fields():
    fields = torch.randn(BATCH, FIELDS, DIM)
    network = dcnv2.DCNv2(
        FIELDS, DIM, cross_layers=2, deep_layers=DEEP, dropout=0.3, structure="stacked"
    ).eval()
    cross = CrossNetV2(FIELDS * DIM, 2)
    deep = MLP_Block(FIELDS * DIM, hidden_units=list(DEEP), output_dim=1)
    copy(cross.parameters(), network.cross.parameters())
    copy(deep.parameters(), [*network.deep.parameters(), *network.head.parameters()])
    same(network(fields).logit, deep(cross(fields.flatten(1))).squeeze(1))


def test_deep_network():
    fields = torch.randn(BATCH, FIELDS, DIM)
    network = DeepNetwork(FIELDS, DIM, deep_layers=DEEP, dropout=0.3).eval()
    theirs = MLP_Block(FIELDS * DIM, hidden_units=list(DEEP), output_dim=1)
    copy(theirs.parameters(), network.parameters())
    same(network(fields).logit, theirs(fields.flatten(1)).squeeze(1))


@pytest.fixture
def a_history():
    """Target, table, index, mask, and the rows themselves; the second sample has no history."""
    table = torch.randn(30, DIM)
    index = torch.randint(30, (BATCH, 7))
    lengths = torch.randint(1, 8, (BATCH, 1))
    lengths[1] = 0
    return torch.randn(BATCH, DIM), table, index, torch.arange(7) < lengths, table[index]


@pytest.mark.parametrize("peer", ["fuxictr", "deepctr"])
def test_din_attention(a_history, peer):
    target, table, index, mask, rows = a_history
    pooling = history.TargetAttention(DIM, 10)
    hidden: Any
    if peer == "fuxictr":
        theirs = DIN_Attention(DIM, [10], use_softmax=True)
        hidden, out = (m for m in theirs.attention_layer.modules() if isinstance(m, nn.Linear))
        expected = theirs(target, rows, mask)
    else:
        theirs = AttentionSequencePoolingLayer((10,), "relu", True, embedding_dim=DIM)
        hidden, out = theirs.local_att.dnn.linears[0], theirs.local_att.dense
        nn.init.normal_(hidden.weight)  # theirs starts near zero, where all weights are equal
        expected = theirs(target.unsqueeze(1), rows, mask.sum(1, keepdim=True)).squeeze(1)
    # Theirs reads [q, k, q - k, q * k]; the third is a part of the first two.
    q, k, difference, product = hidden.weight.split(DIM, 1)
    score = pooling.score
    copy(score.query.parameters(), [q + difference, hidden.bias])
    copy(score.row.parameters(), [torch.cat([k - difference, product], 1)])
    copy(score.out.parameters(), out.parameters())
    found = pooling(target, table, index, mask)[:, 0]
    some = mask.any(1)
    same(found[some], expected[some])
    assert (found[~some] == 0).all()


def test_transformer_pooling_is_the_targets_output(a_history):
    target, table, index, mask, rows = a_history
    pooling = history.TransformerPooling(DIM, 7, heads=2, blocks=2, dropout=0.3).eval()
    layers = []
    blocks: Any = pooling.blocks
    for block in blocks:
        layer = nn.TransformerEncoderLayer(DIM, 2, 4 * DIM, 0.3, batch_first=True)
        copy(layer.self_attn.parameters(), block.attention.parameters())
        forward = [*layer.linear1.parameters(), *layer.linear2.parameters()]
        copy(forward, block.feed_forward.parameters())
        copy([*layer.norm1.parameters(), *layer.norm2.parameters()], block.norms.parameters())
        layers.append(layer.eval())
    hidden = torch.cat([target.unsqueeze(1), rows], 1) + pooling.place
    absent = ~torch.cat([torch.ones(BATCH, 1, dtype=torch.bool), mask], 1)
    for layer in layers:
        hidden = layer(hidden, src_key_padding_mask=absent)
    same(pooling(target, table, index, mask)[:, 0], hidden[:, 0])


@pytest.mark.parametrize("scale", [None, 1.0])
def test_attention_is_torchs_in_training_and_in_scoring(scale):
    query, key, value = torch.randn(3, 4, 2, 5, 8).requires_grad_().unbind()
    mask = torch.rand(4, 1, 1, 5) > 0.4
    mask[..., 0] = True
    expected = nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    same(attend(query, key, value, mask, scale), expected)
    with torch.no_grad():
        same(attend(query, key, value, mask, scale), expected)


def test_mean_pooling_and_its_gradient(a_history):
    _, table, index, mask, rows = a_history
    table.requires_grad_()
    weight = torch.randn(BATCH, DIM)
    found = history.mean_of_rows(table, index, mask)
    (gradient,) = torch.autograd.grad((found * weight).sum(), table)
    rows = table[index] * mask.unsqueeze(2)
    expected = rows.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    (by_autograd,) = torch.autograd.grad((expected * weight).sum(), table)
    same(found, expected)
    same(gradient, by_autograd)


def test_finalmlp():
    second = (10, 4)
    network = finalmlp.FinalMLP(
        FIELDS, DIM, user_field=0, item_field=3, deep_layers=DEEP, second_layers=second,
        gate_hidden=5, heads=2, dropout=0.3,
    ).eval()  # fmt: skip
    fields = torch.randn(BATCH, FIELDS, DIM)
    width, streams = FIELDS * DIM, []
    deep: Any
    for place, gate, deep in ((0, 0, network.deep), (3, 1, network.second)):
        gates = MLP_Block(DIM, [5], output_dim=width, output_activation="Sigmoid")
        copy(gates.parameters(), network.gates[gate].parameters())
        stream = MLP_Block(width, hidden_units=[layer[0].out_features for layer in deep.layers])
        copy(stream.parameters(), deep.parameters())
        streams.append(stream(fields.flatten(1) * 2 * gates(fields[:, place])))
    expected = network.fusion.linear(torch.cat(streams, 1)).squeeze(1)
    for head in range(2):
        bilinear = nn.Bilinear(DEEP[-1] // 2, second[-1] // 2, 1, bias=False)
        copy(bilinear.parameters(), [network.fusion.weight[head]])
        parts = [stream.chunk(2, 1)[head].contiguous() for stream in streams]
        expected = expected + bilinear(*parts).squeeze(1)
    same(network(fields).logit, expected)
    with pytest.raises(ValueError, match="must divide both streams' widths, 12 and 4"):
        finalmlp.BilinearFusion(12, 4, 3)


@pytest.fixture
def recbole_fignn(monkeypatch):
    """RecBole's Fi-GNN from its wheel; the rest of RecBole, which it hardly uses, is left out."""
    wheel = cache_dir() / "recbole-1.2.1-py3-none-any.whl"
    try:
        wheel = wheel if wheel.exists() else download_wheel(*RECBOLE)
    except FetchError as error:
        pytest.skip(f"RecBole is out of reach: {error}")
    with zipfile.ZipFile(wheel) as archive:
        source = archive.read("recbole/model/context_aware_recommender/fignn.py").decode()
    for name in ("recbole", "recbole.utils", "recbole.model", "recbole.model.abstract_recommender"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    vars(sys.modules["recbole.utils"])["InputType"] = types.SimpleNamespace(POINTWISE=0)
    vars(sys.modules["recbole.model.abstract_recommender"])["ContextRecommender"] = object
    found = {}
    exec(compile(source, "fignn.py", "exec"), found)
    return found


def test_fignn(recbole_fignn):
    width, heads, steps = 8, 2, 2
    network = fignn.FiGNN(FIELDS, DIM, width=width, heads=heads, steps=steps)
    theirs = types.SimpleNamespace(
        att_embedding=nn.Linear(DIM, width),
        dropout_layer=nn.Identity(),
        self_attn=nn.MultiheadAttention(width, heads, batch_first=True),
        v_res_embedding=nn.Linear(DIM, width),
        num_feature_field=FIELDS,
        src_nodes=[i for i in range(FIELDS) for _ in range(FIELDS)],
        dst_nodes=[i for _ in range(FIELDS) for i in range(FIELDS)],
        gnn=nn.ModuleList(recbole_fignn["GraphLayer"](FIELDS, width) for _ in range(steps)),
        leaky_relu=nn.LeakyReLU(0.01),
        W_attn=nn.Linear(2 * width, 1, bias=False),
        gru_cell=nn.GRUCell(width, width),
        mlp1=nn.Linear(width, 1, bias=False),
        mlp2=nn.Linear(FIELDS * width, FIELDS, bias=False),
        n_layers=steps + 1,
        attention_size=width,
        device="cpu",
    )
    attention, embedding = theirs.self_attn, theirs.att_embedding
    # Theirs has two linear layers one after another, where one does the same.
    weight = attention.in_proj_weight @ embedding.weight
    bias = attention.in_proj_weight @ embedding.bias + attention.in_proj_bias
    copy(network.project.parameters(), [weight, bias])
    copy(network.out.parameters(), attention.out_proj.parameters())
    copy(network.residual.parameters(), theirs.v_res_embedding.parameters())
    to, sender = theirs.W_attn.weight.split(width, 1)
    copy([network.edge_to.weight, network.edge_from.weight], [to, sender])
    for layer, other in zip(network.layers, theirs.gnn, strict=True):
        copy([layer.send, layer.receive, layer.bias], [other.W_out, other.W_in, other.bias_p])
    copy(network.gru.parameters(), theirs.gru_cell.parameters())
    copy([network.score.weight, network.weight.weight], [theirs.mlp1.weight, theirs.mlp2.weight])
    fields = torch.randn(BATCH, FIELDS, DIM)
    expected = recbole_fignn["FiGNN"].fignn_layer(theirs, fields).squeeze(1)
    same(network(fields).logit, expected)
