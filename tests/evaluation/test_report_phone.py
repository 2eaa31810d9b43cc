"""The report on a phone, in a real browser."""

import shutil
from itertools import pairwise

import pytest

from corellarec.evaluation.evaluate import evaluate_scores
from corellarec.evaluation.page import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
sync_api = pytest.importorskip("playwright.sync_api")
BOXES = """boxes => boxes.map(box => {
    const place = box.getBoundingClientRect();
    return [place.left, place.right, place.top, place.bottom];
})"""


def test_charts_are_stacked_and_tables_say_that_they_scroll(make_scores, make_router):
    result = evaluate_scores(make_scores(), make_router(), bootstrap=20, groups=3, seed=0)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_content(render(result))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        charts = page.locator(".figures svg").evaluate_all(BOXES)
        wide = page.locator(".scroll").evaluate_all(
            "all => all.filter(one => one.scrollWidth > one.clientWidth)"
            ".map(one => getComputedStyle(one).backgroundImage)"
        )
        browser.close()
    assert len(charts) == 5
    for left, right, _, _ in charts:
        assert 0 <= left < right <= 390
    for (_, _, _, bottom), (_, _, top, _) in pairwise(charts):
        assert top >= bottom
    assert wide
    assert all(image.count("gradient") == 4 for image in wide)  # shadows, and covers at the ends
