"""EASE: a linear autoencoder without hidden layer, in closed form."""

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from corellarec.base.metrics import Floats


def ease(positives: csr_array, penalty: float) -> Floats:
    """Weights of every item for every other.

    They minimise ``|X - X B|^2 + penalty |B|^2`` with a diagonal of 0, for which, with
    ``P = (X^T X + penalty I)^-1``, ``B[i, j] = -P[i, j] / P[j, j]``. A user's scores are ``x B``.

    Args:
        positives: ``(users, items)`` X, of 0 and 1.
        penalty: Of the squared weights, above 0.

    Returns:
        ``(items, items)`` float64: memory and time grow with the square and the cube of the items.

    Source: Steck 2019, https://arxiv.org/abs/1905.03375
    """
    gram = (positives.T @ positives).toarray()
    gram[np.diag_indices_from(gram)] += penalty
    inverse = cho_solve(cho_factor(gram), np.eye(len(gram)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights
