"""The ranking evaluation of a run: baselines, CRM, cascade and control for the same users."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from corellarec.base.artifacts import MANIFEST, read_manifest, write_text
from corellarec.base.errors import ConfigError
from corellarec.base.metrics import Floats
from corellarec.cascade.lists import ListPolicy, fit_lists
from corellarec.crm.retrievers.retriever import GRIDS, RETRIEVERS, RetrieverName
from corellarec.crm.retrievers.retriever import retriever as retriever_of
from corellarec.data.ranking import RankingTask, ranking_task
from corellarec.evaluation.ranking.baselines import choose, ranked, usable
from corellarec.evaluation.ranking.figures import Ranker, RankingFigures
from corellarec.evaluation.ranking.lists import Lists, top_lists
from corellarec.evaluation.ranking.page import render
from corellarec.evaluation.ranking.reranking import (
    CrmScores,
    Stage,
    decisions,
    list_scores,
    llm_logits,
    reranked,
)
from corellarec.evaluation.ranking.results import Decision, Ranking
from corellarec.llm.score import Cost
from corellarec.run.fit import check_fitted, keep_lists
from corellarec.run.status import Status, final_step, status
from corellarec.run.workspace import Workspace

Maker = Callable[[RankingTask], Lists]
Expert = Callable[[RankingTask, Lists, str], tuple[Floats, Cost]]
MIN_LISTS = 10  # validation lists, to fit a re-ranker on


def rank(
    run: str | Path,
    *,
    k: Sequence[int] = (10, 20),
    retriever: Literal["auto", "crm"] | RetrieverName = "auto",
    list_length: int = 50,
    budget: float = 0.1,
    llm: bool = True,
    control: str | Path | None = None,
    keep: bool = False,
    users: int = 0,
    candidates: int = 0,
    mask_seen: bool = True,
    bootstrap: int = 1000,
    seed: int = 0,
    quiet: bool = False,
) -> Ranking:
    """Rank all items for the users of a run's test split; write ``ranking.json``, ``ranking.html``.

    Users are ranked for once, as of the moment the split begins; relevant is what they then liked.
    Popularity, recent popularity, item-kNN and EASE need no more than a prepared log; their
    settings are chosen on validation. The run's CRM and language model are measured if they are
    trained: the model re-ranks the first ``list_length`` items of some users, chosen before it is
    asked.

    Args:
        run: Directory of a run, perhaps of ``corellarec prepare`` alone.
        k: Places that count; metrics are given for each.
        retriever: What makes the lists that are re-ranked: ``auto`` is the CRM, or EASE where none
            is trained.
        list_length: Items of a list that the language model may re-rank, at least the largest k.
        budget: Share of the lists that it may re-rank, 0 to 1.
        llm: Whether to ask it; without, only the others are measured.
        control: Another run of the same log, whose CRM stands in the language model's place.
        keep: Whether the cascade keeps whose lists the language model re-ranks, if that gains on
            validation: :meth:`Cascade.recommend` then sends whole lists.
        users: Random users with something relevant, of validation and of test; 0 is all.
        candidates: So many irrelevant items a user, drawn evenly, in place of all. Such figures are
            larger, and may order models differently.
        mask_seen: Whether items that a user has rows of are left out.
        bootstrap: Resamples of users behind every 95 % interval.
        seed: Of draws and resamples.
        quiet: Whether to show no progress.

    Returns:
        Every figure; ``to_frame()``.

    Raises:
        ArtifactError: If it is no run, its log is not prepared, or there is no cascade to keep the
            policy.
        ConfigError: If an argument cannot be used, the control is of another log, or there are too
            few validation lists to keep what they show.
        DataError: If no user has a relevant item.

    Example:
        >>> found = rank("runs/quick", llm=False)  # doctest: +SKIP
        >>> found.row("crm").metrics["ndcg@10"].value  # doctest: +SKIP
        0.1042
    """
    _check(k, list_length, budget)
    state = status(Path(run))
    workspace = _open(state, quiet)
    with workspace.alone():
        experts = _experts(workspace, state, llm, control, quiet)
        draw = {"mask_seen": mask_seen, "sampled": candidates, "users": users, "seed": seed}
        validation = ranking_task(workspace.log, "validation", "rank", **draw)
        test = ranking_task(workspace.log, "test", "rank", **draw)
        settings = _settings(workspace, validation, k[0])
        makers = _makers(workspace, state, settings, list_length)
        maker = _maker(retriever, makers)
        if keep and (maker != "crm" or "llm" not in experts or candidates or not mask_seen):
            raise ConfigError(
                "--keep keeps whose lists of the CRM a tuned LLM re-ranks: train both, and leave "
                "out --retriever, --no-llm, --candidates and --include-seen"
            )
        if keep and len(validation.user) < MIN_LISTS:
            raise ConfigError(
                f"--keep fits a policy on {MIN_LISTS} validation lists or more, and there are "
                f"{len(validation.user)}: take more users (--users 0 takes all)"
            )
        if keep:
            check_fitted(workspace)
        with workspace.display.waiting("ranking all items"):
            lists = {name: make(test) for name, make in makers.items()}
        rankers = [
            Ranker("baseline", name, RETRIEVERS[name], lists[name], settings=chosen)
            for name, chosen in settings.items()
        ]
        if "crm" in lists:
            rankers.append(Ranker("crm", "crm", state.config.crm.model, lists["crm"]))
        found = Reranked()
        if experts:
            with workspace.display.waiting(f"{maker} ranks the validation users' items"):
                made = {"validation": makers[maker](validation), "test": lists[maker]}
            tasks = {"validation": validation, "test": test}
            found = _rerank(workspace, tasks, made, maker, experts, budget, k[0], seed)
        with workspace.display.waiting("measuring, with bootstrap intervals"):
            figures = RankingFigures(test, k, bootstrap, seed)
            result = Ranking(
                run=str(run),
                k=tuple(k),
                users=len(test.user),
                returning=int(test.returning.sum()),
                candidates=len(test.candidate),
                sampled=candidates,
                mask_seen=mask_seen,
                relevant=int(test.relevant.sum()),
                positives=test.positives,
                new=test.new,
                seen=test.seen,
                retriever=maker,
                list_length=list_length,
                reference=maker,
                table=figures.rows([*rankers, *found.rankers], maker),
                groups=figures.groups([*rankers, *found.rankers], maker),
                decisions=tuple(found.decisions),
                tokens=found.cost.tokens / len(test.user) if found.cost else None,
                seconds=found.cost.seconds / len(test.user) if found.cost else None,
            )
        result.save(workspace.directory / "ranking.json")
        write_text(workspace.directory / "ranking.html", render(result))
        if keep:
            keep_lists(workspace, found.policy)
            workspace.display.say(
                "the cascade keeps the policy: it recommends by whole lists"
                if found.policy
                else "the cascade keeps no policy of lists: validation shows no significant gain"
            )
    return result


@dataclass
class Reranked:
    """What experts made of the lists.

    Args:
        rankers: Their rankings of the test lists.
        decisions: What validation said of them.
        cost: Of the language model on the test lists, if it was asked.
        policy: Whose lists the language model re-ranks; None where that shows no gain.
    """

    rankers: list[Ranker] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    cost: Cost | None = None
    policy: ListPolicy | None = None


def _rerank(
    workspace: Workspace,
    tasks: dict[str, RankingTask],
    lists: dict[str, Lists],
    maker: str,
    experts: dict[str, tuple[str, Expert]],
    budget: float,
    k: int,
    seed: int,
) -> Reranked:
    """Let each expert score the lists of both splits; fit on validation, apply to test."""
    found, count = Reranked(), len(tasks["validation"].user)
    if count < MIN_LISTS:
        workspace.display.say(
            f"re-ranking is not measured: it is fitted on {MIN_LISTS} validation lists or more, "
            f"and there are {count}"
        )
        return found
    budgets = tuple(dict.fromkeys((budget, 1.0)))
    for expert, (name, ask) in experts.items():
        scores = {}
        for split, task in tasks.items():
            logits, cost = ask(task, lists[split], split)
            scores[split] = list_scores(task, lists[split], logits, by_logit=maker == "crm")
            found.cost = cost if expert == "llm" else found.cost
        router = fit_lists(scores["validation"], budgets, k, seed)
        if expert == "llm":
            found.policy = router.policy(budget, lists["test"].item.shape[1])
        found.rankers += reranked(lists["test"], scores["test"], router, expert, name, budgets)
        found.decisions += decisions(router, expert, count)
    return found


def _check(k: Sequence[int], list_length: int, budget: float) -> None:
    if not k or min(k) < 1 or len(set(k)) < len(k):
        raise ConfigError(f"k: give different numbers from 1 on, not {list(k)}")
    if list_length < max(k):
        raise ConfigError(f"lists of {list_length} items are shorter than k = {max(k)}")
    if not 0 <= budget <= 1:
        raise ConfigError(f"the budget is a share of lists from 0 to 1, not {budget:g}")


def _open(state: Status, quiet: bool) -> Workspace:
    """A run's workspace on this machine.

    Raises:
        ConfigError: If its log is not prepared.
    """
    if not state.done["data"]:
        raise ConfigError(
            f"{state.run} has no prepared log: `corellarec prepare --out {state.run}`"
        )
    config = state.config.model_copy(update={"device": "auto"})  # it may be another machine's
    return Workspace(config, Path(state.run), Console(stderr=True, quiet=quiet))


def _settings(
    workspace: Workspace, validation: RankingTask, k: int
) -> dict[RetrieverName, dict[str, float]]:
    """The settings of each retriever, chosen on validation."""
    names = usable(validation)
    total = sum(len(GRIDS[name]) for name in names)
    with workspace.display.counting("choosing the baselines' settings", total) as tried:
        return {name: choose(validation, name, k, partial(tried, 1)) for name in names}


def _retrieved(
    name: RetrieverName, settings: dict[str, float], places: int, task: RankingTask
) -> Lists:
    return ranked(task, retriever_of(name, settings, task.log, task.cut), places)


def _by_crm(workspace: Workspace, stage: Stage, places: int, task: RankingTask) -> Lists:
    return top_lists(task, CrmScores(workspace, task, stage).of_all, places)


def _makers(
    workspace: Workspace,
    state: Status,
    settings: dict[RetrieverName, dict[str, float]],
    places: int,
) -> dict[str, Maker]:
    """What ranks without the language model, by key of the table."""
    makers: dict[str, Maker] = {
        name: partial(_retrieved, name, chosen, places) for name, chosen in settings.items()
    }
    stage = _crm_stage(workspace, state)
    if stage != "none":
        makers["crm"] = partial(_by_crm, workspace, stage, places)
    return makers


def _experts(
    workspace: Workspace, state: Status, llm: bool, control: str | Path | None, quiet: bool
) -> dict[str, tuple[str, Expert]]:
    """Who re-ranks, by key: a name in words, and what scores lists."""
    experts: dict[str, tuple[str, Expert]] = {}
    if llm and _llm_ready(state):
        experts["llm"] = "LLM", partial(llm_logits, workspace)
    if control is not None:
        experts["control"] = _control(workspace, Path(control), quiet)
    return experts


def _maker(retriever: str, makers: dict[str, Maker]) -> str:
    """What makes the lists that are re-ranked.

    Raises:
        ConfigError: If it is not there.
    """
    if retriever == "auto":
        return next(name for name in ("crm", "ease", "item-knn") if name in makers)
    if retriever not in makers:
        raise ConfigError(
            f"there is no retriever {retriever!r} here: take one of {', '.join(makers)}"
            + (" (crm: train the run first)" if retriever == "crm" else "")
        )
    return retriever


def _crm_stage(workspace: Workspace, state: Status) -> Stage:
    """The trained CRM to take: the final one, else stage 1's, else none."""
    if state.config.crm.model == "external" or not state.done["stage1"]:
        return "none"
    steps = [final_step(state.config, number) for number in range(len(state.config.crm.networks))]
    missing = [step for step in steps if not (workspace.directory / step / MANIFEST).exists()]
    if not missing:
        return "final"
    workspace.display.say(
        f"the CRM of {state.run} is measured as stage 1 left it: {', '.join(missing)} not done yet"
    )
    return "stage1"


def _llm_ready(state: Status) -> bool:
    """Whether a run has a tuned language model."""
    stages = [state.done[step] for step in ("stage2", "stage3") if step in state.done]
    return all(stages) and bool(stages or state.config.llm.adapter)


def _control(workspace: Workspace, run: Path, quiet: bool) -> tuple[str, Expert]:
    """The CRM of another run of the same log, in the language model's place.

    Raises:
        ConfigError: If its log is another one, or its CRM is not trained.
    """
    state = status(run)
    other = _open(state, quiet)
    ours, theirs = (
        read_manifest(one.directory / "data", verify=False)["files"] for one in (workspace, other)
    )
    if ours != theirs:
        raise ConfigError(f"{run} is of another log than {workspace.directory}: it is no control")
    stage = _crm_stage(other, state)
    if stage == "none":
        raise ConfigError(f"{run} has no trained CRM: `corellarec train --stage 1 --out {run}`")

    def ask(task: RankingTask, lists: Lists, split: str) -> tuple[Floats, Cost]:
        return CrmScores(other, task, stage).of_lists(lists), Cost()

    return f"control {other.config.crm.model}", ask
