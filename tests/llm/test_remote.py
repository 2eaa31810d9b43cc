import asyncio
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
from corellarec.llm.remote import RemoteScorer, UnansweredError
from corellarec.llm.score import LlmScorer
from corellarec.llm.template import load_template

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

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("corellarec.llm.server.sleep", sleep)
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


def test_a_dropped_connection_is_asked_again(server, layout, samples, expected, waits):
    server.faults[MODELS].append("drop")
    server.faults[SCORING].extend(["drop", None, "drop"])
    assert_agrees(one_at_a_time(layout, server).logits(samples), expected)
    assert len(waits) == 3


def test_a_request_has_a_deadline_and_what_was_answered_before_is_kept(
    server, layout, samples, expected, waits
):
    server.faults[SCORING].extend([None, None, "stall"])
    with pytest.raises(UnansweredError, match="no whole answer in 0.2 s, attempt 1 of 5") as caught:
        one_at_a_time(layout, server, timeout_s=0.2).logits(samples)
    answered = ~caught.value.logits.isnan()
    assert int(answered.sum()) == 2
    assert_agrees(caught.value.logits[answered], expected[answered])


def test_a_job_has_a_deadline(server, layout, samples):
    server.faults[SCORING].extend([None, "stall"])
    with pytest.raises(UnansweredError, match="answered 1 of 12 samples in 0.3 s: give the job"):
        one_at_a_time(layout, server, job_timeout_s=0.3).logits(samples)


def test_waits_count_as_time(server, layout, samples):
    server.faults[SCORING].append((429, {}, {"Retry-After": "7"}))
    with pytest.raises(RemoteError, match=r"429 .*asks to wait 7 s\) in 0.3 s"):
        one_at_a_time(layout, server, timeout_s=0.3).logits(samples)


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_a_time_that_is_none(server, layout, seconds):
    with pytest.raises(ConfigError, match="must be above 0 s"):
        remote(layout, server, timeout_s=seconds)


def test_in_an_event_loop(server, layout, samples, expected):
    async def notebook():
        return remote(layout, server).logits(samples)

    assert_agrees(asyncio.run(notebook()), expected)


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
    "url",
    [
        "localhost:8000",
        "ftp://x",
        "file:///etc/passwd",
        "http://",
        "http://u:s3cret@x",
        "http://s3cret@x",
        "http://x:s3cret",
        "http://x/?key=s3cret",
        "http://x/v1?",
        "http://x/#s3cret",
        "http://x/\x1b[31m",
    ],
)
def test_a_wrong_url(layout, url):
    with pytest.raises(
        ConfigError, match="the language model's server: .*localhost:8000"
    ) as caught:
        RemoteScorer(layout, url, ADAPTER)
    assert "s3cret" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://llm.example", True),
        ("http://llm.example", False),
        ("https://localhost:8000", False),
        ("https://x.localhost", False),
        ("https://127.0.0.9", False),
        ("https://[::1]", False),
        ("https://10.0.0.1", True),
    ],
)
def test_a_proxy_may_see_no_key_and_is_not_asked_for_this_machine(layout, url, may, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    asked = RemoteScorer(layout, url, ADAPTER).server.connect()._mounts
    assert bool(asked) == may
    monkeypatch.setenv("NO_PROXY", "*")
    assert not RemoteScorer(layout, url, ADAPTER).server.connect()._mounts


def test_a_proxy_or_certificates_that_cannot_be_used(layout, samples, monkeypatch, tmp_path):
    monkeypatch.setenv("HTTPS_PROXY", "ftp://u:s3cret@x")
    with pytest.raises(ConfigError, match=r"a proxy of the environment \(HTTPS_PROXY") as caught:
        RemoteScorer(layout, "https://llm.example", ADAPTER).logits(samples)
    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match="the certificates of SSL_CERT_FILE"):
        RemoteScorer(layout, "https://llm.example", ADAPTER)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("bad \x1b[31m red\r\nmore", "400 bad [31m red"),
        ({"detail": "no \x07bell"}, "400 no bell"),
        ({"message": "your key sesame123?"}, "400 your key [the key]?"),
        ({"error": {"message": "x" * 1000}}, "400 " + "x" * 297 + "..."),
        ({"detail": [{"loc": "x"}]}, '400 {"detail": [{"loc": "x"}]}'),
        ("", "400 Bad Request"),
        ("[" * 100_000, "400 " + "[" * 297 + "..."),
    ],
)
def test_a_servers_words_are_one_line_without_the_key(
    server, layout, samples, body, words, monkeypatch
):
    monkeypatch.setenv("VLLM_API_KEY", "sesame123")
    server.faults[MODELS].append((400, body, {}))
    with pytest.raises(RemoteError) as caught:
        remote(layout, server).logits(samples)
    assert str(caught.value) == f"{server.url}/v1/models: {words}"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        '{"data": 1}',
        '{"data": [1]}',
        '{"data": [{"id": ["x"]}]}',
        '{"data": [{"id": 5}]}',
        '{"data": [{"id": "corellarec", "parent": ["x"]}]}',
        '{"data": [{"id": "corellarec", "max_model_len": true}]}',
        '{"data": [{"id": "corellarec", "max_model_len": 1e3}]}',
        '{"data": [{"id": "corellarec", "max_model_len": 1' + "0" * 5000 + "}]}",
        '{"data": [{"id": "\\ud800"}]}',
        "[" * 100_000,
        '{"data":' * 100_000,
        b"\xff\xfe",
        '{"data": "' + "x" * (5 << 20) + '"}',
    ],
    ids=lambda body: repr(body[:50]),
)
def test_an_answer_that_is_none_is_one_line(server, layout, samples, body):
    server.faults[MODELS].append((200, body, {}))
    with pytest.raises(RemoteError, match=r"/v1/models: .*: is it vLLM\?$") as caught:
        remote(layout, server).logits(samples)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_url_may_end_in_v1(server, layout, samples, expected):
    scorer = RemoteScorer(layout, server.url + "/v1/", ADAPTER)
    assert_agrees(scorer.logits(samples), expected)


