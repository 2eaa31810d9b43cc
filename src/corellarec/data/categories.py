"""What a history says of the categories of an item."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from corellarec.data.log import Log, Samples


def item_categories(log: "Log") -> Tensor:
    """``(items, columns)`` int64: values of the features of each item, its id left out.

    They are numbered over all features; -1 is none.
    """
    features = log.features.item
    sizes = torch.tensor([0, *(f.vocabulary for f in features)]).cumsum(0)[:-1]
    offset = sizes.repeat_interleave(torch.tensor([f.width for f in features], dtype=torch.long))
    codes = log.item_codes.long()
    return torch.where(codes > 0, codes + offset, -1)[:, 1:]


class CategorySums:
    """Sums over the rows of a sample's history whose items share a category with its own.

    A row that shares two categories counts twice. Costs two binary searches for each category of a
    sample's item.

    Args:
        categories: ``(items, columns)`` int64, the categories of each item, numbers from 0; -1 is
            none.
        item: ``(history rows,)`` each row's item.
        values: ``(history rows, k)`` floats, what is summed.
    """

    def __init__(self, categories: Tensor, item: Tensor, values: Tensor) -> None:
        self.categories, self.stride = categories, len(item) + 1
        of_rows = categories[item.long()]
        row, column = (of_rows >= 0).nonzero(as_tuple=True)
        self.keys, order = (of_rows[row, column] * self.stride + row).sort()
        totals = values.double()[row[order]].cumsum(0)
        self.totals = torch.cat([totals.new_zeros(1, values.shape[1]), totals])

    def __call__(self, samples: "Samples") -> Tensor:
        """``(n, 1 + k)`` float64 for ``n`` samples: such rows, and sums over them."""
        categories = self.categories[samples.item]
        sample, column = (categories >= 0).nonzero(as_tuple=True)
        first = categories[sample, column] * self.stride
        begin, end = (
            torch.searchsorted(self.keys, first + of[sample]) for of in (samples.begin, samples.end)
        )
        sums = torch.cat([(end - begin).unsqueeze(1), self.totals[end] - self.totals[begin]], 1)
        return sums.new_zeros(len(samples), sums.shape[1]).index_add_(0, sample, sums)
