"""The wheel works where no checkout is: installed into an environment of its own, and run there."""

import json
import os
import site
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from command_line import options

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the sdist as ``make dist`` does."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs a program of an environment that holds the wheel, in a directory of its own.

    Requirements come from the environment that runs the tests, by a ``.pth`` file. Python does not
    read the ``.pth`` files of a directory that is added in this way, so an editable install of
    corellarec there stays out of reach.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    # pip's own --python, not --prefix, which would not write the command for the new interpreter.
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True,
                   capture_output=True)  # fmt: skip
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "requirements.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    directory = tmp_path_factory.mktemp("elsewhere")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def call(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(folder / "bin" / program), *arguments],
            cwd=directory, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = Path(call("python", "-c", "import corellarec; print(corellarec.__file__)").strip())
    assert place.is_relative_to(packages)
    return call


def test_the_wheel_holds_all_that_is_not_python(wheel):
    """Presets, templates, grids, adapters and pages: every file of the package, and no other."""
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "corellarec").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as file:
        found = {name for name in file.namelist() if ".dist-info/" not in name}
    assert found == expected
    assert "corellarec/py.typed" in found


def test_version(installed):
    assert installed("corellarec", "--version") == f"corellarec {PROJECT['version']}\n"


def test_models_are_listed(installed):
    listed = json.loads(installed("corellarec", "models", "--json"))
    assert "smollm2-135m-instruct" in {model["name"] for model in listed["models"]}


def test_a_run(installed, tiny_settings, tmp_path):
    out = installed(
        "corellarec", "run", "--preset", "quick", "--out", str(tmp_path / "run"), "--json",
        *options(tiny_settings),
    )  # fmt: skip
    assert json.loads(out)["rows"] > 0
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_tutorial_from_python(installed, tmp_path):
    """The notebook's cells, on MovieLens-100K with SmolLM2: less training and fewer rows here."""
    notebook = json.loads((ROOT / "docs" / "tutorials" / "python.ipynb").read_text("utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    cells.append("print(*report.to_frame()['name'], answer.pays)")
    script = tmp_path / "tutorial.py"
    code = "\n".join(cells)
    for rows in ("validation_rows=2000", "test_rows=1000"):
        assert rows in code
        code = code.replace(rows, f"{rows.partition('=')[0]}=100")
    assert '"stage2.rows=0",' in code
    code = code.replace('"stage2.rows=0",', '"stage2.rows=0", "stage1.epochs=1",')
    script.write_text(code, "utf-8")
    out = installed("python", str(script))
    assert "deployed cascade" in out
    assert out.rstrip().endswith("True")
