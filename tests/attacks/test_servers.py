"""Faulty servers in the LLM's place cost a bounded time and memory, and no answer of the CRM."""

import csv
import gzip
import json
import shutil
import subprocess
from dataclasses import replace

import pytest
from calls import call
from servers import Loopback, endless

import corellarec as cr
from corellarec.llm.template import load_template

SECRET = "sk-s3cret-0123456789"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
TIMEOUT_S = 2.0
MODELS = {"data": [{"id": "corellarec", "max_model_len": 4096}]}
SCORING = "/generative_scoring"


def good(body):
    """What a sound server answers to a request."""
    request = json.loads(body)
    if "prompt" in request:
        choices = [
            {
                "index": i,
                "logprobs": {
                    "top_logprobs": [{f"token_id:{t}": -1.5 for t in request["logprob_token_ids"]}]
                },
            }
            for i in range(len(request["prompt"]))
        ]
        return {"choices": choices}
    read = sum(len(request["query"]) + len(item) for item in request["items"])
    scores = [{"index": i, "score": 0.25 + 0.001 * i} for i in range(len(request["items"]))]
    return {"data": scores, "usage": {"prompt_tokens": read}}


def score(value, at=0):
    """One score is ``value``, as JSON."""

    def alter(handler):
        answer = good(handler.body)
        answer["data"][at]["score"] = "HERE"
        handler.send(200, json.dumps(answer).replace('"HERE"', value))

    return alter


def entries(change):
    """The list of scores is altered."""

    def alter(handler):
        answer = good(handler.body)
        handler.send(200, json.dumps(answer | {"data": change(answer["data"])}))

    return alter


def usage(value):
    return lambda h: h.send(200, json.dumps(good(h.body) | {"usage": value}))


def content(text, status=200, **headers):
    return lambda h: h.send(status, text, **headers)


def raw(*pieces, pause_s=0.0):
    return lambda h: h.raw(*pieces, pause_s=pause_s)


def trickle(head, piece, pause_s=0.3):
    """A head, and then bytes now and then that never end."""

    def answer(handler):
        handler.raw(head)
        endless(handler, piece, pause_s=pause_s)

    return answer


def completions(logprob):
    """No path for scores, and such log-probabilities."""

    def answer(handler):
        if handler.path == SCORING:
            handler.send(404, "no")
            return
        text = json.dumps(good(handler.body))
        handler.send(200, text.replace("-1.5", logprob))

    return answer


def as_json(value):
    return content(json.dumps(value))


