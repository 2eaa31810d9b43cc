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
    """Neighbouring sequences of a packed row that continue the same context.

    Args:
        start: Where the first of them begins in the row.
        lengths: Tokens of each.
        context: The keys before them, from and up to; past keys come first, then the row's own.
    """

    start: int
    lengths: tuple[int, ...]
    context: tuple[int, int] = (0, 0)

    @property
    def stop(self) -> int:
        """Where the last of them ends."""
        return self.start + sum(self.lengths)

    @cached_property
    def is_causal(self) -> bool:
        """Whether it is one sequence that continues nothing."""
        return len(self.lengths) == 1 and self.context[0] == self.context[1]

    @cached_property
    def real(self) -> Tensor:
        """``(sequences, longest)`` bool: where a padded sequence has a token."""
        return torch.arange(max(self.lengths)) < torch.tensor(self.lengths).unsqueeze(1)

    @cached_property
    def index(self) -> Tensor:
        """``(sequences, longest)`` int64 places in the block of padded sequences."""
        starts = torch.tensor([0, *self.lengths[:-1]]).cumsum(0)
        places = starts.unsqueeze(1) + torch.arange(max(self.lengths))
        return places.clamp(max=sum(self.lengths) - 1)

    def mask(self, sliding_window: int | None) -> Tensor:
        """``(longest, context + longest)`` bool: which keys a token reads."""
        before = self.context[1] - self.context[0]
        longest = max(self.lengths)
        reads = torch.ones(longest, before + longest, dtype=torch.bool).tril(before)
        return reads if sliding_window is None else reads.triu(before - sliding_window + 1)


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
        q = query[:, block.start : block.stop]
        k, v = (x[:, own + block.start : own + block.stop] for x in (keys, values))
        if block.is_causal and (sliding_window is None or sliding_window >= q.shape[1]):
            parts.append(_causal(q, k, v, scaling))
        else:
            context = slice(*block.context)
            mask = block.mask(sliding_window)
            parts.append(
                _after(q, k, v, keys[:, context], values[:, context], block, mask, scaling)
            )
    return torch.cat(parts, 1).transpose(0, 1)


def _causal(q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
    """Causal attention of one sequence, ``(heads, tokens, head_dim)``.

    On a CPU in bfloat16 as plain products of a few queries at a time, with the groups of heads that
    share keys folded into one: about twice as fast as torch's own kernel, which multiplies in
    float32 there.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
        return scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=True
        ).squeeze(0)
    heads, tokens, dim = k.shape
    grouped = (q * scaling).view(heads, -1, tokens, dim)
    groups, keys = grouped.shape[1], k.transpose(1, 2)
    future = torch.full((CHUNK, CHUNK), float("-inf"), dtype=q.dtype).triu(1)
    parts = []
    for start in range(0, tokens, CHUNK):
        stop = min(start + CHUNK, tokens)
        size = stop - start
        some = grouped[:, :, start:stop].reshape(heads, groups * size, dim)
        scores = torch.bmm(some, keys[:, :, :stop])
        scores.view(heads, groups, size, stop)[..., start:] += future[:size, :size]
        mixed = torch.bmm(scores.softmax(-1), v[:, :stop])
        parts.append(mixed.view(heads, groups, size, dim))
    return torch.cat(parts, 2).view(heads * groups, tokens, dim)


def _after(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    block: Block,
    mask: Tensor,
    scaling: float,
) -> Tensor:
    """Attention of a block's sequences, padded beside each other, to the context and themselves."""
    count, before = len(block.lengths), context_k.shape[1]
    queries = q[:, block.index].transpose(0, 1)
    keys, values = (
        torch.cat([c.expand(count, -1, before, -1), own[:, block.index].transpose(0, 1)], 2)
        for c, own in ((context_k, k), (context_v, v))
    )
    found = scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask.to(q.device), scale=scaling, enable_gqa=True
    )
    return found.transpose(0, 1)[:, block.real]


AttentionInterface.register(NAME, packed_attention)  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def enable_packing(model: PreTrainedModel) -> bool:
    """Give a model packed attention, verified by a test pass.

    Three short sequences, one of them the continuation of another, are read packed and alone. A
    model whose hidden states differ, because it keeps a state of another kind or numbers positions
    in its own way, stays as it is.

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
            decoder(input_ids=part.unsqueeze(0), use_cache=False).last_hidden_state[0, -10:]
            for part in (torch.cat([first, second]), torch.cat([first, third]), third)
        ]
        lengths = (17, 11, 20, 20)
        row = torch.cat([first, second, third, third]).unsqueeze(0)
        starts = (0, 17, 17, 0)
        position = torch.cat(
            [torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)]
        )
        blocks = [Block(0, (17,)), Block(17, (11, 20), (0, 17)), Block(48, (20,))]
        model.set_attn_implementation(NAME)
        packed = decoder(
            input_ids=row,
            position_ids=position.unsqueeze(0).to(device),
            use_cache=False,
            plan=Plan(blocks),
        ).last_hidden_state[0]
        together = [packed[end - 10 : end] for end in (28, 48, 68)]
        works = all(_close(a, b) for a, b in zip(together, alone, strict=True))
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        works = False  # the model's code has no place for a plan, or wants more of attention
    finally:
        model.train(was_training)
    if not works:
        model.set_attn_implementation(before)
    return works


def _close(states: Tensor, expected: Tensor) -> bool:
    """Whether hidden states are equal but for rounding."""
    error = (states.float() - expected.float()).norm() / expected.float().norm()
    return bool(error < (1e-3 if expected.dtype == torch.float32 else 5e-2))
