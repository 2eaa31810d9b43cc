"""The low-rank adapter: added, saved and loaded through peft."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import save_file
from transformers import PreTrainedModel

from corellarec.base.artifacts import MANIFEST, read_manifest, writing
from corellarec.base.errors import ConfigError, ModelError
from corellarec.base.numbers import Share
from corellarec.base.stored import read_tensors, unusable
from corellarec.config import LlmConfig, LoraConfig, Section
from corellarec.data.log import Log
from corellarec.llm.template import Template, load_template, template_names

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PACKAGED = {"pretrained": "ml-100k", "pretrained-ml-1m": "ml-1m"}
"""Names of the adapters in the package, and their directories there."""


def add_adapter(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Freeze the model and add a fresh adapter, whose update starts at zero.

    The adapter is fp32 whatever the frozen weights are, so that small steps are not rounded away.

    Raises:
        ModelError: If the model has no layer named in ``target_modules``.
    """
    depth = model.config.get_text_config().num_hidden_layers
    blocks = min(config.blocks, depth)
    try:
        with _peft():
            adapted = get_peft_model(
                model,
                PeftLoraConfig(
                    r=config.rank,
                    lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]
                    lora_dropout=config.dropout,
                    target_modules=list(config.target_modules),
                    layers_to_transform=list(range(depth - blocks, depth)) if blocks else None,
                ),
            )
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if part})
        raise ModelError(
            f"llm.lora.target_modules: the model has no layer named "
            f"{', '.join(config.target_modules)}; there are: {', '.join(names)}"
        ) from error
    assert isinstance(adapted, PeftModel)
    return adapted


class SavedAdapter(BaseModel):
    """What an ``adapter_config.json`` may set; all else must be as in peft's plain LoRA."""

    model_config = ConfigDict(strict=True, extra="allow")

    r: Annotated[int, Field(ge=1, le=16_384)]
    """Rank of each update."""
    lora_alpha: Annotated[float, Field(gt=0.0, le=1e6)]
    """The update is scaled by ``lora_alpha / r``."""
    lora_dropout: Share = 0.0
    """Dropout on its input."""
    target_modules: Annotated[list[str], Field(min_length=1, max_length=100)]
    """Names of the layers that have an update."""
    layers_to_transform: Annotated[list[int], Field(max_length=10_000)] | None = None
    """Numbers of the blocks that have one; None is all."""
    auto_mapping: dict[str, str] | None = None
    """What peft would import; not read."""
    base_model_name_or_path: str | None = None
    """Not read."""
    inference_mode: bool = True
    """Not read."""
    peft_version: str = ""
    """Not read."""


def load_adapter(model: PreTrainedModel, directory: Path) -> PeftModel:
    """Add the adapter saved in ``directory``, for scoring, in fp32.

    Memory is allocated once its weights are known to fit the model.

    Raises:
        ArtifactError: If it is missing or damaged, is more than a plain LoRA, or does not fit the
            model.
    """
    saved, place = _read_settings(directory), directory / "adapter_model.safetensors"
    try:
        with _peft():
            adapted = get_peft_model(
                model,
                PeftLoraConfig(
                    r=saved.r,
                    lora_alpha=saved.lora_alpha,  # pyright: ignore[reportArgumentType]
                    lora_dropout=saved.lora_dropout,
                    target_modules=saved.target_modules,
                    layers_to_transform=saved.layers_to_transform,
                    inference_mode=True,
                ),
                low_cpu_mem_usage=True,  # on the meta device
            )
    except ValueError as error:
        names = ", ".join(saved.target_modules[:10])
        raise unusable(
            place, f"does not fit the model, which has no layer named {names}"
        ) from error
    assert isinstance(adapted, PeftModel)
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    tensors = {name: tensor.float() for name, tensor in read_tensors(place, expected).items()}
    set_peft_model_state_dict(adapted, tensors, low_cpu_mem_usage=True)
    return adapted.eval()


