"""The explorer's pages: what they say, who sees them, and that titles stay text."""

import html
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from html.parser import HTMLParser
from types import SimpleNamespace

import httpx
import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from services import address_of, asking, client_of, wait_for_llm

from corellarec.cascade.cascade import Cascade
from corellarec.llm.load import load_tokenizer
from corellarec.serve.app import build_app
from corellarec.serve.crm import score
from corellarec.serve.explore import look
from corellarec.serve.explore.edits import Page, changed, tables
from corellarec.serve.explore.words import LOCALE, Names, locale_of, moment, number, signed
from corellarec.serve.keys import Key, make_key, read_keys
from corellarec.serve.sessions import Sessions

WHAT_IF = "&drop=0&flip=1&liked=A+film+of+1999&new=Another+one&renamed=7&title=Seven+again"
PAGES = ("/", "/user?id=17", "/user?id=17" + WHAT_IF, "/candidates?id=17",
         "/candidates?id=17" + WHAT_IF, "/why?id=17&item=7", "/why?id=17&item=7" + WHAT_IF,
         "/decision", "/decision/at?budget=30", "/live", "/live/now",
         "/random?of=any+user")  # fmt: skip


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

    @property
    def joined(self):
        """The text without spaces between tags."""
        return "".join(self.words)


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
        for name in ("src", "href", "action", "hx-get", "hx-post", "xlink:href"):
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
    bars = [a for tag, a in found.tags if tag == "svg" and "the LLM: 0." in a["aria-label"]]
    assert len(bars) == 20
    assert all("validation rows nearest to it" in a["aria-label"] for a in bars)
    assert "both models" in found.text


def test_titles_are_found_by_words_and_sorted(asked):
    found = page(asked.client, "/candidates?id=17&words=film+é4+19")
    titles = re.findall(r"Film é\d+", found.text)
    assert titles
    assert all("é4" in title for title in titles)
    assert "No item to show" in page(asked.client, "/candidates?id=17&words=nosuch").text
    text = asked.client.get("/candidates?id=17&sort=value").text
    values = [float(x) for x in re.findall(r'data-value="([-+.e\d]+)"', text)]
    assert values == sorted(values, reverse=True)
    assert len(values) == 20


def test_what_if_rows_are_left_out_or_turned_round(asked):
    service = asked.service
    model = service.now.model
    whole = service.histories.of(model, "17")
    last = len(whole.history) - 1
    edited = changed(model, whole, Page("17", "17", [last], [0]), {})
    assert len(edited.history) == last
    assert edited.history.label[0] == 1 - whole.history.label[0]
    assert edited.history.row[0] == -1
    assert (edited.history.row[1:] == whole.history.row[1:last]).all()
    assert (whole.history.label == service.histories.of(model, "17").history.label).all()
    text = page(asked.client, f"/user?id=17&drop={last}&flip=0").text
    assert "1 left out of the history, 1 turned round" in text
    filled = page(asked.client, f"/candidates?id=17&drop={last}&flip=0")
    assert filled.text.count(" before") == 60  # answer, CRM and LLM
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
    without = changed(model, user, Page("17", "17", [one.line.place]), {})
    before, after = look.opinions(model, reader, [user, without], np.array([7]))
    assert one.change == pytest.approx(float(after[0] - before[0]), abs=1e-6)


def test_why_shows_the_decision_and_what_the_llm_reads(asked):
    found = page(asked.client, "/why?id=17&item=7")
    assert "is expected to save" in found.text
    assert "so it is above it" in found.text
    assert "validation rows whose answers are nearest" in found.text
    log = asked.service.now.model.log
    user = log.users["id"].index_of("17")
    for item in log.items_of(user)[-3:]:
        assert log.items["title"][int(item)].rpartition(" (")[0] in found.joined
    assert asked.client.get("/why?id=17&item=nosuch").status_code == 404


