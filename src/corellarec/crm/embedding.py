"""All features of users and items as vectors: one table for everything that has codes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from corellarec.crm.batch import CrmBatch, Distinct
from corellarec.crm.layers import gather, mean_of_rows
from corellarec.crm.windows import StreamBatch
from corellarec.data.log import FeatureLayout, Features, ValueLayout


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


class _Side(nn.Module):
    """Where the features of users, or of items, lie in the table.

    Args:
        layout: The coded features, in the order of the code matrix's columns.
        values: The features made of numbers, in the order of the value matrix's columns.
        dim: Width of an embedding.
        offset: The table's row of the first feature's code 0.
    """

    def __init__(
        self,
        layout: Sequence[FeatureLayout],
        values: Sequence[ValueLayout],
        dim: int,
        offset: int,
    ) -> None:
        super().__init__()
        offsets, single, self.several = [], [], []
        for feature in layout:
            if feature.width > 1:
                self.several.append(slice(len(offsets), len(offsets) + feature.width))
            else:
                single.append(len(offsets))
            offsets += [offset] * feature.width
            offset += feature.vocabulary
        self.end = offset
        self.fields = len(layout) + len(values)
        self.offsets: Tensor
        self.single: Tensor
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)
        self.register_buffer("single", torch.tensor(single, dtype=torch.long), persistent=False)
        self.value_widths = [feature.width for feature in values]
        self.projections = nn.ModuleList(nn.Linear(v.width, dim, bias=False) for v in values)
        for projection in self.projections:
            nn.init.normal_(projection.weight, std=0.01)  # pyright: ignore[reportArgumentType]

    def numbers(self, codes: Tensor, id_dropout: float) -> Tensor:
        """The table's rows of ``(n, columns)`` codes, a share of the ids dropped; int64."""
        if id_dropout:
            kept = torch.rand(len(codes), 1, device=codes.device) >= id_dropout
            codes = torch.cat([codes[:, :1] * kept, codes[:, 1:]], 1)
        return codes + self.offsets

    def forward(self, rows: Tensor, place: Tensor, codes: Tensor, values: Tensor) -> Tensor:
        """The fields of ``n`` users or items, each one's rows at ``place`` (n, columns)."""
        features = [gather(rows, place.index_select(1, self.single))]
        for columns in self.several:
            mean = mean_of_rows(rows, place[:, columns], codes[:, columns] > 0)
            features.append(mean.unsqueeze(1))
        for project, of in zip(self.projections, values.split(self.value_widths, 1), strict=True):
            features.append(project(of).unsqueeze(1))
        return torch.cat(features, 1) if len(features) > 1 else features[0]


class FusedEmbedding(nn.Module):
    """One table for all coded features; each feature's codes start at its own offset.

    A feature of one value takes its row; one of several values takes the mean of its rows, and
    zeros where it has none. Fields of one value come first, then those of several, then numbers
    and vectors: a feature of the values ``v`` becomes ``W v``. The first feature of a side is the
    id: in training, a share ``id_dropout`` of ids is replaced by the out-of-vocabulary code 0, so
    that its row learns what an unseen user or item is like.

    The table's gradient is sparse: only the rows that a batch touches are updated, at a cost that
    does not depend on the size of the vocabulary.

    Args:
        features: What there is of users and items.
        dim: Width of an embedding.
        id_dropout: Share of ids dropped in training.
        user_dropout: Share of user ids, where it is another one.
    """

    def __init__(
        self,
        features: Features,
        dim: int,
        id_dropout: float = 0.0,
        user_dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.user = _Side(features.user, features.user_values, dim, 0)
        self.item = _Side(features.item, features.item_values, dim, self.user.end)
        self.id_dropout = id_dropout
        self.user_dropout = id_dropout if user_dropout is None else user_dropout
        self.table = nn.Parameter(torch.randn(self.item.end, dim) * 0.01)
        self._distinct: Distinct | None = None

    def forward(self, batch: CrmBatch | StreamBatch) -> tuple[Tensor, Tensor]:
        """The fields of a batch's users and of its distinct items.

        Returns ``(batch, user fields, dim)`` and ``(distinct items, item fields, dim)`` floats.
        """
        user = self.user.numbers(batch.user_codes, self.user_dropout * self.training)
        item = self.item.numbers(batch.item_codes, self.id_dropout * self.training)
        rows = self.table
        if torch.is_grad_enabled():
            if self._distinct is None:
                self._distinct = Distinct(len(rows), rows.device)
            touched, place = self._distinct(torch.cat([user.flatten(), item.flatten()]))
            rows: Tensor = _TouchedRows.apply(rows, touched)  # pyright: ignore
            user, item = place[: user.numel()].view_as(user), place[user.numel() :].view_as(item)
        return (
            self.user(rows, user, batch.user_codes, batch.user_values),
            self.item(rows, item, batch.item_codes, batch.item_values),
        )
