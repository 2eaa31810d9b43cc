"""Settings of the conventional recommender model (CRM)."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from corellarec.config.section import Dropout, Few, Length, Range, Section, Share, Width
from corellarec.config.training import Stage1Config

Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=100)]  # a layer each


class AttentionConfig(Section):
    """DIN's attention over the history."""

    hidden: Width = 64
    """Width of the scoring network's hidden layer."""


class TransformerConfig(Section):
    """The transformer over the history (BST)."""

    heads: Few = 2
    """Attention heads; divides ``crm.embedding_dim``."""
    blocks: Few = 1
    """Transformer blocks; the last computes the target's position alone."""


class DCNv2Config(Section):
    """DCNv2: cross layers and a deep part."""

    cross_layers: Few = 3
    """Number of cross layers."""
    structure: Literal["parallel", "stacked"] = "parallel"
    """Whether the deep part reads the fields, or the last cross layer."""
    rank: Annotated[int, Range(ge=0, le=16_384)] = 0
    """Rank of the experts of a low-rank cross network; 0 is one of full rank."""
    experts: Few = 4
    """Number of low-rank experts."""


class XDeepFMConfig(Section):
    """xDeepFM: a compressed interaction network and a deep part."""

    cin_layers: Widths = (32, 32)
    """Vectors of each layer of the compressed interaction network."""


class AutoIntConfig(Section):
    """AutoInt+: self-attention over the fields, and a deep part."""

    layers: Few = 2
    """Number of interacting layers."""
    width: Width = 32
    """Width of a field in them."""
    heads: Few = 2
    """Attention heads; divides ``width``."""


class FiBiNETConfig(Section):
    """FiBiNET: bilinear interactions of weighed fields, then a deep part."""

    reduction: Width = 3
    """The hidden layer that weighs the fields is so many times narrower than they are many."""


class FiGNNConfig(Section):
    """Fi-GNN: fields as nodes of a graph."""

    width: Width = 32
    """Width of a node's state."""
    heads: Few = 2
    """Attention heads; divides ``width``."""
    steps: Few = 2
    """Message-passing steps."""


class FinalMLPConfig(Section):
    """FinalMLP: two gated deep streams; ``crm.deep_layers`` is the first."""

    second_layers: Widths = (200, 80)
    """Widths of the second stream."""
    gate_hidden: Width = 64
    """Width of the gates' hidden layer."""
    heads: Few = 2
    """Heads of the bilinear fusion; divides the widths of both last layers."""


class StreamConfig(Section):
    """The CRM ``stream``: a causal transformer over the user's events."""

    width: Width = 64
    """Width of embeddings and states; ``crm.embedding_dim`` is not used."""
    layers: Few = 2
    """Transformer blocks."""
    heads: Few = 2
    """Attention heads; divides ``width``."""
    window: Annotated[int, Range(ge=2, le=10_000)] = 200
    """Most events before a row that are read; at least half of them are, where there are so many.
    ``crm.history_length`` is not used."""
    ridge: Annotated[int, Range(ge=0, le=256)] = 16
    """Width of an item in a ridge regression of the user's answers on the items before a row, whose
    answer for the row's item the head reads; 0 leaves it out."""
    ridge_dropout: Dropout = 0.3
    """Dropout of the items in the ridge regression."""
    dropout: Dropout = 0.2
    """Dropout behind every sublayer and in the head."""
    user_dropout: Share = 0.5
    """As ``crm.id_dropout``, which then holds for items alone."""


class ExternalConfig(Section):
    """A CRM that is trained elsewhere."""

    scores: str | None = None
    """Parquet or CSV file of the columns ``user``, ``item``, ``time`` and ``score``, with all
    validation and test rows of the log, as `corellarec data export` writes them; ``time`` may be
    missing where no user meets an item twice. The CRM must not have seen their labels."""
    kind: Literal["probability", "logit"] = "probability"
    """What a score is: p(positive), or its logit."""


# Each is a file in crm/models; "Adding a CRM" in docs/design.md.
CRM_MODELS = ("lr", "fm", "deepfm", "xdeepfm", "autoint", "fibinet", "fignn", "dcnv2", "din", "bst",
              "finalmlp", "stream")  # fmt: skip


class NetworkConfig(Section):
    """A conventional recommender model of one network."""

    model: str = "dcnv2"
    """``lr``, ``fm``, ``deepfm``, ``xdeepfm``, ``autoint``, ``fibinet``, ``fignn``, ``dcnv2``,
    ``din``, ``bst``, ``finalmlp``, ``stream``; your own class as ``package.module:Class``; or
    ``external``, a model of yours that is known by its scores alone."""
    options: dict[str, Any] = {}
    """Arguments of your own class."""
    embedding_dim: Width = 32
    """Width of every feature embedding."""
    history_length: Length = 50
    """Rows of the same user before the target that the CRM reads."""
    history: Literal["auto", "mean", "attention", "transformer"] = "auto"
    """How the history becomes vectors: averaged, attended to by the target (DIN), or read by a
    transformer (BST). ``auto`` is the mean for ``lr`` and ``fm``, the transformer for ``bst``, and
    attention for the others."""
    statistics: bool = False
    """Whether what the log knows of item and user at the moment of the row is a field: shares of
    positives, rows and mean rating of the item's training rows before it and of the user's history.
    ``stream`` reads it always."""
    ratings: bool = True
    """Whether the network reads which ratings the history's rows were given, and is trained to
    predict a row's rating (``stage1.rating_weight``), where the log has ratings; else labels alone,
    as in the paper."""
    deep_layers: Widths = (200, 80)
    """Widths of the deep part."""
    dropout: Dropout = 0.5
    """Dropout in the deep part."""
    id_dropout: Share = 0.2
    """Share of training samples whose user id (and, apart, item id) is replaced by the
    out-of-vocabulary id, so that unseen users and items occur in training."""
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
    stream: StreamConfig = StreamConfig()
    external: ExternalConfig = ExternalConfig()

    @model_validator(mode="after")
    def _is_known(self) -> Self:
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


class MemberConfig(Section):
    """A further network of the CRM, and how it is trained."""

    crm: NetworkConfig
    """Its settings, as in the section ``crm``."""
    stage1: Stage1Config = Stage1Config()
    """Its training, as in the section ``stage1``."""

    @model_validator(mode="after")
    def _is_trained_here(self) -> Self:
        if self.crm.model not in CRM_MODELS:
            raise ValueError(f"a member is one of {', '.join(CRM_MODELS)}, not {self.crm.model!r}")
        return self


class CrmConfig(NetworkConfig):
    """The conventional recommender model."""

    members: Annotated[tuple[MemberConfig, ...], Field(max_length=20)] = ()
    """Further networks, blended with this one on validation data into one CRM: a preset's name such
    as ``ml-1m/fibinet``, whose sections ``crm`` and ``stage1`` count, or a network's such as
    ``dcnv2`` with default settings; or both sections as tables. The language model is aligned with
    the first alone, and members may be added to a finished run."""

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.members and self.model == "external":
            raise ValueError("members: an external CRM has none, blend its scores before")
        return self

    @property
    def networks(self) -> tuple[NetworkConfig, ...]:
        """This one and the members'."""
        return (self.model_copy(update={"members": ()}), *(one.crm for one in self.members))