def test_the_llm_is_asked_anyway(asked):
    found = asked.client.post("/ask?id=17&item=7")
    assert found.status_code == 200
    assert "The LLM says 0." in found.text
    body = {"user": "17", "candidates": ["7"]}
    p_llm = asked.client.post("/v1/score", json=body).json()["candidates"][0]["p_llm"]
    said = float(re.search(r"The LLM says ([\d.]+)", found.text).group(1))
    assert said == pytest.approx(p_llm, abs=6e-4)


def test_without_the_llm_its_opinion_is_absent(make_service):
    service = make_service()
    with client_of(service) as client:
        assert "The LLM is not loaded" in page(client, "/why?id=17&item=7").text
        assert "the LLM is off" in client.post("/ask?id=1&item=7").text
        assert "the LLM is off" in client.post("/history?id=17").text
        text = page(client, "/candidates?id=17").text
        assert "the LLM is off" in text
        assert "metrics.json" in page(client, "/decision").text  # a cascade without a run


def test_a_budget_has_its_quality_and_its_cost(asked):
    found = page(asked.client, "/decision?budget=50&rows=2000000&price=0.5&tokens=100")
    assert "1,000,000" in found.text
    assert "50.00" in found.text
    assert "share = 0.50" in found.text
    filled = page(asked.client, "/decision/at?budget=50&rows=2000000&price=0.5&tokens=100")
    assert filled.text in found.text
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
    assert "Known once 20,000 rows" in after


def test_a_random_user_is_of_the_segment(make_service):
    service = make_service()
    model = service.now.model
    rows = model.log.user_begin.diff()
    with client_of(service) as client:
        for _ in range(5):
            found = client.get("/random?of=long+history", follow_redirects=False)
            assert found.status_code == 303
            user = re.search(r"id=(\w+)", found.headers["location"]).group(1)
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
            "/candidates": {"id": "17", "new": text[:240], "renamed": "7", "title": text[:240]},
            "/why": {"id": text[:256] or "1", "item": "7", "liked": text[:240]},
        }.items():
            if "\0" in str(values):
                continue
            found = asked.client.get(path, params=values)
            assert found.status_code == 200, found.text
            names = {tag for tag, _ in Tags(found.text).tags}
            assert not names & {"img", "iframe", "object", "style", "base"}
            drawn = [a for tag, a in Tags(found.text).tags if tag == "svg"]
            assert all(a["class"].partition(" ")[0] in ("bar", "chart") for a in drawn)
            assert [t for t, _ in Tags(found.text).tags].count("script") <= 1
            for _, attributes in Tags(found.text).tags:
                assert not [name for name in attributes if name.startswith("on")]
            if text.strip() and text.isprintable():
                assert text.strip()[:200] in html.unescape(found.text)
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


@contextmanager
def exploring(folder, *options):
    """``corellarec explore``; yields a client that has entered, and the address."""
    log = folder / "log.txt"
    command = [sys.executable, "-m", "corellarec", "explore", *options, "--no-browser"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stderr=output)
    try:
        address = address_of(process, log)
        line = next(x for x in log.read_text().splitlines() if x.startswith("open "))
        with httpx.Client(follow_redirects=True) as client:
            assert "Who should answer?" in client.get(line.split()[1]).text
            yield client, address
    finally:
        process.terminate()
        assert process.wait(30) == 143


def test_explore_opens_a_run(run, tmp_path):
    with exploring(tmp_path, str(run)) as (client, address):
        assert "rows of history" in client.get(address + "/user?id=1").text


# What if: titles.


def p_of(text, title, who):
    """A probability of a candidate in a page."""
    row = next(part for part in text.split("<tr>") if f">{title}</th>" in part)
    return float(re.search(rf'aria-label="{who}: ([.\d]+)', row).group(1))


