"""Everything a study measures, from what its cells answer."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from corellarec.base.bootstrap import Bootstrap
from corellarec.base.metrics import Floats, Labels, losses, sigmoid
from corellarec.evaluation.boundary import boundary
from corellarec.evaluation.curves import at_budgets, curves, routed
from corellarec.evaluation.figures import Figures, Predictor, table
from corellarec.evaluation.segments import cuts, segments
from corellarec.research.study.answers import (
    Alone,
    Answers,
    alone,
    answers,
    baseline_logits,
    yardsticks,
)
from corellarec.research.study.cells import Cell, Kind

KINDS = ("yardstick", "crm", "baseline", "llm", "cascade", "control")  # the order of the main table
BUDGET = 0.1  # at which CRMs with a language model beside them are compared
PAPER = "CoReLLa as in the paper (entropy, replace)"
BY_ENTROPY = "CoReLLa, entropy, blend"
EVERY_ROW = "CRM and LLM blended on every row"


class Measurement:
    """The figures of a study.

    Args:
        cells: All its cells, finished.
        console: Where progress goes.
    """

    def __init__(self, cells: Sequence[Cell], console: Console) -> None:
        self.cells, self.console = cells, console
        self._read: dict[str, Answers] = {}
        self.methods = self._answers("method")
        self.first = self.methods[0]
        config, test = self.first.run.config, self.first.test
        bootstrap = Bootstrap(test.user, config.evaluate.bootstrap, 0)
        self.figures = Figures(test.label, test.user, bootstrap)
        self.own = config.crm.model
        self.crms = self._crms()
        self.ours = f"CoReLLa, {config.cascade.policy}, {config.cascade.combine}"

    def _of(self, kind: Kind, name: str | None = None) -> list[Cell]:
        return [c for c in self.cells if c.kind == kind and name in (None, c.name)]

    def _answers(self, kind: Kind, name: str | None = None) -> list[Answers]:
        """What cells answer, one for each seed; each is read once."""
        found = []
        for cell in self._of(kind, name):
            if cell.directory.name not in self._read:
                self._read[cell.directory.name] = answers(cell, self.console)
            found.append(self._read[cell.directory.name])
        return found

    def _names(self, kind: Kind) -> list[str]:
        return list(dict.fromkeys(cell.name for cell in self._of(kind)))

    def _crms(self) -> dict[str, list[Alone]]:
        """Every CRM alone, the method's own as stage 1 left it among them."""
        found = {self.own: [alone(one.run, 1, one.rows) for one in self.methods]}
        for name in self._names("crm"):
            runs = [cell.open(self.console) for cell in self._of("crm", name)]
            found[name] = [alone(run, 1, self.first.rows) for run in runs]
        return found

    def everything(self) -> dict[str, Any]:
        """All sections; one whose cells the study does not have is left out."""
        predictors, validation_loss = self._predictors()
        reference = min(validation_loss, key=lambda name: validation_loss[name])
        found = {
            "rows": len(self.figures.label),
            "users": len(np.unique(self.figures.user)),
            "ours": self.ours,
            "reference": reference,
            "validation_log_loss": validation_loss,
            "table": table(self.figures, predictors, reference),
            "beside": self._beside(),
            "no_harm": self._no_harm(),
            "segments": self._segments(),
            "routing": self._routing(),
        }
        if ablation := self._ablation():
            found["ablation"] = ablation
        return found

    # The main table.

    def _predictors(self) -> tuple[list[Predictor], dict[str, float]]:
        """All rows of the main table, and the validation log loss of those without a cascade."""
        found, validation_loss = [], {}
        for name, p in yardsticks(self.first.run, self.first.rows).items():
            found.append(Predictor("yardstick", name, [p], [0.0]))
        for name, of_seeds in self.crms.items():
            p, ms = [one.p for one in of_seeds], float(np.mean([one.ms for one in of_seeds]))
            found.append(Predictor("crm", name, p, [0.0], ms))
            validation_loss[name] = float(np.mean([one.validation_loss for one in of_seeds]))
        for cell in self._of("baseline"):
            facts = json.loads((cell.directory / "baseline.json").read_text("utf-8"))
            logit = baseline_logits(cell, self.first.rows)
            asked = 0.0 if cell.name == "ctrl" else 1.0
            p, ms = [sigmoid(logit)], 1e3 * facts["ms_per_sample"]
            found.append(Predictor("baseline", cell.name, p, [asked], ms))
            if np.isfinite(logit).all():
                validation_loss[cell.name] = facts["validation_log_loss"]
        found += self._of_method(self.methods, "")
        if second := self._second():
            control = [
                one.with_second_crm(crm)
                for one, crm in zip(self.methods, self.crms[second], strict=True)
            ]
            title = f"control: {second} in the LLM's place"
            for way, key in ((", gain", "blend_gain"), (", every row", "blend_all")):
                p = [one.predictions[key] for one in control]
                asked = [_asked(one, key) for one in control]
                found.append(Predictor("control", title + way, p, asked))
        for name in self._names("llm"):
            others = self._answers("llm", name)
            found += self._of_method(others, f", {name}")
        for name in self._names("distilled"):
            others = self._answers("distilled", name)
            p = [one.predictions["crm_calibrated"] for one in others]
            found.append(Predictor("crm", f"{self.own}, taught by the LLM", p, [0.0]))
            found += self._of_method(others, ", CRM taught by the LLM")[2:]
        return sorted(found, key=lambda one: KINDS.index(one.kind)), validation_loss

    def _of_method(self, of_seeds: Sequence[Answers], ending: str) -> list[Predictor]:
        """The ways to use both models of a run."""
        ways = [
            ("llm", "LLM alone", "llm_calibrated"),
            ("cascade", PAPER, "paper"),
            ("cascade", BY_ENTROPY, "blend_entropy"),
            ("cascade", self.ours, "cascade"),
            ("cascade", EVERY_ROW, "blend_all"),
        ]
        if self.ours == BY_ENTROPY:
            del ways[2]
        found = []
        for kind, name, key in ways:
            asked = [_asked(one, key) for one in of_seeds]
            ms, tokens = self._cost(of_seeds, float(np.mean(asked)), with_crm=kind != "llm")
            p = [one.predictions[key] for one in of_seeds]
            found.append(Predictor(kind, name + ending, p, asked, ms, tokens))
        return found

    def _cost(
        self, of_seeds: Sequence[Answers], asked: float, *, with_crm: bool
    ) -> tuple[float, float]:
        """Milliseconds and tokens for 1,000 rows of which a share is asked about."""
        costs = [one.cost for one in of_seeds]
        ms = np.mean([1e6 * cost["seconds"] / max(1, cost["samples"]) for cost in costs])
        tokens = np.mean([1e3 * cost["tokens"] / max(1, cost["samples"]) for cost in costs])
        of_crm = [one.ms for one in self.crms[self.own]] if with_crm else []
        return float(asked * ms + (np.mean(of_crm) if of_crm else 0)), float(asked * tokens)

    def _second(self) -> str | None:
        """The CRM for the control: the best on validation, the method's own apart."""
        loss = {
            name: np.mean([one.validation_loss for one in of_seeds])
            for name, of_seeds in self.crms.items()
            if name != self.own
        }
        return min(loss, key=lambda name: loss[name]) if loss else None

    # The other sections.

    def _beside(self) -> list[dict[str, Any]]:
        """The method's language model beside every CRM, each with a router of its own."""
        found = []
        for name, of_seeds in self.crms.items():
            both = [one.beside(crm) for one, crm in zip(self.methods, of_seeds, strict=True)]
            crm = [one.predictions["crm_calibrated"] for one in both]
            row: dict[str, Any] = {"name": name}
            ways = {"shipped": "cascade", "every_row": "blend_all"}
            answers_of = {way: [one.predictions[key] for one in both] for way, key in ways.items()}
            answers_of["budget"] = [
                routed(one.router.value(one.test.known, "gain"), BUDGET, alone, answer)
                for one, alone, answer in zip(both, crm, answers_of["every_row"], strict=True)
            ]
            row["asked"] = float(np.mean([_asked(one, "cascade") for one in both]))
            for metric in ("auc", "log_loss"):
                row[metric] = {"crm": self.figures.figure(metric, crm)}
                for way, p in answers_of.items():
                    over = self.figures.figure(metric, p, crm)
                    row[metric][way] = self.figures.figure(metric, p) | {"over": over}
            found.append(row)
        return found

    def _no_harm(self) -> list[dict[str, Any]]:
        """The shipped cascade against its own calibrated CRM, for every run of the study."""
        found = []
        runs = [("", self.methods)]
        for kind in ("llm", "distilled"):
            runs += [(name, self._answers(kind, name)) for name in self._names(kind)]
        for name, of_seeds in runs:
            p = [one.predictions["cascade"] for one in of_seeds]
            crm = [one.predictions["crm_calibrated"] for one in of_seeds]
            gap = self.figures.figure("log_loss", p, crm)
            found.append({"name": name, "log_loss_over_crm": gap, "harm": gap["low"] > 0})
        return found

    def _segments(self) -> list[dict[str, Any]]:
        first, predictions = self.first, self.first.predictions
        groups = first.run.config.evaluate.groups
        named = {"CRM": predictions["crm_calibrated"], "LLM": predictions["llm_calibrated"]}
        for name in self._names("llm"):
            named[f"LLM, {name}"] = self._answers("llm", name)[0].predictions["llm_calibrated"]
        named["cascade"] = predictions["cascade"]
        ways = cuts(first.run.log, first.rows, named["CRM"], groups)
        return segments(self.figures, ways, named)

    def _routing(self) -> dict[str, Any]:
        first, router = self.first, self.first.router
        values = [
            {policy: one.router.value(one.test.known, policy) for policy in ("entropy", "gain")}
            for one in self.methods
        ]
        crm = [one.predictions["crm_calibrated"] for one in self.methods]
        answer = [one.predictions["blend_all"] for one in self.methods]
        found = curves(self.figures, values[0], crm[0], answer[0])
        found["at_budgets"] = at_budgets(self.figures, values, crm, answer)
        found["configured"] = router.budget
        found["thresholds"] = [
            _threshold(one, policy) for one in self.methods for policy in ("entropy", "gain")
        ]
        cost = first.cost
        found["routed_row"] = {
            "ms": 1e3 * cost["seconds"] / max(1, cost["samples"]),
            "tokens": cost["tokens"] / max(1, cost["samples"]),
        }
        return found

    def _ablation(self) -> list[dict[str, Any]]:
        """Each variant beside the full method of the first seed, itself the first entry."""
        names = self._names("ablation")
        if not names:
            return []
        full = self.first
        variants = {"the full method": full}
        variants |= {name: self._answers("ablation", name)[0] for name in names}
        return [self._variant(name, one, full) for name, one in variants.items()]

    def _variant(self, name: str, one: Answers, full: Answers) -> dict[str, Any]:
        found: dict[str, Any] = {"name": name, "asked": _asked(one, "cascade")}
        ways = {
            "crm": "crm_calibrated", "llm": "llm_calibrated", "cascade": "cascade",
            "every_row": "blend_all",
        }  # fmt: skip
        for way, key in ways.items():
            p, base = one.predictions[key], full.predictions[key]
            found[way] = {
                metric: self.figures.figure(metric, [p])
                | {"over": self.figures.figure(metric, [p], [base])}
                for metric in ("auc", "log_loss")
            }
        label = self.figures.label
        found["boundary"] = boundary(label, one.predictions["crm"], one.predictions["llm"])
        return found


