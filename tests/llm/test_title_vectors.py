import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corellarec.llm.title_vectors import title_vectors


def test_vectors_are_means_over_the_titles_tokens(tiny_llm):
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_llm),
        AutoTokenizer.from_pretrained(tiny_llm),
    )
    titles = ["Film 1 (1990)", "", "F", "Film 1 (1990)", "A much longer title than all others"]
    found = title_vectors(titles, model, tokenizer, tokens_per_batch=64)
    assert found.shape == (5, 32)
    assert (found[1] == 0).all()
    torch.testing.assert_close(found[0], found[3])
    before = tokenizer("")["input_ids"] + tokenizer("\n", add_special_tokens=False)["input_ids"]
    for number in (0, 2, 4):
        own = tokenizer(titles[number], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            out = model(torch.tensor([before + own]), output_hidden_states=True)
        states = out.hidden_states[-1][0, len(before) :]
        torch.testing.assert_close(found[number], states.mean(0), atol=1e-5, rtol=1e-5)
