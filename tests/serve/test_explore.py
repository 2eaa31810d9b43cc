"""The explorer's pages: what they say, who sees them, and that titles stay text."""

import html
import re
import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import httpx
import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from services import address_of, client_of, wait_for_llm

from corellarec.cascade.cascade import Cascade
from corellarec.serve.app import build_app
from corellarec.serve.explore import look
from corellarec.serve.keys import Key, make_key, read_keys
from corellarec.serve.sessions import Sessions

PAGES = ("/", "/user?id=17", "/candidates?id=17", "/why?user=17&item=7", "/decision", "/live",
         "/live/now", "/random?of=any+user")  # fmt: skip


class Tags(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def asked(make_service, run):
    """A service whose router asks about every row."""
    service = make_service(threshold=-1e9, budget={"share": 1.0, "burst": 100_000})
    with TestClient(
        build_app(service, [], run), "http://127.0.0.1", raise_server_exceptions=False
    ) as client:
        wait_for_llm(service)
        yield SimpleNamespace(service=service, client=client)


def page(client, path):
    found = client.get(path)
    assert found.status_code == 200, found.text
    assert found.headers["content-type"].startswith("text/html")
    return Tags(found.text)


@pytest.mark.parametrize("path", PAGES)
def test_pages_run_no_script_of_their_own_and_load_nothing_from_elsewhere(asked, path):
    found = asked.client.get(path)
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag, attributes in Tags(found.text).tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert "style" not in attributes
        for name in ("src", "href", "action", "hx-get", "hx-post"):
            assert attributes.get(name, "/").startswith(("/", "#"))
        if tag == "script":
            assert attributes["src"].startswith("/static/")


def test_a_user_has_a_history_and_candidates_with_the_crms_opinion(asked, run):
    cascade = Cascade.load(run, device="cpu")
    log = cascade.log
    number = log.users["id"].index_of("17")
    found = page(asked.client, "/user?id=17")
    rows = log.rows.filter(pl.col("user") == number)
    titles = log.items["title"].gather(rows["item"].to_numpy())
    for title in titles:
        assert title in found.text
    assert f"{rows.height} rows of history" in found.text
    best = cascade.recommend(["17"], k=20)
    ids = [a["href"] for tag, a in found.tags if tag == "a" and "/why" in a.get("href", "")]
    assert len(ids) == best.height


def test_each_row_of_a_history_has_the_crms_opinion_before_it(make_service, run):
    service = make_service()
    model = service.now.model
    history = service.histories.of(model, "17")
    found = look.lines(model, model.reader(), history)
    cascade = Cascade.load(run, device="cpu")
    rows = cascade.log.rows.filter(pl.col("user") == model.users["17"])
    pairs = pl.DataFrame(
        {
            "user": ["17"] * rows.height,
            "item": cascade.log.items["id"].gather(rows["item"].to_numpy()),
            "time": rows["time"],
        }
    )
    expected = cascade.predict(pairs)["p_crm"].to_numpy()
    p_crm = np.array([line.p_crm for line in found[::-1]])
    once = pairs["item"].is_unique().to_numpy()  # predict takes the last row of a repeated pair
    assert once.sum() > 10
    np.testing.assert_allclose(p_crm[once], expected[once], atol=1e-6)
    assert [line.liked for line in found[::-1]] == rows["label"].cast(pl.Boolean).to_list()


def test_the_llms_opinions_fill_in(asked):
    found = page(asked.client, "/candidates?id=17")
    meters = [a for tag, a in found.tags if tag == "meter" and "LLM" in a["aria-label"]]
    assert len(meters) == 20
    assert "both models" in found.text


def test_titles_are_found_by_words_and_sorted(asked):
    found = page(asked.client, "/candidates?id=17&words=film+é4+19")
    titles = re.findall(r"Film é\d+", found.text)
    assert titles
    assert all("é4" in title for title in titles)
    assert "No item to show" in page(asked.client, "/candidates?id=17&words=nosuch").text
    text = asked.client.get("/candidates?id=17&sort=value").text
    values = [float(x) for x in re.findall(r'class="number">([+-][\d.]+)<', text)]
    assert values == sorted(values, reverse=True)
    assert len(values) == 20


def test_what_if_rows_are_left_out_or_turned_round(asked):
    service = asked.service
    model = service.now.model
    whole = service.histories.of(model, "17")
    last = len(whole.history) - 1
    edited = look.changed(whole, [last], [0])
    assert len(edited.history) == last
    assert edited.history.label[0] == 1 - whole.history.label[0]
    assert edited.history.row[0] == -1
    assert (edited.history.row[1:] == whole.history.row[1:last]).all()
    assert (whole.history.label == service.histories.of(model, "17").history.label).all()
    text = page(asked.client, f"/user?id=17&drop={last}&flip=0").text
    assert "1 rows of the history left out, 1 turned round" in text
    filled = page(asked.client, f"/candidates?id=17&drop={last}&flip=0")
    assert "Without the changes the answers were" in filled.text
    plain = page(asked.client, "/candidates?id=17")
    assert plain.text != filled.text


def test_influences_are_those_of_each_row_left_out(make_service):
    service = make_service()
    model = service.now.model
    user = service.histories.of(model, "17")
    reader = model.reader()
    found = look.influences(model, reader, user, 7)
    assert len(found) == min(50, len(user.history))
    sizes = [abs(one.change) for one in found]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0
    one = found[0]
    without = look.changed(user, [one.line.place], [])
    before, after = look.opinions(model, reader, [user, without], np.array([7]))
    assert one.change == pytest.approx(float(after[0] - before[0]), abs=1e-6)


def test_why_shows_the_decision_and_what_the_llm_reads(asked):
    found = page(asked.client, "/why?user=17&item=7")
    assert "is expected to save" in found.text
    assert "so it is above it" in found.text
    log = asked.service.now.model.log
    user = log.users["id"].index_of("17")
    for item in log.items_of(user)[-3:]:
        assert log.items["title"][int(item)].rpartition(" (")[0] in found.text
    assert asked.client.get("/why?user=17&item=nosuch").status_code == 404


def test_the_llm_is_asked_anyway(asked):
    found = asked.client.post("/ask", data={"user": "17", "item": "7"})
    assert found.status_code == 200
    assert "The LLM says 0." in found.text
    score = {"user": "17", "candidates": ["7"]}
    p_llm = asked.client.post("/v1/score", json=score).json()["candidates"][0]["p_llm"]
    said = float(re.search(r"The LLM says ([\d.]+)", found.text).group(1))
    assert said == pytest.approx(p_llm, abs=6e-4)


def test_without_the_llm_its_opinion_is_absent(make_service):
    service = make_service()
    with client_of(service) as client:
        assert "The LLM is not loaded" in page(client, "/why?user=17&item=7").text
        assert (
            "No answer: the LLM is off" in client.post("/ask", data={"user": "1", "item": "7"}).text
        )
        text = page(client, "/candidates?id=17").text
        assert "the LLM is off" in text
        assert "metrics.json" in page(client, "/decision").text  # a cascade without a run


def test_a_budget_has_its_quality_and_its_cost(asked):
    found = page(asked.client, "/decision?budget=50&rows=2000000&price=0.5&tokens=100")
    assert "1,000,000" in found.text
    assert "50.00" in found.text
    assert "share = 0.50" in found.text
    images = [a["src"] for tag, a in found.tags if tag == "img"]
    assert len(images) == 3
    for image in images:
        figure = asked.client.get(image)
        assert figure.headers["content-type"] == "image/svg+xml"
        assert "<svg" in figure.text
    assert asked.client.get("/figure/nosuch").status_code == 404
    assert asked.client.get("/decision?budget=101").status_code == 422


def test_live_counts_what_was_answered(asked):
    before = page(asked.client, "/live/now").text
    assert "No requests yet" in before
    asked.client.post("/v1/score", json={"user": "1", "candidates": ["7", "8", "9"]})
    after = page(asked.client, "/live/now").text
    assert "rows answered 3" in after
    assert "/v1/score 200 1" in after


def test_a_random_user_is_of_the_segment(make_service):
    service = make_service()
    model = service.now.model
    rows = model.log.user_begin.diff()
    with client_of(service) as client:
        for _ in range(5):
            found = client.get("/random?of=long+history", follow_redirects=False)
            assert found.status_code == 303
            user = found.headers["location"].partition("id=")[2]
            assert rows[model.users[user]] >= rows.double().quantile(0.9) - 1
        assert client.get("/random?of=nosuch").status_code == 404


def test_people_enter_a_key_once(make_service, tmp_path):
    file = tmp_path / "keys.json"
    key = make_key(file, "person", ["explore"])
    other = make_key(file, "shop", ["score"])
    service = make_service()
    with client_of(service, read_keys(file)) as client:
        for path in PAGES:
            found = client.get(path, follow_redirects=False)
            assert (found.status_code, found.headers["location"]) == (303, "/login")
        sheet = client.get("/static/explore.css")
        assert sheet.status_code == 200
        assert set(re.findall(r"var\((--\w+)\)", sheet.text)) <= set(
            re.findall(r"(--\w+): #", sheet.text)
        )
        for wrong in (other, "clr_nosuch"):
            found = client.post("/login", data={"key": wrong})
            assert found.status_code == 403
            assert wrong not in found.text
        found = client.post("/login", data={"key": key}, follow_redirects=False)
        assert found.status_code == 303
        cookie = found.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert key not in cookie
        assert client.get("/user?id=1").status_code == 200
        body = {"user": "1", "candidates": ["7"]}
        assert client.post("/v1/score", json=body).status_code == 401  # a cookie is no key
        client.cookies.clear()
        client.cookies.set("corellarec_session", "guessed")
        assert client.get("/", follow_redirects=False).status_code == 303


def test_sessions_end(tmp_path):
    key = make_key(tmp_path / "keys.json", "person", ["explore"])
    now = [0.0]
    sessions = Sessions(read_keys(tmp_path / "keys.json"), lambda: now[0])
    cookie = f"a=b; corellarec_session={sessions.begin(key)}"
    assert sessions.find(cookie).name == "person"
    now[0] = 12 * 3600 + 1
    assert sessions.find(cookie) is None
    assert sessions.find("corellarec_session=") is None
    assert sessions.find("\x00=;") is None


HOSTILE = st.one_of(
    st.text(max_size=200),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "'; drop table events; --",
            "{{ 7 * 7 }}{% for x in y %}",
            "</pre><svg onload=alert(1)>",
            "\u202egnp.exe",
            "javascript:alert(1)",
            "x" * 10_000,
        ]
    ),
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=HOSTILE)
def test_what_others_wrote_is_shown_as_text(asked, text):
    log = asked.service.now.model.log
    before, log.titles = log.titles, [text] * len(log.titles)
    try:
        for path, values in {
            "/user": {"id": text[:256] or "1", "words": text[:200]},
            "/candidates": {"id": "17"},
            "/why": {"user": text[:256] or "1", "item": "7"},
        }.items():
            if "\0" in str(values):
                continue
            found = asked.client.get(path, params=values)
            assert found.status_code == 200, found.text
            names = {tag for tag, _ in Tags(found.text).tags}
            assert not names & {"img", "svg", "iframe", "object", "style", "base"}
            assert [t for t, _ in Tags(found.text).tags].count("script") <= 1
            for _, attributes in Tags(found.text).tags:
                assert not [name for name in attributes if name.startswith("on")]
            if text.strip() and text.isprintable():
                assert text.strip() in html.unescape(found.text)
    finally:
        log.titles = before


