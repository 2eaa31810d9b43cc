import pytest
import torch

from corellarec.train.align import Alignment


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_loss_is_the_papers_formula(exponent):
    torch.manual_seed(0)
    pairs = (("last", "deep2"), ("middle", "cross1"))
    align = Alignment(
        pairs, llm_width=6, crm_widths={"deep2": 3, "cross1": 5}, width=4, exponent=exponent
    )
    llm = {"last": torch.randn(7, 6), "middle": torch.randn(7, 6)}
    crm = {"deep2": torch.randn(7, 3), "cross1": torch.randn(7, 5)}
    expected = 0.0
    for j, (llm_name, crm_name) in enumerate(pairs):
        for i in range(7):
            a, b = (
                (h[i] - h[i].mean()) / (h[i].var(correction=0) + 1e-5).sqrt()
                for h in (llm[llm_name], crm[crm_name])
            )
            gap = align.llm_projections[j](a) - align.crm_projections[j](b)
            expected += float(torch.linalg.vector_norm(gap.detach()) ** exponent) / 7
    assert align(llm, crm).item() == pytest.approx(expected, rel=1e-5)


def test_identical_layers_have_a_finite_gradient():
    align = Alignment((("a", "b"),), llm_width=3, crm_widths={"b": 3}, width=2, exponent=1.0)
    align.crm_projections[0].load_state_dict(align.llm_projections[0].state_dict())
    h = torch.randn(4, 3, requires_grad=True)
    align({"a": h}, {"b": h.detach()}).backward()
    assert h.grad is not None
    assert torch.isfinite(h.grad).all()


def test_unknown_crm_layer():
    with pytest.raises(ValueError, match="no layer 'deep9'; there are: deep1"):
        Alignment((("a", "deep9"),), llm_width=3, crm_widths={"deep1": 3}, width=2, exponent=1)
