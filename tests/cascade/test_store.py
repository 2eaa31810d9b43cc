"""A cascade's directory is data: typed, within ranges, and complete."""

import json
import shutil

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

import corellarec as cr
from corellarec.base.artifacts import MANIFEST, read_json, writing
from corellarec.cascade.lists import FEATURES
from corellarec.cascade.store import Recipe, read_cascade
from corellarec.config import CRM_MODELS
from corellarec.crm.build import build_crm

CPU = torch.device("cpu")
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture
def changed(finished, tmp_path):
    """The directory of the finished run's cascade with changes, and checksums that fit."""

    def write(values, change=lambda directory: None):
        with writing(tmp_path / "cascade", {"kind": "cascade"}) as directory:
            shutil.copytree(finished[0] / "cascade", directory, dirs_exist_ok=True)
            (directory / MANIFEST).unlink()
            tree = json.loads((directory / "cascade.json").read_text())
            for place, value in values.items():
                *path, last = place.split(".")
                part = tree
                for step in path:
                    part = part[int(step) if step.isdigit() else step]
                part[last] = value
            (directory / "cascade.json").write_text(json.dumps(tree))
            change(directory)
        return tmp_path / "cascade"

    return write


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("router.budget", NAN),
        ("router.budget", 1.5),
        ("router.hard", 1),
        ("router.rules", {}),
        ("router.rules.gain.threshold", NAN),
        ("router.rules.gain.share.rows", 0),
        ("router.rules.gain.verdict.bound", INFINITY),
        ("router.rules.gain.verdict.routed", -1),
        ("router.crm.weights", [1.0, 2.0]),
        ("router.llm.weights", []),
        ("router.llm.bias", -INFINITY),
        ("router.gain.weights", [0.0] * 26),
        ("router.gain.weights", [NAN] * 27),
        ("router.gain.low", [0.0] * 5),
        ("router.blend.weights", [0.0] * 7),
        ("router.blend.longest", 0.5),
        ("features.user", []),
        ("features.user.0.vocabulary", 0),
        ("features.item.0.width", 0),
        ("features.ratings", [2.0, 1.0]),
        ("features.ratings", [float(i) for i in range(17)]),
        ("positive_rating", NAN),
        ("seed", -1),
        ("seed", 10**30),
        ("template.stream.line", "{title:d} ->"),
    ],
)
def test_a_value_out_of_range_is_named(changed, place, value):
    with pytest.raises(cr.ArtifactError, match=place.rpartition(".")[2][:6]) as error:
        read_cascade(changed({place: value}), CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("crm.stream.width", 512),
        ("features.user.0.vocabulary", 10**9),
        ("features.ratings", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ("crm.model", "dcnv2"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_memory_is_allocated(changed, place, value):
    with pytest.raises(cr.ArtifactError, match=r"crm\.safetensors: does not fit its settings"):
        read_cascade(changed({place: value}), CPU)


def test_lists_longer_than_all_items_are_refused(changed):
    """Tables of lists have the policy's length, whatever it is."""
    nothing = [0.0] * len(FEATURES)
    lists = {
        "length": 2**31 - 1, "budget": 0.1, "threshold": None,
        "blend": {"base_weight": 1.0, "expert_weight": 1.0},
        "value": {"weights": nothing, "bias": 0.0, "low": nothing, "high": nothing},
        "verdict": {"helps": True, "routed": 30, "gain": 0.1, "bound": 0.05},
    }  # fmt: skip
    items = read_cascade(changed({}), CPU)[1].items.height
    with pytest.raises(cr.ArtifactError, match="lists.length is 2,147,483,647, and there are"):
        read_cascade(changed({"lists": lists}), CPU)
    recipe, _, _ = read_cascade(changed({"lists": lists | {"length": items}}), CPU)
    assert recipe.lists is not None


@pytest.mark.parametrize("name", CRM_MODELS)
def test_every_crm_is_read_back_as_it_was_written(changed, finished, name):
    recipe = read_json(finished[0] / "cascade" / "cascade.json", Recipe)
    settings = recipe.crm.model_copy(update={"model": name})
    written = build_crm(settings, recipe.features, CPU)
    directory = changed(
        {"crm.model": name},
        lambda directory: save_file(written.state_dict(), directory / "crm.safetensors"),
    )
    _, _, crm = read_cascade(directory, CPU)
    assert crm is not None
    for key, tensor in written.state_dict().items():
        assert crm.state_dict()[key].equal(tensor), key
    assert not any(part.is_meta for part in [*crm.parameters(), *crm.buffers()])


@pytest.mark.parametrize(
    "name", ["crm.safetensors", "rows.parquet", "adapter/adapter_config.json", "cascade.json"]
)
def test_a_file_that_the_manifest_does_not_list_is_not_read(changed, name):
    with pytest.raises(cr.ArtifactError, match=name):
        read_cascade(changed({}, lambda directory: (directory / name).unlink()), CPU)


def test_weights_that_are_not_finite_are_refused(changed):
    def poison(directory):
        state = load_file(directory / "crm.safetensors")
        next(iter(state.values())).fill_(NAN)
        save_file(state, directory / "crm.safetensors")

    with pytest.raises(cr.ArtifactError, match="no finite numbers"):
        read_cascade(changed({}, poison), CPU)


def test_a_sound_recipe_is_within_all_ranges(finished):
    """What is written is read: the ranges leave room for what a fit can find."""
    recipe = read_json(finished[0] / "cascade" / "cascade.json", Recipe)
    kind = TypeAdapter(Recipe)
    assert kind.validate_json(kind.dump_json(recipe), strict=True) == recipe
