"""Every CRM on one log: quality on the test split, and time.

Each is trained as stage 1 of a run with its own preset, whose hyper-parameters were searched on
validation data, and measured once on all test rows; intervals are 95 %, users resampled. What is
done is kept under ``--out``, so that an interrupted benchmark goes on. MovieLens is fetched.

    python benchmarks/crm_zoo.py [--preset ml-1m] [--models dcnv2,din] [--seeds N]
        [--set data.path=PATH] [--out DIRECTORY] [--json]
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from corellarec.base import metrics
from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.config import CRM_MODELS, load_config
from corellarec.crm.score import crm_logits
from corellarec.run.run import Run

RESAMPLES = 500
SHOWN = ("auc", "log_loss", "accuracy")


def measure(preset: str, model: str, seed: int, settings: list[str], out: Path) -> dict[str, Any]:
    """Train one model, or find it trained, and measure it on the test split."""
    config = load_config(preset=f"{preset}/{model}", settings=[*settings, f"seed={seed}"])
    run = Run(config, out / f"{model}-{seed}", Console(quiet=True))
    run.start()
    run.prepare()
    facts = run.train_stage(1)
    rows = run.log.rows_of("test")
    crm, log = run.trained_crm(stage=1), run.log
    label = log.test_labels(rows, "benchmark").numpy()
    user = log.user[rows].long().numpy()
    logit = crm_logits(crm, run.reader, log.samples(rows))
    p = metrics.sigmoid(logit.double().numpy())
    bootstrap = Bootstrap(user, RESAMPLES, 0)
    epochs = facts["step"] / (len(log.rows_of("train")) // config.stage1.batch_size)
    found: dict[str, Any] = {"model": model, "seed": seed, "epochs": round(epochs)}
    found["seconds_per_epoch"] = facts["seconds"] / max(1.0, epochs)
    found["validation_log_loss"] = facts["best"]["crm."]
    for name in SHOWN:
        found[name] = metrics.METRICS[name](label, p)
        found[f"{name}_interval"] = interval(bootstrap(name, label, p))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--preset", default="ml-1m", help="ml-1m or ml-100k")
    parser.add_argument("--models", default=",".join(CRM_MODELS), help="models, by commas")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    parser.add_argument("--set", action="append", default=[], help="a setting, section.key=value")
    parser.add_argument("--out", type=Path, help="default: runs/zoo-PRESET")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    arguments = parser.parse_args()
    out = arguments.out or Path("runs", f"zoo-{arguments.preset}")
    print(f"{'':12} {'seed':>4} {'AUC':>21} {'log loss':>9} {'ACC':>7} {'valid':>7} {'s/epoch':>8}")
    found = []
    for model in arguments.models.split(","):
        for seed in range(arguments.seeds):
            one = measure(arguments.preset, model, seed, arguments.set, out)
            low, high = one["auc_interval"]
            print(
                f"{model:12} {seed:4} {one['auc']:.4f} ({low:.4f}-{high:.4f}) "
                f"{one['log_loss']:9.4f} {one['accuracy']:7.4f} {one['validation_log_loss']:7.4f} "
                f"{one['seconds_per_epoch']:8.1f}",
                flush=True,
            )
            found.append(one)
    if arguments.json:
        print(json.dumps({"preset": arguments.preset, "models": found}))


if __name__ == "__main__":
    main()
