"""Settings of the language model and of its alignment with the CRM."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from corellarec.config.section import Count, Dropout, Length, Rate, Scale, Section, Tokens, Width


class LoraConfig(Section):
    """The low-rank adapter on the language model."""

    rank: Width = 8
    """Rank r of each update."""
    alpha: Scale = 16.0
    """The update is scaled by ``alpha / rank``."""
    dropout: Dropout = 0.0
    """Dropout on the adapter's input."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = ("q_proj", "v_proj")
    """Names of the linear layers that get an adapter."""
    blocks: Count = 0
    """Uppermost blocks that get one, at most; below them nothing is computed backward. 0 is all."""


class LlmConfig(Section):
    """The language model and how it reads a user."""

    model: str = "smollm2-135m-instruct"
    """A known model's name, a local directory, a ``.gguf`` file, or a Hugging Face hub name."""
    layout: Literal["stream", "paper"] = "stream"
    """``stream``: one pass per window of a user's lines, a prediction at every line.
    ``paper``: one prompt per sample, as in CoReLLa."""
    history_length: Length = 20
    """Lines of history before a scored line: exactly this many at most in the paper's layout,
    at least this many (where the user has them) in the stream layout."""
    window: Length = 80
    """Lines of one sequence in the stream layout, those shared with the one before included."""
    title_year: bool = True
    """Whether titles keep a year at their end, as in ``Heat (1995)``; it doubles their tokens."""
    template: str = "movies"
    """What users and items look like as text: ``movies``, ``books``, ``items``, or a TOML file of
    your own, which may name columns of users and items."""
    tokens_per_batch: Tokens = 4096
    """Tokens in one forward pass."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of the frozen weights; ``auto`` is bfloat16 where the machine computes in it."""
    checkpointing: bool = False
    """Whether training keeps only the blocks' inputs and computes the rest again: less memory, for
    another pass forward."""
    shard: bool = False
    """Whether processes under ``torchrun`` divide the frozen weights among them, for a model that
    does not fit one device; one process alone holds all of them."""
    lora: LoraConfig = LoraConfig()
    adapter: str | None = None
    """A tuned adapter to use as it is, which leaves stages 2 and 3 out: ``pretrained`` and
    ``pretrained-ml-1m``, which were tuned on the training splits of MovieLens-100K and -1M, or a
    directory that `corellarec adapter` wrote."""

    @model_validator(mode="after")
    def _window_holds_the_history(self) -> "LlmConfig":
        if self.window <= self.history_length:
            raise ValueError(
                f"window ({self.window}) must be larger than history_length "
                f"({self.history_length}), else no line could be scored"
            )
        return self


class AlignConfig(Section):
    """The alignment loss of stage 2."""

    pairs: tuple[tuple[str, str], ...] = (("middle", "middle"), ("last", "last"))
    """Layer pairs (language model, CRM). Language-model layers: ``last``, ``middle``, or a
    number from 1; CRM layers: ``last`` and ``middle`` of the deep ones, or a name such as
    ``cross1`` or ``deep1``."""
    width: Width = 64
    """Width of the space both sides are projected into."""
    exponent: Rate = 1.0
    """Exponent of the Euclidean distance."""
