"""Saved adapters: what is read of them, and what is refused."""

import json
import shutil
from importlib import resources
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from corellarec.base.artifacts import MANIFEST, writing
from corellarec.base.errors import ArtifactError
from corellarec.config import LoraConfig
from corellarec.llm.load import load_model
from corellarec.llm.lora import (
    PACKAGED,
    TunedAdapter,
    add_adapter,
    load_adapter,
    save_adapter,
)

CPU = torch.device("cpu")


def model(tiny_llm):
    return load_model(str(tiny_llm), torch.float32, CPU)[0]


@pytest.fixture
def saved(tiny_llm, tmp_path):
    adapted = add_adapter(model(tiny_llm), LoraConfig(rank=4, blocks=1))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(adapted, tmp_path / "adapter", "tiny")
    return tmp_path / "adapter"


def test_it_does_not_say_where_this_machine_keeps_its_base_model(saved, tiny_llm):
    assert sorted(path.name for path in saved.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    for path in saved.iterdir():
        assert str(tiny_llm.parent).encode() not in path.read_bytes()
    settings = json.loads((saved / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "tiny"
    assert settings["target_modules"] == sorted(settings["target_modules"])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_it_is_read_as_peft_reads_it(saved, tiny_llm):
    ours, theirs = load_adapter(model(tiny_llm), saved), PeftModel.from_pretrained(
        model(tiny_llm), saved
    )  # fmt: skip
    expected = dict(theirs.named_parameters())
    found = dict(ours.named_parameters())
    assert found.keys() == expected.keys()
    for name, parameter in found.items():
        assert parameter.equal(expected[name]), name
        assert parameter.dtype == expected[name].dtype
        assert not parameter.requires_grad
    assert not any(part.training for part in ours.modules())
    ids = torch.arange(20).unsqueeze(0)
    with torch.inference_mode():
        assert ours(input_ids=ids).logits.equal(theirs(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("r", 0),
        ("r", "8"),
        ("r", 10**9),
        ("lora_alpha", float("nan")),
        ("lora_alpha", -1.0),
        ("lora_dropout", 2.0),
        ("target_modules", "all-linear"),
        ("target_modules", []),
        ("target_modules", ["none"]),
        ("layers_to_transform", [7]),
        ("peft_type", "PROMPT_TUNING"),
        ("megatron_config", {"a": 1}),
        ("megatron_core", "evil"),
        ("rank_pattern", {"q_proj": 2}),
        ("modules_to_save", ["lm_head"]),
        ("init_lora_weights", "eva"),
        ("use_dora", True),
        ("bias", "all"),
        ("more", 1),
    ],
)
def test_only_a_plain_lora_is_read(saved, tiny_llm, setting, value):
    path = saved / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    with pytest.raises(ArtifactError, match=r": delete .*; `corellarec run") as error:
        load_adapter(model(tiny_llm), saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "value"), [("r", 3), ("r", 16_384), ("target_modules", ["q_proj"])]
)
def test_weights_that_do_not_fit_the_settings_are_refused(saved, tiny_llm, setting, value):
    path = saved / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    with pytest.raises(ArtifactError, match="does not fit its settings"):
        load_adapter(model(tiny_llm), saved)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"[" * 200_000),
        ("adapter_config.json", None),
        ("adapter_model.safetensors", b"abc"),
        ("adapter_model.safetensors", None),
    ],
)
def test_damage_is_an_error_of_one_line(saved, tiny_llm, file, content):
    if content is None:
        (saved / file).rename(saved / "adapter_model.bin")  # a pickle, which is not read
    else:
        (saved / file).write_bytes(content)
    with pytest.raises(ArtifactError, match=file) as error:
        load_adapter(model(tiny_llm), saved)
    assert "\n" not in str(error.value)


def test_every_adapter_of_the_package_has_a_name_and_is_whole():
    folder = Path(str(resources.files("corellarec.llm") / "adapters"))
    assert sorted(PACKAGED.values()) == sorted(path.name for path in folder.iterdir())
    until = {name: TunedAdapter(name).tuned.trained_until.year for name in PACKAGED}
    assert until == {"pretrained": 1998, "pretrained-ml-1m": 2000}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"trained_until": 5}, "trained_until"),
        ({"trained_until": "1998-03-07"}, "trained_until"),
        ({"llm": {}}, "llm.model"),
        ({"llm": []}, "llm"),
    ],
)
def test_what_an_adapter_says_of_its_training_is_typed(tmp_path, change, place):
    packaged = Path(str(resources.files("corellarec.llm") / "adapters" / "ml-100k"))
    facts = TunedAdapter("pretrained").facts
    with writing(
        tmp_path / "adapter", {k: v for k, v in facts.items() if k != "files"} | change
    ) as d:
        shutil.copytree(packaged, d, dirs_exist_ok=True)
        (d / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=rf"manifest\.json: {place}"):
        TunedAdapter(str(tmp_path / "adapter"))
