"""Rankings of a run: each figure against a slow count, and nothing from after the split began."""

import html
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

import corellarec as cr
from command_line import call
from corellarec.base.artifacts import read_sealed
from corellarec.base.list_metrics import NOTHING
from corellarec.cascade import lists as list_module
from corellarec.cascade.router import Verdict
from corellarec.data.log import Log
from corellarec.data.ranking import ranking_task
from corellarec.evaluation.ranking import figures
from corellarec.evaluation.ranking import run as module
from corellarec.evaluation.ranking.lists import Lists, top_lists
from corellarec.evaluation.ranking.reranking import CrmScores, list_scores, llm_logits
from corellarec.evaluation.ranking.results import Decision
from corellarec.evaluation.ranking.tables import decision_in_words, ranking_tables, sentences
from corellarec.run.records import read_run_config
from corellarec.run.workspace import Workspace


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """A copy of the tiny run."""
    directory = tmp_path_factory.mktemp("ranked") / "tiny"
    shutil.copytree(finished[0], directory)
    return directory


@pytest.fixture(scope="module")
def workspace(run):
    return Workspace(read_run_config(run), run, Console(quiet=True))


@pytest.fixture(scope="module")
def found(run):
    """Everything: baselines, CRM, cascade, and the run itself as its own control."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_LISTS", 5)  # as many as the small log has
        patch.setattr(figures, "FEW_USERS", 2)
        return cr.rank(run, k=(5, 10), list_length=20, budget=0.5, control=run, bootstrap=50)


def test_the_table_has_everything(found, run):
    assert [row.key for row in found.table] == [
        "popularity", "recent", "item-knn", "ease", "crm", "cascade", "llm_0.5", "llm_1",
        "control_0.5", "control_1",
    ]  # fmt: skip
    assert found.reference == found.retriever == "crm"
    assert found.row("llm_1").asked == 1
    assert found.row("llm_0.5").asked <= 0.5
    assert found.row("cascade").asked in (0, found.row("llm_0.5").asked)
    assert all(gap.value == 0 for gap in found.row("crm").over_reference.values())
    with pytest.raises(KeyError, match="no ranker 'x'"):
        found.row("x")
    frame = found.to_frame()
    assert frame["ranker"].to_list() == [row.key for row in found.table]
    gaps = frame["ndcg@5"] - frame.filter(pl.col("ranker") == "crm")["ndcg@5"].item()
    np.testing.assert_allclose(frame["ndcg@5_over_reference"], gaps, atol=1e-12)
    assert (frame["recall@10_low"] <= frame["recall@10_high"]).all()
    stored = json.loads(read_sealed(run / "ranking.json", ""))
    assert stored["users"] == found.users
    assert found.tokens > 0
    assert {group.title for group in found.groups} == {"user", "history length (rows)"}


def test_the_page_and_the_terminal_have_the_groups(found, run):
    page = (run / "ranking.html").read_text("utf-8")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(ranking_tables(found))
    terminal = console.export_text()
    assert max(map(len, terminal.splitlines())) <= 80
    for group in found.groups:
        assert f"{group.name}\n{group.users:,} users" in page
        assert group.name in terminal
        assert f"{group.figures['ease'].value:.4f}" in page
        assert f"{group.figures['ease'].value:.4f}" in terminal
        assert f"{group.over_reference['ease'].value:+.4f}" in page
    for row in found.table:
        assert f"{row.metrics['recall@10'].value:.4f}" in page
    assert all(sentence in html.unescape(page) for sentence in sentences(found))


def test_a_second_crm_that_is_the_first_changes_no_order(found):
    """Its logit is the list's own: whatever the weight, the order stays."""
    assert found.row("control_1").metrics == found.row("crm").metrics


def test_the_cascade_recommends_the_lists_that_were_measured(run, tmp_path, monkeypatch):
    """With the policy that ``rank`` keeps; the log ends where the test split begins."""
    directory = tmp_path / "kept"
    shutil.copytree(run, directory)
    monkeypatch.setattr(module, "MIN_LISTS", 5)
    options = {"k": (5, 10), "list_length": 20, "budget": 1.0, "bootstrap": 20, "quiet": True}
    gains = Verdict(helps=True, routed=30, gain=0.1, bound=0.05)
    for verdict in (gains, replace(gains, helps=False)):
        monkeypatch.setattr(list_module, "_judge", lambda gain, seed, verdict=verdict: verdict)
        cr.rank(directory, keep=True, **options)
        cascade = cr.Cascade.load(directory)
        assert (cascade.recipe.lists is not None) == verdict.helps
        if cascade.recipe.lists is None:
            continue
        assert cascade.recipe.lists.verdict == gains
        workspace = Workspace(read_run_config(directory), directory, Console(quiet=True))
        task = ranking_task(workspace.log, "test", "test")
        lists = module._by_crm(workspace, "final", 20, task)
        logits, _ = llm_logits(workspace, task, lists, "test")
        scores = list_scores(task, lists, logits, by_logit=True)
        order = cascade.recipe.lists.blend(scores.base, scores.expert)
        expected = lists.reordered(order, np.ones(len(order), dtype=bool)).item[:, :10]
        cascade = cr.Cascade(cascade.recipe, task.log, cascade.models, cascade.adapter)
        found = cascade.recommend(
            task.log.users["id"].gather(task.user).to_list(),
            k=10,
            candidates=task.log.items["id"].gather(task.candidate).to_list(),
        )
        assert (found["source"] != "crm").all()
        ids = task.log.items["id"].to_list()
        for row, (_, own) in zip(
            expected, found.group_by("user", maintain_order=True), strict=True
        ):
            assert own["item"].to_list() == [ids[item] for item in row if item != NOTHING]
    with pytest.raises(cr.ConfigError, match="--keep keeps whose lists of the CRM"):
        cr.rank(directory, keep=True, llm=False, **options)