# Other and older servers


def test_without_generative_scoring_completions_answer(server, layout, samples, expected):
    server.missing.add(SCORING)
    scorer = one_at_a_time(layout, server)
    assert_agrees(scorer.logits(samples), expected)
    assert len(server.asked(SCORING)) == 1


def test_ratings_are_asked_for_as_logprobs(log, llm, server, samples):
    layout = StreamLayout(log, llm[1], load_template("movies-rated").stream, 3, 8)
    answer_model = AnswerModel(llm[0], layout.answers, negatives=layout.negatives)
    found = remote(layout, server).logits(samples)
    assert_agrees(found, LlmScorer(answer_model, layout, 2000).logits(samples))
    assert not server.asked(SCORING)
    assert server.asked(COMPLETIONS)[0]["logprob_token_ids"] == list(layout.answers)


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


@pytest.mark.parametrize("score", [None, math.nan, math.inf, 1.5, -0.1, 10**400])
def test_a_score_that_is_no_probability_is_an_error(server, layout, samples, score):
    server.alter = set_score(3, score)
    sample = [int(i) for s in layout.encode(samples) for i in s.samples][3]
    scorer = remote(layout, server, prompts_per_request=12)
    with pytest.raises(RemoteError, match=f"sample {sample}: .* not a number from 0 to 1"):
        scorer.logits(samples)


@pytest.mark.parametrize("score", ["0.5", True, [0.5], {}])
def test_a_score_of_another_type_is_an_error(server, layout, samples, score):
    server.alter = set_score(3, score)
    with pytest.raises(RemoteError, match=r"scoring: data.3.score: Input should be a valid number"):
        remote(layout, server, prompts_per_request=12).logits(samples)


@pytest.mark.parametrize("endpoint", [SCORING, COMPLETIONS])
def test_shuffled_answers_find_their_samples(server, layout, samples, expected, endpoint):
    if endpoint == COMPLETIONS:
        server.missing.add(SCORING)
    server.alter = lambda path, answer: answer.get("data", answer.get("choices")).reverse()
    assert_agrees(remote(layout, server).logits(samples), expected)


@pytest.mark.parametrize("wrong", [0, 99, -1, None, [1], True, 1.0, "1"])
@pytest.mark.parametrize("endpoint", [SCORING, COMPLETIONS])
def test_a_wrong_index_is_an_error(server, layout, samples, endpoint, wrong):
    if endpoint == COMPLETIONS:
        server.missing.add(SCORING)

    def alter(path, answer):
        if path == endpoint:
            answer.get("data", answer.get("choices"))[1]["index"] = wrong

    server.alter = alter
    with pytest.raises(RemoteError, match=r"one answer to each of 5 prompts|1.index: Input"):
        remote(layout, server, parallel=1).logits(samples)


def test_a_missing_or_surplus_answer_is_an_error(server, layout, samples):
    for change in (lambda data: data.pop(), lambda data: data.append(dict(data[0]))):
        server.alter = lambda path, answer, change=change: (
            change(answer["data"]) if path == SCORING else None
        )
        with pytest.raises(RemoteError, match="expected one answer to each"):
            remote(layout, server, parallel=1).logits(samples)
