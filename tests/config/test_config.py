from typing import Annotated, get_args, get_origin

import pytest

from corellarec.base.errors import ConfigError
from corellarec.config import (
    CRM_MODELS,
    Config,
    Section,
    changed,
    load_config,
    preset_names,
    to_toml,
    with_settings,
)
from corellarec.config.explain import known_keys
from corellarec.config.section import Range


def test_every_preset_is_valid():
    for name in preset_names():
        assert isinstance(load_config(preset=name), Config)


def test_a_presets_variant_is_the_preset_with_another_crm():
    base, din = load_config(preset="ml-1m"), load_config(preset="ml-1m/din")
    assert base == load_config(preset="ml-1m/dcnv2")
    assert (base.crm.model, din.crm.model) == ("dcnv2", "din")
    assert din.model_dump(exclude={"crm", "stage1"}) == base.model_dump(exclude={"crm", "stage1"})
    for data in ("ml-100k", "ml-1m"):
        assert {f"{data}/{model}" for model in CRM_MODELS} <= set(preset_names())


def test_toml_round_trip(tmp_path):
    config = load_config(settings=["data.path=x.zip", "cascade.budget=0.25", "seed=7"])
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert load_config(files=[path]) == config


def test_settings_override_the_file_and_bare_words_are_text(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[cascade]\nbudget = 0.5\ncombine = 'blend'\n")
    config = load_config(files=[path], settings=["cascade.combine=replace"])
    assert (config.cascade.budget, config.cascade.combine) == (0.5, "replace")


def test_files_go_on_top_of_a_preset_in_their_order(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[stage2]\nrows = 5\n[data]\npositive_rating = 3\n")
    config, quick = load_config(preset="quick", files=[path]), load_config(preset="quick")
    assert (config.stage2.rows, config.data.positive_rating) == (5, 3)
    assert config.stage2.learning_rate == quick.stage2.learning_rate
    assert config.stage3 == quick.stage3
    above = tmp_path / "d.toml"
    above.write_text("[stage2]\nrows = 6\n")
    config = load_config(preset="quick", files=[path, above])
    assert (config.stage2.rows, config.data.positive_rating) == (6, 3)


OWN = "data.interactions={files='x.csv', user='u', item='i', time='t', "


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.path=x", OWN + "rating='r'}"], "exclude each other"),
        ([OWN + "rating='r'}"], "interactions need items"),
        ([OWN + "rating='r', label='l'}"], "one of rating and label"),
        ([OWN + "rating='r', positive_values=['a']}"], "column that label names"),
        (["data.interactions={user='u', item='i', time='t', label='l'}"], "give files, or"),
        (["data.items={title='t'}"], "belong to interactions"),
        (["data.interactions={files='x', databse='y'}"], "data.interactions.database"),
    ],
)
def test_own_data_is_described_whole(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config(settings=settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stage2.row=3", "did you mean 'stage2.rows'"),
        ("budget=0.2", "did you mean 'cascade.budget'"),
        ("cascade.budget=most", "cascade.budget.*a share from 0 to 1, or the word 'best'.*most"),
        ("cascade.budget=1.5", "cascade.budget.*a share from 0 to 1, or the word 'best'.*1.5"),
        ("cascade.threshold=nan", "cascade.threshold: a number from -100 to 100 .found nan"),
        ("cascade.budget", "expected key=value"),
        ("cascade.policy=margin", "cascade.policy: Input should be 'gain' or 'entropy'"),
        ("seed.x.y=1", "seed"),
        ("crm=3", "crm: is a section of settings, found the value 3"),
        ("data.split=[0.5, 0.5, 0.5]", "sum to 1"),
        ("llm.window=10", "must be larger than history_length"),
        ("llm.layout=steam", "'stream' or 'paper'"),
    ],
)
def test_a_wrong_setting_says_what_is_right(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config(settings=[setting])


def test_the_cascade_takes_one_limit():
    best = load_config(settings=["cascade.budget=best"])
    assert best.cascade.budget == "best"
    fixed = load_config(settings=["cascade.policy=entropy", "cascade.threshold=0.6"])
    assert fixed.cascade.threshold == 0.6
    for policy, budget, threshold, message in (
        ("gain", "0.3", "0.1", "budget .0.3. and threshold .0.1. exclude"),
        ("gain", "best", "0.1", "budget .best. and threshold .0.1. exclude"),
    ):
        settings = [f"policy={policy}", f"budget={budget}", f"threshold={threshold}"]
        with pytest.raises(ConfigError, match=message):
            load_config(settings=[f"cascade.{one}" for one in settings])
    with pytest.raises(ConfigError, match="between 0 and ln 2"):
        load_config(settings=["cascade.policy=entropy", "cascade.threshold=0.9"])


def test_the_last_layer_that_sets_a_budget_or_a_threshold_wins(tmp_path):
    quick = load_config(preset="quick")
    assert quick.cascade.budget == 0.2
    (tmp_path / "threshold.toml").write_text("[cascade]\nthreshold = 0.02\n")
    files = [tmp_path / "threshold.toml"]
    by_file = load_config(preset="quick", files=files)
    for config, threshold in (
        (load_config(preset="quick", settings=["cascade.threshold=0.01"]), 0.01),
        (load_config(preset="quick", settings=["cascade={threshold=0.01}"]), 0.01),
        (by_file, 0.02),
        (changed(quick, {"cascade": {"threshold": 0.03}}), 0.03),
        (with_settings(quick, {"cascade.threshold": 0.04}), 0.04),
    ):
        assert (config.cascade.budget, config.cascade.threshold) == (None, threshold)
    for config in (
        load_config(preset="quick", files=files, settings=["cascade.budget=0.5"]),
        changed(by_file, {"cascade": {"budget": 0.5}}),
        with_settings(by_file, {"cascade.budget": 0.5, "cascade.policy": "entropy"}),
    ):
        assert (config.cascade.budget, config.cascade.threshold) == (0.5, None)
    kept = changed(by_file, {"cascade": {"combine": "replace"}})
    assert (kept.cascade.threshold, kept.cascade.combine) == (0.02, "replace")


def test_one_layer_that_sets_a_budget_and_a_threshold_is_refused(tmp_path):
    both = {"cascade.budget": 0.5, "cascade.threshold": 0.01}
    (tmp_path / "both.toml").write_text("[cascade]\nthreshold = 0.02\nbudget = 0.3\n")
    quick = load_config(preset="quick")
    for load in (
        lambda: with_settings(quick, both),
        lambda: load_config(preset="quick", settings=[f"{k}={v}" for k, v in both.items()]),
        lambda: load_config(preset="quick", files=[tmp_path / "both.toml"]),
    ):
        with pytest.raises(ConfigError, match="exclude each other"):
            load()


def test_members_go_with_the_network_they_were_given_beside(tmp_path):
    (tmp_path / "din.toml").write_text('[crm]\nmodel = "din"\n')
    quick = load_config(preset="quick")
    assert [one.crm.model for one in quick.crm.members] == ["dcnv2"]
    for config in (
        load_config(preset="quick", settings=["crm.model=din"]),
        load_config(preset="quick", files=[tmp_path / "din.toml"]),
        changed(quick, {"crm": {"model": "din"}}),
        with_settings(quick, {"crm.model": "din"}),
    ):
        assert (config.crm.model, config.crm.members) == ("din", ())
    assert load_config(preset="quick", settings=["crm.model=stream"]) == quick
    both = load_config(preset="quick", settings=["crm.model=din", 'crm.members=["lr"]'])
    assert [one.model for one in both.crm.networks] == ["din", "lr"]
    (tmp_path / "members.toml").write_text('[crm]\nmembers = ["lr"]\n')
    for model, members in (("dcnv2", 1), ("din", 0)):  # dcnv2 is the default
        config = load_config(files=[tmp_path / "members.toml"], settings=[f"crm.model={model}"])
        assert len(config.crm.members) == members


def test_the_budget_and_the_threshold_are_unset_by_default(tmp_path):
    config = load_config(settings=["data.path=x.zip"])
    assert (config.cascade.budget, config.cascade.threshold) == (None, None)
    (tmp_path / "c.toml").write_text(to_toml(config))
    again = load_config(files=[tmp_path / "c.toml"], settings=["cascade.threshold=0.01"])
    assert (again.cascade.budget, again.cascade.threshold) == (None, 0.01)


def test_wrong_sources(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'quick'"):
        load_config(preset="quik")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(files=[tmp_path / "none.toml"])
    (tmp_path / "bad.toml").write_text("a = [")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(files=[tmp_path / "bad.toml"])


def numbers(annotation, metadata=()):
    """The metadata of each kind of number that a setting takes."""
    if get_origin(annotation) is Annotated:
        return numbers(get_args(annotation)[0], annotation.__metadata__)
    if annotation in (int, float):
        return [metadata]
    return [found for inner in get_args(annotation) for found in numbers(inner)]


def test_every_number_has_both_bounds_and_is_refused_beyond_them():
    checked = 0
    for key in known_keys(Config):
        *path, last = key.split(".")
        section = Config
        for part in path:
            kinds = (section.model_fields[part].annotation,)
            kinds = get_args(kinds[0]) or kinds
            section = next(k for k in kinds if isinstance(k, type) and issubclass(k, Section))
        field = section.model_fields[last]
        for metadata in numbers(field.annotation, field.metadata):
            (bounds,) = [one for one in metadata if isinstance(one, Range)]
            if isinstance(field.default, int | float):
                for odd in (bounds.le * 2 + 1, -bounds.le * 2 - 1, "nan", "inf", "true", "'x'"):
                    with pytest.raises(ConfigError, match=f"{key}: a"):
                        load_config(settings=[f"{key}={odd}"])
                checked += 1
    assert checked > 50


def test_texts_hold_no_nul():
    for setting in ('data.path="a\\u0000b"', 'llm.lora.target_modules=["a\\u0000"]'):
        with pytest.raises(ConfigError, match="holds the character NUL"):
            load_config(settings=[setting])


@pytest.mark.parametrize("text", ["0.7,0.2,0.1", "0.7, 0.2, 0.1", "[0.7, 0.2, 0.1]"])
def test_lists_of_numbers_need_no_brackets(text):
    assert load_config(settings=[f"data.split={text}"]).data.split == (0.7, 0.2, 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("half", r"data\.split: a list in brackets, such as \[0\.8, .*, found 'half'$"),
        ("0.7,0.3", r"data\.split: 2 values are too few, found \[0\.7, 0\.3\]$"),
    ],
)
def test_what_is_no_list_says_how_one_is_written(text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(settings=[f"data.split={text}"])
