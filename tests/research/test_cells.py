"""A study's file, its cells, and the steps that cells share."""

import json

import pytest
from rich.console import Console

from corellarec.base.errors import ConfigError
from corellarec.config import load_config
from corellarec.research.study.cells import cells, run_cell
from corellarec.research.study.spec import load_study, study_names
from corellarec.run import stages

SPEC = """
preset = "quick"
crms = ["ml-100k/lr"]

[ablation."without stage 1".stage1]
epochs = 0

[ablation."without stage 3".stage3]
rows = 0
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "study.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("name", study_names())
def test_the_studies_of_the_package_are_allowed(name, tmp_path):
    spec, base = load_study(name)
    found = cells(spec, base, tmp_path)
    assert len({cell.directory for cell in found}) == len(found)
    assert found[0].config == base.model_copy(update={"seed": spec.seeds[0]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds = [0]", "preset: Field required"),
        ('preset = "quick"\nseed = 1', "seed: Extra inputs"),
        ('preset = "quick"\nseeds = [1, 1]', "seeds names one twice"),
        ('preset = "quick"\nseeds = []', "seeds"),
        ('preset = "qick"', "did you mean 'quick'"),
        ('preset = "quick"\n[settings.crm]\nmodle = "din"', "did you mean 'crm.model'"),
        ('preset = "quick"\n[baselines.tallrek]', "baselines.tallrek"),
        ("preset = ", "not valid TOML"),
    ],
)
def test_a_wrong_study_is_refused_with_the_place(text, said, write):
    with pytest.raises(ConfigError, match=said):
        load_study(write(text))


def test_no_such_study():
    with pytest.raises(ConfigError, match=r"no study named 'ml-1k'.*there are: .*ml-100k"):
        load_study("ml-1k")


def test_the_own_crm_is_not_listed_again(write, tmp_path):
    spec, base = load_study(write('preset = "quick"\ncrms = ["ml-100k/stream"]'))
    with pytest.raises(ConfigError, match="ml-100k/stream is the method's own CRM"):
        cells(spec, base, tmp_path)


def test_settings_come_last_and_a_cell_keeps_its_own(write, tmp_path):
    text = SPEC + '[settings.cascade]\nbudget = 0.3\npolicy = "entropy"\n'
    spec, base = load_study(write(text), ["cascade.budget=0.2"])
    assert (base.cascade.budget, base.cascade.policy) == (0.2, "entropy")
    by_name = {cell.name: cell for cell in cells(spec, base, tmp_path)}
    assert by_name["without stage 3"].config.stage3.rows == 0
    assert by_name["lr"].config.crm == load_config(preset="ml-100k/lr").crm
    assert by_name["lr"].config.stage2.rows == 0
    labels_alone = cells(*load_study(write(text), ["crm.ratings=false"]), tmp_path)
    assert not any(cell.config.crm.ratings for cell in labels_alone)


def test_a_changed_setting_is_another_cell_and_a_cheap_one_is_not(write, tmp_path):
    def directories(*settings):
        spec, base = load_study(write(SPEC), settings)
        return [cell.directory for cell in cells(spec, base, tmp_path)]

    before = directories()
    assert directories("evaluate.bootstrap=7") == before
    after = directories("llm.window=60")
    assert after[1] == before[1]  # a CRM alone knows nothing of the language model
    assert not set(after[:1] + after[2:]) & set(before)


def test_cells_share_the_steps_they_have_in_common(write, tmp_path, tiny_settings, monkeypatch):
    spec, base = load_study(write(SPEC), tiny_settings)
    trained = []
    whole = stages.train

    def train(task, *arguments, **options):
        trained.append(type(task).__name__)
        return whole(task, *arguments, **options)

    monkeypatch.setattr(stages, "train", train)
    found = cells(spec, base, tmp_path / "out")
    for cell in found:
        run_cell(cell, Console(quiet=True))
    # The method's three stages and lr; without stage 1 all three again; without stage 3 nothing.
    assert trained == ["CrmTask", "LlmTask", "LlmTask", "CrmTask", "CrmTask", "LlmTask", "LlmTask"]
    for cell in found:
        run_cell(cell, Console(quiet=True))
    assert len(trained) == 7
    untrained = json.loads((found[2].directory / "stage1" / "manifest.json").read_text())
    assert untrained["step"] == 0