def _read_settings(directory: Path) -> SavedAdapter:
    """The settings of a saved adapter, if it is a plain LoRA."""
    path = directory / "adapter_config.json"
    try:
        saved = SavedAdapter.model_validate_json(path.read_bytes())
    except OSError as error:
        raise unusable(path, f"cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise unusable(path, f"{place}: {first['msg']}") from error
    plain = PeftLoraConfig().to_dict() | {"peft_type": "LORA"}
    for name, value in (saved.model_extra or {}).items():
        if value not in (None, False, {}, []) and value != plain.get(name):
            raise unusable(path, f"{name} is set, and only a plain LoRA is read")
    return saved


@contextmanager
def _peft() -> Iterator[None]:
    """Silences a warning: peft reads a name that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def save_adapter(
    model: PeftModel, directory: Path, base: str, dtype: torch.dtype = torch.float32
) -> None:
    """Write the adapter alone, in peft's format; equal weights make equal files.

    Args:
        model: The tuned model.
        directory: Where to.
        base: The base model as the settings name it: where this machine keeps it is not written.
        dtype: Of the weights.
    """
    directory.mkdir(exist_ok=True)
    tuned = {
        name: tensor.to(dtype).contiguous()
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    save_file(tuned, directory / "adapter_model.safetensors", {"format": "pt"})
    settings = copy(model.peft_config["default"])
    assert isinstance(settings, PeftLoraConfig)
    settings.base_model_name_or_path, settings.inference_mode = base, True
    settings.target_modules = sorted(settings.target_modules or ())  # a set, in any order
    settings.save_pretrained(str(directory))


class TunedLlm(Section):
    """What an adapter was tuned with, and works with alone."""

    model: str
    layout: Literal["stream", "paper"]
    title_year: bool
    template: Template


class Tuned(BaseModel):
    """What an adapter's manifest says of its training."""

    llm: TunedLlm
    trained_until: AwareDatetime
    """Time of the last label that it saw."""


class TunedAdapter:
    """An adapter and the conditions of its use, in a directory.

    Args:
        name: One of ``PACKAGED``, or a directory that :func:`write_adapter` made.

    Raises:
        ArtifactError: If the directory is missing or damaged.
    """

    def __init__(self, name: str) -> None:
        if name in PACKAGED:
            packaged = resources.files("corellarec.llm") / "adapters" / PACKAGED[name]
            self.directory = Path(str(packaged))
        else:
            self.directory = Path(name).expanduser()
        self.facts = read_manifest(self.directory)
        try:
            self.tuned = TypeAdapter(Tuned).validate_json(json.dumps(self.facts), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise unusable(self.directory / MANIFEST, f"{place}: {first['msg']}") from error

    def check(self, config: LlmConfig, log: Log) -> None:
        """Check that these settings and this log may use it.

        Raises:
            ConfigError: If the model or the text differ from those it was tuned with, or if it was
                tuned on rows that it would be evaluated on.
        """
        own = wanted(config)
        for key, value in self.tuned.llm:
            if getattr(own, key) != value:
                if key == "template":
                    value = next((n for n in template_names() if load_template(n) == value), None)
                remedy = f"set llm.{key} = {json.dumps(value)}"
                raise ConfigError(
                    f"llm.adapter: it was tuned with another llm.{key}: "
                    + (remedy if value is not None else "take that one")
                )
        judged = log.time[torch.cat([log.rows_of("validation"), log.rows_of("test")])]
        until = self.tuned.trained_until
        first = EPOCH + timedelta(microseconds=int(judged.min()))
        if first <= until:
            raise ConfigError(
                f"llm.adapter: it was tuned on answers up to {until:%Y-%m-%d}, and validation here "
                f"begins on {first:%Y-%m-%d}: it may have seen what it would be measured on"
            )


def wanted(config: LlmConfig) -> TunedLlm:
    """What an adapter depends on."""
    return TunedLlm(
        model=config.model,
        layout=config.layout,
        title_year=config.title_year,
        template=load_template(config.template),
    )


def write_adapter(
    directory: Path, model: PeftModel, config: LlmConfig, log: Log, facts: dict[str, Any]
) -> None:
    """Write an adapter that :class:`TunedAdapter` reads; bfloat16, in peft's format.

    Args:
        directory: Replaced if it exists.
        model: The tuned model.
        config: What it was tuned with.
        log: What it was tuned on, its training split.
        facts: Of its training, kept in the manifest.
    """
    last = int(log.time[log.rows_of("train")].max())
    facts = facts | {
        "kind": "adapter",
        "llm": wanted(config).model_dump(),
        "trained_until": (EPOCH + timedelta(microseconds=last)).isoformat(),
    }
    with writing(directory, facts) as unfinished:
        save_adapter(model, unfinished, config.model, torch.bfloat16)
