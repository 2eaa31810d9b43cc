"""Every CRM on one log: quality on the test split, and time.

Each is trained as stage 1 of a run with its own preset, whose hyper-parameters were searched on
validation data, and measured once on all test rows; intervals are 95 %, users resampled. What is
done is kept under ``--out``, so that an interrupted benchmark goes on. MovieLens is fetched.

    python benchmarks/crm_zoo.py [--preset ml-1m] [--models dcnv2,din] [--seeds N] [--data PATH]
        [--set section.key=value] [--out DIRECTORY] [--quick] [--json]

``stream+fibinet`` is one CRM of two networks, blended on validation data.
``--quick`` trains one epoch of each on MovieLens-100K. There is no peer, and so no ratio.
"""

import json
from pathlib import Path
from typing import Any

from corellarec.base import metrics
from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.config import CRM_MODELS, load_config
from harness import emit, parse, parser
from logs import add_data_option, add_set_option, data_settings
from trained import TrainedCrm, train_crm

RESAMPLES = 500
SHOWN = ("auc", "log_loss", "accuracy")


def measure(preset: str, model: str, seed: int, settings: list[str], out: Path) -> dict[str, Any]:
    """Train one model, or find it trained, and measure it on the test split."""
    first, *others = model.split("+")
    settings = [*settings, f"seed={seed}"]
    if others:
        members = json.dumps([f"{preset}/{name}" for name in others])
        settings += [f"crm.members={members}", "stage2.rows=0", "stage3.rows=0"]
    config = load_config(preset=f"{preset}/{first}", settings=settings)
    directory = out / f"{model}-{seed}"
    training, crm = train_crm(config, directory), TrainedCrm(directory)
    rows = crm.log.rows_of("test")
    label = crm.log.test_labels(rows, "benchmark").numpy()
    p = metrics.sigmoid(crm.logits(rows))
    bootstrap = Bootstrap(crm.log.user[rows].long().numpy(), RESAMPLES, 0)
    steps_per_epoch = -(-len(crm.log.rows_of("train")) // config.stage1.batch_size)
    epochs = training.steps / steps_per_epoch
    found: dict[str, Any] = {"model": model, "seed": seed, "epochs": round(epochs)}
    found["seconds_per_epoch"] = training.seconds / max(1.0, epochs)
    found["validation_log_loss"] = training.validation_log_loss
    for name in SHOWN:
        found[name] = metrics.METRICS[name](label, p)
        found[f"{name}_interval"] = interval(bootstrap(name, label, p))
    return found


def main() -> None:
    options = parser(__doc__)
    add_data_option(options)
    add_set_option(options)
    options.add_argument("--preset", default="ml-1m", help="ml-1m or ml-100k")
    options.add_argument(
        "--models", default=",".join(CRM_MODELS), help="by commas; A+B is one CRM of two"
    )
    options.add_argument("--seeds", type=int, default=1, help="number of seeds")
    options.add_argument("--out", type=Path, help="None is runs/zoo-PRESET, or runs/zoo-quick")
    given = parse(options, quick={"preset": "ml-100k"})
    out = given.out or Path("runs", "zoo-quick" if given.quick else f"zoo-{given.preset}")
    settings = [*(["stage1.epochs=1"] if given.quick else []), *data_settings(given), *given.set]
    print(f"{'':24} {'seed':>4} {'AUC':>21} {'log loss':>9} {'ACC':>7} {'valid':>7} {'s/epoch':>8}")
    found = []
    for model in given.models.split(","):
        for seed in range(given.seeds):
            one = measure(given.preset, model, seed, settings, out)
            low, high = one["auc_interval"]
            print(
                f"{model:24} {seed:4} {one['auc']:.4f} ({low:.4f}-{high:.4f}) "
                f"{one['log_loss']:9.4f} {one['accuracy']:7.4f} {one['validation_log_loss']:7.4f} "
                f"{one['seconds_per_epoch']:8.1f}",
                flush=True,
            )
            found.append(one)
    emit(given, {"preset": given.preset, "models": found})


if __name__ == "__main__":
    main()