FAULTS = {
    "hangs": lambda h: h.server.still(),
    "a byte of the body now and then": trickle(HEAD + b"Content-Length: 9999\r\n\r\n", b" "),
    "a byte of a header now and then": trickle(HEAD + b"X: ", b"x"),
    "a header now and then": trickle(HEAD, b"X: x\r\n"),
    "a byte of the status now and then": trickle(b"HTTP/1.1 200 ", b"x"),
    "endless 100 Continue": trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
    "500": content("boom", 500),
    "204": content("", 204),
    "101": raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
    "status 999": raw(b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n"),
    "503, to wait 5 s": content("x", 503, Retry_After="5"),
    "429, to wait an hour": content("x", 429, Retry_After="3600"),
    "429, to wait 9**400": content("x", 429, Retry_After="9" * 400),
    "503, to wait till the year 99999": content(
        "x", 503, Retry_After="Mon, 01 Jan 99999 00:00:00 GMT"
    ),
    "503, to wait superscript two": content("x", 503, Retry_After="\u00b2"),
    "400 with escape codes": content('{"error": {"message": "bad \\u001b[31m red \\u0007"}}', 400),
    "400 with raw escape codes": content("\x1b]0;title\x07\x1b[2J\r\nmore", 400),
    "400 with a megabyte of words": content("x" * (1 << 20), 400),
    "401 that repeats the key": lambda h: h.send(401, f"no {h.headers['Authorization']}"),
    "404": content("no", 404),
    "not JSON": content("<html>"),
    "empty": content(""),
    "a list": content("[]"),
    "nested lists": content("[" * 100_000),
    "nested objects": content('{"data":' * 100_000),
    "not UTF-8": content(b'{"data": "\xff\xfe"}'),
    "half a surrogate pair": content('{"data": "\\ud800"}'),
    "NaN": score("NaN"),
    "infinity": score("Infinity"),
    "minus infinity": score("-Infinity"),
    "null": score("null"),
    "true": score("true"),
    "text": score('"0.5"'),
    "a list as a score": score("[0.5]"),
    "401 digits": score("1" + "0" * 400),
    "5001 digits": score("1" + "0" * 5000),
    "1e999": score("1e999"),
    "-0.1": score("-0.1"),
    "too few": entries(lambda data: data[1:]),
    "too many": entries(lambda data: [*data, data[0]]),
    "an index twice": entries(lambda data: [data[0], *data[:-1]]),
    "true as an index": entries(lambda data: [d | {"index": bool(d["index"])} for d in data[:2]]),
    "an index of 10**30": entries(lambda data: [d | {"index": 10**30} for d in data]),
    "a list as an index": entries(lambda data: [d | {"index": [d["index"]]} for d in data]),
    "numbers for entries": entries(lambda data: [0.5] * len(data)),
    "a million entries": entries(lambda data: [0] * 1_000_000),
    "a million objects": entries(lambda data: [{"index": 0}] * 250_000),
    "other tokens read": usage({"prompt_tokens": 1}),
    "a text of tokens read": usage({"prompt_tokens": "many"}),
    "usage is a list": usage([1]),
    "ends in the body": raw(HEAD + b'Content-Length: 1000\r\n\r\n{"data": ['),
    "ends in a chunk": raw(CHUNKED + b'1000\r\n{"data"'),
    "a chunk of 2**64 bytes": raw(CHUNKED + b"ffffffffffffffff\r\n{"),
    "a chunk of -1 bytes": raw(CHUNKED + b"-1\r\n{}"),
    "length abc": raw(HEAD + b"Content-Length: abc\r\n\r\n{}"),
    "length -5": raw(HEAD + b"Content-Length: -5\r\n\r\n{}"),
    "two lengths": raw(HEAD + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}"),
    "a body shorter than it says": raw(HEAD + b"Content-Length: 2\r\n\r\n{}{}{}"),
    "not HTTP": raw(b"SSH-2.0-x\r\n"),
    "closes at once": raw(),
    "a header of 20 MB": raw(HEAD + b"X: " + b"a" * (20 << 20)),
    "endless headers": lambda h: (h.raw(HEAD), endless(h, b"X: y\r\n" * 1000)),
    "a redirection": content("", 302, Location="http://127.0.0.1:9/elsewhere"),
    "a redirection to itself": content("", 307, Location=SCORING),
    "a gzip bomb": lambda h: h.send(200, BOMB, Content_Encoding="gzip"),
    "an endless body": lambda h: (h.raw(HEAD + b"\r\n"), endless(h, bytes(1 << 20))),
    "an endless body in chunks": lambda h: (
        h.raw(CHUNKED),
        endless(h, b"100000\r\n" + b" " * (1 << 20) + b"\r\n"),
    ),
    "an endless 500": lambda h: (
        h.raw(HEAD.replace(b"200", b"500") + b"\r\n"),
        endless(h, bytes(1 << 20)),
    ),
    "log-probability -inf": completions("-Infinity"),
    "log-probability NaN": completions("NaN"),
    "log-probability -9999": completions("-9999.0"),
    "log-probability null": completions("null"),
    "log-probability in a list": completions("[1]"),
    "log-probability of 401 digits": completions("1" + "0" * 400),
}
BOMB = gzip.compress(bytes(100 << 20), 1)
QUICK = (
    "a byte of the body now and then",
    "a byte of a header now and then",
    "401 that repeats the key",
    "400 with raw escape codes",
    "NaN",
    "true as an index",
    "an endless body in chunks",
)

MODEL_FAULTS = {
    "no models": as_json({"data": []}),
    "no list of models": as_json({"data": {}}),
    "a list as an id": as_json({"data": [{"id": ["x"]}]}),
    "a number as an id": as_json({"data": [{"id": 5}]}),
    "escape codes as an id": as_json({"data": [{"id": "\x1b[31m" + "x" * 9999}]}),
    "a list as a parent": as_json({"data": [{"id": "corellarec", "parent": ["x"]}]}),
    "a model that is its parent": as_json({"data": [{"id": "corellarec", "parent": "corellarec"}]}),
    "length true": as_json({"data": [{"id": "corellarec", "max_model_len": True}]}),
    "length 0": as_json({"data": [{"id": "corellarec", "max_model_len": 0}]}),
    "length -1": as_json({"data": [{"id": "corellarec", "max_model_len": -1}]}),
    "length 1.5": as_json({"data": [{"id": "corellarec", "max_model_len": 1.5}]}),
    "models trickle": FAULTS["a byte of the body now and then"],
    "endless models": FAULTS["an endless body"],
}


def no_long_waits():
    import corellarec.llm.server

    corellarec.llm.server.FIRST_WAIT_S = 0.02


@pytest.fixture(scope="module")
def asks(finished, tmp_path_factory):
    """A cascade that asks the language model about every pair, for no or yes."""
    cascade = cr.Cascade.load(finished[0], device="cpu")
    cascade.recipe = replace(cascade.recipe, template=load_template("movies-liked"))
    rule = cascade.router.rules["entropy"]
    rule = replace(rule, threshold=-1e9, verdict=replace(rule.verdict, helps=True))
    rules = cascade.router.rules | {"entropy": rule}
    cascade.router = replace(cascade.router, policy="entropy", budget=1.0, hard=False, rules=rules)
    folder = tmp_path_factory.mktemp("asks")
    cascade.save(folder / "cascade")
    return folder / "cascade"


def write_pairs(path, count):
    lines = [f"{1 + i % 40},{1 + i % 49}" for i in range(count)]
    path.write_text("user,item\n" + "\n".join(lines) + "\n")
    return path


class Predict:
    """Calls of ``predict`` with a server; each is judged as it returns."""

    def __init__(self, attack, cascade, tmp_path, scratch):
        self.attack, self.cascade, self.scratch = attack, cascade, scratch
        self.output = tmp_path / "out.csv"
        self.pairs = write_pairs(tmp_path / "pairs.csv", 40)

    def __call__(self, name, url, *options, environment=None):
        """The outcome, and how often each source answered."""
        self.output.unlink(missing_ok=True)
        command = ["predict", self.cascade, self.pairs, "-o", self.output, "--server", url]
        outcome = call(
            [*command, "--server-timeout", TIMEOUT_S, *options],
            self.scratch,
            seconds=60,
            patch=no_long_waits,
            environment={"VLLM_API_KEY": SECRET} | (environment or {}),
        )
        if SECRET in outcome.text or "s3cret" in outcome.text:
            self.attack.note("key shown", f"{name}: {outcome.text}", bad=True)
        if not outcome.text.replace("\n", "").isprintable():
            self.attack.note("escape codes", f"{name}: {outcome.text!r}", bad=True)
        if any(len(line) > 1000 for line in outcome.text.splitlines()):
            self.attack.note("long line", f"{name}: {outcome.text}", bad=True)
        sources = [row["source"] for row in self.rows()] if self.output.exists() else []
        return outcome, {kind: sources.count(kind) for kind in set(sources)}

    def rows(self):
        with self.output.open(newline="") as file:
            return list(csv.DictReader(file))

    def fails(self, name, url, *options, **more):
        """The CRM's answers are kept, or with ``fail`` there is one line and no output."""
        outcome, sources = self(name, url, *options, **more)
        warning = "the server did not answer 40 rows"
        good = outcome.kind == "done" and sources == {"crm": 40} and warning in outcome.text
        kind = "the CRM's answers" if good else outcome.kind
        self.attack.note(kind, f"{name}: {outcome.text[-300:]} {sources}", bad=not good)
        if self.attack.hard or name == "NaN":
            outcome, sources = self(name, url, *options, "--on-server-error", "fail", **more)
            lines = outcome.text.splitlines()
            good = outcome.kind == "refused" and not sources and len(lines) == 1
            self.attack.note(outcome.kind, f"{name}: {outcome.text[-300:]}", bad=not good)


@pytest.fixture
def predict(attack, asks, tmp_path, scratch):
    return Predict(attack, asks, tmp_path, scratch)


def scoring(answer):
    """A sound list of models, and scores from ``answer``."""
    return lambda h: h.send(200, json.dumps(MODELS)) if h.command == "GET" else answer(h)


def test_faulty_scores(attack, predict):
    for name in FAULTS if attack.hard else QUICK:
        with Loopback(scoring(FAULTS[name])) as server:
            predict.fails(name, server.url)


def test_faulty_models(attack, predict):
    for name in MODEL_FAULTS if attack.hard else ("a list as an id", "escape codes as an id"):
        with Loopback(MODEL_FAULTS[name]) as server:
            predict.fails(name, server.url)


def in_pieces(handler):
    """A sound answer without a length, some bytes at a time."""
    answer = json.dumps(good(handler.body)).encode()
    pieces = (answer[i : i + 20] for i in range(0, len(answer), 20))
    handler.raw(HEAD + b"\r\n", *pieces, pause_s=0.001)


def test_sound_servers(attack, predict):
    """What is unusual and right is used."""
    sound = {
        "sound": lambda h: h.send(200, json.dumps(good(h.body))),
        "another order": entries(lambda data: data[::-1]),
        "more fields": entries(lambda data: [d | {"more": [{}]} for d in data]),
        "without scoring": completions("-1.5"),
        "in pieces": in_pieces,
    }
    for name, answer in sound.items():
        if attack.hard or name in ("another order", "without scoring"):
            with Loopback(scoring(answer)) as server:
                outcome, sources = predict(name, server.url)
            right = outcome.kind == "done" and sources == {"blend": 40}
            attack.note("answered" if right else outcome.kind, outcome.text, bad=not right)


def test_what_was_answered_before_a_failure_is_kept(attack, predict, tmp_path):
    write_pairs(predict.pairs, 600)
    answered = []

    def dies(handler):
        answered.append(1)
        if len(answered) > 4:
            handler.send(500, "boom")
        else:
            handler.send(200, json.dumps(good(handler.body)))

    def slow(handler):
        handler.server.still(0.7)
        handler.send(200, json.dumps(good(handler.body)))

    for name, answer, options in (
        ("dies", dies, ()),
        ("slow for its job", slow, ("--server-job-timeout", 1.2)),
    ):
        with Loopback(scoring(answer)) as server:
            outcome, sources = predict(name, server.url, "--json", *options)
        told = json.loads(outcome.text.splitlines()[-1])
        kept = sources.get("blend", 0)
        right = 0 < kept < 600 and told["routed"] == kept and told["unanswered"] == 600 - kept
        attack.note("kept" if right else outcome.kind, f"{outcome.text} {sources}", bad=not right)


def test_addresses_and_keys(attack, predict):
    """What is no address of a server is refused, and no key in it is shown."""
    addresses = {
        "a password": "http://user:s3cret@127.0.0.1:9",
        "a query": "http://127.0.0.1:9/?key=s3cret",
        "a fragment": "http://127.0.0.1:9/#s3cret",
        "a file": "file:///etc/passwd",
        "a port that is none": "http://127.0.0.1:s3cret",
        "no scheme": "127.0.0.1:8000",
    }
    for name, url in addresses.items():
        if attack.hard or name == "a query":
            outcome, _ = predict(name, url)
            attack.note(outcome.kind, f"{name}: {outcome.text}", bad=outcome.kind != "refused")
    if attack.hard:
        predict.fails("nobody listens", "http://127.0.0.1:9")
        key = {"VLLM_API_KEY": "s3cret\nX-More: 1"}
        outcome, _ = predict("a key of two lines", "http://127.0.0.1:9", environment=key)
        attack.note(outcome.kind, outcome.text, bad=outcome.kind != "refused")


def test_a_redirection_takes_the_key_nowhere(attack, predict):
    with Loopback(lambda h: h.send(200, json.dumps(MODELS))) as other:
        for status in (301, 302, 307, 308) if attack.hard else (307,):
            to = content("", status, Location=f"{other.url}/v1/completions")
            with Loopback(scoring(to)) as server:
                predict.fails(f"{status} to another port", server.url)
        if other.seen:
            attack.note("seen elsewhere", other.seen, bad=True)


def test_proxies_see_no_key(attack, predict):
    with Loopback(content("no", 403)) as proxy:
        environment = {
            name: proxy.url
            for scheme in ("HTTP", "HTTPS", "ALL")
            for name in (f"{scheme}_PROXY", f"{scheme.lower()}_proxy")
        }
        sound = scoring(lambda h: h.send(200, json.dumps(good(h.body))))
        with Loopback(sound) as server:
            outcome, sources = predict("loopback", server.url, environment=environment)
        right = sources == {"blend": 40}
        attack.note("answered" if right else outcome.kind, outcome.text, bad=not right)
        if attack.hard:
            predict.fails("plain", "http://llm.invalid:8000", environment=environment)
        if proxy.seen:
            attack.note("sent to a proxy", proxy.seen, bad=True)
        predict.fails("a tunnel", "https://llm.invalid", environment=environment)
        tunnels = [head for head in proxy.seen if head.startswith("CONNECT llm.invalid:443")]
        right = 0 < len(tunnels) == len(proxy.seen) and SECRET not in "".join(proxy.seen)
        attack.note("tunnel" if right else "key to a proxy", proxy.seen, bad=not right)


def test_certificates(attack, predict, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", key, "-out", certificate, "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    sound = scoring(lambda h: h.send(200, json.dumps(good(h.body))))
    with Loopback(sound, (certificate, key)) as server:
        predict.fails("signed by itself", server.url)
        trusted = {"SSL_CERT_FILE": certificate}
        outcome, sources = predict("trusted", server.url, environment=trusted)
        right = sources == {"blend": 40}
        attack.note("answered" if right else outcome.kind, outcome.text, bad=not right)
        if attack.hard:
            none = {"SSL_CERT_FILE": str(tmp_path / "none.pem")}
            outcome, _ = predict("no such file", server.url, environment=none)
            attack.note(outcome.kind, outcome.text, bad=outcome.kind != "refused")
