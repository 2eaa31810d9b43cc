import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import torch
from test_layout import PAPER, STREAM, one_prompt_each
from vllm_server import ADAPTER, BASE, VllmServer

from corellarec.base.errors import ConfigError, RemoteError
from corellarec.llm.layout import PaperLayout, StreamLayout
from corellarec.llm.load import AnswerModel, load_model
from corellarec.llm.remote import RemoteScorer
from corellarec.llm.score import LlmScorer

CPU = torch.device("cpu")
SCORING, COMPLETIONS, MODELS = "/generative_scoring", "/v1/completions", "/v1/models"


@pytest.fixture(scope="module")
def llm(tiny_llm):
    return load_model(str(tiny_llm), torch.float32, CPU)


@pytest.fixture
def server(llm):
    with VllmServer(llm[0]) as server:
        yield server


@pytest.fixture(scope="module")
def layout(log, llm):
    return StreamLayout(log, llm[1], STREAM, 3, 8)


@pytest.fixture(scope="module")
def samples(log):
    return log.samples(torch.arange(300, 312))


@pytest.fixture(scope="module")
def expected(llm, layout, samples):
    return one_prompt_each(
        AnswerModel(llm[0], layout.answers), layout.encode(samples), len(samples)
    )


@pytest.fixture
def waits(monkeypatch):
    """Seconds that the client waited between attempts; none pass."""
    waits = []
    monkeypatch.setattr("corellarec.llm.server.sleep", waits.append)
    return waits


def remote(layout, server, **options):
    options = {"prompts_per_request": 5, "parallel": 2} | options
    return RemoteScorer(layout, server.url, options.pop("model", ADAPTER), **options)


def one_at_a_time(layout, server, **options):
    return remote(layout, server, prompts_per_request=1, parallel=1, **options)


