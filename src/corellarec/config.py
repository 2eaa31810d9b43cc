"""One frozen, typed tree of settings: a preset, a TOML file, ``--set key=value``."""

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from corellarec.errors import ConfigError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TableConfig(Section):
    """Where a table of your own lies: files, or a query to a database."""

    files: str | tuple[str, ...] | None = None
    """Paths or globs of CSV, TSV, Parquet or JSON-lines files, ``.gz`` and ``.zst`` too; relative
    ones start from the current directory."""
    separator: str | None = None
    """Character between the values of delimited text; the default goes by the file's name."""
    encoding: str = "utf-8"
    """Encoding of delimited text."""
    database: str | None = None
    """DuckDB or SQLite file, or an address such as ``postgresql://...``; ``$NAME`` takes it from
    the environment."""
    query: str | None = None
    """SQL whose answer is the table."""

    @model_validator(mode="after")
    def _one_source(self) -> "TableConfig":
        if (self.database is None) != (self.query is None):
            raise ValueError("database and query go together")
        if self.files and self.query:
            raise ValueError("files and query exclude each other")
        return self


class InteractionsConfig(TableConfig):
    """Your own log: which columns are what."""

    user: str
    """Column of the user's id."""
    item: str
    """Column of the item's id."""
    time: str
    """Column of the time: a number, a date, or text such as ``2024-05-01 12:30:00``."""
    rating: str | None = None
    """Column of a rating; ``data.positive_rating`` makes it a label."""
    label: str | None = None
    """Column of the label: 1 or 0, true or false, yes or no ..."""
    positive_values: tuple[str, ...] | None = None
    """... or of anything, and these values of it are the positive ones."""
    split: str | None = None
    """Column of a given split: ``train``, ``validation`` (or ``valid``, ``val``, ``dev``) and
    ``test``."""

    @model_validator(mode="after")
    def _one_label(self) -> "InteractionsConfig":
        if (self.rating is None) == (self.label is None):
            raise ValueError("give one of rating and label")
        if self.positive_values and not self.label:
            raise ValueError("positive_values are values of the column that label names")
        if not (self.files or self.query):
            raise ValueError("give files, or database and query")
        return self


class FeaturesConfig(TableConfig):
    """Features of users or items.

    Without a source of its own, they are columns of the interactions, whose earliest value counts.
    """

    id: str | None = None
    """Column of the id; the default has the name it has in the interactions."""
    categorical: tuple[str, ...] = ()
    """Columns of one token."""
    multi: dict[str, str] = {}
    """Columns of several tokens, and the text between two of them, such as ``|``."""
    numeric: tuple[str, ...] = ()
    """Columns of numbers; ``data.numbers`` says what becomes of them."""


class ItemsConfig(FeaturesConfig):
    """Features of items, and the text the language model reads."""

    title: str
    """Column of the title, or a template of columns such as ``{name} by {brand}``."""


class DataConfig(Section):
    """Where the log comes from and how it becomes labels and splits."""

    fetch: Literal["ml-100k", "ml-1m", "nothing"] = "ml-100k"
    """What to fetch into the cache where neither ``path`` nor ``interactions`` is given."""
    path: str | None = None
    """Directory or zip in a known layout: MovieLens, Amazon reviews, RecBole's atomic files."""
    interactions: InteractionsConfig | None = None
    """Your own log."""
    items: ItemsConfig | None = None
    """Titles and features of its items."""
    users: FeaturesConfig | None = None
    """Features of its users."""
    time_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    """Unit of numeric times in your own log; ``auto`` goes by their size."""
    skip_bad_rows: Count = 0
    """Rows of the log that may be left out because they cannot be read."""
    positive_rating: float = 4.0
    """A rating at or above this is a positive label."""
    min_user_rows: Count = 0
    """Users with fewer rows are left out ..."""
    min_item_rows: Count = 0
    """... and items with fewer, again and again until all that is left has enough (k-core)."""
    numbers: Literal["buckets", "standardized", "both"] = "buckets"
    """What becomes of numeric features: one of 32 buckets of equal size in training, the number
    itself with zero mean and unit variance over training, or both."""
    item_vectors: str | None = None
    """Parquet file of the columns ``item`` (id) and ``vector`` (as many numbers for each), such as
    text embeddings, which `corellarec title-vectors` makes; a further feature for the CRM."""
    untitled: Literal["keep", "drop"] = "keep"
    """What happens to the rows of items without a title."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, validation and test, cut by time over the whole log."""
    min_history: Count = 0
    """The first so many rows of each user are history only: neither trained on nor tested."""
    history: Literal["all", "positives"] = "all"
    """Which earlier rows of the user make the history."""

    @model_validator(mode="after")
    def _is_whole(self) -> "DataConfig":
        if min(self.split) <= 0 or abs(sum(self.split) - 1) > 1e-9:
            raise ValueError(f"split: three positive shares that sum to 1, found {self.split}")
        if self.path and self.interactions:
            raise ValueError("path and interactions exclude each other")
        if self.interactions and not self.items:
            raise ValueError("interactions need items, with the title the language model reads")
        if (self.items or self.users) and not self.interactions:
            raise ValueError("items and users belong to interactions, which are not given")
        return self


