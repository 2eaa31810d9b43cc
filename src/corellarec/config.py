"""One frozen, typed tree of settings: a preset or a TOML file, then ``--set key=value``."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from corellarec.errors import ConfigError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(Section):
    """Where the log comes from and how it becomes labels and splits."""

    source: Literal["movielens", "atomic"] = "movielens"
    """File layout of ``path``: MovieLens's own files, or RecBole's atomic files."""
    path: str | None = None
    """Directory or zip of the log; the default fetches MovieLens-100K into the cache."""
    positive_rating: float = 4.0
    """A rating at or above this is a positive label."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, validation and test, cut by time over the whole log."""

    @model_validator(mode="after")
    def _shares_fill_the_log(self) -> "DataConfig":
        if min(self.split) <= 0 or abs(sum(self.split) - 1) > 1e-9:
            raise ValueError(f"split: three positive shares that sum to 1, found {self.split}")
        return self


class CrmConfig(Section):
    """The conventional recommender model."""

    embedding_dim: Positive = 32
    """Width of every feature embedding."""
    history_length: Positive = 50
    """Rows of the same user before the target that the CRM reads."""
    history: Literal["attention", "mean"] = "attention"
    """How the history becomes one vector: attended to by the target (DIN), or averaged."""
    cross_layers: Positive = 3
    """Full-rank cross layers of DCNv2."""
    deep_layers: tuple[Positive, ...] = (200, 80)
    """Widths of the deep part, which runs parallel to the cross layers."""
    dropout: Share = 0.5
    """Dropout in the deep part."""
    id_dropout: Share = 0.2
    """Share of training samples whose user id (and, apart, item id) is replaced by the
    out-of-vocabulary id, so that unseen users and items are met in training."""


class LoraConfig(Section):
    """The low-rank adapter on the language model."""

    rank: Positive = 8
    """Rank r of each update."""
    alpha: Rate = 16.0
    """The update is scaled by ``alpha / rank``."""
    dropout: Share = 0.0
    """Dropout on the adapter's input."""
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    """Names of the linear layers that get an adapter."""


class LlmConfig(Section):
    """The language model and how it reads a user."""

    model: str = "smollm2-135m-instruct"
    """A known model's name, a local directory, a ``.gguf`` file, or a Hugging Face hub name."""
    layout: Literal["stream", "paper"] = "stream"
    """``stream``: one pass per user window, a prediction at every line.
    ``paper``: one prompt per sample, as in CoReLLa."""
    history_length: Positive = 20
    """Lines of history before a scored line: exactly this many at most in the paper's layout,
    at least this many (where the user has them) in the stream layout."""
    window: Positive = 80
    """Lines in one stream window, overlap included."""
    title_year: bool = True
    """Whether titles keep a year at their end, as in ``Heat (1995)``; it doubles their tokens."""
    tokens_per_batch: Positive = 4096
    """Padded tokens in one forward pass."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of the frozen weights; ``auto`` is bfloat16 where the machine computes in it."""
    lora: LoraConfig = LoraConfig()

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

    pairs: tuple[tuple[str, str], ...] = (("middle", "deep1"), ("last", "deep2"))
    """Layer pairs (language model, CRM). Language-model layers: ``last``, ``middle``, or a
    number from 1; CRM layers: ``cross1``..., ``deep1``..."""
    width: Positive = 64
    """Width of the space both sides are projected into."""
    exponent: Rate = 1.0
    """Exponent of the Euclidean distance."""


class StageConfig(Section):
    """What the three training stages share."""

    learning_rate: Rate = 1e-3
    """Peak learning rate: linear warm-up, then cosine to a tenth of it."""
    warmup: Share = 0.1
    """Share of the steps spent warming up."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay."""
    clip_norm: Rate = 1.0
    """Largest norm of the gradient."""
    epochs: Positive = 1
    """Passes over the stage's rows at most."""
    evaluations: Positive = 1
    """Validations per epoch; the best weights are kept."""
    patience: Positive = 3
    """Validations without progress before the stage ends early."""


class Stage1Config(StageConfig):
    """Stage 1: the CRM alone, on all training rows."""

    batch_size: Positive = 1024
    """Samples in one step."""
    learning_rate: Rate = 2e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-2
    epochs: Positive = 15


class LlmStageConfig(StageConfig):
    """What stages 2 and 3 share."""

    rows: Count = 4000
    """Training rows, drawn as whole stream windows; 0 leaves the stage out."""
    validation_rows: Positive = 1000
    """Validation rows scored by the language model at each validation."""
    tokens_per_batch: Positive = 1536
    """Padded tokens in one training step."""


class Stage2Config(LlmStageConfig):
    """Stage 2: both models and their alignment, on a random subset."""

    llm_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """alpha, the weight of the language model's loss."""
    crm_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """beta, the weight of the CRM's loss."""
    align_weight: Annotated[float, Field(ge=0.0)] = 0.1
    """gamma, the weight of the alignment loss."""
    crm_learning_rate: Rate = 1e-4
    """Peak learning rate of the CRM and the projections."""


