"""The peers' models, built from their own layers, and our log as they read it."""

from collections import OrderedDict
from threading import Thread
from typing import Any
from unittest import mock

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import CrossNetV2, DIN_Attention, FeatureEmbeddingDict, MLP_Block
from fuxictr.pytorch.models import BaseModel
from torch import Tensor, nn

from corellarec.config import CrmConfig
from corellarec.data.log import Log


class FuxiModel(BaseModel):
    """FuxiCTR's DCNv2 in parallel form, or its DIN, in its own training loop.

    Args:
        name: ``dcnv2`` (history averaged) or ``din``.
        feature_map: The features.
        crm: Sizes.
        folder: Where it may write.
        regularizer: Of its embeddings.
    """

    def __init__(
        self,
        name: str,
        feature_map: FeatureMap,
        crm: CrmConfig,
        folder: str,
        regularizer: float = 0.0,
    ) -> None:
        super().__init__(
            feature_map,
            model_id=name,
            gpu=-1,
            verbose=0,
            model_root=folder,
            metrics=["AUC", "logloss"],
            monitor="AUC",
            embedding_regularizer=regularizer,
            early_stop_patience=2,
        )
        self.embedding = FeatureEmbeddingDict(feature_map, crm.embedding_dim)
        width = feature_map.num_fields * crm.embedding_dim
        self.attention = self.cross = None
        if name == "din":
            units = [crm.attention.hidden]
            self.attention = DIN_Attention(crm.embedding_dim, units, use_softmax=True)
        else:
            self.cross = CrossNetV2(width, crm.dcnv2.cross_layers)
        self.deep = MLP_Block(
            input_dim=width,
            output_dim=None,
            hidden_units=list(crm.deep_layers),
            hidden_activations="ReLU",
            dropout_rates=crm.dropout,
        )
        self.fc = nn.Linear((width if self.cross else 0) + crm.deep_layers[-1], 1)
        self.compile("adam", "binary_crossentropy", 1e-3)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities of a batch."""
        found = self.get_inputs(inputs)
        embedded = self.embedding(found)
        if self.attention is not None:
            mask = found["history"] != 0
            target = embedded["item_id"]
            embedded["history"] = self.attention(target, embedded["history"], mask)
        features = self.embedding.dict2tensor(embedded, flatten_emb=True)
        parts = [self.deep(features)]
        if self.cross is not None:
            parts.insert(0, self.cross(features))
        return {"y_pred": self.output_activation(self.fc(torch.cat(parts, dim=-1)))}


class FuxiBatches:
    """Batches in the form FuxiCTR's loop reads: one tensor a feature, in memory."""

    def __init__(self, columns: dict[str, Tensor], batch_size: int, shuffle: bool) -> None:
        self.columns, self.batch_size, self.shuffle = columns, batch_size, shuffle
        self.count = len(columns["label"])

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self):  # noqa: ANN204
        order = torch.randperm(self.count) if self.shuffle else torch.arange(self.count)
        for part in order.split(self.batch_size):
            yield {name: column[part] for name, column in self.columns.items()}


def fuxi_feature_map(log: Log, length: int, *, pooled: bool, labels: bool = True) -> FeatureMap:
    """The features of :func:`columns_of`; the history averaged, or left to a model."""
    found = FeatureMap("benchmark", ".")
    found.labels = ["label"]
    features: dict[str, dict[str, Any]] = OrderedDict()
    mean = {"feature_encoder": "layers.MaskedAveragePooling()"}
    sequence = {"type": "sequence", "source": "", "padding_idx": 0}
    for layout in (*log.features.user, *log.features.item):
        spec = {"type": "categorical", "source": "", "vocab_size": layout.vocabulary}
        if layout.width > 1:
            spec = sequence | mean | {"vocab_size": layout.vocabulary, "max_len": layout.width}
        features[layout.name] = spec
    items = log.features.item[0].vocabulary
    history = sequence | {"vocab_size": 2 * items + 1 if labels else items, "max_len": length}
    if not labels:
        history["share_embedding"] = "item_id"
    features["history"] = history | (mean if pooled else {})
    found.features = features
    found.num_fields = len(features)
    found.set_column_index()
    return found


def columns_of(log: Log, rows: Tensor, length: int, *, labels: bool = True) -> dict[str, Tensor]:
    """The features of log rows: codes as they are, history as item-and-label tokens, 0 padding."""
    samples = log.samples(rows)
    columns: dict[str, Tensor] = {"label": log.test_labels(rows, "benchmark").float()}
    for layout, codes in (
        (log.features.user, log.user_codes[samples.user]),
        (log.features.item, log.item_codes[samples.item]),
    ):
        parts = codes.long().split([feature.width for feature in layout], 1)
        for feature, part in zip(layout, parts, strict=True):
            columns[feature.name] = part if feature.width > 1 else part.squeeze(1)
    back = samples.end.unsqueeze(1) - torch.arange(1, length + 1)
    exists, back = back >= samples.begin.unsqueeze(1), back.clamp(min=0)
    token = log.item_codes[log.item[back].long(), 0].long()
    if labels:
        token = 1 + 2 * token + log.history_label[back].long()
    columns["history"] = token * exists
    return columns


def deepctr_model(name: str, log: Log, length: int, crm: CrmConfig) -> Any:  # noqa: ANN401
    """DeepCTR-Torch's DCNv2 in parallel form, or its DIN, on the features of :func:`columns_of`.

    Args:
        name: ``dcnv2`` (history averaged) or ``din``.
        log: The log.
        length: Rows of history.
        crm: Sizes.
    """
    with mock.patch.object(Thread, "start"):  # it asks PyPI for updates, and prints when it fails
        from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
        from deepctr_torch.models import DCN, DIN

    features: list[Any] = []
    for layout in (*log.features.user, *log.features.item):
        column = SparseFeat(layout.name, layout.vocabulary, embedding_dim=crm.embedding_dim)
        if layout.width > 1:
            column = VarLenSparseFeat(column, maxlen=layout.width, combiner="mean")
        features.append(column)
    tokens = 2 * log.features.item[0].vocabulary + 1
    history = SparseFeat("hist_item_id", tokens, embedding_dim=crm.embedding_dim)
    features.append(VarLenSparseFeat(history, length, length_name="length"))
    options: dict[str, Any] = {
        "dnn_hidden_units": crm.deep_layers,
        "dnn_dropout": crm.dropout,
        "l2_reg_embedding": 0.0,
    }
    if name == "dcnv2":
        options |= {"cross_num": crm.dcnv2.cross_layers, "cross_parameterization": "matrix"}
        options |= {"l2_reg_linear": 0.0, "l2_reg_cross": 0.0}
        model = DCN(features, features, **options)
    else:
        options |= {"att_hidden_size": (crm.attention.hidden,), "att_activation": "relu"}
        options |= {"att_weight_normalization": True}
        model = DIN(features, ["item_id"], **options)
    model.compile("adam", "binary_crossentropy")
    return model