class AttentionConfig(Section):
    """DIN's attention over the history."""

    hidden: Positive = 64
    """Width of the scoring network's hidden layer."""


class TransformerConfig(Section):
    """The transformer over the history (BST)."""

    heads: Positive = 2
    """Attention heads; divides ``crm.embedding_dim``."""
    blocks: Positive = 1
    """Transformer blocks; the last computes the target's position alone."""


class DCNv2Config(Section):
    """DCNv2: cross layers and a deep part."""

    cross_layers: Positive = 3
    """Number of cross layers."""
    structure: Literal["parallel", "stacked"] = "parallel"
    """Whether the deep part reads the fields, or the last cross layer."""
    rank: Count = 0
    """Rank of the experts of a low-rank cross network; 0 is one of full rank."""
    experts: Positive = 4
    """Number of low-rank experts."""


class XDeepFMConfig(Section):
    """xDeepFM: a compressed interaction network and a deep part."""

    cin_layers: Annotated[tuple[Positive, ...], Field(min_length=1)] = (32, 32)
    """Vectors of each layer of the compressed interaction network."""


class AutoIntConfig(Section):
    """AutoInt+: self-attention over the fields, and a deep part."""

    layers: Positive = 2
    """Number of interacting layers."""
    width: Positive = 32
    """Width of a field in them."""
    heads: Positive = 2
    """Attention heads; divides ``width``."""


class FiBiNETConfig(Section):
    """FiBiNET: bilinear interactions of weighed fields, then a deep part."""

    reduction: Positive = 3
    """The hidden layer that weighs the fields is so many times narrower than they are many."""


class FiGNNConfig(Section):
    """Fi-GNN: fields as nodes of a graph."""

    width: Positive = 32
    """Width of a node's state."""
    heads: Positive = 2
    """Attention heads; divides ``width``."""
    steps: Positive = 2
    """Message-passing steps."""


class FinalMLPConfig(Section):
    """FinalMLP: two gated deep streams; ``crm.deep_layers`` is the first."""

    second_layers: tuple[Positive, ...] = (200, 80)
    """Widths of the second stream."""
    gate_hidden: Positive = 64
    """Width of the gates' hidden layer."""
    heads: Positive = 2
    """Heads of the bilinear fusion; divides the widths of both last layers."""


class ExternalConfig(Section):
    """A CRM that is trained elsewhere."""

    scores: str | None = None
    """Parquet or CSV file of the columns ``user``, ``item``, ``time`` and ``score``, with all
    validation and test rows of the log, as `corellarec data export` writes them; ``time`` may be
    missing where no user meets an item twice. The CRM must not have seen their labels."""
    kind: Literal["probability", "logit"] = "probability"
    """What a score is: p(positive), or its logit."""


CRM_MODELS = ("lr", "fm", "deepfm", "xdeepfm", "autoint", "fibinet", "fignn", "dcnv2", "din", "bst",
              "finalmlp")  # fmt: skip


