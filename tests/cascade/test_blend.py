from dataclasses import replace

from scipy.special import expit
from worlds import busy, fit, known, world

from corellarec.base.metrics import log_loss
from corellarec.cascade.blend import fit_full, fit_plain


def test_the_full_blend_is_taken_where_it_is_better_and_rises_with_both_logits():
    data, unseen = busy(3, 6000), busy(4, 6000)
    router = fit(data, data["llm"])
    full, plain = (way(data["label"], known(data), data["llm"]) for way in (fit_full, fit_plain))
    assert router.blend == full
    loss = {b: log_loss(unseen["label"], expit(b(known(unseen), unseen["llm"])))
            for b in (full, plain)}  # fmt: skip
    assert loss[full] < loss[plain]
    more = replace(known(unseen), crm_logit=unseen["crm"] + 0.5)
    before = full(known(unseen), unseen["llm"])
    assert (full(more, unseen["llm"]) >= before).all()
    assert (full(known(unseen), unseen["llm"] + 0.5) >= before).all()
    inverted = fit_full(data["label"], known(data), -data["llm"])
    assert inverted.weights[1] == inverted.weights[3] == 0
    flat = world(5)
    assert fit(flat, flat["llm"]).blend.weights[4:] == (0.0, 0.0)
