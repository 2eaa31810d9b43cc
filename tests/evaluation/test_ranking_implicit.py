"""Rankings of a log without negatives: drawn rows are nothing that a user did."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

import corellarec as cr
from corellarec.base.calibrate import fit_logistic
from corellarec.base.metrics import sigmoid
from corellarec.cascade.lists import FEATURES, ListBlend, ListPolicy, ListValue
from corellarec.cascade.prediction import next_log_probability
from corellarec.cascade.ranking import HeadLists, promising
from corellarec.cascade.router import Verdict
from corellarec.config import load_config
from corellarec.crm.score import crm_logits
from corellarec.data.ranking import as_of, positive_items, ranking_task, taken_items
from corellarec.evaluation.ranking.lists import top_lists
from corellarec.evaluation.ranking.reranking import CrmScores, list_samples, list_scores
from corellarec.run.prepare import prepare_log
from corellarec.run.stages import train_stage
from corellarec.run.weights import trained_crm
from corellarec.run.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(tiny_settings, tmp_path_factory):
    """A run of the small log as one without negatives, its CRM trained."""
    directory = tmp_path_factory.mktemp("implicit") / "run"
    settings = [*tiny_settings, "data.implicit=true", "stage1.epochs=1"]
    found = Workspace(load_config(settings=settings), directory, Console(quiet=True))
    found.start()
    prepare_log(found)
    train_stage(found, 1)
    return found


def test_drawn_rows_are_neither_seen_nor_relevant(workspace):
    log, task = workspace.log, ranking_task(workspace.log, "test", "test")
    past = as_of(log, "test")
    assert past.negatives == log.negatives
    assert (past.labels(torch.arange(len(past))) == 0).any()
    seen, liked = taken_items(past), positive_items(past)
    assert (seen.toarray() == (liked.toarray() > 0)).all()
    rows = log.rows_of("test")
    taken = rows[log.test_labels(rows, "test") == 1]
    pairs = set(zip(log.user[taken].tolist(), log.item[taken].tolist(), strict=True))
    for row, user in enumerate(task.user.tolist()):
        assert all((user, item) in pairs for item in task.candidate[task.relevant[row]].tolist())
    assert task.seen + task.new + int(task.relevant.sum()) >= len(pairs)


def test_the_crm_ranks_by_the_next_items_probability(workspace):
    log, task = workspace.log, ranking_task(workspace.log, "test", "test")
    scores = CrmScores(workspace, task, "stage1").of_all(np.arange(2))
    model = trained_crm(workspace, 1)
    rows = log.rows_of("validation")
    logit = crm_logits(model, workspace.reader, log.samples(rows)).double().numpy()
    calibration = fit_logistic(log.labels(rows).numpy(), logit)
    user = torch.from_numpy(task.user[:2]).repeat_interleave(len(task.candidate))
    item = torch.from_numpy(task.candidate).repeat(2)
    past = as_of(log, "test")
    reader = type(workspace.reader)(past, workspace.config.crm.history_length, workspace.device)
    p = sigmoid(
        calibration(crm_logits(model, reader, past.candidates(user, item)).double().numpy())
    )
    expected = next_log_probability(past, item.numpy(), p).reshape(2, -1)
    gap = expected - scores  # the constant of so many negatives for each positive
    np.testing.assert_allclose(gap, gap[0, 0], atol=1e-4)


def test_a_cascade_orders_lists_as_they_were_measured(workspace):
    """Both logits are corrected for the drawing; a list that is answered in part stays."""
    task = ranking_task(workspace.log, "test", "test")
    crm = CrmScores(workspace, task, "stage1")
    lists = top_lists(task, crm.of_all, 8)
    asked, there = list_samples(task, lists)
    assert there.all()
    llm_logit = np.random.default_rng(0).normal(size=there.shape)
    expert = llm_logit + task.log.log_q[asked.item.numpy()].reshape(there.shape)
    nothing = (0.0,) * len(FEATURES)
    policy = ListPolicy(8, 1.0, ListBlend(0.5, 1.0), ListValue(nothing, 0.0, nothing, nothing),
                        None, Verdict(helps=True, routed=30, gain=0.1, bound=0.05))  # fmt: skip
    order = policy.blend(list_scores(task, lists, expert, by_logit=True).base, expert)
    expected = lists.reordered(order, np.arange(len(order)) > 0)

    head = promising(
        task.log,
        lambda samples: crm_logits(crm.model, crm.reader, samples).double().numpy(),
        SimpleNamespace(crm=crm.calibration),  # pyright: ignore[reportArgumentType]
        torch.from_numpy(task.user),
        torch.from_numpy(task.candidate),
        8,
        exclude_seen=True,
    )
    np.testing.assert_allclose(head.score, lists.score.ravel(), atol=1e-6)
    llm_logit[0, 3] = np.nan  # the first list is answered in part
    place = HeadLists(task.log, head, policy).order(llm_logit.ravel()).reshape(there.shape)
    found = np.take_along_axis(lists.item, np.argsort(-place, axis=1), 1)
    assert (found == expected.item).all()
    assert (found[0] == lists.item[0]).all()
    assert (found != lists.item).any()


def test_a_prepared_log_without_negatives_is_ranked(workspace):
    found = cr.rank(workspace.directory, k=[5], quiet=True)
    assert [row.key for row in found.table][-1] == "crm"
    assert found.users > 0