class CrmConfig(Section):
    """The conventional recommender model."""

    model: str = "dcnv2"
    """``lr``, ``fm``, ``deepfm``, ``xdeepfm``, ``autoint``, ``fibinet``, ``fignn``, ``dcnv2``,
    ``din``, ``bst``, ``finalmlp``; your own class as ``package.module:Class``; or ``external``,
    a model of yours that is known by its scores alone."""
    options: dict[str, Any] = {}
    """Arguments of your own class."""
    embedding_dim: Positive = 32
    """Width of every feature embedding."""
    history_length: Positive = 50
    """Rows of the same user before the target that the CRM reads."""
    history: Literal["auto", "mean", "attention", "transformer"] = "auto"
    """How the history becomes vectors: averaged, attended to by the target (DIN), or read by a
    transformer (BST). ``auto`` is the mean for ``lr`` and ``fm``, the transformer for ``bst``, and
    attention for the others."""
    deep_layers: tuple[Positive, ...] = (200, 80)
    """Widths of the deep part."""
    dropout: Share = 0.5
    """Dropout in the deep part."""
    id_dropout: Share = 0.2
    """Share of training samples whose user id (and, apart, item id) is replaced by the
    out-of-vocabulary id, so that unseen users and items are met in training."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of the network's products in training and scoring; weights, embeddings and sums stay
    in float32. ``auto`` is bfloat16 where the machine computes in it."""
    attention: AttentionConfig = AttentionConfig()
    transformer: TransformerConfig = TransformerConfig()
    dcnv2: DCNv2Config = DCNv2Config()
    xdeepfm: XDeepFMConfig = XDeepFMConfig()
    autoint: AutoIntConfig = AutoIntConfig()
    fibinet: FiBiNETConfig = FiBiNETConfig()
    fignn: FiGNNConfig = FiGNNConfig()
    finalmlp: FinalMLPConfig = FinalMLPConfig()
    external: ExternalConfig = ExternalConfig()

    @model_validator(mode="after")
    def _is_known(self) -> "CrmConfig":
        if ":" in self.model:
            return self
        if self.model not in (*CRM_MODELS, "external"):
            raise ValueError(
                f"model {self.model!r} is not one of {', '.join(CRM_MODELS)}, external, nor a "
                "class of your own as package.module:Class"
            )
        if self.options:
            raise ValueError(f"options are for a class of your own; {self.model} has a section")
        if self.model == "external" and not self.external.scores:
            raise ValueError("model 'external' needs external.scores, the file of its scores")
        return self


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
    blocks: Count = 0
    """Uppermost blocks that get one; below them nothing is computed backward. 0 is all blocks."""


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
    template: str = "movies"
    """What users and items look like as text: ``movies``, ``books``, ``items``, or a TOML file of
    your own, which may name columns of users and items."""
    tokens_per_batch: Positive = 4096
    """Tokens in one forward pass."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of the frozen weights; ``auto`` is bfloat16 where the machine computes in it."""
    checkpointing: bool = False
    """Whether training keeps only the blocks' inputs and computes the rest again: less memory, for
    another pass forward."""
    lora: LoraConfig = LoraConfig()
    adapter: str | None = None
    """A tuned adapter to use as it is, which leaves stages 2 and 3 out: ``pretrained``, which was
    tuned on MovieLens-100K's training split, or a directory that `corellarec adapter` wrote."""

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
    accumulate: Positive = 1
    """Batches whose gradients, averaged, make one step."""
    clip_norm: Rate = 1.0
    """Largest norm of the gradient."""
    epochs: Count = 1
    """Passes over the stage's rows at most; 0 leaves the weights as they are drawn."""
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
    epochs: Count = 15


class LlmStageConfig(StageConfig):
    """What stages 2 and 3 share."""

    rows: Count | Literal["all"] = 4000
    """Training rows, drawn as whole stream windows; ``all`` takes every one, 0 leaves the stage
    out."""
    subset: Literal["random", "uncertain"] = "random"
    """Which windows are drawn first: any (the paper), or those where the CRM is least confident."""
    validation_rows: Positive = 1000
    """Validation rows scored by the language model at each validation."""
    tokens_per_batch: Positive = 1536
    """Tokens in one pass of training."""


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

    policy: Literal["gain", "entropy", "margin"] = "gain"
    """Which samples go to the language model first: those expected to gain most, or those where
    the CRM is least confident (``entropy``, the paper) or nearest to its boundary (``margin``)."""
    budget: Share | Literal["best"] = 0.1
    """Share of the samples that the language model may see, or ``best``: the share with the lowest
    log loss on validation, which may be none."""
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Value of asking above which a sample is routed, in place of the budget: nats saved for
    ``gain``, the CRM's entropy in nats, or minus its logit's size for ``margin``."""
    combine: Literal["blend", "replace"] = "blend"
    """What a routed sample gets: a calibrated mix of both logits, or the language model's own."""
    validation_rows: Count = 0
    """Random validation rows scored by the language model to fit the cascade; 0 is all."""

    @field_validator("budget", mode="before")
    @classmethod
    def _is_a_share_or_best(cls, value: Any) -> Any:  # noqa: ANN401 (anything may be given)
        if value == "best" or (isinstance(value, int | float) and 0 <= value <= 1):
            return value
        raise ValueError("a share from 0 to 1, or the word 'best'")

    @model_validator(mode="after")
    def _one_limit(self) -> "CascadeConfig":
        if self.threshold is None:
            return self
        default = type(self).model_fields["budget"].default
        if self.budget != default:
            raise ValueError(
                f"budget ({self.budget}) and threshold ({self.threshold}) exclude each other: "
                "leave one out"
            )
        if self.policy == "entropy" and not 0 <= self.threshold < math.log(2):
            raise ValueError(
                f"threshold {self.threshold} asks about all or none: an entropy lies between 0 "
                "and ln 2 = 0.693 nats"
            )
        if self.policy == "margin" and self.threshold >= 0:
            raise ValueError(
                f"threshold {self.threshold} asks about none: the value of `margin` is minus the "
                "size of the CRM's logit, such as -0.5"
            )
        return self


