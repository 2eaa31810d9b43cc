"""Lists that a language model, or a second CRM in its place, orders anew."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from corellarec.base.artifacts import writing
from corellarec.base.calibrate import LogisticMap, fit_logistic
from corellarec.base.list_metrics import NOTHING
from corellarec.base.metrics import Floats
from corellarec.base.stored import read_stored
from corellarec.cascade.lists import ListRouter, ListScores, list_facts
from corellarec.crm.build import build_reader, network_reader
from corellarec.crm.score import crm_logits
from corellarec.data.log import Samples
from corellarec.data.ranking import RankingTask
from corellarec.evaluation.ranking.figures import Ranker
from corellarec.evaluation.ranking.lists import Lists
from corellarec.evaluation.ranking.results import Decision
from corellarec.llm.layout import build_layout
from corellarec.llm.load import load_tokenizer
from corellarec.llm.score import Cost, LlmScorer
from corellarec.run.members import blend_members
from corellarec.run.weights import final_crm, load_tuned_adapter, trained_crm
from corellarec.run.workspace import Workspace

COLUMNS = {"llm_logit": pl.Float32()}
Stage = Literal["none", "stage1", "final"]


class CrmScores:
    """A run's CRM on the candidates of a task.

    Where negatives were drawn, a logit is calibrated on validation and corrected for the drawing
    (:func:`corellarec.cascade.prediction.next_log_probability`); otherwise it is the CRM's own.

    Args:
        workspace: The run.
        task: What to rank, of the run's log.
        stage: Whether the CRM is as stage 1 left it, or as it is used in the end.
    """

    def __init__(self, workspace: Workspace, task: RankingTask, stage: Stage) -> None:
        self.task, config, device = task, workspace.config.crm, workspace.device
        if stage == "stage1":
            self.model, reader = trained_crm(workspace, stage=1), workspace.reader
            self.reader = network_reader(config, task.log, device)
        else:
            blend_members(workspace)
            self.model, reader = final_crm(workspace)
            self.reader = build_reader(config, task.log, device)
        self.calibration = LogisticMap((1.0,), 0.0)
        if (log := workspace.log).negatives:
            rows = log.rows_of("validation")
            logit = crm_logits(self.model, reader, log.samples(rows)).double().numpy()
            self.calibration = fit_logistic(log.labels(rows).numpy(), logit)

    def _logits(self, samples: Samples) -> Floats:
        logit = crm_logits(self.model, self.reader, samples).double().numpy()
        if self.task.log.negatives:
            logit = _corrected(self.task, samples, self.calibration(logit))
        return logit

    def of_all(self, rows: NDArray[np.int64]) -> Floats:
        """``(n, candidates)`` logits for places of users in the task."""
        candidate = torch.from_numpy(self.task.candidate)
        user = torch.from_numpy(self.task.user[rows])
        samples = self.task.log.candidates(
            user.repeat_interleave(len(candidate)), candidate.repeat(len(user))
        )
        return self._logits(samples).reshape(len(rows), -1)

    def of_lists(self, lists: Lists) -> Floats:
        """``(users, places)`` logits; ``-inf`` where a list has ended."""
        samples, there = list_samples(self.task, lists)
        return _in_lists(self._logits(samples), there)


def list_samples(task: RankingTask, lists: Lists) -> tuple[Samples, NDArray[np.bool_]]:
    """The candidates of all lists, one after another, and ``(users, places)`` where they are."""
    there = lists.item != NOTHING
    user = np.broadcast_to(task.user[:, None], there.shape)[there]
    return task.log.candidates(torch.from_numpy(user), torch.from_numpy(lists.item[there])), there


def _corrected(task: RankingTask, samples: Samples, logit: Floats) -> Floats:
    """Logits of a positive among drawn negatives, as those of the user's next item."""
    return logit + task.log.log_q[samples.item.numpy()]


def _in_lists(logit: Floats, there: NDArray[np.bool_]) -> Floats:
    found = np.full(there.shape, -np.inf)
    found[there] = logit
    return found