def assert_agrees(found, expected):
    torch.testing.assert_close(found.sigmoid(), expected.sigmoid(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("endpoint", [SCORING, COMPLETIONS])
@pytest.mark.parametrize("kind", ["stream", "paper"])
def test_agrees_with_one_prompt_at_a_time(log, llm, server, kind, endpoint):
    if kind == "stream":
        layout = StreamLayout(log, llm[1], STREAM, 3, 8)
    else:
        layout = PaperLayout(log, llm[1], PAPER, 3)
    samples = log.samples(torch.arange(100, 123))
    if endpoint == COMPLETIONS:
        server.missing.add(SCORING)
    answer_model = AnswerModel(llm[0], layout.answers)
    answered = []
    scorer = remote(layout, server)
    found = scorer.logits(samples, answered.append)
    assert_agrees(found, one_prompt_each(answer_model, layout.encode(samples), 23))
    assert_agrees(found, LlmScorer(answer_model, layout, 2000).logits(samples))
    assert found.dtype == torch.float32
    assert sorted(answered) == [3, 5, 5, 5, 5]
    assert len(server.asked(COMPLETIONS)) == (5 if endpoint == COMPLETIONS else 0)
    sent = sum(int(p) + 1 for s in layout.encode(samples) for p in s.places)
    assert (scorer.cost.samples, scorer.cost.tokens) == (23, sent)
    assert scorer.cost.seconds > 0


def test_pairs_outside_the_log_and_no_samples(log, llm, server, layout):
    pairs = log.pairs(torch.tensor([2, -1]), torch.tensor([7, 7]))
    answer_model = AnswerModel(llm[0], layout.answers)
    found = remote(layout, server).logits(pairs)
    assert_agrees(found, one_prompt_each(answer_model, layout.encode(pairs), 2))
    assert remote(layout, server).logits(pairs[:0]).shape == (0,)


def test_shared_tokens_are_sent_once_and_no_item_is_empty(server, layout, samples):
    remote(layout, server, prompts_per_request=3).logits(samples)
    bodies = server.asked(SCORING)
    for body in bodies:
        heads = {item[0] for item in body["items"]}
        shortest = min(len(item) for item in body["items"])
        assert shortest == 1 or (shortest > 1 and len(heads) > 1)
    # Of one stream, the first prompt is the beginning of the others.
    assert any(len(body["items"][0]) == 1 < len(body["items"][1]) for body in bodies)


# What servers do wrong for a while


def test_500_twice_is_asked_again_after_growing_waits(server, layout, samples, expected, waits):
    server.faults[SCORING].extend([(500, {"error": "x"}, {}), (503, {"error": "x"}, {})])
    assert_agrees(one_at_a_time(layout, server).logits(samples), expected)
    assert len(server.asked(SCORING)) == len(samples) + 2
    first, second = waits
    assert 0.25 <= first <= 0.5 <= second <= 1


def test_waits_are_jittered(server, layout, samples, waits):
    server.faults[SCORING].extend([(500, {}, {}), None] * 8)
    one_at_a_time(layout, server).logits(samples)
    assert len(set(waits)) == 8


def test_429_waits_as_long_as_it_is_told(server, layout, samples, expected, waits):
    later = datetime.now(UTC) + timedelta(seconds=40)
    server.faults[SCORING].extend(
        (429, {}, {"Retry-After": value}) for value in ("7", format_datetime(later), "soon")
    )
    assert_agrees(one_at_a_time(layout, server).logits(samples), expected)
    assert waits[0] == 7
    assert 30 < waits[1] <= 40
    assert waits[2] <= 2


def test_a_wait_of_an_hour_is_an_error(server, layout, samples, waits):
    server.faults[SCORING].append((429, {}, {"Retry-After": "3600"}))
    with pytest.raises(RemoteError, match="asks to wait 3600 s"):
        one_at_a_time(layout, server).logits(samples)
    assert waits == []


def test_a_dropped_connection_and_a_timeout_are_asked_again(
    server, layout, samples, expected, waits
):
    server.faults[MODELS].append("drop")
    server.faults[SCORING].extend(["drop", None, "stall"])
    assert_agrees(one_at_a_time(layout, server, timeout_s=0.2).logits(samples), expected)
    assert len(waits) == 3


def test_giving_up_says_what_to_check(server, layout, samples, waits):
    server.faults[SCORING].extend([(502, "<html>\nBad Gateway", {})] * 3)
    with pytest.raises(RemoteError, match=r"502 <html>, attempt 3 of 3: check that the server"):
        remote(layout, server, prompts_per_request=12, retries=2).logits(samples)
    assert len(server.asked(SCORING)) == 3


def test_no_server(layout, samples, waits):
    scorer = RemoteScorer(layout, "http://127.0.0.1:9", ADAPTER, retries=1)
    with pytest.raises(RemoteError, match=r"127.0.0.1:9/v1/models: ConnectError.*attempt 2 of 2"):
        scorer.logits(samples)


# What servers refuse


def test_a_refusal_is_not_repeated(server, layout, samples, waits):
    refusal = {"error": {"message": "items: too many\nmore", "code": 400}}
    server.faults[SCORING].append((400, refusal, {}))
    with pytest.raises(RemoteError, match=r"generative_scoring: 400 items: too many$"):
        remote(layout, server, prompts_per_request=12).logits(samples)
    assert len(server.asked(SCORING)) == 1
    assert waits == []


def test_a_redirection_is_not_followed(server, layout, samples):
    server.faults[MODELS].append((302, "", {"Location": "/elsewhere"}))
    with pytest.raises(RemoteError, match="302 Found"):
        remote(layout, server).logits(samples)


def test_the_key_comes_from_the_environment(llm, layout, samples, expected, monkeypatch):
    with VllmServer(llm[0], key="opensesame") as server:
        monkeypatch.delenv("VLLM_API_KEY", raising=False)
        with pytest.raises(RemoteError, match="401 Unauthorized: set VLLM_API_KEY to the key"):
            remote(layout, server).logits(samples)
        monkeypatch.setenv("VLLM_API_KEY", "sesame123")
        with pytest.raises(RemoteError, match="401 Unauthorized: check the key in") as caught:
            remote(layout, server).logits(samples)
        assert "sesame123" not in str(caught.value)
        monkeypatch.setenv("OTHER_KEY", "opensesame\n")
        scorer = remote(layout, server, api_key_variable="OTHER_KEY")
        assert_agrees(scorer.logits(samples), expected)
        monkeypatch.setenv("OTHER_KEY", "open\nsesame")
        with pytest.raises(ConfigError, match="OTHER_KEY") as bad:
            remote(layout, server, api_key_variable="OTHER_KEY")
        assert "sesame" not in str(bad.value)


def test_a_wrong_model_name_lists_what_is_there(server, layout, samples):
    with pytest.raises(RemoteError, match=f"no model 'gpt'; there are: {BASE}, {ADAPTER}"):
        remote(layout, server, model="gpt").logits(samples)
    assert server.asked(SCORING) == []


def test_the_base_model_is_a_model_too(server, layout, samples, expected):
    assert_agrees(remote(layout, server, model=BASE).logits(samples), expected)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x", "http://", "http://u:pw@x", "http://x:y"]
)
def test_a_wrong_url(layout, url):
    with pytest.raises(ConfigError, match="the language model's server") as caught:
        RemoteScorer(layout, url, ADAPTER)
    assert "pw" not in str(caught.value)


def test_a_url_may_end_in_v1(server, layout, samples, expected):
    scorer = RemoteScorer(layout, server.url + "/v1/", ADAPTER)
    assert_agrees(scorer.logits(samples), expected)


# Other and older servers


def test_without_generative_scoring_completions_answer(server, layout, samples, expected):
    server.missing.add(SCORING)
    scorer = one_at_a_time(layout, server)
    assert_agrees(scorer.logits(samples), expected)
    assert len(server.asked(SCORING)) == 1


def test_without_both_it_is_an_error(server, layout, samples):
    server.missing.update([SCORING, COMPLETIONS])
    with pytest.raises(RemoteError, match="completions: 404 Not Found: check the URL"):
        remote(layout, server).logits(samples)


def test_an_answer_outside_the_top_logprobs_is_an_error(server, layout, samples):
    server.missing.add(SCORING)
    server.knows_logprob_token_ids = False
    with pytest.raises(RemoteError, match=r"sample \d+: .* knows logprob_token_ids"):
        remote(layout, server).logits(samples)


def test_something_else_than_vllm(server, layout, samples):
    server.faults[MODELS].append((200, "<html>", {}))
    with pytest.raises(RemoteError, match="expected a JSON object, found '<html>'"):
        remote(layout, server).logits(samples)
    server.max_model_len = None
    with pytest.raises(RemoteError, match="does not tell the max_model_len of 'corellarec'"):
        remote(layout, server).logits(samples)


@pytest.mark.parametrize("endpoint", [SCORING, COMPLETIONS])
def test_the_salt_is_sent(server, layout, samples, endpoint):
    if endpoint == COMPLETIONS:
        server.missing.add(SCORING)
    remote(layout, server, cache_salt="tenant-1").logits(samples)
    assert {body["cache_salt"] for body in server.asked(endpoint)} == {"tenant-1"}
    server.requests.clear()
    remote(layout, server).logits(samples)
    assert not any("cache_salt" in body for body in server.asked(endpoint))


@pytest.mark.parametrize("salt", ["", "a/b", "x" * 129])
def test_a_salt_that_vllm_refuses(server, layout, salt):
    with pytest.raises(ConfigError, match="cache_salt"):
        remote(layout, server, cache_salt=salt)


# Lengths


def test_the_longest_prompt_may_fill_the_model_but_for_its_answer(server, layout, samples):
    longest = max(int(s.places[-1]) + 1 for s in layout.encode(samples))
    server.max_model_len = longest + 1
    remote(layout, server).logits(samples)
    server.requests.clear()
    server.max_model_len = longest
    with pytest.raises(RemoteError, match=f"takes {longest}: lower llm.history_length") as caught:
        remote(layout, server).logits(samples)
    assert "--max-model-len" in str(caught.value)
    assert server.asked(SCORING) == []


def test_the_models_are_asked_for_once(server, layout, samples):
    scorer = remote(layout, server)
    scorer.logits(samples)
    scorer.logits(samples)
    assert len(server.asked(MODELS)) == 1


@pytest.mark.parametrize("endpoint", [SCORING, COMPLETIONS])
def test_a_server_that_cuts_prompts_is_found_out(server, layout, samples, endpoint):
    if endpoint == COMPLETIONS:
        server.missing.add(SCORING)
    server.cut = min(int(p) for s in layout.encode(samples) for p in s.places)
    with pytest.raises(RemoteError, match=r"read \d+ tokens where \d+ were sent"):
        remote(layout, server).logits(samples)


# Numbers that are none


def set_score(index, score):
    """Alters one score of every answer."""

    def alter(path, answer):
        if path == SCORING and index < len(answer["data"]):
            answer["data"][index]["score"] = score

    return alter


@pytest.mark.parametrize("score", [0.0, 1.0, 0, 1, 1 - 1e-13])
def test_a_saturated_score_is_asked_again_as_logprobs(server, layout, samples, expected, score):
    server.alter = set_score(1, score)
    assert_agrees(remote(layout, server).logits(samples), expected)
    assert sum(len(body["prompt"]) for body in server.asked(COMPLETIONS)) == 3


@pytest.mark.parametrize("logit", [-300.0, -12.0, 12.0, 25.0])
def test_an_extreme_score_keeps_its_logit(server, layout, samples, logit):
    server.alter = set_score(0, math.exp(logit) / (1 + math.exp(logit)))
    found = one_at_a_time(layout, server).logits(samples)
    torch.testing.assert_close(found, torch.full((len(samples),), logit), atol=1e-4, rtol=0)
    assert server.asked(COMPLETIONS) == []


@pytest.mark.parametrize("logprob", [-9999.0, None, math.nan, math.inf])
def test_a_saturated_score_without_a_logprob_is_an_error(server, layout, samples, logprob):
    def alter(path, answer):
        set_score(2, 1.0)(path, answer)
        for choice in answer.get("choices", []):
            choice["logprobs"]["top_logprobs"][0][f"token_id:{layout.answers[0]}"] = logprob

    server.alter = alter
    sample = [int(i) for s in layout.encode(samples) for i in s.samples][2]
    scorer = remote(layout, server, prompts_per_request=12)
    with pytest.raises(RemoteError, match=f"sample {sample}: .* no log-probabilities"):
        scorer.logits(samples)


@pytest.mark.parametrize("score", [None, math.nan, "0.5", 1.5, -0.1])
def test_a_score_that_is_no_probability_is_an_error(server, layout, samples, score):
    server.alter = set_score(3, score)
    sample = [int(i) for s in layout.encode(samples) for i in s.samples][3]
    scorer = remote(layout, server, prompts_per_request=12)
    with pytest.raises(RemoteError, match=f"sample {sample}: .* not a number from 0 to 1"):
        scorer.logits(samples)


@pytest.mark.parametrize("endpoint", [SCORING, COMPLETIONS])
def test_shuffled_answers_find_their_samples(server, layout, samples, expected, endpoint):
    if endpoint == COMPLETIONS:
        server.missing.add(SCORING)
    server.alter = lambda path, answer: answer.get("data", answer.get("choices")).reverse()
    assert_agrees(remote(layout, server).logits(samples), expected)


@pytest.mark.parametrize("wrong", [0, 99, None, [1]])
@pytest.mark.parametrize("endpoint", [SCORING, COMPLETIONS])
def test_a_wrong_index_is_an_error(server, layout, samples, endpoint, wrong):
    if endpoint == COMPLETIONS:
        server.missing.add(SCORING)

    def alter(path, answer):
        if path == endpoint:
            answer.get("data", answer.get("choices"))[1]["index"] = wrong

    server.alter = alter
    with pytest.raises(RemoteError, match=r"expected one answer in '\w+' to each of 5 prompts"):
        remote(layout, server, parallel=1).logits(samples)


def test_a_missing_or_surplus_answer_is_an_error(server, layout, samples):
    for change in (lambda data: data.pop(), lambda data: data.append(dict(data[0]))):
        server.alter = lambda path, answer, change=change: (
            change(answer["data"]) if path == SCORING else None
        )
        with pytest.raises(RemoteError, match="expected one answer in 'data'"):
            remote(layout, server, parallel=1).logits(samples)
