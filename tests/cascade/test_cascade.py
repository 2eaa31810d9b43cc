"""A saved cascade: routed rows, its budget, threads, files, and a server in the LLM's place."""

import threading
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import corellarec as cr
from corellarec.cascade import files
from corellarec.cascade.files import predict_file
from corellarec.cascade.lists import FEATURES, ListBlend, ListPolicy, ListValue
from corellarec.cascade.router import Verdict
from corellarec.evaluation.labelled import score_labelled
from corellarec.llm.load import load_model
from corellarec.llm.lora import load_adapter
from llm.vllm_server import ADAPTER, VllmServer


@pytest.fixture
def load(finished):
    """Loads the finished run's cascade, made to route by entropy: the tiny model earns nothing."""

    def routing(threshold=0.0, budget=1.0, **more):
        cascade = cr.Cascade.load(finished[0], device="cpu", **more)
        router = cascade.router
        rule = router.rules["entropy"]
        rule = replace(rule, threshold=threshold, verdict=replace(rule.verdict, helps=True))
        router = replace(
            router,
            policy="entropy",
            budget=budget,
            hard=True,
            rules=router.rules | {"entropy": rule},
        )
        cascade.router = router
        return cascade

    return routing


def pairs(n):
    return pl.DataFrame({"user": [str(1 + i % 7) for i in range(n)],
                         "item": [str(1 + i % 50) for i in range(n)]})  # fmt: skip


def test_routed_rows_get_the_blend_alike_in_batch_and_alone(load):
    entropy = load(budget=0.0).predict(pairs(30))["entropy"].to_numpy()
    cascade = load(threshold=float(np.median(entropy)))
    together = cascade.predict(pairs(30))
    routed = together["source"] == "blend"
    assert 0 < routed.sum() < 30
    assert (together["p_llm"].is_not_null() == routed).all()
    assert (together.filter(~routed)["p"] == together.filter(~routed)["p_crm"]).all()
    log = cascade.log
    held = set(
        zip(
            log.users["id"].gather(log.rows["user"]),
            log.items["id"].gather(log.rows["item"]),
            strict=True,
        )
    )
    assert len(set(pairs(30).iter_rows()) - held) > 10
    for i, pair in enumerate(pairs(30).iter_rows()):
        alone = cascade.predict(pairs(30)[i])
        assert alone["source"][0] == together["source"][i]
        # The LLM reads a pair that the log holds with the lines that rows beside it need.
        if pair not in held:
            assert alone["p"][0] == pytest.approx(together["p"][i], abs=1e-4)


def test_a_replaced_answer_is_the_llms(load):
    cascade = load()
    cascade.router = replace(cascade.router, combine="replace")
    found = cascade.predict(pairs(5))
    assert (found["source"] == "llm").all()
    assert (found["p"] == found["p_llm"]).all()


def test_a_budget_holds_over_calls_whatever_their_sizes(load):
    cascade, rows, routed = load(budget=0.2), 0, 0
    for size in (1, 1, 7, 3, 1, 12, 5, 40, 1, 1):
        rows += size
        routed += int((cascade.predict(pairs(size))["source"] != "crm").sum())
        assert routed <= 0.2 * rows + 1
    assert routed >= 0.2 * rows - 2