def test_a_title_that_no_log_has_is_a_candidate(asked):
    before = len(asked.service.now.model.items)
    title = "A film nobody made"
    found = asked.client.get("/candidates", params={"id": "17", "new": title}).text
    text = page(asked.client, "/user?id=17&new=A+film+nobody+made").text
    assert "1 added to the candidates" in text
    assert title in page(asked.client, f"/why?id=17&new={title}&item=new: {title}").joined
    assert len(asked.service.now.model.items) == before
    body = {"user": "17", "candidates": [{"id": "n1", "title": title}]}
    row = asked.client.post("/v1/score", json=body).json()["candidates"][0]
    assert row["p_llm"] == pytest.approx(p_of(found, title, "the LLM"), abs=6e-4)
    assert row["p_crm"] == pytest.approx(p_of(found, title, "the CRM"), abs=6e-4)


def test_a_title_is_added_to_the_history(asked):
    model = asked.service.now.model
    whole = asked.service.histories.of(model, "17")
    wanted = Page("17", "17", liked=["Never Filmed (1999)"], disliked=[model.log.titles[3].upper()])
    edited, numbers = tables(model, wanted)
    assert numbers == {"Never Filmed (1999)": len(model.items), wanted.disliked[0]: 3}
    history = changed(edited, whole, wanted, numbers).history
    assert history.item[-2:].tolist() == [len(model.items), 3]
    assert history.label[-2:].tolist() == [1, 0]
    assert history.row[-2:].tolist() == [-1, -1]
    assert (np.diff(history.time[-3:]) > 0).all()
    text = page(asked.client, "/user?id=17&liked=Never+Filmed+(1999)").text
    assert "1 added to the history" in text
    read = page(asked.client, "/why?id=17&item=7&liked=Never+Filmed+(1999)").joined
    assert "Never Filmed" in read


def test_another_title_moves_the_llm_and_not_a_crm_that_reads_none(asked):
    model = asked.service.now.model
    plain = asked.client.get("/candidates?id=17&words=7&renamed=7&title=Another+7").text
    before = asked.client.post("/ask?id=17&item=7").text
    after = asked.client.post("/ask?id=17&item=7&renamed=7&title=The+Quiet+Accordion").text
    said, then = ([float(x) for x in re.findall(r"(0\.\d+)", text)][:2] for text in (before, after))
    assert said[0] != then[0]
    assert said[1] == then[1]
    assert "Another 7" in plain
    assert asked.client.get("/user?id=17&renamed=7").status_code == 422
    assert "The Quiet Accordion" not in model.log.titles


# What the models read.


def test_the_llms_opinion_of_each_row_of_a_history_is_of_the_moment_before(asked, run):
    found = page(asked.client, "/user?id=17")
    assert "LLM before" not in found.text
    filled = asked.client.post("/history?id=17").text
    shown = [float(x) for x in re.findall(r'class="number[ a-z]*">(0\.\d+)', filled)]
    p_llm = np.array(shown[1::2])[::-1]
    cascade = asking_everything(run)
    log = cascade.log
    rows = log.rows.filter(pl.col("user") == log.users["id"].index_of("17"))
    items = log.items["id"].gather(rows["item"].to_numpy())
    pairs = pl.DataFrame({"user": ["17"] * rows.height, "item": items, "time": rows["time"]})
    expected = cascade.predict(pairs)["p_llm"].to_numpy()
    once = pairs["item"].is_unique().to_numpy()
    assert len(p_llm) == rows.height
    np.testing.assert_allclose(p_llm[once], expected[once], atol=6e-4)


def asking_everything(run):
    return asking(Cascade.load(run, device="cpu"))


def test_features_are_ranked_by_what_the_crm_says_without_each(make_service):
    service = make_service()
    model = service.now.model
    user = service.histories.of(model, "17")
    codes = model.log.item_codes.clone()
    found = look.features(model, user, 7)
    assert (model.log.item_codes == codes).all()
    sizes = [abs(one.change) for one in found]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0
    layout = model.log.features
    named = [*layout.item, *layout.item_values, *layout.user, *layout.user_values]
    assert len(found) == len(named) + 1
    (history,) = (one for one in found if one.side == "history")
    nothing = changed(model, user, Page("17", "17", range(len(user.history))), {})
    with_it, without = look.opinions(model, model.reader(), [user, nothing], np.array([7]))
    assert history.change == pytest.approx(float(without[0] - with_it[0]), abs=1e-6)