def _asked(one: Answers, key: str) -> float:
    """Share of the test rows that the language model answers under a way to use both."""
    known, router = one.test.known, one.router
    match key:
        case "cascade":
            return float(router.routed(known).mean())
        case "blend_entropy":
            return float(router.routed(known, "entropy").mean())
        case "blend_gain":
            return float(router.routed(known, "gain").mean())
        case "paper":
            return router.budget
    return 1.0


def _threshold(one: Answers, policy: Any) -> dict[str, Any]:  # noqa: ANN401 (a policy's name)
    """What was fixed on validation, and what came of it on the test rows."""
    router = one.router
    above = router.value(one.test.known, policy) > router.rules[policy].threshold
    asked = router.routed(one.test.known, policy)
    return {
        "seed": one.run.config.seed,
        "policy": policy,
        "threshold": router.rules[policy].threshold,
        "validation": vars(router.rules[policy].share),
        "verdict": vars(router.rules[policy].verdict),
        "above": float(above.mean()),
        "asked": float(asked.mean()),
        "saved": _saved(one.test.label, one.predictions, asked),
    }


def _saved(label: Labels, predictions: Mapping[str, Floats], asked: NDArray[np.bool_]) -> float:
    """Nats that a routed row gains on the test rows; NaN where none is routed."""
    gain = losses(label, predictions["crm_calibrated"]) - losses(label, predictions["blend_all"])
    return float(gain[asked].mean()) if asked.any() else float("nan")
