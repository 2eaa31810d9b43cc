"""Test quality of our DCNv2 and FuxiCTR's on the same rows and features.

Both get the same ids, attributes and the same history rows with their labels (FuxiCTR's as one
sequence of item-and-label tokens, mean-pooled, the way its feature encoders take a history), the
same sizes, batch size and validation split, and stop early on it. FuxiCTR's embedding regulariser,
which its published results tune per data set, is chosen on validation from a small grid.

    python benchmarks/crm_quality.py [--seeds N] [--data PATH] [--set section.key=value]
        [--quick] [--json]
"""

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from fuxictr.pytorch.torch_utils import seed_everything
from torch import Tensor

from corellarec.base import metrics
from corellarec.config import Config
from corellarec.crm.build import build_crm, build_reader
from corellarec.crm.score import crm_logits
from corellarec.data.log import Log
from corellarec.train.checkpoint import Progress
from corellarec.train.loop import train
from corellarec.train.stages import CrmTask
from harness import emit, parse, parser
from logs import add_data_option, add_set_option, data_settings, prepared_log
from peers import FuxiBatches, FuxiModel, columns_of, fuxi_feature_map

REGULARIZERS = (0.0, 1e-5, 1e-4, 1e-3)
CPU = torch.device("cpu")
DCNV2 = ("crm.model=dcnv2", "crm.ratings=false", "stage1.learning_rate=2e-3")


def quality(label: Tensor, p: np.ndarray) -> dict[str, float]:
    """AUC and log loss."""
    found = label.numpy()
    return {"auc": metrics.auc(found, p), "log_loss": metrics.log_loss(found, p)}


def train_ours(log: Log, config: Config, seed: int) -> dict[str, Any]:
    """Stage 1 as a run does it."""
    torch.manual_seed(seed)
    model = build_crm(config.crm, log.features, CPU)
    reader = build_reader(config.crm, log, CPU)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        task = CrmTask(model, reader, log, config.stage1, seed)
        progress = Progress(Path(folder), "benchmark")
        accelerator = Accelerator(cpu=True)
        state = train(task, config.stage1, progress=progress, seed=seed, accelerator=accelerator)
    seconds = time.perf_counter() - start
    rows = log.rows_of("test")
    p = metrics.sigmoid(crm_logits(model, reader, log.samples(rows)).double().numpy())
    return quality(log.test_labels(rows, "benchmark"), p) | {
        "validation_auc": max(record["crm_auc"] for record in state.history),
        "seconds": seconds,
    }


def train_fuxi(log: Log, config: Config, seed: int, regularizer: float) -> dict[str, Any]:
    """FuxiCTR's loop, early stopping on validation AUC."""
    seed_everything(seed)
    length = config.crm.history_length
    columns = {
        split: columns_of(log, log.rows_of(split), length)
        for split in ("train", "validation", "test")
    }
    size = config.stage1.batch_size
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        features = fuxi_feature_map(log, length, pooled=True)
        model = FuxiModel("dcnv2", features, config.crm, folder, regularizer)
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
            rows = log.rows_of(split)
            label = log.test_labels(rows, "benchmark") if split == "test" else log.labels(rows)
            found[split] = quality(label, p.double().numpy())
    return found["test"] | {"validation_auc": found["validation"]["auc"], "seconds": seconds}


def main() -> None:
    options = parser(__doc__)
    add_data_option(options)
    add_set_option(options)
    options.add_argument("--seeds", type=int, default=3, help="number of seeds")
    given = parse(options, quick={"seeds": 1})
    logging.disable(logging.INFO)
    settings = [*DCNV2, *data_settings(given), *given.set]
    config, log = prepared_log(settings, preset="quick")
    ours, theirs = [], []
    print(f"{'':24} {'test AUC':>9} {'log loss':>9} {'valid AUC':>9} {'seconds':>8}")
    for seed in range(given.seeds):
        ours.append(train_ours(log, config, seed))
        show(f"corellarec, seed {seed}", ours[-1])
        tried = [train_fuxi(log, config, seed, value) for value in REGULARIZERS]
        theirs.append(max(tried, key=lambda found: found["validation_auc"]))
        chosen = REGULARIZERS[tried.index(theirs[-1])]
        show(f"FuxiCTR, seed {seed}, {chosen:g}", theirs[-1])
    means = {
        name: float(np.mean([found["auc"] for found in runs]))
        for name, runs in (("ours", ours), ("fuxictr", theirs))
    }
    print(f"mean test AUC: corellarec {means['ours']:.4f}, FuxiCTR {means['fuxictr']:.4f}")
    emit(
        given,
        {"mean_auc": means, "runs": {"ours": ours, "fuxictr": theirs}},
        ratio=means["ours"] / means["fuxictr"],
        ratio_of="mean test AUC of ours over FuxiCTR's",
    )


def show(name: str, found: dict[str, float]) -> None:
    print(
        f"{name:24} {found['auc']:9.4f} {found['log_loss']:9.4f} "
        f"{found['validation_auc']:9.4f} {found['seconds']:8.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
