"""Attention over packed rows: sequences side by side, each reading itself and what it continues."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "corellarec_packed"
CHUNK = 128  # queries of one product


@dataclass(frozen=True)
class Block:
    """Neighbouring sequences of a packed row that continue the same keys.

    Args:
        start: Where the first of them begins in the row.
        lengths: Tokens of each.
        context: Where the keys that they continue begin; past keys come first, then the row's own.
        reads: How many of these keys each reads; none where empty.
    """

    start: int
    lengths: tuple[int, ...]
    context: int = 0
    reads: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of all of them."""
        return sum(self.lengths)

    @property
    def is_causal(self) -> bool:
        """Whether it is one sequence that continues nothing."""
        return len(self.lengths) == 1 and not any(self.reads)

    @cached_property
    def distance(self) -> Tensor:
        """``(tokens, context + tokens)`` int64: how far before a token each key is.

        -1 where the key is not read: it comes later, or belongs to another sequence.
        """
        reads = torch.tensor(self.reads or [0] * len(self.lengths))
        number = torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths))
        first = torch.tensor([0, *self.lengths[:-1]]).cumsum(0)
        position = reads[number] + torch.arange(self.tokens) - first[number]
        context = torch.arange(int(reads.max()))
        own = number.unsqueeze(1) == number
        read = torch.cat([context < reads[number].unsqueeze(1), own], 1)
        distance = position.unsqueeze(1) - torch.cat([context, position])
        return torch.where(read, distance.clamp(min=-1), -1)

    def mask(self, sliding_window: int | None) -> Tensor:
        """``(tokens, context + tokens)`` bool: which keys a token reads."""
        reads = self.distance >= 0
        return reads if sliding_window is None else reads & (self.distance < sliding_window)


def add_block(blocks: list[Block], block: Block) -> None:
    """Add a block, to the last one where both are short and continue the same keys."""
    last = blocks[-1] if blocks else None
    if (
        last is not None
        and (last.reads and block.reads and last.context == block.context)
        and last.tokens + block.tokens <= CHUNK
    ):
        lengths, reads = last.lengths + block.lengths, last.reads + block.reads
        blocks[-1] = Block(last.start, lengths, last.context, reads)
    else:
        blocks.append(block)


@dataclass
class KeyValues:
    """Keys and values of tokens that were read before, by layer.

    Attributes:
        layers: Keys and values, each ``(heads, tokens, head_dim)``.
    """

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.layers[0][0].shape[1] if self.layers else 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(part.nbytes for layer in self.layers.values() for part in layer)


@dataclass
class Plan:
    """Who reads what in one pass of a packed row.

    Args:
        blocks: They cover the row, in order.
        past: Keys and values before the row's own.
        keep: Whether the row's keys and values are added to ``past``.
    """

    blocks: Sequence[Block]
    past: KeyValues | None = None
    keep: bool = False


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    plan: Plan | None = None,
    sliding_window: int | None = None,
    **more: Any,  # noqa: ANN401 (whatever a model adds)
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, of packed rows.

    Args:
        module: The model's layer.
        query: ``(rows, heads, tokens, head_dim)``.
        key: The same with the heads of keys; a group of query heads shares each.
        value: Of the shape of the keys.
        attention_mask: Not used; the plan says who reads what.
        scaling: Factor of the products.
        plan: For a single row; without one each row is one sequence.
        sliding_window: Tokens that one reads at most, itself included.
        more: Arguments that change nothing here, or are refused.

    Returns:
        ``(rows, tokens, heads, head_dim)``, and None for the weights.

    Raises:
        NotImplementedError: If the model wants what is not computed here.
    """
    for wanted in ("softcap", "s_aux", "position_bias"):
        if more.get(wanted) is not None:
            raise NotImplementedError(f"attention with {wanted}")
    plan = plan or Plan([Block(0, (query.shape[2],))])
    number: int = module.layer_idx  # pyright: ignore[reportAssignmentType]
    rows = [
        _row(q, k, v, plan, number, scaling, sliding_window)
        for q, k, v in zip(query, key, value, strict=True)
    ]
    return torch.stack(rows), None


def _row(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: Plan,
    layer: int,
    scaling: float,
    sliding_window: int | None,
) -> Tensor:
    """``(tokens, heads, head_dim)`` of one row."""
    if plan.past is not None:
        if layer in plan.past.layers:
            before = plan.past.layers[layer]
            keys, values = torch.cat([before[0], keys], 1), torch.cat([before[1], values], 1)
        if plan.keep:
            plan.past.layers[layer] = (keys, values)
    own = keys.shape[1] - query.shape[1]
    parts = []
    for block in plan.blocks:
        stop = block.start + block.tokens
        q = query[:, block.start : stop]
        k, v = (x[:, own + block.start : own + stop] for x in (keys, values))
        if block.is_causal and (sliding_window is None or sliding_window >= block.tokens):
            parts.append(_causal(q, k, v, scaling))
        else:
            context = slice(block.context, block.context + max(block.reads, default=0))
            k, v = torch.cat([keys[:, context], k], 1), torch.cat([values[:, context], v], 1)
            parts.append(_masked(q, k, v, block.mask(sliding_window).to(q.device), scaling))
    return torch.cat(parts, 1).transpose(0, 1)


def _causal(q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
    """Causal attention of one sequence, ``(heads, tokens, head_dim)``.

    On a CPU in bfloat16 as plain products of a few queries at a time: about twice as fast as
    torch's own kernel, which multiplies in float32 there.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
        return scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=True
        ).squeeze(0)
    future = torch.full((CHUNK, CHUNK), float("-inf"), dtype=q.dtype).triu(1)
    parts = []
    for start in range(0, q.shape[1], CHUNK):
        stop = min(start + CHUNK, q.shape[1])
        bias = future[: stop - start, : stop - start]
        parts.append(_products(q[:, start:stop], k[:, :stop], v[:, :stop], bias, scaling))
    return torch.cat(parts, 1)


