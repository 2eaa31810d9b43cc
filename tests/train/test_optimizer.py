import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from corellarec.train.optimizer import LazyAdamW, clip_gradients

ROWS, DIM = 7, 3


def sparse(table, rows, gradient):
    table.grad = torch.sparse_coo_tensor(
        rows.unsqueeze(0), gradient, table.shape, check_invariants=True
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sets(st.integers(0, ROWS - 1)), min_size=1, max_size=5), st.booleans())
def test_a_row_is_updated_as_adamw_does_over_the_steps_that_touch_it(steps, decays):
    torch.manual_seed(0)
    decay = 0.1 if decays else 0.0
    table = nn.Parameter(torch.randn(ROWS, DIM))
    rows = [nn.Parameter(row.detach().clone()) for row in table]
    ours = LazyAdamW([table], lr=0.1, weight_decay=decay)
    theirs = [torch.optim.AdamW([row], lr=0.1, weight_decay=decay) for row in rows]
    for touched in steps:
        index = torch.tensor(sorted(touched), dtype=torch.long)
        gradient = torch.randn(len(index), DIM)
        sparse(table, index, gradient)
        for place, number in enumerate(index.tolist()):
            rows[number].grad = gradient[place]
            theirs[number].step()
        ours.step()
    torch.testing.assert_close(table.detach(), torch.stack([row.detach() for row in rows]))


def test_untouched_rows_keep_every_bit():
    table = nn.Parameter(torch.randn(ROWS, DIM))
    before = table.detach().clone()
    optimizer = LazyAdamW([table], lr=0.1, weight_decay=0.5)
    for _ in range(3):
        sparse(table, torch.tensor([1, 4]), torch.randn(2, DIM))
        optimizer.step()
    changed = (table != before).any(1)
    assert changed.nonzero().squeeze(1).tolist() == [1, 4]


def test_repeated_rows_of_a_gradient_add_up():
    tables = [nn.Parameter(torch.ones(ROWS, DIM)) for _ in range(2)]
    sparse(tables[0], torch.tensor([2, 2]), torch.tensor([[1.0] * DIM, [2.0] * DIM]))
    sparse(tables[1], torch.tensor([2]), torch.tensor([[3.0] * DIM]))
    LazyAdamW(tables, lr=0.1).step()
    torch.testing.assert_close(tables[0], tables[1])


def test_dense_and_sparse_gradients_are_clipped_to_one_norm():
    table, dense = nn.Parameter(torch.zeros(ROWS, DIM)), nn.Parameter(torch.zeros(4))
    sparse(table, torch.tensor([0, 5, 5]), torch.ones(3, DIM))
    dense.grad = torch.full((4,), 2.0)
    whole = torch.cat([table.grad.to_dense().flatten(), dense.grad])
    norm = clip_gradients([table, dense, nn.Parameter(torch.zeros(1))], 0.5)
    assert norm == pytest.approx(float(whole.norm()))
    clipped = torch.cat([table.grad.to_dense().flatten(), dense.grad])
    torch.testing.assert_close(clipped, whole * 0.5 / whole.norm())
    before = dense.grad.clone()
    clip_gradients([table, dense], 10.0)
    assert torch.equal(dense.grad, before)