def test_threads_share_one_llm_and_one_budget(load):
    cascade, loads, found = load(budget=0.25), [], []
    whole = cascade.models.load_llm
    cascade.models.load_llm = lambda: loads.append(1) or whole()

    def score():
        calls = (cascade.predict(pairs(8))["source"] != "crm" for _ in range(5))
        found.extend(int(routed.sum()) for routed in calls)

    threads = [threading.Thread(target=score) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len(found) == 20
    assert 0.25 * 160 - 2 <= sum(found) <= 0.25 * 160 + 1


def test_a_failing_llm_spends_no_budget(load):
    cascade = load(budget=0.5)
    whole = cascade.models.load_llm

    def fail():
        raise cr.ModelError("gone")

    cascade.models.load_llm = fail
    for _ in range(5):
        with pytest.raises(cr.ModelError, match="gone"):
            cascade.predict(pairs(10))
    cascade.models.load_llm = whole
    assert int((cascade.predict(pairs(10))["source"] != "crm").sum()) >= 5


def test_a_server_answers_in_the_llms_place(load, finished, tiny_llm):
    """The cascade's adapter behind vLLM's protocol gives what it gives here."""
    here = load().predict(pairs(12))["p_llm"].to_numpy()
    model, _ = load_model(str(tiny_llm), torch.float32, torch.device("cpu"))
    served = load_adapter(model, finished[0] / "cascade" / "adapter")
    with VllmServer(served) as server:
        there = load(server=server.url, server_model=ADAPTER).predict(pairs(12))
    assert there["p_llm"].to_numpy() == pytest.approx(here, abs=1e-3)


@pytest.fixture
def failing(tiny_llm, finished):
    """A server that answers one request, of 32 pairs or of those left, and refuses the others."""
    model, _ = load_model(str(tiny_llm), torch.float32, torch.device("cpu"))
    with VllmServer(load_adapter(model, finished[0] / "cascade" / "adapter")) as server:
        server.faults["/v1/completions"].extend([None] + [(400, "no", {})] * 50)
        yield server


def test_rows_that_a_failing_server_does_not_answer_are_the_crms(load, failing):
    cascade = load(server=failing.url, server_model=ADAPTER, on_server_error="crm")
    found = cascade.predict(pairs(100))
    there = found["source"] == "blend"
    assert there.sum() in (4, 32)  # one request
    assert (found["p_llm"].is_not_null() == there).all()
    assert ((found["p"] == found["p_crm"]) == ~there).all()
    assert cascade.models.unanswered == 100 - there.sum()
    assert cascade.models.server_error.endswith("/v1/completions: 400 no")
    assert found["p"].is_not_nan().all()


def test_a_list_that_a_failing_server_answers_in_part_stays_in_the_crms_order(load, failing):
    cascade = load(server=failing.url, server_model=ADAPTER, on_server_error="crm")
    nothing = (0.0,) * len(FEATURES)
    policy = ListPolicy(40, 1.0, ListBlend(0.0, 1.0), ListValue(nothing, 0.0, nothing, nothing),
                        None, Verdict(helps=True, routed=30, gain=0.1, bound=0.05))  # fmt: skip
    recipe = replace(cascade.recipe, router=cascade.router, lists=policy)
    cascade = cr.Cascade(recipe, cascade.log, cascade.models, cascade.adapter)
    found = cascade.recommend(["1"], k=40, exclude_seen=False)
    assert found["p_llm"].is_not_null().sum() in (8, 32)  # one request
    assert found["p_crm"].is_sorted(descending=True)


def test_a_failing_server_raises_unless_the_crm_may_answer(load, failing):
    cascade = load(server=failing.url, server_model=ADAPTER)
    with pytest.raises(cr.RemoteError, match="400 no"):
        cascade.predict(pairs(100))
    assert cascade.models.unanswered == 0
    with pytest.raises(cr.ConfigError, match="'crm' or 'fail', not 'never'"):
        load(on_server_error="never")


def test_evaluation_takes_no_crms_answers_for_the_llms(load, failing):
    cascade = load(server=failing.url, server_model=ADAPTER, on_server_error="crm")
    rows = pairs(100).with_columns(label=pl.lit(1), time=pl.lit("2030-01-01").str.to_datetime())
    with pytest.raises(cr.RemoteError, match="400 no"):
        score_labelled(cascade, rows)


def test_the_file_says_how_many_rows_the_server_did_not_answer(
    load, failing, tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "BATCH", 40)
    pairs(100).write_csv(tmp_path / "in.csv")
    cascade = load(server=failing.url, server_model=ADAPTER, on_server_error="crm")
    found = predict_file(cascade, tmp_path / "in.csv", tmp_path / "out.csv")
    assert found.routed in (8, 32)  # one request of the first batch
    assert (found.pairs, found.unanswered) == (100, 100 - found.routed)
    assert "400 no" in found.server_error


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_in_batches_is_scored_as_a_whole(load, tmp_path, monkeypatch, suffix):
    whole = load(budget=0.3).predict(pairs(100))
    source, output = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    (pairs(100).write_csv if suffix == "csv" else pairs(100).write_parquet)(source)
    monkeypatch.setattr(files, "BATCH", 17)
    done = []
    cascade = load(budget=0.3)
    found = predict_file(cascade, source, output, done.append)
    assert (found.pairs, found.unknown_users) == (100, 0)
    assert done == [17, 34, 51, 68, 85, 100]
    assert abs(found.routed - int((whole["source"] != "crm").sum())) <= 1
    read = pl.read_csv(output, schema_overrides={"user": pl.String, "item": pl.String}) if (
        suffix == "csv"
    ) else pl.read_parquet(output)  # fmt: skip
    assert read.columns == whole.columns
    assert read["p_crm"].to_numpy() == pytest.approx(whole["p_crm"].to_numpy(), abs=1e-6)
    assert (read["user"] == pairs(100)["user"]).all()


def test_a_bad_row_in_a_late_batch_leaves_no_file(load, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BATCH", 10)
    bad = pl.concat([pairs(45), pl.DataFrame({"user": ["1"], "item": ["none"]})])
    bad.write_parquet(tmp_path / "in.parquet")
    with pytest.raises(cr.DataError, match="in.parquet, row 46: item 'none' is not known"):
        predict_file(load(), tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_the_input_is_not_overwritten(load, tmp_path):
    pairs(3).write_csv(tmp_path / "in.csv")
    with pytest.raises(cr.DataError, match="is the input"):
        predict_file(load(), tmp_path / "in.csv", tmp_path / "in.csv")


def test_a_cascade_keeps_the_whole_log(finished):
    from corellarec.data.log import Log

    kept, whole = cr.Cascade.load(finished[0]).log, Log.load(finished[0] / "data")
    assert len(kept) == len(whole)
    assert (kept.liked[0] == whole.liked[0]).all()
    assert (kept.liked[1] == whole.liked[1]).all()
