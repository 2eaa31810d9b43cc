"""Whether the calibration error and its interval are right: predictions whose error is known.

Users are drawn whole, their labels depending on each other, and predictions that are wrong by a
known amount. Counted is how often the 95 % interval holds the true error, how often it holds its
own estimate, and how large the plain expected calibration error would be.
"""

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.base.metrics import Floats, calibration_bins, calibration_error
from harness import emit, parse, parser

WORLDS = {  # bias and slope of the true logit over the predicted one
    "calibrated": (0.0, 1.0),
    "a little too low": (0.1, 1.0),
    "too extreme": (0.0, 0.8),
    "much too low and extreme": (0.3, 0.7),
}
BINS = 15
TOGETHER = 0.1  # correlation of a user's labels


def draw(
    users: int, rows: int, world: tuple[float, float], chance: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, Floats, Floats]:
    """Users, labels, predictions and true probabilities: ``users``, about ``rows`` of each."""
    user = np.repeat(np.arange(users), 1 + chance.poisson(rows, users))
    logit = chance.normal(0.3, 1, len(user)) + chance.normal(0, 0.5, users)[user]
    bias, slope = world
    truth = expit(bias + slope * logit)
    own, shared = chance.normal(size=len(user)), chance.normal(size=users)[user]
    latent = np.sqrt(TOGETHER) * shared + np.sqrt(1 - TOGETHER) * own
    return user, (norm.cdf(latent) < truth).astype(np.int8), expit(logit), truth


def plain(label: np.ndarray, p: Floats) -> float:
    """The expected calibration error as it is usually computed: mean size of the bins' gaps."""
    parts = np.array_split(np.argsort(p, kind="stable"), BINS)
    return sum(abs((p[part] - label[part]).mean()) * len(part) for part in parts) / len(p)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--users", type=int, default=300)
    options.add_argument("--rows", type=int, default=30, help="of a user, on average")
    options.add_argument("--simulations", type=int, default=500, help="for each kind")
    options.add_argument("--resamples", type=int, default=500)
    given = parse(options, quick={"simulations": 100, "resamples": 200})
    found = {}
    print(f"{'predictions are':26} {'true':>7} {'mean':>7} {'plain':>7} {'held':>7} {'own':>7}")
    for name, world in WORLDS.items():
        _, _, p, truth = draw(50_000, given.rows, world, np.random.default_rng(0))
        bins = calibration_bins(p, BINS)
        gaps = np.array([(p - truth)[bins == one].mean() for one in range(BINS)])
        true = float(np.sqrt((gaps**2).mean()))
        estimates, plains, held, own = [], [], 0, 0
        for seed in range(given.simulations):
            user, label, p, _ = draw(given.users, given.rows, world, np.random.default_rng(seed))
            resampled = Bootstrap(user, given.resamples, seed)("calibration_error", label, p)
            low, high = interval(resampled)
            estimates.append(calibration_error(label, p, user))
            plains.append(plain(label, p))
            held += low <= true <= high
            own += low <= estimates[-1] <= high
        found[name] = {
            "true": true,
            "mean": float(np.mean(estimates)),
            "plain": float(np.mean(plains)),
            "held": held / given.simulations,
            "own": own / given.simulations,
        }
        figures = found[name]
        print(
            f"{name:26} {true:7.4f} {figures['mean']:7.4f} {figures['plain']:7.4f} "
            f"{figures['held']:7.1%} {figures['own']:7.1%}",
            flush=True,
        )
    emit(given, {"worlds": found})


if __name__ == "__main__":
    main()
