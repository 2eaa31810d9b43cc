"""Test quality of our DCNv2 and FuxiCTR's on the same rows and features.

Both get the same ids, attributes and the same history rows with their labels (FuxiCTR's as one
sequence of item-and-label tokens, mean-pooled, the way its feature encoders take a history), the
same sizes, batch size and validation split, and stop early on it. FuxiCTR's embedding regulariser,
which its published results tune per data set, is chosen on validation from a small grid.

    python benchmarks/crm_quality.py [--quick] [--json] [--set data.path=PATH]
"""

import argparse
import json
import logging
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from torch import Tensor, nn

from corellarec import metrics
from corellarec.config import Config, load_config
from corellarec.crm.batch import CrmReader
from corellarec.crm.build import build_crm
from corellarec.crm.score import crm_logits
from corellarec.data.log import Log
from corellarec.data.prepare import prepare
from corellarec.train.checkpoint import Progress
from corellarec.train.loop import train
from corellarec.train.stages import CrmTask

REGULARIZERS = (0.0, 1e-5, 1e-4, 1e-3)
CPU = torch.device("cpu")


class FuxiDCNv2(BaseModel):
    """DCNv2 in parallel form from FuxiCTR's own layers and training loop."""

    def __init__(
        self, feature_map: FeatureMap, config: Config, folder: str, regularizer: float
    ) -> None:
        super().__init__(
            feature_map,
            model_id="dcnv2",
            gpu=-1,
            verbose=0,
            model_root=folder,
            metrics=["AUC", "logloss"],
            monitor="AUC",
            embedding_regularizer=regularizer,
            early_stop_patience=2,
        )
        crm = config.crm
        self.embedding_layer = FeatureEmbedding(feature_map, crm.embedding_dim)
        width = feature_map.num_fields * crm.embedding_dim
        self.crossnet = CrossNetV2(width, crm.cross_layers)
        self.deep = MLP_Block(
            input_dim=width,
            output_dim=None,
            hidden_units=list(crm.deep_layers),
            hidden_activations="ReLU",
            dropout_rates=crm.dropout,
        )
        self.fc = nn.Linear(width + crm.deep_layers[-1], 1)
        self.compile("adam", "binary_crossentropy", 1e-3)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities of a batch."""
        features = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        out = torch.cat([self.crossnet(features), self.deep(features)], dim=-1)
        return {"y_pred": self.output_activation(self.fc(out))}


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


def fuxi_feature_map(log: Log, length: int) -> FeatureMap:
    """The features of :func:`fuxi_columns`."""
    found = FeatureMap("benchmark", ".")
    found.labels = ["label"]
    features: dict[str, dict[str, Any]] = OrderedDict()
    pooled = {"type": "sequence", "source": "", "padding_idx": 0,
              "feature_encoder": "layers.MaskedAveragePooling()"}  # fmt: skip
    for layout in (*log.user_layout, *log.item_layout):
        spec = {"type": "categorical", "source": "", "vocab_size": layout.vocabulary}
        if layout.width > 1:
            spec = pooled | {"vocab_size": layout.vocabulary, "max_len": layout.width}
        features[layout.name] = spec
    items = log.item_layout[0].vocabulary
    features["history"] = pooled | {"vocab_size": 2 * items + 1, "max_len": length}
    found.features = features
    found.num_fields = found.get_num_fields()
    found.set_column_index()
    return found


def fuxi_columns(log: Log, rows: Tensor, length: int) -> dict[str, Tensor]:
    """The features of log rows: codes as they are, history as item-and-label tokens, 0 padding."""
    samples = log.samples(rows)
    columns: dict[str, Tensor] = {"label": log.label[rows].float()}
    for layout, codes in (
        (log.user_layout, log.user_codes[samples.user]),
        (log.item_layout, log.item_codes[samples.item]),
    ):
        parts = codes.long().split([feature.width for feature in layout], 1)
        for feature, part in zip(layout, parts, strict=True):
            columns[feature.name] = part if feature.width > 1 else part.squeeze(1)
    back = samples.end.unsqueeze(1) - torch.arange(1, length + 1)
    exists, back = back >= samples.begin.unsqueeze(1), back.clamp(min=0)
    item = log.item_codes[log.item[back].long(), 0].long()
    token = 1 + 2 * item + log.label[back].long()
    columns["history"] = token * exists
    return columns


def quality(label: Tensor, p: np.ndarray) -> dict[str, float]:
    """AUC and log loss."""
    found = label.numpy()
    return {"auc": metrics.auc(found, p), "log_loss": metrics.log_loss(found, p)}


def train_ours(log: Log, config: Config, seed: int) -> dict[str, Any]:
    """Stage 1 as a run does it."""
    torch.manual_seed(seed)
    model = build_crm(config.crm, log.user_layout, log.item_layout)
    reader = CrmReader(log, config.crm.history_length, CPU)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        task = CrmTask(model, reader, log, config.stage1, seed)
        progress = Progress(Path(folder), "benchmark")
        accelerator = Accelerator(cpu=True)
        state = train(task, config.stage1, progress=progress, seed=seed, accelerator=accelerator)
    seconds = time.perf_counter() - start
    rows = log.rows_of("test")
    p = metrics.sigmoid(crm_logits(model, reader, log.samples(rows)).double().numpy())
    return quality(log.label[rows], p) | {
        "validation_auc": max(record["crm_auc"] for record in state.history),
        "seconds": seconds,
    }


def train_fuxi(log: Log, config: Config, seed: int, regularizer: float) -> dict[str, Any]:
    """FuxiCTR's loop, early stopping on validation AUC."""
    seed_everything(seed)
    length = config.crm.history_length
    columns = {
        split: fuxi_columns(log, log.rows_of(split), length)
        for split in ("train", "validation", "test")
    }
    size = config.stage1.batch_size
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = FuxiDCNv2(fuxi_feature_map(log, length), config, folder, regularizer)
        Path(model.model_dir).mkdir(parents=True)
        validation = FuxiBatches(columns["validation"], 4096, shuffle=False)
        model.fit(
            FuxiBatches(columns["train"], size, shuffle=True),
            epochs=config.stage1.epochs,
            validation_data=validation,
        )
    seconds = time.perf_counter() - start
    model.eval()
    found = {}
    with torch.inference_mode():
        for split in ("validation", "test"):
            batches = FuxiBatches(columns[split], 4096, shuffle=False)
            p = torch.cat([model(batch)["y_pred"].squeeze(1) for batch in batches])
            found[split] = quality(log.label[log.rows_of(split)], p.double().numpy())
    return found["test"] | {"validation_auc": found["validation"]["auc"], "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one seed, one regulariser")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--set", action="append", default=[], help="a setting, section.key=value")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    config = load_config(preset="quick", settings=arguments.set)
    seeds = (0,) if arguments.quick else (0, 1, 2)
    regularizers = REGULARIZERS[1:2] if arguments.quick else REGULARIZERS
    with tempfile.TemporaryDirectory() as folder:
        prepare(config.data, Path(folder) / "data")
        log = Log.load(Path(folder) / "data")
    ours, theirs = [], []
    print(f"{'':24} {'test AUC':>9} {'log loss':>9} {'valid AUC':>9} {'seconds':>8}")
    for seed in seeds:
        ours.append(train_ours(log, config, seed))
        show(f"corellarec, seed {seed}", ours[-1])
        tried = [train_fuxi(log, config, seed, value) for value in regularizers]
        theirs.append(max(tried, key=lambda found: found["validation_auc"]))
        chosen = regularizers[tried.index(theirs[-1])]
        show(f"FuxiCTR, seed {seed}, {chosen:g}", theirs[-1])
    means = {
        name: float(np.mean([found["auc"] for found in runs]))
        for name, runs in (("ours", ours), ("fuxictr", theirs))
    }
    ratio = means["ours"] / means["fuxictr"]
    print(f"mean test AUC: corellarec {means['ours']:.4f}, FuxiCTR {means['fuxictr']:.4f}")
    if arguments.json:
        print(json.dumps({"ratio": ratio, "metric": "auc", **means, "runs": [ours, theirs]}))


def show(name: str, found: dict[str, float]) -> None:
    print(
        f"{name:24} {found['auc']:9.4f} {found['log_loss']:9.4f} "
        f"{found['validation_auc']:9.4f} {found['seconds']:8.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
