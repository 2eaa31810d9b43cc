"""All features of users or of items as vectors: one table for what has codes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from corellarec.crm.batch import Distinct
from corellarec.crm.layers import gather
from corellarec.data.log import FeatureLayout, ValueLayout


class _TouchedRows(torch.autograd.Function):
    """Rows of a table, whose gradient is sparse: these rows and no others."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:  # noqa: ANN401 (autograd's)
        ctx.save_for_backward(rows)
        ctx.size = table.shape
        return table.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (rows,) = ctx.saved_tensors
        gradient = torch.sparse_coo_tensor(
            rows.unsqueeze(0), gradients[0], ctx.size, is_coalesced=True, check_invariants=False
        )
        return gradient, None


class FusedEmbedding(nn.Module):
    """One table for all coded features of one side; each feature's codes start at its own offset.

    A feature of one value takes its row; one of several values takes the mean of its rows, and
    zeros where it has none. The first feature is the id: in training, a share ``id_dropout`` of
    ids is replaced by the out-of-vocabulary code 0, so that its row learns what an unseen user or
    item is like. Numbers and vectors are projected: a feature of the values ``v`` becomes ``W v``.

    The table's gradient is sparse: only the rows that a batch touches are updated, at a cost that
    does not depend on the size of the vocabulary.

    Args:
        layout: The coded features, in the order of the code matrix's columns.
        dim: Width of an embedding.
        values: The features made of numbers, in the order of the value matrix's columns.
        id_dropout: Share of ids dropped in training.
    """

    def __init__(
        self,
        layout: Sequence[FeatureLayout],
        dim: int,
        values: Sequence[ValueLayout] = (),
        id_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.widths = [feature.width for feature in layout]
        self.value_widths = [feature.width for feature in values]
        self.fields = len(layout) + len(values)
        self.id_dropout = id_dropout
        offset, offsets = 0, []
        for feature in layout:
            offsets += [offset] * feature.width
            offset += feature.vocabulary
        self.offsets: Tensor
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)
        self.table = nn.Parameter(torch.randn(offset, dim) * 0.01)
        self.projections = nn.ModuleList(nn.Linear(v.width, dim, bias=False) for v in values)
        self._distinct: Distinct | None = None

    def forward(self, codes: Tensor, values: Tensor) -> Tensor:
        """Embed ``(n, columns)`` codes and ``(n, value columns)`` floats: ``(n, fields, dim)``."""
        codes = codes.long()
        if self.training and self.id_dropout:
            kept = torch.rand(len(codes), 1, device=codes.device) >= self.id_dropout
            codes = torch.cat([codes[:, :1] * kept, codes[:, 1:]], 1)
        embedded = self._rows(codes + self.offsets)
        features = []
        for codes_of, vectors in zip(
            codes.split(self.widths, 1), embedded.split(self.widths, 1), strict=True
        ):
            if vectors.shape[1] > 1:
                present = codes_of > 0
                weight = present / present.sum(1, keepdim=True).clamp(min=1)
                vectors = (vectors * weight.unsqueeze(2)).sum(1, keepdim=True)
            features.append(vectors)
        for project, of in zip(self.projections, values.split(self.value_widths, 1), strict=True):
            features.append(project(of).unsqueeze(1))
        return torch.cat(features, 1)

    def _rows(self, numbers: Tensor) -> Tensor:
        """The table's rows, ``(*numbers.shape, dim)``."""
        if not torch.is_grad_enabled():
            return nn.functional.embedding(numbers, self.table)
        if self._distinct is None:
            self._distinct = Distinct(len(self.table), self.table.device)
        touched, place = self._distinct(numbers)
        rows: Tensor = _TouchedRows.apply(self.table, touched)  # pyright: ignore
        return gather(rows, place)
