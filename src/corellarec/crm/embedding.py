"""All features of users and items in one embedding table."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corellarec.data.log import FeatureLayout


class FusedEmbedding(nn.Module):
    """One table for all features of one side; each feature's codes start at its own offset.

    A feature of one value takes its row; one of several values takes the mean of its rows, and
    zeros where it has none. The first feature is the id: in training, a share ``id_dropout`` of
    ids is replaced by the out-of-vocabulary code 0, so that its row learns what an unseen user or
    item is like.

    Args:
        layout: The features, in the order of the code matrix's columns.
        dim: Width of an embedding.
        id_dropout: Share of ids dropped in training.
    """

    def __init__(self, layout: Sequence[FeatureLayout], dim: int, id_dropout: float = 0.0) -> None:
        super().__init__()
        self.widths = [feature.width for feature in layout]
        self.id_dropout = id_dropout
        offset, offsets = 0, []
        for feature in layout:
            offsets += [offset] * feature.width
            offset += feature.vocabulary
        self.offsets: Tensor
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)
        self.table = nn.Embedding(offset, dim)
        nn.init.normal_(self.table.weight, std=0.01)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed ``(n, columns)`` integer codes; returns ``(n, features, dim)``."""
        codes = codes.long()
        if self.training and self.id_dropout:
            kept = torch.rand(len(codes), 1, device=codes.device) >= self.id_dropout
            codes = torch.cat([codes[:, :1] * kept, codes[:, 1:]], 1)
        embedded = self.table(codes + self.offsets)
        features = []
        for codes_of, values in zip(
            codes.split(self.widths, 1), embedded.split(self.widths, 1), strict=True
        ):
            if values.shape[1] > 1:
                present = (codes_of > 0).unsqueeze(2).to(values.dtype)
                values = (values * present).sum(1, keepdim=True) / present.sum(
                    1, keepdim=True
                ).clamp(min=1)
            features.append(values)
        return torch.cat(features, 1)
