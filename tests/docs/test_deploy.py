"""The files in ``deploy/`` and the guides on serving name what there is."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from prometheus_client.parser import text_string_to_metric_families

from corellarec.cli.main import app
from corellarec.config import Section
from corellarec.config.explain import known_keys
from corellarec.serve.metrics import Metrics
from corellarec.serve.schemas import Reason
from corellarec.serve.settings import ServeConfig, load_serve_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
GUIDE = (ROOT / "docs" / "how-to" / "serve.md").read_text("utf-8")
UNIT = (DEPLOY / "corellarec.service").read_text("utf-8")


def families():
    """Metrics by the names of their samples, each with its labels."""
    metrics = Metrics()
    for one in vars(metrics).values():
        if labels := getattr(one, "_labelnames", ()):
            one.labels(*labels)
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def parse(words):
    """Parse a call of the command line; raises what it raises."""
    command = typer.main.get_group(app).commands[words[0]]
    command.make_context(f"corellarec {words[0]}", list(words[1:]))


def expressions():
    """Every expression of the dashboard."""
    dashboard = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))
    queries = [one["definition"] for one in dashboard["templating"]["list"] if "definition" in one]
    targets = [one for panel in dashboard["panels"] for one in panel["targets"]]
    return [*queries, *(one["expr"] for one in targets)]


def test_the_dashboard_reads_metrics_that_there_are():
    known = families()
    read = set()
    for expression in expressions():
        names = set(re.findall(r"corellarec_\w+", expression))
        assert names <= set(known), expression
        read |= names
        labels = {"instance", "le"}.union(*(known[name] for name in names))
        used = re.findall(r"by \(([^)]*)\)", expression) + re.findall(r"\{([^}]*)\}", expression)
        for part in ", ".join(used).split(","):
            assert re.split(r"[=~!]", part.strip())[0] in labels | {""}, expression
    ends = ("_created", "_count", "_sum", "_bucket")
    gauges = {name for name in known if not name.endswith(ends)}
    histograms = {name for name in known if name.endswith("_bucket")}
    assert gauges | histograms == read


def test_the_dashboard_has_no_panel_twice():
    panels = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))["panels"]
    for key in ("id", "title"):
        assert len({panel[key] for panel in panels}) == len(panels)
    places = {tuple(panel["gridPos"][key] for key in "xy") for panel in panels}
    assert len(places) == len(panels)


def test_prometheus_reads_a_route_of_the_service():
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    http = ServeConfig().http
    assert job["static_configs"] == [{"targets": [f"{http.host}:{http.port}"]}]


def test_compose_starts_the_service_with_settings_that_there_are(tmp_path):
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    compose = yaml.safe_load(text)
    service = compose["services"]["corellarec"]
    file = tmp_path / "serve.toml"
    file.write_text(compose["configs"]["serve"]["content"])
    config = load_serve_config(file, {})
    assert config.llm.server == "http://vllm:8000"
    assert config.keys == "/run/secrets/keys"
    command = [str(tmp_path) if word == "/run-directory" else word for word in service["command"]]
    parse([str(file) if word == "/serve.toml" else word for word in command])
    database = compose["services"]["postgres"]["environment"]
    user, name = database["POSTGRES_USER"], database["POSTGRES_DB"]
    assert config.store == f"postgresql://{user}@postgres/{name}"
    assert service["ports"] == [f"127.0.0.1:{config.http.port}:{config.http.port}"]
    published = [one for one, given in compose["services"].items() if "ports" in given]
    assert published == ["corellarec"]


def test_compose_says_what_the_environment_must_hold():
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    used = re.findall(r"\$\{(\w+):\?\}", text)
    assert set(used) == set(re.findall(r"^# {3}(\w+)=", text, re.M))
    assert "${" not in re.sub(r"\$\{\w+:\?\}", "", text)


def test_compose_serves_the_adapter_under_the_name_that_is_asked_for():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    config = tomllib.loads(compose["configs"]["serve"]["content"])
    vllm = compose["services"]["vllm"]
    name = config["llm"]["server_model"]
    assert f"--lora-modules={name}=/adapter" in vllm["command"]
    flags = {word.partition("=")[0] for word in vllm["command"]} - {"--model"}
    guide = (ROOT / "docs" / "how-to" / "vllm.md").read_text("utf-8")
    assert {flag for flag in flags if flag not in guide} == set()


def test_the_unit_starts_the_service():
    (line,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.M)
    program, *words = shlex.split(line)
    assert Path(program).name == "corellarec"
    parse(words)
    loaded = re.findall(r"^LoadCredential=([\w.]+):", UNIT, re.M)
    assert "serve.toml" in loaded
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.M)
    assert int(stop) > ServeConfig().http.drain_s


def test_systemd_takes_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "corellarec.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT, flags=re.M))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stderr.splitlines() if "corellarec.service" in line]
    assert (done.returncode, lines) == (0, []), done.stderr


def nginx_site(folder):
    """The file for nginx, with a certificate made for it, as the only site of an nginx."""
    names = {"fullchain.pem": folder / "cert.pem", "privkey.pem": folder / "key.pem"}
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=localhost", "-out", names["fullchain.pem"], "-keyout", names["privkey.pem"]],
        check=True, capture_output=True,
    )  # fmt: skip
    site = (DEPLOY / "nginx.conf").read_text("utf-8")
    for name, file in names.items():
        assert f"/etc/ssl/corellarec/{name}" in site
        site = site.replace(f"/etc/ssl/corellarec/{name}", str(file))
    (folder / "site.conf").write_text(site)
    config = folder / "nginx.conf"
    config.write_text(
        f"pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; include {folder}/site.conf; }}\n"
    )
    return config


def test_nginx_takes_its_file(tmp_path):
    for program in ("nginx", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    config = nginx_site(tmp_path)
    done = subprocess.run(
        ["nginx", "-t", "-c", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


def test_nginx_gives_the_service_the_time_and_the_size_that_it_allows():
    site = (DEPLOY / "nginx.conf").read_text("utf-8")
    config = ServeConfig()
    (read,) = re.findall(r"proxy_read_timeout\s+(\d+)s;", site)
    assert int(read) > config.answer.max_deadline_ms / 1000
    (size,) = re.findall(r"client_max_body_size\s+(\d+)m;", site)
    assert int(size) * 1024 == config.http.max_body_kb
    assert f"server {config.http.host}:{config.http.port} " in site


# The guide on serving.


def cells(heading):
    """Rows of the tables in a section of the guide."""
    (section,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", GUIDE, re.M | re.S)
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r" \|(?= )", line.strip("|"))] for line in lines]


def test_the_guide_has_every_setting_with_its_default():
    defaults = {}
    for key in known_keys(ServeConfig):
        value = ServeConfig()
        for part in key.split("."):
            value = getattr(value, part)
        if not isinstance(value, Section):
            defaults[f"`{key}`"] = "" if value is None else f"`{json.dumps(value)}`"
    assert {row[0]: row[1] for row in cells("Settings")} == defaults


def test_the_guide_has_every_metric():
    found = {name.partition("{")[0] for row in cells("Metrics") for name in row[0].split("`")[1:2]}
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in families()}
    assert found == {name for name in names if not name.endswith("_created")}


def test_the_guide_has_every_reason():
    assert {row[0] for row in cells("What the reasons mean")} == {
        f"`{reason}`" for reason in Reason.__args__
    }
