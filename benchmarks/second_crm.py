"""The control: does the LLM add more to a CRM than another CRM does?

Blends the logits of the first CRM with those of others, of the LLM, and of all, each fitted on
the validation rows that the LLM scored and measured on such test rows; 95 % intervals are paired,
users resampled.

    python benchmarks/second_crm.py RUN CRM_RUN CRM_RUN ... [--json]
    python benchmarks/second_crm.py --quick [--data PATH] [--set section.key=value] [--json]

RUN has scored rows with the LLM (`corellarec run`); a CRM_RUN has trained stage 1 on the same
prepared log (`benchmarks/crm_zoo.py` makes several). Without runs, `--quick` trains two small ones
on MovieLens-100K: DCNv2 with an LLM, and DIN.
"""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
import torch

from corellarec.base import metrics
from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.base.calibrate import fit_logistic
from corellarec.base.metrics import Floats
from corellarec.config import load_config
from harness import emit, parse, parser
from logs import add_data_option, add_set_option, data_settings
from trained import SMALL_RUN, TrainedCrm, train_crm, train_run

RESAMPLES = 300


@dataclass(frozen=True)
class Gain:
    """What a part adds to a blend.

    Args:
        metric: ``auc`` or ``log_loss``.
        value: Of the blend.
        gain: Value less that of the blend it is compared with.
        low: Lower end of the gain's 95 % interval.
        high: Upper end.
    """

    metric: str
    value: float
    gain: float
    low: float
    high: float


def train_quick(folder: Path, settings: Sequence[str]) -> tuple[Path, list[Path]]:
    """Train DCNv2 and an LLM in one run, and DIN in another; returns RUN and its CRM_RUNs."""
    run, other = folder / "dcnv2", folder / "din"
    dcnv2, din = (
        load_config(preset="quick", settings=[*SMALL_RUN, *settings, f"crm.model={path.name}"])
        for path in (run, other)
    )
    train_run(dcnv2, run)
    train_crm(din, other)
    return run, [run, other]


def main() -> None:
    options = parser(__doc__)
    add_data_option(options)
    add_set_option(options)
    options.add_argument("run", type=Path, metavar="RUN", nargs="?")
    options.add_argument("crm_runs", type=Path, nargs="*", metavar="CRM_RUN")
    given = parse(options)
    if given.run is None and not given.quick:
        options.error("give RUN and two CRM_RUNs at least, or --quick, which trains its own")
    if given.run is not None and len(given.crm_runs) < 2:
        options.error(f"found {len(given.crm_runs)} CRM_RUNs; give two at least, to compare with")
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        run, crm_runs = given.run, given.crm_runs
        if run is None:
            run, crm_runs = train_quick(Path(folder), [*data_settings(given), *given.set])
        compare(run, crm_runs, given)


def compare(run: Path, crm_runs: Sequence[Path], given: argparse.Namespace) -> None:
    """Print and emit what the LLM of a run and other CRMs add to the first CRM."""
    scores = {
        split: pl.read_parquet(run / "scores" / split / "scores.parquet", glob=False)
        for split in ("validation", "test")
    }
    rows = {
        split: torch.from_numpy(table["row"].to_numpy().copy()) for split, table in scores.items()
    }
    logits: dict[str, dict[str, Floats]] = {"LLM": {}}
    for split, table in scores.items():
        logits["LLM"][split] = table["llm_logit"].cast(pl.Float64).to_numpy()
    crms = [TrainedCrm(path) for path in crm_runs]
    log, names = crms[0].log, [crm.name for crm in crms]
    for crm in crms:
        assert torch.equal(crm.log.history_label, log.history_label), f"{crm.name}: another log"
        logits[crm.name] = {split: crm.logits(part) for split, part in rows.items()}
    label = {
        "validation": log.labels(rows["validation"]).numpy(),
        "test": log.test_labels(rows["test"], "benchmark").numpy(),
    }
    user = log.user[rows["test"]].long().numpy()
    bootstrap = Bootstrap(user, RESAMPLES, 0)

    def blend(*parts: str) -> Floats:
        fitted = fit_logistic(label["validation"], *(logits[p]["validation"] for p in parts))
        return metrics.sigmoid(fitted(*(logits[p]["test"] for p in parts)))

    first, *others = names
    ways = [(first,), *((first, other) for other in others), (first, "LLM")]
    ways += [(first, other, "LLM") for other in others]
    if len(names) > 2:
        ways += [tuple(names), (*names, "LLM")]
    predictions = {way: blend(*way) for way in ways}
    blends = []
    for way, p in predictions.items():
        # With the LLM taken out again: what is its own share?
        against = tuple(part for part in way if part != "LLM")
        against = (first,) if against == way else against
        gains = []
        for metric in ("auc", "log_loss"):
            function = metrics.METRICS[metric]
            value, reference = (function(label["test"], q) for q in (p, predictions[against]))
            low, high = interval(
                bootstrap(metric, label["test"], p)
                - bootstrap(metric, label["test"], predictions[against])
            )
            gains.append(Gain(metric, value, value - reference, low, high))
        show(way, against, gains)
        blends.append({"blend": way, "against": against, "gains": [asdict(one) for one in gains]})
    auc = {way: metrics.METRICS["auc"](label["test"], p) for way, p in predictions.items()}
    best = max(others, key=lambda other: auc[first, other])
    emit(
        given,
        {"rows": len(user), "blends": blends},
        ratio=auc[first, "LLM"] / auc[first, best],
        ratio_of=f"test AUC of {first} blended with the LLM over {first} blended with {best}",
    )


def show(way: Sequence[str], against: Sequence[str], gains: Sequence[Gain]) -> None:
    """A line: quality, and the gain over the blend without the LLM, or over the first CRM."""
    parts = [
        f"{g.metric} {g.value:.4f} {g.gain:+.4f} ({g.low:+.4f} to {g.high:+.4f})" for g in gains
    ]
    print(f"{' + '.join(way):60} {'  '.join(parts)}  over {' + '.join(against)}")


if __name__ == "__main__":
    main()
