"""The commands of the service, up to where it listens."""

import json

import pytest

from command_line import call
from corellarec.serve import server
from corellarec.serve.keys import find_key, read_keys


@pytest.fixture
def served(monkeypatch):
    """What would be served."""
    found = []

    def run(service, keys, *more):
        found.append((service, keys, *more))
        service.close()

    monkeypatch.setattr(server, "run", run)
    return found


def test_serve_reads_its_settings_and_its_keys(served, run, monkeypatch, capsys, tmp_path):
    config, store, keys = (tmp_path / name for name in ("serve.toml", "s.sqlite", "keys.json"))
    config.write_text(f'store = "{store}"\nkeys = "{keys}"\n[llm]\nplace = "off"\n')
    code, key, err = call(
        monkeypatch, capsys, "serve-key", run, "--name", "shop", "--scope", "score",
        "--config", config,
    )  # fmt: skip
    assert code == 0, err
    assert find_key(read_keys(keys), key.strip()).scopes == ("score",)
    code, _, err = call(monkeypatch, capsys, "serve", run, "--config", config, "--port", 0)
    assert code == 0, err
    ((service, given, directory),) = served
    assert [one.name for one in given] == ["shop"]
    assert directory == run
    assert service.config.http.port == 0
    assert service.now.llm is None
    assert store.exists()
    assert "the router sends" in err


def test_serve_with_a_server_in_the_llms_place(served, run, monkeypatch, capsys, tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text(f'store = "{tmp_path / "s.sqlite"}"\n')
    arguments = ["serve", run, "--config", config, "--server", "http://127.0.0.1:9"]
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 0, err
    llm = served[0][0].now.llm
    assert "127.0.0.1:9" in llm.error  # it is not there, and the service goes on
    assert llm.ready


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "serve-key"),
        (["--llm-place", "moon"], "llm.place"),
        (["--llm-place", "server"], "llm.server"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(served, run, monkeypatch, capsys, options,
                                                   message):  # fmt: skip
    code, _, err = call(monkeypatch, capsys, "serve", run, *options)
    assert code == 2
    assert message in err
    assert served == []


def test_explore_serves_one_person(served, run, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    code, _, err = call(monkeypatch, capsys, "explore", run)
    assert code == 0, err
    _, keys, directory, sessions, started = served[0]
    assert keys[0].scopes == ()
    assert directory == run
    started("http://127.0.0.1:1")
    word = opened[0].partition("word=")[2]
    assert sessions.begin_once(word)


def test_estimate_of_too_few_decisions(monkeypatch, capsys, tmp_path):
    (tmp_path / "about.json").write_text(json.dumps({"store": "", "explored_share": 0.01}))
    code, _, err = call(monkeypatch, capsys, "estimate", tmp_path)
    assert code == 2
    assert "--store" in err
    code, _, err = call(monkeypatch, capsys, "estimate", tmp_path, "--store", tmp_path / "s.sqlite")
    assert code == 2
    assert "no decisions yet" in err
