"""The control: does the LLM add more to a CRM than another CRM does?

Blends the logits of the first CRM with those of others, of the LLM, and of all, each fitted on
the validation rows that the LLM scored and measured on such test rows; 95 % intervals are paired,
users resampled.

    python benchmarks/second_crm.py RUN CRM_RUN CRM_RUN ... [--json]

RUN has scored rows with the LLM (`corellarec run`); a CRM_RUN has trained stage 1 on the same
prepared log (`benchmarks/crm_zoo.py` makes several).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import polars as pl
import torch
from rich.console import Console

from corellarec.base import metrics
from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.base.calibrate import fit_logistic
from corellarec.base.metrics import Floats
from corellarec.crm.score import crm_logits
from corellarec.run.run import Run

RESAMPLES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("crm_runs", type=Path, nargs="+", metavar="CRM_RUN")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    given = parser.parse_args()
    scores = {
        split: pl.read_parquet(given.run / "scores" / split / "scores.parquet", glob=False)
        for split in ("validation", "test")
    }
    rows = {
        split: torch.from_numpy(table["row"].to_numpy().copy()) for split, table in scores.items()
    }
    logits: dict[str, dict[str, Floats]] = {"LLM": {}}
    for split, table in scores.items():
        logits["LLM"][split] = table["llm_logit"].cast(pl.Float64).to_numpy()
    runs = [Run.open(path, Console(quiet=True)) for path in given.crm_runs]
    log, names = runs[0].log, [run.directory.name for run in runs]
    for name, run in zip(names, runs, strict=True):
        assert torch.equal(run.log.history_label, log.history_label), f"{name} has another log"
        crm = run.trained_crm(stage=1)
        logits[name] = {
            split: crm_logits(crm, run.reader, run.log.samples(part)).double().numpy()
            for split, part in rows.items()
        }
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
    found = []
    for way, p in predictions.items():
        # With the LLM taken out again: what is its own share?
        less = tuple(part for part in way if part != "LLM")
        against = predictions[less] if less != way else predictions[first,]
        facts: dict[str, Any] = {"blend": way, "against": less if less != way else (first,)}
        for metric in ("auc", "log_loss"):
            function = metrics.METRICS[metric]
            resampled, resampled_against = (
                bootstrap(metric, label["test"], answer) for answer in (p, against)
            )
            value = function(label["test"], p)
            facts[metric] = value
            facts[f"{metric}_gain"] = value - function(label["test"], against)
            facts[f"{metric}_interval"] = interval(resampled - resampled_against)
        found.append(facts)
        show(facts)
    if given.json:
        print(json.dumps({"rows": len(user), "blends": found}))


def show(facts: dict[str, Any]) -> None:
    """A line: quality, and the gain over the blend without the LLM, or over the first CRM."""
    parts = []
    for metric in ("auc", "log_loss"):
        low, high = facts[f"{metric}_interval"]
        gain = facts[f"{metric}_gain"]
        parts.append(f"{metric} {facts[metric]:.4f} {gain:+.4f} ({low:+.4f} to {high:+.4f})")
    print(
        f"{' + '.join(facts['blend']):60} {'  '.join(parts)}  over {' + '.join(facts['against'])}"
    )


if __name__ == "__main__":
    main()
