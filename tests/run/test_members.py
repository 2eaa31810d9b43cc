"""A CRM of several networks: trained one by one, blended, and one CRM from then on."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

from command_line import run
from corellarec import Cascade, rank
from corellarec.base.errors import ConfigError
from corellarec.base.metrics import log_loss, sigmoid
from corellarec.config import load_config, to_toml, with_settings
from corellarec.crm.build import build_crm, network_reader
from corellarec.crm.ensemble import Ensemble
from corellarec.crm.score import crm_logits
from corellarec.run.members import blend_members, fit_blend, network_names
from corellarec.run.records import read_run_config
from corellarec.run.weights import final_crm, final_networks
from corellarec.run.workspace import Workspace

MEMBERS = """crm.members=[{crm={model="stream"}, stage1={epochs=2}},
                          {crm={model="lr"}, stage1={epochs=1}}]"""


@pytest.fixture(scope="module")
def grown(finished, tmp_path_factory):
    """The finished run with two more networks, added by the command line; and what it printed."""
    directory = tmp_path_factory.mktemp("grown") / "run"
    shutil.copytree(finished[0], directory)
    out, err = run("run", "--resume", "--out", directory, "--set", MEMBERS)
    return directory, out + err


@pytest.fixture(scope="module")
def workspace(grown):
    """It, opened."""
    return Workspace(read_run_config(grown[0]), grown[0], Console(quiet=True))


def test_networks_are_added_to_a_finished_run_and_nothing_else_is_trained(grown, finished):
    directory, output = grown
    for stage in ("stage 1", "stage 2", "stage 3"):
        assert f"{stage}: done before" in output
    assert "member 1, stream:" in output
    assert "member 2, lr:" in output
    for step in ("stage1", "stage2", "stage3", "scores"):
        before = sorted((finished[0] / step).rglob("*.safetensors"))
        after = sorted((directory / step).rglob("*.safetensors"))
        assert [p.read_bytes() for p in before] == [p.read_bytes() for p in after]


def test_the_blend_is_never_worse_on_validation_than_a_network_alone(workspace):
    blended = blend_members(workspace)
    assert blended.names == ("stream 1", "stream 2", "lr")
    assert min(blended.weights) >= 0
    assert blended.together <= min(blended.alone) + 1e-6
    assert blended.together <= min(blended.without) + 1e-6


def test_networks_that_are_not_blended_yet_are_ranked_as_one_crm(grown, tmp_path, capsys):
    """A trained run that is not fitted, and one whose second network is not trained."""
    trained, untrained = tmp_path / "trained", tmp_path / "untrained"
    for directory in (trained, untrained):
        shutil.copytree(grown[0], directory)
        for step in ("members", "cascade"):
            shutil.rmtree(directory / step)
    shutil.rmtree(untrained / "member1")
    options: dict[str, Any] = {"k": [5], "llm": False, "bootstrap": 20}
    found = rank(trained, control=trained, **options)
    assert (trained / "members" / "blend.json").exists()
    assert found.row("crm").metrics == rank(grown[0], quiet=True, **options).row("crm").metrics
    capsys.readouterr()
    assert rank(untrained, **options).row("crm").metrics
    told = " ".join(capsys.readouterr().err.split())
    assert "is measured as stage 1 left it: member1 not done yet" in told


def test_a_network_joins_only_where_it_helps_users_who_did_not_fit_the_weights():
    generator = np.random.default_rng(0)
    user = np.arange(400) // 10
    truth = generator.normal(size=400)
    label = (generator.random(400) < sigmoid(truth)).astype(np.int8)
    noise = generator.normal(size=(4, 400))
    good, other = truth + noise[0], truth + noise[1]
    blend = fit_blend(label, user, [noise[2], good, other, noise[3]])
    assert min(blend.weights[1:3]) > 0.1
    assert (blend.weights[0], blend.weights[3]) == (0, 0)
    # Of two alike one is enough.
    assert sorted(w > 0 for w in fit_blend(label, user, [good, good]).weights) == [False, True]
    of_one_user = fit_blend(label, np.zeros(400, int), [good, other])
    assert of_one_user.weights[1] == 0


def test_the_cascade_answers_with_the_weighted_sum(workspace, grown):
    log = workspace.log
    rows = log.rows_of("test")[:150]
    samples = log.samples(rows)
    found = crm_logits(*final_crm(workspace), samples).double().numpy()
    blended, expected = blend_members(workspace), 0.0
    for network, config, weight in zip(
        final_networks(workspace), workspace.config.crm.networks, blended.weights, strict=True
    ):
        reader = network_reader(config, log, torch.device("cpu"))
        expected = expected + weight * crm_logits(network, reader, samples).double().numpy()
    assert found == pytest.approx(expected + blended.bias, abs=1e-4)
    cascade = Cascade.load(grown[0])
    assert isinstance(cascade.models.crm, Ensemble)
    pairs = pl.DataFrame(
        {
            "user": log.users["id"].gather(log.user[rows].numpy()),
            "item": log.items["id"].gather(log.item[rows].numpy()),
            "time": log.rows["time"].gather(rows.numpy()),
        }
    )
    p = cascade.predict(pairs)["p_crm"].to_numpy()
    assert p == pytest.approx(sigmoid(cascade.router.crm(found)), abs=2e-2)  # ties in time
    assert np.median(np.abs(p - sigmoid(cascade.router.crm(found)))) < 1e-6
    rows = log.rows_of("validation")
    logit = crm_logits(*final_crm(workspace), log.samples(rows)).double().numpy()
    loss = log_loss(log.labels(rows).numpy(), sigmoid(logit))
    assert loss == pytest.approx(blended.together, abs=1e-6)


def test_figures_say_what_each_network_adds(grown):
    figures = json.loads((grown[0] / "metrics.json").read_text())
    assert [one["name"] for one in figures["networks"]] == ["stream 1", "stream 2", "lr"]
    assert all(one["ms"] > 0 for one in figures["networks"])
    keys = [row["key"] for row in figures["table"]]
    assert keys[-3:] == ["crm/stream 1", "crm/stream 2", "crm/lr"]
    assert {"member1", "member2"} <= set(figures["stages"])
    page = (grown[0] / "report.html").read_text()
    assert "What each network of the CRM adds" in page
    assert "stream and stream and lr as the CRM" in page
    assert "Member 2" in page


def test_a_member_of_weight_0_is_neither_read_nor_computed(workspace):
    def absent(*_):
        raise AssertionError

    class Silent(torch.nn.Module):
        forward = absent

    crm, samples = final_networks(workspace)[0], workspace.log.samples(torch.arange(20))
    batch = workspace.reader(samples)
    for members, batches, weights in (
        ([crm, Silent()], [lambda: batch, absent], [2.0, 0.0]),
        ([Silent(), crm], [absent, lambda: batch], [0.0, 2.0]),
    ):
        logit = Ensemble(members, weights, 0.5)(batches).logit
        assert torch.equal(logit, 2 * crm(batch).logit + 0.5)


def test_what_reads_other_statistics_is_trained_anew(workspace, monkeypatch):
    before = {name: workspace.step_key(name) for name in ("stage1", "member1", "member2")}
    monkeypatch.setattr("corellarec.run.workspace.STATISTICS", ("one",))
    changed = {name for name, key in before.items() if workspace.step_key(name) != key}
    assert changed == {"stage1", "member1"}  # both stream; member 2 is lr


def test_a_run_may_go_on_with_another_memory_limit(workspace):
    config = with_settings(workspace.config, {"data.memory_limit_mb": 8000})
    Workspace(config, workspace.directory, Console(quiet=True)).start()


def test_names_become_settings():
    config = load_config(settings=['crm.members=["ml-1m/fibinet", "bst", "bst"]'])
    fibinet, *others = config.crm.members
    assert (fibinet.crm.model, fibinet.crm.embedding_dim) == ("fibinet", 64)
    assert fibinet.stage1.learning_rate == 0.0037
    assert network_names(config.crm) == ("dcnv2", "fibinet", "bst 1", "bst 2")
    assert len(others) == 2


def test_members_survive_their_own_file(tmp_path: Path):
    config = load_config(settings=['crm.members=["ml-1m/fibinet", "lr"]'])
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert load_config(files=[path]) == config


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('crm.members=["fibnet"]', "neither a network .* nor a preset: did you mean 'fibinet'"),
        ('crm.members=[{crm={model="a:B"}}]', "a member is one of lr, .*, not 'a:B'"),
        ('crm.members=[{crm={model="lr", deep=1}}]', "deep"),
        ("crm.members=3", "crm.members"),
    ],
)
def test_what_cannot_be_a_member_is_said(setting, said):
    with pytest.raises(ConfigError, match=said):
        load_config(settings=[setting])


def test_an_external_crm_has_no_members():
    settings = ["crm.model=external", "crm.external.scores=x.csv", 'crm.members=["lr"]']
    with pytest.raises(ConfigError, match="blend its scores before"):
        load_config(settings=settings)


def test_on_the_meta_device_no_memory_is_needed(workspace):
    with torch.device("meta"):
        crm = build_crm(workspace.config.crm, workspace.log.features, torch.device("meta"))
    assert {p.device.type for p in crm.parameters()} == {"meta"}
