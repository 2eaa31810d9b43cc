"""Whether ``corellarec estimate`` is right: traffic whose true gain is known, many times.

The test rows of a run, which both models scored, are the traffic: users are drawn with
replacement, their rows decided by the router with a share explored; where it would ask about none
of them, half of the rows count as worth asking about. The true gain is that of all rows. Counted is
how often each 95 % interval holds it.
"""

from pathlib import Path

import numpy as np
import polars as pl

from corellarec.api import CoReLLa
from corellarec.base.metrics import losses, sigmoid
from corellarec.run.scores import scored_rows
from corellarec.serve.estimate import gains_of
from harness import emit, parse, parser

WAYS = ("inverse_propensity", "doubly_robust", "paired")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--run", default="runs/quick", help="run whose test rows are replayed")
    options.add_argument("--simulations", type=int, default=200)
    options.add_argument("--explored", type=float, default=0.01, help="share of the rows")
    options.add_argument("--times", type=int, default=10, help="users drawn, for each there is")
    given = parse(options, quick={"simulations": 50})
    run = CoReLLa.open(Path(given.run), quiet=True)
    router = run.cascade().router
    scores = scored_rows(run.workspace, "test", run.config.evaluate.test_rows).scores
    p_crm = sigmoid(router.crm(scores.crm_logit))
    value = router.value(scores.known)
    threshold = router.rule.threshold
    if not (value > threshold).any():
        threshold = float(np.median(value))
    rows = pl.DataFrame(
        {
            "user": scores.user,
            "label": scores.label,
            "p_crm": p_crm,
            "p_asked": router.answer(scores.known, scores.llm_logit),
            "value": value,
            "threshold": np.full(len(p_crm), threshold),
        }
    )
    above = (rows["value"] > rows["threshold"]).to_numpy()
    saved = losses(scores.label, p_crm) - losses(scores.label, rows["p_asked"].to_numpy())
    truth = float(saved[above].mean())
    print(f"{rows.height:,} rows, {above.mean():.1%} above the threshold, true gain {truth:+.4f}")
    users = np.unique(scores.user)
    of_user = {user: np.flatnonzero(scores.user == user) for user in users}
    held = dict.fromkeys(WAYS, 0)
    width: dict[str, list[float]] = {name: [] for name in WAYS}
    for seed in range(given.simulations):
        chance = np.random.default_rng(seed)
        drawn = chance.choice(users, given.times * len(users))
        place = np.concatenate([of_user[user] for user in drawn])
        visit = np.repeat(np.arange(len(drawn)), [len(of_user[user]) for user in drawn])
        flip = chance.random(len(place)) < given.explored
        asked = above[place] ^ flip
        traffic = rows[place].with_columns(
            user=visit,
            asked=asked,
            propensity=np.where(flip, given.explored, 1 - given.explored),
            p=np.where(asked, rows["p_asked"].to_numpy()[place], p_crm[place]),
        )
        found = gains_of(traffic)
        for name in WAYS:
            gain = getattr(found, name)
            held[name] += gain.low <= truth <= gain.high
            width[name].append(gain.high - gain.low)
    shares = {name: held[name] / given.simulations for name in WAYS}
    for name in WAYS:
        print(f"{name:20} holds it in {shares[name]:.1%}, mean width {np.mean(width[name]):.4f}")
    emit(given, {"truth": truth, "held": shares,
                 "width": {name: float(np.mean(width[name])) for name in WAYS}})  # fmt: skip


if __name__ == "__main__":
    main()
