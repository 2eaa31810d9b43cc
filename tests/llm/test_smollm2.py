"""The default model on the default data, through the real fetching code."""

import pytest
import torch

from corellarec.base.errors import FetchError
from corellarec.base.metrics import auc
from corellarec.config import LlmConfig, load_config
from corellarec.data.log import Log
from corellarec.data.prepare import prepare
from corellarec.llm.layout import build_layout
from corellarec.llm.load import AnswerModel, load_model
from corellarec.llm.score import LlmScorer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def real_log(tmp_path_factory):
    directory = tmp_path_factory.mktemp("real") / "data"
    try:
        facts = prepare(load_config().data, directory)
        load_model("smollm2-135m-instruct", torch.bfloat16, CPU)
    except FetchError as error:
        pytest.skip(f"MovieLens-100K or SmolLM2 is out of reach: {error}")
    assert (facts.rows, facts.users, facts.items) == (100_000, 943, 1682)
    assert facts.positives == 55_375
    return Log.load(directory)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_stream_equals_one_prompt_at_a_time(real_log, dtype, tolerance):
    model, tokenizer = load_model("smollm2-135m-instruct", getattr(torch, dtype), CPU)
    layout = build_layout(LlmConfig(), real_log, tokenizer)
    answer_model = AnswerModel(model, layout.answers)
    rows = real_log.rows_of("test")[:96:16]
    samples = real_log.samples(rows)
    together = LlmScorer(answer_model, layout, 4096).logits(samples)
    alone = torch.empty(len(rows))
    for sequence in (one.whole() for one in layout.encode(samples)):
        for place, sample in zip(sequence.places, sequence.samples, strict=True):
            ids = torch.from_numpy(sequence.ids[: place + 1]).unsqueeze(0)
            with torch.inference_mode():
                hidden = model.model(input_ids=ids).last_hidden_state[0, -1]
                # The head in fp32: a bf16 logit of 15 is a multiple of 1/16.
                last = model.lm_head.weight.float() @ hidden.float()
            alone[sample] = last[layout.answers[1]] - last[layout.answers[0]]
    torch.testing.assert_close(together.sigmoid(), alone.sigmoid(), atol=tolerance, rtol=0)


@pytest.mark.slow
def test_the_untuned_model_knows_films(real_log):
    model, tokenizer = load_model("smollm2-135m-instruct", torch.bfloat16, CPU)
    layout = build_layout(LlmConfig(title_year=False), real_log, tokenizer)
    rows = real_log.rows_of("validation")[:500]
    scorer = LlmScorer(AnswerModel(model, layout.answers), layout, 4096)
    logit = scorer.logits(real_log.samples(rows))
    assert auc(real_log.history_label[rows].numpy(), logit.numpy()) > 0.6