@pytest.fixture(scope="module")
def tokenizer(tiny_llm):
    return load_tokenizer(str(tiny_llm))


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_the_pieces_of_a_text_are_the_text(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert "".join(look._pieces(tokenizer.decode, ids)) == tokenizer.decode(ids)


# Words.


def test_numbers_and_dates_are_the_readers(asked):
    found = asked.client.get(
        "/decision?budget=10", headers={"Accept-Language": "de-DE,de;q=0.9"}
    ).text
    assert "1.000.000" in found or "100.000" in found
    assert "share = 0.10" in found  # what is copied stays as it is
    token = LOCALE.set(locale_of("xx-nosuch, fr;q=0.5"))
    try:
        assert number(0.5, 2) == "0,50"
        assert signed(-0.25, 2) == "-0,25"
        assert moment(883_612_800_000_000) == "1 janv. 1998"
    finally:
        LOCALE.reset(token)
    for accepted in ("", "*", ";;,,", "\u00e9", "a" * 10_000, "en-US-POSIX-x-y"):
        assert locale_of(accepted).language == "en"


def test_pseudonyms_stand_for_users_in_pages_and_addresses(make_service):
    service = make_service(explorer={"pseudonyms": True})
    with client_of(service) as client:
        entered = client.get("/user?id=17", follow_redirects=False)
        assert entered.status_code == 303
        address = entered.headers["location"]
        name = re.search(r"id=(u-[0-9a-f]{10})&", address).group(1)
        text = client.get(address).text
        assert f"User {name}" in text
        assert "id=17" not in text
        assert client.get("/random?of=any+user").url.params["id"].startswith("u-")
        stranger = client.get("/user?id=a+stranger").text
        assert "a stranger" not in stranger
        assert "does not know this user" in stranger
    names = Names(service.now.model.users, "another key")
    assert names.shown("17") != name
    assert names.user(names.shown("17")) == "17"
    assert names.user(names.shown("came later")) == "came later"


# Budgets.


def test_people_ask_within_a_budget_of_their_own(make_service, run):
    service = make_service(
        threshold=-1e9, budget={"share": 0.0, "burst": 1000}, explorer={"rows_per_min": 25}
    )
    with TestClient(build_app(service, [], run), "http://127.0.0.1") as client:
        wait_for_llm(service)
        time.sleep(1.2)  # the service's credit is on disk
        level = service.bucket.level
        assert page(client, "/candidates?id=17").text.count("both models") == 20
        text = page(client, "/candidates?id=18").text
        assert text.count("both models") == 5
        assert text.count("asked enough for this minute") == 15
        assert "asked enough" in client.post("/history?id=17").text
        assert service.bucket.level == level
        assert 'corellarec_llm_calls_total{outcome="asked"}' not in client.get("/metrics").text


def test_the_budget_is_set_by_who_may(make_service, run, tmp_path):
    file = tmp_path / "keys.json"
    person = make_key(file, "person", ["explore"])
    boss = make_key(file, "boss", ["explore", "admin"])
    service = make_service()
    app = build_app(service, read_keys(file), run)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        client.post("/login", data={"key": person})
        assert "Use this budget now" not in client.get("/decision?budget=7").text
        assert client.post("/budget?budget=7").status_code == 403
        client.post("/login", data={"key": boss})
        assert "Use this budget now" in client.get("/decision?budget=7").text
        elsewhere = {"Sec-Fetch-Site": "cross-site"}
        assert client.post("/budget?budget=7", headers=elsewhere).status_code == 403
        assert service.bucket.share != 0.07
        assert "7%" in client.post("/budget?budget=7").text
        assert service.bucket.share == 0.07


def test_a_budget_in_rows_a_second_is_not_a_share(make_service):
    service = make_service(budget={"rows_per_s": 5.0})
    with client_of(service) as client:
        assert client.post("/budget?budget=7").status_code == 422


# Two cascades.


def test_two_cascades_are_compared(make_service, other, load, run):
    service = make_service(load=load)
    with client_of(service) as client:
        assert "Compare" not in client.get("/user?id=17").text
        assert client.get("/compare?id=17&beside=shadow").status_code == 404
        client.post("/v1/admin/models", json={"path": str(other), "mode": "shadow"})
        assert "beside=shadow" in client.get("/user?id=17").text
        found = client.get("/compare?id=17&beside=shadow").text
    bars = [float(x) for x in re.findall(r'aria-label="the answer: ([.\d]+)', found)]
    live, shadow = np.array(bars).reshape(-1, 2).T
    assert len(live) >= 20
    assert (shadow > live).all()  # the other's CRM is shifted up
    apart = [float(x) for x in re.findall(r'class="number">([+-][.\d]+)', found)]
    assert apart == sorted(apart, key=lambda x: -abs(x))


def test_a_run_is_explored_beside_another(run, other, tmp_path):
    with exploring(tmp_path, str(run), "--beside", str(other)) as (client, address):
        assert "beside=shadow" in client.get(address + "/user?id=17").text


# The log of decisions.


def test_the_gain_so_far_is_estimated(make_service, tmp_path):
    service = make_service(
        threshold=-1e9, budget={"share": 1.0, "burst": 10_000},
        decisions={"directory": str(tmp_path / "log"), "explored_share": 0.4},
    )  # fmt: skip
    with client_of(service) as client:
        wait_for_llm(service)
        assert "no decisions yet" in client.post("/live/gain").text
        for user in range(1, 31):
            body = {"user": str(user), "candidates": ["7", "8", "9", "10", "11"]}
            client.post("/v1/score", json=body)
            events = [
                {"event_id": f"{user} {item}", "user": str(user), "item": item, "label": user % 2}
                for item in body["candidates"]
            ]
            assert client.post("/v1/events", json={"events": events}).status_code == 200
        found = client.post("/live/gain").text
        assert "doubly robust" in found
        assert "150 labelled rows of 30 users" in found


def test_without_a_log_of_decisions_there_is_no_estimate(make_service):
    with client_of(make_service()) as client:
        assert "decisions.directory" in client.get("/live").text
        assert client.post("/live/gain").status_code == 404


def test_what_is_wrong_with_a_page_is_told_on_a_page(asked):
    browser = {"Accept": "text/html,*/*"}
    for path, status in {
        "/decision?rows=": 422,
        "/user?id=": 422,
        "/why?id=17&item=nosuch": 404,
        "/user?id=17&new=" + "x" * 300: 422,
    }.items():
        found = asked.client.get(path, headers=browser)
        assert found.status_code == status
        assert "This page cannot be shown" in found.text
        assert 'aria-label="Pages"' in found.text
        assert asked.client.get(path).headers["content-type"] == "application/problem+json"


def test_the_highest_values_are_of_all_items(asked):
    model = asked.service.now.model
    found = asked.client.get("/user?id=17&sort=value").text
    values = [float(x) for x in re.findall(r'data-value="([-+.e\d]+)"', found)]
    user = asked.service.histories.of(model, "17")
    unseen = np.setdiff1d(np.arange(len(model.items)), user.seen)
    (every,) = score(model, model.reader(), [user], [unseen])
    np.testing.assert_allclose(values, np.sort(every.value)[::-1][:20], atol=1e-6)
    way_in = asked.client.get("/random?of=any+user&sort=value", follow_redirects=False)
    assert way_in.headers["location"].endswith("sort=value")


def test_another_title_replaces_the_one_before(asked):
    text = page(asked.client, "/user?id=17&renamed=7&title=A&renamed=7&title=B").text
    assert "1 with another title" in text
    assert "1 with another title" not in page(asked.client, "/user?id=17&renamed=7&title=+").text
    assert page(asked.client, "/user?id=++17+").text.startswith("User 17")
