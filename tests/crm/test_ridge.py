"""The ridge regression in the stream CRM, beside scikit-learn's."""

import numpy as np
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from corellarec.crm.ridge import Ridge, _Solve


def test_answers_are_those_of_scikit_learn():
    """Each sample is answered by a regression on the events before it, and on no other."""
    torch.manual_seed(0)
    ridge = Ridge(width=6, rank=3, dropout=0.3).eval()
    items, events, targets = (torch.randn(2, n, 6) for n in (9, 9, 4))
    position = torch.tensor([[0, 3, 9, 9], [1, 5, 8, 2]])
    with torch.no_grad():
        found = ridge(items, events, targets, position).numpy()
        key, query = ridge.key(items).numpy(), ridge.key(targets).numpy()
        answer = ridge.answer(events).squeeze(2).numpy()
    for window, sample in np.ndindex(2, 4):
        before, asked = slice(0, int(position[window, sample])), query[window, sample]
        kept = key[window, before]
        if len(kept):
            peer = SklearnRidge(alpha=1.0, fit_intercept=False).fit(kept, answer[window, before])
            expected = peer.predict(asked[None])[0]
        else:
            expected = 0.0
        np.testing.assert_allclose(found[window, sample, 0], expected, atol=1e-5)
        uncertainty = asked @ np.linalg.inv(kept.T @ kept + np.eye(3)) @ asked
        np.testing.assert_allclose(found[window, sample, 1], uncertainty, rtol=1e-4)


def test_its_gradients_are_right():
    torch.manual_seed(0)
    factor = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    right = torch.randn(2, 4, 1, dtype=torch.float64, requires_grad=True)

    def solve(factor, right):
        return _Solve.apply(factor @ factor.mT + torch.eye(4, dtype=torch.float64), right)

    assert torch.autograd.gradcheck(solve, (factor, right))
