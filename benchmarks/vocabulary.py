"""What a smaller vocabulary of ids costs a CRM in quality, and saves in memory.

The most frequent ids keep embeddings of their own (``data.vocabulary.ids``); the others share as
many, by a hash, or have none. Features of users and items stay as they are.
"""

import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from corellarec.base.metrics import auc, log_loss, sigmoid
from corellarec.config import Config
from corellarec.crm.build import build_crm, build_reader
from corellarec.crm.score import crm_logits
from corellarec.data.log import Log
from corellarec.train.checkpoint import Progress
from corellarec.train.loop import train
from corellarec.train.stages import CrmTask
from harness import emit, parse, parser
from logs import add_data_option, add_set_option, data_settings, prepared_log

SHARES = (1.0, 0.1, 0.01)
CPU = torch.device("cpu")


def measure(log: Log, config: Config, seed: int) -> dict[str, float]:
    """Test quality of stage 1, and MB of the table of embeddings."""
    torch.manual_seed(seed)
    model = build_crm(config.crm, log.features, CPU)
    reader = build_reader(config.crm, log, CPU)
    with tempfile.TemporaryDirectory() as folder:
        train(
            CrmTask(model, reader, log, config.stage1, seed),
            config.stage1,
            progress=Progress(Path(folder), "benchmark"),
            seed=seed,
            accelerator=Accelerator(cpu=True),
        )
    rows = log.rows_of("test")
    label = log.test_labels(rows, "benchmark").numpy()
    p = sigmoid(crm_logits(model, reader, log.samples(rows)).double().numpy())
    tables = [one for name, one in model.named_parameters() if name.endswith("embedding.table")]
    return {
        "auc": auc(label, p),
        "log_loss": log_loss(label, p),
        "table_mb": sum(one.numel() * one.element_size() for one in tables) / 1e6,
    }


def main() -> None:
    options = parser(__doc__)
    add_data_option(options)
    add_set_option(options)
    options.add_argument("--model", default="dcnv2", help="the CRM")
    options.add_argument("--seeds", type=int, default=3)
    given = parse(options, quick={"seeds": 1})
    logging.disable(logging.INFO)
    settings = [
        f"crm.model={given.model}",
        "stage1.learning_rate=2e-3",
        *data_settings(given),
        *given.set,
    ]
    ids = prepared_log(settings, preset="quick")[1].items.height
    found = []
    print(
        f"{'ids of their own':>17} {'the others':>10} {'AUC':>7} {'log loss':>9} {'table, MB':>10}"
    )
    for share in SHARES:
        limit = max(1, round(share * ids))
        for shared in (limit, 0) if share < 1 else (0,):
            sizes = [f"data.vocabulary.ids={limit}", f"data.vocabulary.shared={shared}"]
            config, log = prepared_log([*settings, *sizes], preset="quick")
            runs = [measure(log, config, seed) for seed in range(given.seeds)]
            mean = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
            found.append({"share": share, "ids": limit, "shared": shared, **mean})
            others = "" if share == 1 else f"share {shared:,}" if shared else "have none"
            print(
                f"{limit:9,} ({share:4.0%}) {others:>11} {mean['auc']:7.4f} "
                f"{mean['log_loss']:9.4f} {mean['table_mb']:10.3f}",
                flush=True,
            )
    emit(given, {"model": given.model, "sizes": found})


if __name__ == "__main__":
    main()
