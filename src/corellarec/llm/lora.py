"""The low-rank adapter: added, saved and loaded through peft."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel

from corellarec.base.artifacts import read_manifest, writing
from corellarec.base.errors import ConfigError, ModelError
from corellarec.config import LlmConfig, LoraConfig
from corellarec.data.log import Log
from corellarec.llm.template import load_template, template_names

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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


def load_adapter(model: PreTrainedModel, directory: Path) -> PeftModel:
    """Add the adapter saved in ``directory``, for scoring."""
    with _peft():
        return PeftModel.from_pretrained(model, directory)


@contextmanager
def _peft() -> Iterator[None]:
    """Silences a warning: peft reads a name that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Write the adapter alone, in peft's format; nothing is looked up on the hub."""
    model.save_pretrained(str(directory), save_embedding_layers=False)


class TunedAdapter:
    """An adapter and the conditions of its use, in a directory.

    Args:
        name: ``pretrained``, or a directory that :func:`write_adapter` made.

    Raises:
        ArtifactError: If the directory is missing or damaged.
    """

    def __init__(self, name: str) -> None:
        packaged = Path(str(resources.files("corellarec.llm") / "adapters" / "ml-100k"))
        self.directory = packaged if name == "pretrained" else Path(name).expanduser()
        self.facts = read_manifest(self.directory)

    def check(self, config: LlmConfig, log: Log) -> None:
        """Check that these settings and this log may use it.

        Raises:
            ConfigError: If the model or the text differ from those it was tuned with, or if it was
                tuned on rows that it would be evaluated on.
        """
        own = wanted(config)
        for key, value in self.facts["llm"].items():
            if own[key] != value:
                if key == "template":
                    named = (n for n in template_names() if load_template(n).model_dump() == value)
                    value = next(named, None)
                remedy = f"set llm.{key} = {json.dumps(value)}"
                raise ConfigError(
                    f"llm.adapter: it was tuned with another llm.{key}: "
                    + (remedy if value is not None else "take that one")
                )
        judged = log.time[torch.cat([log.rows_of("validation"), log.rows_of("test")])]
        until = datetime.fromisoformat(self.facts["trained_until"])
        first = EPOCH + timedelta(microseconds=int(judged.min()))
        if first <= until:
            raise ConfigError(
                f"llm.adapter: it was tuned on answers up to {until:%Y-%m-%d}, and validation here "
                f"begins on {first:%Y-%m-%d}: it may have seen what it would be measured on"
            )


def wanted(config: LlmConfig) -> dict[str, Any]:
    """What an adapter depends on."""
    names = ("model", "layout", "title_year")
    template = load_template(config.template)
    return {name: getattr(config, name) for name in names} | {"template": template.model_dump()}


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
        "llm": wanted(config),
        "trained_until": (EPOCH + timedelta(microseconds=last)).isoformat(),
    }
    with writing(directory, facts) as unfinished:
        tuned = {
            name: tensor.to(torch.bfloat16).contiguous()
            for name, tensor in get_peft_model_state_dict(
                model, save_embedding_layers=False
            ).items()
        }
        save_file(tuned, unfinished / "adapter_model.safetensors", {"format": "pt"})
        settings = model.peft_config["default"]
        settings.base_model_name_or_path = config.model
        settings.inference_mode = True
        settings.save_pretrained(str(unfinished))
