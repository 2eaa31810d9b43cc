"""The explorer in a real browser: every task by clicking, no error, no other host, accessible."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from services import address_of, asking

from corellarec.cascade.cascade import Cascade

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
sync_api = pytest.importorskip("playwright.sync_api")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright")
WIDTHS = (360, 1280, 2560)
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def address(run, tmp_path_factory):
    """A service as a program, whose router asks about every row; it has the run's figures."""
    folder = tmp_path_factory.mktemp("explorer")
    served = folder / "run"
    shutil.copytree(run, served)
    asking(Cascade.load(run, device="cpu")).save(served / "cascade")
    config, log = folder / "serve.toml", folder / "log.txt"
    config.write_text("[budget]\nshare = 1.0\nburst = 100000\n[http]\nlog_requests = false\n")
    command = [sys.executable, "-m", "corellarec", "serve", str(served), "--config", str(config)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--port", "0"], stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    yield address_of(process, log)
    process.send_signal(signal.SIGTERM)
    process.wait()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture
def scheme():
    return "light"


@pytest.fixture
def page(browser, address, scheme):
    """A page that fails its test on an error of the console and on a request to another host."""
    context = browser.new_context(base_url=address, color_scheme=scheme)
    opened, faults = context.new_page(), []
    opened.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on(
        "request",
        lambda sent: None if sent.url.startswith((address, "data:")) else faults.append(sent.url),
    )
    yield opened
    context.close()
    assert faults == []


def settled(page):
    """Wait until the language model's opinions are there."""
    page.wait_for_function("() => !document.body.innerText.includes('The LLM is being asked')")


def test_from_the_start_to_why_one_candidate_was_asked_about(page):
    page.goto("/")
    page.get_by_label("Id of a user").fill("17")
    page.get_by_role("button", name="Show").click()
    assert page.get_by_role("heading", level=1).inner_text() == "User 17"
    settled(page)
    assert "both models" in page.get_by_role("region", name="Candidates").inner_text()
    page.get_by_role("link", name="why").first.click()
    assert "is expected to save" in page.locator("main").inner_text()
    assert "->" in page.locator("pre").inner_text()
    page.get_by_role("button", name="Ask the LLM anyway").click()
    page.get_by_text("The LLM says").wait_for()


def test_a_row_is_left_out_and_another_turned_round(page):
    page.goto("/user?id=17")
    settled(page)
    before = page.get_by_role("region", name="Candidates").inner_text()
    page.get_by_role("link", name="leave out").first.click()
    assert "1 left out of the history" in page.locator(".notice").inner_text()
    page.get_by_role("link", name="turn round").nth(2).click()
    assert "1 turned round" in page.locator(".notice").inner_text()
    settled(page)
    assert " before" in page.get_by_role("region", name="Candidates").inner_text()
    assert page.get_by_role("region", name="Candidates").inner_text() != before
    page.get_by_role("link", name="Back to what happened").click()
    settled(page)
    assert page.get_by_role("region", name="Candidates").inner_text() == before


def test_titles_are_searched_and_sorted(page):
    page.goto("/user?id=17")
    page.get_by_label("Words of titles").fill("film 4")
    page.get_by_label("Order", exact=True).select_option("disagreement")
    page.locator("section form button").first.click()
    settled(page)
    rows = page.get_by_role("region", name="Candidates").locator("tbody th")
    assert rows.count() >= 5
    assert all("4" in text for text in rows.all_inner_texts())


def test_a_random_user_is_one_click_away(page):
    page.goto("/")
    page.get_by_role("link", name="long history").click()
    assert page.get_by_role("heading", level=1).inner_text().startswith("User ")
    settled(page)


def test_titles_that_no_log_has_are_added(page):
    page.goto("/user?id=17")
    page.get_by_label("A title, of the log or of your own").fill("Nobody's Film (1999)")
    page.get_by_role("button", name="Add as liked").click()
    assert "1 added to the history" in page.locator(".notice").inner_text()
    page.get_by_label("A title that no log has").fill("The Other Film (2001)")
    page.get_by_role("button", name="Add as candidate").click()
    assert "1 added to the candidates" in page.locator(".notice").inner_text()
    settled(page)
    row = page.get_by_role("row", name="The Other Film (2001)")
    assert "both models" in row.inner_text()
    row.get_by_role("link").click()
    page.get_by_label("Another title for the item").fill("The Same Film (2001)")
    page.get_by_role("button", name="What if").click()
    assert page.get_by_role("heading", level=1).inner_text() == "The Same Film (2001)"
    assert "Nobody's Film" in page.locator("pre").inner_text()


def test_the_llm_is_asked_about_everything_on_a_page(page):
    page.goto("/user?id=17")
    settled(page)
    page.get_by_role("button", name="Ask the LLM about all of these").click()
    page.get_by_text("both models: you asked").first.wait_for()
    page.get_by_role("button", name="Ask the LLM about these, too").click()
    page.get_by_role("columnheader", name="LLM before").wait_for()


def test_two_cascades_are_seen_side_by_side(page, run):
    loaded = page.request.post(
        "/v1/admin/models", data={"path": str(run), "mode": "shadow"}, timeout=60_000
    )
    assert loaded.ok
    page.goto("/user?id=17")
    page.get_by_role("link", name="Compare with the cascade beside").click()
    assert page.get_by_role("region", name="Comparison").locator("tbody tr").count() >= 20
    found = axe_api.Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in SERIOUS] == []
    assert page.request.post("/v1/admin/rollback").ok


def test_the_budget_moves_with_the_slider(page):
    page.goto("/decision?budget=10")
    slider = page.get_by_label("Budget, per cent of the rows")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.get_by_text("share = 0.13").wait_for()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Use this budget now").click()
    page.get_by_text("From now on the budget is 13%").wait_for()


def test_a_budget_is_chosen(page):
    page.goto("/decision")
    page.locator("#budget").fill("35")
    page.get_by_role("button", name="Show").click()
    assert "share = 0.35" in page.locator("main").inner_text()
    loaded = "() => [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    page.wait_for_function(loaded)


def test_live_figures_follow_requests(page, address):
    page.goto("/live")
    page.get_by_text("rows answered").wait_for()
    body = {"user": "1", "candidates": ["7", "8"], "deadline_ms": 20_000}
    sent = page.request.post("/v1/score", data=body)
    assert sent.ok
    page.get_by_role("cell", name="/v1/score").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "path", ["/", "/login", "/user?id=17", "/why?id=17&item=7", "/decision", "/live"]
)
def test_pages_are_accessible_and_fit(page, path, scheme):
    page.goto(path)
    settled(page)
    if path == "/live":
        page.get_by_text("rows answered").wait_for()
    found = axe_api.Axe().run(page).response["violations"]
    serious = {one["id"]: one["nodes"][0]["html"] for one in found if one["impact"] in SERIOUS}
    assert serious == {}
    folder = os.environ.get("CORELLAREC_SCREENSHOTS")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{path} is {wide} px wide at {width} px"
        if folder:
            name = path.strip("/").partition("?")[0] or "home"
            page.screenshot(path=Path(folder) / f"{name}-{width}-{scheme}.png")


def test_the_keyboard_reaches_the_content_first(page):
    page.goto("/user?id=17")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