def test_what_cannot_be_kept_is_told_before_the_llm_is_asked(run, tmp_path, monkeypatch):
    directory = tmp_path / "kept"
    shutil.copytree(run, directory)
    monkeypatch.setattr(module, "_rerank", lambda *_: pytest.fail("the LLM was asked"))
    kept = (directory / "cascade" / "cascade.json").read_bytes()
    with pytest.raises(cr.ConfigError, match="10 validation lists or more, and there are"):
        cr.rank(directory, k=[5], keep=True, quiet=True)
    assert (directory / "cascade" / "cascade.json").read_bytes() == kept
    monkeypatch.setattr(module, "MIN_LISTS", 5)
    shutil.rmtree(directory / "cascade")
    with pytest.raises(cr.ArtifactError, match="cascade is not there"):
        cr.rank(directory, k=[5], keep=True, quiet=True)


def test_metrics_equal_a_slow_count(found, workspace):
    task = ranking_task(workspace.log, "test", "test")
    scores = CrmScores(workspace, task, "final").of_all(np.arange(len(task.user)))
    recalls, shown = [], set()
    for row in range(len(task.user)):
        order = [i for i in np.argsort(-scores[row], kind="stable") if task.open[row, i]][:5]
        recalls.append(task.relevant[row, order].sum() / task.relevant[row].sum())
        shown |= set(order)
    row = found.row("crm")
    assert row.metrics["recall@5"].value == pytest.approx(np.mean(recalls))
    assert row.coverage[5] == pytest.approx(len(shown) / len(task.candidate))
    assert found.users == len(task.user)
    assert found.relevant == task.relevant.sum()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_scores_depend_on_nothing_after_the_split_began(workspace, split):
    """A log without the split and all later rows gives the same CRM and LLM logits."""
    whole = ranking_task(workspace.log, split, "test", users=5)
    number = {"validation": 1, "test": 2}[split]
    log = workspace.log
    label = log.rows["label"].to_numpy().copy()
    item = log.rows["item"].to_numpy().copy()
    later = (log.rows["split"] >= number).to_numpy()
    label[later], item[later] = 1 - label[later], item[later][::-1]
    rows = log.rows.with_columns(label=pl.Series(label), item=pl.Series(item))
    other = Log(rows, log.users, log.items, log.features, log.history)
    changed = ranking_task(other, split, "test", mask_seen=False)
    place = torch.from_numpy(whole.user)
    swapped = type(whole)(**{**vars(whole), "log": changed.log})
    some = np.arange(len(place))
    np.testing.assert_allclose(
        CrmScores(workspace, whole, "final").of_all(some),
        CrmScores(workspace, swapped, "final").of_all(some),
        atol=1e-6,
    )
    lists = top_lists(whole, CrmScores(workspace, whole, "final").of_all, 6)
    first, _ = llm_logits(workspace, whole, lists, f"{split}-first")
    second, _ = llm_logits(workspace, swapped, lists, f"{split}-second")
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_the_llm_reads_each_candidate_as_alone(workspace):
    task = ranking_task(workspace.log, "test", "test", users=3)
    lists = top_lists(task, CrmScores(workspace, task, "final").of_all, 5)
    together, cost = llm_logits(workspace, task, lists, "together")
    alone = Lists(lists.item[:, 2:3], lists.score[:, 2:3], lists.hit[:, 2:3])
    single, _ = llm_logits(workspace, task, alone, "alone")
    np.testing.assert_allclose(together[:, 2:3], single, atol=1e-4)
    assert cost.samples == 15
    again, kept = llm_logits(workspace, task, lists, "together")  # from the run's directory
    assert (again == together).all()
    assert kept == cost


def test_lists_end_where_candidates_end(workspace):
    task = ranking_task(workspace.log, "test", "test", sampled=4, users=3)
    lists = top_lists(task, CrmScores(workspace, task, "final").of_all, 30)
    ended = lists.item == NOTHING
    assert (ended.sum(1) == lists.item.shape[1] - task.open.sum(1)).all()
    assert (lists.hit.sum(1) == task.relevant_count).all()
    logits, _ = llm_logits(workspace, task, lists, "ended")
    assert (np.isneginf(logits) == ended).all()


