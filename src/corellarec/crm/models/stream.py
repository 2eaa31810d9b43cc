"""A causal transformer over a user's events: one pass answers every row of a window."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from corellarec.config import NetworkConfig
from corellarec.crm.architecture import Architecture
from corellarec.crm.embedding import FusedEmbedding
from corellarec.crm.layers import Dropout, gather
from corellarec.crm.model import CrmOutput
from corellarec.crm.ridge import Ridge
from corellarec.crm.windows import StreamBatch
from corellarec.data.levels import FIRST
from corellarec.data.log import Features
from corellarec.data.statistics import STATISTICS


class StreamBlock(nn.Module):
    """A pre-norm transformer block over events, and over samples that read the events alone.

    Args:
        width: Width of a position.
        heads: Number of attention heads; divides ``width``.
        dropout: Share of each sublayer's output zeroed in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.outward = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = Dropout(dropout)

    def keys_and_values(self, events: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``(windows, events, width)``; each ``(windows, heads, events, width / heads)``."""
        pair = self.key_value(self.norms[0](events)).unflatten(2, (2, self.heads, -1))
        key, value = pair.permute(2, 0, 3, 1, 4)
        return key, value

    def forward(self, positions: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """Let ``positions`` read the events that are ``visible``.

        Args:
            positions: ``(windows, n, width)``.
            key: ``(windows, heads, events, width / heads)``.
            value: Likewise.
            visible: Bool, broadcast to ``(windows, heads, n, events)``.
        """
        query = self.query(self.norms[0](positions)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        read = scaled_dot_product_attention(query, key, value, attn_mask=visible)
        positions = positions + self.dropout(self.outward(read.transpose(1, 2).flatten(2)))
        return positions + self.dropout(self.down(silu(self.up(self.norms[1](positions)))))


class StreamNetwork(nn.Module):
    """Events attend to the events before them, samples to all events before theirs.

    An event is the sum of its item's fields, of what the user said of it, of its statistics and of
    its place in the window; a sample is the sum of its item's and its user's fields, its statistics
    and its place. Before the first event of a window stands the user. The head reads the sample's
    last state, its item, its user, the product of state and item, the statistics, and the answer
    of a ridge regression of what the user said on the items it was said of. Beside the logit it
    says how likely each rating is, where the log has ratings.

    Args:
        features: What there is of users and items.
        width: Width of embeddings and states.
        layers: Number of transformer blocks, at least 1.
        heads: Number of attention heads; divides ``width``.
        window: Most events that a sample reads.
        ridge: Width of an item in the ridge regression; 0 leaves it out.
        ridge_dropout: Share of an item's elements zeroed there in training.
        dropout: Share of each sublayer's output, and of the head's, zeroed in training.
        id_dropout: Share of item ids dropped in training.
        user_dropout: Share of user ids dropped in training.
        dtype: Type of the products; weights and sums stay in fp32.

    Raises:
        ValueError: If ``heads`` does not divide ``width``.

    See also: Zhai et al. 2024 (HSTU), https://arxiv.org/abs/2402.17152; Kang and McAuley 2018
    (SASRec), https://arxiv.org/abs/1808.09781
    """

    def __init__(
        self,
        features: Features,
        *,
        width: int,
        layers: int,
        heads: int,
        window: int,
        ridge: int,
        ridge_dropout: float,
        dropout: float,
        id_dropout: float,
        user_dropout: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads ({heads}) must divide the width ({width})")
        self.dtype = dtype
        self.embedding = FusedEmbedding(features, width, id_dropout, user_dropout)
        self.level = nn.Embedding(FIRST + len(features.ratings), width)
        self.place = nn.Embedding(window + 1, width)
        for table in (self.level, self.place):
            nn.init.normal_(table.weight, std=0.02)
        self.event_statistics = nn.Linear(len(STATISTICS), width)
        self.statistics = nn.Linear(len(STATISTICS), width)
        self.start = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.blocks = nn.ModuleList(StreamBlock(width, heads, dropout) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.ridge = Ridge(width, ridge, ridge_dropout) if ridge else None
        known = len(STATISTICS) + (2 if ridge else 0)  # an answer, and how uncertain it is
        hidden = 2 * width
        self.hidden = nn.Linear(4 * width + known, hidden)
        self.last = nn.Linear(hidden, width)
        answers = max(1, len(features.ratings))  # positive, and above each rating but the highest
        self.head = nn.Linear(width, answers)
        self.linear = nn.Linear(known, answers)
        self.dropout = Dropout(dropout)
        self.layer_widths = {"state": width, "hidden": hidden, "last": width}

    def forward(self, batch: StreamBatch) -> CrmOutput:
        """Score a batch's samples; fp32 logits and layers in the samples' order."""
        device = batch.target.device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            users, items = (fields.sum(1) for fields in self.embedding(batch))
            of_events, item = gather(items, batch.event), gather(items, batch.target)
            events = (
                of_events + self.level(batch.level) + self.event_statistics(batch.event_statistics)
            )
            state = self.states(batch, users, events, item)
            facts = batch.statistics
            if self.ridge is not None:
                regressed = self.ridge(of_events, events, item, batch.position)
                facts = torch.cat([facts, regressed], 2)
            user = users.unsqueeze(1).expand_as(state)
            read = torch.cat([state, item, user, state * item, facts.to(state.dtype)], 2)
            read = read.flatten(0, 1).index_select(0, batch.place)
            hidden = silu(self.hidden(read))
            last = silu(self.last(self.dropout(hidden)))
            answer = self.head(last)
        answer = answer.float() + self.linear(facts).flatten(0, 1).index_select(0, batch.place)
        state = state.flatten(0, 1).index_select(0, batch.place)
        layers = {"state": state, "hidden": hidden, "last": last}
        return CrmOutput(answer[:, 0], layers, answer[:, 1:] if answer.shape[1] > 1 else None)

    def states(self, batch: StreamBatch, users: Tensor, events: Tensor, items: Tensor) -> Tensor:
        """``(windows, samples, width)``: what the events say of each sample.

        Args:
            batch: The batch.
            users: ``(windows, width)``.
            events: ``(windows, events, width)``.
            items: ``(windows, samples, width)``, of the samples.
        """
        count = batch.event.shape[1]
        events = events + self.place.weight[:count]
        events = torch.cat([(users + self.start).unsqueeze(1), events], 1)
        samples = (
            items
            + users.unsqueeze(1)
            + self.statistics(batch.statistics)
            + self.place(batch.position)
        )
        earlier = torch.ones(count + 1, count + 1, dtype=torch.bool, device=events.device).tril()
        number = torch.arange(count + 1, device=events.device)
        visible = (number <= batch.position.unsqueeze(2)).unsqueeze(1)
        *inner, last = self.blocks
        for block in inner:
            pair = block.keys_and_values(events)  # pyright: ignore[reportCallIssue]
            samples, events = block(samples, *pair, visible), block(events, *pair, earlier)
        pair = last.keys_and_values(events)  # pyright: ignore[reportCallIssue]
        return self.norm(last(samples, *pair, visible))


def build(config: NetworkConfig, features: Features, dtype: torch.dtype) -> StreamNetwork:
    """The configured network."""
    return StreamNetwork(
        features, id_dropout=config.id_dropout, dtype=dtype, **config.stream.model_dump()
    )


ARCHITECTURE = Architecture(
    build,
    reads="stream",
    has_deep_part=False,
    search={
        "crm.stream.width": (32, 64, 128),
        "crm.stream.layers": (1, 2, 3),
        "crm.stream.ridge": (0, 16, 32),
        "crm.stream.dropout": (0.1, 0.2, 0.3),
    },
)