class DistillConfig(Section):
    """What the language model teaches the CRM, once all stages are done."""

    rows: Count | Literal["all"] = 0
    """Training rows that the language model answers for the CRM to learn from, drawn as whole
    stream windows from those that no stage tuned it on, if there are such; 0 leaves it out."""
    weights: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)] = (
        0.3,
        0.6,
    )
    """Shares of the language model's answer in the target, where the gate is fully open. A CRM is
    trained with each; the best on validation stays, or the one before if none is better."""


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
    distill: DistillConfig = DistillConfig()
    cascade: CascadeConfig = CascadeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


def preset_names() -> list[str]:
    """Names that ``--preset`` takes, sorted.

    ``ml-1m/din`` is the preset ``ml-1m`` with DIN and its searched hyper-parameters on top, and
    ``ml-1m`` alone is ``ml-1m/dcnv2``.
    """
    with resources.as_file(resources.files("corellarec") / "presets") as folder:
        found = folder.rglob("*.toml")
        return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in found)


def load_config(
    *, preset: str | None = None, files: Iterable[Path] = (), settings: Iterable[str] = ()
) -> Config:
    """Read a preset, TOML files and ``key=value`` settings, each on top of the one before.

    Args:
        preset: One of :func:`preset_names`.
        files: TOML files.
        settings: ``section.key=value`` texts; values are TOML, and bare words are strings.

    Raises:
        ConfigError: If the source is missing or malformed, or a key or value is not allowed.
    """
    tree: dict[str, Any] = {}
    if preset is not None:
        if preset not in preset_names():
            raise ConfigError(
                f"no preset named {preset!r}; there are: {', '.join(preset_names())}"
                + _suggestion(preset, preset_names())
            )
        base, _, model = preset.partition("/")
        for name in (base, f"{base}/{model or 'dcnv2'}"):
            source = resources.files("corellarec") / "presets" / f"{name}.toml"
            if source.is_file():
                tree = _merge(tree, _parse(source.read_text("utf-8"), f"preset {name}"))
    for file in files:
        try:
            tree = _merge(tree, _parse(file.read_text("utf-8"), str(file)))
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


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """The configuration with values in place of its own, by names such as ``crm.dropout``.

    Raises:
        ConfigError: If a name is unknown or a value is not allowed.
    """
    tree = config.model_dump(mode="json", exclude_none=True)
    for name, value in settings.items():
        *path, last = name.split(".")
        section = tree
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return parse_config(tree)


def changed(config: Config, tree: Mapping[str, Any]) -> Config:
    """The configuration with a tree of settings on top, as a TOML file holds one.

    Raises:
        ConfigError: If a key is unknown or a value is not allowed.
    """
    return parse_config(_merge(config.model_dump(mode="json", exclude_none=True), dict(tree)))


def settings_tree(settings: Iterable[str]) -> dict[str, Any]:
    """The tree of ``section.key=value`` texts.

    Raises:
        ConfigError: If a text is malformed.
    """
    tree: dict[str, Any] = {}
    for setting in settings:
        _apply(tree, setting)
    return tree


def to_toml(config: Config) -> str:
    """The full resolved configuration as TOML, which :func:`load_config` reads back equal."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _parse(text: str, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{place}: not valid TOML: {error}") from error


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two trees of settings, where both have one the one above's."""
    sections = {
        key: _merge(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return below | above | sections


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
    shown = "ctx" in detail and not isinstance(detail["input"], dict)
    return f"{place}: {message}" + (f" (found {detail['input']!r})" if shown else "")


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