def llm_logits(
    workspace: Workspace, task: RankingTask, lists: Lists, split: str
) -> tuple[Floats, Cost]:
    """The language model's logits ``(users, places)`` of lists, and what they took.

    They are kept in the run's directory, and found there if the same lists are scored again.
    """
    samples, there = list_samples(task, lists)
    digest = hashlib.sha256(samples.user.numpy().tobytes() + samples.item.numpy().tobytes())
    directory = workspace.directory / "ranking" / split
    key = workspace.key("scores", "lists", digest.hexdigest())
    facts = workspace.done(directory, key)
    if facts is None:
        load_tuned_adapter(workspace)
        config = workspace.config.llm
        layout = build_layout(config, task.log, load_tokenizer(config.model))
        scorer = LlmScorer(workspace.llm, layout, config.tokens_per_batch)
        title = f"LLM scores {len(samples):,} candidates of {len(there):,} {split} lists"
        with workspace.display.counting(title, len(samples)) as answered:
            logit = scorer.logits(samples, answered)
        facts = {"kind": "lists", "key": key, "cost": asdict(scorer.cost)}
        with writing(directory, facts) as unfinished:
            pl.DataFrame({"llm_logit": logit.numpy()}).write_parquet(unfinished / "lists.parquet")
    found = read_stored(directory / "lists.parquet", COLUMNS)["llm_logit"]
    logit = found.cast(pl.Float64).to_numpy()
    if task.log.negatives:
        logit = _corrected(task, samples, logit)
    return _in_lists(logit, there), Cost(**facts["cost"])


def list_scores(task: RankingTask, lists: Lists, expert: Floats, *, by_logit: bool) -> ListScores:
    """Lists as :mod:`corellarec.cascade.lists` reads them.

    Args:
        task: What was ranked.
        lists: By what made them.
        expert: ``(users, places)`` logits.
        by_logit: Whether the scores of the lists are logits; otherwise they have no common scale,
            and the logarithm of the place stands for them.
    """
    there = lists.item != NOTHING
    place = -np.log(1.0 + np.arange(there.shape[1]))
    base = lists.score if by_logit else np.where(there, place, -np.inf)
    rows = task.log.item_train_rows.numpy()[np.maximum(lists.item, 0)] * there
    facts = list_facts(base, task.history_length, task.returning, rows)
    return ListScores(base, expert, lists.hit, task.relevant_count, facts)


def reranked(
    lists: Lists,
    scores: ListScores,
    router: ListRouter,
    expert: str,
    name: str,
    budgets: Sequence[float],
) -> list[Ranker]:
    """Rankers of the test lists: the cascade as it was decided, and each budget as if it gained.

    Args:
        lists: Of the test split.
        scores: Of these.
        router: Fitted on validation.
        expert: ``llm`` or ``control``.
        name: Of the expert, in words.
        budgets: Shares of lists; the first is the cascade's.
    """
    order = router.blend(scores.base, scores.expert)
    kind = "cascade" if expert == "llm" else "control"
    found = []
    for number, budget in enumerate(budgets):
        chosen = router.chosen(scores.facts, budget)
        asked = float(chosen.mean())
        if not number and expert == "llm":
            decided = chosen & router.verdicts[budget].helps
            moved = lists.reordered(order, decided)
            found.append(
                Ranker("cascade", "cascade", "cascade, as decided", moved, float(decided.mean()))
            )
        what = "every list" if budget >= 1 else f"{100 * budget:g} % of lists"
        moved = lists.reordered(order, chosen)
        found.append(Ranker(kind, f"{expert}_{budget:g}", f"{name}, {what}", moved, asked))
    return found


def decisions(router: ListRouter, expert: str, lists: int) -> list[Decision]:
    """What was decided on validation for each budget."""
    weight = router.blend.expert_weight / max(router.blend.base_weight, 1e-12)
    return [
        Decision(expert, budget, lists, one.routed, one.gain, one.bound, one.helps, weight)
        for budget, one in router.verdicts.items()
    ]
