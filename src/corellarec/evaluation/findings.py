"""What an evaluation shows, in sentences that follow from its figures."""

from collections.abc import Sequence
from math import isnan

from corellarec.evaluation.parts import BesideRow, BudgetPoint, NoHarm, PredictorRow
from corellarec.evaluation.results import Evaluation, StudyResult
from corellarec.evaluation.text import difference, number, percent, signed, verdict


def findings(result: Evaluation) -> list[str]:
    """All sentences; those of a study where the result is one."""
    sentences = [
        *_cascade(result),
        *_least_confident(result),
        _every_row(result),
        _paper(result),
        _policies(result.budgets),
    ]
    if isinstance(result, StudyResult):
        sentences += _control(result)
        sentences += [_beside(result.beside)] if result.beside else []
    sentences.append(_within_users(result))
    if isinstance(result, StudyResult):
        sentences.append(_harm(result.no_harm))
    sentences.append(f"Decided on validation data: {result.router.explanation}.")
    return sentences


def _cascade(result: Evaluation) -> list[str]:
    """The deployed cascade against the reference."""
    cascade, reference = result.row("cascade"), result.row(result.reference)
    auc, log_loss = cascade.metrics["auc"], cascade.metrics["log_loss"]
    if cascade.llm_share == 0:
        why = (
            "no test row is above the threshold"
            if result.router.helps
            else "validation shows no significant gain"
        )
        alone = (
            f"The router sends no rows to the LLM: {why}. The cascade is the calibrated CRM, AUC "
            f"{number(auc.value)}, log loss {number(log_loss.value)}."
        )
        if reference.key == "crm_calibrated":
            return [alone]
        sentences, when = [alone], "The"
    else:
        sentences = []
        when = f"With {percent(cascade.llm_share)} of the rows routed to the LLM, the"
    for metric, title, better in (("auc", "AUC", 1), ("log_loss", "log loss", -1)):
        gap = cascade.over_reference[metric]
        sentences.append(
            f"{when} cascade's {title} is {number(cascade.metrics[metric].value)}, "
            f"{verdict(gap, better)} that of {_the(reference)}"
            + (", the best model without an LLM on validation" if _is_chosen(result) else "")
            + f" ({difference(gap)})."
        )
    return sentences


def _the(row: PredictorRow) -> str:
    """A predictor's name within a sentence."""
    return f"the {row.name}" if row.name.endswith("CRM") else row.name


def _is_chosen(result: Evaluation) -> bool:
    return isinstance(result, StudyResult) and len(result.validation_log_loss) > 1


def _least_confident(result: Evaluation) -> list[str]:
    """The paper's Figure 1 in words."""
    group = result.segments[0].groups[0]
    sentences = []
    for name, of in group.predictors.items():
        if not name.startswith("LLM"):
            continue
        auc, loss = of.over_reference["auc"], of.over_reference["log_loss"]
        if isnan(auc.low):
            claim = ""
        elif auc.low > 0:
            claim = ", as the paper says"
        elif auc.high < 0:
            claim = ", unlike in the paper"
        else:
            claim = ", where the paper has the LLM ahead"
        sentences.append(
            f"Where the CRM is least confident ({group.rows:,} rows), the AUC of the {name} is "
            f"{number(of.metrics['auc'].value)}, {verdict(auc, 1)} the CRM's "
            f"{number(group.predictors['CRM'].metrics['auc'].value)}{claim} ({difference(auc)}); "
            f"its log loss is {verdict(loss, -1)} the CRM's ({difference(loss)})."
        )
    return sentences


def _every_row(result: Evaluation) -> str:
    row, reference = result.row("blend_all"), result.row(result.reference)
    gap = row.over_reference["auc"]
    return (
        f"With every row routed, the blend's AUC is {number(row.metrics['auc'].value)}, "
        f"{verdict(gap, 1)} that of {_the(reference)} ({difference(gap)})."
    )


def _paper(result: Evaluation) -> str:
    row, reference = result.row("paper"), result.row(result.reference)
    gap = row.over_reference["auc"]
    return (
        f"The paper's rule (entropy, replace) with {percent(row.llm_share)} of the rows routed: "
        f"AUC {number(row.metrics['auc'].value)}, {verdict(gap, 1)} that of {_the(reference)} "
        f"({difference(gap)})."
    )


def _policies(budgets: Sequence[BudgetPoint]) -> str:
    """Gain against entropy at the same budgets."""
    ahead = [
        point
        for point in budgets
        if point.gain_over_entropy["auc"].value >= 0
        and point.gain_over_entropy["log_loss"].value <= 0
    ]
    shown = "; ".join(
        f"{percent(point.budget, 0)}: AUC {signed(point.gain_over_entropy['auc'].value)}"
        for point in budgets
    )
    significant = sum(point.gain_over_entropy["auc"].low > 0 for point in budgets)
    return (
        "At equal budgets the gain policy is at least as good as entropy in AUC and log loss at "
        f"{len(ahead)} of {len(budgets)} ({shown}); in AUC it is significantly better at "
        f"{significant}."
    )


def _control(result: StudyResult) -> list[str]:
    """The LLM's gain on every row beside a second CRM's."""
    control = next((row for row in result.table if row.key == "control/blend_all"), None)
    if control is None:
        return []
    own, whole = result.row("crm_calibrated"), result.row("blend_all")
    auc = own.metrics["auc"].value
    return [
        f"With every row routed, the LLM changes the AUC of {_the(own)} ({number(auc)}) by "
        f"{signed(whole.metrics['auc'].value - auc)}; {control.name} changes it by "
        f"{signed(control.metrics['auc'].value - auc)}."
    ]


def _beside(rows: Sequence[BesideRow]) -> str:
    """What the LLM adds to the CRM with the highest AUC on the test rows."""
    best = max(rows, key=lambda row: row.crm["auc"].value)
    auc, loss = best.budget.metrics["auc"], best.budget.metrics["log_loss"]
    return (
        f"Beside {best.name}, the best CRM on the test rows, with exactly 10 % of the rows routed "
        f"the LLM changes AUC from {number(best.crm['auc'].value)} to {number(auc.value)} "
        f"({difference(best.budget.over_reference['auc'])}) and log loss from "
        f"{number(best.crm['log_loss'].value)} to {number(loss.value)} "
        f"({difference(best.budget.over_reference['log_loss'])}); with every row routed AUC is "
        f"{number(best.every_row.metrics['auc'].value)}."
    )


def _within_users(result: Evaluation) -> str:
    """Whether the models rank items within a user, or only tell users apart."""
    rows = [row for row in result.table if row.kind == "yardstick"]
    rows += [result.row(key) for key in ("crm_calibrated", "llm_calibrated", "blend_all")]
    shown = ", ".join(f"{number(row.metrics['uauc'].value)} for {row.name}" for row in rows)
    return f"Within single users (UAUC, 0.5 is chance): {shown}."


def _harm(cascades: Sequence[NoHarm]) -> str:
    harmful = [one.name for one in cascades if one.harm]
    if not harmful:
        return "No harm: no cascade's log loss is above its own CRM's beyond the interval."
    return f"Harm: the log loss of {', '.join(harmful)} is above its own CRM's beyond the interval."