def test_a_strangers_page_is_that_of_a_new_user(asked):
    found = page(asked.client, "/user?id=never+seen")
    assert "does not know this user" in found.text
    assert "No history" in found.text


def test_a_word_opens_one_session(make_service, tmp_path):
    sessions = Sessions([Key("nobody", "0" * 64, ())])
    service = make_service()
    app = build_app(service, sessions.keys, None, sessions)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        path = f"/login?word={sessions.word()}"
        assert client.get("/login?word=guessed").status_code == 200  # the form again
        assert client.get("/", follow_redirects=False).status_code == 303
        assert client.get(path, follow_redirects=False).headers["location"] == "/"
        assert client.get("/user?id=1").status_code == 200
        client.cookies.clear()
        assert client.get(path, follow_redirects=False).status_code == 200
        assert client.get("/", follow_redirects=False).status_code == 303


def test_explore_opens_a_run(run, tmp_path):
    log = tmp_path / "log.txt"
    command = [sys.executable, "-m", "corellarec", "explore", str(run), "--no-browser"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stderr=output)
    try:
        address_of(process, log)
        line = next(x for x in log.read_text().splitlines() if x.startswith("open "))
        with httpx.Client(follow_redirects=True) as client:
            assert "Who should answer?" in client.get(line.split()[1]).text
            assert "rows of history" in client.get(address_of(process, log) + "/user?id=1").text
    finally:
        process.terminate()
        assert process.wait(30) == 143
