"""The documentation's site builds without a warning and needs no network to read."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer

from corellarec.cli.main import app
from corellarec.config import Config
from corellarec.config.explain import known_keys

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Loads(HTMLParser):
    """What a page loads when it is opened, by links in its tags."""

    def __init__(self):
        super().__init__()
        self.addresses, self.text = [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(values.get("href") or "")
        elif tag != "a":
            self.addresses += [values[name] for name in ("src", "srcset", "data") if name in values]

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    loads = Loads()
    loads.feed(page.read_text("utf-8"))
    return loads


def is_external(address):
    return address.startswith(("http:", "https:", "//"))


def test_pages_load_nothing_from_the_network(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    loaded = [address for page in pages for address in read(page).addresses]
    assert any("stylesheets" in address for address in loaded)
    assert [address for address in loaded if is_external(address)] == []


def test_style_sheets_load_nothing_from_the_network(site):
    sheets = sorted(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        text = sheet.read_text("utf-8").replace('"', "").replace("'", "")
        assert "url(http" not in text
        assert "url(//" not in text
        assert "@import" not in text


def test_search_works_from_files(site):
    assert (site / "search" / "search_index.js").read_text("utf-8").startswith("var __index = {")
    assert "javascripts/iframe-worker.js" in read(site / "index.html").addresses


def test_the_reference_has_every_setting_and_command(site):
    settings = set(read(site / "reference" / "settings.html").text)
    assert set(known_keys(Config)) - settings == set()
    commands = set(read(site / "reference" / "commands.html").text)
    names = set()
    group = typer.main.get_group(app)
    for word, command in group.commands.items():
        names |= {f"corellarec {word} {inner}" for inner in getattr(command, "commands", ())} or {
            f"corellarec {word}"
        }
    assert names - commands == set()