def _masked(q: Tensor, k: Tensor, v: Tensor, reads: Tensor, scaling: float) -> Tensor:
    """Attention ``(heads, tokens, head_dim)`` to the keys that ``(tokens, keys)`` bool says.

    Training on a CPU in bfloat16 by plain products, whose pass backward takes half the time there.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad:
        bias = torch.zeros(reads.shape, dtype=q.dtype).masked_fill_(~reads, float("-inf"))
        return _products(q, k, v, bias, scaling)
    q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
    return scaled_dot_product_attention(
        q, k, v, attn_mask=reads, scale=scaling, enable_gqa=True
    ).squeeze(0)


def _products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scaling: float) -> Tensor:
    """Attention as plain products, the groups of heads that share keys folded into one.

    Args:
        q: ``(heads, tokens, head_dim)``.
        k: ``(heads of keys, keys, head_dim)``.
        v: Of the shape of the keys.
        bias: ``(tokens, n)``, added to the scores of the last n keys.
        scaling: Factor of the products.
    """
    heads, keys, dim = k.shape
    tokens = q.shape[1]
    folded = (q * scaling).reshape(heads, -1, dim)
    scores = torch.bmm(folded, k.transpose(1, 2))
    scores.view(heads, -1, tokens, keys)[..., keys - bias.shape[1] :] += bias
    return torch.bmm(scores.softmax(-1), v).view(-1, tokens, dim)


AttentionInterface.register(NAME, packed_attention)  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def enable_packing(model: PreTrainedModel) -> bool:
    """Give a model packed attention, verified by a test pass.

    Short sequences, three of them continuations of the first one or its beginning, are read packed
    and alone. A model whose hidden states differ, because it keeps a state of another kind or
    numbers positions in its own way, stays as it is.

    Args:
        model: A causal language model; its attention is switched if packing works.

    Returns:
        Whether the model now reads packed rows.
    """
    before = model.config._attn_implementation or "eager"
    if before == NAME:
        return True
    if not getattr(model, "_supports_attention_backend", False):
        return False
    decoder, device = model.get_decoder(), model.device
    ids = torch.arange(48, device=device) % min(model.config.get_text_config().vocab_size, 48)
    first, second, third = ids[:17], ids[17:28], ids[28:]
    was_training = model.training
    model.eval()
    try:
        alone = [
            decoder(input_ids=torch.cat(parts).unsqueeze(0), use_cache=False).last_hidden_state[0]
            for parts in ([first, second], [first, third], [first[:9], third], [third])
        ]
        row = torch.cat([first, second, third, third, third]).unsqueeze(0)
        starts, lengths = (0, 17, 17, 9, 0), (17, 11, 20, 20, 20)
        position = torch.cat(
            [torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)]
        )
        blocks = [Block(0, (17,)), Block(17, (11, 20, 20), 0, (17, 17, 9)), Block(68, (20,))]
        model.set_attn_implementation(NAME)
        packed = decoder(
            input_ids=row,
            position_ids=position.unsqueeze(0).to(device),
            use_cache=False,
            plan=Plan(blocks),
        ).last_hidden_state[0]
        together = [packed[end - 10 : end] for end in (28, 48, 68, 88)]
        layers = model.config.get_text_config().num_hidden_layers
        works = all(_close(a, b[-10:], layers) for a, b in zip(together, alone, strict=True))
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        works = False  # the model's code has no place for a plan, or wants more of attention
    finally:
        model.train(was_training)
    if not works:
        model.set_attn_implementation(before)
    return works


def _close(states: Tensor, expected: Tensor, layers: int) -> bool:
    """Whether hidden states are equal but for rounding.

    Rounding errors of layers add up as those of a random walk: in bfloat16 they were .009 to .014
    times the root of the layers in LLaMA-2-7B's architecture, between torch's own kernels, too.
    """
    error = (states.float() - expected.float()).norm() / expected.float().norm()
    tolerance = 1e-3 if expected.dtype == torch.float32 else max(5e-2, 0.03 * layers**0.5)
    return bool(error < tolerance)
