"""The low-rank adapter: added, saved and loaded through peft."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel

from corellarec.config import LoraConfig
from corellarec.errors import ModelError


def add_adapter(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Freeze the model and add a fresh adapter, whose update starts at zero.

    The adapter is fp32 whatever the frozen weights are, so that small steps are not rounded away.

    Raises:
        ModelError: If the model has no layer named in ``target_modules``, or too few blocks.
    """
    depth, blocks = model.config.get_text_config().num_hidden_layers, config.blocks
    if blocks > depth:
        raise ModelError(f"llm.lora.blocks = {blocks}: the model has {depth} blocks")
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
    """Keeps quiet that peft asks transformers about a name it has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