class Stage3Config(LlmStageConfig):
    """Stage 3: the language model alone, on another random subset."""


class CascadeConfig(Section):
    """Whom to ask, and what to do with the answer."""

    policy: Literal["gain", "entropy"] = "gain"
    """Which samples go to the language model first: those expected to gain most, or those where
    the CRM is least confident (the paper)."""
    budget: Share = 0.1
    """Share of the samples that the language model may see."""
    combine: Literal["blend", "replace"] = "blend"
    """What a routed sample gets: a calibrated mix of both logits, or the language model's own."""
    validation_rows: Count = 0
    """Random validation rows scored by the language model to fit the cascade; 0 is all."""


class EvaluateConfig(Section):
    """What the final evaluation measures."""

    test_rows: Count = 0
    """Random test rows scored by the language model; 0 is all."""
    bootstrap: Positive = 1000
    """Resamples behind every 95 % interval."""
    groups: Positive = 3
    """Groups of equal size by CRM confidence."""


class Config(Section):
    """Everything a run depends on."""

    seed: int = 0
    """Seed of every random choice."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models run."""
    data: DataConfig = DataConfig()
    crm: CrmConfig = CrmConfig()
    llm: LlmConfig = LlmConfig()
    align: AlignConfig = AlignConfig()
    stage1: Stage1Config = Stage1Config()
    stage2: Stage2Config = Stage2Config()
    stage3: Stage3Config = Stage3Config()
    cascade: CascadeConfig = CascadeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


def preset_names() -> list[str]:
    """Names that ``--preset`` takes, sorted."""
    folder = resources.files("corellarec") / "presets"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir())


def load_config(
    *, preset: str | None = None, file: Path | None = None, settings: Iterable[str] = ()
) -> Config:
    """Read a preset or a TOML file and apply ``key=value`` settings on top.

    Args:
        preset: One of :func:`preset_names`.
        file: A TOML file; excludes ``preset``.
        settings: ``section.key=value`` texts; values are TOML, and bare words are strings.

    Raises:
        ConfigError: If the source is missing or malformed, or a key or value is not allowed.
    """
    if preset is not None and file is not None:
        raise ConfigError("--preset and --config exclude each other: give one of them")
    tree: dict[str, Any] = {}
    if preset is not None:
        if preset not in preset_names():
            raise ConfigError(
                f"no preset named {preset!r}; there are: {', '.join(preset_names())}"
                + _suggestion(preset, preset_names())
            )
        source = resources.files("corellarec") / "presets" / f"{preset}.toml"
        tree = _parse(source.read_text("utf-8"), f"preset {preset}")
    if file is not None:
        try:
            tree = _parse(file.read_text("utf-8"), str(file))
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: is not UTF-8 text") from error
    for setting in settings:
        _apply(tree, setting)
    return parse_config(tree)


def parse_config(tree: Mapping[str, Any]) -> Config:
    """Turn a tree of plain values into a :class:`Config`.

    Raises:
        ConfigError: If a key is unknown (with the nearest known key) or a value is not allowed.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(detail) for detail in error.errors())) from error


def to_toml(config: Config) -> str:
    """The full resolved configuration as TOML, which :func:`load_config` reads back equal."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _parse(text: str, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{place}: not valid TOML: {error}") from error


def _apply(tree: dict[str, Any], setting: str) -> None:
    key, separator, text = setting.partition("=")
    if not separator:
        raise ConfigError(f"--set {setting!r}: expected key=value, such as cascade.budget=0.2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = key.strip().split(".")
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {setting!r}: {part!r} is a value, not a section")
    tree[last] = value


def _explain(detail: Any) -> str:  # noqa: ANN401 (pydantic's own error record)
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = _known_keys(Config)
        siblings = [key for key in known if key.rpartition(".")[0] == place.rpartition(".")[0]]
        return f"unknown setting {place!r}" + _suggestion(place, known, siblings)
    if detail["type"] == "model_type":
        return f"{place}: is a section of settings, found the value {detail['input']!r}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" + (f" (found {detail['input']!r})" if "ctx" in detail else "")


def _suggestion(word: str, known: list[str], siblings: list[str] | None = None) -> str:
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not nearest:  # a right key in the wrong section
        last = word.rpartition(".")[2]
        nearest = [key for key in known if key.rpartition(".")[2] == last][:1]
    if nearest:
        return f": did you mean {nearest[0]!r}?"
    return f"; there are: {', '.join(siblings)}" if siblings else ""


def _known_keys(section: type[Section], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        kinds = (
            get_args(field.annotation)
            if get_origin(field.annotation) in (Union, UnionType)
            else (field.annotation,)
        )
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Section):
                keys += _known_keys(kind, f"{prefix}{name}.")
    return keys
