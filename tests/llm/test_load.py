import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from corellarec.base.artifacts import writing
from corellarec.base.device import pick_dtype
from corellarec.base.errors import ModelError
from corellarec.config import LoraConfig
from corellarec.llm import catalog
from corellarec.llm.catalog import find_model
from corellarec.llm.load import AnswerModel, load_model
from corellarec.llm.lora import add_adapter, load_adapter
from corellarec.llm.packing import LlmBatch, make_batches
from corellarec.llm.sequence import TokenSequence

CPU = torch.device("cpu")


def padded(ids, row, place):
    return LlmBatch(ids, torch.arange(ids.shape[1]).expand(ids.shape), row, place, row, ids.numel())


def test_adapter_equals_pefts_merge(tiny_llm, tmp_path):
    model, _ = load_model(str(tiny_llm), torch.float32, CPU)
    adapted = add_adapter(model, LoraConfig(rank=4))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(0, 300, (2, 9))
    row, place = torch.tensor([0, 1, 1]), torch.tensor([8, 3, 8])
    answer = AnswerModel(adapted, (5, 6)).eval()
    with torch.inference_mode():
        before = answer(padded(ids, row, place)).logit
    adapted.save_pretrained(str(tmp_path / "adapter"))
    again, _ = load_model(str(tiny_llm), torch.float32, CPU)
    merged = load_adapter(again, tmp_path / "adapter").merge_and_unload()
    with torch.inference_mode():
        full = merged(input_ids=ids).logits[row, place]
        untouched, _ = load_model(str(tiny_llm), torch.float32, CPU)
        unchanged = untouched(input_ids=ids).logits[row, place]
    torch.testing.assert_close(before, full[:, 6] - full[:, 5], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(full, unchanged, atol=1e-2)


def test_layers_are_named_and_checked(tiny_llm):
    model = AnswerModel(load_model(str(tiny_llm), torch.float32, CPU)[0], (5, 6))
    assert [model.layer_number(name) for name in ("last", "middle", "1")] == [2, 1, 1]
    for name in ("3", "0", "first"):
        with pytest.raises(ValueError, match="last, middle, 1 to 2"):
            model.layer_number(name)
    ids = torch.randint(0, 200, (1, 5))
    out = model(padded(ids, torch.tensor([0]), torch.tensor([4])), ["last", "1"])
    hidden = model.base(input_ids=ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(out.layers["1"], hidden[1][:, 4])
    torch.testing.assert_close(out.layers["last"], hidden[2][:, 4])


def test_unusable_models_say_why(tiny_llm, tmp_path):
    broken = tmp_path / "m"
    shutil.copytree(tiny_llm, broken)
    (broken / "model.safetensors").rename(broken / "model.bin")
    with pytest.raises(ModelError, match=r"weights as \.bin, which can run code"):
        find_model(str(broken))
    (broken / "model.bin").unlink()
    with pytest.raises(ModelError, match=r"has no weights"):
        find_model(str(broken))
    (broken / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(broken), torch.float32, CPU)
    (broken / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        find_model(str(broken))
    with pytest.raises(ModelError, match="known models: smollm2"):
        find_model("no-such-model")
    with pytest.raises(ModelError, match="does not exist"):
        find_model(str(tmp_path / "none.gguf"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError, match="cannot be read as GGUF"):
        find_model(str(tmp_path / "bad.gguf"))


def trained(tiny_llm, *, blocks=0, checkpointing=False):
    """Gradients by name, after a backward pass of the same random sequences."""
    model, _ = load_model(str(tiny_llm), torch.float32, CPU)
    torch.manual_seed(0)
    adapted = add_adapter(model, LoraConfig(rank=4, blocks=blocks))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    answer = AnswerModel(adapted, (5, 6), checkpointing).train()
    sequences = [
        TokenSequence(np.arange(n) + n, np.array([n - 1]), np.array([i]))
        for i, n in enumerate((9, 30, 17))
    ]
    (batch,) = make_batches(sequences, 100, packed=True)
    out = answer(batch, ["1"])
    out.logit.sum().backward()
    return out, {n: p.grad for n, p in adapted.named_parameters() if p.requires_grad}


def test_below_the_adapters_blocks_nothing_is_kept_for_backward(tiny_llm):
    out, gradients = trained(tiny_llm, blocks=1)
    assert {name.split("layers.")[1][0] for name in gradients} == {"1"}
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
    assert not out.layers["1"].requires_grad  # what enters the uppermost block
    whole, _ = trained(tiny_llm)
    assert whole.layers["1"].requires_grad
    _, all_of_two = trained(tiny_llm, blocks=3)
    assert {name.split("layers.")[1][0] for name in all_of_two} == {"0", "1"}


def test_checkpointing_changes_no_gradient(tiny_llm):
    _, expected = trained(tiny_llm)
    _, found = trained(tiny_llm, checkpointing=True)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_unknown_target_modules_are_listed(tiny_llm):
    model, _ = load_model(str(tiny_llm), torch.float32, CPU)
    with pytest.raises(ModelError, match=r"no layer named qq_proj; there are: .*q_proj"):
        add_adapter(model, LoraConfig(target_modules=("qq_proj",)))


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("You are trying to access a gated repo. 401 Client Error", "accept its licence on https"),
        ("x does not appear to have a file named model.safetensors", "only safetensors are loaded"),
        (
            "contains custom code. Please pass trust_remote_code=True",
            "code of its own, which is nev",
        ),
        ("We couldn't connect to 'https://huggingface.co'", "check the name on https"),
    ],
)
def test_a_hub_that_refuses_leads_to_a_remedy(monkeypatch, words, remedy):
    def refuse(*arguments, **more):
        raise OSError(words)

    monkeypatch.setattr("corellarec.llm.load.AutoTokenizer.from_pretrained", refuse)
    with pytest.raises(ModelError, match=remedy) as error:
        load_model("llama-2-7b-chat", torch.float32, CPU)
    assert "\n" not in str(error.value)


def test_code_from_the_hub_is_never_run(tiny_llm, tmp_path):
    """Without an answer to its question transformers would ask on the terminal."""
    folder = tmp_path / "m"
    shutil.copytree(tiny_llm, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "ours", "auto_map": {
        "AutoConfig": "ours.Config", "AutoModelForCausalLM": "ours.Model"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "ours.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(ModelError, match="code of its own, which is never run"):
        load_model(str(folder), torch.float32, CPU)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_directory_that_names_code_is_refused(tiny_llm, tmp_path, file):
    folder = tmp_path / "m"
    shutil.copytree(tiny_llm, folder)
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(settings | {"auto_map": {"AutoConfig": "ours.Config"}}))
    with pytest.raises(ModelError, match=rf"{file}: the model has code of its own"):
        find_model(str(folder))
    for content in ("[]", "{", "[" * 200_000):
        (folder / file).write_text(content)
        with pytest.raises(ModelError, match=rf"{file} is no JSON object"):
            find_model(str(folder))


@pytest.mark.parametrize(
    "name", ["evil/model", "../model", "a/b c", "a\0b/c", "~nobody-x/y", "x" * 5000]
)
def test_an_unknown_model_of_the_hub_is_not_fetched_unasked(name, monkeypatch):
    def reached(*arguments, **more):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("corellarec.llm.load.AutoTokenizer.from_pretrained", reached)
    with pytest.raises(ModelError):
        load_model(name, torch.float32, CPU, fetch=False)


def test_a_model_in_the_hubs_cache_is_found_without_the_hub(tiny_llm, monkeypatch):
    def cached(repository, file):
        return str(tiny_llm / file) if repository == "owner/name" else None

    monkeypatch.setattr("corellarec.llm.catalog.try_to_load_from_cache", cached)
    assert find_model("owner/name", fetch=False) == str(tiny_llm)
    assert find_model("owner/name") == "owner/name"
    with pytest.raises(ModelError, match=r"not in the cache.*pass llm='owner/x' \(--llm owner/x\)"):
        find_model("owner/x", fetch=False)


@pytest.mark.parametrize("how", ["width", "a number that is text", "layers"])
def test_a_configuration_that_does_not_fit_is_an_error_of_one_line(tiny_llm, tmp_path, how):
    folder = tmp_path / "m"
    shutil.copytree(tiny_llm, folder)
    settings = json.loads((folder / "config.json").read_text())
    change = {"width": {"hidden_size": 64}, "a number that is text": {"hidden_size": "x"},
              "layers": {"num_hidden_layers": None}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings | change[how]))
    with pytest.raises(ModelError) as error:
        load_model(str(folder), torch.float32, CPU)
    assert "\n" not in str(error.value)


def test_dtype():
    assert pick_dtype("float32", CPU) == torch.float32
    assert pick_dtype("auto", CPU) in (torch.float32, torch.bfloat16)


def test_a_converted_model_that_cannot_be_used_is_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CORELLAREC_CACHE", str(tmp_path / "cache"))
    gguf, made = tmp_path / "x.gguf", []

    def convert(source, target):
        made.append(source)
        with writing(target) as unfinished:
            (unfinished / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(catalog, "_convert", convert)
    gguf.write_bytes(b"GGUF")
    place = Path(find_model(str(gguf)))
    assert find_model(str(gguf)) == str(place)
    assert made == [gguf]
    (place / "manifest.json").write_text('{"files": {}}')  # as an older version wrote it
    assert find_model(str(gguf)) == str(place)
    assert made == [gguf, gguf]
    assert "it is made again" in capsys.readouterr().err.replace("\n", " ")