def test_a_prepared_log_is_enough_for_baselines(run, tmp_path, monkeypatch, capsys):
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    shutil.copy(run / "config.toml", prepared)
    shutil.copytree(run / "data", prepared / "data")
    code, out, err = call(monkeypatch, capsys, "rank", prepared, "-k", "5", "--users", "10")
    assert code == 0, err
    assert "NDCG@5" in out
    assert "EASE" in out
    assert max(map(len, out.partition("Page: ")[0].splitlines())) <= 80
    found = cr.rank(prepared, k=[5], quiet=True, candidates=10)
    assert [row.key for row in found.table] == ["popularity", "recent", "item-knn", "ease"]
    assert found.reference == "ease"
    assert found.sampled == 10
    shutil.copytree(run / "stage1", prepared / "stage1")  # a CRM without the rest is measured, too
    found = cr.rank(prepared, k=[5], quiet=True)
    assert [row.key for row in found.table][-1] == "crm"
    assert found.tokens is None


def test_the_command_says_what_was_decided(run, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "rank", run, "--control", run)
    assert code == 0, err
    assert "not measured: it is fitted on 10 validation lists" in " ".join(err.split())
    assert "LLM" not in out
    monkeypatch.setattr(module, "MIN_LISTS", 5)
    options = ["-k", "5,10", "--list-length", "20", "--retriever", "item-knn", "--include-seen"]
    code, out, err = call(monkeypatch, capsys, "rank", run, *options, "--candidates", "30")
    assert code == 0, err
    assert "LLM, 10 % of the lists: on validation it gets no weight" in out
    assert "tokens for a list of 20" in out
    assert "Krichene" in out
    tables = out.partition("LLM, 10 %")[0]
    assert max(map(len, tables.splitlines())) <= 80
    code, out, err = call(monkeypatch, capsys, "rank", run, "-k", "5", "--no-llm", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["tokens"] is None
    assert answer["k"] == [5]
    assert answer["table"][4]["key"] == "crm"


def test_what_cannot_be_ranked_is_told_in_one_line(run, finished, tmp_path, monkeypatch, capsys):
    empty, other, bare = (tmp_path / name for name in ("empty", "other", "bare"))
    for directory in (empty, bare):
        directory.mkdir()
        shutil.copy(run / "config.toml", directory)
    shutil.copytree(run / "data", bare / "data")
    shutil.copytree(run, other)
    manifest = other / "data" / "rows.parquet"
    manifest.with_name("manifest.json").unlink()
    for options, message in (
        ([tmp_path], "is no run"),
        ([empty], "has no prepared log"),
        ([run, "-k", "ten"], "-k takes numbers"),
        ([run, "-k", "0"], "from 1 on"),
        ([run, "-k", "5,5"], "different numbers"),
        ([run, "-k", "60"], "shorter than k = 60"),
        ([run, "--retriever", "magic"], "no retriever 'magic'"),
        ([bare, "--retriever", "crm"], "train the run first"),
        ([run, "--no-llm", "--control", empty], "has no prepared log"),
        ([run, "--no-llm", "--control", bare], "has no trained CRM"),
    ):
        code, _, err = call(monkeypatch, capsys, "rank", *options)
        assert code == 2
        assert message in err
    with pytest.raises(cr.ConfigError, match="from 0 to 1"):
        cr.rank(run, budget=2.0)


def test_decisions_are_told_in_words():
    def words(**changes):
        facts = {"expert": "llm", "budget": 0.1, "lists": 300, "asked": 30, "gain": 0.02,
                 "bound": 0.01, "helps": True, "expert_weight": 0.5}  # fmt: skip
        return decision_in_words(Decision(**facts | changes))

    assert words() == (
        "LLM, 10 % of the lists: on validation it gains +0.0200 NDCG on each (at least +0.0100)."
    )
    assert "shows no significant gain: -0.0100 NDCG on each of 30 lists, lower bound -0.0200" in (
        words(helps=False, gain=-0.01, bound=-0.02)
    )
    assert words(budget=1.0, expert="control").startswith("control, every list: on validation it")
    assert "gets no weight" in words(helps=False, asked=0, gain=0.0, bound=0.0, expert_weight=0.0)
    assert "cannot show a gain: 5 of 300 lists" in words(helps=False, asked=5, gain=0.0, bound=0.0)


def test_a_control_of_another_log_is_refused(workspace, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(workspace.directory, other)
    real = module.read_manifest
    monkeypatch.setattr(
        module,
        "read_manifest",
        lambda path, verify: (
            real(path, verify=verify) if other not in path.parents else {"files": {}}
        ),
    )
    with pytest.raises(cr.ConfigError, match="is of another log"):
        module._control(workspace, other, True)


def test_too_many_items_for_ease_leave_it_out(workspace, monkeypatch):
    task = ranking_task(workspace.log, "validation", "test")
    assert "ease" in module.usable(task)
    monkeypatch.setattr("corellarec.evaluation.ranking.baselines.MOST_EASE_ITEMS", 10)
    assert "ease" not in module.usable(task)
    assert module._maker("auto", {"item-knn": None, "recent": None}) == "item-knn"
